"""The ledger of rollbacks: which checkpoints still belong to the run, and from which batch the run goes on.

A rollback to checkpoint s with cursor c opens a new generation: checkpoints of older generations above s are void, and
s itself, when it is the one restored, continues at batch c instead of its own.
"""

from __future__ import annotations

from pathlib import Path

from trainer.faults import fault_point
from trainer.manifest import CheckpointError, Manifest, read_sealed, write_sealed

LEDGER = "rollbacks.json"


class Rollbacks:
  """`rollbacks.json`: a list of {step, cursor, generation}, oldest first; generations count from 1."""

  def __init__(self, directory: Path):
    """Raises CheckpointError if the ledger is damaged: without it no checkpoint can be told from a void one."""
    self._path = directory / LEDGER
    self.entries: list[dict[str, int]] = []
    try:
      self.entries = read_sealed(self._path)
    except FileNotFoundError:
      pass
    except CheckpointError as error:
      raise CheckpointError(f"rollback ledger {error}; bring the file back from a copy") from error

  @property
  def generation(self) -> int:
    """Rollbacks committed so far."""
    return len(self.entries)

  def commit(self, step: int, cursor: int, write: bool) -> None:
    """From here on the run continues from checkpoint `step` at batch `cursor`. A kill leaves it done or not.

    One process of a run has `write`; the others only take note.
    """
    entries = [*self.entries, {"step": step, "cursor": cursor, "generation": self.generation + 1}]
    if write:
      fault_point("before_rollback")
      write_sealed(self._path, entries)
      fault_point("after_rollback")
    self.entries = entries

  def is_void(self, manifest: Manifest) -> bool:
    """True for a checkpoint that a later rollback left behind.

    Raises:
      CheckpointError: the checkpoint knows of more rollbacks than the ledger.
    """
    if manifest.generation > self.generation:
      raise CheckpointError(
        f"{self._path}: lists {self.generation} rollbacks, checkpoint {manifest.step} was saved after"
        f" {manifest.generation}; bring the file back from a copy"
      )
    return any(entry["step"] < manifest.step for entry in self.entries[manifest.generation :])

  def cursor(self, manifest: Manifest) -> int:
    """The batch from which the run goes on after restoring this checkpoint."""
    later = [entry["cursor"] for entry in self.entries[manifest.generation :] if entry["step"] == manifest.step]
    return later[-1] if later else manifest.cursor
