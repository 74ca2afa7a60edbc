"""What models that are fine-tuned on questions say: answers in passages, with the characters where they stand."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.tasks import certainty
from data.tasks.answers import AnswerDecoder
from data.tasks.questions import QuestionExample
from data.tasks.rows import TaskRow
from trainer.inference.running import Report
from trainer.inference.task_logits import ANSWERS, logits_of, longest_row, rows_of, with_head
from trainer.loading import Loaded
from trainer.texts import InputError


@dataclasses.dataclass(frozen=True)
class Answer:
  """Characters [start, end) of a passage, white space in `text` being one space; "" and None = there is no answer.

  score: the sum of its two logits. probability: its share among the 20 answers of the highest scores.
  """

  text: str
  start: int | None
  end: int | None
  score: float
  probability: float


@dataclasses.dataclass(frozen=True)
class Answered:
  """The answer to a question, "" where there is none, and the likeliest ones.

  null_odds: by how much having none outweighs the best answer; None where every question has one.
  """

  text: str
  answers: list[Answer]
  null_odds: float | None


def answer(
  loaded: Loaded,
  questions: Sequence[str],
  contexts: Sequence[str],
  top: int = 1,
  null_threshold: float | None = None,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[Answered]:
  """The answer to each question in its context, however long that is, and the `top` likeliest ones.

  Contexts are read in windows that overlap, as the task has them.

  Args:
    null_threshold: a question has no answer where `null_odds` are higher. By default every question has an answer, but
      for a run on squad2: there it is the threshold that did best on its held-out questions.
    max_length: tokens of a question with a window.
  Raises:
    InputError: the model has no such head, or a question leaves no room for its context.
  """
  own = with_head(loaded, *ANSWERS)
  decoder: AnswerDecoder = own.task.decode
  if null_threshold is not None:
    decoder = dataclasses.replace(decoder, unanswerable=True, threshold=null_threshold)
    own = dataclasses.replace(own, task=dataclasses.replace(own.task, decode=decoder))
  if not 1 <= top <= decoder.n_best:
    raise InputError(f"top: got {top}, want a number from 1 to {decoder.n_best}, the answers that are ranked")
  if len(questions) != len(contexts):
    raise InputError(f"contexts: got {len(contexts)} for {len(questions)} questions, want one for each question")
  pairs = enumerate(zip(questions, contexts, strict=True), 1)
  examples = [QuestionExample(str(i), "", *pair, (), where=f"question {i}") for i, pair in pairs]
  rows = rows_of(own, examples, longest_row(own, max_length))
  logits = logits_of(own, rows, batch_size, report)
  texts = decoder(examples, rows, logits, ())
  said = certainty.beside(own.task, examples, rows, logits, (), texts)
  own_rows: list[list[int]] = [[] for _ in examples]
  for i, row in enumerate(rows):
    own_rows[row.example].append(i)
  found = []
  for passage, text, beside, numbers in zip(contexts, texts, said, own_rows, strict=True):
    parts = [(rows[i], logits[i]) for i in numbers]
    best = [_placed(passage, each, parts) for each in beside["n_best"][:top]]
    found.append(Answered(text, best, beside.get("null_odds")))
  return found


def _placed(passage: str, candidate: dict[str, Any], parts: Sequence[tuple[TaskRow, np.ndarray]]) -> Answer:
  """A candidate where it stands: of the places of its text, the one whose logits sum to its score."""
  best: tuple[float, int | None, int | None] = (np.inf, None, None)
  words = r"\s+".join(map(re.escape, candidate["text"].split()))
  places = [match.span(1) for match in re.finditer(f"(?=({words}))", passage)] if words else []
  next_word, last_word = _trimmed(passage)
  for row, values in parts:
    starts, ends = next_word[row.window.offsets[:, 0]], last_word[row.window.offsets[:, 1]]
    for start, end in places:
      first, last = (np.flatnonzero(each) + row.window.begin for each in (starts == start, ends == end))
      sums = values[first, 0].astype(np.float64)[:, None] + values[last, 1]
      if sums.size and (apart := float(np.abs(sums - candidate["score"]).min())) < best[0]:
        best = (apart, start, end)
  return Answer(start=best[1], end=best[2], **candidate)


@functools.lru_cache(maxsize=1)
def _trimmed(passage: str) -> tuple[np.ndarray, np.ndarray]:
  """Of each place between characters, the next one before a word and the last one behind a word: int [n + 1] each."""
  places, space = np.arange(len(passage) + 1), np.array([char.isspace() for char in passage], bool)
  ahead = np.minimum.accumulate(np.where(np.append(space, False), len(passage), places)[::-1])[::-1]
  return ahead, np.maximum.accumulate(np.where(np.insert(space, 0, False), 0, places))
