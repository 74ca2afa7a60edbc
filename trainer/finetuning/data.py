"""The examples of a fine-tuning run: read, cut into rows, and held out, once for a config."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data import draws
from data.tasks import predictions, registry, tfds_source
from data.tasks.files import RecordFile, check_unicode, digest
from data.tasks.glue import TextReader
from data.tasks.rows import TaskError
from data.tasks.texts import both_orders
from trainer.rules import ConfigError

Builder = Callable[[Sequence, Sequence[str]], list]  # (examples, labels) -> rows


class Form(Protocol):
  """How the examples of a task become rows, and rows batches.

  task: with the readers and decoders of this form. digest: of all that rows follow from besides the examples; forms of
  one digest are equal. by_column: whether what the model says of a row stands on its columns, and not on its labels.
  """

  task: registry.Task
  digest: str
  by_column: bool

  def builder(self, examples: Sequence) -> Builder:
    """What makes rows. examples: of the training file."""

  def shape(self, rows: list, multiple: int) -> Any:
    """What collates `rows`, into batches of a number of rows that `multiple` divides."""

  def save(self, folder: Path) -> None:
    """Writes what turns a text into what the model reads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Examples of a file that is scored or answered. task: as it is for the file. make: the rows, asked for once."""

  task: registry.Task
  examples: list
  make: Callable[[], list]

  @functools.cached_property
  def rows(self) -> list:
    return self.make()


@dataclasses.dataclass(frozen=True, eq=False)
class TaskData:
  """A task's examples in rows.

  labels: names of the classes. train: rows. dev, test: what is held out; test is None where there is no such file, or
  none with labels. further: held-out files besides, by name. blind: files without labels, by the name of what is handed
  in for them ("test" where that has no name of its own); rows of official ones are made when somebody asks for them.
  """

  task: registry.Task
  labels: tuple[str, ...]
  train: list
  dev: Split
  test: Split | None
  further: Mapping[str, Split]
  blind: Mapping[str, Split]
  fingerprint: str

  def epoch_size(self, batch_size: int) -> int:
    """Batches of an epoch."""
    return max(1, len(self.train) // batch_size)

  def figure_names(self) -> list[str]:
    """Names of all official figures of held-out files."""
    splits = {"": self.dev, **{f"{name}/": split for name, split in self.further.items()}}
    names = lambda split: split.task.figure_names(split.examples, self.labels)
    return [f"{name}{figure}" for name, split in splits.items() for figure in names(split)]


@dataclasses.dataclass(frozen=True)
class _Settings:
  """Which examples there are."""

  name: str
  folder: str
  train: str
  dev: str
  test: str
  dev_share: float
  limit: int
  both_orders: bool  # whether pairs of texts are trained on in either order
  answers: bool  # whether predictions are written

  def file(self, split: str) -> Path | RecordFile | None:
    """The file of a split: the one that is named, else the official one; None where the task has none."""
    named, task = {"train": self.train, "dev": self.dev, "test": self.test}, registry.find(self.name)
    name = named[split] or task.files.get(split)
    return task.file(self.folder, name) if name else None


@dataclasses.dataclass(frozen=True, eq=False)
class _ByDigest:
  """A form as a key."""

  form: Form

  def __hash__(self) -> int:
    return hash(self.form.digest)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _ByDigest) and other.form.digest == self.form.digest


def with_offsets(task: registry.Task, offsets: str, answers: bool) -> registry.Task:
  """The task, whose files' answers stand at their `offsets` exactly, or nearest to them.

  Raises:
    ConfigError: it has no answers, and offsets are not said to be exact.
  """
  if answers:
    return dataclasses.replace(task, read=functools.partial(task.read, offsets=offsets))
  if offsets != "exact":
    raise ConfigError(f"config key task.offsets: got {offsets!r}, want 'exact': {task.name} has no answers in passages")
  return task


def task_data(config: Any, form: Form) -> TaskData:
  """The data of a config; read once for the same settings.

  Raises:
    ConfigError: no folder, or keys that the task cannot use. TaskError: files that cannot be used.
  """
  t = config.task
  if not t.dir:
    raise ConfigError(f"config key task.dir: is empty, want the folder of {t.name}'s files or tfds:NAME")
  if not t.dir.startswith(tfds_source.PREFIX) and not Path(t.dir).is_dir():
    got = "is a file" if Path(t.dir).exists() else "no such folder"
    raise ConfigError(f"config key task.dir: {t.dir}: {got}, want the folder of {t.name}'s files or tfds:NAME")
  if t.dev and t.dev_share:
    raise ConfigError(
      f"config key task.dev_share: got {t.dev_share:g} with task.dev={t.dev}, want 0: there is a dev file"
    )
  if t.patience and not config.select_by:
    raise ConfigError(
      f"config key task.patience: got {t.patience} with an empty select_by, want 0, or select_by=FIGURE: the held-out "
      "figure that has to become better"
    )
  twice = t.get("both_orders", False)  # which tasks of words do not have
  settings = _Settings(t.name, t.dir, t.train, t.dev, t.test, t.dev_share, t.limit, twice, t.predictions)
  return _read(settings, _ByDigest(form))


@functools.lru_cache(maxsize=4)
def _read(settings: _Settings, key: _ByDigest) -> TaskData:
  form, task = key.form, key.form.task
  logging.info("task %s: reading %s", task.name, settings.folder)
  examples = _load(task, settings, "train")
  if settings.dev_share:
    train, dev = _divided(task, examples, settings.dev_share)
  else:
    train, dev = examples, _load(task, settings, "dev")
  if not settings.dev_share and settings.file("dev") == settings.file("train"):
    logging.warning("task %s: the dev file is the training file: its figures are of what was trained on", task.name)
  labels = tuple(task.label_list(examples))  # of the whole file: neither a limit nor a split hides a class
  for label in labels:
    check_unicode(label, "label", f"{settings.file('train')}")
  train = train[: settings.limit] if settings.limit else train
  train = both_orders(train) if settings.both_orders else train
  if not train or not dev:
    raise TaskError(f"task {task.name}: got {len(train)} examples to train on, {len(dev)} held out; want some")
  if not task.unlabelled and (unknown := _unknown(task, train)):
    raise TaskError(f"{unknown[0].where}: says no answer, want one to train on{_field(task)}; use a file with labels")
  logging.info("task %s: %s examples to train on, %s held out", task.name, f"{len(train):,}", f"{len(dev):,}")
  rows = form.builder(examples)
  held = {"dev": (task, dev)}
  test = _load(task, settings, "test") if _has_test(settings) else []
  answered = _only_answered(task, test, settings)
  if test and not answered:
    held["test"] = task, test
  for name, part in task.further_examples(settings.folder).items():
    held[name] = task.beside(name), part
  splits = {name: _held(own, part, rows, labels, settings) for name, (own, part) in held.items()}
  own = [splits.pop(name, None) for name in ("dev", "test")]
  blind = _blind(task, rows, labels, settings)
  if answered:
    logging.info("task %s: %s says no answers: it is answered at the end, not scored", task.name, settings.file("test"))
    blind[answered] = _built(task, test, rows(test, labels), settings)
  return TaskData(task, labels, rows(train, labels), *own, splits, blind, _fingerprint(settings, form))


def _field(task: registry.Task) -> str:
  """Where texts have their label, for messages."""
  return f", in a column or field {task.read.label!r}" if isinstance(task.read, TextReader) else ""


def _unknown(task: registry.Task, part: list) -> list:
  """The examples that do not say what is true."""
  return [example for example in part if task.gold(example) is None]


def _only_answered(task: registry.Task, test: list, settings: _Settings) -> str:
  """What a test file without any label is answered as: by the name of what is handed in for it where it is an official
  one, else as "test"; "" where it is one to score."""
  if not settings.answers or not test or len(_unknown(task, test)) < len(test):
    return ""
  own = settings.file("test")
  return next((name for name, file in task.blind.items() if task.file(settings.folder, file) == own), "test")


def _held(task: registry.Task, part: list, rows: Builder, labels: tuple[str, ...], settings: _Settings) -> Split:
  """A file that is scored; all that is wrong with it is said now."""
  if unknown := _unknown(task, part):
    want = f"want one to score against{_field(task)}; use a file with labels"
    raise TaskError(f"{unknown[0].where}: says no answer, {want}")
  return _built(task, part, _scored(task, part, rows, labels), settings)


def _built(task: registry.Task, part: list, made: list, settings: _Settings) -> Split:
  """A file whose rows are made."""
  if settings.answers:
    predictions.check_names(task, part)
  return Split(task, part, lambda: made)


def _blind(task: registry.Task, rows: Builder, labels: tuple[str, ...], settings: _Settings) -> dict[str, Split]:
  """Official files without labels that stand in the folder and are not the test file already."""
  if not settings.answers:
    return {}
  paths = {name: task.file(settings.folder, file) for name, file in task.blind.items()}
  paths = {name: path for name, path in paths.items() if path.is_file() and path != settings.file("test")}
  parts = {name: task.read(path) for name, path in paths.items()}
  return {name: Split(task, part, functools.partial(rows, part, labels)) for name, part in parts.items()}


def _scored(task: registry.Task, part: list, rows: Builder, labels: tuple[str, ...]) -> list:
  """Rows of held-out examples. Labels that training does not have are never predicted, and so count as not found."""
  unknown = [label for label in task.label_list(part) if label not in labels] if labels else []
  made = rows(part, (*labels, *unknown))
  if not unknown:
    return made
  logging.warning("task %s: labels that no training example has: %s", task.name, ", ".join(unknown))
  return [_without(row, len(labels)) for row in made]


def _without(row: Any, known: int) -> Any:
  """The row with nothing said of labels from `known` on; the answers that it is scored by stand in its example."""
  if getattr(row, "several", None) is not None:
    return dataclasses.replace(row, several=row.several[:, :known])
  inside = row.labels < known
  return dataclasses.replace(row, labels=np.where(inside, row.labels, 0), weights=row.weights * inside)


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
  return bool(settings.test) or (path is not None and path.exists())


def _load(task: registry.Task, settings: _Settings, split: str) -> list:
  path = settings.file(split)
  if path is None:
    raise TaskError(f"task {task.name}: has no official {split} file, want task.{split}, or task.dev_share above 0")
  if not path.exists():
    kind = "file" if Path(task.files["train"]).suffix else "folder"  # of RACE
    raise TaskError(
      f"task {task.name}: {path}: no such {kind}, want the official one, or name it: task.train, task.dev, task.test"
    )
  return task.read_split(path, split)


def _fingerprint(settings: _Settings, form: Form) -> str:
  """Of all that a batch follows from; not of the test file and further ones, which are only scored."""
  files = [None if settings.dev_share and split == "dev" else settings.file(split) for split in ("train", "dev")]
  digests = [digest(path) if path else "" for path in files]
  rest = [settings.name, settings.dev_share, settings.limit, *(["both orders"] if settings.both_orders else [])]
  return hashlib.sha256(json.dumps([rest, digests, form.digest]).encode()).hexdigest()
