"""Questions over passages as rows: windows, candidates, answers, links; by hand and against slow definitions."""

import dataclasses

import numpy as np
import pytest

from data.tasks import answers, cloze, links, pieces, registry
from data.tasks.answers import AnswerRows
from data.tasks.cloze import ClozeRows
from data.tasks.questions import QuestionExample
from data.tasks.rows import TaskError
from tests.task_rows import KINDS, LETTERS, ROBERTA, TEXTS, by_words, lists, question, record, said, tokenizer

# Cloze questions


def test_candidates_and_the_placeholder_are_entities():
  example = record("did @placeholder go ?", "a b\nc d\n@highlight\n\ne f", ["b", "d", "e f"], "d")
  of = by_words(*"abcdef?", "did", "go", double=True)
  (row,) = ClozeRows()([example], of, ())
  passage = "a [ENTITY] b [ENTITY] c [ENTITY] d [ENTITY] [HIGHLIGHT] [ENTITY] e f [ENTITY]"
  assert said(row, of) == f"<s> did [PLACEHOLDER] go ? </s> </s> {passage} </s>"
  assert lists(row.mentions) == [[2], [8, 9, 10], [12, 13, 14], [16, 17, 18, 19]]
  assert row.entities.tolist() == [2] * 4 and row.slots.tolist() == [[0, 1], [0, 2], [0, 3]]
  assert row.labels.tolist() == [0, 1, 0] and row.weights.tolist() == [1] * 3 and row.window.tolist() == [0, 1, 2]
  assert lists(ClozeRows(max_mention=2)([example], of, ())[0].mentions) == [[2], [8, 9], [12, 13], [16, 17]]
  (plain,) = ClozeRows(entities=False)([example], of, ())
  assert plain.spans.tolist() == [[2, 8], [2, 12], [2, 16]] and plain.entities is None
  (bert,) = ClozeRows()([dataclasses.replace(example, answers=None)], by_words(*"abcdef?", "did", "go"), ())
  assert bert.types.tolist() == [0] * 6 + [1] * 14 and bert.weights.tolist() == [0] * 3


def test_windows_of_a_cloze_passage():
  """Room for 7 of 17 pieces, 3 apart: 0-7, 3-10, 6-13, 9-16, 12-17; with their markers a is 0-3, g 8-11 and j 13-16.

  The second window holds none of them whole and gives no row.
  """
  example = record("@placeholder ?", "a b c d e f g h i j k", ["a", "g", "j"], "g")
  rows = ClozeRows(max_length=13, stride=3)([example], by_words(*"abcdefghijk?", double=True), ())
  assert [row.window.tolist() for row in rows] == [[0], [1], [2], [2]]
  begin = 1 + 2 + 2  # <s>, the query, </s></s>
  firsts = [0, 8 - 6, 13 - 9, 13 - 12]
  assert [lists(row.mentions) for row in rows] == [[[1], [begin + n, begin + n + 1, begin + n + 2]] for n in firsts]
  assert [row.labels.tolist() for row in rows] == [[0], [1], [0], [0]]
  assert [len(row) for row in rows] == [13, 13, 13, 11]


def test_a_long_query_is_cut_but_keeps_its_placeholder():
  of = by_words(*"abcdef", double=True)
  rows = ClozeRows(max_query=3)
  (row,) = rows([record("a @placeholder b c d", "e", ["e"])], of, ())
  assert said(row, of).startswith("<s> a [PLACEHOLDER] b </s>") and lists(row.mentions)[0] == [2]
  (row,) = rows([record("a b c @placeholder d", "e", ["e"])], of, ())
  assert said(row, of).startswith("<s> b c [PLACEHOLDER] </s>") and lists(row.mentions)[0] == [3]


# Answers


def test_an_answer_is_the_columns_of_its_first_and_last_piece():
  (row,) = AnswerRows()([question("b c  d\ne", "c  d")], ROBERTA, ())
  assert said(row, ROBERTA) == "<s> a ? </s> </s> b c d e </s>"
  assert row.labels.tolist() == [6, 7] and row.weights.tolist() == [1, 1] and row.entities is None
  assert row.types.tolist() == [0] * 10
  assert row.window.begin == 5 and row.window.offsets.tolist() == [[0, 1], [2, 3], [5, 6], [7, 8]]
  (bert,) = AnswerRows()([question("b c", "c")], LETTERS, ())
  assert said(bert, LETTERS) == "[CLS] a ? [SEP] b c [SEP]" and bert.types.tolist() == [0, 0, 0, 0, 1, 1, 1]
  assert bert.labels.tolist() == [5, 5]


def test_windows_of_a_passage():
  """Room for 4 of 9 pieces, 2 apart: 0-4, 2-6, 4-8 and 6-9, which ends the passage."""
  rows = AnswerRows(max_length=10, stride=2)([question("b c d e f g h i j", "f g")], ROBERTA, ())
  assert [said(row, ROBERTA).split()[5:-1] for row in rows] == [list("bcde"), list("defg"), list("fghi"), list("hij")]
  assert [row.labels.tolist() for row in rows] == [[0, 0], [7, 8], [5, 6], [0, 0]]
  assert pieces.windows(4, 4, 2) == [(0, 4)] and pieces.windows(5, 4, 9) == [(0, 4), (4, 5)]
  assert pieces.windows(0, 4, 2) == [(0, 0)]


def best_oracle(windows, at):
  """run_squad.py's rule, window by window."""
  best, where = None, None
  for number, (first, end) in enumerate(windows):
    if first <= at < end:
      score = min(at - first, end - 1 - at) + 0.01 * (end - first)
      if best is None or score > best:
        best, where = score, number
  return where


def test_each_piece_has_one_best_window():
  for size in (1, 5, 9, 20, 33):
    for room, stride in ((4, 1), (4, 2), (6, 3), (7, 3), (8, 8), (40, 2)):
      windows = pieces.windows(size, room, stride)
      want = [best_oracle(windows, at) for at in range(size)]
      assert [np.flatnonzero(each).tolist() for each in answers._best(windows, size).T] == [[n] for n in want]


def test_answers_that_nobody_says_and_that_there_are_not():
  unknown, none = question("b c"), dataclasses.replace(question("b c"), impossible=True)
  rows = AnswerRows()([unknown, none], LETTERS, ())
  assert [row.weights.tolist() for row in rows] == [[0, 0], [1, 1]]
  assert [row.labels.tolist() for row in rows] == [[0, 0], [0, 0]]


def test_an_answer_inside_a_word_is_the_fewest_pieces_that_hold_it():
  of = by_words("(", ")", "1895", "19", "##43", "-", "a", "?")
  (row,) = AnswerRows()([question("( 1895-1943)", "1895")], of, ())
  assert said(row, of) == "[CLS] a ? [SEP] ( 1895 - 19 ##43 ) [SEP]" and row.labels.tolist() == [5, 5]
  (row,) = AnswerRows()([question("1943", "9")], of, ())
  assert row.labels.tolist() == [4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_every_span_of_words_is_found_again(kind):
  of, text = tokenizer(kind), TEXTS[0]
  words = text.split()
  examples = [question(text, " ".join(words[i : i + 3])) for i in range(len(words) - 2)]
  rows = AnswerRows(max_length=40, stride=8)(examples, of, ())
  found = set()
  for row in rows:
    if row.labels[0]:
      first, last = row.labels - row.window.begin
      assert text[row.window.offsets[first, 0] : row.window.offsets[last, 1]] == examples[row.example].answers[0].text
      found.add(row.example)
  assert found == set(range(len(examples)))


def test_a_question_is_cut_and_must_leave_room():
  (row,) = AnswerRows(max_query=2)([question("b", asked="c d e")], ROBERTA, ())
  assert said(row, ROBERTA) == "<s> c d </s> </s> b </s>"
  with pytest.raises(TaskError, match="got a question of 3 pieces, want room"):
    AnswerRows(max_length=7)([question("b", asked="c d e")], ROBERTA, ())
  with pytest.raises(TaskError, match="got a query of 3 pieces, want room"):
    ClozeRows(max_length=7)([record("a @placeholder b", "c", ["c"])], ROBERTA, ())


def test_entities_of_a_question_are_the_links_of_its_article():
  """The longest text wins, whatever it means; (c d) leads to two titles; j is no link often enough."""
  of = by_words(*"abcdefghij", "B", ".")
  ids = {"Title A": 7, "Title EF": 8, "Title B": 9}
  targets = [("A", "Title A"), ("b", "Title B"), ("c d", "X"), ("C d", "Y"), ("e  f", "Title EF"), ("g h", "unknown")]
  often = [(*pair, 0.01) for pair in [*targets, ("h", "Title A")]]
  known = links.known_texts([*often, ("j", "Title A", 0.009)], ids.get)
  assert known == {"a": 7, "b": 9, "e f": 8, "g h": None, "h": 7}
  example = QuestionExample("q", "Article", "i a", "B. c d e f g h h j e", ())
  titles = []
  rows = AnswerRows(max_length=12, stride=4, links=lambda title: titles.append(title) or known)([example], of, ())
  found = [[(*map(int, [e]), of.pieces(row.ids[c])) for e, c in zip(row.entities, row.mentions)] for row in rows]
  asked = (7, ["a"])
  assert found == [[asked, (9, ["B"]), (8, ["e", "f"])], [asked, (8, ["e", "f"]), (7, ["h"])]]
  assert set(titles) == {"Article"}
  (bare,) = AnswerRows(links=lambda title: {})([example], of, ())
  assert bare.entities.tolist() == [] and bare.mentions == ()


def test_linked_texts_begin_and_end_with_words_or_marks():
  of = by_words("ab", "##c", "##x", "(", ")", "a")
  text = "abc (abx ab)"
  offsets = AnswerRows()([QuestionExample("q", "", "a", text, ())], of, ())[0].window.offsets
  assert links.find(text, offsets, {"ab": 1}) == [(5, 6, 1)]
  assert links.find(text, offsets, {"abc": 1, "(abx ab": 2}) == [(0, 2, 1), (2, 6, 2)]
  assert links.find(text, offsets, {"abx ab": 2}) == []  # it does not follow a space: not seen by the published program
  assert links.find(text, offsets, {"abc (abx": 3, "abc": 1}) == [(0, 5, 3)]


def test_published_lengths():
  rows = {name: registry.TASKS[name].rows for name in ("conll2003", "record", "squad", "tacred")}
  assert (rows["conll2003"].max_length, rows["conll2003"].max_entities, rows["conll2003"].max_mention) == (512, 128, 16)
  assert (rows["record"].max_length, rows["record"].stride, rows["record"].max_query) == (512, 128, 90)
  assert (rows["squad"].max_length, rows["squad"].stride, rows["squad"].max_query) == (512, 128, 64)
  assert rows["tacred"].max_mention == rows["record"].max_mention == 30
  decoder = registry.TASKS["squad"].decode
  assert (decoder.n_best, decoder.max_answer) == (20, 30)
  assert tuple(registry.TASKS["record"].markers) == cloze.MARKERS
