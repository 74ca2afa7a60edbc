"""Questions to rows, and logits over columns to answers."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.tasks import links, pieces
from data.tasks.metrics import Scores, best_threshold, each_answer
from data.tasks.pieces import Pieces
from data.tasks.questions import QuestionExample
from data.tasks.rows import TaskError, TaskRow
from data.tokenizers import Tokenizer

NULL_THRESHOLD = "null_threshold"  # figure of SQuAD 2.0
OPEN = -1e9  # a threshold that leaves every question open

_WORD = re.compile("[^ \t\r\n\u202f]+")  # what the published programs take for space


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
  """Where the pieces of a window stand.

  Attributes:
    begin: column of its first piece.
    first: number of that piece in the passage.
    offsets: int32[n, 2], characters of the passage.
    best: bool[n], whether the piece has the most context here: an answer may begin with it in this window alone.
  """

  begin: int
  first: int
  offsets: np.ndarray
  best: np.ndarray


@dataclasses.dataclass(frozen=True)
class AnswerRows:
  """Questions to rows: `<s> question </s></s> window </s>`, labels the columns where the first answer begins and ends.

  The labels are those of the fewest pieces that hold the answer. A window without the whole answer, and a question that
  has none, have column 0 twice.

  Attributes:
    max_length: tokens of a row.
    max_query: pieces of the question, its beginning.
    stride: pieces from one window of the passage to the next.
    links: title of an article -> what the texts of its links mean (`data.tasks.links.known_texts`), for entities of the
      model's whole table in question and window; None = rows without entities.
  """

  max_length: int = 512
  max_query: int = 64
  stride: int = 128
  links: Callable[[str], links.Known] | None = None

  def __call__(self, examples: Sequence[QuestionExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """Rows of two labels; their `window` is a Window. Weights are 0 where nobody says what is right."""
    texts = dict.fromkeys(example.passage for example in examples)
    found = [list(_WORD.finditer(text)) for text in texts]
    encoded = pieces.words(tokenizer, [([word[0] for word in each], [True] * len(each)) for each in found])
    passages = dict(zip(texts, (_shifted(*each) for each in zip(encoded, found, strict=True)), strict=True))
    questions = pieces.encode(tokenizer, [(e.question, [(0, len(e.question))]) for e in examples])
    found = functools.cache(lambda passage, title: links.find(passage, passages[passage][1], self.links(title)))
    rows = []
    for i, (example, question) in enumerate(zip(examples, questions, strict=True)):
      asked, offsets = question.ids[: self.max_query], question.offsets[: self.max_query]
      own = list(self._rows(i, example, asked, *passages[example.passage], tokenizer))
      if self.links is not None:
        here = links.find(example.question, offsets, self.links(example.title))
        own = [_with_entities(row, here, found(example.passage, example.title)) for row in own]
      rows += own
    return rows

  def _rows(
    self,
    i: int,
    example: QuestionExample,
    asked: np.ndarray,
    ids: np.ndarray,
    offsets: np.ndarray,
    tokenizer: Tokenizer,
  ) -> Iterator[TaskRow]:
    room = self.max_length - len(asked) - pieces.pair_room(tokenizer)
    if room < 1:
      raise TaskError(
        f"{example.where}: got a question of {len(asked)} pieces, want room for the passage: {pieces.LONGER}"
      )
    _, _, begin = pieces.pair(tokenizer, asked, ids[:0])
    for columns, weights, window in windows_of(example, offsets, room, self.stride, begin):
      whole, types, _ = pieces.pair(tokenizer, asked, ids[window.first : window.first + len(window.offsets)])
      yield TaskRow(whole, types, columns, weights, example=i, window=window)


def windows_of(
  example: QuestionExample, offsets: np.ndarray, room: int, stride: int, begin: int
) -> Iterator[tuple[np.ndarray, np.ndarray, Window]]:
  """The windows of a passage, each with the labels of its question.

  Args:
    offsets: int32[n, 2], characters of the passage's pieces or words.
    room: pieces of a window at most. stride: from one window to the next. begin: column of a window's first piece.
  Yields:
    (int32[2], the columns where the first answer begins and ends, 0 where the window does not hold it; float32[2], 0
    where nobody says what is right; the window).
  """
  windows = pieces.windows(len(offsets), room, stride)
  answer, best = _pieces_of(example, offsets), _best(windows, len(offsets))
  known = np.full(2, bool(example.answers) or example.impossible, np.float32)
  for number, (first, end) in enumerate(windows):
    inside = answer is not None and first <= answer[0] and answer[1] < end
    columns = np.array(answer, np.int32) - first + begin if inside else np.zeros(2, np.int32)
    yield columns, known, Window(begin, first, offsets[first:end], best[number, first:end])


def _with_entities(row: TaskRow, asked: Sequence[links.Mention], told: Sequence[links.Mention]) -> TaskRow:
  """The row with the mentions of its question and those of the passage that its window holds."""
  window = row.window
  end = window.first + len(window.offsets)
  mentions = links.inside(asked, 0, len(row), 1) + links.inside(told, window.first, end, window.begin)
  ids = np.array([entity for entity, _ in mentions], np.int32)
  return dataclasses.replace(row, entities=ids, mentions=tuple(columns for _, columns in mentions))


def _shifted(encoded: Pieces, found: Sequence[re.Match]) -> tuple[np.ndarray, np.ndarray]:
  """Ids, and offsets that count from the passage's first character."""
  firsts = np.repeat(np.array([word.start() for word in found], np.int32), np.diff(encoded.parts))
  return encoded.ids, encoded.offsets + firsts[:, None]


def _pieces_of(example: QuestionExample, offsets: np.ndarray) -> tuple[int, int] | None:
  """First and last piece of the first answer; None where there is none."""
  if not example.answers:
    return None
  start, end = example.answers[0].start, example.answers[0].start + len(example.answers[0].text)
  first = int(np.searchsorted(offsets[:, 1], start, side="right"))
  last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
  return (first, last) if first <= last else None


def _best(windows: Sequence[tuple[int, int]], size: int) -> np.ndarray:
  """bool[number of windows, size]: in which window each piece has the most context, the first of equals.

  Context is the shorter of the two sides' pieces, and a hundredth of the window's length (BERT's run_squad.py).
  """
  at, edges = np.arange(size), np.array(windows)[:, :, None]
  context = np.minimum(at - edges[:, 0], edges[:, 1] - 1 - at) + 0.01 * (edges[:, 1] - edges[:, 0])
  context = np.where((at >= edges[:, 0]) & (at < edges[:, 1]), context, -np.inf)
  return np.argmax(context, axis=0) == np.arange(len(windows))[:, None]


@dataclasses.dataclass(frozen=True)
class RankedAnswer:
  """An answer: characters [start, end) of the passage, white space in `text` being one space; "" and None = none.

  score: the sum of its two logits. probability: its share in the softmax over all that are ranked.
  """

  text: str
  start: int | None
  end: int | None
  score: float
  probability: float


class _Span(NamedTuple):
  """A ranked answer before all of its question are known."""

  score: float
  text: str
  start: int | None = None
  end: int | None = None


@dataclasses.dataclass(frozen=True)
class AnswerDecoder:
  """Logits to answers, as BERT's run_squad.py does.

  Attributes:
    n_best: first and last columns that are tried, those of the highest logits of a window; and answers that are ranked.
    max_answer: pieces of the longest answer.
    unanswerable: whether a question may have no answer; then it has none ("") where the lowest sum of column 0's logits
      over the windows exceeds the best answer's sum by more than `threshold`.
  """

  n_best: int = 20
  max_answer: int = 30
  unanswerable: bool = False
  threshold: float = 0.0

  def __call__(
    self,
    examples: Sequence[QuestionExample],
    rows: Sequence[TaskRow],
    logits: Sequence[np.ndarray],
    labels: Sequence[str],
  ) -> list[str]:
    """The answer to each question: the text of its passage from the first piece to the last; "" where none is possible.

    White space in it is one space. logits: float32[n, 2] or longer of each row of n tokens.
    """
    texts, odds = self.with_odds(examples, rows, logits)
    if not self.unanswerable:
      return texts
    return ["" if none > self.threshold else text for text, none in zip(texts, odds, strict=True)]

  def with_odds(
    self, examples: Sequence[QuestionExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray]
  ) -> tuple[list[str], list[float]]:
    """The best text for each question, whatever the threshold, and by how much the sum of column 0 exceeds its own.

    Where no answer is possible the text is "" and its own sum counts as 0.
    """
    best = [_Span(-np.inf, "")] * len(examples)
    nothing = self._nothing(examples, rows, logits)
    for row, values in zip(rows, logits, strict=True):
      found = next(self._answers(examples[row.example].passage, row, values), None)
      if found is not None and found.score > best[row.example].score:
        best[row.example] = found
    odds = [none - (span.score if span.text else 0.0) for none, span in zip(nothing, best, strict=True)]
    return [span.text for span in best], odds

  def ranked(
    self, examples: Sequence[QuestionExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray]
  ) -> list[list[RankedAnswer]]:
    """The `n_best` answers to each question, each text once, best first; "" is always among them if it may be one.

    A text stands where its logits are highest.
    """
    found: list[list[_Span]] = [[] for _ in examples]
    for row, values in zip(rows, logits, strict=True):
      spans = self._answers(examples[row.example].passage, row, values)
      found[row.example] += _distinct(spans, self.n_best)
    if self.unanswerable:
      for none, own in zip(self._nothing(examples, rows, logits), found, strict=True):
        own.append(_Span(none, ""))
    return [self._shares(sorted(own, key=lambda span: -span.score)) for own in found]

  def _shares(self, found: Sequence[_Span]) -> list[RankedAnswer]:
    kept = _distinct(found, self.n_best)
    kept += [span for span in found if not span.text and all(other.text for other in kept)][:1]
    powers = np.exp(np.array([span.score - kept[0].score for span in kept]))
    shares = (powers / powers.sum()).tolist()
    return [RankedAnswer(s.text, s.start, s.end, s.score, share) for s, share in zip(kept, shares, strict=True)]

  def _nothing(
    self, examples: Sequence[QuestionExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray]
  ) -> list[float]:
    """The lowest sum of column 0's logits over the windows of each question."""
    nothing = [np.inf] * len(examples)
    for row, values in zip(rows, logits, strict=True):
      nothing[row.example] = min(nothing[row.example], float(np.sum(values[0], dtype=np.float64)))
    return nothing

  def _answers(self, passage: str, row: TaskRow, values: np.ndarray) -> Iterator[_Span]:
    """The answers in a window, by falling sum of logits."""
    window, logits = row.window, np.asarray(values[: len(row)], np.float64)
    starts, ends = (self._tried(logits[:, side], window) for side in (0, 1))
    starts = starts[window.best[starts]]
    sums = logits[starts + window.begin, 0][:, None] + logits[ends + window.begin, 1]
    extra = ends - starts[:, None]
    sums = np.where((extra >= 0) & (extra < self.max_answer), sums, -np.inf)
    for place in np.argsort(-sums, axis=None, kind="stable"):
      a, b = np.unravel_index(place, sums.shape)
      if sums[a, b] == -np.inf:
        return
      start, end = int(window.offsets[starts[a], 0]), int(window.offsets[ends[b], 1])
      text = passage[start:end]
      bare = text.strip()
      start = start + text.index(bare) if bare else None
      yield _Span(float(sums[a, b]), " ".join(bare.split()), start, start + len(bare) if bare else None)

  def _tried(self, logits: np.ndarray, window: Window) -> np.ndarray:
    """Pieces of the passage among the columns of the highest logits, by falling logit."""
    found = np.argsort(-logits, kind="stable")[: self.n_best] - window.begin
    return found[(found >= 0) & (found < len(window.offsets))]


def _distinct(found: Iterable[_Span], most: int) -> list[_Span]:
  """The first `most` of different texts."""
  kept: dict[str, _Span] = {}
  for span in found:
    if len(kept) == most:
      break
    kept.setdefault(span.text, span)
  return list(kept.values())


def best_thresholds(
  decoder: AnswerDecoder,
  examples: Sequence[QuestionExample],
  rows: Sequence[TaskRow],
  logits: Sequence[np.ndarray],
) -> Scores:
  """best_exact and best_f1 of any `threshold`, with best_exact_thresh and best_f1_thresh, as SQuAD 2.0's scorer finds.

  It is given each question's best text, none of them left empty by a threshold. NULL_THRESHOLD is the threshold with
  which the decoder itself has best_f1: best_f1_thresh, or OPEN where no answer at all is best.
  """
  texts, odds = decoder.with_odds(examples, rows, logits)
  gold = [[answer.text for answer in example.answers] for example in examples]
  scores = each_answer(gold, texts, unanswerable=True)
  found = {}
  for name, short in (("exact_match", "exact"), ("f1", "f1")):
    best, threshold = best_threshold(scores[name], odds, list(map(bool, gold)), list(map(bool, texts)))
    found |= {f"best_{short}": best, f"best_{short}_thresh": threshold if threshold > OPEN else 0.0}
  return found | {NULL_THRESHOLD: max(threshold, OPEN)}
