"""What stands in a predicted token's place: the mask, a random token, or the token itself."""

from __future__ import annotations

import dataclasses

import numpy as np

from data import draws
from data.masking.counters import KIND, REPLACEMENT
from data.masking.options import MaskError, Masking

_ORDINARY = 4  # first id of RoBERTa's vocabulary behind <s>, <pad>, </s>, <unk>


@dataclasses.dataclass(frozen=True, eq=False)
class Unigram:
  """The distribution of tokens in a corpus.

  Attributes:
    cumulative: int64[V], occurrences of each id and all below it.
  """

  cumulative: np.ndarray

  @classmethod
  def of(cls, counts: np.ndarray) -> Unigram:
    """From the number of occurrences of each id.

    Raises:
      MaskError: no token occurs at all, or one less than 0 times.
    """
    counts = np.asarray(counts, np.int64)
    if counts.sum() < 1 or counts.min() < 0:
      raise MaskError("unigram table: got no token that occurs, want counts of 0 or more and one above; count again")
    return cls(np.cumsum(counts))

  @property
  def last(self) -> int:
    """The highest id that occurs."""
    return int(np.searchsorted(self.cumulative, self.cumulative[-1]))

  def draw(self, keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """int64: an id for each word of the streams."""
    place = (draws.uniform(keys, counters) * self.cumulative[-1]).astype(np.int64)
    return np.searchsorted(self.cumulative, place, side="right")


def replacements(
  ids: np.ndarray, keys: np.ndarray, positions: np.ndarray, units: np.ndarray, options: Masking,
  mask_id: int, vocab_size: int, unigram: Unigram | None, pad_id: int | None,
) -> np.ndarray:  # fmt: skip
  """int32[n]: what stands in place of n predicted tokens.

  Args:
    ids: the tokens.
    keys: uint64[n], stream of each one's example.
    positions: int[n] in its example.
    units: int[n], position of the first token of its piece, word or span, which share one draw of the kind.
  """
  kind = draws.uniform(keys, units.astype(np.uint64) + KIND)
  instead = np.where(kind < options.mask_share, mask_id, ids)
  random = np.flatnonzero((kind >= options.mask_share) & (kind < options.mask_share + options.random_share))
  counters = positions[random].astype(np.uint64) + REPLACEMENT
  instead[random] = _RANDOM[options.random_tokens](keys[random], counters, vocab_size, unigram, pad_id)
  return instead


def _uniform(keys, counters, vocab_size, unigram, pad_id):
  return draws.below(keys, counters, vocab_size)


def _no_specials(keys, counters, vocab_size, unigram, pad_id):
  return _ORDINARY + draws.below(keys, counters, vocab_size - _ORDINARY)


def _unigram(keys, counters, vocab_size, unigram, pad_id):
  return unigram.draw(keys, counters)


def _above_pad(keys, counters, vocab_size, unigram, pad_id):
  return pad_id + 1 + draws.below(keys, counters, vocab_size - pad_id - 1)


_RANDOM = {"uniform": _uniform, "no_specials": _no_specials, "unigram": _unigram, "above_pad": _above_pad}
