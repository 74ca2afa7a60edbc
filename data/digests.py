"""What names the content of a corpus: one digest of a split's arrays, in memory, in records and in memory maps."""

from __future__ import annotations

import hashlib

import numpy as np

BLOCK = 1 << 24  # values of a memory map that are read at a time


class Digest:
  """SHA-256 of a split's content, the same however the split is cut into blocks."""

  def __init__(self, annotated: bool = False, linked: bool = False):
    self._dtypes = ("<i4", "u1", "<i4", "<i4", *("u1",) * annotated, *("<i4", "<i4") * linked)
    self._parts = tuple(hashlib.sha256() for _ in self._dtypes)

  def add(self, *arrays: np.ndarray) -> None:
    """Adds neighbouring documents: their ids, word starts, sentence lengths and numbers of sentences.

    Then, where the corpus has them, annotations; mentions in tokens of their documents, and the number of each one's.
    """
    for part, values, dtype in zip(self._parts, arrays, self._dtypes, strict=True):
      for start in range(0, len(values), BLOCK):
        part.update(np.ascontiguousarray(values[start : start + BLOCK]).astype(dtype).tobytes())

  def hexdigest(self) -> str:
    return hashlib.sha256(b"".join(part.digest() for part in self._parts)).hexdigest()
