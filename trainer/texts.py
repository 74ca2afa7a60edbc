"""Texts on their way into a trained model: reading them, finding the tokenizer, batches of few static shapes.

Nothing here imports jax.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data import tokenizers
from data.tokenizers import Tokenizer

CONFIG, TOKENIZER = "config.json", "tokenizer"  # in a workdir

# Lengths of batches. Few, as each one is a program to compile; close enough that little of a batch is padding.
_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)


class InputError(ValueError):
  """A model or text that cannot be used; one line that says what to do."""


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
  """The tokenizer of a workdir, or one that stands by itself as a folder or file.

  Raises:
    InputError: nothing is there. TokenizerError: what is there is no tokenizer.
  """
  return tokenizers.load(tokenizer_path(Path(path)))


def tokenizer_path(path: Path) -> Path:
  """Where the files of `load_tokenizer` stand: in a workdir in a folder of their own."""
  if not path.exists():
    raise InputError(f"model {path}: no such file or directory, want a workdir of train.py or a tokenizer")
  own = path / TOKENIZER
  if (path / CONFIG).is_file() and not own.exists() and not _holds_tokenizer(path):
    raise InputError(f"model {path}: has no folder {TOKENIZER}/, want the tokenizer that train.py puts there; copy it")
  return own if own.is_dir() else path


def _holds_tokenizer(folder: Path) -> bool:
  return any(all((folder / name).is_file() for name in names) for names, _ in tokenizers.LAYOUTS)


def read_lines(path: str) -> list[str]:
  """The lines of a UTF-8 file, or of stdin for `-`; text i is line i, and an empty line is an empty text.

  Raises:
    InputError: there is no such file, no line in it, or it is not UTF-8.
  """
  if path != "-" and not Path(path).is_file():
    raise InputError(f"input {path}: no such file, want a text file with one text a line, or - for stdin")
  try:
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
  except OSError as error:
    raise InputError(f"input {path}: cannot be read: {error.strerror}") from None
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise InputError(f"input {path}: line {line}: got {error.reason}, want UTF-8; convert the file") from None
  if not text:
    raise InputError(f"input {path}: is empty, want one text a line")
  lines = text.split("\n")  # not splitlines(): a text may hold U+2028
  return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def read_pairs(path: str) -> list[tuple[str, str]]:
  """The lines `FIRST<tab>SECOND` of a file, or of stdin for `-`; raises InputError."""
  pairs = []
  for number, line in enumerate(read_lines(path), 1):
    columns = line.split("\t")
    if len(columns) != 2:
      raise InputError(f"input {path}: line {number}: got {len(columns)} columns, want FIRST<tab>SECOND")
    pairs.append((columns[0], columns[1]))
  return pairs


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Texts that run together as one batch of `height` rows (those after `rows` are padding) and `width` columns."""

  rows: np.ndarray  # int[n]: which texts
  height: int
  width: int


def chunks(lengths: Sequence[int], batch_size: int, longest: int) -> Iterator[Chunk]:
  """Batches of texts of like length, the longest first, so that what does not fit in memory fails at once.

  Args:
    lengths: tokens of each text, at most `longest`.
    batch_size: rows of a batch; the last one has the next power of two that its texts need.
    longest: no batch is wider.
  """
  order = np.argsort(-np.asarray(lengths), kind="stable")
  for first in range(0, len(order), batch_size):
    rows = order[first : first + batch_size]
    yield Chunk(rows, min(batch_size, power_of_two(len(rows))), _width(lengths[rows[0]], longest))


def power_of_two(n: int) -> int:
  """The smallest power of two that is at least n."""
  return 1 << (n - 1).bit_length()


def _width(length: int, longest: int) -> int:
  beyond = itertools.count(_LENGTHS[-1] + 256, 256)
  return min(longest, next(width for width in itertools.chain(_LENGTHS, beyond) if width >= length))
