"""Where figures go: metrics.jsonl, TensorBoard files, and a live line on the terminal."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"


def better(name: str, value: float, than: float) -> bool:
  """Whether a figure is better: lower for losses and perplexities, higher for all others."""
  return value < than if name.endswith(("loss", "perplexity")) else value > than


class MetricLog:
  """metrics.jsonl and TensorBoard events of one run. On resume, lines past the restored step are cut away first.

  In a run of several processes, process 0 writes and the others do nothing.
  """

  def __init__(self, workdir: Path, step: int):
    self._path, self._writes = workdir / METRICS, jax.process_index() == 0
    if self._writes:
      self._cut(step)
      self._file = self._path.open("a", encoding="utf-8")
      self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

  def write(self, step: int, figures: dict[str, float]) -> None:
    """One line: the step, then the figures by name."""
    if not self._writes:
      return
    self._file.write(json.dumps({"step": step, **figures}) + "\n")
    self._file.flush()
    for name, value in figures.items():
      self._board.add_scalar(name, value, step)

  def rewind(self, step: int) -> None:
    """Forgets what was written after `step` (a rollback)."""
    if self._writes:
      self._file.close()
      self._cut(step)
      self._file = self._path.open("a", encoding="utf-8")

  def close(self) -> None:
    if self._writes:
      self._file.close()
      self._board.close()

  @staticmethod
  def last_figures(workdir: Path) -> dict[str, float]:
    """The newest value of every figure in a workdir's metrics.jsonl."""
    figures: dict[str, float] = {}
    for line in (workdir / METRICS).read_text(encoding="utf-8").splitlines():
      figures |= json.loads(line)
    return {name: value for name, value in figures.items() if name != "step"}

  def best_so_far(self, name: str) -> tuple[int, float] | None:
    """`best` of this run; None in processes that write nothing."""
    return self.best(self._path.parent, name) if self._writes else None

  @staticmethod
  def best(workdir: Path, name: str) -> tuple[int, float] | None:
    """The step where eval/NAME was best, the first of several, and its value; None where it was never measured."""
    path, best = workdir / METRICS, None
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
      figures = json.loads(line)
      if f"eval/{name}" in figures and (best is None or better(name, figures[f"eval/{name}"], best[1])):
        best = (figures["step"], figures[f"eval/{name}"])
    return best

  def _cut(self, step: int) -> None:
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_text(encoding="utf-8").splitlines():
      try:
        if json.loads(line)["step"] <= step:
          kept.append(line)
      except ValueError:
        break  # a kill can cut the last line short
    temporary = self._path.with_suffix(".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(temporary, self._path)


class Live:
  """Progress of the run: a bar with ETA and figures on a terminal; elsewhere a log line for every report."""

  def __init__(self, total: int, done: int, terminal: bool):
    self._terminal = terminal
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}"))
    self._progress = Progress(
      *columns,
      TimeElapsedColumn(),
      TextColumn("ETA"),
      TimeRemainingColumn(),
      console=Console(stderr=True),
      disable=not terminal,
    )
    self._total, self._started, self._first = total, time.monotonic(), done
    self._task = self._progress.add_task("starting", total=total, completed=done)
    self._progress.start()

  def advance(self, step: int) -> None:
    self._progress.update(self._task, completed=step)

  def report(self, step: int, figures: dict[str, float]) -> None:
    """Shows figures; off a terminal, writes them with the time left."""
    kinds = dict.fromkeys(name.partition("/")[0] for name in figures)  # train, eval or test
    text = " ".join([*kinds, *(f"{name.partition('/')[2]} {value:.4g}" for name, value in figures.items())])
    self._progress.update(self._task, completed=step, description=text)
    if not self._terminal:
      pace = (time.monotonic() - self._started) / max(step - self._first, 1)
      logging.info("step %d/%d  %s  ETA %.0f s", step, self._total, text, pace * (self._total - step))

  def note(self, text: str) -> None:
    """Says what the run is busy with besides steps."""
    self._progress.update(self._task, description=text)

  def close(self) -> None:
    self._progress.stop()
