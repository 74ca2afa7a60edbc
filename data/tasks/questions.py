"""Questions with an answer in a passage: SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016, 2018), and files of their form."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from data.tasks.files import field, read_json
from data.tasks.rows import TaskError

UNANSWERABLE = ("skip", "keep")
OFFSETS = ("exact", "nearest")


@dataclasses.dataclass(frozen=True)
class Answer:
  """A text in the passage and its first character there."""

  text: str
  start: int


@dataclasses.dataclass(frozen=True)
class QuestionExample:
  """A question about a passage.

  Attributes:
    name: the question's own identity, which predictions go by.
    title: of the article that the passage is from, with spaces; "" where the file names none.
    answers: as the file lists them; where there are none, either it has no answer (`impossible`) or nobody says.
  """

  name: str
  title: str
  question: str
  passage: str
  answers: tuple[Answer, ...]
  impossible: bool = False
  where: str = "question"


def read_squad(path: Path, unanswerable: str = "skip", offsets: str = "exact") -> list[QuestionExample]:
  """Questions of a file {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}.

  Args:
    unanswerable: skip leaves out what SQuAD 2.0 marks "is_impossible", which makes it a file of 1.1; keep keeps it.
    offsets: exact wants every answer to stand where the file says; nearest moves one that does not to the next place in
      the passage where its text stands.
  Raises:
    TaskError: a file of another form, or an answer that is not in its passage.
  """
  for value, choices in ((unanswerable, UNANSWERABLE), (offsets, OFFSETS)):
    if value not in choices:
      raise TaskError(f"{path}: got {value!r}, want one of {choices}")
  examples = []
  for i, article in enumerate(field(read_json(path, dict), "data", list, str(path))):
    where = f"{path}, article {i}"
    paragraphs = field(article, "paragraphs", list, where)
    title = urllib.parse.unquote(field(article, "title", str, where).replace("_", " ")) if "title" in article else ""
    for paragraph in paragraphs:
      examples += _questions(paragraph, title, offsets, where)
  return [example for example in examples if unanswerable == "keep" or not example.impossible]


def _questions(paragraph: object, title: str, offsets: str, where: str) -> Iterator[QuestionExample]:
  passage = field(paragraph, "context", str, where)
  for record in field(paragraph, "qas", list, where):
    name = field(record, "id", str, where)
    inside = f"{where}, question {name}"
    impossible = "is_impossible" in record and field(record, "is_impossible", bool, inside)
    found = field(record, "answers", list, inside) if "answers" in record and not impossible else []
    answers = tuple(_answer(answer, passage, offsets, inside) for answer in found)
    yield QuestionExample(name, title, field(record, "question", str, inside), passage, answers, impossible, inside)


def _answer(record: object, passage: str, offsets: str, where: str) -> Answer:
  text, start = field(record, "text", str, where), field(record, "answer_start", int, where)
  if text and start >= 0 and passage.startswith(text, start):
    return Answer(text, start)
  places = [found.start() for found in re.finditer(f"(?={re.escape(text)})", passage)] if text else []
  if offsets == "nearest" and places:
    return Answer(text, min(places, key=lambda place: abs(place - start)))
  got = passage[max(start, 0) : start + len(text)]
  raise TaskError(
    f"{where}: answer at {start}: got {got!r:.60}, want {text!r:.60} there; correct the offset"
    + (", or set task.offsets=nearest" if places else "")
  )
