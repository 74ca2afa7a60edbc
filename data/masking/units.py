"""Candidates, the words they form, and their order of rank."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from data import draws
from data.masking.options import Masking
from data.rows import Rows

_ABSENT = np.uint64(2**64 - 1)


@dataclasses.dataclass(frozen=True)
class Candidates:
  """The n columns that may be predicted, example after example; slots are flat (row * S + slot).

  Attributes:
    flat: int64[n], flat columns (row * L + column).
    positions: int32[n], positions in the example.
    counts: int64[B, S], candidates of each example.
    keys: uint64[B * S], streams of the examples.
    taken: int64[B * S], what each example has to predict already, out of its budget (0 = nothing anywhere).
  """

  flat: np.ndarray
  positions: np.ndarray
  counts: np.ndarray
  keys: np.ndarray
  taken: np.ndarray | int = 0

  @functools.cached_property
  def bounds(self) -> np.ndarray:
    """int64[B * S + 1]: candidates bounds[s] to bounds[s + 1] are those of slot s."""
    return np.append(0, np.cumsum(self.counts))

  @functools.cached_property
  def stretches(self) -> np.ndarray:
    """bool[n]: whether no candidate stands in the column before."""
    return np.diff(self.flat, prepend=-2) > 1


def candidates(rows: Rows, keys: np.ndarray, options: Masking) -> Candidates:
  """The candidates of rows, given the uint64[B, S] streams of their examples."""
  able, counts = (rows.tokens.segments > 0, rows.sizes) if options.mask_specials else (rows.candidates, rows.pieces)
  flat = np.flatnonzero(able)
  return Candidates(flat, rows.tokens.positions.reshape(-1)[flat], counts, keys.reshape(-1))


def without(rows: Rows, found: Candidates, covered: np.ndarray, options: Masking) -> tuple[Candidates, np.ndarray]:
  """The candidates but for `covered` ones (bool[n]), which count as taken, and for words with such a one in them.

  Returns:
    The rest, and their numbers among all.
  """
  gone, slots = covered, np.repeat(np.arange(found.counts.size), found.counts.reshape(-1))
  if options.strategy == "whole_word":
    word = np.cumsum(begins_word(rows, found, options)) - 1
    gone = np.bincount(word, covered)[word] > 0
  left = np.flatnonzero(~gone)
  counts, taken = (np.bincount(slots[which], minlength=found.counts.size) for which in (left, covered))
  return Candidates(
    found.flat[left], found.positions[left], counts.reshape(found.counts.shape), found.keys, taken
  ), left


@dataclasses.dataclass(frozen=True)
class Words:
  """The w words of the candidates.

  Attributes:
    firsts: int64[w], number of each word's first candidate.
    sizes: int64[w], candidates of each.
    counts: int64[B, S], words of each example.
  """

  firsts: np.ndarray
  sizes: np.ndarray
  counts: np.ndarray

  @functools.cached_property
  def bounds(self) -> np.ndarray:
    """int64[w + 1]: candidates bounds[i] to bounds[i + 1] are those of word i."""
    return np.append(self.firsts, self.firsts[-1:] + self.sizes[-1:])

  def reaches(self, joined: bool, found: Candidates) -> np.ndarray:
    """int64[w]: the word behind the last one that a run of words from each may take in.

    A run ends with its example or, unless `joined`, before a separator.
    """
    if joined:
      ends = np.cumsum(self.counts)
      return np.repeat(ends, self.counts.reshape(-1))
    first = np.flatnonzero(found.stretches[self.firsts])
    return np.repeat(np.append(first[1:], len(self.firsts)), np.diff(first, append=len(self.firsts)))


def begins_word(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """bool[n]: whether a candidate is the first one of its word.

  Special tokens, where they are candidates, are words of their own. What follows another special token joins the word
  before it if it is a continuation piece and `options.joins`.
  """
  begins = rows.word_starts.reshape(-1)[found.flat]
  begins[found.bounds[:-1][found.counts.reshape(-1) > 0]] = True  # an example's first candidate
  if options.mask_specials:
    special = ~rows.candidates.reshape(-1)[found.flat]
    begins |= special
    begins[1:] |= special[:-1]
  if not options.joins:
    begins |= found.stretches
  return begins


def cut_words(rows: Rows, found: Candidates, options: Masking) -> Words:
  """The words of the candidates."""
  firsts = np.flatnonzero(begins_word(rows, found, options))
  counts = np.diff(np.searchsorted(firsts, found.bounds)).reshape(found.counts.shape)
  return Words(firsts, np.diff(firsts, append=len(found.flat)), counts)


def length_table(weights: np.ndarray) -> np.ndarray:
  """For `drawn_lengths`, from the weights of lengths 1, 2, ...: the probability of each length or a shorter one."""
  return np.cumsum(weights / np.sum(weights))[:-1]


def drawn_lengths(table: np.ndarray, keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
  """int64: a length for each word of the streams."""
  return 1 + np.searchsorted(table, draws.uniform(keys, counters), side="right")


@dataclasses.dataclass(frozen=True)
class Ranked:
  """Units (tokens or words) of each example in order of rank.

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


def rank(keys: np.ndarray, positions: np.ndarray, units: np.ndarray) -> Ranked:
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
  return Ranked(table.reshape(-1), starts.reshape(-1), firsts)
