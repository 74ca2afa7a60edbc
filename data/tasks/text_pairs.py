"""Sentence embeddings: pairs of texts that belong together, rows of single texts, similarity by cosine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data.batch import FIRST, NEGATIVE, SECOND, TextPairs, Tokens, validate
from data.packing import pack
from data.tasks import pieces
from data.tasks.batches import WIDTHS, rounded
from data.tasks.files import field, is_json, read_lines
from data.tasks.glue import TextReader, records
from data.tasks.rows import TaskError
from data.tokenizers import Tokenizer

_COLUMNS = ("first", "second", "negative")
_NLI_LABELS = ("gold_label", "label")


@dataclasses.dataclass(frozen=True)
class PairExample:
  """Two texts that belong together, or two with a number that says how alike they are.

  Attributes:
    texts: first and second, and where there is one a negative: like the first, and yet not its second.
    score: 0 to 5 for two texts to compare; None for a pair to train on.
    name: the example's own identity, which predictions go by.
  """

  texts: tuple[str, ...]
  score: float | None
  where: str = "pair"
  name: str = ""


@dataclasses.dataclass(frozen=True)
class PairReader:
  """Reads pairs out of columns between tabs, or out of JSON; what the file is, its names say.

  - a score (STS-B): two texts to compare;
  - a label of inference (MNLI, SNLI): a premise with each text that follows from it, and a text that contradicts the
    premise as its negative, the first for the first and so on, the last again where there are fewer; a premise that
    nothing follows from is left out, as are neutral texts;
  - first, second and maybe negative: pairs; a file of columns may lack the names.

  Attributes:
    scored, inferred: readers of the first two forms.
  """

  scored: TextReader
  inferred: TextReader

  def __call__(self, path: Path) -> list[PairExample]:
    """The examples of a file; TaskError with file and line (of JSON: record) for what is none."""
    names = _names(path)
    if self.scored.label in names and set(self.scored.texts) <= names:
      return [PairExample(e.texts, e.label, e.where, e.name) for e in self.scored(path)]
    found = self._inferred(path) if names & set(_NLI_LABELS) else list(_plain(path))
    if not found:
      raise TaskError(f"{path}: got no pair, want some texts that belong together; check that the file is the task's")
    return found

  def _inferred(self, path: Path) -> list[PairExample]:
    follows: dict[str, list] = {}
    against: dict[str, list[str]] = {}
    for example in self.inferred(path):
      premise, other = example.texts
      if example.label == "entailment":
        follows.setdefault(premise, []).append(example)
      elif example.label == "contradiction":
        against.setdefault(premise, []).append(other)
    found = []
    for premise, examples in follows.items():
      others = against.get(premise, [])
      for i, example in enumerate(examples):
        negative = (others[min(i, len(others) - 1)],) if others else ()
        found.append(PairExample((*example.texts, *negative), None, example.where, example.name))
    return found


def _names(path: Path) -> set[str]:
  """Names of the columns or fields of a file's first example; of columns without names their content."""
  if is_json(path):
    record = next((record for _, _, record in records(path)), {})
    return set(record) if isinstance(record, dict) else set()
  return set(next((line for _, line in read_lines(path) if line.strip()), "").split("\t"))


def _plain(path: Path) -> Iterator[PairExample]:
  if is_json(path):
    for where, name, record in records(path):
      names = _COLUMNS if isinstance(record, dict) and _COLUMNS[2] in record else _COLUMNS[:2]
      yield _pair(tuple(field(record, each, str, where) for each in names), where, name)
    return
  lines = ((where, tuple(line.split("\t"))) for where, line in read_lines(path) if line.strip())
  texts = ((where, each) for where, each in lines if each != _COLUMNS[: len(each)])  # without the line of names
  for number, (where, each) in enumerate(texts):
    yield _pair(each, where, str(number))


def _pair(texts: tuple[str, ...], where: str, name: str) -> PairExample:
  texts = tuple(text.strip() for text in texts)
  if len(texts) not in (2, 3) or not all(texts):
    raise TaskError(
      f"{where}: got {len(texts)} texts{'' if all(texts) else ', one of them empty'}, want first, second and, if there "
      "is one, negative; correct the file"
    )
  return PairExample(texts, None, where, name)


def no_labels(examples: Sequence[PairExample]) -> tuple[str, ...]:
  """(), for there are no classes; TaskError for training examples that only say how alike two texts are."""
  scored = next((example.where for example in examples if example.score is not None), None)
  if scored is not None:
    raise TaskError(f"{scored}: got two texts with a score, want texts that belong together; name a file: task.train")
  return ()


@dataclasses.dataclass(frozen=True, eq=False)
class PairRow:
  """The texts of a pair in pieces, special pieces included.

  Attributes:
    texts: int32[n] each. sides: of each, FIRST, SECOND or NEGATIVE; two texts to compare are NEGATIVE both, so that
      they cost nothing.
    example: number of the example among those that were read.
  """

  texts: tuple[np.ndarray, ...]
  sides: tuple[int, ...]
  example: int = 0

  def __len__(self) -> int:
    return max(map(len, self.texts))


@dataclasses.dataclass(frozen=True)
class PairRows:
  """Pairs to rows of texts, each `[CLS] text [SEP]`; a longer text loses its end.

  Attributes:
    max_length: tokens of a text.
  """

  max_length: int = 512

  def __call__(self, examples: Sequence[PairExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[PairRow]:
    """One row an example."""
    encoded = iter(tokenizer.encode([text for example in examples for text in example.texts]))
    rows = []
    for i, example in enumerate(examples):
      texts = [pieces.single(tokenizer, next(encoded).ids[: self.max_length - 2])[0] for _ in example.texts]
      sides = (FIRST, SECOND, NEGATIVE) if example.score is None else (NEGATIVE, NEGATIVE)
      rows.append(PairRow(tuple(texts), sides[: len(texts)], i))
    return rows


@dataclasses.dataclass(frozen=True)
class PairShape:
  """What fixes the shape of batches of pairs, as `batches.Shape` does for those of labels."""

  length: int
  packed: int
  multiple: int
  pad: int
  by_length: ClassVar[bool] = False  # texts are packed

  def collate(self, rows: Sequence[PairRow]) -> PlacedPairs:
    """One batch, its texts packed into rows whatever pair they are of.

    A pair that has a first or second text of an earlier pair of the batch would be a negative to itself: its texts
    are there, and are of no pair. So is a negative that is a second text of the batch.

    Raises:
      TaskError: a text is longer than the rows may be.
    """
    owner = np.repeat(np.arange(len(rows)), [len(row.texts) for row in rows])
    texts, sides = [text for row in rows for text in row.texts], np.array([side for row in rows for side in row.sides])
    sizes = np.array(list(map(len, texts)))
    if sizes.max() > self.length:
      raise TaskError(f"text: got {sizes.max()} tokens, want at most {self.length}: raise data.length")
    width = min(self.length, next((width for width in WIDTHS if width >= sizes.max()), self.length))
    places = pack(sizes, width, self.packed)
    wanted = self.multiple * rounded(-(-len(places) // self.multiple))
    places = np.concatenate([places, np.full((wanted - len(places), self.packed), -1, np.int32)])
    ids = np.full((wanted, width), self.pad, np.int32)
    segments, positions = np.zeros_like(ids), np.zeros_like(ids)
    for row, place in zip(*np.nonzero(places >= 0)):
      text = texts[places[row, place]]
      begin = np.count_nonzero(segments[row])
      span = slice(begin, begin + len(text))
      ids[row, span], segments[row, span], positions[row, span] = text, place + 1, np.arange(len(text))
    real, numbers = places >= 0, np.where(_counted(rows), owner, -1)
    pairs, own = np.where(real, numbers[places], -1), np.where(real, sides[places], 0)
    batch = TextPairs(
      Tokens(ids, np.zeros_like(ids), segments, positions), pairs.astype(np.int32), own.astype(np.int32)
    )
    validate(batch)
    return PlacedPairs(batch, places, owner, len(rows))


def _counted(rows: Sequence[PairRow]) -> np.ndarray:
  """bool[T]: which texts are of their pair."""
  seen: set[bytes] = set()  # first and second texts
  seconds: set[bytes] = set()
  distinct = []
  for row in rows:
    own = [text.tobytes() for text, side in zip(row.texts, row.sides) if side != NEGATIVE]
    distinct.append(seen.isdisjoint(own))
    if distinct[-1]:
      seen.update(own)
      seconds.update(own[SECOND:])
  return np.array([
    kept and (side != NEGATIVE or text.tobytes() not in seconds)
    for row, kept in zip(rows, distinct)
    for text, side in zip(row.texts, row.sides)
  ])  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedPairs:
  """A batch and where its texts stand. places: int32[R, S], number of each text, -1 = none. owner: int[T], its row."""

  batch: TextPairs
  places: np.ndarray
  owner: np.ndarray
  count: int

  def parts(self, values: np.ndarray, by_column: bool = False) -> list[np.ndarray]:
    """Of `values` [R, S, D] those of each row's texts, [texts, D]."""
    flat = np.zeros((len(self.owner), *values.shape[2:]), values.dtype)
    real = self.places >= 0
    flat[self.places[real]] = values[real]
    return [flat[self.owner == i] for i in range(self.count)]


def decode(
  examples: Sequence[PairExample], rows: Sequence[PairRow], values: Sequence[np.ndarray], labels: Sequence[str]
) -> list[float]:
  """The cosine of the first two texts of each example. values: embeddings [texts, D] of each row; 0 has cosine 0."""
  found = [0.0] * len(examples)
  for row, value in zip(rows, values, strict=True):
    a, b = np.asarray(value[:2], np.float64)
    norm = np.sqrt((a @ a) * (b @ b))
    found[row.example] = float(a @ b / norm) if norm else 0.0
  return found
