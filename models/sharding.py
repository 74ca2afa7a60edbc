"""Where parameters and batches live: parameter path -> axis names (each model's table), axis names -> mesh axes (here).

Mesh axes are `data` and `model`. A parameter without a rule, or a rule without a parameter, is an error that names it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.paths import map_named, named_leaves

Rules = Iterable[tuple[str, tuple[str | None, ...]]]

# Axis name -> mesh axis. `embed` moves to `data` where parameters or optimiser state shard over data on request.
MESH_AXES: dict[str, str | None] = {
  "vocab": "model",
  "entities": "model",
  "heads": "model",
  "mlp": "model",
  "embed": None,
  "head_dim": None,
  "copies": None,
}
# Axes that may stay whole when the mesh does not divide them (logged); any other is an error.
REPLICABLE = ("heads", "mlp", "embed")

# What shards over `data` besides the batch: nothing, the optimiser's moments (ZeRO-1), or parameters as well (FSDP).
SHARD_OVER_DATA = ("none", "optimizer", "all")


class ShardingError(ValueError):
  """A mesh that does not fit, or a parameter table that does not match the parameters."""


def make_mesh(data: int, model: int, devices: list | None = None) -> Mesh:
  """A (data, model) mesh over all devices; data = -1 takes what `model` leaves.

  Axis types are Auto: jax's default, Explicit, rejects plain array code.
  """
  devices = jax.devices() if devices is None else devices
  if data == -1:
    data = len(devices) // model
  if data < 1 or model < 1 or data * model != len(devices):
    raise ShardingError(
      f"mesh: got data={data} x model={model}, want a product of {len(devices)} (the devices here); "
      "set mesh.data=-1 to use what mesh.model leaves"
    )
  return Mesh(np.asarray(devices).reshape(data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def axis_names(params: Any, rules: Rules) -> dict[str, tuple[str | None, ...]]:
  """{path: axis names} by first match; raises ShardingError for unruled leaves, wrong ranks and unused rules."""
  rules = tuple(rules)
  used, names, problems = set(), {}, []
  for path, leaf in named_leaves(params).items():
    rule = next((i for i, (pattern, _) in enumerate(rules) if re.search(pattern, path)), None)
    if rule is None:
      problems.append(f"parameter {path} {tuple(leaf.shape)} has no sharding rule")
    elif len(rules[rule][1]) != len(leaf.shape):
      problems.append(f"parameter {path} {tuple(leaf.shape)} has rule {rules[rule][1]} of another rank")
    else:
      used.add(rule)
      names[path] = rules[rule][1]
  problems += [f"sharding rule {rules[i][0]} matches no parameter" for i in range(len(rules)) if i not in used]
  if problems:
    raise ShardingError("; ".join(problems))
  return names


def partition_spec(path: str, shape: tuple[int, ...], names: tuple[str | None, ...], mesh: Mesh, over_data: bool) -> P:
  """The PartitionSpec of one leaf. Axes of REPLICABLE that the mesh does not divide stay whole, and the log says so."""
  spec = []
  for size, name in zip(shape, names):
    axis = "data" if over_data and name == "embed" else MESH_AXES[name] if name else None
    if axis and axis not in spec and mesh.shape[axis] > 1:
      if size % mesh.shape[axis] == 0:
        spec.append(axis)
        continue
      if name not in REPLICABLE:
        raise ShardingError(
          f"parameter {path}: axis {name} of {size} is not a multiple of mesh.{axis}={mesh.shape[axis]}"
        )
      logging.info("parameter %s: axis %s of %d stays whole on mesh.%s=%d", path, name, size, axis, mesh.shape[axis])
    spec.append(None)
  return P(*spec)


def parameter_shardings(params: Any, rules: Rules, mesh: Mesh, over_data: bool = False) -> Any:
  """NamedShardings in the tree of `params` (arrays or ShapeDtypeStructs)."""
  names = axis_names(params, rules)
  return map_named(
    lambda path, leaf: NamedSharding(mesh, partition_spec(path, leaf.shape, names[path], mesh, over_data)), params
  )


def like_parameters(
  tree: Any, shapes: Mapping[str, tuple[int, ...]], shardings: Mapping[str, NamedSharding], mesh: Mesh
) -> Any:
  """Shardings for an optimiser state: leaves that mirror a parameter (path ends in its path, same shape) follow it.

  Args:
    tree: the optimiser's state or its shapes.
    shapes: {parameter path: shape}.
    shardings: {parameter path: sharding} that its moments take.
  """
  by_name: dict[str, list[str]] = {}
  for path in shapes:
    by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)

  def sharding(path: str, leaf: Any) -> NamedSharding:
    candidates = by_name.get(path.rsplit("/", 1)[-1], [])
    owner = max((p for p in candidates if f"/{path}".endswith(f"/{p}")), key=len, default=None)
    if owner is not None and tuple(leaf.shape) == tuple(shapes[owner]):
      return shardings[owner]
    if leaf.ndim:
      raise ShardingError(f"optimiser leaf {path} {tuple(leaf.shape)} mirrors no parameter")
    return NamedSharding(mesh, P())

  return map_named(sharding, tree)


def row_sharding(mesh: Mesh) -> NamedSharding:
  """Batches and recurrent carries: leading dimension over `data`."""
  return NamedSharding(mesh, P("data"))


def count_parameters(params: Any, rules: Rules, sizes: Mapping[str, int]) -> dict[str, int]:
  """{path: number of parameters}, with padded axes counted at their real size (`sizes`: vocab, entities)."""
  names = axis_names(params, rules)
  counts = {}
  for path, leaf in named_leaves(params).items():
    dims = (sizes.get(name, size) for size, name in zip(leaf.shape, names[path]))
    counts[path] = int(np.prod([*dims], dtype=np.int64))
  return counts
