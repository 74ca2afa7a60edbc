"""What the builders of example tables share: what they return, blocks of documents, the chain of examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

BLOCK = 1 << 16  # documents that are cut together: what is in memory besides the table does not grow with the corpus


class Cut(NamedTuple):
  """The examples of a pass: arrays as in `data.examples.Table`, and counts for its card."""

  spans: np.ndarray
  starts: np.ndarray
  lengths: np.ndarray
  labels: np.ndarray
  counts: dict[str, Any]
  joined: np.ndarray | None = None


def document_blocks(count: int) -> list[np.ndarray]:
  """Documents 0 to count - 1 in consecutive blocks."""
  return [np.arange(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]


def chain(until: np.ndarray) -> list[int]:
  """0, until[0], until[until[0]], ... to the end."""
  following, reached = memoryview(np.ascontiguousarray(until, np.int64)), [0]
  while reached[-1] < len(following):
    reached.append(following[reached[-1]])
  return reached
