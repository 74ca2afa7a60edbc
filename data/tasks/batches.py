"""Rows of a task as batches: a batch holds a fixed number of examples, packed into as few short rows as they need.

A batch is a pure function of the rows, a seed and a cursor. Its shape follows from the examples in it, so a run
compiles one program for each of a few shapes: the width is the first of WIDTHS that its longest example fits, and
numbers of rows, mentions and labels are rounded up to a short list of sizes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np

from data import draws
from data.batch import Entities, Labelled, LabelledWords, Tokens, validate
from data.packing import pack
from data.tasks.rows import TaskError, TaskRow

WIDTHS = (32, 64, 128, 256, 384, 512)
NEIGHBOURS = 16  # batches whose rows are sorted together by their length
_FEW = 4  # mentions or labels of an example up to which each place of a row has room for so many
_OPTIONAL = ("cls", "spans", "slots", "several")


def rounded(number: int) -> int:
  """The first of 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32 ... that is at least `number`: a quarter more at most."""
  step = 1 << max(0, (max(number, 1) - 1).bit_length() - 3)
  return -(-max(number, 1) // step) * step


@dataclasses.dataclass(frozen=True)
class Shape:
  """What fixes the shape of a task's batches besides the examples in one of them.

  Attributes:
    length: tokens of the longest text that is allowed; only rows of several texts (`TaskRow.parts`) are longer.
    packed: S, the most examples of a row; of examples of several texts each has a row of its own.
    multiple: rows of a batch are a multiple of this (micro-batches times devices).
    pad: id of padding.
    mention: pieces of the longest mention.
    columns: whether labels are columns of the example (answers) and not classes.
  """

  length: int
  packed: int
  multiple: int
  pad: int
  mention: int = 1
  columns: bool = False
  by_length: ClassVar[bool] = False  # rows are packed

  def collate(self, rows: Sequence[TaskRow]) -> Placed:
    """One batch of the rows."""
    return collate(rows, self)


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
  """A batch and where its examples stand.

  rows: int32[R, S], index of the example in each place, -1 = none. columns, labels: int64[R, S], first column and first
  label of each. sizes, counts: int64[N], columns and labels of each example.
  """

  batch: Labelled | LabelledWords
  rows: np.ndarray
  columns: np.ndarray
  labels: np.ndarray
  sizes: np.ndarray
  counts: np.ndarray

  def parts(self, values: np.ndarray, by_column: bool = False) -> list[np.ndarray]:
    """The part of `values` [R, K, ...] or, `by_column`, [R, L, ...] that belongs to each example."""
    first, size = (self.columns, self.sizes) if by_column else (self.labels, self.counts)
    found = [values[:0]] * len(size)
    for row, place in zip(*np.nonzero(self.rows >= 0)):
      example, begin = self.rows[row, place], first[row, place]
      found[example] = values[row, begin : begin + size[example]]
    return found


class Collates(Protocol):
  """What makes a batch of rows: `Shape` of pieces, `word_batches.WordShape` of whole words.

  by_length: whether a row of a batch is one example, so that batches are better of examples of like length.
  """

  by_length: ClassVar[bool]

  def collate(self, rows: Sequence) -> Placed: ...


def collate(examples: Sequence[TaskRow], shape: Shape) -> Placed:
  """One batch of examples, each of which stands in exactly one row.

  Raises:
    TaskError: an example is longer than the rows may be.
  """
  sizes, longest = (np.array([of(example) for example in examples]) for of in (len, lambda e: e.longest))
  if longest.max() > shape.length:
    raise TaskError(
      f"example {longest.argmax()}: got {longest.max()} tokens, want at most {shape.length}: raise data.length"
    )
  width = next((width for width in WIDTHS if width >= sizes.max()), rounded(int(sizes.max())))
  if examples[0].parts is None:
    width = min(shape.length, width)
  else:
    shape = dataclasses.replace(shape, packed=1)
  counts = [np.array([len(part(e)) for e in examples]) for part in (lambda e: e.labels, lambda e: e.mentions)]
  few = [each.max() <= _FEW for each in counts]
  room = [max(int(each.max()), 1) * (shape.packed if all_fit else 1) for each, all_fit in zip(counts, few)]
  if examples[0].cls is not None and examples[0].parts is None and not few[0]:
    room[0], few[0] = width, True  # no more labels than tokens: one shape for batches of one width
  # A label or mention costs of the width what it takes of its own room, so none is ever left over.
  rows = pack(
    np.maximum(sizes, np.max([-(-width * each // most) for each, most in zip(counts, room)], 0)), width, shape.packed
  )
  wanted = shape.multiple * rounded(-(-len(rows) // shape.multiple))
  rows = np.concatenate([rows, np.full((wanted - len(rows), shape.packed), -1, np.int32)])
  taken = [np.where(rows >= 0, each[rows], 0) for each in (sizes, *counts)]
  begins = [np.cumsum(each, axis=1) - each for each in taken]
  fits = [most if all_fit else rounded(int(each.sum(1).max())) for each, most, all_fit in zip(taken[1:], room, few)]
  return Placed(_fill(examples, rows, begins, (width, *fits), shape), rows, *begins[:2], sizes, counts[0])


def _fill(examples, rows, begins, room, shape: Shape) -> Labelled:
  width, most_labels, most_mentions = room
  size, first = len(rows), examples[0]
  tokens = {name: np.zeros((size, width), np.int32) for name in ("types", "segments", "positions")}
  ids = np.full((size, width), shape.pad, np.int32)
  own = {"labels": np.zeros((size, most_labels), np.int32), "weights": np.zeros((size, most_labels), np.float32)}
  for name in _OPTIONAL:
    if (value := getattr(first, name)) is not None:
      own[name] = np.zeros((size, most_labels, *value.shape[1:]), value.dtype)
  entity_ids, entity_segments = (np.zeros((size, most_mentions), np.int32) for _ in range(2))
  entity_columns = np.full((size, most_mentions, shape.mention), -1, np.int32)
  for row, place in zip(*np.nonzero(rows >= 0)):
    example = examples[rows[row, place]]
    column, label, mention = (begin[row, place] for begin in begins)
    span = slice(column, column + len(example))
    ids[row, span], tokens["types"][row, span] = example.ids, example.types
    tokens["segments"][row, span], tokens["positions"][row, span] = _parted(example, place)
    shift = {"cls": column, "spans": column, "slots": mention, "labels": column if shape.columns else 0}
    for name, array in own.items():
      array[row, label : label + len(example.labels)] = getattr(example, name) + shift.get(name, 0)
    if example.entities is not None:
      entity_ids[row, mention : mention + len(example.entities)] = example.entities
      entity_segments[row, mention : mention + len(example.entities)] = place + 1
      for number, columns in enumerate(example.mentions):
        entity_columns[row, mention + number, : len(columns)] = columns + column
  entities = None if first.entities is None else Entities(entity_ids, entity_columns, entity_segments)
  batch = Labelled(Tokens(ids, **tokens), **own, entities=entities)
  validate(batch)
  return batch


def _parted(example: TaskRow, place: int) -> tuple[np.ndarray, np.ndarray]:
  """(segments, positions) of an example's tokens in a place of a row; positions restart in each of its texts."""
  starts = np.zeros(1, np.int32) if example.parts is None else example.parts
  columns = np.arange(len(example))
  number = np.searchsorted(starts, columns, side="right") - 1
  return place + 1 + number, columns - starts[number]


class TaskPipeline:
  """Batches of a task's training rows.

  Epoch e reads the rows in the order permutation(seed, "order", e); its last, partial batch is dropped, unless it is
  the only one. `by_length`, each NEIGHBOURS batches of that order are made of rows of like length, and the batches come
  in the order permutation(seed, "batches", e).
  """

  def __init__(self, rows: Sequence, batch_size: int, shape: Collates, seed: int):
    if not len(rows):
      raise TaskError("task: got no training example, want at least one")
    self.rows, self.batch_size, self.shape, self.seed = rows, min(batch_size, len(rows)), shape, seed
    self._order = functools.lru_cache(maxsize=2)(self._order_of)

  @property
  def epoch_size(self) -> int:
    """Batches of an epoch."""
    return len(self.rows) // self.batch_size

  def batch(self, cursor: int, rows: None = None) -> Labelled | LabelledWords:
    """Batch `cursor`, whole: how many rows it has follows from its examples, so nobody can ask for some of them."""
    epoch, number = divmod(cursor, self.epoch_size)
    chosen = self._order(epoch)[number * self.batch_size : (number + 1) * self.batch_size]
    return self.shape.collate([self.rows[i] for i in chosen]).batch

  def _order_of(self, epoch: int) -> np.ndarray:
    """Numbers of the rows of an epoch, batch after batch."""
    order = draws.permutation(self.seed, "order", epoch, len(self.rows))
    if not self.shape.by_length:
      return order
    order, sizes = order[: self.epoch_size * self.batch_size], np.array([len(row) for row in self.rows])
    step = NEIGHBOURS * self.batch_size
    parts = [order[first : first + step] for first in range(0, len(order), step)]
    alike = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in parts])
    batches = alike.reshape(self.epoch_size, self.batch_size)
    return batches[draws.permutation(self.seed, "batches", epoch, self.epoch_size)].ravel()


def in_order(rows: Sequence, batch_size: int, shape: Collates) -> list[tuple[np.ndarray, Placed]]:
  """Every row once, those of like length together: (numbers of the rows of a batch, the batch)."""
  order = np.argsort([-len(row) for row in rows], kind="stable")
  parts = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
  return [(part, shape.collate([rows[i] for i in part])) for part in parts]
