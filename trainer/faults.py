"""Named points where a test can kill the process, to prove that a run survives being killed exactly there."""

from __future__ import annotations

import collections
import os
import signal

_passed: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
  """SIGKILLs this process if the environment says `SEPTET_KILL_AT=<name>` or `<name>:<n>`, at the n-th passage."""
  wanted, _, count = os.environ.get("SEPTET_KILL_AT", "").partition(":")
  if wanted == name:
    _passed[name] += 1
    if _passed[name] == int(count or 1):
      os.kill(os.getpid(), signal.SIGKILL)
