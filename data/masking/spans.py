"""Spans of words: SpanBERT's geometric ones, and annotated entities or noun phrases.

A block is what has a budget of its own: an example, or each segment of one with two segments. Attempt after attempt,
for all blocks that are not done at once, a span is drawn and its tokens masked from the left until the budget is spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from data import draws
from data.masking.budgets import drawn_budgets
from data.masking.counters import ATTEMPT, BLOCK, PER_ATTEMPT
from data.masking.options import ANNOTATION_BITS, Masking
from data.masking.units import Candidates, Words, cut_words, drawn_lengths, length_table
from data.rows import Rows, ragged


@dataclasses.dataclass(frozen=True)
class _Blocks:
  """bounds int64[K + 1] among the candidates; keys uint64[K]; number uint64[K], 0 or 1; budgets int64[K]."""

  bounds: np.ndarray
  keys: np.ndarray
  number: np.ndarray
  budgets: np.ndarray


def span(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """bool[n]: the candidates that random spans of words cover (SpanBERT, section 3.1).

  An attempt draws a length and an anchor, a token of the block; it fails if the anchor is masked. The span begins with
  the anchor's word, ends before the next separator, and may be cut inside a word by the budget.
  """
  blocks, words = _blocks(rows, found, options), _SpanWords.of(rows, found, options)
  return _mask(blocks, len(found.flat), lambda *attempt: words.draw(blocks, *attempt))


def annotated(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """bool[n]: the same, where an attempt takes an annotated span of the block with probability `entity_share`.

  An annotated span that the example cuts off at its front is none there. One that is masked already adds nothing.
  """
  blocks, words = _blocks(rows, found, options), _SpanWords.of(rows, found, options)
  first, end = _annotations(rows, found, ANNOTATION_BITS[options.strategy])
  before = np.searchsorted(first, blocks.bounds)

  def draw(open_: np.ndarray, counters: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start, stop = words.draw(blocks, open_, counters, covered)
    keys, count = blocks.keys[open_], np.diff(before)[open_]
    instead = (count > 0) & (draws.uniform(keys, counters + np.uint64(2)) < options.entity_share)
    which = (before[open_] + draws.below(keys, counters + np.uint64(3), count))[instead]
    start[instead], stop[instead] = first[which], end[which]
    return start, stop

  return _mask(blocks, len(found.flat), draw)


def _mask(blocks: _Blocks, size: int, draw: Callable[..., tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
  """Attempts until every budget is spent.

  Args:
    size: candidates.
    draw: from the numbers of the open blocks, the counters of their attempts and bool[n], what is masked already, to
      (starts, ends) of spans among the candidates.
  """
  covered, left = np.zeros(size, bool), blocks.budgets.copy()
  open_, counters = np.flatnonzero(left > 0), ATTEMPT + blocks.number * BLOCK
  while open_.size:
    start, stop = draw(open_, counters[open_], covered)
    lengths = stop - start
    tokens, owner = ragged(start, lengths), np.repeat(np.arange(len(open_)), lengths)
    total = np.append(0, np.cumsum(~covered[tokens]))
    before = total[np.cumsum(lengths) - lengths]
    taken = total[1:] - before[owner] <= left[open_][owner]
    taken &= ~covered[tokens]
    covered[tokens[taken]] = True
    left[open_] -= np.bincount(owner[taken], minlength=len(open_))
    open_ = open_[left[open_] > 0]
    counters += np.uint64(PER_ATTEMPT)
  return covered


def _blocks(rows: Rows, found: Candidates, options: Masking) -> _Blocks:
  slots = np.repeat(np.arange(found.counts.size), found.counts.reshape(-1))
  types = rows.tokens.types.reshape(-1)[found.flat]
  first = np.flatnonzero((np.diff(slots, prepend=-1) != 0) | (np.diff(types, prepend=0) != 0))
  bounds, slot, number = np.append(first, len(slots)), slots[first], types[first]
  specials = (rows.sizes - rows.pieces).reshape(-1)[slot] - np.append(number[1:], 0)  # the last [SEP] is the second's
  specials = np.where(number > 0, 1, specials)
  keys = found.keys[slot]
  budgets = drawn_budgets(np.diff(bounds) + specials, specials, options, keys, number)
  budgets = np.minimum(budgets, np.diff(bounds))
  second = np.flatnonzero(number)
  budgets[second] = np.minimum(budgets[second], options.max_predictions - budgets[second - 1])
  return _Blocks(bounds, keys, number.astype(np.uint64), budgets)


@dataclasses.dataclass(frozen=True)
class _SpanWords:
  """Words and where random spans of them may lie.

  Attributes:
    words: of the candidates.
    of_candidate: int64[n], the word of each candidate.
    reaches: int64[w], the word behind the last one that a span from each may take in.
    lengths: table of a span's length in words.
  """

  words: Words
  of_candidate: np.ndarray
  reaches: np.ndarray
  lengths: np.ndarray

  @classmethod
  def of(cls, rows: Rows, found: Candidates, options: Masking) -> _SpanWords:
    words = cut_words(rows, found, options)
    of_candidate = np.repeat(np.arange(len(words.sizes)), words.sizes)
    lengths = length_table((1 - options.span_p) ** np.arange(options.max_span))
    return cls(words, of_candidate, words.reaches(False, found), lengths)

  def draw(self, blocks: _Blocks, open_, counters, covered) -> tuple[np.ndarray, np.ndarray]:
    """Random spans (starts, ends) of the open blocks; empty where the anchor is covered."""
    keys, first = blocks.keys[open_], blocks.bounds[open_]
    lengths = drawn_lengths(self.lengths, keys, counters)
    anchor = first + draws.below(keys, counters + np.uint64(1), blocks.bounds[open_ + 1] - first)
    word = self.of_candidate[anchor]
    start = self.words.firsts[word]
    stop = self.words.bounds[np.minimum(word + lengths, self.reaches[word])]
    return start, np.where(covered[anchor], start, stop)


def _annotations(rows: Rows, found: Candidates, bit: int) -> tuple[np.ndarray, np.ndarray]:
  """(starts, ends) of the annotated spans among the candidates."""
  flags = rows.annotations.reshape(-1)[found.flat]
  begins, continues = flags & np.uint8(1 << bit) != 0, flags & np.uint8(2 << bit) != 0
  first = np.flatnonzero(begins)
  breaks = np.flatnonzero(begins | ~continues | found.stretches)
  return first, np.append(breaks, len(flags))[np.searchsorted(breaks, first, side="right")]
