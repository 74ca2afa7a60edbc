"""Logits to answers: thresholds, greedy spans, best spans over windows, best candidates; against slow definitions."""

import dataclasses

import numpy as np
import pytest

from data.tasks import cloze, entity_typing, named_entities, registry, relations
from data.tasks.answers import AnswerDecoder, AnswerRows
from data.tasks.cloze import ClozeRows
from data.tasks.entity_typing import TypingExample, TypingRows
from data.tasks.named_entities import SpanRows
from data.tasks.questions import Answer, QuestionExample
from data.tasks.relations import RelationExample, RelationRows
from data.tokenizers.wordpiece import WordPiece
from tests.task_rows import LETTERS, ROBERTA, by_words, document, record

LABELS = ("NIL", "LOC", "PER")


def test_types_are_those_above_zero_in_any_order_of_rows():
  examples = [TypingExample("a b", (0, 1), ("x",)), TypingExample("a b", (2, 3), ("y",))]
  rows = TypingRows()(examples, LETTERS, ("x", "y", "z"))
  logits = [np.array([[0.1, -1, 0.0]]), np.array([[-3, 2, 1e-6]])]
  assert entity_typing.decode(examples, rows[::-1], logits, ("x", "y", "z")) == [("y", "z"), ("x",)]


def test_a_relation_is_the_highest_logit():
  examples = [RelationExample("a b c", (0, 1), (4, 5), "r")] * 2
  rows = RelationRows()(examples, LETTERS, ("no_relation", "r"))
  found = relations.decode(examples, rows, [np.array([[-2.0, -1]]), np.array([[1.0, 0]])], ("no_relation", "r"))
  assert found == ["r", "no_relation"]
  assert registry.TASKS["tacred"].figures(examples, found)["recall"] == 1 / 2


# Named entities


def test_entities_are_taken_by_falling_logit_where_none_is_yet():
  """(0, 2) wins over (1, 3), which shares a word; (2, 3) is free then; the best span is NIL and takes nothing."""
  examples = [document(["a b c"])]
  (row,) = SpanRows()(examples, LETTERS, LABELS)
  logits = np.zeros((6, 3))
  logits[:, 0] = 1
  scores = {(0, 3): (9, 0, 0), (0, 2): (0, 0, 5), (1, 3): (0, 4, 0), (2, 3): (0, 2, 1)}
  for span, values in scores.items():
    logits[row.window.tolist().index(list(span))] = values
  assert named_entities.decode(examples, [row], [logits], LABELS) == [((0, 2, "PER"), (2, 3, "LOC"))]


def greedy_oracle(spans, size):
  """Word by word: of all spans left take the highest, and strike out all that share a word with it."""
  left, found = list(spans), []
  while left:
    best = max(left, key=lambda each: each[0])
    found.append(best[1])
    left = [each for each in left if not set(range(*each[1][:2])) & set(range(*best[1][:2]))]
  assert all(0 <= first < end <= size for first, end, _ in found)
  return tuple(sorted(found))


def test_entities_against_striking_out():
  draw = np.random.default_rng(0)
  examples = [document(["a b c d e", "f g h"]), document(["i j k l m n o"])]
  rows = SpanRows(max_entities=4, max_mention=3)(examples, LETTERS, LABELS)
  for _ in range(20):
    logits = [draw.normal(size=(len(row.labels), 3)) for row in rows]
    spans = [[] for _ in examples]
    for row, values in zip(rows, logits):
      for (first, end), each in zip(row.window.tolist(), values):
        if each.argmax():
          spans[row.example].append((each.max(), (first, end, LABELS[each.argmax()])))
    want = [greedy_oracle(each, len(example.words)) for each, example in zip(spans, examples)]
    assert named_entities.decode(examples, rows, logits, LABELS) == want


def test_right_logits_find_every_entity_that_is_a_candidate():
  spans = [[(0, 2, "PER"), (3, 4, "LOC"), (4, 6, "PER")], [(1, 2, "LOC")]]
  examples = [document(["a b c d", "e f g"], spans[0]), document(["h i"], spans[1])]
  rows = SpanRows(max_entities=3)(examples, LETTERS, LABELS)
  found = named_entities.decode(examples, rows, [np.eye(3)[row.labels] for row in rows], LABELS)
  assert [list(each) for each in found] == spans
  assert registry.TASKS["conll2003"].figures(examples, found) == {"precision": 1, "recall": 1, "f1": 1}


# Cloze questions


def test_the_best_candidate_over_all_windows():
  example = record("@placeholder ?", "a b c d e f g h i j k", ["a", "g", "j"], "g")
  rows = ClozeRows(max_length=13, stride=3)([example], by_words(*"abcdefghijk?", double=True), ())
  assert cloze.decode([example], rows, [np.array([x]) for x in (-3.0, -2, -5, -1)], ()) == ["j"]
  assert cloze.decode([example], rows, [np.array([x]) for x in (-3.0, 2, -5, -1)], ()) == ["g"]
  assert cloze.decode([example], [], [], ()) == [""]
  assert registry.TASKS["record"].figures([example], ["the G!"]) == {"exact_match": 1, "f1": 1}


# Answers


def question(passage, answers=(), **changes):
  found = tuple(Answer(each, passage.index(each)) for each in answers)
  return QuestionExample("q", "", "a ?", passage, found, **changes)


def answer_oracle(example, rows, logits, decoder):
  """run_squad.py's loops: every pair of columns of every window, with its conditions in its order."""
  found = []
  for row, values in zip(rows, logits):
    best = [sorted(range(len(row)), key=lambda i: -values[i, side])[: decoder.n_best] for side in (0, 1)]
    for start in best[0]:
      for end in best[1]:
        a, b = start - row.window.begin, end - row.window.begin
        if not (0 <= a < len(row.window.offsets) and 0 <= b < len(row.window.offsets)):
          continue
        if not row.window.best[a] or b < a or b - a + 1 > decoder.max_answer:
          continue
        text = example.passage[row.window.offsets[a, 0] : row.window.offsets[b, 1]]
        found.append((values[start, 0] + values[end, 1], " ".join(text.split())))
  found.sort(key=lambda each: -each[0])
  null = min(values[0].sum() for values in logits)
  if decoder.unanswerable and (not found or null - found[0][0] > decoder.threshold):
    return ""
  return found[0][1] if found else ""


@pytest.mark.parametrize("unanswerable", [False, True])
def test_answers_against_the_published_loops(unanswerable):
  draw, empty = np.random.default_rng(1), 0
  decoder = AnswerDecoder(n_best=4, max_answer=3, unanswerable=unanswerable)
  example = question("b c d e f  g h i j\nk l m n o p")
  rows = AnswerRows(max_length=12, stride=3)([example], ROBERTA, ())
  assert len(rows) == 4
  for _ in range(200):
    logits = [draw.normal(size=(len(row) + 2, 2)) for row in rows]  # rows are padded: columns behind a row are ignored
    for values in logits:
      values[-2:] = 99
    (found,) = decoder([example], rows, logits, ())
    assert found == answer_oracle(example, rows, logits, decoder)
    empty += not found
  assert 0 < empty < 100 if unanswerable else empty < 20


def test_an_answer_is_cut_from_the_passage_as_it_is_written():
  """Its own case and marks, whatever the pieces say; white space in it is one space."""
  cased = by_words("ann", "##a", "lee", ".", "in", "a", "?")
  of = WordPiece(cased.vocabulary, dataclasses.replace(cased.settings, lowercase=True), "test")
  example = question("In Änna \n Lee.", ("Änna \n Lee",))
  (row,) = AnswerRows()([example], of, ())
  logits = np.zeros((len(row), 2))
  logits[row.labels[0], 0] = logits[row.labels[1], 1] = 9
  assert AnswerDecoder()([example], [row], [logits], ()) == ["Änna Lee"]


def test_no_answer_where_the_first_column_wins():
  example = question("b c", impossible=True)
  (row,) = AnswerRows()([example], ROBERTA, ())
  logits = np.zeros((len(row), 2))
  logits[0] = 1
  assert AnswerDecoder(unanswerable=True)([example], [row], [logits], ()) == [""]
  assert AnswerDecoder(unanswerable=True, threshold=2)([example], [row], [logits], ()) == ["b"]
  assert AnswerDecoder()([example], [row], [logits], ()) == ["b"]
  figures = registry.TASKS["squad2"].figures([example], [""])
  assert figures == {"exact_match": 1, "f1": 1, "NoAns/exact_match": 1, "NoAns/f1": 1}


def test_a_passage_without_pieces_has_no_answer():
  example = question(" ")
  rows = AnswerRows()([example], ROBERTA, ())
  assert AnswerDecoder()([example], rows, [np.zeros((len(rows[0]), 2))], ()) == [""]


def ranked_oracle(example, rows, logits, decoder):
  """run_squad.py's n-best list: every pair that is allowed and, where there may be none, the lowest null; by falling
  sum, each text once, the null behind them if it did not come up; softmax over the list."""
  found = []
  for row, values in zip(rows, logits):
    best = [sorted(range(len(row)), key=lambda i: -values[i, side])[: decoder.n_best] for side in (0, 1)]
    for start in best[0]:
      for end in best[1]:
        a, b = start - row.window.begin, end - row.window.begin
        inside = 0 <= a < len(row.window.offsets) and 0 <= b < len(row.window.offsets)
        if inside and row.window.best[a] and a <= b < a + decoder.max_answer:
          place = (int(row.window.offsets[a, 0]), int(row.window.offsets[b, 1]))
          text = example.passage[slice(*place)]
          place = (place[0] + len(text) - len(text.lstrip()), place[1] - len(text) + len(text.rstrip()))
          found.append((values[start, 0] + values[end, 1], " ".join(text.split()), *place))
  null = min(values[0].sum() for values in logits)
  found += [(null, "", None, None)] if decoder.unanswerable else []
  kept = []
  for each in sorted(found, key=lambda each: -each[0]):
    if len(kept) < decoder.n_best and each[1] not in [other[1] for other in kept]:
      kept.append(each)
  if decoder.unanswerable and "" not in [text for _, text, *_ in kept]:
    kept.append((null, "", None, None))
  total = sum(np.exp(score) for score, *_ in kept)
  return [(text, place, score, np.exp(score) / total) for score, text, *place in kept]


@pytest.mark.parametrize("unanswerable", [False, True])
def test_the_n_best_answers_against_the_published_loops(unanswerable):
  draw, decoder = np.random.default_rng(2), AnswerDecoder(n_best=3, max_answer=3, unanswerable=unanswerable)
  example = question("b c b c  d\nb c e f g h i j k")  # texts that stand more than once
  rows = AnswerRows(max_length=12, stride=3)([example], ROBERTA, ())
  sizes = set()
  for _ in range(100):
    logits = [draw.normal(size=(len(row), 2)) for row in rows]
    (found,) = decoder.ranked([example], rows, logits)
    want = ranked_oracle(example, rows, logits, decoder)
    assert [(each.text, [each.start, each.end]) for each in found] == [each[:2] for each in want]
    np.testing.assert_allclose([(c.score, c.probability) for c in found], [each[2:] for each in want])
    sizes.add(len(found))
  assert max(sizes) == (4 if unanswerable else 3)  # the null stands behind the best where it is none of them


def answered(texts, odds, gold):
  """Questions, rows and logits of which the best text and the odds of none are as given."""
  examples = [question("b c d", answers, impossible=not answers) for answers in gold]
  rows = AnswerRows()(examples, ROBERTA, ())
  logits = []
  for row, text, none in zip(rows, texts, odds, strict=True):
    logits.append(np.full((len(row), 2), -50.0))
    column = row.window.begin + "bcd".index(text)
    logits[-1][column] = 1.0, 2.0
    logits[-1][0] = none, 3.0
  return examples, rows, logits


def test_the_threshold_is_that_of_the_official_scorer():
  """Odds -3 right, -2 of no answer, -1 right, 1 wrong, 2 of no answer. From nothing answered (2 of 5 right) it goes to
  3, 2, 3, 3, 2: the first best threshold is -3, with 3 of 5."""
  task = registry.find("squad2")
  given = answered("bcdbc", (-3.0, -2.0, -1.0, 1.0, 2.0), (["b"], [], ["d"], ["c"], []))
  texts, odds = task.decode.with_odds(*given)
  assert (texts, odds) == (list("bcdbc"), [-3.0, -2.0, -1.0, 1.0, 2.0])
  assert task.evaluate(*given, ()) == pytest.approx({
    "exact_match": 3 / 5, "f1": 3 / 5, "HasAns/exact_match": 2 / 3, "HasAns/f1": 2 / 3, "NoAns/exact_match": 1 / 2,
    "NoAns/f1": 1 / 2, "best_exact": 3 / 5, "best_exact_thresh": -3, "best_f1": 3 / 5, "best_f1_thresh": -3,
    "null_threshold": -3,
  })  # fmt: skip
  tuned = dataclasses.replace(task.decode, threshold=-3.0)
  assert task.figures(given[0], tuned(*given, ()))["f1"] == 3 / 5
  # All answers are wrong, and surer than none: best is no answer at all, which the scorer's 0 would not give
  given = answered("cbd", (-3.0, -2.0, -1.0), (["b"], [], ["b"]))
  found = task.evaluate(*given, ())
  assert (found["best_f1"], found["best_f1_thresh"], found["f1"]) == (pytest.approx(1 / 3), 0, 0)
  tuned = dataclasses.replace(task.decode, threshold=found["null_threshold"])
  assert task.figures(given[0], tuned(*given, ()))["f1"] == pytest.approx(1 / 3)
  assert "best_f1" not in registry.find("squad").evaluate(*answered("bc", (0.0, 0.0), (["b"], ["c"])), ())
