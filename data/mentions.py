"""Sentences with links -> tokens with mentions.

As LUKE's pretraining data are made: the text before a link, the link, and the text behind it are encoded apart, so that
no piece lies across the edge of a mention. White space is collapsed. A part stands behind a space if it begins its
sentence, or if a space stands there: byte-level BPE then has " word" for it, SentencePiece "▁word". Any other part goes
on in the middle of what stands before it ("(" before a link) and has the pieces of the middle of a line. (In the
original a sentence that follows another one without a space, as in Japanese, has none before it; here each has.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.documents import Document, EncodedDocument, Skipped, annotation_flags
from data.tokenizers.backend import text_starts

if TYPE_CHECKING:
  from data.tokenizers import Encoding, Tokenizer

Link = tuple[int, int, str]  # first character, one past the last, title
Lookup = Callable[[str], int | None]


class MentionError(ValueError):
  """Links that cannot be: outside their sentence, out of order, or over one another; one line."""


class _Part(NamedTuple):
  """sentence[first:end], encoded by itself; `entity` is the id of the link that it is, -1 for text between links."""

  first: int
  end: int
  entity: int


class _Sentence(NamedTuple):
  """A sentence without runs of white space; `source` are the places of its characters, and its end, as given."""

  text: str
  source: np.ndarray | None  # None = as they stand here
  parts: list[_Part]


def encode_linked(document: Document, tokenizer: Tokenizer, lookup: Lookup, min_tokens: int = 1) -> EncodedDocument:
  """Tokens of a document of sentences, and the mentions that its links are.

  Args:
    document: `text` and `links` by sentence; without `links` it has no mentions.
    lookup: title of a link -> id of its entity; None drops the link, and its words are text like any other.
  Returns:
    Sentences without tokens are left out, and so are links without one. `mentions` is never None.
  Raises:
    Skipped: "empty" without a token, "too short" below `min_tokens`.
    MentionError: a link that is not inside its sentence, or not behind the link before it.
  """
  links = document.links or [[]] * len(document.text)
  sentences = [_sentence(document.id, *each, lookup) for each in zip(document.text, links, strict=True)]
  encodings, places = _encodings(sentences, tokenizer)
  sizes = np.array([*map(len, encodings)], np.int64)
  lengths = np.bincount(np.repeat(np.arange(len(sentences)), [len(s.parts) for s in sentences]), sizes, len(sentences))
  if not lengths.any():
    raise Skipped("empty")
  if lengths.sum() < min_tokens:
    raise Skipped("too short")
  ids, offsets, starts = (np.concatenate(arrays) for arrays in zip(*map(_arrays, encodings), strict=True))
  offsets = np.maximum(offsets + np.repeat(places, sizes)[:, None], 0)
  offsets = np.split(offsets, np.cumsum(lengths)[:-1].astype(np.int64))
  if tokenizer.settings.words == "text":
    texts = (sentence.text for sentence in sentences)
    starts = np.concatenate([text_starts(text, own[:, 0] == own[:, 1], own) for text, own in zip(texts, offsets)])
  ends, entities = np.cumsum(sizes), np.array([part.entity for sentence in sentences for part in sentence.parts])
  mentions = np.stack([ends - sizes, ends, entities], axis=1)[(entities >= 0) & (sizes > 0)].astype(np.int32)
  flags = None
  if document.annotations:
    given = [own if s.source is None else s.source[own] for s, own in zip(sentences, offsets, strict=True)]
    flags = annotation_flags(document, given)
  return EncodedDocument(
    document.id, document.title, ids.astype(np.int32, copy=False), starts.astype(bool, copy=False),
    lengths[lengths > 0].astype(np.int32), flags, mentions,
  )  # fmt: skip


def _arrays(encoding: Encoding) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  return encoding.ids, encoding.offsets, encoding.word_starts


def _sentence(document: str, text: str, links: list[Link], lookup: Lookup) -> _Sentence:
  """A sentence in parts; links without an entity are text."""
  reached, known = 0, []
  for first, end, title in links:
    if not reached <= first < end <= len(text):
      raise MentionError(
        f"document {document!r}: link to {title!r}: got characters {first} to {end}, want them behind {reached}, where "
        f"the link before ends, and in their sentence of {len(text)} characters; mend the links"
      )
    reached = end
    if (entity := lookup(title)) is not None:
      known.append(_Part(first, end, entity))
  if text == " ".join(text.split()):
    return _Sentence(text, None, [*_parts(text, known)])
  kept = [i for i, char in enumerate(text) if not (char.isspace() and (i == 0 or text[i - 1].isspace()))]
  source = np.array([*kept, len(text)])
  spaced = "".join(" " if text[i].isspace() else text[i] for i in kept)
  known = [_Part(*np.searchsorted(source, (first, end)).tolist(), entity) for first, end, entity in known]
  return _Sentence(spaced, source, [*_parts(spaced, known)])


def _parts(text: str, links: list[_Part]) -> Iterator[_Part]:
  """The links and the text before, between and behind them, but for parts of white space alone."""
  at = 0
  for link in (*links, _Part(len(text), len(text), -1)):
    for part in (_Part(at, link.first, -1), link):
      if not text[part.first : part.end].isspace() and part.first < part.end:
        yield part
    at = link.end


def _encodings(sentences: list[_Sentence], tokenizer: Tokenizer) -> tuple[list[Encoding], list[int]]:
  """An encoding of each part, and the place in its sentence that its offsets count from.

  The tokenizer is called once for all parts behind a space and once for all others.
  """
  texts: dict[bool, list[str]] = {True: [], False: []}
  kinds, places = [], []
  for sentence in sentences:
    for first, end, _ in sentence.parts:
      text = sentence.text[first:end]
      spaced = first == 0 or text[0] == " " or sentence.text[first - 1] == " "
      texts[spaced].append(f" {text.strip()}" if spaced else text.rstrip())
      kinds.append(spaced)
      places.append(first - (spaced and text[0] != " "))
  encoded = {True: iter(tokenizer.encode(texts[True])), False: iter(tokenizer.encode_inside(texts[False]))}
  return [next(encoded[spaced]) for spaced in kinds], places
