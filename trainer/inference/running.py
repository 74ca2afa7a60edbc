"""Texts through a model in batches of few static shapes, on the default device.

Texts of like length run together; results come in the order of the texts and do not depend on the batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Tokens
from trainer.loading import Loaded
from trainer.texts import Chunk, InputError, chunks, power_of_two

T = TypeVar("T")
Report = Callable[[int, int], None]  # called with the number of texts and of tokens that are done since


def longest_of(loaded: Loaded, max_length: int | None) -> int:
  """Tokens that a text may have."""
  positions = loaded.model.config.max_positions
  if max_length is not None and not 3 <= max_length <= positions:
    raise InputError(f"max_length: got {max_length}, want 3 to {positions}, the positions of {loaded.source}")
  return loaded.max_length if max_length is None else max_length


def refuse_long(rows: Sequence[np.ndarray], longest: int, numbers: Sequence[int] | None = None) -> int:
  """`longest`; raises InputError for a row that is longer. numbers: of the texts, from 0."""
  for i, row in enumerate(rows):
    if len(row) > longest:
      number = 1 + (i if numbers is None else numbers[i])
      raise InputError(f"text {number}: got {len(row)} tokens, want at most {longest}; shorten it, or raise max_length")
  return longest


def _tokens(chunk: Chunk, rows: Sequence[np.ndarray], second: Sequence[int] | None, pad: int) -> Tokens:
  """The batch of a chunk. second: the column of each row where the tokens of type 1 begin."""
  shape = (chunk.height, chunk.width)
  ids, segments, types = np.full(shape, pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  for row, i in enumerate(chunk.rows):
    size = len(rows[i])
    ids[row, :size], segments[row, :size] = rows[i], 1
    if second is not None:
      types[row, second[i] : size] = 1
  return Tokens(ids=ids, types=types, segments=segments, positions=np.arange(chunk.width, dtype=np.int32) * segments)


def columns_of(chunk: Chunk, columns: Sequence[np.ndarray]) -> np.ndarray:
  """int32[B, P]: the columns of each row and zeros; P is a power of two."""
  most = max(len(columns[i]) for i in chunk.rows)
  padded = np.zeros((chunk.height, power_of_two(max(1, most))), np.int32)
  for row, i in enumerate(chunk.rows):
    padded[row, : len(columns[i])] = columns[i]
  return padded


def run(
  loaded: Loaded,
  rows: Sequence[np.ndarray],
  function: Callable,
  batch_size: int,
  longest: int,
  report: Report | None,
  second: Sequence[int] | None = None,
  inputs: Callable[[Chunk], tuple] = lambda chunk: (),
) -> Iterator[tuple[Chunk, Any]]:
  """(chunk, function(Tokens, *inputs(chunk)) on the host) of all rows; the next batch runs while one is taken over."""
  arguments = lambda chunk: (_tokens(chunk, rows, second, loaded.tokenizer.special.pad), *inputs(chunk))
  parts = ((chunk, arguments(chunk)) for chunk in chunks([len(row) for row in rows], checked(batch_size), longest))
  for done, results in ahead(loaded, parts, function, batch_size):
    yield done, results
    if report is not None:
      report(len(done.rows), sum(len(rows[i]) for i in done.rows))


def checked(batch_size: int) -> int:
  """`batch_size`; raises InputError where it is none."""
  if batch_size < 1:
    raise InputError(f"batch_size: got {batch_size}, want 1 or more")
  return batch_size


def ahead(
  loaded: Loaded, parts: Iterable[tuple[T, tuple]], function: Callable, batch_size: int
) -> Iterator[tuple[T, Any]]:
  """(part, function(*arguments) on the host) of (part, arguments); the next one runs while one is taken over.

  Raises:
    InputError: batches of `batch_size` texts do not fit in the device's memory.
  """
  # Accelerators multiply float32 in fewer bits unless told otherwise.
  precision = "highest" if loaded.model.config.dtype == jnp.float32 else None
  pending: list[tuple[T, Any]] = []
  try:
    for each in itertools.chain(parts, [None]):
      if each is not None:
        with jax.default_matmul_precision(precision):
          pending.append((each[0], function(*each[1])))
      while len(pending) > (each is not None):
        part, results = pending.pop(0)
        yield part, jax.device_get(results)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise InputError(f"batches of {batch_size} texts do not fit in memory; choose a smaller batch_size") from error
