"""The batch contracts: what every model reads and every pipeline builds.

Each class is a frozen dataclass registered as a pytree, so it passes through `jax.jit` as it is. Every array field
declares its dimensions by letter and its dtype kind; `validate` holds a batch against them on the host, before anything
is dispatched. Letters: B batch, L tokens, P predictions, S examples of a row, E entities, M words of a mention,
J predicted entities, G row groups, U distinct words of a group, C characters or classes, K labels, A mentions of a
label or sentences of an example.

A dimension letter has one size throughout a batch. Fields whose first letter is B are rows: micro-batches and devices
split them; anything else (the word tables of `Chars` and `LabelledWords`) belongs to the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Array = Any  # np.ndarray on the host, jax.Array or a tracer inside a step

_KINDS = {"int": (np.integer,), "float": (np.floating,)}


def dims(letters: str, kind: str = "int", optional: bool = False) -> Any:
  """A dataclass field that holds an array of the dimensions `letters` (space separated; digits are literal sizes)."""
  metadata = {"dims": tuple(letters.split()), "kind": kind}
  if optional:
    return dataclasses.field(default=None, metadata=metadata)
  return dataclasses.field(metadata=metadata)


def batch_type(cls):
  """Class decorator: a frozen dataclass whose fields are all pytree children."""
  return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@batch_type
class Tokens:
  """Rows of tokens; a row may hold several packed examples."""

  ids: Array = dims("B L")  # originals: nothing is masked here
  types: Array = dims("B L")
  segments: Array = dims("B L")  # 0 = padding, 1.. = the packed example a token belongs to
  positions: Array = dims("B L")  # restart at 0 in every packed example


@batch_type
class Pair:
  """One sentence-pair decision (NSP, SOP) for each packed example."""

  cls: Array = dims("B S")  # column of the example's [CLS]
  labels: Array = dims("B S")
  weights: Array = dims("B S", "float")  # 0 = no such example


@batch_type
class Masked:
  """Tokens with positions to predict. Slots of weight 0 are padding and are dropped, never written to position 0."""

  tokens: Tokens
  positions: Array = dims("B P")  # columns
  inputs: Array = dims("B P")  # what stands there instead of the original
  labels: Array = dims("B P")
  weights: Array = dims("B P", "float")
  edges: Array | None = dims("B P 2", optional=True)  # columns beside the span, left and right; -1 = no boundary target
  offsets: Array | None = dims("B P", optional=True)  # index inside the span, from 0; 0 where there is no target
  pair: Pair | None = None


@batch_type
class Entities:
  """Entity mentions of a row."""

  ids: Array = dims("B E")
  positions: Array = dims("B E M")  # columns of the mention's pieces, -1 = padding
  segments: Array = dims("B E")  # 0 = padding, else the packed example


@batch_type
class MaskedEntities:
  """`Masked` words and masked entities of the same rows."""

  words: Masked
  entities: Entities  # ids as the model sees them: masked ones already replaced
  positions: Array = dims("B J")  # entity slots to predict
  labels: Array = dims("B J")
  weights: Array = dims("B J", "float")


@batch_type
class Chars:
  """Streams of words spelled in characters, in both directions; direction 1 is a stream already reversed in time."""

  words: Array = dims("G U C")  # distinct words of a group of B/G neighbouring rows
  index: Array = dims("B 2 L")  # row of `words` of the row's group
  targets: Array = dims("B 2 L")
  weights: Array = dims("B 2 L", "float")


@batch_type
class Labelled:
  """A fine-tuning batch: labels that stand on tokens, spans of tokens, or mentions of entities.

  Which of the optional fields a task has is its own affair: a relation has the slots of its two mentions, an answer the
  columns where it begins and ends as its two labels and nothing else.
  """

  tokens: Tokens
  labels: Array = dims("B K")  # classes, or columns; 0 where `several` says what is true
  weights: Array = dims("B K", "float")  # 0 = padding
  cls: Array | None = dims("B K", optional=True)  # columns the labels stand on, where they stand on tokens
  spans: Array | None = dims("B K 2", optional=True)  # first and last column of a span, or those of two markers
  slots: Array | None = dims("B K A", optional=True)  # slots of `entities`, where they stand on A mentions
  several: Array | None = dims("B K C", "float", optional=True)  # 0 or 1 for each class, where several may be true
  entities: Entities | None = None


@batch_type
class LabelledWords:
  """Labelled sentences of whole words, for networks that read words spelled in characters.

  Column 0 of a sentence is its beginning <S>; its words follow, and then its end </S>. What stands behind is padding
  that is never read.
  """

  words: Array = dims("G U C")  # distinct words of a group of B/G neighbouring rows
  index: Array = dims("B A L")  # row of `words` of the row's group; A sentences of an example
  lengths: Array = dims("B A")  # columns of a sentence, boundaries counted; 0 = no such sentence
  ids: Array = dims("B A L")  # row of the table of word vectors; 0 = none (boundaries, padding), 1 = an unknown word
  # Classes; of tags label k is that of the word in column k + 1 of sentence 0; of an answer the columns of sentence 0
  # where it begins and ends, 0 for none; 0 where `several` says what is true
  labels: Array = dims("B K")
  weights: Array = dims("B K", "float")  # 0 = padding
  several: Array | None = dims("B K 1", "float", optional=True)  # a number to predict


FIRST, SECOND, NEGATIVE = 0, 1, 2  # sides of a pair; a negative is nobody's second, and one for all


@batch_type
class TextPairs:
  """Rows of packed texts, each of which belongs to a pair. A text is a segment of its row."""

  tokens: Tokens
  pairs: Array = dims("B S")  # number of the pair that the text with segment s + 1 is of; -1 = no such text
  sides: Array = dims("B S")  # FIRST, SECOND, or NEGATIVE: a text that was chosen for the pair as none of its own


class BatchError(ValueError):
  """A batch field that is missing or has another shape or dtype than its contract."""


def validate(batch: Any, path: str = "") -> dict[str, int]:
  """Holds every field of `batch` against its declared dimensions.

  Returns:
    The size of each dimension letter.
  Raises:
    BatchError: naming the field, what it is and what it must be.
  """
  sizes: dict[str, int] = {}
  _validate(batch, path or type(batch).__name__, sizes)
  return sizes


def _validate(batch: Any, path: str, sizes: dict[str, int]) -> None:
  for field in dataclasses.fields(batch):
    value, name = getattr(batch, field.name), f"{path}.{field.name}"
    optional = field.default is None
    if value is None:
      if not optional:
        raise BatchError(f"batch field {name} is missing: got None, want {_wanted(field, sizes)}")
    elif dataclasses.is_dataclass(value):
      _validate(value, name, sizes)
    elif "dims" in field.metadata:
      _check_array(value, field, name, sizes)
    else:
      raise BatchError(f"batch field {name}: got {type(value).__name__}, want {field.type}")


def _check_array(value: Any, field: dataclasses.Field, name: str, sizes: dict[str, int]) -> None:
  shape, letters = getattr(value, "shape", None), field.metadata["dims"]
  if shape is None:
    raise BatchError(f"batch field {name}: got {type(value).__name__}, want {_wanted(field, sizes)}")
  kind = issubclass(np.dtype(value.dtype).type, _KINDS[field.metadata["kind"]])
  known = {d: int(d) if d.isdigit() else sizes.get(d, size) for d, size in zip(letters, shape)}
  if not kind or len(shape) != len(letters) or any(known[d] != size for d, size in zip(letters, shape)):
    raise BatchError(f"batch field {name}: got shape {tuple(shape)} {value.dtype}, want {_wanted(field, sizes)}")
  sizes.update((d, size) for d, size in known.items() if not d.isdigit())


def _wanted(field: dataclasses.Field, sizes: dict[str, int]) -> str:
  if "dims" not in field.metadata:
    return str(field.type)
  letters = (f"{d}={sizes[d]}" if d in sizes else d for d in field.metadata["dims"])
  return f"[{', '.join(letters)}] {field.metadata['kind']}"


def is_row_field(batch: Any) -> Any:
  """A tree like `batch` with True where the leading dimension is B (rows, split over micro-batches and devices)."""
  values = {}
  for field in dataclasses.fields(batch):
    value = getattr(batch, field.name)
    if value is None:
      values[field.name] = None
    elif dataclasses.is_dataclass(value):
      values[field.name] = is_row_field(value)
    else:
      values[field.name] = field.metadata["dims"][0] == "B"
  return type(batch)(**values)


def split_rows(batch: Any) -> tuple[list[Array], Callable[[list[Array]], Any]]:
  """(row fields as a list, function that puts such a list back beside the fields of the whole batch)."""
  leaves, tree = jax.tree.flatten(batch)
  is_row = jax.tree.leaves(is_row_field(batch))

  def rebuild(rows: list[Array]) -> Any:
    own = iter(rows)
    return tree.unflatten([next(own) if row else leaf for row, leaf in zip(is_row, leaves)])

  return [leaf for row, leaf in zip(is_row, leaves) if row], rebuild


def batch_size(batch: Any) -> int:
  """Rows of a batch."""
  return split_rows(batch)[0][0].shape[0]


def count_tokens(batch: Any) -> tuple[int, int]:
  """(real tokens, token slots) of a host batch: the difference is padding."""
  if isinstance(batch, Tokens):
    return int(np.count_nonzero(batch.segments)), batch.segments.size
  if isinstance(batch, Chars):
    return int(np.count_nonzero(batch.weights)), batch.weights.size
  if isinstance(batch, LabelledWords):
    return int(batch.lengths.sum()), batch.index.size
  inner = next(getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name in ("tokens", "words"))
  return count_tokens(inner)


def concatenate_rows(parts: list[Any]) -> Any:
  """Joins host batches row-wise; every field must be a row field."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=0), *parts)
