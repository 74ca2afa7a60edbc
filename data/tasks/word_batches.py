"""Rows of words as batches: each distinct word of a batch is spelled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from data.batch import LabelledWords, validate
from data.characters import LENGTH, Spellings
from data.tasks.batches import WIDTHS, Placed, rounded
from data.tasks.rows import WordRow
from data.word_vectors import NO_WORD, WordVocabulary

WORD_WIDTHS = (16, *WIDTHS)
_BOUNDARIES = ("<S>", "</S>")  # the first two words of a batch; a text's own words of these names are text


@dataclasses.dataclass(frozen=True)
class WordShape:
  """What fixes the shape of a task's batches besides the examples in one of them.

  Attributes:
    vectors: the words of the table of word vectors.
    multiple: rows of a batch are a multiple of this (micro-batches times devices).
    spellings_length: C, characters of a word.
  """

  vectors: WordVocabulary
  multiple: int = 1
  spellings_length: int = LENGTH
  by_length: ClassVar[bool] = True

  def collate(self, rows: Sequence[WordRow]) -> Placed:
    """One batch, a row of it each; L is the first of WORD_WIDTHS that the longest sentence fits, U `spelled_words`."""
    wanted = self.multiple * rounded(-(-len(rows) // self.multiple))
    longest = max(map(len, rows))
    width = next((width for width in WORD_WIDTHS if width >= longest), rounded(longest))
    found: dict[str, int] = {}
    index = np.zeros((wanted, max(len(row.sentences) for row in rows), width), np.int32)
    lengths = np.zeros(index.shape[:2], np.int32)
    counts = np.array([len(row.labels) for row in rows])
    tags = isinstance(rows[0].window, np.ndarray)  # a label a word; others have a few
    labels = np.zeros((wanted, width - 2 if tags else max(counts)), np.int32)
    weights = np.zeros(labels.shape, np.float32)
    several = None if rows[0].several is None else np.zeros((*labels.shape, 1), np.float32)
    for i, row in enumerate(rows):
      labels[i, : counts[i]], weights[i, : counts[i]] = row.labels, row.weights
      if several is not None:
        several[i, : counts[i]] = row.several
      for a, sentence in enumerate(row.sentences):
        size = lengths[i, a] = len(sentence) + 2
        index[i, a, 1 : size - 1] = [found.setdefault(word, len(found) + len(_BOUNDARIES)) for word in sentence]
        index[i, a, size - 1] = 1
    ids = np.array([NO_WORD, NO_WORD, *map(self.vectors.id_of, found)], np.int32)
    batch = LabelledWords(self._spelled(list(found)), index, lengths, ids[index], labels, weights, several)
    validate(batch)
    return _placed(batch, len(rows), counts)

  def _spelled(self, words: list[str]) -> np.ndarray:
    """int32 [1, U, C]: the boundaries, the words, and what fills up to one of a few sizes."""
    spellings = Spellings([*_BOUNDARIES, *words], self.spellings_length, boundaries=True)
    table = np.full(spelled_words(len(spellings)), -1)
    table[: len(spellings)] = np.arange(len(spellings))
    return spellings[table][None]


def spelled_words(number: int) -> int:
  """U: the first of 64, 96, 128, 192, 256, 384 ... that is at least `number`.

  Nearly every batch has a number of its own, and each size is a program to compile: few sizes cost less than the words
  that fill them up.
  """
  power = 1 << max(7, (number - 1).bit_length())
  return next(size for size in (power // 2, power * 3 // 4, power) if size >= number)


def _placed(batch: LabelledWords, count: int, counts: np.ndarray) -> Placed:
  rows = np.full((len(batch.labels), 1), -1, np.int32)
  rows[:count, 0] = np.arange(count)
  first = np.zeros(rows.shape, np.int64)
  return Placed(batch, rows, first, first, batch.lengths[:count, 0].astype(np.int64), counts)
