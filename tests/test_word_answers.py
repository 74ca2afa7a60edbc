"""Questions, choices and numbers as rows and batches of whole words, and columns back to answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data.tasks import registry
from data.tasks.choices import ChoiceExample
from data.tasks.questions import Answer, QuestionExample
from data.tasks.texts import TextExample
from data.tasks.word_batches import WordShape
from data.tasks.word_rows import AnswerWords, ChoiceWords, TextWords
from data.word_vectors import WordVocabulary

XQUAD = Path(__file__).parent.parent / "../shared/data/qa/xquad.en.json"
PASSAGE = "Anna (née Lee) met Bert in Rome, Italy."
ASKED = QuestionExample("q", "", "Where did they meet?", PASSAGE, (Answer("Rome, Italy", PASSAGE.index("Rome")),))


def test_a_question_is_a_row_of_its_passage_and_itself():
  (row,) = AnswerWords()([ASKED], ())
  assert row.sentences == (
    ("Anna", "(", "née", "Lee", ")", "met", "Bert", "in", "Rome", ",", "Italy", "."),
    ("Where", "did", "they", "meet", "?"),
  )
  assert row.labels.tolist() == [9, 11] and row.weights.tolist() == [1, 1]  # column 1 is the first word
  assert (row.window.begin, row.window.first, row.window.best.all()) == (1, 0, True)
  assert [PASSAGE[a:b] for a, b in row.window.offsets] == list(row.sentences[0])
  (spaced,) = AnswerWords(split="space", max_query=2)([ASKED], ())
  assert spaced.sentences[0][-2:] == ("Rome,", "Italy.") and spaced.sentences[1] == ("Where", "did")
  batch = WordShape(WordVocabulary(())).collate([row, spaced]).batch
  assert batch.labels.tolist() == [[9, 11], [7, 8]] and batch.index.shape == (2, 2, 16)


def test_right_columns_of_all_windows_are_the_answers():
  """Of windows that share words, of a passage without a word, of a question that has no answer."""
  none = dataclasses.replace(ASKED, answers=(), impossible=True)
  unknown = dataclasses.replace(ASKED, answers=())
  empty = dataclasses.replace(unknown, passage=" ", question="")
  examples = [ASKED, none, unknown, empty]
  for name, rows in (("squad", AnswerWords(max_words=6, stride=3)), ("squad2", AnswerWords())):
    task = registry.find(name).put("words_answer")
    made = rows(examples, ())
    windows = [sum(row.example == i for row in made) for i in range(4)]
    assert windows == ([3, 3, 3, 1] if name == "squad" else [1] * 4)
    assert all(not row.labels.any() and row.weights.all() for row in made if row.example == 1)
    assert all(not row.weights.any() for row in made if row.example > 1) and made[-1].sentences == (("",), ("",))
    logits = [np.zeros((len(row), 2), np.float32) for row in made]
    for row, values in zip(made, logits):
      values[row.labels, [0, 1]] = 9
    placed = WordShape(WordVocabulary(())).collate(made)
    padded = np.full((len(placed.batch.labels), placed.batch.index.shape[2] - 1, 2), -1e9)
    for own, values in zip(padded, logits):
      own[: len(values) - 1] = values[:-1]
    parts = placed.parts(padded, by_column=True)
    found = task.decode(examples, made, parts, ())
    assert found[0] == "Rome, Italy" and found[3] == "" and (found[1] == "") == (name == "squad2")


def test_a_question_of_choices_is_a_row_of_its_text_and_them():
  examples = [ChoiceExample("1", "a b c", ("d", ""), 1), ChoiceExample("2", "a", ("b", "c", "d e"), None)]
  rows = ChoiceWords(max_words=2)(examples, ())
  assert [row.sentences for row in rows] == [(("a", "b"), ("d",), ("",)), (("a",), ("b",), ("c",), ("d", "e"))]
  assert [row.labels.tolist() for row in rows] == [[0, 1], [0, 0, 0]]
  placed = WordShape(WordVocabulary(())).collate(rows)
  assert placed.batch.weights.tolist() == [[1, 1, 0], [1, 1, 1]]
  assert placed.batch.lengths.tolist() == [[4, 3, 3, 0], [3, 3, 3, 4]]
  parts = placed.parts(np.float32([[1, 2, 9], [0, 3, 1]]))
  assert [part.tolist() for part in parts] == [[1, 2], [0, 3, 1]]
  assert registry.find("race").put("words_choose").decode(examples, rows, parts, ()) == [1, 1]


def test_a_number_stands_beside_its_class():
  rows = TextWords(number=True)([TextExample(("a b", "c"), 3.5), TextExample(("a", "c"), None)], ("score",))
  assert [row.several.tolist() for row in rows] == [[[3.5]], [[0]]]
  assert [row.weights.tolist() for row in rows] == [[1], [0]]
  batch = WordShape(WordVocabulary(()), multiple=4).collate(rows).batch
  assert batch.several.shape == (4, 1, 1) and batch.several.ravel().tolist() == [3.5, 0, 0, 0]


# A real file


def test_xquad_in_words():
  """Every answer of every question is found from right columns, as far as words are not cut inside an answer's."""
  if not XQUAD.is_file():
    pytest.skip("../shared/data has no qa/xquad.en.json")
  task = registry.find("squad").put("words_answer")
  examples = task.read(XQUAD)
  rows = dataclasses.replace(task.rows, max_words=382)(examples, ())
  inside = {row.example for row in rows if row.labels.all()}
  logits = [np.zeros((len(row), 2), np.float32) for row in rows]
  for row, values in zip(rows, logits):
    values[row.labels, [0, 1]] = 9 if row.labels.all() else 1
  figures = task.figures(examples, dataclasses.replace(task.decode, max_answer=99)(examples, rows, logits, ()))
  assert len(examples) == 1190 and len(inside) == 1190 and max(map(len, rows)) <= 384
  assert figures["exact_match"] > 0.97 and figures["f1"] > 0.99
