"""Sentence splitting, by the rules of sentencex (the splitter of Wikimedia's translation tools)."""

from __future__ import annotations

import itertools
import re

import sentencex

_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)*")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")
# Written without spaces between words: joining hard-wrapped lines adds none.
UNSPACED = frozenset(("ja", "zh", "yue", "th", "lo", "km", "my", "bo"))


class LanguageError(ValueError):
  """Something that is no language code."""


def check_language(language: str) -> str:
  """Returns `language` if it has the form of an ISO 639 code ("en", "ko", "zh-hans")."""
  if not _CODE.fullmatch(language):
    raise LanguageError(f"language: got {language!r}, want an ISO 639 code in lower case such as en, ko or ja")
  return language


def split(text: str, language: str) -> list[str]:
  """Sentences of `text`, stripped, without empty ones. A newline ends a sentence: it separates paragraphs.

  Languages that sentencex has no rules for fall back on its rules for a related language, in the end English.
  """
  pieces = (piece.strip() for line in text.split("\n") if line.strip() for piece in _segments(line, language))
  return [piece for piece in pieces if piece]


def _segments(line: str, language: str) -> list[str]:
  """Parts of a line that together are the line."""
  try:
    return sentencex.segment(language, line)
  except BaseException as error:  # what Rust panics raise is no Exception, and no package has it to import
    if type(error).__name__ != "PanicException":
      raise
  # sentencex 1.0 panics at a capital, a space outside ASCII and a full stop: "plan B\u00a0."
  ends = itertools.accumulate(map(len, sentencex.segment(language, _WIDE_SPACE.sub(" ", line))), initial=0)
  return [line[first:end] for first, end in itertools.pairwise(ends)]
