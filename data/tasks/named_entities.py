"""Named entities as spans of a document's words: files in columns, all spans of a sentence as candidates, decoding."""

from __future__ import annotations

import dataclasses
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.tasks import pieces, tags
from data.tasks.files import label_ids, read_lines
from data.tasks.pieces import Pieces
from data.tasks.rows import ENTITIES, TaskError, TaskRow
from data.tasks.tags import Span
from data.tokenizers import Tokenizer

NIL = "NIL"  # the label of a span that is no entity
CONLL_LABELS = (NIL, "MISC", "PER", "ORG", "LOC")
_DOCUMENT = "-DOCSTART-"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TaggedDocument:
  """A document in words.

  sentences: where each sentence begins, and the number of words. spans: (first word, one past the last, type) in order,
  each inside a sentence; None where they are unknown.
  """

  words: tuple[str, ...]
  sentences: tuple[int, ...]
  spans: tuple[Span, ...] | None
  where: str = "document"


def read_columns(path: Path) -> list[TaggedDocument]:
  """Documents of a file of one word a line, its tag in the last column, with empty lines between sentences.

  Columns are divided by tabs if there is one in the line, else by spaces. "-DOCSTART-" begins a document; in a file
  without, each sentence is a document of its own, as nothing says that neighbours belong together. The scheme of the
  tags is found out; the log says which it is, and the first tag that breaks it.

  Raises:
    TaskError: lines with different numbers of columns, or a tag that is none; with its line.
  """
  sentences, starts = _sentences(path)
  if not sentences:
    raise TaskError(f"{path}: got no word, want one a line with its tag; fetch the file again")
  _tell_scheme(path, sentences)
  bounds = [*(starts or range(len(sentences))), len(sentences)]
  documents = [sentences[first:end] for first, end in zip(bounds, bounds[1:])]
  return [_document(document) for document in documents if document]


def _tell_scheme(path: Path, sentences: Sequence[Sequence[tuple[str, str, str]]]) -> None:
  tagged = [[tag for _, _, tag in lines] for lines in sentences]
  scheme = tags.scheme_of(tagged)
  _log.info("%s: tags read as %s", path, scheme.upper())
  found = [(lines, wrong) for lines, own in zip(sentences, tagged) if (wrong := tags.check(own, scheme))]
  if found:
    lines, (word, complaint) = found[0]
    _log.warning(
      "%s: %s; the first of %d of %d sentences that break it, which are read as conlleval reads them",
      lines[word][0], complaint, len(found), len(sentences),
    )  # fmt: skip


def _sentences(path: Path) -> tuple[list[list[tuple[str, str, str]]], list[int]]:
  """Sentences of (where, word, tag), and the sentences at which documents begin."""
  sentences: list[list[tuple[str, str, str]]] = []
  starts, columns, inside = [], None, False
  for where, line in read_lines(path):
    cells = line.strip().split("\t") if "\t" in line.strip() else line.split()
    if not cells or cells[0].startswith(_DOCUMENT):
      starts += [len(sentences)] if cells else []
      inside = False
      continue
    columns = columns or len(cells)
    if len(cells) != columns or columns < 2:
      raise TaskError(
        f"{where}: got {len(cells)} columns, want {max(columns, 2)} as in the lines before; correct the file"
      )
    try:
      tags.split(cells[-1])
    except TaskError as error:
      raise TaskError(f"{where}: {error}; correct the file") from None
    if not inside:
      sentences.append([])
    inside = True
    sentences[-1].append((where, cells[0], cells[-1]))
  if starts and starts[0] > 0:
    starts.insert(0, 0)  # words before the first mark
  return sentences, starts


def _document(sentences: Sequence[Sequence[tuple[str, str, str]]]) -> TaggedDocument:
  bounds = np.cumsum([0, *map(len, sentences)]).tolist()
  spans = [
    (first + bound, end + bound, kind)
    for bound, lines in zip(bounds, sentences)
    for first, end, kind in tags.spans_of([tag for _, _, tag in lines])
  ]
  words = tuple(word for lines in sentences for _, word, _ in lines)
  return TaggedDocument(words, tuple(bounds), tuple(spans), sentences[0][0][0])


def span_labels(documents: Sequence[TaggedDocument]) -> tuple[str, ...]:
  """NIL and the types of training documents; CoNLL-2003's in its published order, others sorted."""
  found = {kind for document in documents for _, _, kind in document.spans or ()}
  return CONLL_LABELS if found == set(CONLL_LABELS[1:]) else (NIL, *sorted(found))


@dataclasses.dataclass(frozen=True)
class SpanRows:
  """Documents to rows: for each sentence its words in their document's context, and every span of it as a label.

  Spans begin and end with words. The context is as long on the left as on the right where the document has so much,
  up to `max_length` tokens; a sentence that is longer is cut between words. More than `max_entities` spans are divided
  into parts of equal size, rounded up, each with the same words.

  Attributes:
    max_length: tokens of a row.
    max_entities: spans of a row.
    max_mention: pieces of the longest span that is a candidate.
  """

  max_length: int = 512
  max_entities: int = 128
  max_mention: int = 16

  def __call__(self, examples: Sequence[TaggedDocument], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """Rows of all sentences; `window` is int32[k, 2], the words (first, one past the last) of the row's k spans.

    A row's spans are int32[k, 2], first and last column. Entities of the files that no candidate stands for, as they
    are too long, are counted in the log; scores count them as not found.

    Raises:
      TaskError: a type that is no label.
    """
    rows, lost = [], []
    for i, (example, words) in enumerate(zip(examples, encode(tokenizer, examples), strict=True)):
      kinds = label_ids(tuple(labels), tuple(kind for _, _, kind in example.spans or ()), example.where)
      gold = {span[:2]: kind for span, kind in zip(example.spans or (), kinds, strict=True)}
      found = []
      for sentence in zip(example.sentences, example.sentences[1:]):
        for bounds in stretches(words, *sentence, self.max_length - 2, example.where):
          found += self._rows(i, example, words, bounds, gold, tokenizer)
      seen = {tuple(span) for row in found for span in row.window.tolist()}
      lost += [(example.where, span) for span in gold if span not in seen]
      rows += found
    if lost:
      where, (first, end) = lost[0]
      _log.warning(
        "named entities: %d spans of the files are no candidates (more than max_mention=%d pieces, or cut), "
        "the first in %s, words %d to %d",
        len(lost), self.max_mention, where, first, end,
      )  # fmt: skip
    return rows

  def _rows(
    self, i: int, example: TaggedDocument, words: Pieces, bounds: tuple[int, int], gold: dict, tokenizer: Tokenizer
  ) -> Iterator[TaskRow]:
    first, end = (int(words.parts[bound]) for bound in bounds)
    kept = context(len(words.ids), first, end, self.max_length - 2)
    ids, types = pieces.single(tokenizer, words.ids[kept])
    spans = _candidates(words.parts, bounds, self.max_mention)
    if not len(spans):
      return
    columns = words.parts[spans] - kept.start + [1, 0]  # the last column is that of the piece before the end
    kinds = np.array([gold.get((a, b), 0) for a, b in spans.tolist()], np.int32)
    size = -(-len(spans) // -(-len(spans) // self.max_entities))
    line = np.arange(len(ids), dtype=np.int32)
    for part in (slice(n, n + size) for n in range(0, len(spans), size)):
      known = np.full(len(kinds[part]), example.spans is not None, np.float32)
      mentions = tuple(line[a : b + 1] for a, b in columns[part].tolist())
      yield TaskRow(
        ids,
        types,
        kinds[part],
        known,
        spans=columns[part].astype(np.int32),
        slots=np.arange(len(mentions), dtype=np.int32)[:, None],
        entities=np.full(len(mentions), ENTITIES["[MASK]"], np.int32),
        mentions=mentions,
        example=i,
        window=spans[part],
      )


def _candidates(parts: np.ndarray, bounds: tuple[int, int], longest: int) -> np.ndarray:
  """int32[k, 2]: all spans of the words of a stretch by at most `longest` pieces, by beginning and then end."""
  real = np.flatnonzero(np.diff(parts[bounds[0] : bounds[1] + 1])) + bounds[0]  # a word may have no piece
  first, last = (real[side] for side in np.triu_indices(len(real)))
  fits = parts[last + 1] - parts[first] <= longest
  return np.stack([first[fits], last[fits] + 1], axis=1).astype(np.int32)


def encode(tokenizer: Tokenizer, examples: Sequence[TaggedDocument]) -> list[Pieces]:
  """The pieces of each document's words."""
  return pieces.words(tokenizer, [(e.words, [_spaced(word) for word in e.words]) for e in examples])


def stretches(words: Pieces, first: int, end: int, room: int, where: str) -> Iterator[tuple[int, int]]:
  """(first word, one past the last) of the parts of a sentence by at most `room` pieces: one, if it fits.

  Raises:
    TaskError: a word that is longer.
  """
  while first < end:
    cut = int(np.searchsorted(words.parts, words.parts[first] + room, side="right")) - 1
    if cut <= first:
      raise TaskError(f"{where}: word {first} has more than {room} pieces, want fewer: {pieces.LONGER}")
    yield first, min(cut, end)
    first = cut


def context(size: int, first: int, end: int, room: int) -> slice:
  """`first` to `end` with as much on each side as `room` allows, the longer side taking what the shorter leaves."""
  left, right, free = first, size - end, room - (end - first)
  if left < right:
    left = min(left, free // 2)
    return slice(first - left, end + min(right, free - left))
  right = min(right, free // 2)
  return slice(first - min(left, free - right), end + right)


def _spaced(word: str) -> bool:
  """Whether a word stands after a space: not if it begins with an apostrophe or is a single mark (LUKE's rule)."""
  return word[0] != "'" and (len(word) != 1 or not is_mark(word))


def is_mark(char: str) -> bool:
  """BERT's punctuation: all of ASCII that is neither letter, digit, space nor control, and Unicode's P*."""
  ascii_mark = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
  return ascii_mark or unicodedata.category(char)[0] == "P"


def decode(
  examples: Sequence[TaggedDocument], rows: Sequence[TaskRow], logits: Sequence[np.ndarray], labels: Sequence[str]
) -> list[tuple[Span, ...]]:
  """The entities of each document: spans by falling logit of their best label, taken where they overlap none before.

  Spans whose best label is NIL are none. logits: [k, number of labels] of each row's k spans.
  """
  best: list[list[tuple[float, Span]]] = [[] for _ in examples]
  for row, values in zip(rows, logits, strict=True):
    kinds = np.argmax(values, axis=-1)
    for n in np.flatnonzero(kinds):
      first, end = row.window[n].tolist()
      best[row.example].append((float(values[n, kinds[n]]), (first, end, labels[kinds[n]])))
  return [_greedy(found, len(example.words)) for found, example in zip(best, examples, strict=True)]


def _greedy(found: Sequence[tuple[float, Span]], size: int) -> tuple[Span, ...]:
  taken, spans = np.zeros(size, bool), []
  for _, span in sorted(found, key=lambda each: each[0], reverse=True):
    if not taken[span[0] : span[1]].any():
      taken[span[0] : span[1]] = True
      spans.append(span)
  return tuple(sorted(spans))
