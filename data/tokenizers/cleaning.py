"""ALBERT's cleaning of text, with the way back to the characters that were given."""

from __future__ import annotations

import functools
import re
import unicodedata

import numpy as np


def clean(text: str, lowercase: bool, keep_accents: bool) -> tuple[str, np.ndarray]:
  """ALBERT's cleaning: white space to single spaces, `` and '' to ", accents off (with NFKD), lower case.

  Returns:
    The clean text of n characters, and int64[n, 2]: the span of each in the text as given.
  """
  cleaned = " ".join(text.split())
  kept = np.arange(len(text)) if cleaned == text else np.flatnonzero(_kept(text))
  spans = np.stack([kept, kept + 1], axis=1)
  quotes = [quote.start() for quote in re.finditer("``|''", cleaned)]
  if quotes:
    cleaned = re.sub("``|''", '"', cleaned)
    spans[quotes, 1] = spans[np.add(quotes, 1), 1]
    spans = np.delete(spans, np.add(quotes, 1), axis=0)
  if not (keep_accents or cleaned.isascii()):
    parts = [*map(_without_accents, cleaned)]
    cleaned, spans = "".join(parts), np.repeat(spans, [*map(len, parts)], axis=0)
  if lowercase:
    lower = cleaned.lower()
    if len(lower) != len(cleaned):
      spans = np.repeat(spans, [len(char.lower()) for char in cleaned], axis=0)
    cleaned = lower
  return cleaned, spans


def _kept(text: str) -> np.ndarray:
  """bool[characters]: all but white space, of which the last character before each further word stays."""
  space = np.fromiter(map(str.isspace, text), bool, len(text))
  kept = ~space
  kept[:-1] |= space[:-1] & ~space[1:]
  kept[: np.argmin(space)] = False  # before the first word
  return kept if not space.all() else ~space


@functools.lru_cache(maxsize=1 << 16)
def _without_accents(char: str) -> str:
  """NFKD without combining marks; these are all that NFKD moves in a text, so characters can be taken one by one."""
  return "".join(part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part))


def in_source(cleaned: str, spans: np.ndarray, source: np.ndarray) -> np.ndarray:
  """Spans in the text as given, from spans in the clean text, without white space at their ends.

  A span of white space alone, and an empty one, become that of the next character: of the word that "▁" begins.

  Args:
    spans: int64[n, 2].
    source: int64[len(cleaned), 2].
  """
  if not len(source):
    return spans
  n = len(cleaned)
  space = np.fromiter(map(str.isspace, cleaned), bool, n)
  here = np.arange(n)
  after = np.append(np.minimum.accumulate(np.where(space, n, here)[::-1])[::-1], n)  # of the next character of a word
  before = np.append(0, np.maximum.accumulate(np.where(space, 0, here + 1)))  # one past the last one
  first = np.minimum(after[spans[:, 0]], n - 1)
  last = np.maximum(before[spans[:, 1]], first + 1)
  return np.stack([source[first, 0], source[last - 1, 1]], axis=1)
