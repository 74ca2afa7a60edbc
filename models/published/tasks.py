"""Heads of tasks in published files: transformers' classes and names, which one a file has, what config.json says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from models.published.errors import WeightsError
from models.task_heads import TASK_HEADS, HeadedConfig, reads_pooler, summary_of


@dataclasses.dataclass(frozen=True)
class Task:
  """What transformers calls a task's head.

  module: of the kernel that its outputs come from; dense: of a dense layer of its own before that, if it has one;
  marks: its tokenizer's name for the task, if any.
  """

  architecture: str
  module: str
  dense: str | None = None
  marks: str | None = None


def _tasks(name: str, **own: Task) -> dict[str, Task]:
  """The heads of words and texts of a family; `own` replaces some."""
  texts = Task(f"{name}ForSequenceClassification", "classifier")
  return {
    "classify": texts,
    "regress": texts,
    "tag": Task(f"{name}ForTokenClassification", "classifier"),
    "answer": Task(f"{name}ForQuestionAnswering", "qa_outputs"),
    "choose": Task(f"{name}ForMultipleChoice", "classifier"),
  } | own


def _two_layers(name: str) -> dict[str, Task]:
  texts = Task(f"{name}ForSequenceClassification", "classifier/out_proj", dense="classifier/dense")
  return {"classify": texts, "regress": texts}


def _unknown(name: str, *heads: str) -> dict[str, Task]:
  """Heads that transformers has no class for: they stand under names of our own beside the encoder."""
  return {head: Task(f"{name}Model", head) for head in heads}


_MENTIONS = ("type", "relate", "cloze")
# Family -> head -> what it is there
TASKS: dict[str, dict[str, Task]] = {
  "bert": _tasks("Bert", **_unknown("Bert", *_MENTIONS)),
  "roberta": _tasks("Roberta", **_two_layers("Roberta"), **_unknown("Roberta", *_MENTIONS)),
  "albert": _tasks("Albert", **_unknown("Albert", *_MENTIONS)),
  "electra": _tasks(
    "Electra",
    **_two_layers("Electra"),
    choose=Task("ElectraForMultipleChoice", "classifier", dense="sequence_summary/summary"),
    **_unknown("Electra", *_MENTIONS),
  ),
  "luke": {
    "type": Task("LukeForEntityClassification", "classifier", marks="entity_classification"),
    "relate": Task("LukeForEntityPairClassification", "classifier", marks="entity_pair_classification"),
    "spans": Task("LukeForEntitySpanClassification", "classifier", marks="entity_span_classification"),
    **_tasks("Luke"),
    **_unknown("Luke", "cloze"),
  },
}
# Keys of config.json that the summary of ELECTRA's choices follows, and their values here and by default there.
SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}


def task_of(c: HeadedConfig) -> str | None:
  """The task whose head a model has, None for one that is only pretrained.

  Raises:
    WeightsError: there are several.
  """
  found = [head for head in c.heads_on_top if head in TASK_HEADS]
  if len(found) > 1:
    raise WeightsError(f"name table: a model with the heads {', '.join(found)} has no published layout; want one task")
  return found[0] if found else None


def _dropout_key(family: str, head: str) -> tuple[str, float | None]:
  """config.json's key of the dropout before a head, and its value where the file does not say; None = the layers'."""
  if family == "albert":
    return "classifier_dropout_prob", 0.1
  return ("summary_last_dropout", 0.1) if (family, head) == ("electra", "choose") else ("classifier_dropout", None)


# --- reading ----------------------------------------------------------------------------------------------------------


class Stored(Protocol):
  """Of `parts.Stored`: what a folder holds."""

  config: dict[str, Any]
  tensors: dict[str, np.ndarray]
  source: str

  def has(self, family: str) -> tuple[str, ...]: ...


def stored_fields(found: Stored, family: str, heads: Sequence[str] = ()) -> dict[str, Any]:
  """HeadedConfig fields of a file's model: `heads_on_top`, `heads` and that of a task if the file has one.

  Raises:
    WeightsError: nothing says which task the head is of, or it is none of ours.
  """
  kernels = {head: found.tensors.get(f"{task.module.replace('/', '.')}.weight") for head, task in TASKS[family].items()}
  there = {head: TASKS[family][head] for head, kernel in kernels.items() if kernel is not None}
  if not there:
    return {"heads_on_top": tuple(heads)}
  head = _named(found, there)
  if "regress" in there and head in ("classify", "regress"):
    head = "regress" if _regresses(found, len(kernels[head])) else "classify"
  summary = summary_of(family, head)
  if reads_pooler([head], summary) and "pooler" not in found.has(family):
    got = f"has {there[head].module} and no pooler below it"
    raise WeightsError(f"weights {found.source}: {got}, want the whole model; save it again")
  if family == "electra" and head == "choose":
    _refuse_other_summary(found)
  classes = 0 if TASK_HEADS[head].outputs else len(kernels[head])
  dropout = {"head_dropout": _dropout(found, family, head)}
  return {"heads_on_top": (*heads, head), "classes": classes, "summary": summary, **dropout}


def _named(found: Stored, there: Mapping[str, Task]) -> str:
  """One of the heads whose tensors are there: by the class that config.json names, where several have the same."""
  modules = sorted({task.module for task in there.values()})
  if len(modules) > 1:
    got = " and ".join(module.replace("/", ".") for module in modules)
    raise WeightsError(f"weights {found.source}: hold {got}, want the head of one task")
  known, named = {task.architecture for task in there.values()}, found.config.get("architectures") or []
  wanted = known if len(known) == 1 else known & set(named)
  if len(wanted) != 1:
    classes = ", ".join(dict.fromkeys(task.architecture for task in there.values()))
    raise WeightsError(
      f"weights {found.source}: config.json: architectures is {named}, want one of {classes}: several have a "
      f"{modules[0]}"
    )
  return next(head for head, task in there.items() if task.architecture in wanted)


def _regresses(found: Stored, outputs: int) -> bool:
  """Whether a head of texts gives a number: as config.json says, or because it has one output (as transformers)."""
  kind = found.config.get("problem_type")
  if kind == "regression" and outputs > 1:
    raise WeightsError(
      f"weights {found.source}: config.json: problem_type is regression, of {outputs} outputs, want one; no model here "
      "has more"
    )
  return kind == "regression" or kind is None and outputs == 1


def _refuse_other_summary(found: Stored) -> None:
  for key, value in SUMMARY.items():
    if found.config.get(key, value) != value:
      raise WeightsError(
        f"weights {found.source}: config.json: {key} is {found.config[key]!r}, want {value!r}; no model here has it"
      )


def _dropout(found: Stored, family: str, head: str) -> float | None:
  key, default = _dropout_key(family, head)
  rate = default if found.config.get(key) is None else found.config[key]
  if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1):
    raise WeightsError(f"weights {found.source}: config.json: {key} is {rate!r}, want a number from 0 below 1")
  return rate if rate is None else float(rate)


def notes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
  """What a reader of a config.json's model should know of its head."""
  several = config.get("problem_type") == "multi_label_classification"
  return ("problem_type is multi_label_classification: here one class is right, not several",) if several else ()


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
  """The names of a head's outputs in a config.json, in their order; none where it names none."""
  names = {int(i): name for i, name in (config.get("id2label") or {}).items()}
  return tuple(names[i] for i in sorted(names))


# --- writing ----------------------------------------------------------------------------------------------------------


def task_keys(c: HeadedConfig, family: str, labels: Sequence[str] = ()) -> dict[str, Any]:
  """What config.json says of the head of a task; nothing where there is none.

  Args:
    labels: in the order of its outputs; LABEL_0... by default, as transformers has it, for heads with classes.
  Raises:
    WeightsError: there are not as many labels as outputs.
  """
  head, keys = task_of(c), {}
  outputs = 0 if head is None else TASK_HEADS[head].outputs or c.classes
  if labels and len(labels) != outputs:
    raise WeightsError(f"export: got {len(labels)} labels, want {outputs}, the outputs of the head")
  if head is None:
    return keys
  named = c.classes or (outputs if head == "regress" else 0)
  if names := list(labels) or [f"LABEL_{i}" for i in range(named)]:
    keys["id2label"] = {str(i): name for i, name in enumerate(names)}
    keys["label2id"] = {name: i for i, name in enumerate(names)}
  if head in ("classify", "regress"):
    keys["problem_type"] = "regression" if head == "regress" else "single_label_classification"
  if family == "electra" and head == "choose":
    keys |= SUMMARY
  key, default = _dropout_key(family, head)
  rate = c.head_dropout if default is None else c.task_dropout
  return keys | ({} if rate is None else {key: rate})
