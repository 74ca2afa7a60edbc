"""What models that are fine-tuned on questions say: answers in passages, with the characters where they stand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from data.tasks import certainty, pieces
from data.tasks.answers import AnswerDecoder, RankedAnswer
from data.tasks.questions import QuestionExample
from data.tokenizers.words import SPECIALS, Words
from trainer.inference.running import Report
from trainer.inference.task_logits import ANSWERS, logits_of, longest_row, rows_of, with_head
from trainer.inference.tuned import Tuned
from trainer.loading import Loaded
from trainer.texts import InputError, check_list


@dataclasses.dataclass(frozen=True)
class Answered:
  """The answer to a question, "" where there is none, and the likeliest ones.

  null_odds: by how much having none outweighs the best answer; None where every question has one.
  cut: whether the end of the question was left out.
  """

  text: str
  answers: list[RankedAnswer]
  null_odds: float | None
  cut: bool = False


def answer(
  loaded: Loaded,
  questions: Sequence[str],
  contexts: Sequence[str],
  top: int = 1,
  null_threshold: float | None = None,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
  cut: bool = False,
) -> list[Answered]:
  """The answer to each question in its context, however long that is, and the `top` likeliest ones.

  Contexts are read in windows that overlap, as the task has them.

  Args:
    null_threshold: a question has no answer where `null_odds` are higher. By default every question has an answer, but
      for a run on squad2: there it is the threshold that did best on its held-out questions.
    max_length: tokens of a question with a window.
    cut: what is longer of a question than the task allows is cut as in training; otherwise it is refused.
  Raises:
    InputError: the model has no such head, the threshold is no number, or a question is longer, or leaves no room for
      its context.
  """
  own = with_head(loaded, *ANSWERS)
  check_list(questions, "questions")
  check_list(contexts, "contexts")
  decoder: AnswerDecoder = own.task.decode
  if null_threshold is not None:
    if math.isnan(null_threshold):
      raise InputError(f"null_threshold: got {null_threshold}, want a number, above which odds are no answer")
    decoder = dataclasses.replace(decoder, unanswerable=True, threshold=null_threshold)
    own = dataclasses.replace(own, task=dataclasses.replace(own.task, decode=decoder))
  if not 1 <= top <= decoder.n_best:
    raise InputError(f"top: got {top}, want a number from 1 to {decoder.n_best}, the answers that are ranked")
  if len(questions) != len(contexts):
    raise InputError(f"contexts: got {len(contexts)} for {len(questions)} questions, want one for each question")
  pairs = enumerate(zip(questions, contexts, strict=True), 1)
  examples = [QuestionExample(str(i), "", *pair, (), where=f"question {i}") for i, pair in pairs]
  long = _long(own, questions, cut)
  rows = rows_of(own, examples, longest_row(own, max_length))
  logits = logits_of(own, rows, batch_size, report)
  texts = decoder(examples, rows, logits, ())
  said = certainty.beside(own.task, examples, rows, logits, (), texts)
  return [
    Answered(text, [RankedAnswer(**each) for each in beside["n_best"][:top]], beside.get("null_odds"), i in long)
    for i, (text, beside) in enumerate(zip(texts, said, strict=True))
  ]


def _long(own: Tuned, questions: Sequence[str], cut: bool) -> set[int]:
  """Numbers of the questions that are longer than the task's rows take; raises InputError where none may be."""
  rows, unit = own.task.rows, "pieces" if own.words is None else "words"
  if own.words is None:
    sizes = [len(each.ids) for each in pieces.encode(own.tokenizer, [(q, [(0, len(q))]) for q in questions])]
  else:
    sizes = [len(each) for each in Words(SPECIALS, split=rows.split).words([*questions])]
  long = {i for i, size in enumerate(sizes) if size > rows.max_query}
  if long and not cut:
    first = min(long)
    raise InputError(
      f"question {first + 1}: got {sizes[first]} {unit}, want at most {rows.max_query}; shorten it, or have it cut"
    )
  return long
