"""The feed of fine-tuning: batches of a task's examples, and its official figures on the held-out ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.batch import split_rows
from data.loader import prefetch
from data.tasks.batches import Placed, TaskPipeline, in_order
from trainer.config import Stage
from trainer.finetuning.data import Split, task_data
from trainer.finetuning.recipe import task_form
from trainer.rules import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """What `evaluate` asks of a feed, of one file of a task.

  labels: names of the classes. shape: (rows) -> what collates them. by_column: whether outputs stand on columns.
  """

  split: Split
  labels: tuple[str, ...]
  batch_size: int
  shape: Callable[[list], Any]
  by_column: bool

  def held_out(self, stage: Stage) -> Iterator[Any]:
    for _, placed in self._batches:
      yield _own_rows(placed.batch)

  def baseline(self, batch: Any) -> dict[str, tuple[float, float]]:
    return {}

  def logits(self, outputs: list[Any]) -> list[np.ndarray]:
    """Those of each row of the file, of what the objective reports of its batches."""
    logits: list[np.ndarray] = [np.zeros(0)] * len(self.split.rows)
    for (numbers, placed), values in zip(self._batches, outputs, strict=True):
      for i, own in zip(numbers, placed.parts(values, self.by_column), strict=True):
        logits[i] = own
    return logits

  def score(self, outputs: list[Any]) -> dict[str, float]:
    """The official figures, those of parts, and those of what is tuned on the file itself."""
    return self.split.task.evaluate(self.split.examples, self.split.rows, self.logits(outputs), self.labels)

  @functools.cached_property
  def _batches(self) -> list[tuple[np.ndarray, Placed]]:
    return in_order(self.split.rows, self.batch_size, self.shape(self.split.rows))


class TaskFeed:
  """Batches of the task that a resolved config names.

  workdir: of the run. dev: what `held_out` gives. further: files that are scored beside it, by name. test: the file
  that is scored once, at the end; None where there is none. `blind` gives those that are only answered. answers:
  whether predictions are written.
  """

  frequencies = None

  def __init__(self, config: Any, workdir: Path):
    """Raises ConfigError where the task's files have other labels than the config says."""
    self._config, self._form = config, task_form(config, workdir)
    self.workdir, self.answers = workdir, config.task.predictions
    self._data = task_data(config, self._form)
    if self._data.labels != tuple(config.objective.labels):
      raise ConfigError(
        f"config key objective.labels: got {_some(config.objective.labels)}, want {_some(self._data.labels)} as the "
        "files of the task have them; start from the recipe again, in a new workdir"
      )
    self.fingerprint = self._data.fingerprint
    self.dev, test = self._held(self._data.dev), self._data.test
    self.test = None if test is None else self._held(test)
    self.further = {name: self._held(split) for name, split in self._data.further.items()}

  def blind(self) -> Iterator[tuple[str, HeldOut]]:
    """(name of what is handed in, file) of files without labels, one after the other: they may be large."""
    return ((name, self._held(split)) for name, split in self._data.blind.items())

  def example(self, stage: Stage) -> Any:
    return self._pipeline.batch(0)

  def batches(self, stage: Stage, cursor: int) -> Iterator[tuple[int, Any]]:
    data = self._config.data
    whole = prefetch(self._pipeline, cursor, workers=0, threads=data.workers or 1, buffer=data.prefetch)
    return ((cursor, _own_rows(batch)) for cursor, batch in whole)

  def held_out(self, stage: Stage) -> Iterator[Any]:
    return self.dev.held_out(stage)

  def baseline(self, batch: Any) -> dict[str, tuple[float, float]]:
    return {}

  def score(self, outputs: list[Any]) -> dict[str, float]:
    return self.dev.score(outputs)

  def save_tokenizer(self, workdir: Path) -> None:
    if jax.process_index() == 0:
      self._form.save(workdir / "tokenizer")

  @functools.cached_property
  def _pipeline(self) -> TaskPipeline:
    return TaskPipeline(self._data.train, self._config.batch_size, self._shape(self._data.train), self._config.seed)

  def _held(self, split: Split) -> HeldOut:
    return HeldOut(split, self._data.labels, self._config.batch_size, self._shape, self._form.by_column)

  def _shape(self, rows: list) -> Any:
    config = self._config
    devices = jax.device_count() // config.mesh.model if config.mesh.data == -1 else config.mesh.data
    return self._form.shape(rows, config.micro_batches * devices)


def _some(labels: Any) -> str:
  return f"{len(labels)} labels ({', '.join(labels[:4])}{' ...' if len(labels) > 4 else ''})"


def _own_rows(batch: Any) -> Any:
  """This process's share of a batch: the rows that its devices hold, and all that belongs to the whole batch."""
  rows, rebuild = split_rows(batch)
  share = len(rows[0]) // jax.process_count()
  return rebuild([x[jax.process_index() * share : (jax.process_index() + 1) * share] for x in rows])
