"""Masked batches from rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data import draws
from data.batch import Masked
from data.masking import spans, words
from data.masking.budgets import predictions_per_row
from data.masking.options import MaskError, Masking
from data.masking.replacement import Unigram, replacements
from data.masking.units import Candidates, begins_word, candidates, without
from data.rows import Rows, ragged

_CHOOSE: dict[str, Callable[[Rows, Candidates, Masking], np.ndarray]] = {
  "token": words.token,
  "whole_word": words.whole_word,
  "ngram": words.ngram,
  "span": spans.span,
  "entity": spans.annotated,
  "noun_phrase": spans.annotated,
}


def mask_keys(seed: int, pass_: int, example_ids: np.ndarray, epoch: int) -> np.ndarray:
  """uint64 stream of each example's mask, by the example's id in its pass: never by its place in the shuffled order."""
  return draws.fold(draws.fold(draws.key(seed, "mask", pass_), example_ids), epoch)


class Covered(NamedTuple):
  """What is to be predicted whatever is drawn.

  columns: int64[k], flat columns (row * L + column), ascending. units: int64[k], the position in its example of the
  first token of each one's mention, which shares one draw of the kind of replacement.
  """

  columns: np.ndarray
  units: np.ndarray


def mask(
  rows: Rows, options: Masking, keys: np.ndarray, mask_id: int, vocab_size: int, unigram: Unigram | None = None,
  pad_id: int | None = None, covered: Covered | None = None,
) -> Masked:  # fmt: skip
  """Masks rows.

  Args:
    rows: assembled rows.
    options: what to mask.
    keys: uint64[B, S], the stream of each example (`mask_keys`); anything where there is none.
    mask_id: id of [MASK].
    vocab_size: bound of random tokens.
    unigram: the distribution of random tokens, for random_tokens="unigram".
    pad_id: id of [PAD], for random_tokens="above_pad".
    covered: tokens that are predicted in any case, out of the budget, for strategies token and whole_word.
  Returns:
    A batch whose predictions stand in order of columns, slots of weight 0 behind them. With `max_offset`, `edges` and
    `offsets` of the predictions that have both boundaries; -1 and 0 elsewhere.
  Raises:
    MaskError: the options need annotations, a distribution or an id that is not there.
  """
  options.check(rows.annotations, unigram, vocab_size)
  if options.random_tokens == "above_pad" and pad_id is None:
    raise MaskError("masking option random_tokens: got 'above_pad' without pad_id, want the tokenizer's id of [PAD]")
  found = candidates(rows, keys, options)
  chosen, bare = _chosen(rows, found, options, covered)
  slots = np.repeat(np.arange(found.counts.size), np.diff(np.searchsorted(chosen, found.bounds)))
  flat, positions = found.flat[chosen], found.positions[chosen]
  ids, streams = rows.tokens.ids.reshape(-1)[flat], found.keys[slots]
  firsts = _spans(flat, slots) if options.replace_by == "span" or options.max_offset else None
  units = _units(rows, found, options, chosen, firsts)
  if covered is not None:
    units = units.copy()
    units[np.searchsorted(flat, covered.columns)] = covered.units
  instead = replacements(ids, streams, positions, units, options, mask_id, vocab_size, unigram, pad_id)
  instead[np.searchsorted(chosen, bare)] = mask_id
  size, length = rows.tokens.ids.shape
  width = predictions_per_row(length, rows.examples.shape[1], options)
  if covered is not None:
    width = min(length, rows.examples.shape[1] * options.max_predictions)
  row = flat // length
  counts = np.bincount(row, minlength=size)
  place = row * width + ragged(np.zeros(size, np.int64), counts)
  columns = [_scatter(place, values, (size, width), 0) for values in (flat - row * length, instead, ids)]
  weights = (np.arange(width) < counts[:, None]).astype(np.float32)
  edges = offsets = None
  if options.max_offset:
    boundaries, inside = _boundaries(rows, flat, firsts, options.max_offset)
    edges = _scatter(place, boundaries, (size, width, 2), -1)
    offsets = _scatter(place, inside, (size, width), 0)
  return Masked(rows.tokens, *columns, weights, edges, offsets, rows.pair)


def _chosen(rows: Rows, found: Candidates, options: Masking, covered: Covered | None) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the candidates that are predicted, ascending; and of those that are because no word fitted."""
  left, numbers, chosen = found, None, np.zeros(len(found.flat), bool)
  if covered is not None:
    chosen[np.searchsorted(found.flat, covered.columns)] = True
    left, numbers = without(rows, found, chosen, options)
  picked = _CHOOSE[options.strategy](rows, left, options)
  bare = words.lone(left, picked) if options.budget == "text" else np.zeros(0, np.int64)
  picked[bare] = True
  if covered is None:
    return np.flatnonzero(picked), bare
  chosen[numbers[picked]] = True
  return np.flatnonzero(chosen), numbers[bare]


def _units(rows: Rows, found: Candidates, options: Masking, chosen: np.ndarray, firsts: np.ndarray | None):
  """int[n]: the position of the first token of what shares a draw of the kind of replacement with each one."""
  positions = found.positions[chosen]
  if options.replace_by == "span":
    return positions[firsts]
  if options.replace_by == "word":
    return found.positions[_word_firsts(rows, found, options)[chosen]]
  return positions


def _scatter(place: np.ndarray, values: np.ndarray, shape: tuple[int, ...], fill: int) -> np.ndarray:
  out = np.full(shape, fill, np.int32)
  out.reshape(-1, *shape[2:])[place] = values
  return out


def _word_firsts(rows: Rows, found: Candidates, options: Masking) -> np.ndarray:
  """int64[n]: number of the first candidate of each one's word."""
  numbers = np.arange(len(found.flat))
  return np.maximum.accumulate(np.where(begins_word(rows, found, options), numbers, 0))


def _spans(flat: np.ndarray, slots: np.ndarray) -> np.ndarray:
  """int64: for each prediction the number of the first one of its run of neighbouring columns of one example."""
  numbers = np.arange(len(flat))
  begins = (np.diff(flat, prepend=-2) != 1) | (np.diff(slots, prepend=-1) != 0)
  return np.maximum.accumulate(np.where(begins, numbers, 0))


def _boundaries(rows: Rows, flat: np.ndarray, firsts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
  """(columns of the left and right neighbour of each one's span [n, 2] or -1, index inside it [n]).

  There are none where a neighbour is a special token, or from index `most` on.
  """
  runs = np.flatnonzero(firsts == np.arange(len(firsts)))
  sizes = np.diff(runs, append=len(flat))
  neighbours = np.stack([flat[runs] - 1, flat[runs] + sizes], axis=1)
  both = rows.candidates.reshape(-1)[neighbours].all(axis=1)
  offsets = np.arange(len(flat)) - firsts
  there = np.repeat(both, sizes) & (offsets < most)
  columns = np.repeat(neighbours % rows.tokens.ids.shape[1], sizes, axis=0)
  return np.where(there[:, None], columns, -1), np.where(there, offsets, 0)
