"""Word vectors from published files: GloVe's text, word2vec's text (with a header) and its binary form, gzipped or not.

A file's kind is told from its content, never from its name. Only the vectors of words that are wanted are kept, so a
file larger than memory can be read.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

FILE = "word_vectors.txt"
NO_WORD, UNKNOWN, FIRST = 0, 1, 2  # rows of a table: zeros, a word that it lacks, the first of its words
_LOOK = 100  # lines that say how many numbers a line of a file without header has
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_WRITTEN = frozenset((*b"\t\r\n", *range(32, 127)))  # bytes of numbers that are written in characters


class VectorError(ValueError):
  """Word vectors that cannot be read; one line with file and line or word."""


class WordVocabulary:
  """The words of a table of vectors, from row 2 on; row 0 is no word and row 1 any word that it lacks.

  Attributes:
    words: each once.
    lowercase: whether a word that it lacks has the row of its lower-case form.
  """

  def __init__(self, words: Sequence[str], lowercase: bool = True):
    """Raises VectorError for a word that stands there twice or holds the end of a line."""
    self.words, self.lowercase = tuple(words), lowercase
    self._rows = {word: row for row, word in enumerate(self.words, FIRST)}
    wrong = next((word for row, word in enumerate(self.words, FIRST) if "\n" in word or self._rows[word] != row), None)
    if wrong is not None:
      raise VectorError(f"word vectors: got the word {wrong!r:.60}, want each once and none of two lines; remove it")

  @property
  def size(self) -> int:
    """Rows of the table."""
    return len(self.words) + FIRST

  def id_of(self, word: str) -> int:
    """Row of a word."""
    row = self._rows.get(word)
    if row is None and self.lowercase:
      row = self._rows.get(word.lower())
    return UNKNOWN if row is None else row

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes `word_vectors.txt`, a word a line."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, FILE).write_bytes("".join(word + "\n" for word in self.words).encode())


def load(folder: str | os.PathLike[str], lowercase: bool = True) -> WordVocabulary:
  """The vocabulary that `WordVocabulary.save` wrote; raises VectorError where there is none."""
  path = Path(folder, FILE)
  try:
    text = path.read_bytes().decode()
  except (OSError, UnicodeDecodeError) as error:
    raise VectorError(f"{path}: cannot be read ({error}), want the words of a run's vectors, one a line") from None
  return WordVocabulary(text.split("\n")[:-1], lowercase)


@dataclasses.dataclass(frozen=True, eq=False)
class WordVectors:
  """matrix: float32 [vocabulary.size, D]. Row 0 is zeros, row 1 the mean of the words' rows."""

  vocabulary: WordVocabulary
  matrix: np.ndarray


def read(path: str | os.PathLike[str], wanted: Iterable[str] | None = None, lowercase: bool = True) -> WordVectors:
  """The vectors of a file, in its order; of a word that stands there twice the first.

  A line of text is a word and D numbers with a space between each two; a word may itself have spaces, as some of
  GloVe's do. D is said by the header, or by most of the first lines.

  Args:
    wanted: words whose rows are kept, and with `lowercase` those of their lower-case forms; None = all.
  Raises:
    VectorError: a file that cannot be read, a line with fewer numbers, with something else or with what is not finite,
      an end before the number of words that the header says, or none of the wanted words.
  """
  path = Path(path)
  keep = None if wanted is None else _wanted(wanted, lowercase)
  rows: dict[str, np.ndarray] = {}
  try:
    with path.open("rb") as raw, _plain(raw) as file:
      for where, name, vector in _entries(file, path, keep):
        word = _decoded(name, where)
        if not np.isfinite(vector).all():
          raise VectorError(f"{where}: word {word!r:.60}: got a number that is not finite; fetch the file again")
        rows.setdefault(word, vector)
  except (OSError, EOFError, zlib.error) as error:
    raise VectorError(f"{path}: cannot be read ({error}), want a file of word vectors; fetch it again") from None
  if not rows:
    raise VectorError(f"{path}: got none of the wanted words, want vectors of the language of the texts")
  vectors = np.stack(list(rows.values()))
  mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
  return WordVectors(WordVocabulary(tuple(rows), lowercase), np.concatenate([[np.zeros_like(mean), mean], vectors]))


def _plain(file: BinaryIO) -> BinaryIO:
  """What is in a file that may be gzipped."""
  return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file


def _wanted(words: Iterable[str], lowercase: bool) -> frozenset[bytes]:
  words = set(words)
  return frozenset(word.encode() for word in (words | {word.lower() for word in words} if lowercase else words))


def _decoded(name: bytes, where: str) -> str:
  try:
    return name.decode()
  except UnicodeDecodeError:
    raise VectorError(f"{where}: got the word {name!r:.60}, want UTF-8; fetch the file again") from None


def _entries(file: BinaryIO, path: Path, keep: frozenset[bytes] | None) -> Iterator[tuple[str, bytes, np.ndarray]]:
  """(where, word, vector) of the words to keep."""
  first = file.readline(_CHUNK)
  header = first.split()
  if len(header) != 2 or not all(cell.isdigit() for cell in header):
    spaces = Counter(line.rstrip().count(b" ") for line in (first, *itertools.islice(file, _LOOK - 1)))
    file.seek(0)
    yield from _text(file, path, keep, max(spaces, key=spaces.get), None)
    return
  count, width = map(int, header)
  _, _, numbers = file.read(_CHUNK).partition(b" ")
  file.seek(len(first))
  text = _WRITTEN.issuperset(numbers[: 4 * width])
  yield from _text(file, path, keep, width, count) if text else _binary(file, path, keep, width, count)


def _text(
  file: BinaryIO, path: Path, keep: frozenset[bytes] | None, width: int, count: int | None
) -> Iterator[tuple[str, bytes, np.ndarray]]:
  """Entries of lines of a word and `width` numbers; `count` lines behind a header, or all where there is none."""
  if not width:
    raise VectorError(f"{path}, line 1: got no number, want a word and its vector in a line; fetch the file again")
  last = before = 0 if count is None else 1
  for last, line in enumerate(file, before + 1):
    line, where = line.rstrip(), f"{path}, line {last}"
    found = line.count(b" ")
    if found < width:
      raise VectorError(f"{where}: got {found} numbers, want {width} as in the others; fetch the file again")
    name = line[: line.index(b" ")] if found == width else line.rsplit(b" ", width)[0]
    if keep is None or name in keep:
      yield where, name, _numbers(line[len(name) + 1 :], width, where)
  if count is not None and last - before != count:
    raise VectorError(f"{path}: got {last - before} words, want the {count} of its header; fetch the file again")


def _numbers(cells: bytes, width: int, where: str) -> np.ndarray:
  try:
    return np.array(cells.split(b" ")).astype(np.float32)
  except ValueError:
    raise VectorError(f"{where}: got {cells!r:.60}, want {width} numbers; fetch the file again") from None


def _binary(
  file: BinaryIO, path: Path, keep: frozenset[bytes] | None, width: int, count: int
) -> Iterator[tuple[str, bytes, np.ndarray]]:
  """Entries of word2vec's binary form: word, space, D little-endian float32, and in some files the end of a line."""
  rest, at = b"", 0
  for number in range(1, count + 1):
    where = f"{path}, word {number}"
    while (end := rest.find(b" ", at)) < 0 or len(rest) < end + 1 + 4 * width:
      more = file.read(_CHUNK)
      if not more:
        raise VectorError(f"{where}: the file ends, want the {count} words of its header; fetch it again")
      rest, at = rest[at:] + more, 0
    name, first, at = rest[at:end].lstrip(b"\n"), end + 1, end + 1 + 4 * width
    if keep is None or name in keep:
      yield where, name, np.frombuffer(rest[first:at], "<f4").astype(np.float32)
  if (rest[at:] + file.read(_CHUNK)).strip():
    raise VectorError(f"{path}: goes on behind word {count}, want the {count} words of its header; fetch it again")
