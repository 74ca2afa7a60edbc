"""The training loop: one place for every stop, in a fixed order.

At a step where something is due: evaluate, write figures, enter the next stage, save. Only then is the next batch read.
Step k in a checkpoint means k applied updates; `cursor` says how many batches they took. The loop dispatches one step
ahead of what it knows, and settles what is in flight before anything that depends on it.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from data.batch import count_tokens
from trainer.checkpoints import Checkpoints
from trainer.evaluation import evaluate_all
from trainer.faults import fault_point
from trainer.feed import Feed
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.predictions import conclude
from trainer.logs import Live, MetricLog, better
from trainer.programs import Program, Setup
from trainer.start import Start
from trainer.stopping import StopRequest
from trainer.storage import from_first_process

IN_FLIGHT = 2  # steps dispatched before the oldest is read


class TrainingError(RuntimeError):
  """A run that cannot go on by itself."""


@dataclasses.dataclass
class _Window:
  """Figures since the last report."""

  figures: Any = None  # (sums, counts, statistics)
  last: Any = None
  tokens: int = 0
  slots: int = 0
  steps: int = 0
  since: float = dataclasses.field(default_factory=time.monotonic)

  def add(self, report: Any, tokens: tuple[int, int]) -> None:
    mine = (report.sums, report.counts, report.statistics)
    self.figures = mine if self.figures is None else jax.tree.map(np.add, self.figures, mine)
    self.last, self.steps = report, self.steps + 1
    self.tokens, self.slots = self.tokens + tokens[0], self.slots + tokens[1]


@dataclasses.dataclass(frozen=True)
class Parts:
  """What the loop works with."""

  setup: Setup
  feed: Feed
  program_at: Callable[[int], Program]
  checkpoints: Checkpoints
  log: MetricLog
  live: Live
  stop: StopRequest
  meta: dict[str, Any]  # goes into every checkpoint
  mfu: Callable[[Any, float], float | None] = lambda batch, seconds: None  # of one step on a host batch
  trace: Trace | None = None


@dataclasses.dataclass
class Trace:
  """A profiler trace of the steps from `first` up to `last`, written below `directory`."""

  first: int
  last: int
  directory: str
  running: bool = False

  def at(self, step: int, settle: Callable[[], None]) -> None:
    """Starts or ends the trace where `step` is the next to be dispatched."""
    if not self.running and self.first <= step < self.last:
      settle()
      jax.profiler.start_trace(self.directory)
      self.running = True
    elif self.running and step >= self.last:
      settle()
      jax.profiler.stop_trace()
      self.running = False
      logging.info("profiler trace of steps %d to %d is in %s", self.first, self.last, self.directory)


class Loop:
  """Trains from a start to the last step, or to one from which patience is out, through stages, evaluations, saves,
  skips and rollbacks.
  """

  def __init__(self, parts: Parts, start: Start):
    self.parts, self.config = parts, parts.setup.config
    self.state, self.streak = start.state, start.streak
    positions = jax.device_get((start.state.step, start.state.cursor, start.state.skipped))
    self.step, self.cursor, self.skipped = map(int, positions)
    self.handled = (
      self.step if self.step else -1
    )  # the step whose boundary is done; a fresh run still has to save step 0
    self.figures: dict[str, float] = {}
    self.window, self.pending = _Window(), collections.deque()
    self.stopped = False
    self.best: tuple[int, float] | None = None  # step and value of the figure `select_by`
    self.patience = self.config.task.patience if "task" in self.config else 0
    self._read_best()

  def run(self) -> Any:
    """The state after the last step, or when asked to stop (then `stopped` is True).

    Once it has ended, a task's test file has been scored and its predictions are written.
    """
    with jax.transfer_guard("disallow"):
      while not self._ended() and not self.stopped:
        self._stretch(self.parts.program_at(self.step))
    if self.step < self.config.steps and not self.stopped:
      logging.info(
        "early stop: step %d of %d, %s is no better since step %d (task.patience=%d)", self.step, self.config.steps,
        self.config.select_by, self.best[0], self.patience,
      )  # fmt: skip
    if isinstance(self.parts.feed, TaskFeed) and not self.stopped:
      self._conclude(self.parts.feed)
    return self.state

  def _ended(self) -> bool:
    """Whether all steps are done, or the last `patience` evaluations were no better than one before.

    That follows from the step and the best one, so a run that is started again decides as one that never stopped.
    """
    if self.step >= self.config.steps:
      return True
    every = self.config.eval_every
    return bool(self.patience and self.best) and self.step // every - self.best[0] // every >= self.patience

  def _conclude(self, feed: TaskFeed) -> None:
    chosen, program = self.best[0] if self.best else self.step, self.parts.program_at(self.step)
    self.parts.checkpoints.wait()

    def params() -> Any:
      if chosen == self.step:
        return self.state.params
      return self.parts.checkpoints.restore_params(program.abstract_state.params, chosen)[0]

    conclude(feed, program, params, chosen, self.parts.log, self.parts.live, self.step)

  def _stretch(self, program: Program) -> None:
    """Steps of one stage until it ends, the run stops, or a rollback moves the cursor."""
    batches = self.parts.feed.batches(program.stage, self.cursor)
    while True:
      predicted = self.step + len(self.pending)
      stopping = self.parts.stop.reached(predicted)
      if stopping or self._is_boundary(predicted, program):
        if self._settle(0):
          return
        if self.step == predicted and self._is_boundary(predicted, program):
          self._boundary(program)
        if stopping:
          return self._end_early()
        if self.step >= program.stage.end or self._ended():
          return
        if self.step != predicted:
          continue
      if self.parts.trace:
        self.parts.trace.at(predicted, lambda: jax.block_until_ready(self.state.step))
      cursor, host = next(batches)
      self.state, report = program.step(self.state, program.place(host))
      self.pending.append((cursor, report, host))
      fault_point("step")
      if self._settle(IN_FLIGHT - 1):
        return
      self.parts.checkpoints.check()

  def _is_boundary(self, step: int, program: Program) -> bool:
    c = self.config
    due = step % c.save_every == 0 or step % c.eval_every == 0 or step == program.stage.end
    return due and step != self.handled

  def _settle(self, keep: int) -> bool:
    """Reads the reports of all but `keep` steps in flight; True if that led to a rollback."""
    while len(self.pending) > keep:
      cursor, report, host = self.pending.popleft()
      report = jax.device_get(report)
      self.cursor = cursor + 1
      if not report.applied:
        self.skipped, self.streak = self.skipped + 1, self.streak + 1
        logging.warning("batch %d gave an update that is not finite; skipped (%d in a row)", cursor, self.streak)
        if self.streak >= self.config.max_skips:
          self._roll_back(self.cursor)
          return True
        continue
      self.step, self.streak = self.step + 1, 0
      self.window.add(report, count_tokens(host))
      self.parts.live.advance(self.step)
      if self.step % self.config.log_every == 0:
        self._report(host)
    return False

  def _report(self, host: Any) -> None:
    window, now = self.window, time.monotonic()
    seconds = (now - window.since) / window.steps
    figures = self.parts.setup.objective.report(*window.figures)
    figures |= {"grad_norm": float(window.last.grad_norm), "lr": float(window.last.lr), "step_ms": 1000 * seconds}
    figures |= {"tokens_per_s": window.slots / window.steps / seconds}
    figures |= {"valid_tokens_per_s": window.tokens / window.steps / seconds, "skipped": float(self.skipped)}
    figures["non_padding"] = window.tokens / max(window.slots, 1)
    mfu = self.parts.mfu(host, seconds)
    if mfu is not None:
      figures["mfu"] = mfu
    figures = {f"train/{name}": value for name, value in figures.items()}
    self.figures |= figures
    self.parts.log.write(self.step, figures)
    self.parts.live.report(self.step, figures)
    self.window = _Window()

  def _boundary(self, program: Program) -> None:
    """Everything that is due at this step, in the order: evaluate, write, enter the next stage, save."""
    c, step = self.config, self.step
    paused, best = time.monotonic(), False
    if (step or self._evaluates_first()) and (step % c.eval_every == 0 or step == c.steps):
      self.parts.live.note("evaluating")
      figures = {f"eval/{n}": v for n, v in evaluate_all(program, self.parts.feed, self.state.params).items()}
      if figures:
        self.figures |= figures
        self.parts.log.write(step, figures)
        self.parts.live.report(step, figures)
        best = self._note_best(figures)
    entered = step == program.stage.end and step < c.steps
    if entered:
      following = self.parts.program_at(step)
      logging.info("stage from step %d: length %d", step, following.stage.length)
      self.state = following.enter(self.state)
      fault_point("stage")
    if step == 0 or step % c.save_every == 0 or entered or best or self._ended():
      self._save(scheduled=True, permanent=entered)
    self.handled = step
    self.window.since += time.monotonic() - paused

  def _evaluates_first(self) -> bool:
    """Whether held-out figures are taken before the first step as well."""
    return "task" in self.config and self.config.task.eval_first

  def _read_best(self) -> None:
    """The best held-out figure so far, from what process 0 has written."""
    name, self.best = self.config.select_by, None
    found = self.parts.log.best_so_far(name) if name else None
    numbers = [found[0], *np.float64([found[1]]).view(np.int32).tolist()] if found else []
    if numbers := from_first_process(numbers) if name else []:
      self.best = (numbers[0], float(np.int32(numbers[1:]).view(np.float64)[0]))
      self.parts.checkpoints.keep_best(self.best[0])

  def _note_best(self, figures: dict[str, float]) -> bool:
    """Has this step's checkpoint kept if its figure is the best; whether it is."""
    name = self.config.select_by
    if not name or not figures:
      return False
    if f"eval/{name}" not in figures:
      known = ", ".join(key.removeprefix("eval/") for key in figures)
      raise TrainingError(f"select_by: got {name!r}, want one of the held-out figures: {known}")
    value = figures[f"eval/{name}"]
    if self.best and not better(name, value, self.best[1]):
      return False
    self.best = (self.step, value)
    self.parts.checkpoints.keep_best(self.step)
    return True

  def _save(self, scheduled: bool, permanent: bool = False, wait: bool = False) -> None:
    meta = {**self.parts.meta, "streak": self.streak}
    with jax.transfer_guard("allow"):
      self.parts.checkpoints.save(self.state, meta, scheduled=scheduled, permanent=permanent, wait=wait)

  def _end_early(self) -> None:
    logging.info("%s: saving step %d and stopping", self.parts.stop.name, self.step)
    self._save(scheduled=False, wait=True)
    self.stopped = True

  def _roll_back(self, cursor: int) -> None:
    """Back to the newest scheduled checkpoint, past the batches that led here; committed before anything else."""
    self.pending.clear()
    if self.parts.checkpoints.rollbacks.generation >= self.config.max_rollbacks:  # counted on disk: kills reset nothing
      raise TrainingError(
        f"{self.streak} updates in a row were not finite up to batch {cursor - 1}, and max_rollbacks="
        f"{self.config.max_rollbacks} are used up; lower optimizer.lr or look at the batches named in the log"
      )
    target = self.parts.checkpoints.rollback_target()
    if target is None:
      raise TrainingError(f"no good scheduled checkpoint to roll back to from batch {cursor - 1}; start a new workdir")
    fault_point("rollback_begins")
    self.parts.checkpoints.rollback(target, cursor)
    with jax.transfer_guard("allow"):
      restored = self.parts.checkpoints.restore(lambda step: self.parts.program_at(step).abstract_state)
    self.state, meta = restored
    logging.warning(
      "rolled back from step %d to step %d; going on at batch %d", self.step, meta["step"], meta["cursor"]
    )
    self.step, self.cursor, self.skipped, self.streak = meta["step"], meta["cursor"], meta["skipped"], meta["streak"]
    self.handled, self.window = self.step, _Window()
    self.parts.log.rewind(self.step)
    self._read_best()
    fault_point("rolled_back")
