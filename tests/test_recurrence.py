"""Carried state: two steps of T are one step of 2T, in each direction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.base import Draws
from tests.tenants import LENGTH, ROWS, TENANTS, chars_batch

OBJECTIVE, _ = TENANTS["recurrent"]


def forward(params, carry, batch):
  draws = Draws(jax.random.key(0), jnp.int32(0), jnp.int32(0), jnp.arange(ROWS))
  sums, _, carry = jax.jit(OBJECTIVE.sums, static_argnums=4)(params, carry, batch, draws, True)
  return sums, carry


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_two_steps_of_T_equal_one_of_2T(direction):
  whole = chars_batch(3, 2 * LENGTH)
  half = lambda part: dataclasses.replace(
    whole, **{name: getattr(whole, name)[..., part] for name in ("index", "targets", "weights")}
  )
  params, start = OBJECTIVE.init(jax.random.key(0), whole), OBJECTIVE.carry(whole)
  want, end = forward(params, start, whole)
  first, between = forward(params, start, half(slice(0, LENGTH)))
  second, carry = forward(params, between, half(slice(LENGTH, None)))
  number = {"forward": 0, "backward": 1}[direction]
  np.testing.assert_allclose(first[direction] + second[direction], want[direction], rtol=1e-5)
  np.testing.assert_allclose(carry[:, number], end[:, number], atol=1e-6)


def test_directions_do_not_touch():
  """Another state in one direction leaves the other's losses alone."""
  batch = chars_batch(3)
  params, start = OBJECTIVE.init(jax.random.key(0), batch), OBJECTIVE.carry(batch)
  plain, _ = forward(params, start, batch)
  other, _ = forward(params, start.at[:, 1].set(1.0), batch)
  assert plain["forward"] == other["forward"] and plain["backward"] != other["backward"]
