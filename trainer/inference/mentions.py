"""Mentions on their way into a LUKE: texts with spans as rows, rows as batches, and what is odd about the spans."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data.batch import Entities
from data.entity_spans import EntityTextError, SpanNote
from data.entity_text import EntityText, Limits, encode_all
from data.entity_vocabulary import EntityVocabulary
from models.luke import LukeConfig
from trainer.inference.running import longest_of, refuse_long
from trainer.inference.tuned import Tuned
from trainer.loading import Loaded
from trainer.mention_lines import Span, check
from trainer.texts import Chunk, InputError, power_of_two

MENTION = Limits().mention  # pieces of a mention whose positions count
_WHOLE = 1 << 30  # columns; no text has so many
_LANGUAGE = "en"  # of titles that do not name theirs ("de:Berlin"), where a vocabulary has several


@dataclasses.dataclass(frozen=True)
class Remark:
  """What is odd about a span of a text, or why it became no mention.

  text: its number from 0. span: [first, end) characters, and mention what stands there.
  """

  text: int
  span: Span
  mention: str
  reason: str
  lost: bool

  def __str__(self) -> str:
    first, end = self.span
    return f"span {first}:{end} {self.mention!r} {self.reason}"


def entities_of(loaded: Loaded) -> EntityVocabulary:
  """The entities of a LUKE; raises InputError where the model is none, or has no titles."""
  if not isinstance(loaded.model.config, LukeConfig):
    kind = type(loaded.model).__name__
    raise InputError(f"model {loaded.source}: got a {kind}, want a LUKE for texts with spans; leave the spans out")
  if loaded.entities is None:
    raise InputError(f"model {loaded.source}: has no entity_vocab.json beside its tokenizer, want it; copy it there")
  return loaded.entities


def with_mentions(
  loaded: Loaded,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  titles: Sequence[Sequence[str | None] | None] | None = None,
  task: str | None = None,
) -> list[EntityText]:
  """Texts with all their mentions, however long: of two spans and a task as `data.entity_text` says.

  Args:
    titles: of each text's spans, None = [MASK]; English ones where the vocabulary has several languages and a title
      does not name its own ("de:Berlin").
  Raises:
    InputError: the model is no LUKE, or spans do not fit their text; counts texts from 1.
  """
  entities, names = entities_of(loaded), [None] * len(texts) if titles is None else titles
  for name, given in (("spans", spans), ("titles", names)):
    if len(given) != len(texts):
      raise InputError(f"{name}: got those of {len(given)} texts, want {len(texts)}; give a list for each text")
  for i, (text, own, named) in enumerate(zip(texts, spans, names)):
    check(f"text {i + 1}", text, own, named, task)
  spaced = task is not None and isinstance(loaded, Tuned) and loaded.spaced
  space = " " * (spaced and loaded.tokenizer.kind == "bytebpe")  # the other kinds give the same pieces without it
  moved = [[(first + len(space), end + len(space)) for first, end in own] for own in spans]
  return _encoded(loaded, entities, [space + text for text in texts], moved, names, task, _WHOLE)


def _encoded(loaded, entities, texts, spans, titles, task, length: int) -> list[EntityText]:
  limits = Limits(length, max([1, *map(len, spans)]), MENTION)
  try:
    return encode_all(
      loaded.tokenizer, entities, texts, spans, titles, task=task, limits=limits, language=_LANGUAGE, specials=True
    )
  except EntityTextError as error:
    raise InputError(f"model {loaded.source}: {error}") from None


def cut_to(
  loaded: Loaded,
  found: Sequence[EntityText],
  longest: int,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  titles: Sequence[Sequence[str | None] | None] | None,
) -> list[EntityText]:
  """`found`, with the texts of more than `longest` columns cut; mentions that this cuts off are lost."""
  long = [i for i, each in enumerate(found) if len(each) > longest]
  part = lambda values: [values[i] for i in long]
  names = None if titles is None else part(titles)
  cut = _encoded(loaded, entities_of(loaded), part(texts), part(spans), names, None, longest)
  replaced = dict(zip(long, cut, strict=True))
  return [replaced.get(i, each) for i, each in enumerate(found)]


def whole(
  loaded: Loaded,
  found: Sequence[EntityText],
  max_length: int | None,
  odd: Sequence[Sequence[Remark]],
  numbers: Sequence[int] | None = None,
) -> tuple[list[np.ndarray], int]:
  """(rows of ids, columns of the longest that is allowed); raises InputError for what is longer or loses a mention."""
  rows = [each.ids for each in found]
  longest = refuse_long(rows, longest_of(loaded, max_length), numbers)
  refuse_lost(odd)
  return rows, longest


def refuse_lost(odd: Sequence[Sequence[Remark]]) -> None:
  """Raises InputError where a span became no mention."""
  lost = next((remark for own in odd for remark in own if remark.lost), None)
  if lost is not None:
    raise InputError(f"text {lost.text + 1}: {lost}, want a mention; give the span of a word, or leave it out")


@dataclasses.dataclass(frozen=True)
class SpanNotes:
  """What `remarks` reads of an `EntityText`."""

  lost: tuple[SpanNote, ...]
  warnings: tuple[SpanNote, ...]


def remarks(
  found: Sequence[EntityText | SpanNotes], spans: Sequence[Sequence[Span]], numbers: Sequence[int] | None = None
) -> list[list[Remark]]:
  """What is odd about the spans of each text, in their order, spans that were lost among them.

  Args:
    numbers: of the texts, where they are not 0, 1, 2 ...
  """
  made = []
  for i, each in enumerate(found):
    notes = [(note, True) for note in each.lost] + [(note, False) for note in each.warnings]
    number, own = i if numbers is None else numbers[i], []
    for note, lost in sorted(notes, key=lambda pair: pair[0].index):
      first, end = spans[i][note.index]
      own.append(Remark(number, (int(first), int(end)), note.text, note.reason, lost))
    made.append(own)
  return made


def entity_batch(chunk: Chunk, found: Sequence[EntityText], pad: int) -> Entities:
  """Entities [B, E] of a chunk's rows; E is a power of two, M always MENTION."""
  most = power_of_two(max(1, *(len(found[i].mentions) for i in chunk.rows)))
  ids, segments = np.full((chunk.height, most), pad, np.int32), np.zeros((chunk.height, most), np.int32)
  columns = np.full((chunk.height, most, MENTION), -1, np.int32)
  for row, i in enumerate(chunk.rows):
    count = len(found[i].mentions)
    ids[row, :count], segments[row, :count] = found[i].entity_ids, 1
    for entity, own in enumerate(found[i].mentions):
      columns[row, entity, : len(own)] = own
  return Entities(ids, columns, segments)
