"""The feed of fine-tuning: batches of a task's examples, and its official figures on the held-out ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.batch import Labelled, batch_size
from data.loader import prefetch
from data.tasks.batches import Placed, TaskPipeline, in_order
from trainer.config import Stage
from trainer.finetuning import task_tokenizer
from trainer.task_data import task_data


class TaskFeed:
  """Batches of the task that a resolved config names."""

  frequencies = None

  def __init__(self, config: Any, workdir: Path):
    self._config = config
    self.tokenizer, self._entities = task_tokenizer(config, workdir)
    self._data = task_data(config, self.tokenizer)
    devices = jax.device_count() // config.mesh.model if config.mesh.data == -1 else config.mesh.data
    self._shape = self._data.shape(config, self.tokenizer.special.pad, config.micro_batches * devices)
    self.fingerprint = self._data.fingerprint

  def example(self, stage: Stage) -> Any:
    return self._pipeline.batch(0)

  def batches(self, stage: Stage, cursor: int) -> Iterator[tuple[int, Any]]:
    data = self._config.data
    whole = prefetch(self._pipeline, cursor, workers=0, threads=data.workers or 1, buffer=data.prefetch)
    return ((cursor, _own_rows(batch)) for cursor, batch in whole)

  def held_out(self, stage: Stage) -> Iterator[Any]:
    for _, placed in self._held_out:
      yield _own_rows(placed.batch)

  def baseline(self, batch: Any) -> dict[str, tuple[float, float]]:
    return {}

  def score(self, outputs: list[Any]) -> dict[str, float]:
    logits: list[np.ndarray] = [np.zeros(0)] * len(self._data.dev)
    by_column = self._config.objective.kind in ("answer", "tag")  # heads that read every token
    for (numbers, placed), values in zip(self._held_out, outputs, strict=True):
      for i, own in zip(numbers, placed.parts(values, by_column), strict=True):
        logits[i] = own
    return self._data.score(logits)

  def save_tokenizer(self, workdir: Path) -> None:
    if jax.process_index() == 0:
      self.tokenizer.save(workdir / "tokenizer")
      if self._entities is not None:
        self._entities.save(workdir / "tokenizer")

  @functools.cached_property
  def _pipeline(self) -> TaskPipeline:
    return TaskPipeline(self._data.train, self._config.batch_size, self._shape, self._config.seed)

  @functools.cached_property
  def _held_out(self) -> list[tuple[np.ndarray, Placed]]:
    return in_order(self._data.dev, self._config.batch_size, self._shape)


def _own_rows(batch: Labelled) -> Labelled:
  """This process's share of a batch: the rows that its devices hold."""
  share = batch_size(batch) // jax.process_count()
  return jax.tree.map(lambda x: x[jax.process_index() * share : (jax.process_index() + 1) * share], batch)
