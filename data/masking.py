"""Masking: which tokens of a row are predicted and what stands in their place.

A mask belongs to an example, not to a place in a batch: its stream is keyed by (seed, "mask", pass, example id, epoch),
and every draw is a counter of that stream made from the token's position in its own example. So a packed example has
the mask that it has alone, and rows of a batch of 256 equal 256 batches of one.

Counters of position i: i = rank of the unit that starts there, 2^32 + i = kind of replacement, 2^33 + i = random token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from data import draws
from data.batch import Masked
from data.rows import Rows, ragged

KIND, REPLACEMENT = np.uint64(1 << 32), np.uint64(1 << 33)
_ABSENT = np.uint64(2**64 - 1)
_LOOK = 8  # words looked at together when little of a budget is left


class MaskError(ValueError):
  """A masking option that cannot be."""


@dataclasses.dataclass(frozen=True)
class Masking:
  """How tokens are masked; the defaults are BERT's for rows of 128 tokens.

  Attributes:
    strategy: one of STRATEGIES.
    mask_rate: share of an example's tokens to predict, [CLS] and [SEP] counted.
    max_predictions: the most predictions an example has.
    mask_share, random_share, keep_share: what a predicted token becomes; drawn per piece.
    static_copies: masks an example has over all epochs; 0 = a new one every epoch (RoBERTa's dynamic masking).
    join_across_separators: a continuation piece that begins the second segment joins the last word of the first one
      (original); False: it begins a word of its own.
  """

  strategy: str = "token"
  mask_rate: float = 0.15
  max_predictions: int = 20
  mask_share: float = 0.8
  random_share: float = 0.1
  keep_share: float = 0.1
  static_copies: int = 0
  join_across_separators: bool = True

  def __post_init__(self):
    shares = (self.mask_share, self.random_share, self.keep_share)
    if self.strategy not in STRATEGIES:
      raise MaskError(f"masking option strategy: got {self.strategy!r}, want one of {', '.join(STRATEGIES)}")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
      raise MaskError(f"masking options mask_share, random_share, keep_share: got {shares}, want shares that sum to 1")
    if not 0 < self.mask_rate <= 1:
      raise MaskError(f"masking option mask_rate: got {self.mask_rate}, want a share above 0 and up to 1")
    if self.max_predictions < 1:
      raise MaskError(f"masking option max_predictions: got {self.max_predictions}, want at least 1")
    if self.static_copies < 0:
      raise MaskError(f"masking option static_copies: got {self.static_copies}, want 0 (dynamic) or more")

  def copy_of(self, epoch: int) -> int:
    """The epoch whose masks epoch `epoch` shows (BERT: 10 copies over 40 epochs, so each mask is seen 4 times)."""
    return epoch % self.static_copies if self.static_copies else epoch


def mask_keys(seed: int, pass_: int, example_ids: np.ndarray, epoch: int) -> np.ndarray:
  """uint64 stream of each example's mask, by the example's id in its pass: never by its place in the shuffled order."""
  return draws.fold(draws.fold(draws.key(seed, "mask", pass_), example_ids), epoch)


def budgets(sizes: np.ndarray, options: Masking) -> np.ndarray:
  """int64: k = min(max_predictions, max(1, round(rate * size))), half to even; sizes count [CLS] and [SEP]; 0 for 0."""
  wanted = np.maximum(np.rint(options.mask_rate * np.asarray(sizes)).astype(np.int64), 1)
  return np.where(np.asarray(sizes) > 0, np.minimum(wanted, options.max_predictions), 0)


@functools.lru_cache
def predictions_per_row(length: int, per_row: int, options: Masking) -> int:
  """P, the prediction slots of a row.

  An example alone in its row has `max_predictions` slots, as published. Packed rows have the most that any examples of
  theirs can need together (a small dynamic programme over lengths), at most `per_row * max_predictions`.
  """
  if per_row == 1:
    return options.max_predictions
  one = budgets(np.arange(length + 1), options)
  one[:3] = 0  # [CLS] token [SEP] is the shortest example
  best = one
  for _ in range(per_row - 1):
    best = np.array([(one[: n + 1] + best[n::-1]).max() for n in range(length + 1)])
  return int(best[-1])


def mask(rows: Rows, options: Masking, keys: np.ndarray, mask_id: int, vocab_size: int) -> Masked:
  """Masks rows.

  Args:
    rows: assembled rows.
    options: what to mask.
    keys: uint64[B, S], the stream of each example (`mask_keys`); anything where there is none.
    mask_id: id of [MASK].
    vocab_size: random tokens are uniform over the whole vocabulary, special tokens included, as in BERT.
  Returns:
    A batch whose predictions stand in order of columns, slots of weight 0 behind them.
  """
  flat, slots = STRATEGIES[options.strategy](rows, keys.reshape(-1), options)
  ids, positions = rows.tokens.ids.reshape(-1)[flat], rows.tokens.positions.reshape(-1)[flat].astype(np.uint64)
  streams = keys.reshape(-1)[slots]
  kind = draws.uniform(streams, positions + KIND)
  drawn = draws.below(streams, positions + REPLACEMENT, vocab_size)
  instead = np.where(kind < options.mask_share, mask_id, ids)
  instead = np.where((kind >= options.mask_share) & (kind < options.mask_share + options.random_share), drawn, instead)
  size, length = rows.tokens.ids.shape
  width = predictions_per_row(length, rows.examples.shape[1], options)
  row = flat // length
  counts = np.bincount(row, minlength=size)
  place = row * width + ragged(np.zeros(size, np.int64), counts)
  columns = [_scatter(place, values, (size, width)) for values in (flat - row * length, instead, ids)]
  weights = (np.arange(width) < counts[:, None]).astype(np.float32)
  return Masked(rows.tokens, *columns, weights, pair=rows.pair)


def _scatter(place: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  out = np.zeros(shape, np.int32)
  out.reshape(-1)[place] = values
  return out


# --- strategies: (rows, flat keys, options) -> flat columns to predict, ascending, and the flat slot of each ---------


def _token(rows: Rows, keys: np.ndarray, options: Masking) -> tuple[np.ndarray, np.ndarray]:
  """BERT: the k candidates of lowest rank."""
  flat, pieces = np.flatnonzero(rows.candidates), rows.pieces.reshape(-1)
  ranked = _rank(keys, rows.tokens.positions.reshape(-1)[flat], rows.pieces)
  taken = np.minimum(budgets(rows.sizes, options).reshape(-1), pieces)
  chosen = np.zeros(len(flat), bool)
  chosen[ranked.units(ragged(ranked.starts, taken), np.repeat(ranked.firsts, taken))] = True
  return flat[np.flatnonzero(chosen)], np.repeat(np.arange(len(pieces)), taken)


def _whole_word(rows: Rows, keys: np.ndarray, options: Masking) -> tuple[np.ndarray, np.ndarray]:
  """BERT's whole-word masking: words by rank; one that does not fit what is left of k is passed over."""
  flat, bounds = np.flatnonzero(rows.candidates), np.append(0, np.cumsum(rows.pieces))
  first = np.flatnonzero(_begins_word(rows, flat, options))
  sizes, words = np.diff(first, append=len(flat)), np.diff(np.searchsorted(first, bounds))
  ranked = _rank(keys, rows.tokens.positions.reshape(-1)[flat[first]], words.reshape(rows.pieces.shape))
  chosen = np.zeros(len(first), bool)
  chosen[_fill(ranked, sizes, words, budgets(rows.sizes, options).reshape(-1))] = True
  pieces = np.flatnonzero(np.repeat(chosen, sizes))
  return flat[pieces], np.repeat(np.arange(rows.pieces.size), np.diff(np.searchsorted(pieces, bounds)))


STRATEGIES: dict[str, Callable[[Rows, np.ndarray, Masking], tuple[np.ndarray, np.ndarray]]] = {
  "token": _token,
  "whole_word": _whole_word,
}


def _begins_word(rows: Rows, flat: np.ndarray, options: Masking) -> np.ndarray:
  begins = rows.word_starts.reshape(-1)[flat]
  pieces = rows.pieces.reshape(-1)
  begins[(np.cumsum(pieces) - pieces)[pieces > 0]] = True  # an example's first candidate
  if not options.join_across_separators:
    begins |= np.diff(flat, prepend=-1) > 1
  return begins


@dataclasses.dataclass(frozen=True)
class _Ranked:
  """Units (tokens or words) of each example in order of rank; slots are flat (row * S + slot).

  Attributes:
    table: uint64, flat; the low 16 bits are a unit's number in its example.
    starts: int64[B * S], where each example begins in the table.
    firsts: int64[B * S], number of each example's first unit among all units.
  """

  table: np.ndarray
  starts: np.ndarray
  firsts: np.ndarray

  def units(self, places: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Numbers among all units of what stands at `places` of the table, given the first unit of their examples."""
    return (self.table[places] & np.uint64(0xFFFF)).astype(np.int64) + firsts


def _rank(keys: np.ndarray, positions: np.ndarray, units: np.ndarray) -> _Ranked:
  """Ranks units by the top 40 bits of their words, ties by position.

  Args:
    keys: uint64[B * S], streams of the examples.
    positions: int[n], position of each unit's first token in its example, example after example.
    units: int64[B, S], units of each example.
  """
  size, per_row = units.shape
  flat, in_row = units.reshape(-1), units.sum(axis=1)
  firsts, width = np.cumsum(flat) - flat, int(in_row.max(initial=1))
  order = draws.words(np.repeat(keys, flat), positions)
  order >>= np.uint64(24)
  order <<= np.uint64(16)
  slot = np.tile(np.arange(per_row, dtype=np.uint64) << np.uint64(56), size)  # examples of a row one after another
  order += np.arange(len(order), dtype=np.uint64)
  order += np.repeat(slot - firsts.astype(np.uint64), flat)  # wraps round: number in the example, and the slot on top
  table = np.full((size, width), _ABSENT, np.uint64)
  table[np.arange(width) < in_row[:, None]] = order
  table.sort(axis=1)
  starts = np.cumsum(units, axis=1) - units + np.arange(size)[:, None] * width
  return _Ranked(table.reshape(-1), starts.reshape(-1), firsts)


def _fill(ranked: _Ranked, sizes: np.ndarray, words: np.ndarray, budget: np.ndarray) -> np.ndarray:
  """Numbers of the words that fill each example's budget in order of rank.

  Words are taken while they fit; from the first that does not, the little that is left (less than a word) is filled by
  searching on, for all examples at once.
  """
  looked = np.minimum(budget, words)  # a word has a piece or more, so no more words than that can fit
  owner, first = np.repeat(np.arange(len(looked)), looked), np.cumsum(looked) - looked
  units = ranked.units(ragged(ranked.starts, looked), ranked.firsts[owner])
  total = np.append(0, np.cumsum(sizes[units]))
  fits = total[1:] - total[first][owner] <= budget[owner]
  count = np.bincount(owner[fits], minlength=len(looked))
  left = budget - (total[first + count] - total[first])
  open_ = np.flatnonzero((left > 0) & (count < words))
  parts, at, left = [units[fits]], count[open_] + 1, left[open_]  # the word at `count` did not fit
  while open_.size:
    found, at = _next_fit(ranked, sizes, words, open_, at, left)
    open_, at, left = open_[found], at[found], left[found]
    taken = ranked.units(ranked.starts[open_] + at, ranked.firsts[open_])
    parts.append(taken)
    at, left = at + 1, left - sizes[taken]
    open_, at, left = open_[left > 0], at[left > 0], left[left > 0]
  return np.concatenate(parts)


def _next_fit(ranked, sizes, words, open_, at, left):
  """For each open example the next word of `left` pieces or fewer from rank `at` on: (is there one, its rank)."""
  found, answer = np.zeros(len(open_), bool), at.copy()
  waiting = np.arange(len(open_))
  while (waiting := waiting[answer[waiting] < words[open_[waiting]]]).size:
    slot = open_[waiting][:, None]
    rank = answer[waiting][:, None] + np.arange(_LOOK)
    inside = rank < words[slot]
    units = ranked.units(ranked.starts[slot] + np.where(inside, rank, 0), ranked.firsts[slot])
    fits = inside & (sizes[units] <= left[waiting][:, None])
    here = fits.any(axis=1)
    answer[waiting] += np.where(here, fits.argmax(axis=1), _LOOK)
    found[waiting[here]] = True
    waiting = waiting[~here]
  return found, answer
