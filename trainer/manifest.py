"""What makes a checkpoint trustworthy: digests of leaves and files, and small JSON files that prove themselves whole.

A leaf's digest is SHA-256 over its bytes in C order; together with its path, dtype and shape it identifies the leaf on
any mesh. Array files carry no checksum of their own, so a flipped bit in them would load without a word.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

MANIFEST = "manifest.json"
POSITIONS = ("step", "cursor", "skipped")
ITEMS = ("params", "opt", "carry")


class CheckpointError(ValueError):
  """A checkpoint that cannot be written, trusted or used here; one line: what, where, got, want, what to do."""


class MismatchError(CheckpointError):
  """A sound checkpoint of another model, optimiser or batch size than this run's."""


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What stands in `STEP/manifest.json`. `leaves`: path -> [dtype, shape, sha256]; `files`: path -> [bytes, sha256]."""

  step: int
  cursor: int
  skipped: int
  generation: int  # rollbacks committed before this state was reached
  scheduled: bool
  permanent: bool
  saved_at: str  # UTC, ISO 8601
  state_sha256: str
  meta: dict[str, Any]
  leaves: dict[str, list]
  files: dict[str, list]


def leaf_name(item: str, path: tuple) -> str:
  """`params/layers/attention/query/kernel` for a key path inside params; `carry/value` where the item is one array."""
  return f"{item}/{jax.tree_util.keystr(path, simple=True, separator='/') or 'value'}"


def named_leaves(tree: Any, item: str) -> dict[str, Any]:
  """The leaves of `tree` by `leaf_name`, in path order."""
  named = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = leaf_name(item, path)
    if name in named:
      raise CheckpointError(f"state has two leaves called {name}: want one name each, rename a key that holds a '/'")
    named[name] = leaf
  return dict(sorted(named.items()))


def state_leaves(state: Any) -> dict[str, Any]:
  """Every leaf of a `State` by path, in path order; `step`, `cursor` and `skipped` go by their own names."""
  named = {name: getattr(state, name) for name in POSITIONS}
  for item in ITEMS:
    named |= named_leaves(getattr(state, item), item)
  return dict(sorted(named.items()))


def to_host(leaf: Any) -> np.ndarray:
  """The whole leaf on this host; a collective where other processes hold parts of it."""
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    leaf = leaf.addressable_data(0) if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)
  return np.asarray(leaf)


def leaf_record(array: np.ndarray) -> list:
  """[dtype, shape, sha256] of a host array."""
  flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return [str(array.dtype), list(array.shape), hashlib.sha256(flat).hexdigest()]


def records_digest(records: dict[str, list]) -> str:
  """SHA-256 over [path, dtype, shape, sha256] of every leaf, in path order."""
  text = json.dumps([[path, *record] for path, record in sorted(records.items())])
  return hashlib.sha256(text.encode()).hexdigest()


def state_digest(state: Any) -> str:
  """SHA-256 (hex) of step, cursor, skipped and every leaf of params, opt and carry, each with path, dtype and shape.

  Leaves come to the host one by one; how they are sharded does not matter.
  """
  return records_digest({path: leaf_record(to_host(leaf)) for path, leaf in state_leaves(state).items()})


def file_records(directory: Path) -> dict[str, list]:
  """{relative path: [bytes, sha256]} of all files under `directory`; flushes them and the directories to the disk."""
  records = {}
  for folder, _, names in os.walk(directory):
    for name in names:
      path = Path(folder, name)
      records[path.relative_to(directory).as_posix()] = _file_record(path, flush=True)
    sync_directory(Path(folder))
  return dict(sorted(records.items()))


def file_problems(directory: Path, files: dict[str, list]) -> Iterator[str]:
  """One line for every file of `files` that is not on disk as it was written."""
  for name, (size, digest) in files.items():
    try:
      got = (directory / name).stat().st_size
      if got != size:
        yield f"{name}: got {got} bytes, want {size}"
      elif _file_record(directory / name)[1] != digest:
        yield f"{name}: contents differ from the SHA-256 taken when it was written"
    except OSError as error:
      yield f"{name}: {error.strerror}"


def _file_record(path: Path, flush: bool = False) -> list:
  with path.open("rb") as file:
    if flush:
      os.fsync(file.fileno())
    return [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def sync_directory(directory: Path) -> None:
  """Flushes a directory's entries (new names, renames) to the disk."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_sealed(path: Path, body: Any) -> None:
  """Writes `body` as JSON with its own SHA-256; after a kill the file is either as before or complete."""
  temporary = path.with_name(path.name + ".tmp")
  with temporary.open("w", encoding="utf-8") as file:
    json.dump({"sha256": _seal(body), "body": body}, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)
  sync_directory(path.parent)


def read_sealed(path: Path) -> Any:
  """The body of a file from `write_sealed`.

  Raises:
    FileNotFoundError: there is none.
    CheckpointError: it cannot be read or is not what was written.
  """
  try:
    sealed = json.loads(path.read_bytes())
    if sealed["sha256"] == _seal(sealed["body"]):
      return sealed["body"]
  except FileNotFoundError:
    raise
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise CheckpointError(f"{path} is unreadable: {error}") from error
  raise CheckpointError(f"{path} is damaged: contents differ from its own SHA-256")


def _seal(body: Any) -> str:
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> Manifest:
  """The manifest of a step directory.

  Raises:
    CheckpointError: there is none, it is damaged, or it belongs to another step.
  """
  try:
    manifest = Manifest(**read_sealed(directory / MANIFEST))
  except FileNotFoundError:
    raise CheckpointError(f"{directory / MANIFEST} is missing") from None
  except TypeError as error:
    raise CheckpointError(f"{directory / MANIFEST} is of another version: {error}") from error
  if str(manifest.step) != directory.name:
    raise CheckpointError(f"{directory / MANIFEST}: got step {manifest.step}, want {directory.name}")
  return manifest
