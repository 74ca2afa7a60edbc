"""Finding and reading checkpoints: nothing is handed out that is not equal, leaf by leaf, to what was saved."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer import storage
from trainer.manifest import (
  ITEMS,
  POSITIONS,
  CheckpointError,
  Manifest,
  MismatchError,
  file_problems,
  leaf_record,
  named_leaves,
  read_manifest,
  state_leaves,
)
from trainer.rollbacks import Rollbacks

_READ_ERRORS = (OSError, ValueError, RuntimeError, LookupError)  # how Orbax and tensorstore say that they cannot read


class Reader:
  """The checkpoints in a directory, for reading: nothing is changed, and a run may be writing to it."""

  def __init__(self, directory: str | os.PathLike):
    """Raises CheckpointError if the ledger of rollbacks is damaged."""
    self.directory = Path(directory).absolute()
    self.rollbacks = Rollbacks(self.directory)

  def good_steps(self) -> list[int]:
    """Steps whose manifest stands and that no rollback left behind, ascending. Reads manifests only."""
    return sorted(step for step, m in self.manifests().items() if not self.rollbacks.is_void(m))

  def verify(self, step: int) -> list[str]:
    """What is wrong with a step's files, one line each; nothing if they are as they were written."""
    try:
      directory = self.step_directory(step)
      return list(file_problems(directory, read_manifest(directory).files))
    except CheckpointError as error:
      return [str(error)]

  def read_meta(self, step: int | None = None) -> dict[str, Any] | None:
    """What `restore` returns as meta, without reading arrays: of the newest good step, None if there is none."""
    steps = self.good_steps() if step is None else self._candidates(step)
    return self._meta(read_manifest(self.step_directory(steps[-1]))) if steps else None

  def restore(self, abstract_at: Callable[[int], Any], step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
    """The newest good state (or that of `step`), proved equal to what was saved, and its meta.

    A damaged step is logged and the next older one is tried. Steps that a rollback left behind are passed over; the
    target of a rollback continues at the batch that the rollback named.

    Args:
      abstract_at: step -> the State of jax.ShapeDtypeStruct that a run has there (stages differ in what they train);
        their shardings say where each leaf goes.
      step: this step and no other.
    Returns:
      (State, meta) with step, cursor, skipped, generation, scheduled and permanent in meta; None if nothing was saved.
    Raises:
      MismatchError: a leaf is missing, extra or of another shape or dtype than in that State.
      CheckpointError: checkpoints exist and none of them is good, or `step` is not.
    """
    found = self._load(step, lambda number: state_leaves(abstract_at(number)), (*POSITIONS, *ITEMS))
    if found is None:
      return None
    manifest, host = found
    meta, abstract_state = self._meta(manifest), abstract_at(manifest.step)
    host["cursor"] = np.asarray(meta["cursor"], host["cursor"].dtype)
    fields: dict[str, Any] = {name: storage.place(host[name], getattr(abstract_state, name)) for name in POSITIONS}
    for item in ITEMS:
      fields[item] = storage.place_tree(host, getattr(abstract_state, item), item)
    return dataclasses.replace(abstract_state, **fields), meta

  def restore_params(self, abstract_params: Any, step: int | None = None) -> tuple[Any, dict[str, Any]] | None:
    """As `restore`, of the parameters alone: the other files of the step need not exist."""
    leaves = named_leaves(abstract_params, "params")
    found = self._load(step, lambda number: leaves, ("params",))
    if found is None:
      return None
    manifest, host = found
    return storage.place_tree(host, abstract_params, "params"), self._meta(manifest)

  def _load(
    self, step: int | None, want: Callable[[int], dict[str, Any]], parts: tuple[str, ...]
  ) -> tuple[Manifest, dict[str, np.ndarray]] | None:
    candidates, rejected, reason = self._candidates(step), [], ""
    for candidate in storage.from_first_process(candidates):
      where, found, problem = self.step_directory(candidate), None, "another process cannot read it"
      try:
        found = self._read(where, want(candidate), parts)
      except MismatchError:
        raise
      except CheckpointError as error:
        problem = str(error)
      if storage.on_all_processes(found is not None):
        self._refused(rejected)
        return found
      rejected.append(candidate)
      reason = f"checkpoint {where} is damaged: {problem}"
      logging.warning(reason)
    if rejected:
      raise CheckpointError(f"no good checkpoint among {rejected}; {reason}; bring back a copy or use a new workdir")
    return None

  def _candidates(self, step: int | None) -> list[int]:
    """Steps to try, in order."""
    void = {number for number, m in self.manifests().items() if self.rollbacks.is_void(m)}
    steps = [number for number in reversed(self.steps()) if number not in void]
    if void and not steps:
      raise CheckpointError(f"{self.directory}: rollbacks left all of {sorted(void)} behind, their target is gone")
    if step is not None and step not in steps:
      state = "was left behind by a rollback" if step in void else "does not exist"
      raise CheckpointError(f"checkpoint {self.step_directory(step)} {state}: want one of {self.good_steps()}")
    return steps if step is None else [step]

  def _read(
    self, directory: Path, want: dict[str, Any], parts: tuple[str, ...]
  ) -> tuple[Manifest, dict[str, np.ndarray]]:
    """One step's host arrays by path, each equal to its digest."""
    manifest = read_manifest(directory)
    leaves = {path: record for path, record in manifest.leaves.items() if path.partition("/")[0] in parts}
    storage.refuse_mismatch(directory, leaves, want)
    files = {name: record for name, record in manifest.files.items() if name.partition("/")[0] in parts}
    for problem in file_problems(directory, files):
      raise CheckpointError(problem)
    host = {name: np.asarray(getattr(manifest, name), leaves[name][0]) for name in POSITIONS if name in leaves}
    for item in sorted({path.partition("/")[0] for path in leaves} & set(ITEMS)):
      try:
        host |= named_leaves(storage.read_item(directory, item), item)
      except _READ_ERRORS as error:
        raise CheckpointError(f"{item}: {first_line(error)}") from error
    for path, record in leaves.items():
      if path not in host or leaf_record(host[path]) != record:
        raise CheckpointError(f"{path}: contents differ from the SHA-256 of the array that was saved")
    return manifest, host

  def _refused(self, steps: list[int]) -> None:
    """Called with the damaged steps that were tried before the one that is restored."""

  def step_directory(self, step: int, suffix: str = "") -> Path:
    """DIR/STEP, or DIR/STEP.suffix for what is not, or no longer, a checkpoint."""
    return self.directory / (f"{step}.{suffix}" if suffix else str(step))

  def steps(self) -> list[int]:
    """Step directories, ascending, good or not."""
    return sorted(int(path.name) for path in self.directory.glob("[0-9]*") if path.name.isdigit() and path.is_dir())

  def manifests(self) -> dict[int, Manifest]:
    """The manifests that stand, by step; void ones included."""
    found = {}
    for step in self.steps():
      with contextlib.suppress(CheckpointError):  # not good; `restore` and `verify` say why
        found[step] = read_manifest(self.step_directory(step))
    return found

  def _meta(self, manifest: Manifest) -> dict[str, Any]:
    positions = {name: getattr(manifest, name) for name in (*POSITIONS, "generation", "scheduled", "permanent")}
    return {**manifest.meta, **positions, "cursor": self.rollbacks.cursor(manifest)}


def first_line(error: BaseException) -> str:
  """`Type: message` of an error in one line."""
  return f"{type(error).__name__}: {error}".strip().splitlines()[0]
