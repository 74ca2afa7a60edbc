"""Checkpoints of a run, and the promise that one which is listed as good is the state that was saved.

    DIR/STEP/{params,opt,carry}  three Orbax trees of whole arrays, so that params restore alone, onto any mesh
    DIR/STEP/manifest.json       position, meta, digests of leaves (of the host copy, before writing) and files (after)
    DIR/rollbacks.json           the ledger of rollbacks

A step is written as `STEP.tmp` and renamed once its manifest stands; what is superseded goes only after that. A kill at
any instant therefore leaves the previous good step or the new one. In a run of many processes every process calls the
same methods; process 0 writes. DIR is on a POSIX file system that all of them see.

    python -m trainer.checkpoints {ls,verify} DIR
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer import storage
from trainer.faults import fault_point
from trainer.manifest import (
  ITEMS,
  MANIFEST,
  POSITIONS,
  CheckpointError,
  Manifest,
  file_records,
  leaf_record,
  records_digest,
  sync_directory,
  write_sealed,
)
from trainer.restore import Reader, first_line

_LEFTOVERS = ("tmp", "deleted", "replaced")  # suffixes of directories that a kill can leave behind
_WRITE_ERRORS = (OSError, ValueError, RuntimeError)  # a full or failing disk, as the kernel or tensorstore puts it


class Checkpoints(Reader):
  """The checkpoints of a running training, one at a time on a directory (RunLock): saves, rolls back, deletes."""

  def __init__(self, directory: str | os.PathLike, keep: int, max_failures: int = 3):
    """Opens or creates the directory and clears what a kill left there.

    Args:
      directory: holds one directory per step.
      keep: how many of the newest good steps stay, at least 1.
      max_failures: saves that may fail in a row before the run is stopped.
    Raises:
      CheckpointError: the ledger of rollbacks is damaged, or the directory cannot be written.
    """
    super().__init__(directory)
    if keep < 1:
      raise CheckpointError(f"checkpoints to keep: got {keep}, want 1 or more")
    self._keep, self._max_failures = keep, max_failures
    self._best: tuple[int, ...] = ()
    self._writes = jax.process_index() == 0
    self._worker = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
    self._pending: tuple[int, concurrent.futures.Future] | None = None
    self._failures = 0
    if self._writes:
      try:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._clean()
      except OSError as error:
        raise CheckpointError(f"checkpoints at {self.directory} cannot be written: {error.strerror}") from error

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, kind, *_) -> None:
    if kind is None:
      self.close()
    else:
      self._worker.shutdown()  # lets a save in flight finish; the error on its way out is the one to report

  def save(
    self, state: Any, meta: dict[str, Any], *, scheduled: bool, permanent: bool = False, wait: bool = False
  ) -> None:
    """Saves `state` as step `state.step`; returns once it is copied to the host, the rest happens behind the loop.

    Saving a state that already stands only adds its flags. A failed save is logged by the next call of any method.

    Args:
      state: a State; the arrays may be donated afterwards.
      meta: JSON values (config, data fingerprint ...), returned by `restore`.
      scheduled: saved at a step that the config names, so that an uninterrupted run has it too; rollbacks go to these.
      permanent: never deleted (stage boundaries).
      wait: return when the checkpoint is good; raise otherwise.
    Raises:
      CheckpointError: `max_failures` saves in a row failed, or with `wait` this one.
    """
    self._collect(block=True)
    fault_point("before_save")
    host = storage.host_copy(state)
    if self._writes:
      draft = Manifest(
        **{name: int(host[name]) for name in POSITIONS},
        generation=self.rollbacks.generation,
        scheduled=scheduled,
        permanent=permanent,
        saved_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        state_sha256="",
        meta=json.loads(json.dumps(meta)),
        leaves={},
        files={},
      )
      self._pending = (draft.step, self._worker.submit(self._commit, draft, host))
    if wait:
      self.wait()

  def keep_best(self, step: int) -> None:
    """Has a step stay whatever its age, until there is a better one, and the one before it until this one is saved."""
    if step not in self._best:
      self._best = (*self._best[-1:], step)

  def check(self) -> None:
    """Logs a save that has failed since; cheap enough for every step. Raises CheckpointError as `save` does."""
    self._collect(block=False)

  def wait(self) -> None:
    """Returns when nothing is being written. Raises CheckpointError if the last save failed."""
    failure = self._collect(block=True)
    if not storage.on_all_processes(failure is None):
      raise CheckpointError(failure or f"process 0 could not save to {self.directory}")

  def close(self) -> None:
    """`wait`, then no more saves."""
    try:
      self.wait()
    finally:
      self._worker.shutdown()

  def _settle(self) -> None:
    """Returns when every process can see the outcome of the save in flight."""
    self._collect(block=True)
    storage.on_all_processes(True)

  def _collect(self, block: bool) -> str | None:
    """The failure of the save in flight, if it is over (or waited for) and failed."""
    if self._pending is None or not (block or self._pending[1].done()):
      return None
    (step, future), self._pending = self._pending, None
    error = future.exception()
    if error is None:
      self._failures = 0
      return None
    if not isinstance(error, _WRITE_ERRORS):
      raise error
    self._failures += 1
    line = (
      f"saving checkpoint {self.step_directory(step)} failed ({self._failures} in a row, stop at {self._max_failures}):"
      f" {first_line(error)}; good steps: {self.good_steps()}; free the disk or make it writable"
    )
    logging.error(line)
    if self._failures >= self._max_failures:
      raise CheckpointError(line) from error
    return line

  def _commit(self, draft: Manifest, host: dict[str, np.ndarray]) -> None:
    """In the worker: digests, files, manifest, rename, then retention."""
    target, temporary = self.step_directory(draft.step), self.step_directory(draft.step, "tmp")
    leaves = {path: leaf_record(array) for path, array in host.items()}
    draft = dataclasses.replace(draft, leaves=leaves, state_sha256=records_digest(leaves))
    if self._stands(draft):
      return
    try:
      shutil.rmtree(temporary, ignore_errors=True)
      temporary.mkdir()
      for item in ITEMS:
        if storage.write_item(temporary, host, item):
          fault_point("during_write")
      fault_point("before_manifest")
      files = file_records(temporary)
      write_sealed(temporary / MANIFEST, dataclasses.asdict(dataclasses.replace(draft, files=files)))
      fault_point("after_manifest")
      self._put_in_place(temporary, target)
    except BaseException:
      shutil.rmtree(temporary, ignore_errors=True)  # gives a full disk its space back
      raise
    fault_point("after_commit")
    self._retain()

  def _stands(self, draft: Manifest) -> bool:
    """True if the same training state is already saved as this step; adds the flags of `draft` to it."""
    standing = self.manifests().get(draft.step)
    if standing is None or self.rollbacks.is_void(standing) or standing.leaves.keys() != draft.leaves.keys():
      return False
    # a skipped batch or a rollback moves cursor or skipped alone; going on from the standing one repeats the same skips
    moved = {path for path, record in draft.leaves.items() if standing.leaves[path] != record}
    if not moved <= {"cursor", "skipped"} or self.verify(draft.step):
      return False
    flags = {name: getattr(standing, name) or getattr(draft, name) for name in ("scheduled", "permanent")}
    merged = dataclasses.replace(standing, **flags)
    if merged != standing:
      write_sealed(self.step_directory(draft.step) / MANIFEST, dataclasses.asdict(merged))
    return True

  def _put_in_place(self, temporary: Path, target: Path) -> None:
    replaced = target.with_name(f"{target.name}.replaced")
    if target.exists():
      target.rename(replaced)
      fault_point("during_replace")
    temporary.rename(target)
    sync_directory(self.directory)
    if replaced.exists():
      shutil.rmtree(replaced)

  def _retain(self) -> None:
    """Deletes what is neither among the newest `keep`, nor permanent, nor the best, nor the newest scheduled one."""
    found = self.manifests()
    live = {step: m for step, m in found.items() if not self.rollbacks.is_void(m)}
    newest = sorted(live)[-self._keep :]
    kept = {*newest, *self._best, *(step for step, m in live.items() if m.permanent)}
    kept |= set(sorted(step for step, m in live.items() if m.scheduled)[-1:])
    for step in sorted(found.keys() - kept):
      doomed = self.step_directory(step, "deleted")
      self.step_directory(step).rename(doomed)  # a half-deleted step never stands under its number
      fault_point("during_retention")
      shutil.rmtree(doomed)
    for step in self._suffixed("damaged"):
      if step < newest[0]:
        shutil.rmtree(self.step_directory(step, "damaged"))

  def _clean(self) -> None:
    """Undoes or finishes what a kill interrupted."""
    for step in self._suffixed("replaced"):
      if not self.step_directory(step).exists():
        self.step_directory(step, "replaced").rename(self.step_directory(step))
    for suffix in _LEFTOVERS:
      for step in self._suffixed(suffix):
        shutil.rmtree(self.step_directory(step, suffix))

  def _suffixed(self, suffix: str) -> list[int]:
    return [int(path.stem) for path in self.directory.glob(f"*.{suffix}") if path.stem.isdigit()]

  def _load(self, *request) -> tuple[Manifest, dict[str, np.ndarray]] | None:
    self._settle()
    return super()._load(*request)

  def _refused(self, steps: list[int]) -> None:
    """Renames damaged steps, so that retention does not count them and the run can save them anew."""
    for step in steps if self._writes else ():
      shutil.rmtree(self.step_directory(step, "damaged"), ignore_errors=True)
      self.step_directory(step).rename(self.step_directory(step, "damaged"))

  def rollback_target(self) -> int | None:
    """The newest good scheduled step: the same one in an interrupted and an uninterrupted run."""
    self._settle()
    live = [step for step, m in self.manifests().items() if m.scheduled and not self.rollbacks.is_void(m)]
    return max(live, default=None)

  def rollback(self, to_step: int, cursor: int) -> None:
    """Commits that the run continues from checkpoint `to_step` at batch `cursor`; `restore` then returns that state.

    Good steps above `to_step` are void from here on and deleted by a later save. After a kill it is done or not done.

    Raises:
      CheckpointError: `to_step` is no good step, or `cursor` is not past the batch where that step continues already.
    """
    self._settle()
    if to_step not in self.good_steps():
      raise CheckpointError(f"rollback in {self.directory}: got step {to_step}, want one of {self.good_steps()}")
    continues = self.rollbacks.cursor(self.manifests()[to_step])
    if cursor <= continues:
      raise CheckpointError(f"rollback to step {to_step}: got cursor {cursor}, want more than its own {continues}")
    storage.on_all_processes(True)  # nobody reads the ledger any more
    self.rollbacks.commit(to_step, cursor, write=self._writes)
    storage.on_all_processes(True)  # it stands before anybody goes on


def list_steps(reader: Reader) -> dict[str, Any]:
  """Prints a line for every step directory."""
  known, good = reader.manifests(), reader.good_steps()
  for step in reader.steps():
    if step in known:
      m = known[step]
      flags = [name for name, on in (("scheduled", m.scheduled), ("permanent", m.permanent)) if on]
      flags += [] if step in good else ["left behind by a rollback"]
      size = sum(size for size, _ in m.files.values())
      print(f"{step:>9}  cursor {m.cursor:>9}  {size / 1e6:>9.1f} MB  {m.saved_at}  {', '.join(flags)}")
    else:
      print(f"{step:>9}  not good: {reader.verify(step)[0]}")
  return {"steps": reader.steps(), "good": good}


def verify_steps(reader: Reader) -> dict[str, Any]:
  """Reads every file of every step and prints what is wrong."""
  damaged = {step: problems for step in reader.steps() if (problems := reader.verify(step))}
  for step in reader.steps():
    print(f"{step:>9}  {'; '.join(damaged[step]) if step in damaged else 'ok'}")
  return {"checked": len(reader.steps()), "damaged": damaged}


def main(arguments: list[str] | None = None) -> int:
  """Lists or verifies a directory of checkpoints. Exit code 1: a step is damaged; 2: no such directory or no ledger."""
  parser = argparse.ArgumentParser(prog="python -m trainer.checkpoints", description=main.__doc__)
  parser.add_argument("command", choices=("ls", "verify"))
  parser.add_argument("directory", help="the directory that holds one directory per step")
  flags = parser.parse_args(arguments)
  try:
    if not Path(flags.directory).is_dir():
      raise CheckpointError(f"{flags.directory} is no directory: want the one that holds one directory per step")
    summary = {"ls": list_steps, "verify": verify_steps}[flags.command](Reader(flags.directory))
  except CheckpointError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(json.dumps({"directory": flags.directory, **summary}))
  return 1 if summary.get("damaged") else 0


if __name__ == "__main__":
  sys.exit(main())
