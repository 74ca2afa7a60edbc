"""How sure a model is of its answers: what stands beside a prediction, for each kind of head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.tasks.answers import AnswerDecoder
from data.tasks.rows import TaskError
from data.tasks.task import Task

Beside = dict[str, Any]  # what a JSON record says besides the prediction


def beside(
  task: Task, examples: Sequence, rows: Sequence, logits: Sequence[np.ndarray], labels: Sequence[str], found: Sequence
) -> list[Beside]:
  """What stands beside each of `found`, the answers that `task.decode` gives of the other arguments.

  - one class of several, or one choice: its `probability`;
  - types: the `probabilities` of those that were found, each by itself;
  - entities: `probabilities` of those that were found; of tags the product of its words', and nothing where tags were
    decided together (a CRF gives classes and no logits);
  - a candidate of a cloze question: its `probability` by itself;
  - an answer in a passage: `n_best`, fields of each `RankedAnswer`, the `probability` of the one that was found, and,
    where there may be none, `null_odds`: by how much having none outweighs the best answer;
  - a number, or a cosine: nothing.

  Raises:
    TaskError: there is nothing that says it of this kind of head.
  """
  if task.head not in _HEADS:
    raise TaskError(f"task {task.name}: got head {task.head!r}, want one of {', '.join(_HEADS)}")
  return _HEADS[task.head](task, examples, rows, logits, labels, found)


def softmax(logits: np.ndarray) -> np.ndarray:
  """float64 like `logits`, along the last axis."""
  powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
  """float64 like `logits`."""
  return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def _nothing(task, examples, rows, logits, labels, found) -> list[Beside]:
  return [{} for _ in examples]


def _of_one(task, examples, rows, logits, labels, found) -> list[Beside]:
  """The highest of one distribution, over classes [1, C] or choices [k]."""
  said: list[Beside] = [{} for _ in examples]
  for row, values in zip(rows, logits, strict=True):
    said[row.example] = {"probability": float(softmax(np.ravel(values)).max())}
  return said


def _of_types(task, examples, rows, logits, labels, found) -> list[Beside]:
  said: list[Beside] = [{} for _ in examples]
  for row, values in zip(rows, logits, strict=True):
    shares = dict(zip(labels, sigmoid(values[0]).tolist(), strict=True))
    said[row.example] = {"probabilities": [shares[label] for label in found[row.example]]}
  return said


def _of_spans(task, examples, rows, logits, labels, found) -> list[Beside]:
  best: list[dict[tuple, float]] = [{} for _ in examples]
  for row, values in zip(rows, logits, strict=True):
    best[row.example] |= dict(zip(map(tuple, row.window.tolist()), softmax(values).max(axis=-1).tolist()))
  return [{"probabilities": [own[span[:2]] for span in spans]} for own, spans in zip(best, found, strict=True)]


def _of_tags(task, examples, rows, logits, labels, found) -> list[Beside]:
  if any(values.ndim == 1 for values in logits):
    return _nothing(task, examples, rows, logits, labels, found)
  words = [np.ones(len(example.words)) for example in examples]
  for row, values in zip(rows, logits, strict=True):
    words[row.example][row.window[:, 1]] = softmax(values).max(axis=-1)[row.window[:, 0]]
  return [
    {"probabilities": [float(own[first:end].prod()) for first, end, _ in spans]}
    for own, spans in zip(words, found, strict=True)
  ]


def _of_candidates(task, examples, rows, logits, labels, found) -> list[Beside]:
  best = [-np.inf] * len(examples)
  for row, values in zip(rows, logits, strict=True):
    best[row.example] = max(best[row.example], float(np.max(values)))
  return [{"probability": float(sigmoid(value))} for value in best]


def _of_answers(task, examples, rows, logits, labels, found) -> list[Beside]:
  decoder: AnswerDecoder = task.decode
  ranked, (_, odds) = decoder.ranked(examples, rows, logits), decoder.with_odds(examples, rows, logits)
  said = []
  for own, none, text in zip(ranked, odds, found, strict=True):
    share = next((each.probability for each in own if each.text == text), 0.0)
    record = {"probability": share, "n_best": [dataclasses.asdict(each) for each in own]}
    said.append(record | ({"null_odds": none} if decoder.unanswerable else {}))
  return said


_HEADS: dict[str, Callable[..., list[Beside]]] = {
  "answer": _of_answers,
  "choose": _of_one,
  "classify": _of_one,
  "cloze": _of_candidates,
  "embed": _nothing,
  "regress": _nothing,
  "relate": _of_one,
  "spans": _of_spans,
  "tag": _of_tags,
  "type": _of_types,
  "words_answer": _of_answers,
  "words_choose": _of_one,
  "words_classify": _of_one,
  "words_pair": _of_one,
  "words_regress": _nothing,
  "words_tag": _of_tags,
}
