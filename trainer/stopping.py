"""Ending on request: SIGTERM, SIGINT and SIGUSR1 (SLURM's warning) let the current step finish, save, and exit."""

from __future__ import annotations

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped on request with everything saved; the same command goes on
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
  """Context manager: `reached` once one of the signals has come. A second signal ends the process at once.

  In a run of several processes jax.distributed listens for SIGTERM itself, so that all agree on a step; nothing is
  taken from it here.
  """

  def __init__(self):
    self._signal: int | None = None

  def __enter__(self) -> StopRequest:
    signals = _SIGNALS if jax.process_count() == 1 else ()
    self._before = {number: signal.signal(number, self._take) for number in signals}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _take(self, number: int, frame: FrameType | None) -> None:
    self._signal = number
    signal.signal(number, signal.SIG_DFL)

  def reached(self, step: int) -> bool:
    """Whether to stop before the next step. Processes of one run agree on the step through jax.distributed."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._signal is not None

  @property
  def name(self) -> str:
    return signal.Signals(self._signal).name if self._signal else "preemption notice"
