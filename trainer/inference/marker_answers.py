"""What encoders without entities say of mentions, each of which they read at its first marker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.entity_spans import sides, words_cut
from data.tasks import certainty
from data.tasks.entity_typing import TypingExample
from data.tasks.relations import RelationExample
from data.tasks.rows import TaskRow
from trainer.inference.mentions import Remark, SpanNotes, refuse_lost, remarks
from trainer.inference.running import Report, longest_of, refuse_long
from trainer.inference.task_logits import WHOLE, logits_of, rows_of
from trainer.inference.tuned import Tuned
from trainer.mention_lines import Span

_SHARES = {"relate": (RelationExample, certainty.softmax), "type": (TypingExample, certainty.sigmoid)}


def at_markers(
  own: Tuned,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  head: str,
  numbers: Sequence[int],
  batch_size: int,
  max_length: int | None,
  report: Report | None,
) -> tuple[np.ndarray, list[list[Remark]]]:
  """(float64[N, n], the probability of each class; what is odd about the spans), by the rows of the model's own task.

  Args:
    spans: of each text two mentions where the head is `relate`, one where it is `type`; checked.
    numbers: of the texts, from 0.
  Raises:
    InputError: a text is longer than `max_length`, or a mention has no piece.
  """
  kind, shares = _SHARES[head]
  examples = [
    kind(text, *map(tuple, each), None, f"text {n + 1}") for text, each, n in zip(texts, spans, numbers, strict=True)
  ]
  rows = rows_of(own, examples, WHOLE)
  refuse_long([row.ids for row in rows], longest_of(own, max_length), numbers)
  notes = [_notes(text, each, row, head) for text, each, row in zip(texts, spans, rows, strict=True)]
  odd = remarks(notes, spans, numbers)
  refuse_lost(odd)
  logits = np.zeros((len(rows), own.model.config.classes), np.float32)
  for i, values in enumerate(logits_of(own, rows, batch_size, report)):
    logits[i] = values[0]
  return shares(logits), odd


def _notes(text: str, spans: Sequence[Span], row: TaskRow, head: str) -> SpanNotes:
  """A mention without a piece is two markers side by side."""
  (side,) = sides("text", text, spans, None, None, head)
  begins = np.ravel(row.cls if row.spans is None else row.spans)
  empty = np.flatnonzero(row.ids[begins] == row.ids[begins + 1])
  return SpanNotes(tuple(side.note(i, "has no piece") for i in empty), tuple(words_cut(side)))
