"""How leaves travel between devices and disk: whole host arrays, one Orbax tree per item.

Leaves are gathered to the host before writing and placed by their sharding after reading, so nothing on disk knows of a
mesh. In a run of many processes process 0 writes alone and every process reads alone; what they must agree on goes
through the two collectives at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from trainer.manifest import MismatchError, leaf_name, state_leaves, to_host

_LISTED = 3  # differences that a mismatch message spells out


def host_copy(state: Any) -> dict[str, np.ndarray]:
  """Every leaf of a state by path, in memory that no later step can touch."""
  leaves = state_leaves(state)
  for leaf in leaves.values():
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
      leaf.copy_to_host_async()
  return {path: _own(leaf) for path, leaf in leaves.items()}


def _own(leaf: Any) -> np.ndarray:
  array = to_host(leaf)  # may be a view of a buffer that the next step donates
  return array if isinstance(leaf, jax.Array) and array.flags.owndata else array.copy()


def write_item(directory: Path, host: dict[str, np.ndarray], item: str) -> bool:
  """Writes the leaves of one item as an Orbax tree of nested dicts; False if there are none."""
  tree: dict[str, Any] = {}
  for path, array in host.items():
    first, *folders = path.split("/")
    if first == item:
      inner = tree
      for folder in folders[:-1]:
        inner = inner.setdefault(folder, {})
      inner[folders[-1]] = array
  if tree:
    with _checkpointer() as checkpointer:
      checkpointer.save(directory / item, args=ocp.args.PyTreeSave(tree))
  return bool(tree)


def read_item(directory: Path, item: str) -> Any:
  """The nested dicts of NumPy arrays that `write_item` wrote."""
  with _checkpointer() as checkpointer:
    return checkpointer.restore(directory / item, args=ocp.args.PyTreeRestore())


def _checkpointer() -> ocp.Checkpointer:
  me = jax.process_index()  # without barriers: the other processes are not at this point
  alone = ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def place(array: np.ndarray, abstract: Any) -> jax.Array:
  """`array` on the devices of `abstract.sharding`, or on the default device where it has none."""
  sharding = getattr(abstract, "sharding", None)
  if sharding is None:
    return jax.device_put(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_tree(host: dict[str, np.ndarray], abstract: Any, item: str) -> Any:
  """A tree like `abstract` from host arrays by path; takes them out of `host`, so that each is freed once placed."""
  return jax.tree_util.tree_map_with_path(lambda path, leaf: place(host.pop(leaf_name(item, path)), leaf), abstract)


def refuse_mismatch(where: Path, stored: dict[str, list], want: dict[str, Any]) -> None:
  """Raises MismatchError, naming the leaves, if paths, shapes or dtypes differ; nothing is ever cast or reshaped."""
  differences = []
  for path in sorted(stored.keys() | want.keys()):
    got = _describe(*stored[path][:2]) if path in stored else "missing"
    wanted = _describe(want[path].dtype, want[path].shape) if path in want else "no such leaf"
    if got != wanted:
      differences.append(f"{path}: got {got}, want {wanted}")
  if differences:
    more = f"; and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
    listed = "; ".join(differences[:_LISTED])
    raise MismatchError(f"checkpoint {where} does not fit this run: {listed}{more}; use the config it was saved with")


def _describe(dtype: Any, shape: Any) -> str:
  return f"{np.dtype(dtype)}{list(shape)}"


def from_first_process(numbers: list[int]) -> list[int]:
  """Process 0's list, on every process."""
  if jax.process_count() == 1:
    return numbers
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
  mine = np.zeros(size, np.int32)
  mine[: len(numbers)] = numbers[:size]
  return multihost_utils.broadcast_one_to_all(mine).tolist()


def on_all_processes(fact: bool) -> bool:
  """True if it holds on every process; a barrier as well."""
  return fact if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(fact))))
