"""Mentions of the tasks as rows: markers, types, relations, spans; by hand and against slow definitions."""

import dataclasses
import logging

import numpy as np
import pytest

from data.tasks import named_entities
from data.tasks.entity_typing import TypingExample, TypingRows
from data.tasks.named_entities import SpanRows, TaggedDocument
from data.tasks.relations import RelationExample, RelationRows
from data.tasks.rows import TaskError
from data.tokenizers import wordpiece
from tests.task_rows import KINDS, LETTERS, MARKERS, TEXTS, by_words, document, lists, said, tokenizer

# Entity typing


def test_a_typed_mention_stands_between_markers_that_its_entity_includes():
  example = TypingExample("a b c d", (2, 5), ("y", "x"))
  (row,) = TypingRows()([example], LETTERS, ("x", "y", "z"))
  assert said(row, LETTERS) == "[CLS] a <ent> b c <ent> d [SEP]"
  assert lists(row.mentions) == [[2, 3, 4, 5]] and row.entities.tolist() == [2]
  assert row.slots.tolist() == [[0]] and row.several.tolist() == [[1, 1, 0]] and row.weights.tolist() == [1]
  assert row.cls is None and row.spans is None and row.types.tolist() == [0] * 8


def test_a_long_mention_is_cut_for_its_entity_alone():
  (row,) = TypingRows(max_mention=3)([TypingExample("a b c d", (0, 7), ("x",))], LETTERS, ("x",))
  assert said(row, LETTERS) == "[CLS] <ent> a b c d <ent> [SEP]" and lists(row.mentions) == [[1, 2, 3]]


def test_typing_without_entity_inputs_stands_on_the_first_marker():
  (row,) = TypingRows(entities=False)([TypingExample("a b c", (2, 3), None)], LETTERS, ("x",))
  assert row.cls.tolist() == [2] and row.entities is None and row.slots is None and row.mentions == ()
  assert row.weights.tolist() == [0]  # nobody says its types


def test_what_a_typing_example_cannot_be():
  with pytest.raises(TaskError, match="f.json, example 3: got label 'w', want one of the 2 .*x, y"):
    TypingRows()([TypingExample("a", (0, 1), ("w",), "f.json, example 3")], LETTERS, ("x", "y"))
  with pytest.raises(TaskError, match="no piece '<ent>'"):
    settings = wordpiece.Settings(lowercase=False)
    TypingRows()([], wordpiece.WordPiece([*wordpiece.SPECIALS], settings, "test"), ())


def test_a_text_that_is_too_long_is_cut_around_its_mentions():
  """Six pieces have room: the mention with its markers takes 3, and 3 are divided."""
  rows = TypingRows(max_length=8)
  for first, want in ((0, "<ent> a <ent> b c d"), (6, "c <ent> d <ent> e f"), (18, "g h i <ent> j <ent>")):
    (row,) = rows([TypingExample("a b c d e f g h i j", (first, first + 1), ("x",))], LETTERS, ("x",))
    assert said(row, LETTERS) == f"[CLS] {want} [SEP]"
    assert LETTERS.pieces(row.ids[row.mentions[0]]) == ["<ent>", "abcdefghij"[first // 2], "<ent>"]
  with pytest.raises(
    TaskError, match="example: got mentions in 8 pieces of text, want at most 6: shorten the text, or raise data.length"
  ):
    rows([TypingExample("a b c d e f", (0, 11), ("x",))], LETTERS, ("x",))


# Relations


def test_the_subject_is_entity_0_wherever_it_stands():
  forward = RelationExample("a b c d e", (2, 3), (6, 7), "r")
  back = dataclasses.replace(forward, head=forward.tail, tail=forward.head)
  one, two = RelationRows()([forward, back], LETTERS, ("no_relation", "r"))
  assert said(one, LETTERS) == "[CLS] a <ent> b <ent> c <ent2> d <ent2> e [SEP]"
  assert said(two, LETTERS) == "[CLS] a <ent2> b <ent2> c <ent> d <ent> e [SEP]"
  assert lists(one.mentions) == [[2, 3, 4], [6, 7, 8]] and lists(two.mentions) == [[6, 7, 8], [2, 3, 4]]
  (cut,) = RelationRows(max_mention=2)([back], LETTERS, ("r",))
  assert lists(cut.mentions) == [[6, 7], [2, 3]]
  for row in (one, two):
    assert row.labels.tolist() == [1] and row.entities.tolist() == [2, 3] and row.slots.tolist() == [[0, 1]]
  assert one.example == 0 and two.example == 1


def test_relations_without_entity_inputs_stand_on_the_two_first_markers():
  example = RelationExample("a b c d e", (6, 7), (2, 3), None)
  (row,) = RelationRows(entities=False)([example], LETTERS, ("r",))
  assert row.spans.tolist() == [[6, 2]] and row.entities is None and row.weights.tolist() == [0]


def test_a_marker_changes_no_word_beside_it():
  """The pieces between markers are those of the whole text; only the space that a marker stands for is looked at."""
  of = tokenizer("bytebpe")
  (row,) = RelationRows()([RelationExample("Ann Lee sat on the mat.", (0, 7), (19, 22), "r")], of, ("r",))
  markers = [of.id_of(name) for name in MARKERS]
  whole = of.encode([" Ann Lee sat on the mat."], specials=True)[0]
  assert row.ids[~np.isin(row.ids, markers)].tolist() == whole.ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_mention_decodes_back_to_its_text(kind):
  of = tokenizer(kind)
  for text in dict.fromkeys(TEXTS):
    cuts = [0, *(i for i, char in enumerate(text) if char == " "), len(text)]
    spans = [(a + (a > 0), b) for a, b in zip(cuts, cuts[3:])]
    rows = RelationRows()([RelationExample(text, a, b, "r") for a, b in zip(spans, spans[3:])], of, ("r",))
    for row, a, b in zip(rows, spans, spans[3:]):
      for mention, span, marker in zip(row.mentions, (a, b), MARKERS):
        assert row.ids[mention[[0, -1]]].tolist() == [of.id_of(marker)] * 2
        assert of.decode(row.ids[mention[1:-1]]).strip() == text[slice(*span)]


def test_names_of_markers_in_a_text_are_text():
  of = tokenizer("bytebpe")
  (row,) = TypingRows()([TypingExample("Ann <ent> Lee", (0, 3), ("x",))], of, ("x",))
  assert np.count_nonzero(row.ids == of.id_of("<ent>")) == 2


# Named entities


def test_all_spans_of_a_sentence_in_its_document():
  rows = SpanRows()([document(["a b c", "d e"], [(0, 2, "PER"), (4, 5, "LOC")])], LETTERS, ("NIL", "LOC", "PER"))
  assert [said(row, LETTERS) for row in rows] == ["[CLS] a b c d e [SEP]"] * 2
  first, second = rows
  assert first.spans.tolist() == [[1, 1], [1, 2], [1, 3], [2, 2], [2, 3], [3, 3]]
  assert first.labels.tolist() == [0, 2, 0, 0, 0, 0]
  assert first.window.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
  assert second.spans.tolist() == [[4, 4], [4, 5], [5, 5]] and second.labels.tolist() == [0, 0, 1]
  assert lists(second.mentions) == [[4], [4, 5], [5]] and second.entities.tolist() == [2] * 3
  assert second.slots.tolist() == [[0], [1], [2]] and second.weights.tolist() == [1] * 3


def test_context_is_symmetric_and_the_longer_side_takes_what_is_left():
  """Room for 8 pieces: 2 of the sentence, 6 of context."""
  rows = SpanRows(max_length=10)([document(["a", "b c", "d e f g h i j", "k l"])], LETTERS, ("NIL",))
  texts = [said(row, LETTERS) for row in rows if len(row.labels) == 3]
  assert texts == ["[CLS] a b c d e f g h [SEP]", "[CLS] e f g h i j k l [SEP]"]
  middle = document(["a b c d e f", "g", "h i j k l m"])
  row = next(row for row in SpanRows(max_length=9)([middle], LETTERS, ("NIL",)) if len(row.labels) == 1)
  assert said(row, LETTERS) == "[CLS] d e f g h i j [SEP]" and row.spans.tolist() == [[4, 4]]


def context_oracle(left, size, right, room):
  """Context piece by piece: each side in turn until both are at their end or the room is used."""
  taken = [0, 0]
  while size + sum(taken) < room and (taken[0] < left or taken[1] < right):
    side = 0 if (taken[0] <= taken[1] and taken[0] < left) or taken[1] >= right else 1
    taken[side] += 1
  return taken


def test_context_against_taking_pieces_in_turn():
  for left in range(9):
    for right in range(9):
      for size in range(1, 5):
        kept = named_entities.context(left + size + right, left, left + size, 9)
        got = [left - kept.start, kept.stop - left - size]
        want = context_oracle(left, size, right, 9)
        assert sum(got) == sum(want) and abs(got[0] - want[0]) <= 1  # an odd piece may go to either side


def test_spans_over_the_limit_are_divided_evenly():
  """10 spans of 4 words: at most 4 a row makes 3 rows of 4, 4 and 2, at most 6 makes two of 5."""
  assert [len(row.labels) for row in SpanRows(max_entities=6)([document(["a b c d"])], LETTERS, ("NIL",))] == [5, 5]
  rows = SpanRows(max_entities=4)([document(["a b c d"])], LETTERS, ("NIL",))
  assert [len(row.labels) for row in rows] == [4, 4, 2]
  assert [span for row in rows for span in row.window.tolist()] == [[i, j] for i in range(4) for j in range(i + 1, 5)]
  assert [row.slots[-1, 0] for row in rows] == [3, 3, 1]


def test_spans_begin_and_end_with_words_and_hold_few_pieces(caplog):
  """Words of 1, 2 and 3 pieces; spans of at most 3."""
  of = by_words("a", "b", "##x")
  example = document(["a bx bxx"], [(1, 3, "PER"), (2, 3, "LOC")], "f.txt, line 7")
  with caplog.at_level(logging.WARNING):
    (row,) = SpanRows(max_mention=3)([example], of, ("NIL", "LOC", "PER"))
  assert said(row, of) == "[CLS] a b ##x b ##x ##x [SEP]"
  assert row.window.tolist() == [[0, 1], [0, 2], [1, 2], [2, 3]]
  assert row.spans.tolist() == [[1, 1], [1, 3], [2, 3], [4, 6]]
  assert row.labels.tolist() == [0, 0, 0, 1]
  (record,) = caplog.records
  assert "1 spans" in record.getMessage() and "f.txt, line 7, words 1 to 3" in record.getMessage()


def test_a_sentence_over_the_length_is_cut_between_words():
  rows = SpanRows(max_length=5)([document(["a b c d e"])], LETTERS, ("NIL",))
  assert [row.window.tolist() for row in rows] == [
    [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]],
    [[3, 4], [3, 5], [4, 5]],
  ]
  assert [said(row, LETTERS) for row in rows] == ["[CLS] a b c [SEP]", "[CLS] c d e [SEP]"]
  with pytest.raises(TaskError, match="document: word 0 has more than 3 pieces"):
    SpanRows(max_length=5)([document(["bxxxx"])], by_words("b", "##x"), ("NIL",))


def test_apostrophes_and_single_marks_stand_without_a_space():
  of = tokenizer("bytebpe")
  words = ("Ann", "'s", "cat", ".", "..", "a", ",")
  (row,) = SpanRows()([TaggedDocument(words, (0, 7), None)], of, ("NIL",))
  assert of.decode(row.ids[1:-1]) == " Ann's cat. .. a,"
  assert set(row.weights.tolist()) == {0}  # nobody says what they are
