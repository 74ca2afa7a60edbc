"""Word starts from the text itself, for tokenizers whose pieces do not show where a word begins.

A word is what stands between white space, as in English or a Korean eojeol; a punctuation mark and a CJK ideograph are
words of their own, as in BERT's own splitting. A text with kana in it is Japanese: its runs of kana and ideographs are
divided by morphological analysis (MeCab with UniDic short-unit words, the extra [japanese]). Chinese has no segmenter
here: its ideographs stay alone.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

import numpy as np

from data.tokenizers import TokenizerError

_SPACE, _ALONE, _INSIDE = range(3)

_IDEOGRAPHS = "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
_IDEOGRAPH = re.compile(f"[{_IDEOGRAPHS}]")
_KANA_RANGES = "\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d"
_KANA = re.compile(f"[{_KANA_RANGES}]")
_MARKS = "\u3005-\u3007\u3097-\u309f\u30fc-\u30ff\uff9e\uff9f"  # iteration, voicing and length marks
_JAPANESE = re.compile(f"[{_IDEOGRAPHS}{_KANA_RANGES}{_MARKS}]+")


def word_starts(text: str, offsets: np.ndarray) -> np.ndarray:
  """Which pieces of a text begin a word.

  Args:
    offsets: int[n, 2], characters of the text; an empty span is a piece that is not in the text ([CLS]).
  Returns:
    bool[n]: the first character of the piece lies in another word than that of the piece before it.
  Raises:
    TokenizerError: where the text is Japanese and the extra [japanese] is not installed.
  """
  starts = np.ones(len(offsets), bool)
  if not text:
    return starts
  outside = offsets[:, 0] == offsets[:, 1]
  words = np.where(outside, -1, _words(text)[np.minimum(offsets[:, 0], len(text) - 1)])
  starts[1:] = (words[1:] != words[:-1]) | outside[1:]
  return starts


def _words(text: str) -> np.ndarray:
  """int64[characters]: the number of the word each character belongs to (white space: of the word before)."""
  kinds = np.fromiter(map(_kind, text), np.int8, len(text))
  runs = list(_JAPANESE.finditer(text)) if _KANA.search(text) else []
  for run in runs:
    kinds[run.start() : run.end()] = _ALONE
  before = np.concatenate([[_SPACE], kinds[:-1]])
  begins = (kinds == _ALONE) | ((kinds == _INSIDE) & (before != _INSIDE))
  for run in runs:
    begins[run.start() : run.end()] = False
    begins[run.start() + _morphemes(run.group())] = True
  return np.cumsum(begins)


@functools.lru_cache(maxsize=1 << 16)
def _kind(char: str) -> int:
  """BERT's classes of characters; those it drops (controls) divide nothing, so they may stand inside words."""
  category = unicodedata.category(char)
  if char in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
    return _SPACE
  ascii_symbol = char.isascii() and category[0] == "S"
  return _ALONE if ascii_symbol or category[0] == "P" or _IDEOGRAPH.match(char) else _INSIDE


def _morphemes(run: str) -> np.ndarray:
  """int64[words]: where the words of a run of kana and ideographs begin."""
  surfaces = _analyser()(run).split()
  if "".join(surfaces) != run:
    raise TokenizerError(
      f"Japanese words of {run[:40]!r}: got {''.join(surfaces)[:40]!r} back from fugashi, want the same characters; "
      "reinstall the extra [japanese], or use words='pieces'"
    )
  return np.cumsum([0, *map(len, surfaces[:-1])])


@functools.lru_cache(maxsize=1)
def _analyser() -> Callable[[str], str]:
  try:
    import fugashi
    import unidic_lite
  except ImportError as error:
    raise TokenizerError(
      f"words='text' on a Japanese text: got no module {error.name!r}, want fugashi and unidic-lite; "
      "run: pip install 'septet[japanese]', or use words='pieces'"
    ) from None
  # The dictionary is named, because fugashi would otherwise prefer a full UniDic and other words with it.
  return fugashi.Tagger(f'-Owakati -r "{unidic_lite.DICDIR}/mecabrc" -d "{unidic_lite.DICDIR}"').parse
