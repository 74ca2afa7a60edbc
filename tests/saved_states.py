"""States for the tests of checkpoints: every leaf follows from the step, so a restored one can be held against it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from trainer.checkpoints import Checkpoints
from trainer.manifest import state_digest
from trainer.restore import Reader


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: Any
  cursor: Any
  skipped: Any
  params: Any
  opt: Any
  carry: Any


class Adam(NamedTuple):
  count: Any
  mu: Any
  empty: Any


def make_state(step=100, cursor=None, skipped=0, seed=0):
  """Every kind of leaf that a run can hold; values follow from step and seed."""
  rng = np.random.default_rng([step, seed])
  params = {
    "embed": {"kernel": rng.standard_normal((16, 8), np.float32)},
    "layers": {"kernel": rng.standard_normal((2, 8, 8), np.float32), "bias": np.zeros((8, 8), np.float32)},
  }
  mu = jax.tree.map(lambda p: p.astype(ml_dtypes.bfloat16), params)
  opt = (Adam(np.asarray(step, np.int32), mu, ()), None, {"flags": np.array([True, False])})
  position = (np.asarray(n, np.int32) for n in (step, step if cursor is None else cursor, skipped))
  return State(*position, params, opt, {"h": rng.standard_normal((8, 8), np.float32)})


def abstract(state):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def expect(state):
  """What `restore` asks for, where every step of a run has leaves like those of `state`."""
  return lambda step: abstract(state)


def save_all(directory, steps, keep=9, **flags):
  with Checkpoints(directory, keep) as checkpoints:
    for step in steps:
      checkpoints.save(make_state(step), {"config": {"lr": 0.5}}, **({"scheduled": True} | flags))


def restored_step(directory):
  """Restores, proves the state bit-equal to what that step was, and returns the step."""
  state, meta = Reader(directory).restore(expect(make_state()))
  assert state_digest(state) == state_digest(make_state(meta["step"], meta["cursor"]))
  return meta["step"]
