"""The examples of a fine-tuning run: read, cut into rows, and held out, once for a config."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data import draws
from data.entity_vocabulary import EntityVocabulary
from data.tasks import links, registry
from data.tasks.batches import Shape
from data.tasks.rows import TaskError, TaskRow
from data.tokenizers import Tokenizer
from trainer.rules import ConfigError

LENGTH = 512  # of the longest example where data.length is 0


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Examples that are scored, and their rows."""

  examples: list
  rows: list[TaskRow]


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
  """A task's examples in rows.

  labels: names of the classes. train: rows. dev, test: what is held out; test is None where there is no such file.
  """

  task: registry.Task
  labels: tuple[str, ...]
  train: list[TaskRow]
  dev: Split
  test: Split | None
  fingerprint: str

  def epoch_size(self, batch_size: int) -> int:
    """Batches of an epoch."""
    return max(1, len(self.train) // batch_size)

  def shape(self, config: Any, pad: int, multiple: int, rows: list[TaskRow]) -> Shape:
    """What fixes the shape of batches of `rows`: padded with `pad`, of a number of rows that `multiple` divides."""
    pieces = max((len(columns) for row in rows for columns in row.mentions), default=1)
    return Shape(config.data.length, config.data.pack, multiple, pad, pieces, columns=self.task.head == "answer")

  def score(self, split: Split, logits: list[np.ndarray]) -> dict[str, float]:
    """The official figures of the logits of a split's rows."""
    return self.task.figures(split.examples, self.task.decode(split.examples, split.rows, logits, self.labels))


@dataclasses.dataclass(frozen=True)
class _Settings:
  """What the data follows from, besides the tokenizer and the entities."""

  name: str
  folder: str
  train: str
  dev: str
  test: str
  dev_share: float
  limit: int
  offsets: str
  links: str
  length: int

  def file(self, split: str) -> Path | None:
    """The file of a split: the one that is named, else the official one; None where the task has none."""
    named = {"train": self.train, "dev": self.dev, "test": self.test}
    name = named[split] or registry.find(self.name).files.get(split)
    return Path(self.folder) / name if name else None


@dataclasses.dataclass(frozen=True, eq=False)
class _ByDigest:
  """A tokenizer or an entity vocabulary as a key."""

  value: Any

  def __hash__(self) -> int:
    return hash(self.value.digest)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _ByDigest) and other.value.digest == self.value.digest


def task_data(config: Any, tokenizer: Tokenizer, entities: EntityVocabulary) -> TaskData:
  """The data of a config; read once for the same settings.

  Args:
    entities: of the model's table, which `task.links` leads to.
  Raises:
    ConfigError: no folder, or keys that the task cannot use. TaskError: files that cannot be used.
  """
  t = config.task
  if not t.dir:
    raise ConfigError(f"config key task.dir: is empty, want the folder of {t.name}'s files")
  if t.dev and t.dev_share:
    raise ConfigError(
      f"config key task.dev_share: got {t.dev_share:g} with task.dev={t.dev}, want 0: there is a dev file"
    )
  for key, plain in (("links", ""), ("offsets", "exact")):
    if t[key] != plain and registry.find(t.name).head != "answer":
      raise ConfigError(f"config key task.{key}: got {t[key]!r}, want {plain!r}: {t.name} has no answers in passages")
  settings = _Settings(
    t.name, t.dir, t.train, t.dev, t.test, t.dev_share, t.limit, t.offsets, t.links, config.data.length
  )
  return _read(settings, _ByDigest(tokenizer), _ByDigest(entities))


@functools.lru_cache(maxsize=4)
def _read(settings: _Settings, tokenizer: _ByDigest, entities: _ByDigest) -> TaskData:
  task = registry.find(settings.name)
  if task.head == "answer":
    task = dataclasses.replace(task, read=functools.partial(task.read, offsets=settings.offsets))
  examples = _load(task, settings, "train")
  if settings.dev_share:
    train, dev = _divided(task, examples, settings.dev_share)
  else:
    train, dev = examples, _load(task, settings, "dev")
  labels = tuple(task.label_list(examples))  # of the whole file: neither a limit nor a split hides a class
  train = train[: settings.limit] if settings.limit else train
  if not train or not dev:
    raise TaskError(f"task {task.name}: got {len(train)} examples to train on, {len(dev)} held out; want some")
  test = _load(task, settings, "test") if _has_test(settings) else []
  for example in (*dev, *test):
    if task.gold(example) is None:
      raise TaskError(f"{example.where}: says no answer, want one to score against; use a file with labels")
  rows = dataclasses.replace(task.rows, max_length=settings.length)
  if settings.links:
    path = Path(settings.folder) / settings.links
    rows = dataclasses.replace(rows, links=links.read_links(path, {e.title for e in examples}, _id_of(entities.value)))
  held = [Split(part, _scored(task, part, rows, tokenizer.value, labels)) if part else None for part in (dev, test)]
  fingerprint = _fingerprint(settings, tokenizer.value, entities.value)
  return TaskData(task, labels, rows(train, tokenizer.value, labels), *held, fingerprint)


def _scored(task: registry.Task, part: list, rows: Any, tokenizer: Tokenizer, labels: tuple[str, ...]) -> list[TaskRow]:
  """Rows of held-out examples. Labels that training does not have are never predicted, and so count as not found."""
  unknown = [label for label in task.label_list(part) if label not in labels]
  made = rows(part, tokenizer, (*labels, *unknown))
  if not unknown:
    return made
  logging.warning("task %s: labels that no training example has: %s", task.name, ", ".join(unknown))
  return [_without(row, len(labels)) for row in made]


def _without(row: TaskRow, known: int) -> TaskRow:
  """The row with nothing said of labels from `known` on; the answers that it is scored by stand in its example."""
  if row.several is not None:
    return dataclasses.replace(row, several=row.several[:, :known])
  inside = row.labels < known
  return dataclasses.replace(row, labels=np.where(inside, row.labels, 0), weights=row.weights * inside)


def _id_of(entities: EntityVocabulary) -> Callable[[str], int | None]:
  """Title -> entity; of a vocabulary of several languages the English titles need no language before them."""
  return lambda title: entities.id_of(title, "en")


def _divided(task: registry.Task, examples: list, share: float) -> tuple[list, list]:
  """(training, held-out) examples: of their documents or passages `share`, at least one, is held out whole."""
  groups = {name: number for number, name in enumerate(dict.fromkeys(map(task.group, examples)))}
  count = min(max(1, round(share * len(groups))), len(groups) - 1)
  order = np.argsort(draws.uniform(draws.key(0, "dev"), np.arange(len(groups))), kind="stable")
  held = set(order[:count].tolist())
  parts: tuple[list, list] = ([], [])
  for example in examples:
    parts[groups[task.group(example)] in held].append(example)
  return parts


def _has_test(settings: _Settings) -> bool:
  """Whether there is a test file: one that is named, which must exist, or the official one if it stands there."""
  path = settings.file("test")
  return bool(settings.test) or (path is not None and path.is_file())


def _load(task: registry.Task, settings: _Settings, split: str) -> list:
  path = settings.file(split)
  if path is None:
    raise TaskError(f"task {task.name}: has no official {split} file, want task.{split}, or task.dev_share above 0")
  if not path.is_file():
    raise TaskError(
      f"task {task.name}: {path}: no such file, want the official one, or name it: task.train, task.dev, task.test"
    )
  return task.read(path)


def _fingerprint(settings: _Settings, tokenizer: Tokenizer, entities: EntityVocabulary) -> str:
  """Of all that a batch follows from; not of the test file, which is only scored."""
  files = [None if settings.dev_share and split == "dev" else settings.file(split) for split in ("train", "dev")]
  files += [Path(settings.folder) / settings.links] if settings.links else []
  digests = [hashlib.sha256(path.read_bytes()).hexdigest() if path else "" for path in files]
  rest = [settings.dev_share, settings.limit, settings.length, *([entities.digest] if settings.links else [])]
  return hashlib.sha256(json.dumps([settings.name, rest, digests, tokenizer.digest]).encode()).hexdigest()
