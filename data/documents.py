"""What happens to one document: pure functions, which any executor may run, in any order, on any machine.

raw document -> `sentences` (markup to text, text to sentences) -> `encode` (sentences to tokens)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from data import sentences as splitting
from data.annotations import ANNOTATIONS

if TYPE_CHECKING:
  from data.tokenizers import Tokenizer

DOCUMENT_CHARS = 64 << 20
# Reasons that speak of damaged input; the others (redirects, empty documents) are ordinary.
BAD = frozenset(
  ("bad UTF-8", "bad JSON", "no text field", "bad annotation", "bad link", "binary", "over the size limit", "timed out")
  + ("bad markup",)
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff]")
_BLANK = re.compile(rf"\s|{_CONTROL.pattern}")
_BINARY_SHARE = 0.01


class Skipped(Exception):  # noqa: N818  not an error: it carries the reason for the count
  """A document that is left out; the message is the reason it is counted under."""


@dataclasses.dataclass(frozen=True)
class Document:
  """A document as its source gives it.

  `text` is running text (a newline ends a paragraph), or a list of sentences where the source has one a line.
  `namespaces` is set where `text` is wikitext: the site's names of its namespaces. `annotations` holds, for some of the
  kinds `ANNOTATIONS`, [first, end] spans of characters of `text`; of a list, of its sentences joined by newlines.
  `links` stands beside a list of sentences: for each the [first, end, title] of its links, in characters of the
  sentence, in order and apart from one another; beside running text, the same of its one text. `redirect` is the title
  that a page without text of its own leads to.
  """

  id: str
  title: str | None
  text: str | list[str]
  namespaces: tuple[str, ...] | None = None
  annotations: dict[str, list[list[int]]] | None = None
  links: list[list[tuple[int, int, str]]] | None = None
  redirect: str | None = None


@dataclasses.dataclass(frozen=True)
class EncodedDocument:
  """Tokens of one document, without special tokens: ids int32 [n], word_starts bool [n], sentences int32 lengths.

  annotations: uint8 [n], sums of `ANNOTATIONS` flags; None where no token has any. mentions: int32 [m, 3], of each
  linked mention the first token, one past the last, and the id of its entity, in order; None where the corpus has no
  entities.
  """

  id: str
  title: str | None
  ids: np.ndarray
  word_starts: np.ndarray
  sentences: np.ndarray
  annotations: np.ndarray | None = None
  mentions: np.ndarray | None = None

  @property
  def flags(self) -> np.ndarray:
    """uint8 [n]: `annotations`, or zeros."""
    return np.zeros(len(self.ids), np.uint8) if self.annotations is None else self.annotations


def clean(text: str) -> str:
  """Text without control characters, byte order marks and CR.

  Raises:
    Skipped: "binary" where more than one character in a hundred is such, "bad UTF-8" for lone surrogates.
  """
  cleaned, count = _CONTROL.subn("", text.replace("\r\n", "\n"))
  if count > max(2, _BINARY_SHARE * len(text)):
    raise Skipped("binary")
  try:
    cleaned.encode()
  except UnicodeEncodeError as error:
    raise Skipped("bad UTF-8") from error
  return cleaned


def sentences(document: Document, language: str, prose: Callable[[str, tuple[str, ...]], str]) -> Document:
  """The document with `text` as a list of sentences.

  A link stays where one sentence holds all of it. Sentences of a document with links have single spaces only.

  Args:
    prose: wikitext and the site's names of its namespaces to running text (`stripper.Stripper.prose`).
  Raises:
    Skipped: nothing is left, or the markup is over the limits of `prose`.
  """
  text = document.text
  if (len(text) if isinstance(text, str) else sum(map(len, text))) > DOCUMENT_CHARS:
    raise Skipped("over the size limit")
  if document.namespaces is not None:
    text = prose(clean(text), document.namespaces)
  if isinstance(text, str):
    found = splitting.split(clean(text), language)
    if document.links is not None:
      found = [" ".join(sentence.split()) for sentence in found]
  else:
    found = [line for line in (clean(" ".join(sentence.split())) for sentence in text) if line]
  if not found:
    raise Skipped("empty")
  if not (document.annotations or document.links):
    return dataclasses.replace(document, text=found, namespaces=None)
  moved = _Moved(document.text, found)
  spans = {kind: moved.spans(spans)[0].tolist() for kind, spans in (document.annotations or {}).items()}
  links = _links(document, found, moved) if document.links is not None else None
  return dataclasses.replace(document, text=found, namespaces=None, annotations=spans or None, links=links)


def with_links(document: Document, linked: Callable[[str, tuple[str, ...]], tuple[str, list]]) -> Document:
  """A page of wikitext as running text with its links; other documents as they are.

  Args:
    linked: wikitext and the site's names of its namespaces to text and links (`stripper.Stripper.linked`).
  Raises:
    Skipped: the page is over the limits of `linked`, or no text.
  """
  if document.namespaces is None:
    return document
  text, links = linked(clean(document.text), document.namespaces)
  return dataclasses.replace(document, text=text, namespaces=None, links=[links])


class _Moved:
  """Spans of `text` as spans of `found`, its sentences joined by newlines.

  On the way from text to sentences nothing is removed or changed but white space and control characters, so a span is
  found again by the other characters in it.
  """

  def __init__(self, text: str | list[str], found: list[str]):
    self._before, self._after = (_solid(part if isinstance(part, str) else "\n".join(part)) for part in (text, found))

  def spans(self, spans: list) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [m, 2], which of `spans` they are, int64 [m]); those without such a character are gone."""
    first, end = np.searchsorted(self._before, np.asarray(spans, np.int64).reshape(-1, 2).T)
    kept = np.flatnonzero(first < end)
    return np.stack([self._after[first[kept]], self._after[end[kept] - 1] + 1], axis=1), kept


def _links(document: Document, found: list[str], moved: _Moved) -> list[list[tuple[int, int, str]]]:
  """The document's links by the sentences of `found`, in whose characters they are."""
  texts = [document.text] if isinstance(document.text, str) else document.text
  rows = zip(_begins(texts), document.links)
  given = [(start + first, start + end, title) for start, row in rows for first, end, title in row]
  spans, kept = moved.spans([(first, end) for first, end, _ in given])
  begins, rows = _begins(found), [[] for _ in found]
  within = np.searchsorted(begins, spans[:, 0], "right") - 1
  for span, row, number in zip(spans - begins[within][:, None], within.tolist(), kept.tolist(), strict=True):
    if span[1] <= len(found[row]):
      rows[row].append((*span.tolist(), given[number][2]))
  return rows


def _begins(texts: list[str]) -> np.ndarray:
  """int64 [n + 1]: where texts begin when newlines join them, and the place after the newline behind the last."""
  return np.cumsum([0, *(len(text) + 1 for text in texts)])


_IS_BLANK = np.zeros(0x110000, bool)
_IS_BLANK[[ord(character) for character in _BLANK.findall("".join(map(chr, range(0x10000))))]] = True


def _solid(text: str) -> np.ndarray:
  """int64: where characters stand that are neither white space nor control characters."""
  return np.flatnonzero(~_IS_BLANK[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)])


def encode(document: Document, tokenizer: Tokenizer, min_tokens: int = 1) -> EncodedDocument:
  """Tokens of a document of sentences; sentences without tokens are left out.

  Raises:
    Skipped: "empty" without a token, "too short" below `min_tokens`.
  """
  encoded = tokenizer.encode(document.text)
  encodings = [encoding for encoding in encoded if len(encoding.ids)]
  lengths = np.asarray([len(encoding.ids) for encoding in encodings], np.int32)
  if not encodings:
    raise Skipped("empty")
  if lengths.sum() < min_tokens:
    raise Skipped("too short")
  return EncodedDocument(
    document.id,
    document.title,
    np.concatenate([encoding.ids for encoding in encodings]).astype(np.int32, copy=False),
    np.concatenate([encoding.word_starts for encoding in encodings]).astype(bool, copy=False),
    lengths,
    annotation_flags(document, [encoding.offsets for encoding in encoded]) if document.annotations else None,
  )


def annotation_flags(document: Document, offsets: list[np.ndarray]) -> np.ndarray | None:
  """uint8 [n]: annotations of the tokens of a document of sentences, None without any.

  A span that no single sentence holds is dropped: a part of an entity is none. The others take every token that has a
  character in them and what stands between; of spans of one kind that meet in a token the longest stays, of equals the
  first.

  Args:
    offsets: of each sentence's tokens, in the sentence.
  """
  begins = _begins(document.text)
  # Tokens stand in the order of their first characters, and of their last ones.
  firsts, ends = np.concatenate([each + begin for each, begin in zip(offsets, begins[:-1], strict=True)]).T
  flags = np.zeros(len(firsts), np.uint8)
  for kind, spans in document.annotations.items():
    first, end = np.asarray(spans, np.int64).reshape(-1, 2).T
    within = np.searchsorted(begins, first, "right") == np.searchsorted(begins, end, "left")
    first, end = first[within], end[within]
    order = np.lexsort((first, first - end))
    tokens = np.searchsorted(ends, first[order], "right"), np.searchsorted(firsts, end[order], "left")
    flags |= _marked(len(flags), *tokens, ANNOTATIONS[kind])
  return flags if flags.any() else None


def _marked(size: int, first: np.ndarray, end: np.ndarray, flag: int) -> np.ndarray:
  """uint8 [size]: flags of the spans of tokens, of which an earlier one, never a shorter one, goes before a later."""
  flags = np.zeros(size, np.uint8)
  for start, stop in zip(first.tolist(), end.tolist(), strict=True):
    # No earlier one lies inside this one, so they meet, if they do, at one of its ends.
    if start < stop and not (flags[start] or flags[stop - 1]):
      flags[start] = flag
      flags[start + 1 : stop] = 2 * flag
  return flags
