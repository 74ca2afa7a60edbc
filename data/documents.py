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

if TYPE_CHECKING:
  from data.tokenizers import Tokenizer

DOCUMENT_CHARS = 64 << 20
# Reasons that speak of damaged input; the others (redirects, empty documents) are ordinary.
BAD = frozenset(("bad UTF-8", "bad JSON", "no text field", "binary", "over the size limit", "timed out", "bad markup"))
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufeff]")
_BINARY_SHARE = 0.01


class Skipped(Exception):  # noqa: N818  not an error: it carries the reason for the count
  """A document that is left out; the message is the reason it is counted under."""


@dataclasses.dataclass(frozen=True)
class Document:
  """A document as its source gives it.

  `text` is running text (a newline ends a paragraph), or a list of sentences where the source has one a line.
  `namespaces` is set where `text` is wikitext: the site's names of its namespaces.
  """

  id: str
  title: str | None
  text: str | list[str]
  namespaces: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class EncodedDocument:
  """Tokens of one document, without special tokens: ids int32 [n], word_starts bool [n], sentences int32 lengths."""

  id: str
  title: str | None
  ids: np.ndarray
  word_starts: np.ndarray
  sentences: np.ndarray


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

  Args:
    prose: wikitext and the site's names of its namespaces to running text (`wiki.Stripper.prose`).
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
  else:
    found = [line for line in (clean(" ".join(sentence.split())) for sentence in text) if line]
  if not found:
    raise Skipped("empty")
  return dataclasses.replace(document, text=found, namespaces=None)


def encode(document: Document, tokenizer: Tokenizer, min_tokens: int = 1) -> EncodedDocument:
  """Tokens of a document of sentences; sentences without tokens are left out.

  Raises:
    Skipped: "empty" without a token, "too short" below `min_tokens`.
  """
  encodings = [encoding for encoding in tokenizer.encode(document.text) if len(encoding.ids)]
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
  )
