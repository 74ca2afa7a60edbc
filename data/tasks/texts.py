"""Texts and pairs of texts with one label: examples, classes, rows of pieces, figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.tasks import metrics, pieces
from data.tasks.files import label_ids
from data.tasks.rows import TaskRow
from data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextExample:
  """One text or two, and their class, or a number where the task asks for one; None where it is unknown.

  name: the example's own identity, which predictions go by: what its file says, else its number in the file, from 0.
  """

  texts: tuple[str, ...]
  label: str | float | None
  where: str = "example"
  name: str = ""


def both_orders(examples: Sequence[TextExample]) -> list[TextExample]:
  """Examples of two texts, and behind them the same with the second text first."""
  return [*examples, *(dataclasses.replace(example, texts=example.texts[::-1]) for example in examples)]


def label_arrays(example: TextExample, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """(class int32[1], weight float32[1]) of an example; TaskError for a label that there is not."""
  wanted = () if example.label is None else (example.label,)
  return np.array(label_ids(tuple(labels), wanted, example.where) or [0], np.int32), np.full(1, len(wanted), np.float32)


def number_arrays(example: TextExample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(class int32[1], which is 0, weight float32[1], number float32[1, 1]) of an example."""
  known = example.label is not None
  number = np.full((1, 1), example.label if known else 0, np.float32)
  return np.zeros(1, np.int32), np.full(1, known, np.float32), number


@dataclasses.dataclass(frozen=True)
class TextRows:
  """Examples to rows of one text or of a pair, with the label on the first column.

  What is longer than a row loses pieces at the end of the longer text, one after the other, and of the second where
  both are as long (BERT's run_classifier).

  Attributes:
    max_length: tokens of a row.
    number: whether the label is a number; it stands in `several`, float32 [1, 1], and its class is 0.
  """

  max_length: int = 512
  number: bool = False

  def __call__(self, examples: Sequence[TextExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """One row with one label an example; raises TaskError for a label that there is not."""
    encoded = iter(tokenizer.encode([text for example in examples for text in example.texts]))
    return [
      self._row(i, example, [next(encoded).ids for _ in example.texts], tokenizer, labels)
      for i, example in enumerate(examples)
    ]

  def _row(
    self, i: int, example: TextExample, ids: list[np.ndarray], tokenizer: Tokenizer, labels: Sequence[str]
  ) -> TaskRow:
    if len(ids) == 1:
      whole, types = pieces.single(tokenizer, ids[0][: self.max_length - 2])
    else:
      room = self.max_length - pieces.pair_room(tokenizer)
      sizes = shortened(len(ids[0]), len(ids[1]), room)
      whole, types, _ = pieces.pair(tokenizer, *(each[:size] for each, size in zip(ids, sizes, strict=True)))
    cls = np.zeros(1, np.int32)
    if not self.number:
      return TaskRow(whole, types, *label_arrays(example, labels), cls=cls, example=i)
    label, weight, number = number_arrays(example)
    return TaskRow(whole, types, label, weight, cls=cls, several=number, example=i)


def shortened(first: int, second: int, room: int) -> tuple[int, int]:
  """Sizes of two texts that lose pieces, always the longer one, the second where both are as long, down to `room`."""
  over = max(first + second - room, 0)
  longer = min(over, abs(first - second))  # first the longer one comes down to the other
  over -= longer
  cut = (longer if first > second else 0, longer if second > first else 0)
  return first - cut[0] - over // 2, second - cut[1] - (over - over // 2)


def decode_number(
  examples: Sequence[TextExample], rows: Sequence, values: Sequence[np.ndarray], labels: Sequence[str]
) -> list[float]:
  """The number of each example. values: [1, 1] of each row."""
  found = [0.0] * len(examples)
  for row, value in zip(rows, values, strict=True):
    found[row.example] = float(value[0, 0])
  return found


def class_f1(gold: Sequence[str], predicted: Sequence[str], positive: str) -> metrics.Scores:
  """f1 of one class of two (MRPC, QQP)."""
  sides = [[{label} & {positive} for label in side] for side in (gold, predicted)]
  return {"f1": metrics.micro(*sides)["f1"]}


def accuracy_f1(gold: Sequence[str], predicted: Sequence[str], positive: str) -> metrics.Scores:
  """accuracy, f1 of `positive`, and their mean accuracy_f1, which is GLUE's figure of MRPC and QQP."""
  both = metrics.accuracy(gold, predicted) | class_f1(gold, predicted, positive)
  return both | {"accuracy_f1": (both["accuracy"] + both["f1"]) / 2}


def correlations(gold: Sequence[float], predicted: Sequence[float]) -> metrics.Scores:
  """pearson, spearman, and their mean pearson_spearman, which is GLUE's figure of STS-B."""
  both = metrics.pearson(gold, predicted) | metrics.spearman(gold, predicted)
  return both | {"pearson_spearman": (both["pearson"] + both["spearman"]) / 2}


def class_matthews(gold: Sequence[str], predicted: Sequence[str], positive: str) -> metrics.Scores:
  """matthews of two classes, and accuracy (CoLA)."""
  sides = [[label == positive for label in side] for side in (gold, predicted)]
  return metrics.matthews(*sides) | metrics.accuracy(gold, predicted)
