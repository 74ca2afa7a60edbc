"""Spans of characters that entities have in texts: checked, with what is put around them, and where they cut a text."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import re
import unicodedata
from collections.abc import Mapping, Sequence

Text = str | tuple[str, str]
Spans = Sequence[tuple[int, int]]
MARKERS = ("<ent>", "<ent2>")
# Tasks, and how many spans they take; None = one or more. LUKE's heads of these names have one mention, two, and any.
TASKS = {"type": 1, "relate": 2, "spans": None}
SECOND = "[MASK2]"  # the second entity of a relation

# Scripts that write no space between words, or endings right behind a name: an edge there says nothing about words.
_UNSPACED = re.compile(
  "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff"  # Thai, Lao, Tibetan; Burmese; Hangul letters; Khmer
  "\u3000-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"  # kana, ideographs, Hangul
)


class EntityTextError(ValueError):
  """Spans, titles or markers that do not fit their text; one line."""


@dataclasses.dataclass(frozen=True)
class SpanNote:
  """What became of a span, or is odd about it: its number among those given, its text, and why."""

  index: int
  text: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Side:
  """One text of an example with its spans.

  Attributes:
    numbers: of its spans, among all of the example.
    titles: of each span's entity; None = [MASK].
    markers: names of the pieces around each span; None = none.
    cuts: where the parts of the text begin, and the end of the last one.
    before: for each edge of a span the number of parts before it.
  """

  text: str
  spans: list[tuple[int, int]]
  numbers: range
  titles: list[str | None]
  markers: list[str | None]
  cuts: list[int]
  before: Mapping[int, int]

  def parts(self) -> list[str]:
    return [self.text[first:end] for first, end in itertools.pairwise(self.cuts)]

  def note(self, i: int, reason: str) -> SpanNote:
    first, end = self.spans[i]
    return SpanNote(self.numbers[i], self.text[first:end], reason)


def sides(
  where: str, text: Text, spans: Sequence, titles: Sequence | None, markers: Sequence | None, task: str | None
) -> list[Side]:
  """The texts of an example with their spans, checked; `where` names it in errors, the rest is `encode_entities`'s.

  Raises:
    EntityTextError: a span outside its text, marked spans that overlap, lists that do not fit each other or the task.
  """
  texts = [text] if isinstance(text, str) else [*text]
  if len(texts) not in (1, 2) or (task is not None and len(texts) != 1):
    want = "one or two" if task is None else f"one for task {task}"
    raise EntityTextError(f"{where}: got {len(texts)} texts, want {want}; give more texts as texts of their own")
  columns = []
  for name, values in (("spans", spans), ("titles", titles), ("markers", markers)):
    each = [values] if len(texts) == 1 else [None, None] if values is None else [*values]
    if len(each) != len(texts):
      raise EntityTextError(f"{where}: got {len(each)} lists of {name}, want 2; give one for each of the two texts")
    columns.append(each)
  made, count = [], 0
  for row in zip(texts, *columns, strict=True):
    made.append(_side(where, count, *row, task))
    count += len(made[-1].spans)
  return made


def _side(
  where: str,
  count: int,
  text: str,
  spans: Spans | None,
  titles: Sequence[str | None] | None,
  markers: Sequence[str | None] | None,
  task: str | None,
) -> Side:
  spans = [_span(f"{where}, span {i}", span, text) for i, span in enumerate(spans or (), count)]
  want = len(spans) if task is None else TASKS[task] or max(1, len(spans))
  if len(spans) != want:
    raise EntityTextError(f"{where}: got {len(spans)} spans, want {want} for task {task}; give as many as the task has")
  if titles is None:
    titles = (None, SECOND) if task == "relate" else [None] * want
  if markers is None:
    markers = MARKERS[:want] if task in ("type", "relate") else [None] * want
  for name, values in (("titles", titles), ("markers", markers)):
    if len(values) != want:
      raise EntityTextError(f"{where}: got {len(values)} {name}, want {want}; give one for each span, or None")
  _check_overlap(where, spans, markers, count)
  return Side(text, spans, range(count, count + want), [*titles], [*markers], *_cuts(text, spans))


def _span(where: str, span: tuple[int, int], text: str) -> tuple[int, int]:
  try:
    first, end = map(operator.index, span)
  except (TypeError, ValueError):
    raise EntityTextError(
      f"{where}: got {span!r:.60}, want two integers; give its first character and one past its last"
    ) from None
  if not 0 <= first < end <= len(text):
    raise EntityTextError(
      f"{where}: got characters {first} to {end}, want 0 <= first < end <= {len(text)}, the text's length; "
      "count characters of the text as given, the end not included"
    )
  return first, end


def _check_overlap(where: str, spans: Spans, markers: Sequence[str | None], count: int) -> None:
  """Spans between markers must stand apart; others need not."""
  marked = sorted((span, count + i) for i, span in enumerate(spans) if markers[i] is not None)
  for (one, i), (other, j) in itertools.pairwise(marked):
    if other[0] < one[1]:
      raise EntityTextError(
        f"{where}: spans {i} {one} and {j} {other} overlap, want spans that get markers apart; leave one of them out"
      )


def _cuts(text: str, spans: Spans) -> tuple[list[int], dict[int, int]]:
  """(where parts begin, with the end of the last; for each edge of a span the number of parts before it)."""
  cuts, before = [0], {}
  for edge in sorted({*itertools.chain.from_iterable(spans)}):
    cut = edge - (edge > 0 and text[edge - 1] == " ")
    if cut != cuts[-1]:
      cuts.append(cut)
    before[edge] = len(cuts) - 1
  return [*cuts, len(text)], before


def words_cut(side: Side) -> list[SpanNote]:
  """Spans of which an edge lies inside a word, most often because the end was counted as the last character."""
  notes = []
  for i, (first, end) in enumerate(side.spans):
    inside = [name for name, edge in (("begins", first), ("ends", end)) if _inside_word(side.text, edge)]
    if inside:
      notes.append(side.note(i, f"{' and '.join(inside)} inside a word"))
  return notes


def _inside_word(text: str, edge: int) -> bool:
  if not 0 < edge < len(text):
    return False
  around = text[edge - 1 : edge + 1]
  of_word = all(char.isalnum() or unicodedata.category(char)[0] == "M" for char in around)
  return of_word and not _UNSPACED.search(around)
