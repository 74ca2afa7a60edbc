"""Named entities as one tag a word: the classes, the rows of models of pieces, and tags back to spans.

Words as ELMo's networks read them get their rows from `word_rows.TagWords`; classes and decoding are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from data.tasks import named_entities, pieces, tags
from data.tasks.files import label_ids
from data.tasks.named_entities import TaggedDocument
from data.tasks.pieces import Pieces
from data.tasks.rows import TaskError, TaskRow
from data.tasks.tags import Span
from data.tokenizers import Tokenizer

_LETTERS = {"iob2": "BI", "bioes": "BIES"}


def tag_labels(documents: Sequence[TaggedDocument], scheme: str) -> tuple[str, ...]:
  """O, and every tag of `scheme` (iob2 or bioes) for the types of training documents, those sorted."""
  if scheme not in _LETTERS:
    raise TaskError(f"tags: got scheme {scheme!r}, want one of {list(_LETTERS)}")
  kinds = sorted({kind for document in documents for _, _, kind in document.spans or ()})
  return ("O", *(f"{letter}-{kind}" for kind in kinds for letter in _LETTERS[scheme]))


def sentence_classes(
  document: TaggedDocument, labels: Sequence[str]
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
  """(first word, one past the last, classes int32, weights float32) of each sentence of a document.

  The scheme is that of `labels`. Weights are 0 where nobody says the spans.

  Raises:
    TaskError: a type that no label has.
  """
  scheme = "bioes" if any(label.startswith(("S-", "E-")) for label in labels) else "iob2"
  for first, end in zip(document.sentences, document.sentences[1:]):
    own = [(a - first, b - first, kind) for a, b, kind in document.spans or () if first <= a < end]
    classes = label_ids(tuple(labels), tuple(tags.tags_of(own, end - first, scheme)), document.where)
    yield first, end, np.array(classes, np.int32), np.full(end - first, document.spans is not None, np.float32)


@dataclasses.dataclass(frozen=True)
class TagPieces:
  """Documents to rows of pieces: each word's tag stands on the column of its first piece.

  A row is a sentence in its document's context, as in `named_entities.SpanRows`; a sentence that is longer than a row
  is cut between words. A word without a piece has no label, and is O in what is found.

  Attributes:
    max_length: tokens of a row.
  """

  max_length: int = 512

  def __call__(self, examples: Sequence[TaggedDocument], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """Rows of all sentences; `window` as `decode` wants it."""
    rows = []
    for i, (example, words) in enumerate(zip(examples, named_entities.encode(tokenizer, examples), strict=True)):
      for first, end, classes, weights in sentence_classes(example, labels):
        for a, b in named_entities.stretches(words, first, end, self.max_length - 2, example.where):
          part = slice(a - first, b - first)
          rows.append(self._row(i, words, (a, b), classes[part], weights[part], tokenizer))
    return [row for row in rows if len(row.labels)]

  def _row(
    self, i: int, words: Pieces, bounds: tuple[int, int], classes: np.ndarray, weights: np.ndarray, tokenizer: Tokenizer
  ) -> TaskRow:
    first, end = (int(words.parts[bound]) for bound in bounds)
    kept = named_entities.context(len(words.ids), first, end, self.max_length - 2)
    ids, types = pieces.single(tokenizer, words.ids[kept])
    begins = words.parts[slice(*bounds)]
    real = np.flatnonzero(words.parts[bounds[0] + 1 : bounds[1] + 1] > begins)
    columns = (begins[real] - kept.start + 1).astype(np.int32)
    window = np.stack([np.arange(len(real)), bounds[0] + real], axis=1).astype(np.int32)
    return TaskRow(ids, types, classes[real], weights[real], cls=columns, example=i, window=window)


def decode(
  examples: Sequence[TaggedDocument], rows: Sequence, values: Sequence[np.ndarray], labels: Sequence[str]
) -> list[tuple[Span, ...]]:
  """The entities of each document, by conlleval's reading of its tags.

  Args:
    rows: each with `window` int32 [m, 2]: a place among the row's labels, and the word of the document that it is of.
      A word that no row speaks of is O.
    values: of each row's k labels logits [k, number of labels] of which the highest counts, or classes [k].
  """
  found = [np.full(len(example.words), labels.index("O")) for example in examples]
  for row, value in zip(rows, values, strict=True):
    best = value if value.ndim == 1 else np.argmax(value, axis=-1)
    found[row.example][row.window[:, 1]] = best[row.window[:, 0]]
  return [_spans(example, classes, labels) for example, classes in zip(examples, found, strict=True)]


def _spans(example: TaggedDocument, classes: np.ndarray, labels: Sequence[str]) -> tuple[Span, ...]:
  said = [labels[each] for each in classes]
  bounds = zip(example.sentences, example.sentences[1:])
  return tuple((a + first, b + first, kind) for first, end in bounds for a, b, kind in tags.spans_of(said[first:end]))
