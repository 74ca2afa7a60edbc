"""Packed rows compute what the same examples compute alone, term by term."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.batch import Entities, Masked, MaskedEntities, Pair, Tokens
from objectives.base import Draws
from tests.tenants import LENGTH, TENANTS, entity_batch, masked_batch

PACKED = ("masked", "entities")  # per-row sampling (replaced) and streams (recurrent) have no packed form


def unpack(batch: Masked) -> Masked:
  """One row for each packed example, its tokens first; slots of other examples get weight 0."""
  rows = [unpack_one(batch, row, segment) for row in range(len(batch.tokens.ids)) for segment in (1, 2)]
  return jax.tree.map(lambda *x: np.concatenate(x), *rows)


def unpack_one(batch: Masked, row: int, segment: int) -> Masked:
  t = batch.tokens
  columns = np.flatnonzero(t.segments[row] == segment)
  first, last = columns[0], columns[-1]

  def pad(values):
    return np.pad(values, (0, LENGTH - len(columns))).astype(np.int32)[None]

  tokens = Tokens(
    pad(t.ids[row, columns]), pad(t.types[row, columns]), pad(np.ones(len(columns))), pad(t.positions[row, columns])
  )
  inside = (batch.positions[row] >= first) & (batch.positions[row] <= last)
  positions = np.where(inside, batch.positions[row] - first, 0).astype(np.int32)[None]
  weights = (batch.weights[row] * inside)[None].astype(np.float32)
  pair = None
  if batch.pair is not None:
    one = lambda x: x[row, segment - 1].reshape(1, 1)
    pair = Pair(np.zeros((1, 1), np.int32), one(batch.pair.labels), one(batch.pair.weights))
  return Masked(tokens, positions, batch.inputs[row][None], batch.labels[row][None], weights, pair=pair)


def unpack_entities(batch: MaskedEntities) -> MaskedEntities:
  words, e = unpack(batch.words), batch.entities
  rows = []
  for row in range(len(e.ids)):
    for segment in (1, 2):
      first = np.flatnonzero(batch.words.tokens.segments[row] == segment)[0]
      mine = e.segments[row] == segment
      target = np.take(mine, batch.positions[row])
      rows.append((
        e.ids[row], np.where(e.positions[row] >= 0, e.positions[row] - first, -1) * 1, mine.astype(np.int32),
        batch.positions[row], batch.labels[row], (batch.weights[row] * target).astype(np.float32),
      ))  # fmt: skip
  ids, positions, segments, at, labels, weights = (np.stack(x) for x in zip(*rows))
  return MaskedEntities(words, Entities(ids, positions.astype(np.int32), segments), at, labels, weights)


def restart_positions(batch: MaskedEntities) -> MaskedEntities:
  """Keeps mentions inside one example and gives the weight 0 to entities of padding, as packing does."""
  segments = batch.words.tokens.segments
  inside = (
    np.take_along_axis(segments[:, None, :].repeat(4, 1), np.maximum(batch.entities.positions, 0), 2)
    == batch.entities.segments[..., None]
  )
  positions = np.where(inside & (batch.entities.positions >= 0), batch.entities.positions, -1).astype(np.int32)
  alive = np.take_along_axis(batch.entities.segments, batch.positions, 1) > 0
  return dataclasses.replace(
    batch,
    entities=dataclasses.replace(batch.entities, positions=positions),
    weights=(batch.weights * alive).astype(np.float32),
  )


def inside_examples(batch: Masked) -> Masked:
  """Weight 0 where a slot stands on padding, and no cls in the middle of another example."""
  alive = np.take_along_axis(batch.tokens.segments, batch.positions, 1) > 0
  return dataclasses.replace(batch, weights=(batch.weights * alive).astype(np.float32))


CASES = {
  "masked": (lambda: inside_examples(masked_batch(4)), unpack),
  "entities": (
    lambda: restart_positions(dataclasses.replace(entity_batch(4), words=inside_examples(entity_batch(4).words))),
    unpack_entities,
  ),
}


def terms(objective, params, batch):
  rows = len(jax.tree.leaves(batch)[0])
  draws = Draws(jax.random.key(0), jnp.int32(0), jnp.int32(0), jnp.arange(rows))

  def total(params):
    sums, _, _ = objective.sums(params, None, batch, draws, False)
    return sum(sums.values()), sums

  (_, sums), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
  return sums, grads, objective.counts(batch)


@pytest.mark.parametrize("tenant", CASES)
def test_packed_equals_unpacked(tenant):
  objective, _ = TENANTS[tenant]
  make, take_apart = CASES[tenant]
  packed = make()
  params = objective.init(jax.random.key(0), packed)
  sums, grads, counts = terms(objective, params, packed)
  alone, alone_grads, alone_counts = terms(objective, params, take_apart(packed))
  for term in objective.weights:
    assert counts[term] == alone_counts[term] > 0
    np.testing.assert_allclose(sums[term], alone[term], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(alone_grads), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
