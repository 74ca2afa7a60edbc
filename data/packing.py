"""Packing whole examples into rows, at most S examples a row (as in MLPerf's BERT: never cut, never seeing each other).

Greedy, longest fit first, on the histogram of lengths, so the cost does not grow with the number of examples. Plain
longest fit spends the middling lengths early and ends in rows of S short examples, so it is run with several reserves
(tokens kept back for each slot still to come) and the fewest rows win.
"""

from __future__ import annotations

import bisect

import numpy as np

RESERVES = 12


def pack(sizes: np.ndarray, length: int, per_row: int) -> np.ndarray:
  """Rows of examples.

  Args:
    sizes: tokens of each example, special tokens included, each at most `length`.
    length: tokens of a row.
    per_row: S, the most examples a row may hold.
  Returns:
    int32[R, S], example indices, -1 = none. Each example stands in exactly one row.
  """
  order = np.argsort(sizes, kind="stable")
  counts = np.bincount(sizes, minlength=length + 1)
  taken = np.concatenate([[0], np.cumsum(counts)[:-1]])  # the next example of each size, as an index into `order`
  plans = [_patterns(counts, length, per_row, *plan) for plan in _plans(length, per_row)]
  blocks = [np.zeros((0, per_row), np.int32)]
  for pattern, repeats in min(plans, key=lambda plan: sum(repeats for _, repeats in plan)):
    block = np.full((repeats, per_row), -1, np.int32)
    for slot, size in enumerate(pattern):
      block[:, slot] = order[taken[size] : taken[size] + repeats]
      taken[size] += repeats
    blocks.append(block)
  return np.concatenate(blocks)


def _plans(length: int, per_row: int) -> list[tuple[bool, int]]:
  """(the second slot takes the shortest example, tokens reserved for each slot still to come), the plain plan first."""
  if per_row < 3:
    return [(False, 0)]
  reserves = sorted({length * step // (RESERVES * per_row) for step in range(RESERVES)})
  return [(shortest, reserve) for shortest in (False, True) for reserve in reserves]


def _patterns(
  counts: np.ndarray, length: int, per_row: int, shortest: bool, reserve: int
) -> list[tuple[list[int], int]]:
  """(sizes of a row, number of such rows); each pattern uses up one size, so there are few."""
  left, patterns = counts.tolist(), []
  sizes = [size for size in range(length + 1) if left[size]]
  while sizes:
    pattern = _row(left, sizes, length, per_row, shortest, reserve)
    repeats = min(left[size] // pattern.count(size) for size in pattern)
    for size in pattern:
      left[size] -= repeats
    sizes = [size for size in sizes if left[size]]
    patterns.append((pattern, repeats))
  return patterns


def _row(left: list[int], sizes: list[int], length: int, per_row: int, shortest: bool, reserve: int) -> list[int]:
  free, pattern = length, []
  for slot in range(per_row):
    fits = [size for size in sizes[: bisect.bisect_right(sizes, free)] if left[size] > pattern.count(size)]
    if not fits:
      break
    limit = free - (per_row - 1 - slot) * reserve if slot else free
    at = 0 if shortest and slot == 1 and per_row > 2 else bisect.bisect_right(fits, limit) - 1
    pattern.append(fits[at])  # -1: nothing leaves the reserve untouched, so the longest that fits
    free -= fits[at]
  return pattern


def fewest_rows(sizes: np.ndarray, length: int, per_row: int) -> int:
  """A bound: no packing needs fewer rows.

  The most of two counts. Slots: an example with which not even the shortest one fits is alone, the others share. Tokens
  (Martello and Toth's L2): for each k, examples longer than length - k are alone among those of k tokens or more, the
  other long ones take a row each, and what their rows cannot hold of the rest needs rows of its own.
  """
  counts, size = np.bincount(sizes, minlength=length + 1), np.arange(length + 1)
  alone = int(counts[size > length - sizes.min()].sum()) if len(sizes) else 0
  bound = alone - (-(len(sizes) - alone) // per_row)
  tokens, double = counts * size, 2 * size
  for k in range(length // 2 + 1):
    long = (double > length) & (size <= length - k)
    rest = int(tokens[(double <= length) & (size >= k)].sum()) - int((counts[long] * length - tokens[long]).sum())
    bound = max(bound, int(counts[double > length].sum()) + max(0, -(-rest // length)))
  return bound
