"""A child process that works only when told, so that several take turns on the same cores."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Worker:
  """Runs a command that answers every line of its stdin, and its own start, with one JSON line.

  Attributes:
    role: its name.
    first: what it said when it was ready.
  """

  def __init__(self, role: str, command: Sequence[str], environment: Mapping[str, str] | None = None):
    self.role = role
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    self.first = self._answer()

  def ask(self, **what: Any) -> Any:
    """What it answers to a JSON line."""
    self.process.stdin.write(json.dumps(what) + "\n")
    self.process.stdin.flush()
    return self._answer()

  def close(self) -> None:
    self.process.stdin.close()
    self.process.wait()

  def _answer(self) -> Any:
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f"error: the {self.role} worker ended; its message stands above")
    return json.loads(line)


def in_turn(workers: Sequence[Worker], number: int) -> list[Worker]:
  """The workers in the order of round `number`: each is first as often as the others."""
  first = number % len(workers)
  return [*workers[first:], *workers[:first]]
