"""Cloze questions with entities as candidates: ReCoRD (Zhang et al., 2018).

A query says "@placeholder" once; the answer is an entity marked in the passage, whose summary lines begin "@highlight".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.tasks import pieces
from data.tasks.files import check_span, field, read_json
from data.tasks.pieces import Part, Pieces
from data.tasks.rows import ENTITIES, TaskError, TaskRow
from data.tokenizers import Tokenizer

MARKERS = ("[HIGHLIGHT]", "[PLACEHOLDER]", "[ENTITY]")
_PLACEHOLDER, _HIGHLIGHT = "@placeholder", "@highlight"


@dataclasses.dataclass(frozen=True)
class ClozeExample:
  """A query, a passage, and its entities.

  Attributes:
    name: the query's own identity, which predictions go by.
    candidates: (first character, one past the last) in `passage`, in order and apart.
    answers: those of the candidates that are right, and `texts` as the file writes them; None where they are unknown.
  """

  name: str
  query: str
  passage: str
  candidates: tuple[tuple[int, int], ...]
  answers: frozenset[tuple[int, int]] | None
  texts: tuple[str, ...]
  where: str = "example"


def read_record(path: Path) -> list[ClozeExample]:
  """Examples of a ReCoRD file; ends of its entities and answers are of the last character.

  Raises:
    TaskError: a file of another form, a span outside its passage, entities over one another, or a query without its
      placeholder.
  """
  examples = []
  for i, record in enumerate(field(read_json(path, dict), "data", list, str(path))):
    examples += _examples(record, f"{path}, passage {i}")
  return examples


def _examples(record: object, where: str) -> Iterator[ClozeExample]:
  passage = field(record, "passage", dict, where)
  text = field(passage, "text", str, where)
  entities = tuple(sorted({_span(entity, text, where) for entity in field(passage, "entities", list, where)}))
  for (_, end), (first, _) in zip(entities, entities[1:]):
    if first < end:
      raise TaskError(f"{where}: got entities over one another at character {first}, want them apart; correct the file")
  for query in field(record, "qas", list, where):
    name, question = field(query, "id", str, where), field(query, "query", str, where)
    if question.count(_PLACEHOLDER) != 1:
      raise TaskError(f"{where}, query {name}: got {question!r:.60}, want {_PLACEHOLDER} in it once; correct the file")
    found = field(query, "answers", list, where) if "answers" in query else None
    answers = None if found is None else frozenset(_span(answer, text, where) for answer in found)
    texts = tuple(field(answer, "text", str, where) for answer in found or ())
    yield ClozeExample(name, question, text, entities, answers, texts, where)


def _span(record: object, text: str, where: str) -> tuple[int, int]:
  first, last = (field(record, edge, int, where) for edge in ("start", "end"))
  return check_span(first, last + 1, len(text), "entity", where)


@dataclasses.dataclass(frozen=True)
class ClozeRows:
  """Examples to rows: `<s> query </s></s> window </s>`, entity 0 on the placeholder and one on each candidate.

  "@placeholder" and "@highlight" become [PLACEHOLDER] and [HIGHLIGHT], and every candidate stands between two [ENTITY].
  A window without a candidate gives no row.

  Attributes:
    max_length: tokens of a row.
    max_query: pieces of the query, its beginning; where the placeholder would be cut off, what ends with it.
    stride: pieces from one window of the passage to the next.
    max_mention: pieces of a candidate that its entity stands on, the first of them.
    entities: False for models without entity inputs: labels stand on the columns of the placeholder and of a
      candidate's first marker, in `spans`.
  """

  max_length: int = 512
  max_query: int = 90
  stride: int = 128
  max_mention: int = 30
  entities: bool = True

  def __call__(self, examples: Sequence[ClozeExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """Rows with a label for each candidate of the window, 1 = answer; `window` is int32[k], their numbers."""
    highlight, placeholder, marker = pieces.marker_ids(tokenizer, MARKERS)
    passages = {(e.passage, e.candidates): _passage(e, highlight, marker) for e in examples}
    queries = [_query(example.query, placeholder) for example in examples]
    encoded = pieces.encode(tokenizer, [*queries, *((text, parts) for text, parts, _ in passages.values())])
    spans = {
      key: (each, [(int(each.parts[n - 1]), int(each.parts[n + 2])) for n in numbers])
      for (key, (_, _, numbers)), each in zip(passages.items(), encoded[len(examples) :], strict=True)
    }
    return [
      row
      for i, (example, query) in enumerate(zip(examples, encoded))
      for row in self._rows(i, example, query, *spans[example.passage, example.candidates], tokenizer)
    ]

  def _rows(
    self,
    i: int,
    example: ClozeExample,
    query: Pieces,
    passage: Pieces,
    spans: list[tuple[int, int]],
    tokenizer: Tokenizer,
  ) -> Iterator[TaskRow]:
    kept = max(0, int(query.parts[2]) - self.max_query)
    place = int(query.parts[1]) - kept + 1
    asked = query.ids[kept : kept + self.max_query]
    room = self.max_length - len(asked) - pieces.pair_room(tokenizer)
    if room < 1:
      raise TaskError(
        f"{example.where}: got a query of {len(asked)} pieces, want room for the passage: {pieces.LONGER}"
      )
    for first, end in pieces.windows(len(passage.ids), room, self.stride):
      inside = [n for n, (a, b) in enumerate(spans) if first <= a and b <= end]
      if inside:
        ids, types, begin = pieces.pair(tokenizer, asked, passage.ids[first:end])
        columns = [np.arange(*spans[n], dtype=np.int32) - first + begin for n in inside]
        yield self._row(i, example, (ids, types), place, inside, columns)

  def _row(
    self,
    i: int,
    example: ClozeExample,
    text: tuple[np.ndarray, np.ndarray],
    place: int,
    inside: list[int],
    columns: list,
  ) -> TaskRow:
    right = [example.answers is not None and example.candidates[n] in example.answers for n in inside]
    known = np.full(len(inside), example.answers is not None, np.float32)
    row = TaskRow(*text, np.array(right, np.int32), known, example=i, window=np.array(inside, np.int32))
    if not self.entities:
      return dataclasses.replace(row, spans=np.array([[place, each[0]] for each in columns], np.int32))
    slots = np.array([[0, n + 1] for n in range(len(inside))], np.int32)
    entities = np.full(len(inside) + 1, ENTITIES["[MASK]"], np.int32)
    mentions = (np.array([place], np.int32), *(each[: self.max_mention] for each in columns))
    return dataclasses.replace(row, slots=slots, entities=entities, mentions=mentions)


def _query(query: str, placeholder: int) -> tuple[str, list[Part]]:
  first = query.index(_PLACEHOLDER)
  return query.replace("\n", " "), [(0, first), placeholder, (first + len(_PLACEHOLDER), len(query))]


def _passage(example: ClozeExample, highlight: int, marker: int) -> tuple[str, list[Part], list[int]]:
  """The passage, its parts, and which of them each candidate is."""
  text, parts, numbers, done = example.passage, [], [], 0
  for first, end in example.candidates:
    parts += _between(text, done, first, highlight)
    numbers.append(len(parts) + 1)
    parts += [marker, (first, end), marker]
    done = end
  return text.replace("\n", " "), [*parts, *_between(text, done, len(text), highlight)], numbers


def _between(text: str, first: int, end: int, highlight: int) -> list[Part]:
  parts: list[Part] = []
  for found in re.compile(_HIGHLIGHT).finditer(text, first, end):
    parts += [(first, found.start()), highlight]
    first = found.end()
  return [*parts, (first, end)]


def decode(
  examples: Sequence[ClozeExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray], labels: Sequence[str]
) -> list[str]:
  """The text of the candidate with the highest logit over all windows; "" where no window has one.

  logits: [k] of each row's k candidates.
  """
  best: list[tuple[float, str]] = [(-np.inf, "")] * len(examples)
  for row, values in zip(rows, logits, strict=True):
    number = int(np.argmax(values))
    if values[number] > best[row.example][0]:
      example = examples[row.example]
      best[row.example] = (float(values[number]), example.passage[slice(*example.candidates[row.window[number]])])
  return [text for _, text in best]
