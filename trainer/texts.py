"""Texts on their way into a trained model: reading them, finding the tokenizer, batches of few static shapes.

Nothing here imports jax.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data import tokenizers
from data.tokenizers import Tokenizer
from data.tokenizers.words import SPECIALS, Words

CONFIG, TOKENIZER = "config.json", "tokenizer"  # in a workdir

# Lengths of batches. Few, as each one is a program to compile; close enough that little of a batch is padding.
_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)


class InputError(ValueError):
  """A model or text that cannot be used; one line that says what to do."""


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
  """The tokenizer of a workdir, or one that stands by itself as a folder or file.

  A released ELMo reads words by their characters: vocab.txt may be missing, and marks divide text where no file of ours
  says otherwise.

  Raises:
    InputError: nothing is there. TokenizerError: what is there is no tokenizer.
  """
  path = tokenizer_path(Path(path))
  if not _is_released_elmo(path) or (path / tokenizers.OWN_FILE).is_file():
    return tokenizers.load(path)
  return tokenizers.load(path, words="marks") if has_vocabulary(path) else Words(SPECIALS, None, "marks", str(path))


def _is_released_elmo(path: Path) -> bool:
  """Whether a folder has AllenNLP's two files, whatever stands before these ends of their names."""
  return all(any(path.glob(f"*{ending}")) for ending in ("options.json", "weights.hdf5"))


def has_vocabulary(folder: Path) -> bool:
  """Whether a folder of a released ELMo has a list of words."""
  return (folder / "vocab.txt").is_file()


def tokenizer_path(path: Path) -> Path:
  """Where the files of `load_tokenizer` stand: in a workdir in a folder of their own."""
  if not path.exists():
    raise InputError(f"model {path}: no such file or directory, want a workdir of train.py or a tokenizer")
  own = path / TOKENIZER
  if own.exists() or _holds_tokenizer(path):
    return own if own.is_dir() else path
  if (path / CONFIG).is_file():
    raise InputError(f"model {path}: has no folder {TOKENIZER}/, want the tokenizer that train.py puts there; copy it")
  if runs := seeds_of(path):
    raise InputError(f"model {path}: has no tokenizer, want {runs}")
  return path


def seeds_of(folder: Path) -> str:
  """How a message names the runs in a folder that train.py --seeds has made; "" for any other."""
  seeds = [path.parent.name.removeprefix("seed-") for path in folder.glob(f"seed-*/{CONFIG}")]
  runs = [f"{folder}/seed-{seed}" for seed in sorted(filter(str.isdecimal, seeds), key=int)]
  return "one of its runs: " + ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "") if runs else ""


def _holds_tokenizer(folder: Path) -> bool:
  return any(all((folder / name).is_file() for name in names) for names, _ in tokenizers.LAYOUTS)


def check_list(texts: Sequence, name: str = "texts") -> None:
  """Raises InputError for a text where a list of them is wanted: its characters would be taken for texts."""
  if isinstance(texts, str):
    raise InputError(f"{name}: got the text {texts!r:.60}, want a list of texts")
  for each in texts:
    if not isinstance(each, str | tuple | list):
      raise InputError(f"{name}: got {each!r:.60} in the list, want texts")


def read_lines(path: str) -> list[str]:
  """The lines of a UTF-8 file, or of stdin for `-`; text i is line i, and an empty line is an empty text.

  Raises:
    InputError: there is no such file, no line in it, or it is not UTF-8.
  """
  lines = read_text(path, "with one text a line").split("\n")  # not splitlines(): a text may hold U+2028
  return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def read_text(path: str, form: str) -> str:
  """All of a UTF-8 file, or of stdin for `-`, without its byte order mark.

  Args:
    form: what it should look like, for messages.
  Raises:
    InputError: there is no such file, nothing in it, or it is not UTF-8.
  """
  if path != "-" and not Path(path).is_file():
    got = "is a folder" if Path(path).is_dir() else "no such file"
    raise InputError(f"input {path}: {got}, want a text file {form}, or - for stdin")
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
    raise InputError(f"input {path}: is empty, want a text file {form}")
  return text


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


def chunks_in_order(lengths: Sequence[int], batch_size: int, longest: int) -> Iterator[Chunk]:
  """Batches of neighbouring texts, all of `batch_size` rows: each row can go on where that of the last one ended."""
  for first in range(0, len(lengths), batch_size):
    rows = np.arange(first, min(first + batch_size, len(lengths)))
    yield Chunk(rows, batch_size, _width(max(lengths[i] for i in rows), longest))


def refuse_beyond_memory(shapes: Iterable[tuple[int, ...] | None]) -> None:
  """Raises InputError where float32 arrays of these shapes do not fit in the memory here."""
  size = sum(4 * math.prod(shape) for shape in shapes if shape)
  if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
    raise InputError(
      f"the states of all texts: {size / 1e9:.1f} GB, want no more than the memory here; "
      "choose layers=none, a smaller max_length, or a part of the texts"
    )


def power_of_two(n: int) -> int:
  """The smallest power of two that is at least n."""
  return 1 << (n - 1).bit_length()


def _width(length: int, longest: int) -> int:
  beyond = itertools.count(_LENGTHS[-1] + 256, 256)
  return min(longest, next(width for width in itertools.chain(_LENGTHS, beyond) if width >= length))
