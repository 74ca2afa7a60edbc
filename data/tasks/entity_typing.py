"""Entity typing: the types of a mention, of which several may hold (Open Entity: Choi et al., 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.tasks import pieces
from data.tasks.files import check_span, field, label_ids, optional, read_json, strings
from data.tasks.pieces import Pieces
from data.tasks.rows import ENTITIES, TaskRow
from data.tokenizers import Tokenizer

MARKERS = ("<ent>",)

# Every kind of bracket becomes round, as in LUKE's published preprocessing.
_BRACKETS = {f"-{side}{kind}B-": mark for side, mark in (("L", "("), ("R", ")")) for kind in "RCS"}


@dataclasses.dataclass(frozen=True)
class TypingExample:
  """A text, the span of a mention in it (characters) and its types; None where they are unknown."""

  text: str
  span: tuple[int, int]
  types: tuple[str, ...] | None
  where: str = "example"


def read_open_entity(path: Path) -> list[TypingExample]:
  """Examples of a file of the ERNIE split: a list of {"sent", "start", "end", "labels"}, spans in characters.

  Brackets written "-LRB-" become "(" and ")". A file that is only answered has no labels.

  Raises:
    TaskError: a file of another form, or a span outside its sentence.
  """
  return [_open_entity(record, f"{path}, example {i}") for i, record in enumerate(read_json(path, list))]


def _open_entity(record: object, where: str) -> TypingExample:
  text = field(record, "sent", str, where)
  edges = [field(record, edge, int, where) for edge in ("start", "end")]
  first, end = check_span(*edges, len(text), "mention", where)
  parts = [_unbracketed(part) for part in (text[:first], text[first:end], text[end:])]
  first, end = len(parts[0]), len(parts[0]) + len(parts[1])
  types = None if optional(record, "labels", list, where) is None else tuple(strings(record, "labels", where))
  return TypingExample("".join(parts), (first, end), types, where)


def _unbracketed(text: str) -> str:
  for name, mark in _BRACKETS.items():
    text = text.replace(name, mark)
  return text


def type_list(examples: Sequence[TypingExample]) -> tuple[str, ...]:
  """The types of training examples, sorted."""
  return tuple(sorted({label for example in examples for label in example.types or ()}))


@dataclasses.dataclass(frozen=True)
class TypingRows:
  """Examples to rows: `<s> ... <ent> mention <ent> ... </s>` and one entity, [MASK], on the mention with its markers.

  Attributes:
    max_length: tokens of a row; of a longer text the part around the mention is kept.
    max_mention: pieces of the mention that the entity stands on, the first of them.
    entities: False for models without entity inputs: the label stands on the first marker, in `cls`.
  """

  max_length: int = 512
  max_mention: int = 30
  entities: bool = True

  def __call__(self, examples: Sequence[TypingExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """One row an example, `several` float32[1, number of labels]; raises TaskError for a type that is no label."""
    (marker,) = pieces.marker_ids(tokenizer, MARKERS)
    texts = [(e.text, [(0, e.span[0]), marker, e.span, marker, (e.span[1], len(e.text))]) for e in examples]
    encoded = pieces.encode(tokenizer, texts)
    return [
      self._row(i, e, p, tokenizer, tuple(labels)) for i, (e, p) in enumerate(zip(examples, encoded, strict=True))
    ]

  def _row(
    self, i: int, example: TypingExample, encoded: Pieces, tokenizer: Tokenizer, labels: tuple[str, ...]
  ) -> TaskRow:
    first, end = int(encoded.parts[1]), int(encoded.parts[4])
    kept = pieces.around(len(encoded.ids), first, end, self.max_length - 2, example.where)
    ids, types = pieces.single(tokenizer, encoded.ids[kept])
    columns = np.arange(first, end, dtype=np.int32) - kept.start + 1
    several = np.zeros((1, len(labels)), np.float32)
    several[0, label_ids(labels, example.types or (), example.where)] = 1
    known = np.full(1, example.types is not None, np.float32)
    row = TaskRow(ids, types, np.zeros(1, np.int32), known, several=several, example=i)
    if not self.entities:
      return dataclasses.replace(row, cls=columns[:1])
    mention = (columns[: self.max_mention],)
    entity = np.full(1, ENTITIES["[MASK]"], np.int32)
    return dataclasses.replace(row, slots=np.zeros((1, 1), np.int32), entities=entity, mentions=mention)


def decode(
  examples: Sequence[TypingExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray], labels: Sequence[str]
) -> list[tuple[str, ...]]:
  """The types of each example: those whose logit is above 0. logits: [1, number of labels] of each row."""
  found: list[tuple[str, ...]] = [()] * len(examples)
  for row, values in zip(rows, logits, strict=True):
    found[row.example] = tuple(label for label, value in zip(labels, values[0], strict=True) if value > 0)
  return found
