"""Runs a trained model on text, in three lines:

    model = load_model("runs/bert")
    vectors = encode(model, ["The cat sat.", "It rained."]).pooled  # [2, D]
    blanks = fill(model, ["The capital of France is [MASK]."])  # blanks[0][0].candidates[0].piece

Texts of like length run together in batches of few static shapes, on the default device; results come in the order of
the texts and do not depend on the batches.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Tokens
from trainer.loading import Loaded, load_model
from trainer.texts import Chunk, InputError, chunks, power_of_two

__all__ = ("POOLS", "Blank", "Candidate", "Encodings", "Loaded", "encode", "fill", "load_model", "pair")

Report = Callable[[int, int], None]  # called with the number of texts and of tokens that are done since


def _mean(model: Any, params: dict, hidden: jax.Array, real: jax.Array) -> jax.Array:
  return jnp.sum(hidden, 1) / jnp.maximum(jnp.sum(real, 1, keepdims=True), 1)


def _pooler(model: Any, params: dict, hidden: jax.Array, real: jax.Array) -> jax.Array:
  cls = jnp.zeros((len(hidden), 1), jnp.int32)
  return model.apply({"params": params}, hidden, cls, method="pool")[:, 0].astype(jnp.float32)


# (model, params, hidden [B, L, D] float32 with zeros in padding, real [B, L]) -> [B, D]
POOLS: dict[str, Callable] = {
  "none": lambda *_: None,
  "cls": lambda model, params, hidden, real: hidden[:, 0],
  "pooler": _pooler,  # what the pretraining's sentence-pair decision reads
  "mean": _mean,  # over all real tokens, [CLS] and [SEP] too, as sentence-transformers does
}


@dataclasses.dataclass(frozen=True)
class Encodings:
  """States of N texts, the longest of L tokens; what is padding is the pad id and zeros.

  layers: K chosen outputs, 0 = embeddings; pooled: one vector a text. Fields that were not asked for are None.
  truncated: texts that were cut to the longest length allowed.
  """

  ids: np.ndarray  # int32[N, L]
  lengths: np.ndarray  # int32[N]
  hidden: np.ndarray | None  # float32[N, L, D]
  pooled: np.ndarray | None  # float32[N, D]
  layers: np.ndarray | None  # float32[N, K, L, D]
  truncated: int

  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays there are, by name."""
    fields = (field.name for field in dataclasses.fields(self))
    return {name: array for name in fields if isinstance(array := getattr(self, name), np.ndarray)}


def encode(
  loaded: Loaded,
  texts: Sequence[str],
  pool: str = "mean",
  layers: str | Sequence[int] = "last",
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> Encodings:
  """Hidden states of texts; an empty text is [CLS] [SEP].

  Args:
    pool: none, cls, mean or pooler (see POOLS).
    layers: "last" = `hidden` only; "none" = no states of tokens at all; "all" or numbers = `layers` as well, from 0 =
      embeddings to the last block, negative ones from the end.
    max_length: longer texts are cut before their [SEP]; by default `loaded.max_length`.
  Raises:
    InputError: a choice that the model does not have, or results larger than the memory here.
  """
  if pool not in POOLS or (pool == "pooler" and not loaded.model.config.pooler):
    known = [name for name in POOLS if name != "pooler" or loaded.model.config.pooler]
    raise InputError(f"pool: got {pool!r}, want one of {', '.join(known)} for {loaded.source}")
  chosen = layer_numbers(layers, loaded.config.model.layers)
  longest = _longest(loaded, max_length)
  whole = [encoding.ids for encoding in loaded.tokenizer.encode(list(texts), specials=True)]
  rows = [ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1]) for ids in whole]
  lengths = np.array([len(ids) for ids in rows], np.int32)
  n, width, depth = len(rows), int(lengths.max(initial=0)), loaded.config.model.hidden
  results = _allocate(
    hidden=(n, width, depth) if layers != "none" else None,
    pooled=(n, depth) if pool != "none" else None,
    layers=(n, len(chosen), width, depth) if chosen else None,
  )
  ids = np.full((n, width), loaded.tokenizer.special.pad, np.int32)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
  function = functools.partial(_encode, loaded.model, loaded.params, pool, chosen, layers != "none")
  for chunk, outputs in _run(loaded, rows, function, batch_size, longest, report):
    size = min(width, chunk.width)
    for name, array in results.items():
      if array is not None:
        where = () if name == "pooled" else (..., slice(size), slice(None))
        array[(chunk.rows, *where)] = outputs[name][(slice(len(chunk.rows)), *where)]
  return Encodings(ids, lengths, **results, truncated=sum(len(row) > longest for row in whole))


def layer_numbers(layers: str | Sequence[int], last: int) -> tuple[int, ...]:
  """`layers` of `encode` as numbers from 0 to `last`; raises InputError."""
  if layers in ("last", "none"):
    return ()
  if layers == "all":
    return tuple(range(last + 1))
  try:
    numbers = [int(number) for number in (layers.split(",") if isinstance(layers, str) else layers)]
  except ValueError:
    numbers = []
  if not numbers or not all(-last - 1 <= number <= last for number in numbers):
    raise InputError(f"layers: got {layers!r}, want last, none, all, or numbers from {-last - 1} to {last}, as in 0,-1")
  return tuple(number % (last + 1) for number in numbers)


def _allocate(**shapes: tuple[int, ...] | None) -> dict[str, np.ndarray | None]:
  size = sum(4 * int(np.prod(shape)) for shape in shapes.values() if shape)
  if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
    raise InputError(
      f"the states of all texts: {size / 1e9:.1f} GB, want no more than the memory here; "
      "choose layers=none, a smaller max_length, or a part of the texts"
    )
  return {name: np.zeros(shape, np.float32) if shape else None for name, shape in shapes.items()}


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _encode(model, params, pool, layers, hidden, tokens) -> dict[str, jax.Array]:
  encoded = model.apply({"params": params}, tokens.ids, tokens, collect=bool(layers))
  real = tokens.segments > 0
  states = jnp.where(real[..., None], encoded.hidden.astype(jnp.float32), 0)
  results = {"pooled": POOLS[pool](model, params, states, real)}
  if hidden:
    results["hidden"] = states
  if layers:
    picked = encoded.layers[jnp.array(layers)].astype(jnp.float32)  # [K, B, L, D]
    results["layers"] = jnp.where(real[..., None], picked, 0).swapaxes(0, 1)
  return results


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A piece that may stand in a blank."""

  piece: str
  id: int
  probability: float  # softmax over the whole vocabulary


@dataclasses.dataclass(frozen=True)
class Blank:
  """A [MASK] of a text, with the likeliest pieces, best first."""

  start: int  # where [MASK] begins, in characters of the text
  column: int  # in tokens of the row, [CLS] = 0
  candidates: list[Candidate]


def fill(
  loaded: Loaded,
  texts: Sequence[str],
  top: int = 5,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[list[Blank]]:
  """The `top` likeliest pieces for every [MASK] of each text; each is predicted while the others stay masked.

  Raises:
    InputError: a text without [MASK], or longer than `max_length` (by default `loaded.max_length`).
  """
  special, size = loaded.tokenizer.special, loaded.tokenizer.vocab_size
  if not 1 <= top <= size:
    raise InputError(f"top: got {top}, want a number from 1 to {size}, the pieces of the vocabulary")
  encodings = loaded.tokenizer.encode(list(texts), specials=True)
  masks = [np.flatnonzero(encoding.ids == special.mask) for encoding in encodings]
  for i, found in enumerate(masks):
    if not len(found):
      mask = loaded.tokenizer.pieces([special.mask])[0]
      raise InputError(f"text {i + 1}: got no {mask} in {texts[i][:60]!r}, want at least one to fill")
  rows = [encoding.ids for encoding in encodings]
  longest = _refuse_long(rows, _longest(loaded, max_length))
  function = functools.partial(_fill, loaded.model, loaded.params, top)
  blanks: list[list[Blank]] = [[] for _ in rows]
  for chunk, (ids, probabilities) in _run(loaded, rows, function, batch_size, longest, report, columns=masks):
    for i, own_ids, own_probabilities in zip(chunk.rows, ids, probabilities, strict=False):  # padding stands last
      for column, best, shares in zip(masks[i], own_ids.tolist(), own_probabilities.tolist(), strict=False):
        candidates = list(map(Candidate, loaded.tokenizer.pieces(best), best, shares))
        blanks[i].append(Blank(int(encodings[i].offsets[column, 0]), int(column), candidates))
  return blanks


@functools.partial(jax.jit, static_argnums=(0, 2))
def _fill(model, params, top, tokens, columns) -> tuple[jax.Array, jax.Array]:
  """ids and probabilities [B, P, top] for columns [B, P]."""
  hidden = model.apply({"params": params}, tokens.ids, tokens).hidden
  logits = model.apply({"params": params}, hidden, columns, method="token_logits")
  probabilities, ids = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top)
  return ids, probabilities


def pair(
  loaded: Loaded,
  pairs: Sequence[tuple[str, str]],
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> np.ndarray:
  """float32[N]: the probability that the second text follows the first, class 0 (IsNext) of the pair head.

  Raises:
    InputError: the model was trained without the pair decision, or a pair is longer than `max_length`.
  """
  if not loaded.model.config.pooler:
    raise InputError(f"model {loaded.source}: has no pair head, want a model trained with objective.pair=nsp")
  sides = [[e.ids for e in loaded.tokenizer.encode([p[side] for p in pairs], specials=True)] for side in (0, 1)]
  rows = [np.append(first, second[1:]) for first, second in zip(*sides, strict=True)]  # one [CLS]
  longest = _refuse_long(rows, _longest(loaded, max_length))
  second = [len(first) for first in sides[0]]
  function = functools.partial(_pair, loaded.model, loaded.params)
  follows = np.zeros(len(rows), np.float32)
  for chunk, own in _run(loaded, rows, function, batch_size, longest, report, second=second):
    follows[chunk.rows] = own[: len(chunk.rows)]
  return follows


@functools.partial(jax.jit, static_argnums=0)
def _pair(model, params, tokens) -> jax.Array:
  hidden = model.apply({"params": params}, tokens.ids, tokens).hidden
  logits = model.apply({"params": params}, hidden, tokens.ids[:, :1] * 0, method="pair_logits")
  return jax.nn.softmax(logits, axis=-1)[:, 0, 0]


def _longest(loaded: Loaded, max_length: int | None) -> int:
  """Tokens that a text may have."""
  positions = loaded.config.model.max_positions
  if max_length is not None and not 3 <= max_length <= positions:
    raise InputError(f"max_length: got {max_length}, want 3 to {positions}, the positions of {loaded.source}")
  return loaded.max_length if max_length is None else max_length


def _refuse_long(rows: Sequence[np.ndarray], longest: int) -> int:
  """`longest`; raises InputError for a row that is longer."""
  for i, row in enumerate(rows):
    if len(row) > longest:
      raise InputError(f"text {i + 1}: got {len(row)} tokens, want at most {longest}; shorten it, or raise max_length")
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


def _columns(chunk: Chunk, columns: Sequence[np.ndarray]) -> np.ndarray:
  """int32[B, P]: the columns of each row and zeros; P is a power of two."""
  padded = np.zeros((chunk.height, power_of_two(max(len(columns[i]) for i in chunk.rows))), np.int32)
  for row, i in enumerate(chunk.rows):
    padded[row, : len(columns[i])] = columns[i]
  return padded


def _run(
  loaded: Loaded,
  rows: Sequence[np.ndarray],
  function: Callable,
  batch_size: int,
  longest: int,
  report: Report | None,
  second: Sequence[int] | None = None,
  columns: Sequence[np.ndarray] | None = None,
) -> Iterator[tuple[Chunk, Any]]:
  """(chunk, function(Tokens[, columns]) on the host) of all rows; the next batch runs while one is taken over."""
  if batch_size < 1:
    raise InputError(f"batch_size: got {batch_size}, want 1 or more")
  # Accelerators multiply float32 in fewer bits unless told otherwise.
  precision = "highest" if loaded.model.config.dtype == jnp.float32 else None
  pending: list[tuple[Chunk, Any]] = []
  try:
    for chunk in [*chunks([len(row) for row in rows], batch_size, longest), None]:
      if chunk is not None:
        tokens = _tokens(chunk, rows, second, loaded.tokenizer.special.pad)
        with jax.default_matmul_precision(precision):
          pending.append((chunk, function(tokens) if columns is None else function(tokens, _columns(chunk, columns))))
      while len(pending) > (chunk is not None):
        done, results = pending.pop(0)
        yield done, jax.device_get(results)
        if report is not None:
          report(len(done.rows), sum(len(rows[i]) for i in done.rows))
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise InputError(f"batches of {batch_size} texts do not fit in memory; choose a smaller batch_size") from error
