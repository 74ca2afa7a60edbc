"""Draws on the device: exact, never of padding, and cheap to shard."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from models.sharding import make_mesh, row_sharding
from objectives.sampling import draw


def plain_draw(logits, uniforms):
  """Two look-ups in cumulative sums, in float64."""
  masses = np.exp(np.float64(logits) - np.max(logits)).reshape(128, -1)
  group = int(np.searchsorted(np.cumsum(masses.sum(1)), uniforms[0] * masses.sum(), side="right"))
  inside = np.cumsum(masses[group])
  return group * masses.shape[1] + int(np.searchsorted(inside, uniforms[1] * inside[-1], side="right"))


def test_draws_equal_a_plain_inverse_of_the_distribution():
  rng = np.random.default_rng(0)
  logits, uniforms = np.float32(3 * rng.normal(size=(400, 384))), np.float32(rng.random((400, 2)))
  got = jax.jit(draw)(logits, uniforms)
  same = np.mean([plain_draw(*case) == one for *case, one in zip(logits, uniforms, got, strict=True)])
  assert same > 0.99  # float32 may fall on the other side of a border


def test_draws_follow_the_softmax():
  logits = jnp.where(jnp.arange(256) < 200, 2 * jax.random.normal(jax.random.key(0), (256,)), -1e9)
  n = 30_000
  got = draw(jnp.broadcast_to(logits, (n, 256)), jax.random.uniform(jax.random.key(1), (n, 2)))
  counts, expected = np.bincount(got, minlength=256), n * np.asarray(jax.nn.softmax(logits))
  chi = ((counts - expected)[:200] ** 2 / expected[:200]).sum()
  assert counts[200:].sum() == 0
  assert 140 < chi < 270  # 199 degrees of freedom, five sigma


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-23])
def test_the_ends_of_the_unit_interval_draw_no_padding(uniform):
  real = np.zeros(256, bool)
  real[[77, 131]] = True
  logits = jnp.where(real, 0.0, -1e9)
  assert int(draw(logits, jnp.full((2,), uniform))) == (77 if uniform == 0 else 131)


def test_sampling_from_a_sharded_vocabulary_gathers_no_logits():
  """Devices exchange the masses of 128 runs and one run for each slot, never the vocabulary."""
  mesh = make_mesh(4, 2)
  shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)
  where = NamedSharding(mesh, PartitionSpec("data", None, "model")), row_sharding(mesh)
  program = jax.jit(draw, in_shardings=where).lower(shape(8, 5, 128 * 48), shape(8, 5, 2)).compile()
  exchanged = re.findall(r"= \w+\[([\d,]+)\]\S* (?:all|reduce-scatter|collective)", program.as_text())
  sizes = {max(map(int, dims.split(","))) for dims in exchanged}
  assert {128, 48} <= sizes and max(sizes) == 128
