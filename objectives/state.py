"""The state of a run: created sharded, carried from step to step, reshaped at stage boundaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.paths import map_named, merge, named_leaves, split
from models.sharding import like_parameters, parameter_shardings, row_sharding
from objectives.base import Array, Objective
from objectives.optimizers import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """All that a run carries from step to step.

  step: applied updates. cursor: consumed batches. skipped: batches whose update was not finite. opt covers the
  parameters that the current stage trains. carry: recurrent state with rows leading, or None.
  """

  step: Array
  cursor: Array
  skipped: Array
  params: dict
  opt: Any
  carry: Any


def init_state(objective: Objective, optimizer: Optimizer, seed: int, freeze: tuple[str, ...], batch: Any) -> State:
  """A fresh state; every leaf is a function of the seed. `batch` gives shapes only."""
  params = objective.init(jax.random.fold_in(jax.random.key(seed), 0), batch)
  zero = jnp.zeros((), jnp.int32)
  return State(zero, zero, zero, params, init_opt(optimizer, params, freeze), objective.carry(batch))


def init_opt(optimizer: Optimizer, params: dict, freeze: tuple[str, ...]) -> Any:
  """The optimiser's state for the parameters that `freeze` leaves trainable."""
  return optimizer.transform.init(split(params, freeze)[0])


def state_shardings(state: State, objective: Objective, mesh: Mesh, over_data: str) -> State:
  """NamedShardings in the tree of `state` (arrays or shapes). over_data: models.sharding.SHARD_OVER_DATA."""
  whole = NamedSharding(mesh, P())
  params = parameter_shardings(state.params, objective.axes(), mesh, over_data == "all")
  moments = parameter_shardings(state.params, objective.axes(), mesh, over_data in ("all", "optimizer"))
  shapes = {path: leaf.shape for path, leaf in named_leaves(state.params).items()}
  return State(
    whole, whole, whole, params, like_parameters(state.opt, shapes, named_leaves(moments), mesh),
    jax.tree.map(lambda _: row_sharding(mesh), state.carry),
  )  # fmt: skip


def abstract(state: State, shardings: State) -> State:
  """ShapeDtypeStructs with shardings: what a checkpoint is restored into."""
  return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), state, shardings)


def enter_stage(
  state: State, optimizer: Optimizer, freeze: tuple[str, ...], reset_optimizer: bool, copy: Mapping[str, str]
) -> State:
  """The state at the start of a stage: parameters copied, moments kept where they go on, fresh where training starts.

  Args:
    freeze: patterns of the parameters that this stage leaves alone; they have no moments.
    copy: {from: to} subtrees of the parameters, as paths; each leaf below `from` replaces its namesake below `to`.
  """
  params = copy_subtrees(state.params, copy)
  fresh = init_opt(optimizer, params, freeze)
  old = {} if reset_optimizer else named_leaves(state.opt)
  opt = map_named(lambda path, leaf: old.get(path, leaf), fresh)
  return dataclasses.replace(state, params=params, opt=opt)


def copy_subtrees(params: dict, copy: Mapping[str, str]) -> dict:
  """`params` with every leaf below a source path copied to its namesake below the target; both must exist alike."""
  leaves = named_leaves(params)
  for source, target in copy.items():
    names = [path[len(source) :] for path in leaves if path.startswith(f"{source}/")]
    if not names:
      raise ValueError(f"stages.copy: no parameter stands below {source}")
    for name in names:
      if target + name not in leaves:
        raise ValueError(f"stages.copy: {source + name} has no counterpart {target + name}")
      if leaves[target + name].shape != leaves[source + name].shape:
        got, want = leaves[source + name].shape, leaves[target + name].shape
        raise ValueError(f"stages.copy: {source + name} has shape {got}, want {want} of {target + name}")
      leaves[target + name] = leaves[source + name]
  return merge(*({path: leaf} for path, leaf in leaves.items()))
