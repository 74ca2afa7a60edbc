"""Multiple choice: which of several texts goes with another. SWAG (Zellers et al., 2018), RACE (Lai et al., 2017)."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.tasks import pieces
from data.tasks.files import field, read_json, read_text, strings
from data.tasks.rows import TaskError, TaskRow
from data.tasks.texts import shortened
from data.tokenizers import Tokenizer

_ENDINGS = ("ending0", "ending1", "ending2", "ending3")
_SWAG = ("sent1", "sent2", *_ENDINGS)
_BLANK = re.compile("_+")


@dataclasses.dataclass(frozen=True)
class ChoiceExample:
  """A text and the texts of which one goes with it.

  Attributes:
    name: the example's own identity, which predictions go by.
    text: what all choices share.
    choices: the second text of each.
    label: number of the right one; None where it is unknown.
    part: of the data set, for figures of its own; "" for none.
  """

  name: str
  text: str
  choices: tuple[str, ...]
  label: int | None
  part: str = ""
  where: str = "example"


def read_swag(path: Path) -> list[ChoiceExample]:
  """Examples of SWAG's file: columns between commas under a line of names; the test file has no label.

  The first text is sent1, a choice is sent2, the beginning of a sentence, with one of its four endings.

  Raises:
    TaskError: with file and line, for columns that lack or a label that is none of 0 to 3.
  """
  lines = csv.reader(io.StringIO(read_text(path)), strict=True)
  try:
    names = next(lines, [])
    if missing := [name for name in _SWAG if name not in names]:
      raise TaskError(
        f"{path}, line 1: got the columns {', '.join(names[:8]):.80}, want {', '.join(missing)} among them; check that "
        "the file is the task's"
      )
    wanted = [name for name in (*_SWAG, "label") if name in names]
    examples = [
      _swag(dict(zip(names, row)), wanted, n, f"{path}, line {lines.line_num}") for n, row in enumerate(lines) if row
    ]
  except csv.Error as error:
    where = f"{path}, line {lines.line_num}"
    raise TaskError(f"{where}: got {error}, want columns between commas; fetch the file again") from None
  if not examples:
    raise TaskError(f"{path}: got no example, want some; fetch the file again")
  return examples


def _swag(cells: dict[str, str], wanted: Sequence[str], number: int, where: str) -> ChoiceExample:
  if missing := [name for name in wanted if name not in cells]:
    raise TaskError(f"{where}: got {len(cells)} columns, want {missing[0]} too; correct the file, or fetch it again")
  label = cells["label"].strip() if "label" in cells else None
  if label is not None and label not in ("0", "1", "2", "3"):
    raise TaskError(f"{where}: got label {label!r:.60}, want one of 0 to 3; correct the file")
  choices = tuple(f"{cells['sent2']} {cells[ending]}".strip() for ending in _ENDINGS)
  return ChoiceExample(str(number), cells["sent1"], choices, None if label is None else int(label), where=where)


def read_race(path: Path) -> list[ChoiceExample]:
  """Questions of RACE: of one file of an article, or of all such files (*.txt) below a folder, in the order of paths.

  The first text is the article. A choice is the question with an option in place of its blank ("_"), or behind it where
  it has none. `part` is the folder that the file is in, high or middle.

  Raises:
    TaskError: a folder without files, or a file of another form.
  """
  if not path.is_dir():
    return list(_race(path))
  files = sorted(path.rglob("*.txt"), key=lambda file: (file.parent, len(file.stem), file.stem))
  if not files:
    raise TaskError(f"{path}: got no file *.txt below the folder, want articles as RACE has them; unpack it again")
  return [example for file in files for example in _race(file)]


def _race(path: Path) -> Iterator[ChoiceExample]:
  record, where = read_json(path, dict), str(path)
  article, questions = field(record, "article", str, where), strings(record, "questions", where)
  options = field(record, "options", list, where)
  answers = strings(record, "answers", where) if "answers" in record else [None] * len(questions)
  if not len(questions) == len(options) == len(answers):
    raise TaskError(
      f"{where}: got {len(questions)} questions, {len(options)} lists of options, {len(answers)} answers, want as many "
      "of each; correct the file"
    )
  name = field(record, "id", str, where).removesuffix(".txt") if "id" in record else path.stem
  for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
    inside = f"{where}, question {i}"
    own = strings({"options": options[i]}, "options", inside)
    letters = "ABCDEFGH"[: len(own)]
    if len(own) < 2 or (answer is not None and (len(answer) != 1 or answer not in letters)):
      raise TaskError(f"{inside}: got answer {answer!r} of {len(own)} options, want one of their letters")
    choices = tuple(_filled(question, option) for option in own)
    label = None if answer is None else letters.index(answer)
    yield ChoiceExample(f"{name}-{i}", article, choices, label, path.parent.name, inside)


def _filled(question: str, option: str) -> str:
  """The option in the question's first blank, or behind a question without one."""
  filled, blanks = _BLANK.subn(lambda _: option, question, count=1)
  return filled if blanks else f"{question} {option}"


def choice_arrays(example: ChoiceExample) -> tuple[np.ndarray, np.ndarray]:
  """(labels int32[k] of the choices, 1 = the right one, weights float32[k], all 1)."""
  right = -1 if example.label is None else example.label
  return (np.arange(len(example.choices)) == right).astype(np.int32), np.ones(len(example.choices), np.float32)


@dataclasses.dataclass(frozen=True)
class ChoiceRows:
  """Questions to rows: each choice as a pair `[CLS] text [SEP] choice [SEP]` of its own, side by side in one row.

  Of a choice its last `max_choice` pieces are kept; what is longer then loses pieces as `TextRows` has it.

  Attributes:
    max_length: tokens of one choice with its text.
    max_choice: pieces of a choice; 128 is RoBERTa's and ALBERT's for RACE.
  """

  max_length: int = 512
  max_choice: int = 128

  def __call__(self, examples: Sequence[ChoiceExample], tokenizer: Tokenizer, labels: Sequence[str]) -> list[TaskRow]:
    """One row a question: labels of its choices, 1 = the right one, in `cls` the first column of each choice."""
    texts = dict.fromkeys(text for example in examples for text in (example.text, *example.choices))
    encoded = dict(zip(texts, (each.ids for each in tokenizer.encode(list(texts))), strict=True))
    return [self._row(i, example, encoded, tokenizer) for i, example in enumerate(examples)]

  def _row(self, i: int, example: ChoiceExample, encoded: dict[str, np.ndarray], tokenizer: Tokenizer) -> TaskRow:
    parts, room = [], self.max_length - pieces.pair_room(tokenizer)
    for choice in example.choices:
      first, second = encoded[example.text], encoded[choice][-self.max_choice :]
      sizes = shortened(len(first), len(second), room)
      parts.append(pieces.pair(tokenizer, first[: sizes[0]], second[: sizes[1]])[:2])
    begins = np.cumsum([0, *(len(ids) for ids, _ in parts[:-1])]).astype(np.int32)
    ids, types = (np.concatenate(each) for each in zip(*parts))
    return TaskRow(ids, types, *choice_arrays(example), cls=begins, parts=begins, example=i)


def decode(
  examples: Sequence[ChoiceExample], rows: Sequence[TaskRow], logits: Sequence[np.ndarray], labels: Sequence[str]
) -> list[int]:
  """The number of the choice with the highest logit. logits: [k] of each row's k choices."""
  found = [0] * len(examples)
  for row, values in zip(rows, logits, strict=True):
    found[row.example] = int(np.argmax(values))
  return found
