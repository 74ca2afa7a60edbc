"""Reading files nobody vouches for: decompression, lines and text documents with limits on size."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from data.documents import DOCUMENT_CHARS, Document
from data.sentences import UNSPACED, split

_RATIO = 200  # decompressed to compressed; text is 3 to 20
_RATIO_FROM = 16 << 20  # small files may be as repetitive as they like
_UTF8_BOM = b"\xef\xbb\xbf"
_WRAP_COLUMNS = 120
_SECTION_CHARS = 1000
_SENTENCE_END = tuple(".!?…。！？」』”\"')")


class SourceError(ValueError):
  """A corpus that cannot be read as asked."""


class _Guarded(io.RawIOBase):
  """Decompressed bytes of `stream`; raises where they outgrow the compressed ones `_RATIO` times."""

  def __init__(self, stream: BinaryIO, compressed: BinaryIO, name: str):
    self._stream, self._compressed, self._name, self._size = stream, compressed, name, 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    data = self._stream.read(len(buffer))
    self._size += len(data)
    if self._size > max(_RATIO_FROM, _RATIO * self._compressed.tell()):
      raise SourceError(
        f"{self._name}: expands more than {_RATIO} times ({self._compressed.tell()} bytes gave {self._size}): "
        "refused as a decompression bomb"
      )
    buffer[: len(data)] = data
    return len(data)

  def close(self) -> None:
    if not self.closed:
      self._stream.close()
      self._compressed.close()
    super().close()


def open_bytes(path: Path) -> BinaryIO:
  """The decompressed bytes of a file, by its last suffix (.bz2, .gz or neither)."""
  compressed = path.open("rb")
  openers: dict[str, Callable] = {".bz2": bz2.BZ2File, ".gz": lambda file: gzip.GzipFile(fileobj=file)}
  if path.suffix not in openers:
    return compressed
  return io.BufferedReader(_Guarded(openers[path.suffix](compressed), compressed, path.name), 1 << 16)


def lines(path: Path, limit: int = DOCUMENT_CHARS) -> Iterator[str | None]:
  """Lines of a UTF-8 file without their ends; None for a line that is not UTF-8 or longer than `limit` bytes.

  Raises:
    SourceError: UTF-16, or a compressed file that is damaged.
  """
  with open_bytes(path) as stream:
    try:
      yield from _lines(stream, path, limit)
    except (EOFError, OSError, zlib.error) as error:
      raise SourceError(f"{path}: is truncated or damaged ({error}): fetch it again") from error


def _lines(stream: BinaryIO, path: Path, limit: int) -> Iterator[str | None]:
  first = True
  while line := stream.readline(limit):
    if first:
      if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(f"{path}: got UTF-16, want UTF-8: convert it with iconv -f UTF-16 -t UTF-8")
      line, first = line.removeprefix(_UTF8_BOM), False
    if len(line) >= limit and not line.endswith(b"\n"):
      while (rest := stream.readline(limit)) and not rest.endswith(b"\n"):
        pass
      yield None
      continue
    try:
      yield line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
      yield None


def form_of(paths: list[Path], language: str) -> str:
  """ "lines" where a sample of the files reads as one sentence a line, else "text".

  One sentence a line: at least 7 of 10 lines end as sentences end, and sentence splitting hardly divides them.
  """
  sample: list[str] = []
  for path in paths[:8]:
    reader = (line for line in lines(path) if line and line.strip())
    sample += [line.strip() for line, _ in zip(reader, range(200))]  # noqa: B905
  if not sample:
    return "text"
  ends = sum(line.endswith(_SENTENCE_END) for line in sample) / len(sample)
  parts = sum(len(split(line, language)) for line in sample) / len(sample)
  return "lines" if ends >= 0.7 and parts <= 1.25 else "text"


def text_documents(path: Path, name: str, form: str, language: str, skipped: Counter) -> Iterator[Document]:
  """Documents of a plain text file.

  "lines": one sentence a line, a blank line between documents. "text": running text; a blank line ends a paragraph,
  whose hard-wrapped lines are joined, and two or more blank lines end a document of at least 1000 characters (the
  chapters of a book), as the end of the file does.
  """
  count = 0
  for block in _blocks(path, form):
    if isinstance(block, str):
      skipped[block] += 1
    else:
      text = block if form == "lines" else "\n".join(_paragraphs(block, language))
      yield Document(f"{name}:{count}", None, text)
    count += 1
  if not count:
    skipped["empty"] += 1


def _blocks(path: Path, form: str) -> Iterator[list[str] | str]:
  """Lines of one document after the other, or the reason why a document is left out."""
  block: list[str] = []
  size, blank, reason = 0, 0, ""
  for line in lines(path):
    if line is not None and not line.strip():
      blank += 1
      block.append("")
      ended = form == "lines" or (blank >= 2 and size >= _SECTION_CHARS)
      if ended and (reason or size):
        yield reason or [kept for kept in block if kept or form == "text"]
        block, size, reason = [], 0, ""
      continue
    blank = 0
    if line is None:
      reason = "bad UTF-8"
    elif size + len(line) > DOCUMENT_CHARS:
      reason, block = reason or "over the size limit", []
    elif not reason:
      block.append(line)
      size += len(line)
  if reason or size:
    yield reason or [kept for kept in block if kept or form == "text"]


def _paragraphs(block: list[str], language: str) -> Iterator[str]:
  wrapped: list[str] = []
  for line in (*block, ""):
    if line:
      wrapped.append(line)
    elif wrapped:
      yield from [_joined(wrapped, language)] if all(len(row) <= _WRAP_COLUMNS for row in wrapped) else wrapped
      wrapped = []


def _joined(rows: list[str], language: str) -> str:
  """Hard-wrapped rows as one line; a row that ends in a hyphen or a dash needs no space after it."""
  space = "" if language.split("-")[0] in UNSPACED else " "
  rows = [row.strip() for row in rows]
  return "".join(row if row.endswith("-") else row + space for row in rows[:-1]) + rows[-1]
