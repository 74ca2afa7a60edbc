"""The examples of a fine-tuning run: read, cut into rows, and held out, once for a config."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data import draws
from data.tasks import registry
from data.tasks.batches import Shape
from data.tasks.rows import TaskError, TaskRow
from data.tokenizers import Tokenizer
from trainer.rules import ConfigError


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
  """A task's examples in rows.

  labels: names of the classes. train: rows. dev: rows of `examples`, the held-out ones.
  """

  task: registry.Task
  labels: tuple[str, ...]
  train: list[TaskRow]
  dev: list[TaskRow]
  examples: list
  fingerprint: str

  def epoch_size(self, batch_size: int) -> int:
    """Batches of an epoch."""
    return max(1, len(self.train) // batch_size)

  def shape(self, config: Any, pad: int, multiple: int) -> Shape:
    """What fixes the shape of batches: rows of padding `pad`, a multiple of `multiple` in each."""
    pieces = max((len(columns) for row in (*self.train, *self.dev) for columns in row.mentions), default=1)
    return Shape(config.data.length, config.data.pack, multiple, pad, pieces, columns=self.task.head == "answer")

  def score(self, logits: list[np.ndarray]) -> dict[str, float]:
    """The official figures of the dev rows' logits."""
    found = self.task.decode(self.examples, self.dev, logits, self.labels)
    return self.task.figures(self.examples, found)


def task_data(config: Any, tokenizer: Tokenizer) -> TaskData:
  """The data of a config; read once for the same settings.

  Raises:
    ConfigError: no folder, or no dev examples. TaskError: files that cannot be used.
  """
  t = config.task
  if not t.dir:
    raise ConfigError(f"config key task.dir: is empty, want the folder of {t.name}'s files")
  settings = (t.name, t.dir, t.train, t.dev, t.dev_share, t.limit, config.data.length)
  return _read(settings, _Hashed(tokenizer))


@dataclasses.dataclass(frozen=True, eq=False)
class _Hashed:
  """A tokenizer as a key."""

  tokenizer: Tokenizer

  def __hash__(self) -> int:
    return hash(self.tokenizer.digest)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Hashed) and other.tokenizer.digest == self.tokenizer.digest


@functools.lru_cache(maxsize=4)
def _read(settings: tuple, hashed: _Hashed) -> TaskData:
  name, folder, train, dev, dev_share, limit, length = settings
  task = registry.find(name)
  files = {"train": train or task.files["train"], "dev": dev or task.files["dev"]}
  examples = _load(task, folder, files["train"])
  if dev_share:
    held = draws.uniform(draws.key(0, "dev"), np.arange(len(examples))) < dev_share
    dev_examples = [example for example, out in zip(examples, held) if out]
    examples = [example for example, out in zip(examples, held) if not out]
  else:
    dev_examples = _load(task, folder, files["dev"])
  labels = tuple(task.label_list(examples))  # of all of them: a limit hides no class
  examples = examples[:limit] if limit else examples
  if not examples or not dev_examples:
    raise TaskError(f"task {name}: got {len(examples)} examples to train on, {len(dev_examples)} held out; want some")
  rows = dataclasses.replace(task.rows, max_length=length)
  made = [rows(part, hashed.tokenizer, labels) for part in (examples, dev_examples)]
  return TaskData(task, labels, *made, dev_examples, _fingerprint(settings, hashed.tokenizer, folder, files))


def _load(task: registry.Task, folder: str, file: str) -> list:
  path = Path(folder) / file
  if not path.is_file():
    raise TaskError(f"task {task.name}: {path}: no such file, want the official one, or name it: task.train, task.dev")
  return task.read(path)


def _fingerprint(settings: tuple, tokenizer: Tokenizer, folder: str, files: dict[str, str]) -> str:
  name, _, _, _, *rest = settings
  digests = []
  for file in files.values():
    path = Path(folder) / file
    digests.append(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
  return hashlib.sha256(json.dumps([name, rest, digests, tokenizer.digest]).encode()).hexdigest()
