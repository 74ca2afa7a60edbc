"""Runs a trained model on text.

    python predict.py encode   --model=DIR --input=FILE --output=OUT.npz   states of tokens and vectors of texts
    python predict.py fill     --model=DIR --text="Paris is the [MASK] of France."   likeliest pieces for each [MASK]
    python predict.py pair     --model=DIR --first=TEXT --second=TEXT      does the second text follow the first?
    python predict.py detect   --model=DIR --text=TEXT                     which tokens were put in another's place?
    python predict.py tokenize --model=DIR|TOKENIZER --text=TEXT           pieces, ids and characters
    python predict.py neighbors --model=DIR --word=play --corpus=FILE|FOLDER   nearest words, and sentences by layer

models that are fine-tuned on a task, texts of any number:

    python predict.py classify --model=DIR --text=TEXT [--second=TEXT] --top=2   likeliest classes, or a number
    python predict.py tag      --model=DIR --text="Taro lives in Tokyo ."  named entities, and the tag of each word
    python predict.py answer   --model=DIR --question=TEXT --context=FILE --top=3   answers in a passage of any length
    python predict.py choose   --model=DIR --text=TEXT --choice=TEXT --choice=TEXT   which of them goes with the text?

the same of mentions, which are spans of characters, the end not included:

    python predict.py relate   --model=DIR --text="Taro lives in Tokyo." --head=0:4 --tail=14:19
                                                                           which relation holds between the two?
    python predict.py type     --model=DIR --text="Taro lives in Tokyo." --spans=0:4,14:19   of which types are they?

a LUKE on mentions:

    python predict.py fill     --model=DIR --text="Beyoncé lives in Los Angeles." --spans=0:7,17:28
                               --titles="Beyoncé,[MASK]"                   likeliest titles for each masked span
    python predict.py encode   --model=DIR --input=FILE.jsonl --output=OUT.npz   states of entities as well

and an ELMo on whole words:

    python predict.py encode    --model=DIR --input=FILE --output=OUT.npz --layers=all   layers of all words
    python predict.py neighbors --model=DIR --word=play --corpus=FILE|FOLDER|demo
                                --sentence="They signed to do a Broadway play ." --vectors=glove.txt

DIR is a workdir of train.py (a task's network on an ELMo classifies, tags, answers and chooses), or a folder of
published weights in Hugging Face's layout, or AllenNLP's of an ELMo (options.json, weights.hdf5; its texts are
divided into words at marks, or with --split=space where they were divided before). FILE has one text a line (pair,
classify: FIRST<tab>SECOND), - is stdin. Lines of relate and type, and of FILE.jsonl, are JSON: {"text": "...",
"spans": [[0, 7], [17, 28]], "entities": ["Beyoncé", null]}, where null = masked; of classify {"text", "second"}, of
answer {"question", "context"}, of choose {"text", "choices"}. Titles of an mLUKE are English, or name their language
("de:Berlin"). Answers are tables on a terminal and JSON lines elsewhere; the last line on stdout is a JSON summary.
Speed is told on stderr, and spans that cut a word or are lost. Wrong input ends with one line on stderr and exit
status 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from data.reading import SourceError
from data.tokenizers import TokenizerError
from data.tokenizers.words import SPLITS
from data.word_vectors import VectorError
from trainer.command import USER_ERROR, OneLineParser
from trainer.rules import ConfigError
from trainer.texts import InputError
from trainer.verbs import entities, tasks, texts

VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
  "encode": texts.encode,
  "fill": texts.fill,
  "pair": texts.pair,
  "detect": texts.detect,
  "classify": tasks.classify,
  "tag": tasks.tag,
  "answer": tasks.answer,
  "choose": tasks.choose,
  "relate": entities.relate,
  "type": entities.type_mentions,
  "tokenize": texts.tokenize,
  "neighbors": texts.neighbors,
}


def _parser() -> argparse.ArgumentParser:
  parser = OneLineParser(
    prog="predict.py", allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  subparsers = parser.add_subparsers(dest="verb", required=True, metavar=f"{{{','.join(VERBS)}}}")
  parsers = {name: subparsers.add_parser(name, allow_abbrev=False) for name in VERBS}
  for name, own in parsers.items():
    own.add_argument(
      "--model", required=True, metavar="DIR", help="workdir, or published weights (tokenize: or a tokenizer)"
    )
    if name not in ("answer", "encode", "neighbors", "pair"):
      source = own.add_mutually_exclusive_group(required=True)
      source.add_argument("--text")
      lines = "JSON lines" if name in ("choose", "relate", "type") else "one text a line"
      source.add_argument("--input", metavar="FILE", help=f"{lines}; - is stdin")
    if name != "tokenize":
      own.add_argument("--batch_size", type=int, default=32, help="texts that run together (%(default)s)")
      own.add_argument("--dtype", choices=("float32", "bfloat16"), help="of matrix products (CPU: float32)")
    if name not in ("neighbors", "tokenize"):
      own.add_argument("--max_length", type=int, help="tokens of a text (as in training); of an ELMo, words at once")
    if name in ("classify", "encode", "neighbors", "tag"):
      whose = "texts into words (space, or as trained)" if name == "tag" else "an ELMo's texts into words (as trained)"
      own.add_argument("--split", choices=SPLITS, help=f"what divides {whose}")
    if name in ("answer", "classify", "choose"):
      whose = "questions" if name == "answer" else "texts"
      own.add_argument("--cut", action="store_true", help=f"cut longer {whose}, as training does")
    if name in ("fill", "relate", "type"):
      own.add_argument("--spans", metavar="0:7,17:28", help="characters of the mentions in --text")
    if name in ("classify", "encode", "fill", "tag"):
      own.add_argument("--jsonl", action="store_true", help="lines are JSON, as those of FILE.jsonl")
  _own_flags(parsers)
  _task_flags(parsers)
  return parser


def _own_flags(parsers: dict[str, argparse.ArgumentParser]) -> None:
  encode, fill, pair, relate = (parsers[name] for name in ("encode", "fill", "pair", "relate"))
  encode.add_argument("--input", required=True, metavar="FILE", help="one text a line; - is stdin")
  encode.add_argument("--output", required=True, metavar="OUT.npz", help="ids, lengths, hidden, pooled, layers, ...")
  encode.add_argument("--pool", default="mean", metavar="none|cls|pooler|mean", help="one vector a text (%(default)s)")
  encode.add_argument("--layers", default="last", metavar="last|none|all|0,6,-1", help="states kept (%(default)s)")
  encode.add_argument(
    "--stateful", action="store_true", help="an ELMo's text goes on from the one batch_size lines before it"
  )
  fill.add_argument("--top", type=int, default=5, help="candidates for each [MASK] (%(default)s)")
  fill.add_argument("--titles", metavar="A,[MASK]", help="entities of the spans (default: all masked)")
  pair.add_argument("--first")
  pair.add_argument("--second")
  pair.add_argument("--input", metavar="FILE", help="FIRST<tab>SECOND lines; - is stdin")
  relate.add_argument("--head", metavar="0:4", help="characters of the first mention, the subject")
  relate.add_argument("--tail", metavar="14:19", help="characters of the second mention, the object")
  relate.add_argument("--top", type=int, default=1, help="relations told of each pair (%(default)s)")
  _neighbor_flags(parsers["neighbors"])
  parsers["type"].add_argument("--top", type=int, help="types told of each mention (those above 0.5)")


def _task_flags(parsers: dict[str, argparse.ArgumentParser]) -> None:
  classify, answer = parsers["classify"], parsers["answer"]
  classify.add_argument("--second", metavar="TEXT", help="of a pair")
  classify.add_argument("--top", type=int, default=1, help="classes told of each text (%(default)s)")
  answer.add_argument("--question", metavar="TEXT")
  answer.add_argument("--context", metavar="FILE", help="text to answer from; - is stdin")
  answer.add_argument("--passage", metavar="TEXT", help="the same on the command line")
  answer.add_argument("--input", metavar="FILE", help="JSON lines; - is stdin")
  answer.add_argument("--top", type=int, default=1, help="answers told of each question (%(default)s)")
  answer.add_argument(
    "--null_threshold", type=float, metavar="X", help="no answer where its odds are higher (as trained)"
  )
  parsers["choose"].add_argument("--choice", action="append", metavar="TEXT", help="one of two or more with --text")


def _neighbor_flags(own: argparse.ArgumentParser) -> None:
  own.add_argument("--word", required=True)
  own.add_argument("--corpus", required=True, metavar="SPEC", help="file or folder of text, or see data/sources.py")
  own.add_argument("--sentence", metavar="TEXT", help="where the word stands (the first of the corpus that has it)")
  own.add_argument("--top", type=int, default=10, help="neighbours of each kind (%(default)s)")
  own.add_argument("--layers", default="all", metavar="last|none|all|0,6,-1", help="0 = words (%(default)s)")
  own.add_argument("--vectors", metavar="FILE", help="word vectors to compare with: GloVe's or word2vec's")
  own.add_argument("--any_word", action="store_true", help="compare with all words of the corpus in context")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status: 0, 1 for a closed stdout, 2 for wrong input, 130 when interrupted."""
  flags = _parser().parse_args(argv)
  try:
    print(json.dumps({"command": flags.verb, **VERBS[flags.verb](flags)}), flush=True)
  except BrokenPipeError:  # who reads stdout has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (InputError, ConfigError, SourceError, TokenizerError, VectorError, OSError) as error:
    print(f"predict.py {flags.verb}: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_ERROR
  except KeyboardInterrupt:
    print(f"predict.py {flags.verb}: interrupted", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
