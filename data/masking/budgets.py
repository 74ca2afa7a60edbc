"""How many tokens are predicted, and how many slots a row has for them."""

from __future__ import annotations

import functools

import numpy as np

from data import draws
from data.masking.counters import BUDGET
from data.masking.options import WITHOUT_SPECIALS, Masking


def budgets(sizes: np.ndarray, options: Masking, fractions: np.ndarray | float = 0.0) -> np.ndarray:
  """int64: predictions wanted of `sizes` tokens, at most `max_predictions`; 0 for 0.

  Args:
    sizes: tokens, [CLS] and [SEP] counted; for "ceil" and "text" not counted.
    options: budget and mask_rate. "round" and "text" round half to even.
    fractions: u in [0, 1) of each, for "stochastic".
  """
  sizes = np.asarray(sizes)
  wanted = options.mask_rate * sizes
  if options.budget in ("round", "text"):
    wanted = np.maximum(np.rint(wanted), 1)
  elif options.budget == "stochastic":
    wanted = np.minimum(np.floor(wanted + fractions), np.ceil(wanted))  # a sum just below a whole number rounds to it
  else:
    wanted = np.ceil(wanted)
  return np.where(sizes > 0, np.minimum(wanted, options.max_predictions), 0).astype(np.int64)


def drawn_budgets(sizes: np.ndarray, specials: np.ndarray, options: Masking, keys, blocks=0) -> np.ndarray:
  """int64: budgets of examples or blocks with `sizes` tokens, `specials` of them special, and uint64 streams `keys`."""
  fractions = draws.uniform(keys, BUDGET + np.asarray(blocks, np.uint64)) if options.budget == "stochastic" else 0.0
  return budgets(sizes - specials if options.budget in WITHOUT_SPECIALS else sizes, options, fractions)


@functools.lru_cache
def predictions_per_row(length: int, per_row: int, options: Masking) -> int:
  """P, the prediction slots of a row.

  An example alone in its row has `max_predictions` slots, as published. Packed rows have the most that any examples of
  theirs can need together (a small dynamic programme over lengths), at most `per_row * max_predictions`.
  """
  if per_row == 1:
    return options.max_predictions
  one = _most(np.arange(length + 1), 2, options)
  one[:3] = 0  # [CLS] token [SEP] is the shortest example
  if options.by_block:
    one = np.maximum(one, _most_of_pairs(length, options))
  return most_in_row(one, per_row)


def most_in_row(one: np.ndarray, per_row: int) -> int:
  """The most that `per_row` examples need together in a row of n, if one of size 0 to n needs `one` [n + 1]."""
  best = one
  for _ in range(per_row - 1):
    best = _joined(one, best)
  return int(best[-1])


def _most(sizes: np.ndarray, specials: int, options: Masking) -> np.ndarray:
  """The most predictions of examples or blocks of `sizes` tokens, `specials` of them special."""
  candidates = np.maximum(sizes if options.mask_specials else sizes - specials, 0)
  if options.budget == "stochastic" and options.strategy == "whole_word":
    return np.minimum(candidates, options.max_predictions)  # words of any length
  most = budgets(candidates if options.budget in WITHOUT_SPECIALS else sizes, options, 1.0)
  return np.minimum(most, candidates)


def _most_of_pairs(length: int, options: Masking) -> np.ndarray:
  """By the size of a pair of blocks [CLS] A [SEP] and B [SEP], neither empty."""
  first, second = (_most(np.arange(length + 1), specials, options) for specials in (2, 1))
  both = np.minimum(_joined(first, second), options.max_predictions)
  both[:5] = 0
  return both


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """The most of both together, by the sum of their sizes."""
  return np.array([(one[: n + 1] + other[n::-1]).max() for n in range(len(one))])
