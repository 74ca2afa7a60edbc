"""Prepares a corpus for training.

    python -m data.corpus --input=SPEC --tokenizer=PATH|train --output=DIR

SPEC is demo, a file or folder of text, a .jsonl file, a MediaWiki dump, tfds:NAME, or a mixture of such: see
`data.sources`. The same command after an interruption goes on where it stopped. The last line on stdout is a JSON
object; wrong input ends with one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

from data.corpus_entities import PAGES, UNKNOWN, Entities
from data.entity_vocabulary import EntityError
from data.preparation import CorpusError, Report, Training, prepare
from data.reading import SourceError
from data.sentences import LanguageError
from data.store import StoreError
from data.tokenizers import Tokenizer, TokenizerError, load

__all__ = ("CorpusError", "Entities", "Training", "main", "prepare")

_BAD_INPUT = (CorpusError, EntityError, LanguageError, SourceError, StoreError, TokenizerError, OSError)
_VOCAB_SIZE = 30522  # BERT's
_ENTITY_VOCAB_SIZE = 500_000  # LUKE's


class _Parser(argparse.ArgumentParser):
  def error(self, message: str):
    self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="data.corpus", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
  )
  parser.add_argument("--input", required=True, metavar="SPEC", help="the corpus")
  parser.add_argument("--tokenizer", required=True, metavar="PATH|train", help="a tokenizer, or train one")
  kinds = ("wordpiece", "bytebpe", "sentencepiece", "words")
  parser.add_argument("--tokenizer_type", choices=kinds, default="wordpiece", help="to train (%(default)s)")
  splits = ("pieces", "text", "marks", "space")
  parser.add_argument("--words", choices=splits, help="where words start (pieces, or as the files of a given one say)")
  parser.add_argument("--output", required=True, metavar="DIR", help="folder of the prepared corpus")
  parser.add_argument("--vocab_size", type=int, help=f"pieces of a trained tokenizer ({_VOCAB_SIZE})")
  parser.add_argument("--cased", action="store_true", help="train a tokenizer that keeps case and accents")
  parser.add_argument("--entities", metavar="PATH|train|special", help="links become mentions of these entities")
  parser.add_argument("--entity_vocab_size", type=int, help=f"entities of a new vocabulary ({_ENTITY_VOCAB_SIZE})")
  parser.add_argument("--entity_white_list", metavar="PATH", help="titles of entities that a new vocabulary has")
  parser.add_argument("--entity_pages", choices=PAGES, help="in the corpus, or all it links to (existing)")
  parser.add_argument("--unknown_entities", choices=UNKNOWN, help="links to others: keep as [UNK], or drop (keep)")
  parser.add_argument("--language", default="en", help="ISO 639 code of the text (%(default)s)")
  parser.add_argument("--seed", type=int, default=0, help="of held-out documents and mixtures (%(default)s)")
  parser.add_argument("--holdout", type=float, default=0.05, help="share of held-out documents (%(default)s)")
  parser.add_argument("--min_tokens", type=int, default=1, help="leave out shorter documents (%(default)s)")
  parser.add_argument("--max_bad_share", type=float, default=0.01, help="of damaged documents (%(default)s)")
  parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (%(default)s)")
  return parser


def _tokenizer(arguments: argparse.Namespace) -> Tokenizer | Training:
  if arguments.tokenizer != "train":
    if arguments.vocab_size is not None or arguments.cased:
      raise CorpusError("--vocab_size and --cased: got a tokenizer's path beside them, want --tokenizer=train")
    return load(arguments.tokenizer, words=arguments.words)
  from data.tokenizers.training import training

  kind = arguments.tokenizer_type
  if kind == "words" and arguments.vocab_size is not None:
    raise CorpusError("--vocab_size: got it with --tokenizer_type=words, want none: all words are kept")
  size = _VOCAB_SIZE if arguments.vocab_size is None else arguments.vocab_size
  lowercase = not arguments.cased and kind not in ("bytebpe", "words")
  return Training(*training(kind, size, lowercase, arguments.words or "pieces"))


def _entities(arguments: argparse.Namespace) -> Entities | None:
  learning = {name: getattr(arguments, f"entity_{name}") for name in ("vocab_size", "white_list", "pages")}
  learning = {name: value for name, value in learning.items() if value is not None}
  if arguments.entities is None and (learning or arguments.unknown_entities):
    raise CorpusError("--entity_* and --unknown_entities: got no --entities beside them, want --entities=train or PATH")
  if arguments.entities not in (None, "train") and learning:
    raise CorpusError(f"--entity_{next(iter(learning))}: got a vocabulary's path beside it, want --entities=train")
  if arguments.entities is None:
    return None
  size = {"size": learning.pop("vocab_size", _ENTITY_VOCAB_SIZE)}
  vocabulary = None if arguments.entities == "train" else arguments.entities
  return Entities(vocabulary, unknown=arguments.unknown_entities or "keep", **size, **learning)


@contextlib.contextmanager
def _progress() -> Iterator[Report]:
  """A line a stage with the rate, on a terminal; nothing elsewhere."""
  columns = (
    TextColumn("{task.description:>9}"),
    TextColumn("{task.completed:,.0f} documents"),
    TextColumn("{task.fields[rate]:,.0f}/s"),
    TimeElapsedColumn(),
  )
  with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
    tasks: dict[str, tuple[TaskID, float]] = {}

    def report(stage: str, documents: int) -> None:
      if stage not in tasks:
        tasks[stage] = bars.add_task(stage, total=None, rate=0.0), time.monotonic()
      task, since = tasks[stage]
      bars.advance(task, documents)
      bars.update(task, rate=bars.tasks[task].completed / max(time.monotonic() - since, 1e-3))

    yield report


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status: 0, 2 for wrong input, 130 when interrupted."""
  arguments = _parser().parse_args(argv)
  options = ("language", "seed", "holdout", "min_tokens", "max_bad_share", "workers")
  started = time.monotonic()
  try:
    with _progress() as report:
      settings = {name: getattr(arguments, name) for name in options}
      settings["entities"] = _entities(arguments)
      card = prepare(arguments.input, _tokenizer(arguments), arguments.output, **settings, report=report)
  except _BAD_INPUT as error:
    print(f"data.corpus: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("data.corpus: interrupted; finished chunks are kept, the same command goes on", file=sys.stderr)
    return 130
  splits = {split: {key: counts[key] for key in counts if key != "digest"} for split, counts in card["splits"].items()}
  summary = {
    "output": arguments.output,
    "fingerprint": card["fingerprint"],
    "splits": splits,
    "skipped": card["skipped"],
    **({"entities": card["entities"]} if "entities" in card else {}),
    "seconds": round(time.monotonic() - started, 1),
  }
  print(json.dumps(summary))
  return 0


if __name__ == "__main__":
  sys.exit(main())
