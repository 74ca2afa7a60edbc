"""Runs a trained model on text.

    python predict.py encode   --model=DIR --input=FILE --output=OUT.npz   states of tokens and vectors of texts
    python predict.py fill     --model=DIR --text="Paris is the [MASK] of France."   likeliest pieces for each [MASK]
    python predict.py pair     --model=DIR --first=TEXT --second=TEXT      does the second text follow the first?
    python predict.py detect   --model=DIR --text=TEXT                     which tokens were put in another's place?
    python predict.py tokenize --model=DIR|TOKENIZER --text=TEXT           pieces, ids and characters

DIR is a workdir of train.py, or a folder of published weights in Hugging Face's layout. FILE has one text a line (pair:
FIRST<tab>SECOND), - is stdin. Answers are tables on a terminal and JSON lines elsewhere; the last line on stdout is a
JSON summary. Speed is told on stderr. Wrong input ends with one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from data.tokenizers import TokenizerError
from trainer.command import USER_ERROR, OneLineParser
from trainer.rules import ConfigError
from trainer.texts import InputError, load_tokenizer, read_lines, read_pairs


@dataclasses.dataclass
class Meter:
  """Texts and tokens that are done, since when, and what to tell about them."""

  advance: Callable[[int], None]
  texts: int = 0
  tokens: int = 0
  started: float = dataclasses.field(default_factory=time.monotonic)

  def __call__(self, texts: int, tokens: int) -> None:
    self.texts, self.tokens = self.texts + texts, self.tokens + tokens
    self.advance(texts)

  def summary(self) -> dict[str, Any]:
    """Counts and rates; one line of them on stderr too."""
    seconds = max(time.monotonic() - self.started, 1e-6)
    rates = {"texts_per_second": round(self.texts / seconds, 1), "tokens_per_second": round(self.tokens / seconds, 1)}
    print(
      f"{self.texts:,} texts, {self.tokens:,} tokens in {seconds:.2f} s, compilation included: "
      f"{rates['texts_per_second']:,} texts/s, {rates['tokens_per_second']:,} tokens/s",
      file=sys.stderr,
    )
    return {"texts": self.texts, "tokens": self.tokens, "seconds": round(seconds, 3), **rates}


@contextlib.contextmanager
def _meter(texts: int) -> Iterator[Meter]:
  """A Meter, and a bar on a terminal."""
  columns = (
    *Progress.get_default_columns()[:2],
    TextColumn("{task.completed:,.0f}/{task.total:,.0f} texts"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
  )
  with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
    task = bar.add_task("running", total=texts)
    yield Meter(lambda done: bar.advance(task, done))


def _show(records: Sequence[dict[str, Any]], title: Callable[[dict], str], rows: Callable[[dict], list[dict]]) -> None:
  """Records as tables on a terminal, as JSON lines elsewhere."""
  if not sys.stdout.isatty():
    for record in records:
      print(json.dumps(record, ensure_ascii=False))
    return
  console = Console(markup=False, highlight=False, emoji=False)  # a text may look like markup: [MASK]
  for record in records:
    table = Table(title=title(record), title_justify="left")
    lines = rows(record)
    for name in lines[0] if lines else ():
      table.add_column(name)
    for line in lines:
      table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in line.values()))
    console.print(table)


def _texts(flags: argparse.Namespace) -> list[str]:
  return [flags.text] if flags.text is not None else read_lines(flags.input)


def _encode(flags: argparse.Namespace) -> dict[str, Any]:
  texts, output = read_lines(flags.input), Path(flags.output)
  if not output.parent.is_dir() or output.is_dir():
    raise InputError(f"output {output}: is a directory or in one that does not exist, want a file such as out.npz")
  from trainer.inference import encode, load_model

  model = load_model(flags.model, flags.dtype)
  options = {name: getattr(flags, name) for name in ("pool", "layers", "batch_size", "max_length")}
  with _meter(len(texts)) as meter:
    encodings = encode(model, texts, **options, report=meter)
  summary = meter.summary()
  if encodings.truncated:
    print(f"warning: {encodings.truncated} of {len(texts)} texts are cut; --max_length sets where", file=sys.stderr)
  arrays = encodings.arrays()
  _write(output, arrays)
  shapes = {name: list(array.shape) for name, array in arrays.items()}
  return {"model": model.source, "output": str(output), **summary, "truncated": encodings.truncated, "arrays": shapes}


def _write(output: Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes an npz file whole or not at all."""
  partial = output.with_name(f".{output.name}.{os.getpid()}")
  try:
    with partial.open("wb") as file:
      np.savez(file, **arrays)
    partial.replace(output)
  except OSError as error:
    raise InputError(f"output {output}: cannot be written: {error.strerror}") from error
  finally:
    partial.unlink(missing_ok=True)


def _fill(flags: argparse.Namespace) -> dict[str, Any]:
  texts = _texts(flags)
  from trainer.inference import fill, load_model

  model = load_model(flags.model, flags.dtype)
  with _meter(len(texts)) as meter:
    blanks = fill(model, texts, flags.top, flags.batch_size, flags.max_length, meter)
  summary = meter.summary()
  records = [
    {"text": text, "masks": [dataclasses.asdict(blank) for blank in own]}
    for text, own in zip(texts, blanks, strict=True)
  ]
  _show(
    records,
    lambda record: record["text"],
    lambda record: [
      {"mask": number, "piece": candidate["piece"], "probability": candidate["probability"]}
      for number, mask in enumerate(record["masks"], 1)
      for candidate in mask["candidates"]
    ],
  )
  return {"model": model.source, **summary, "masks": sum(map(len, blanks))}


def _pair(flags: argparse.Namespace) -> dict[str, Any]:
  sides = (flags.first, flags.second)
  if (flags.input is None) == (sides == (None, None)) or (flags.input is None and None in sides):
    raise InputError("want --first and --second, or --input with FIRST<tab>SECOND lines")
  pairs = [sides] if flags.input is None else read_pairs(flags.input)
  from trainer.inference import load_model, pair

  model = load_model(flags.model, flags.dtype)
  with _meter(len(pairs)) as meter:
    follows = pair(model, pairs, flags.batch_size, flags.max_length, meter).tolist()
  summary = meter.summary()
  records = [
    {"first": first, "second": second, "probability": p, "label": int(p < 0.5)}  # 0 = IsNext, as BERT counts
    for (first, second), p in zip(pairs, follows, strict=True)
  ]
  _show(records, lambda record: "second text follows the first (label 0) or not (1)", lambda record: [record])
  return {"model": model.source, **summary, "follows": sum(record["label"] == 0 for record in records)}


def _detect(flags: argparse.Namespace) -> dict[str, Any]:
  texts = _texts(flags)
  from trainer.inference import detect, load_model

  model = load_model(flags.model, flags.dtype)
  with _meter(len(texts)) as meter:
    found = detect(model, texts, flags.batch_size, flags.max_length, meter)
  summary = meter.summary()
  records = []
  for text, encoding, probabilities in zip(texts, model.tokenizer.encode(texts, specials=True), found, strict=True):
    columns = zip(model.tokenizer.pieces(encoding.ids), encoding.offsets.tolist(), probabilities.tolist(), strict=True)
    tokens = [{"piece": piece, "start": at, "end": end, "replaced": p} for piece, (at, end), p in columns]
    records.append({"text": text, "tokens": tokens})
  _show(records, lambda record: record["text"], lambda record: record["tokens"])
  replaced = sum(int((probabilities > 0.5).sum()) for probabilities in found)
  return {"model": model.source, **summary, "replaced": replaced}


def _tokenize(flags: argparse.Namespace) -> dict[str, Any]:
  texts, tokenizer = _texts(flags), load_tokenizer(flags.model)
  encodings = tokenizer.encode(texts, specials=True)
  records = [
    {"text": text, "pieces": tokenizer.pieces(e.ids), "ids": e.ids.tolist(), "offsets": e.offsets.tolist()}
    for text, e in zip(texts, encodings, strict=True)
  ]
  _show(
    records,
    lambda record: record["text"],
    lambda record: [
      {"piece": piece, "id": i, "characters": f"{start}-{end}"}
      for piece, i, (start, end) in zip(record["pieces"], record["ids"], record["offsets"], strict=True)
    ],
  )
  unknown = sum(int((e.ids == tokenizer.special.unk).sum()) for e in encodings)
  return {"model": flags.model, "texts": len(texts), "tokens": sum(map(len, encodings)), "unknown": unknown}


VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
  "encode": _encode,
  "fill": _fill,
  "pair": _pair,
  "detect": _detect,
  "tokenize": _tokenize,
}


def _parser() -> argparse.ArgumentParser:
  parser = OneLineParser(
    prog="predict.py", allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  verbs = parser.add_subparsers(dest="verb", required=True, metavar=f"{{{','.join(VERBS)}}}")
  parsers = {name: verbs.add_parser(name, allow_abbrev=False) for name in VERBS}
  for name, own in parsers.items():
    own.add_argument(
      "--model", required=True, metavar="DIR", help="workdir, or published weights (tokenize: or a tokenizer)"
    )
    if name in ("fill", "detect", "tokenize"):
      source = own.add_mutually_exclusive_group(required=True)
      source.add_argument("--text")
      source.add_argument("--input", metavar="FILE", help="one text a line; - is stdin")
    if name != "tokenize":
      own.add_argument("--batch_size", type=int, default=32, help="texts that run together (%(default)s)")
      own.add_argument("--max_length", type=int, help="tokens of a text (the longest that the model was trained on)")
      own.add_argument("--dtype", choices=("float32", "bfloat16"), help="of matrix products (CPU: float32)")
  encode, fill, pair = (parsers[name] for name in ("encode", "fill", "pair"))
  encode.add_argument("--input", required=True, metavar="FILE", help="one text a line; - is stdin")
  encode.add_argument("--output", required=True, metavar="OUT.npz", help="ids, lengths, hidden, pooled, layers")
  encode.add_argument("--pool", default="mean", metavar="none|cls|pooler|mean", help="one vector a text (%(default)s)")
  encode.add_argument("--layers", default="last", metavar="last|none|all|0,6,-1", help="states kept (%(default)s)")
  fill.add_argument("--top", type=int, default=5, help="pieces for each [MASK] (%(default)s)")
  pair.add_argument("--first")
  pair.add_argument("--second")
  pair.add_argument("--input", metavar="FILE", help="FIRST<tab>SECOND lines; - is stdin")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status: 0, 1 for a closed stdout, 2 for wrong input, 130 when interrupted."""
  flags = _parser().parse_args(argv)
  try:
    print(json.dumps({"command": flags.verb, **VERBS[flags.verb](flags)}), flush=True)
  except BrokenPipeError:  # who reads stdout has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (InputError, ConfigError, TokenizerError, OSError) as error:
    print(f"predict.py {flags.verb}: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_ERROR
  except KeyboardInterrupt:
    print(f"predict.py {flags.verb}: interrupted", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
