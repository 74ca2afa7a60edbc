"""Dropout's masks: the rate, the scale, independence, and the same on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from models.layers import dropout, random_words
from models.sharding import make_mesh

SHAPE = (16, 4, 64, 32)


def mask(seed, shape=SHAPE, rate=0.1):
  return np.asarray(dropout(jnp.ones(shape), rate, jax.random.key(seed)) > 0)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_rate_and_scale(rate):
  """The share dropped is within 5 standard errors, and the mean is kept."""
  kept = mask(0, rate=rate)
  error = (rate * (1 - rate) / kept.size) ** 0.5
  assert abs(1 - kept.mean() - rate) < 5 * error
  values = np.unique(dropout(jnp.ones(SHAPE), rate, jax.random.key(0)))
  np.testing.assert_allclose(values, [0.0, 1 / (1 - rate)], rtol=1e-6)


def test_no_axis_is_favoured():
  """Every row, head, query and key drops its share."""
  kept = mask(1)
  for axis in range(4):
    rates = 1 - kept.mean(axis=tuple(a for a in range(4) if a != axis))
    n = kept.size / kept.shape[axis]
    assert np.abs(rates - 0.1).max() < 5 * (0.09 / n) ** 0.5


@pytest.mark.parametrize("axis", range(4))
def test_neighbours_are_uncorrelated(axis):
  kept = mask(2).astype(float)
  left, right = np.take(kept, range(kept.shape[axis] - 1), axis), np.take(kept, range(1, kept.shape[axis]), axis)
  assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 5 / left.size**0.5


def test_keys_give_masks_that_have_nothing_to_do_with_each_other():
  """Neighbouring seeds, and keys folded from one another as layers and steps are."""
  key = jax.random.key(0)
  masks = [
    mask(0),
    mask(1),
    *(np.asarray(dropout(jnp.ones(SHAPE), 0.1, jax.random.fold_in(key, i)) > 0) for i in range(3)),
  ]
  for i, a in enumerate(masks):
    for b in masks[:i]:
      assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / a.size**0.5


def test_words_are_uniform_in_every_bit():
  words = np.asarray(random_words(jax.random.key(3), (64, 4096)))
  bits = (words[..., None] >> np.arange(32, dtype=np.uint32)) & 1
  assert np.abs(bits.mean((0, 1)) - 0.5).max() < 5 * 0.5 / words.size**0.5


def test_rows_do_not_repeat_each_other():
  words = np.asarray(random_words(jax.random.key(3), (64, 4096)))
  assert len(np.unique(words)) > words.size * (1 - 2 * words.size / 2**32)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_the_mask_is_the_same_on_every_mesh(shape):
  mesh = make_mesh(*shape)
  where = NamedSharding(mesh, PartitionSpec("data", "model"))
  drop = jax.jit(lambda x: dropout(x, 0.1, jax.random.key(7)), out_shardings=where)
  np.testing.assert_array_equal(drop(jax.device_put(jnp.ones(SHAPE), where)) > 0, mask(7))


def test_without_a_key_nothing_is_dropped():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(dropout(x, 0.5, None), x)
  np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)
