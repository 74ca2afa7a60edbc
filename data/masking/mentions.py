"""Masked mentions of entities (LUKE, section 3.3): which are predicted, and the arrays that a model reads them from."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from data.batch import Entities, Masked, MaskedEntities
from data.masking.apply import Covered
from data.masking.budgets import most_in_row
from data.masking.counters import MENTION
from data.masking.options import MaskError, Masking
from data.masking.units import rank
from data.rows import Mentions, Rows, ragged


@dataclasses.dataclass(frozen=True)
class EntitySettings:
  """How mentions are masked; the defaults are LUKE's.

  Attributes:
    mask, pad: ids of [MASK] and [PAD] among the entities; a file of entities says them.
    rate: share of an example's mentions that are predicted: round(rate * mentions), half to even, at least 1 of any.
      All of them become [MASK]; one whose entity is [UNK] is predicted like any other.
    max_mention: M, tokens of a mention that its place is made of; what it has beyond them is left out of it.
    mask_words: the words of a predicted mention (the first M tokens) are predicted too, ahead of all others and out of
      their budget, with one draw of what stands instead for each mention.
  """

  mask: int
  pad: int
  rate: float = 0.15
  max_mention: int = 30
  mask_words: bool = False

  def __post_init__(self):
    if not 0 < self.rate <= 1:
      raise MaskError(f"masking option rate of entities: got {self.rate}, want a share above 0 and up to 1")
    if self.max_mention < 1:
      raise MaskError(f"masking option max_mention: got {self.max_mention}, want at least 1 token")
    if self.mask == self.pad or min(self.mask, self.pad) < 0:
      raise MaskError(
        f"masking of entities: got [MASK] as {self.mask} and [PAD] as {self.pad}, want two ids; use the vocabulary's"
      )

  def check(self, masking: Masking) -> None:
    """Holds the settings against those of words.

    Raises:
      MaskError: `mask_words` with a strategy that has no room for it.
    """
    counted = masking.budget != "stochastic" and not masking.mask_specials
    if self.mask_words and not (masking.strategy in ("token", "whole_word") and counted):
      raise MaskError(
        f"masking option mask_words: got strategy={masking.strategy!r}, budget={masking.budget!r}, "
        f"mask_specials={masking.mask_specials}, want token or whole_word, another budget than stochastic, and "
        "mask_specials=False; set mask_words=False"
      )


def mention_budgets(counts: np.ndarray, rate: float) -> np.ndarray:
  """int64: mentions predicted of `counts` ones; 0 of 0."""
  counts = np.asarray(counts)
  return np.where(counts > 0, np.maximum(np.rint(rate * counts), 1), 0).astype(np.int64)


@functools.lru_cache
def masked_per_row(max_entities: int, per_row: int, rate: float) -> int:
  """J, the slots for predicted mentions of a row with up to `max_entities` mentions in `per_row` examples."""
  return most_in_row(mention_budgets(np.arange(max_entities + 1), rate), per_row)


def choose_mentions(rows: Rows, keys: np.ndarray, rate: float) -> np.ndarray:
  """int64: numbers of the mentions that are predicted, ascending; of each example those of lowest rank.

  Args:
    keys: uint64[B, S], the stream of each example.
  """
  mentions, size = rows.mentions, rows.examples.size
  counts = np.bincount(mentions.slots, minlength=size)
  positions = rows.tokens.positions.reshape(-1)[mentions.firsts].astype(np.uint64)
  ranked = rank(keys.reshape(-1), MENTION + positions, counts.reshape(rows.examples.shape))
  taken = mention_budgets(counts, rate)
  return np.sort(ranked.units(ragged(ranked.starts, taken), np.repeat(ranked.firsts, taken)))


def covered(rows: Rows, chosen: np.ndarray, settings: EntitySettings, most: int) -> Covered:
  """The words of the chosen mentions, as far as an example's first ones have up to `most` tokens in all."""
  mentions = rows.mentions
  firsts, slots = mentions.firsts[chosen], mentions.slots[chosen]
  sizes = np.minimum(mentions.ends[chosen] - firsts, settings.max_mention)
  total = np.cumsum(sizes)
  before = total - sizes
  fits = total - before[np.searchsorted(slots, slots)] <= most
  firsts, sizes = firsts[fits], sizes[fits]
  return Covered(ragged(firsts, sizes), np.repeat(rows.tokens.positions.reshape(-1)[firsts], sizes))


def masked_entities(
  rows: Rows, words: Masked, chosen: np.ndarray, settings: EntitySettings, max_entities: int
) -> MaskedEntities:
  """The batch of masked words and of mentions, the `chosen` of which are predicted.

  Args:
    max_entities: E; no row has more mentions.
  Returns:
    Mentions stand in order; predictions too, slots of weight 0 behind them.
  """
  mentions, (size, length) = rows.mentions, rows.tokens.ids.shape
  row = mentions.slots // rows.examples.shape[1]
  counts = np.bincount(row, minlength=size)
  slot = ragged(np.zeros(size, np.int64), counts)
  ids = np.full((size, max_entities), settings.pad, np.int32)
  positions = np.full((size, max_entities, settings.max_mention), -1, np.int32)
  segments = np.zeros((size, max_entities), np.int32)
  given = mentions.entities.copy()
  given[chosen] = settings.mask
  ids[row, slot], segments[row, slot] = given, rows.tokens.segments.reshape(-1)[mentions.firsts]
  positions[row, slot] = _columns(mentions, row * length, settings.max_mention)
  width = masked_per_row(max_entities, rows.examples.shape[1], settings.rate)
  predicted = np.bincount(row[chosen], minlength=size)
  place = (row[chosen], ragged(np.zeros(size, np.int64), predicted))
  slots, labels = np.zeros((2, size, width), np.int32)
  slots[place], labels[place] = slot[chosen], mentions.entities[chosen]
  weights = (np.arange(width) < predicted[:, None]).astype(np.float32)
  return MaskedEntities(words, Entities(ids, positions, segments), slots, labels, weights)


def _columns(mentions: Mentions, begins: np.ndarray, most: int) -> np.ndarray:
  """int64[n, most]: columns of each mention's tokens in its row, -1 behind the last."""
  columns = (mentions.firsts - begins)[:, None] + np.arange(most)
  return np.where(columns < (mentions.ends - begins)[:, None], columns, -1)
