"""Text with entities by spans of characters -> pieces and mentions, as LUKE and mLUKE take them.

A text is cut at both ends of every span, a space before the cut going to the part behind it, and each part is encoded
by itself, so that no piece reaches across the edge of a mention. A task may put a marker piece on both sides of
mentions; they belong to them. Two texts stand as <s> A </s></s> B </s>. All of it is as the released tokenizers of both
models do it, but for what these leave out without a word: here every span is either kept, or lost with a reason.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from data.entity_spans import SECOND, TASKS, EntityTextError, Side, SpanNote, Spans, Text, sides, words_cut
from data.entity_vocabulary import EntityVocabulary
from data.tokenizers import Encoding, Tokenizer


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a text may have at most: columns, mentions, and pieces of a mention."""

  length: int = 512
  entities: int = 32
  mention: int = 30


@dataclasses.dataclass(frozen=True, eq=False)
class EntityText:
  """Pieces of n columns, special ones included, with E mentions; spans of a second text are numbered after the first's.

  Attributes:
    ids: int32[n].
    offsets: int32[n, 2]: characters in the piece's own text; (0, 0) for special pieces and markers.
    side: int8[n]: 0 = first text, 1 = second, -1 = special piece or marker.
    entity_ids: int32[E].
    mentions: for each the columns of its pieces, markers included, int32, at most `max_mention`.
    starts, ends: int32[E]: first and last column of the whole mention.
    kept: int32[E]: the number of each mention's span among those given.
    lost: spans that became no mention.
    warnings: spans that cut a word, mentions that were cut, titles that are unknown and became [UNK].
  """

  ids: np.ndarray
  offsets: np.ndarray
  side: np.ndarray
  entity_ids: np.ndarray
  mentions: tuple[np.ndarray, ...]
  starts: np.ndarray
  ends: np.ndarray
  kept: np.ndarray
  lost: tuple[SpanNote, ...]
  warnings: tuple[SpanNote, ...]

  def __len__(self) -> int:
    return len(self.ids)


def encode_entities(
  tokenizer: Tokenizer,
  entities: EntityVocabulary,
  text: Text,
  spans: Spans | tuple[Spans, Spans],
  titles: Sequence | None = None,
  *,
  markers: Sequence | None = None,
  task: str | None = None,
  max_length: int = 512,
  max_entities: int = 32,
  max_mention: int = 30,
  language: str | None = None,
  specials: bool = False,
) -> EntityText:
  """Encodes one text, or two, with its entities.

  Args:
    spans: [first, end) characters of each mention; of two texts a pair of such lists.
    titles: of each span the entity, None = [MASK]; a title that the vocabulary lacks is [UNK]. None: as `task` says.
    markers: of each span the piece that is put on both its sides, None = none. None: as `task` says.
    task: None or "spans": all [MASK], no markers. "type": the one mention is [MASK] between <ent>. "relate": the first
      span given is [MASK] between <ent>, the second one [MASK2] between <ent2>, whichever stands first in the text.
    max_length: columns; what is behind is cut off, of two texts from the longer one first.
    max_entities, max_mention: the first mentions of a text, the first pieces of a mention.
    language: of the titles, where the vocabulary has several.
    specials: names of special pieces in the text stand for themselves.
  Raises:
    EntityTextError: a span outside its text, marked spans that overlap, lists that do not fit each other or the task.
  """
  return encode_all(
    tokenizer,
    entities,
    [text],
    [spans],
    None if titles is None else [titles],
    markers=None if markers is None else [markers],
    task=task,
    limits=Limits(max_length, max_entities, max_mention),
    language=language,
    specials=specials,
  )[0]


def encode_all(
  tokenizer: Tokenizer,
  entities: EntityVocabulary,
  texts: Sequence[Text],
  spans: Sequence[Spans | tuple[Spans, Spans]],
  titles: Sequence[Sequence | None] | None = None,
  *,
  markers: Sequence[Sequence | None] | None = None,
  task: str | None = None,
  limits: Limits = Limits(),
  language: str | None = None,
  specials: bool = False,
) -> list[EntityText]:
  """As `encode_entities`, for many texts, each with lists of its own; the tokenizer is called once for all of them."""
  _check(task, titles, entities, limits)
  columns = []
  for name, given in (("spans", spans), ("titles", titles), ("markers", markers)):
    columns.append([None] * len(texts) if given is None else given)
    if len(columns[-1]) != len(texts):
      raise EntityTextError(f"{name}: got lists for {len(given)} texts, want {len(texts)}; give one for each text")
  rows = zip(texts, *columns, strict=True)
  examples = [sides(f"text {i}", *row, task) for i, row in enumerate(rows)]
  flat = [*itertools.chain.from_iterable(examples)]
  markers_of = _marker_ids(tokenizer, flat)
  parts = tokenizer.encode([part for side in flat for part in side.parts()], specials)
  if specials:  # without the special pieces around each part
    parts = [Encoding(part.ids[1:-1], part.offsets[1:-1], part.word_starts[1:-1]) for part in parts]
  left, made = iter(parts), []
  for example in examples:
    encoded = [_encode(side, [*itertools.islice(left, len(side.cuts) - 1)], markers_of) for side in example]
    made.append(_join(encoded, entities, tokenizer, limits, language))
  return made


def _check(task: str | None, titles: Sequence | None, entities: EntityVocabulary, limits: Limits) -> None:
  if task is not None and task not in TASKS:
    raise EntityTextError(f"task: got {task!r}, want one of {', '.join(TASKS)}, or None")
  if task == "relate" and titles is None and entities.special.mask2 is None:
    raise EntityTextError(
      f"task relate: got an entity vocabulary without {SECOND}, want it there; add it, or give titles"
    )
  for name, least in (("length", 5), ("entities", 1), ("mention", 1)):
    if getattr(limits, name) < least:
      raise EntityTextError(f"max_{name}: got {getattr(limits, name)}, want at least {least}; raise it")


def _marker_ids(tokenizer: Tokenizer, texts: Sequence[Side]) -> dict[str, int]:
  names = dict.fromkeys(name for side in texts for name in side.markers if name is not None)
  missing = next((name for name in names if name not in tokenizer.vocabulary), None)
  if missing is not None:
    raise EntityTextError(
      f"marker {missing!r}: got tokenizer {tokenizer.source}, which has no such piece, want it in the vocabulary; use "
      "the tokenizer of a model that was trained with it, or add it by with_added"
    )
  return {name: tokenizer.id_of(name) for name in names}


@dataclasses.dataclass(frozen=True)
class _Encoded:
  """One text in pieces, markers included."""

  side: Side
  ids: np.ndarray  # int32[n]
  offsets: np.ndarray  # int32[n, 2]
  is_text: np.ndarray  # bool[n]
  spans: np.ndarray  # int64[spans, 2]: first piece and one past the last

  def __len__(self) -> int:
    return len(self.ids)


def _encode(side: Side, parts: Sequence[Encoding], marker_ids: Mapping[str, int]) -> _Encoded:
  ids = np.concatenate([part.ids for part in parts])
  offsets = np.concatenate([part.offsets + first for part, first in zip(parts, side.cuts)])
  ends = np.cumsum([0, *map(len, parts)])
  spans = np.array([[ends[side.before[edge]] for edge in span] for span in side.spans], np.int64).reshape(-1, 2)
  full = spans[:, 0] < spans[:, 1]
  marked = np.flatnonzero(full & np.array([name is not None for name in side.markers], bool))
  marked = marked[np.argsort(spans[marked, 0])]
  places = spans[marked].ravel()  # of all markers, from left to right, as marked spans stand apart
  pieces = np.repeat([marker_ids[side.markers[i]] for i in marked], 2)
  # Spans without markers begin behind the markers that stand at their first piece and end before those at their last.
  before = np.searchsorted(places, spans[:, 0], "right"), np.searchsorted(places, spans[:, 1], "left")
  moved = np.where(full[:, None], spans + np.stack(before, axis=1), spans)
  moved[marked] = spans[marked] + 2 * np.arange(len(marked))[:, None] + (0, 2)
  return _Encoded(
    side,
    np.insert(ids, places, pieces),
    np.insert(offsets, places, 0, axis=0),
    np.insert(np.ones(len(ids), bool), places, False),
    moved,
  )


def _join(
  encoded: Sequence[_Encoded], entities: EntityVocabulary, tokenizer: Tokenizer, limits: Limits, language: str | None
) -> EntityText:
  """Cuts the texts to length, puts special pieces around them, and finds the columns of the mentions."""
  lengths = _shares(*map(len, encoded), limit=limits.length - 2 * len(encoded))
  present = [_present(each, length) for each, length in zip(encoded, lengths)]
  rooms = _shares(*map(len, present), limit=limits.entities)
  cls, sep, column = tokenizer.special.cls, tokenizer.special.sep, 1
  ids, offsets, side, found, notes, lost = [], [], [], [], [], []
  for which, (each, length, here, room) in enumerate(zip(encoded, lengths, present, rooms)):
    ids += [[sep if which else cls], each.ids[:length], [sep]]
    offsets += [np.zeros((1, 2)), each.offsets[:length], np.zeros((1, 2))]
    side += [[-1], np.where(each.is_text[:length], which, -1), [-1]]
    found += [(each.side, i, np.arange(*(each.spans[i] + column), dtype=np.int32)) for i in here[:room]]
    lost += _lost(each, length, {*here[:room]}, limits)
    notes += words_cut(each.side)
    column += length + 2
  behind = f"its pieces behind the first {limits.mention} are left out of the mention"
  notes += [part.note(i, behind) for part, i, columns in found if len(columns) > limits.mention]
  entity_ids, unknown = _entity_ids(found, entities, language)
  return EntityText(
    np.concatenate(ids).astype(np.int32),
    np.concatenate(offsets).astype(np.int32),
    np.concatenate(side).astype(np.int8),
    entity_ids,
    tuple(columns[: limits.mention] for *_, columns in found),
    np.array([columns[0] for *_, columns in found], np.int32),
    np.array([columns[-1] for *_, columns in found], np.int32),
    np.array([part.numbers[i] for part, i, _ in found], np.int32),
    tuple(lost),
    tuple(sorted(notes + unknown, key=lambda note: note.index)),
  )


def _shares(first: int, second: int = 0, *, limit: int) -> tuple[int, int]:
  """How many of both stay, at most `limit` in all: the longer one gives first, of equals the second."""
  of_second = min(second, max(limit // 2, limit - first))
  return min(first, limit - of_second), of_second


def _present(each: _Encoded, length: int) -> list[int]:
  """Spans that have pieces, all of them among the first `length`."""
  first, end = each.spans.T
  return np.flatnonzero((first < end) & (end <= length)).tolist()


def _lost(each: _Encoded, length: int, stay: set[int], limits: Limits) -> list[SpanNote]:
  notes = []
  for i, (first, end) in enumerate(each.spans.tolist()):
    if i not in stay:
      cut = f"is cut off by max_length {limits.length}" if end > length else f"is over max_entities {limits.entities}"
      notes.append(each.side.note(i, cut if first < end else "has no piece"))
  return notes


def _entity_ids(
  found: Sequence[tuple[Side, int, np.ndarray]], entities: EntityVocabulary, language: str | None
) -> tuple[np.ndarray, list[SpanNote]]:
  """(int32[E], notes of the titles that the vocabulary lacks)."""
  ids, unknown = np.full(len(found), entities.special.mask, np.int32), []
  for n, (side, i, _) in enumerate(found):
    title = side.titles[i]
    if title is not None:
      known = entities.id_of(title, language)
      ids[n] = entities.special.unk if known is None else known
      if known is None:
        unknown.append(side.note(i, f"its title {title!r} is unknown: [UNK] stands for it"))
  return ids, unknown
