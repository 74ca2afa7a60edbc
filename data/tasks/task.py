"""What tells one fine-tuning task from another: files, labels, rows, answers, official figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.tasks import metrics, tfds_source
from data.tasks.files import RecordFile
from data.tasks.rows import TaskError

MENTIONS = ("type", "relate", "cloze")  # heads that read mentions: entities, or the first markers around them


@dataclasses.dataclass(frozen=True)
class Further:
  """A further held-out file of a task, in its folder; read and scored as the task's own where nothing else is said."""

  file: str
  read: Callable[[Path], list] | None = None
  score: Callable[[Sequence, Sequence], metrics.Scores] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
  """What tells one task from another.

  A task is put to a kind of head; `put` gives it for another, with what changes for that one. Heads whose names begin
  with "words_" stand on networks of whole words.

  Attributes:
    head: kind of the model's head: type, relate, spans, cloze, answer, tag, classify, regress, choose, words_tag,
      words_classify, words_pair, words_regress, words_choose or words_answer; embed where there is none.
    files: official file of each split (train, and dev and test where there are such with labels) in the task's folder.
    further: held-out files besides, by the name that their figures begin with.
    blind: official files without labels, by the name of the file that is handed in for each.
    read: (file) -> examples.
    read_train: the same for training files, where those may be damaged and others may not; None where all are read
      alike.
    label_list: (training examples) -> names of the classes; () where the head's outputs have none.
    rows: (examples, tokenizer, labels) -> rows, without a tokenizer for whole words; its attributes are lengths and
      strides, see `dataclasses.replace`.
    decode: (examples, rows, logits of each row, labels) -> the answer of each example.
    gold: (example) -> what is true, as `score` wants it; None where nobody says.
    unlabelled: whether training examples say nothing that `gold` could be (pairs of texts that belong together).
    score: (what is true, answers) -> official figures, as fractions.
    tuned: (decode, examples, rows, logits of each row) -> figures of what is set on the held-out examples themselves.
    part: (example) -> name of the part of the data that has figures of its own besides; "" for none.
    identity: (example) -> what predictions go by.
    group: (example) -> the document or passage that it is from: what is held out for evaluation is held out whole.
    markers: pieces that the vocabulary must have, each with the piece whose row a new one copies.
    others: other heads that the task can be put to -> the attributes that are different then.
  """

  name: str
  head: str
  files: Mapping[str, str]
  read: Callable[[Path | RecordFile], list]
  label_list: Callable[[Sequence], tuple[str, ...]]
  rows: Callable[..., list]
  decode: Callable[[Sequence, Sequence, Sequence[np.ndarray], Sequence[str]], list]
  gold: Callable[[Any], Any]
  score: Callable[[Sequence, Sequence], metrics.Scores]
  read_train: Callable[[Path | RecordFile], list] | None = None
  further: Mapping[str, Further] = dataclasses.field(default_factory=dict)
  blind: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unlabelled: bool = False
  tuned: Callable[..., metrics.Scores] = lambda decode, examples, rows, logits: {}
  part: Callable[[Any], str] = lambda example: ""
  identity: Callable[[Any], str] = lambda example: example.where
  group: Callable[[Any], str] = lambda example: example.where
  markers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  others: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

  def put(self, head: str, entities: bool = True) -> Task:
    """The task, as `find` gives it, put to a kind of head; TaskError where it cannot be.

    Args:
      entities: False for models without entity inputs, which read a mention at its first marker.
    """
    if head != self.head and head not in self.others:
      raise TaskError(f"task {self.name}: got head {head!r}, want one of {', '.join((self.head, *self.others))}")
    task = self if head == self.head else dataclasses.replace(self, head=head, others={}, **self.others[head])
    if entities or head not in MENTIONS:
      return task
    return dataclasses.replace(task, rows=dataclasses.replace(task.rows, entities=False))

  def file(self, folder: str | Path, name: str) -> Path | RecordFile:
    """A file in the task's folder, or the split that stands for it in a data set of TFDS; TaskError without the set."""
    if str(folder).startswith(tfds_source.PREFIX):
      return tfds_source.split_file(self, str(folder), name)
    return Path(folder) / name

  def examples(self, folder: str | Path, split: str) -> list:
    """The examples of a split; TaskError where the task has no such split, or the folder no such file."""
    if split not in self.files:
      raise TaskError(f"task {self.name}: got split {split!r}, want one of {list(self.files)}")
    return self.read_split(self.file(folder, self.files[split]), split)

  def read_split(self, path: Path | RecordFile, split: str) -> list:
    """The examples of a file that is used as `split`."""
    return ((self.read_train if split == "train" else None) or self.read)(path)

  def beside(self, name: str) -> Task:
    """The task as it is for a further file."""
    other = self.further[name]
    changes = {"read": other.read or self.read, "score": other.score or self.score}
    return dataclasses.replace(self, further={}, **changes)

  def further_examples(self, folder: str | Path) -> dict[str, list]:
    """The examples of each further file that stands in the task's folder."""
    paths = {name: self.file(folder, other.file) for name, other in self.further.items()}
    return {name: self.beside(name).read(path) for name, path in paths.items() if path.is_file()}

  def figures(self, examples: Sequence, found: Sequence) -> metrics.Scores:
    """The official figures of `found`, the answers of `examples`, and `part/figure` for each part of them.

    Raises:
      TaskError: an example does not say what is true.
    """
    gold = [self.gold(example) for example in examples]
    unknown = [example.where for example, true in zip(examples, gold, strict=True) if true is None]
    if unknown:
      raise TaskError(f"{unknown[0]}: says no answer, want one to score against; use a file with labels")
    figures, parts = self.score(gold, found), [self.part(example) for example in examples]
    for name in dict.fromkeys(part for part in parts if part):
      inside = [i for i, part in enumerate(parts) if part == name]
      figures |= named(name, self.score([gold[i] for i in inside], [found[i] for i in inside]))
    return figures

  def evaluate(
    self, examples: Sequence, rows: Sequence, logits: Sequence[np.ndarray], labels: Sequence[str]
  ) -> metrics.Scores:
    """All figures of the logits of examples' rows: the official ones, and those of what is tuned on them."""
    figures = self.figures(examples, self.decode(examples, rows, logits, labels))
    return figures | self.tuned(self.decode, examples, rows, logits)

  def figure_names(self, examples: Sequence, labels: Sequence[str]) -> list[str]:
    """Names of the figures that `evaluate` gives of such examples: those of nothing, and those of their parts."""
    whole, official = self.evaluate([], [], [], labels), self.figures([], [])
    parts = dict.fromkeys(part for part in map(self.part, examples) if part)
    return [*whole, *(f"{part}/{figure}" for part in parts for figure in official)]


def named(name: str, figures: metrics.Scores) -> metrics.Scores:
  """Figures of a part, as in mismatched/accuracy; of "" those of the whole."""
  return {f"{name}/{figure}" if name else figure: value for figure, value in figures.items()}
