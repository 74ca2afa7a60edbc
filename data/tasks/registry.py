"""The tasks by name: files, labels, rows, answers, official figures. The numbers of fine-tuning are the recipe's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.tasks import answers, cloze, docred, entity_typing, metrics, named_entities, questions, relations
from data.tasks.rows import TaskError, TaskRow
from data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Task:
  """What tells one task from another.

  Attributes:
    head: kind of the model's head: type, relate, spans, cloze or answer.
    files: official file of each split (train, and dev and test where there are such with labels) in the task's folder.
    read: (file) -> examples.
    label_list: (training examples) -> names of the classes; () where the head's outputs have none.
    rows: (examples, tokenizer, labels) -> rows; its attributes are lengths and strides, see `dataclasses.replace`.
    decode: (examples, rows, logits of each row, labels) -> the answer of each example.
    gold: (example) -> what is true, as `score` wants it; None where nobody says.
    score: (what is true, answers) -> official figures, as fractions.
    group: (example) -> the document or passage that it is from: what is held out for evaluation is held out whole.
    markers: pieces that the vocabulary must have, each with the piece whose row a new one copies.
  """

  name: str
  head: str
  files: Mapping[str, str]
  read: Callable[[Path], list]
  label_list: Callable[[Sequence], tuple[str, ...]]
  rows: Callable[[Sequence, Tokenizer, Sequence[str]], list[TaskRow]]
  decode: Callable[[Sequence, Sequence[TaskRow], Sequence[np.ndarray], Sequence[str]], list]
  gold: Callable[[Any], Any]
  score: Callable[[Sequence, Sequence], metrics.Scores]
  group: Callable[[Any], str] = lambda example: example.where
  markers: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def examples(self, folder: str | Path, split: str) -> list:
    """The examples of a split; TaskError where the task has no such split, or the folder no such file."""
    if split not in self.files:
      raise TaskError(f"task {self.name}: got split {split!r}, want one of {list(self.files)}")
    return self.read(Path(folder) / self.files[split])

  def figures(self, examples: Sequence, found: Sequence) -> metrics.Scores:
    """The official figures of `found`, the answers of `examples`; TaskError where one does not say what is true."""
    gold = [self.gold(example) for example in examples]
    unknown = [example.where for example, true in zip(examples, gold, strict=True) if true is None]
    if unknown:
      raise TaskError(f"{unknown[0]}: says no answer, want one to score against; use a file with labels")
    return self.score(gold, found)


def _relation_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="relate",
    files={"train": "train.json", "dev": "dev.json", "test": "test.json"},
    read=relations.read_tacred,
    label_list=relations.relation_list,
    rows=relations.RelationRows(),
    decode=relations.decode,
    gold=lambda example: example.relation,
    score=metrics.relation_micro,
    markers={"<ent>": "@", "<ent2>": "#"},
  )
  return dataclasses.replace(base, **changes)


def _typing_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="type",
    files={"train": "train.json", "dev": "dev.json", "test": "test.json"},
    read=entity_typing.read_open_entity,
    label_list=entity_typing.type_list,
    rows=entity_typing.TypingRows(),
    decode=entity_typing.decode,
    gold=lambda example: example.types,
    score=metrics.micro,
    markers={"<ent>": "@"},
  )
  return dataclasses.replace(base, **changes)


def _span_task(name: str, **changes: Any) -> Task:
  base = Task(
    name=name,
    head="spans",
    files={"train": "eng.train", "dev": "eng.testa", "test": "eng.testb"},
    read=named_entities.read_columns,
    label_list=named_entities.span_labels,
    rows=named_entities.SpanRows(),
    decode=named_entities.decode,
    gold=lambda example: example.spans,
    score=metrics.micro,
  )
  return dataclasses.replace(base, **changes)


def _answer_texts(example: questions.QuestionExample) -> list[str] | None:
  return [answer.text for answer in example.answers] if example.answers or example.impossible else None


def _answer_task(name: str, unanswerable: bool) -> Task:
  version = "2.0" if unanswerable else "1.1"
  return Task(
    name=name,
    head="answer",
    files={"train": f"train-v{version}.json", "dev": f"dev-v{version}.json"},
    read=functools.partial(questions.read_squad, unanswerable="keep" if unanswerable else "skip"),
    label_list=lambda examples: (),
    rows=answers.AnswerRows(),
    decode=answers.AnswerDecoder(unanswerable=unanswerable),
    gold=_answer_texts,
    score=functools.partial(metrics.answer_scores, unanswerable=unanswerable),
    group=lambda example: example.title or example.passage,
  )


_RECORD = Task(
  name="record",
  head="cloze",
  files={"train": "train.json", "dev": "dev.json"},
  read=cloze.read_record,
  label_list=lambda examples: (),
  rows=cloze.ClozeRows(),
  decode=cloze.decode,
  gold=lambda example: None if example.answers is None else example.texts,
  score=metrics.answer_scores,
  markers={"[HIGHLIGHT]": "@", "[PLACEHOLDER]": "#", "[ENTITY]": "*"},
)

_DOCRED = {"train": "train_revised.json", "dev": "dev_revised.json", "test": "test_revised.json"}

TASKS: dict[str, Task] = {
  task.name: task
  for task in (
    _typing_task("open_entity"),
    _typing_task("redocred_types", files=_DOCRED, read=docred.read_typing),
    _relation_task("tacred"),
    _relation_task(
      "semeval",
      files={"train": "TRAIN_FILE.TXT", "test": "TEST_FILE_FULL.TXT"},
      read=relations.read_semeval,
      label_list=functools.partial(relations.relation_list, none=relations.OTHER),
      score=metrics.relation_macro,
    ),
    _relation_task("redocred_relations", files=_DOCRED, read=docred.read_relations),
    _span_task("conll2003"),
    _span_task(
      "wnut17",
      files={"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"},
    ),
    _span_task("redocred_mentions", files=_DOCRED, read=docred.read_documents),
    _RECORD,
    _answer_task("squad", unanswerable=False),
    _answer_task("squad2", unanswerable=True),
  )
}


def find(name: str) -> Task:
  """The task of a name; TaskError where there is none."""
  if name not in TASKS:
    raise TaskError(f"task: got {name!r}, want one of {', '.join(TASKS)}")
  return TASKS[name]
