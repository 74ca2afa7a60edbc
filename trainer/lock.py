"""One run per workdir.

The lock is `flock` on `WORKDIR/run.lock`, held for as long as the process lives: the kernel drops it when the process
dies, however it dies, so a lock can never be stale and a reused pid can never hold one. What stands in the file only
tells a person who holds it. Across hosts this is as good as the file system's `flock` (NFS 4 and most cluster file
systems pass it on; one mounted with host-local locks does not). In a run of many processes, process 0 takes it.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import logging
import os
import socket
import time
from pathlib import Path

LOCK = "run.lock"


class LockError(ValueError):
  """The workdir is in use, or its file system cannot tell."""


class RunLock:
  """Context manager: the only run on `workdir` (created if missing) until it exits.

  Raises:
    LockError: at once, naming the host and pid of the run that holds it.
  """

  def __init__(self, workdir: str | os.PathLike):
    self._path = Path(workdir) / LOCK
    self._descriptor: int | None = None
    os.register_at_fork(after_in_child=self._forget)  # a worker that outlives this process must not hold its lock

  def __enter__(self) -> RunLock:
    try:
      self._acquire()
    except BlockingIOError:
      self._forget()
      holder = _holder(self._path)
      raise LockError(f"workdir {self._path.parent} is in use by {holder}; stop it or use another") from None
    except (FileExistsError, NotADirectoryError):
      self._forget()
      raise LockError(f"workdir {self._path.parent}: is a file or lies in one, want a folder") from None
    except OSError as error:
      self._forget()
      raise LockError(f"cannot lock {self._path}: {error.strerror}; want a writable disk with flock") from error
    return self

  def _acquire(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    left = self._path.read_text(errors="replace")
    if left:
      logging.warning("took over the lock on %s left behind by %s", self._path.parent, _describe(left))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    self._write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}))

  def __exit__(self, *_) -> None:
    if self._descriptor is not None:
      self._write("")  # the file stays: removing it would let a third run lock another file of the same name
      fcntl.flock(self._descriptor, fcntl.LOCK_UN)
      self._forget()

  def _write(self, text: str) -> None:
    os.ftruncate(self._descriptor, 0)
    os.pwrite(self._descriptor, text.encode(), 0)

  def _forget(self) -> None:
    if self._descriptor is not None:
      os.close(self._descriptor)
      self._descriptor = None


def _holder(path: Path) -> str:
  for _ in range(10):  # the holder writes its name right after locking
    text = path.read_text(errors="replace")
    if text:
      return _describe(text)
    time.sleep(0.1)
  return "a process that did not write its name"


def _describe(text: str) -> str:
  try:
    info = json.loads(text)
    return f"pid {info['pid']} on host {info['host']} since {info['since']}"
  except (ValueError, KeyError, TypeError):
    return f"an unknown process (the lock file says {text[:80]!r})"
