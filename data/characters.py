"""Words as characters, the ids that ELMo's published files have at inference: UTF-8 bytes and five marks.

0 = no word at all, 1 to 256 the bytes plus one, then begin and end of a sentence, begin and end of a word, and what
fills a word up. A word is begin, its first length - 2 bytes, end, filler (Peters et al. 2018, and bilm-tf's and
AllenNLP's files); bilm-tf itself counts one less in training. The filler has a learned embedding like any character.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LENGTH = 50  # of every published model
NO_WORD = 0
FIRST_BYTE = 1
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, FILLER = 257, 258, 259, 260, 261
SIZE = 262


class CharacterError(ValueError):
  """Words that cannot be spelled; one line."""


class Spellings:
  """Words by their characters, each held once in as many numbers as it has bytes.

  `spellings[ids]` is int32 [*ids.shape, length] for int ids of any shape; id -1 is no word at all, zeros. Where
  `boundaries`, the first two words are the begin and the end of a sentence, whatever they are called.
  """

  def __init__(self, words: Sequence[str], length: int = LENGTH, boundaries: bool = False):
    """
    Raises:
      CharacterError: a length without room for a character, or a word that is not valid Unicode.
    """
    if length < 3:
      raise CharacterError(f"characters of a word: got {length}, want at least 3: begin, a character, end")
    self.length = length
    encoded = [_bytes(word, length - 2) for word in words]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    contents = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int16) + FIRST_BYTE
    if boundaries:
      contents = np.append(np.array([BEGIN_SENTENCE, END_SENTENCE], np.int16), contents[sizes[:2].sum() :])
      sizes[:2] = 1
    self._contents, self._ends = contents, np.cumsum(np.append(0, sizes))

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, ids: np.ndarray) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.size and not -1 <= ids.min() <= ids.max() < len(self):
      raise CharacterError(
        f"spelled words: got ids {ids.min()} to {ids.max()}, want -1 to {len(self) - 1}; the ids come from another "
        "vocabulary"
      )
    flat = ids.reshape(-1)
    first, end = self._ends[flat], self._ends[flat + 1]
    size = np.maximum(end - first, 0)[:, None]  # of id -1, from the end of all to the start of all, none
    column = np.arange(self.length) - 1  # of a word's content
    rows = np.full((len(flat), self.length), FILLER, np.int32)
    rows[:, 0] = BEGIN_WORD
    row, place = np.nonzero((column >= 0) & (column < size))
    rows[row, place] = self._contents[first[row] + place - 1]
    np.put_along_axis(rows, size + 1, END_WORD, axis=1)
    rows[flat < 0] = NO_WORD
    return rows.reshape(*ids.shape, self.length)


def _bytes(word: str, most: int) -> bytes:
  try:
    return word.encode()[:most]
  except UnicodeEncodeError as error:
    raise CharacterError(
      f"word {word!r:.60}: got a lone surrogate {word[error.start]!r} at character {error.start}, want valid Unicode; "
      "decode the source with errors='replace'"
    ) from None


def spell(words: Sequence[str], length: int = LENGTH) -> np.ndarray:
  """int32 [n, length]: each word as text, "<S>" too; an empty one is a word of begin and end.

  Raises:
    CharacterError: a word that is not valid Unicode.
  """
  return Spellings(words, length)[np.arange(len(words))]


def boundaries(length: int = LENGTH) -> np.ndarray:
  """int32 [2, length]: the begin and the end of a sentence."""
  return Spellings(("", ""), length, boundaries=True)[np.arange(2)]


BEGIN, END = boundaries()
