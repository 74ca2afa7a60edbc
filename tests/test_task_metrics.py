"""Official figures of data sets, worked out by hand and against slow definitions of their own."""

import itertools
import math
import random
from collections import Counter

import pytest
import scipy.stats

from data.tasks import metrics
from data.tasks.metrics import (
  accuracy,
  answer_scores,
  best_threshold,
  matthews,
  micro,
  normalised,
  pearson,
  relation_macro,
  relation_micro,
  spearman,
)


def close(scores, **want):
  assert scores == pytest.approx(want)


# Relations


def test_tacred_counts_no_relation_neither_as_found_nor_as_wanted():
  """Of 3 relations 2 were found; 4 were predicted, one of them where there is none and one of another kind."""
  gold = ["a", "b", "c", "no_relation", "no_relation"]
  guess = ["a", "b", "d", "a", "no_relation"]
  close(relation_micro(gold, guess), precision=2 / 4, recall=2 / 3, f1=4 / 7)
  close(relation_micro(["no_relation"], ["no_relation"]), precision=1, recall=0, f1=0)
  close(relation_micro(["a"], ["no_relation"]), precision=1, recall=0, f1=0)


def test_semeval_by_hand():
  """A: 4 there, 3 said (two right, one in the wrong direction): 2/3, 2/4. B: 1 there, 2 said, 1 right: 1/2, 1."""
  gold = ["A(e1,e2)", "A(e1,e2)", "A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "Other", "Other"]
  guess = ["A(e1,e2)", "A(e2,e1)", "Other", "A(e2,e1)", "B(e1,e2)", "B(e2,e1)", "Other"]
  f_a, f_b = 2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2), 2 * (1 / 2) / (3 / 2)
  close(relation_macro(gold, guess), precision=(2 / 3 + 1 / 2) / 2, recall=(1 / 2 + 1) / 2, f1=(f_a + f_b) / 2)


def semeval_oracle(gold, guess):
  """The scorer's own way: a confusion table of names without direction, with a column for the wrong direction."""
  table, said, there = Counter(), Counter(), Counter()
  for true, answer in zip(gold, guess):
    a, b = true.split("(")[0], answer.split("(")[0]
    there[a] += 1
    column = "WRONG_DIR" if a == b and true != answer else b
    table[column, a] += 1
    said[column] += 1
  scores = []
  for name in set(there) - {"Other"}:
    wrong = table["WRONG_DIR", name]
    p = table[name, name] / (said[name] + wrong) if said[name] else 0
    r = table[name, name] / there[name]
    scores.append(2 * p * r / (p + r) if p + r else 0)
  return sum(scores) / len(scores)


def test_semeval_against_the_scorers_table():
  names = [f"{name}({way})" for name in "ABC" for way in ("e1,e2", "e2,e1")] + ["Other"]
  draw = random.Random(0)
  for _ in range(200):
    gold, guess = (["A(e1,e2)", *draw.choices(names, k=12)] for _ in range(2))
    assert relation_macro(gold, guess)["f1"] == pytest.approx(semeval_oracle(gold, guess))


# Sets of types, and of spans


def test_loose_micro_by_hand():
  """4 types there, 5 said, 3 of them right."""
  gold = [{"person"}, {"person", "artist"}, {"place"}]
  guess = [{"person"}, {"person", "artist", "leader"}, {"event"}]
  close(micro(gold, guess), precision=3 / 5, recall=3 / 4, f1=2 / 3)
  close(micro([{"a"}], [set()]), precision=0, recall=0, f1=0)


def test_span_f1_wants_borders_and_type():
  """Two spans there; one found, one with another border, one of another type."""
  gold = [[(0, 2, "PER"), (3, 4, "LOC")]]
  close(micro(gold, [[(0, 2, "PER"), (3, 5, "LOC"), (3, 4, "ORG")]]), precision=1 / 3, recall=1 / 2, f1=2 / 5)
  close(micro(gold, gold), precision=1, recall=1, f1=1)


# Answers


def test_answers_are_compared_without_case_marks_articles_and_space():
  assert normalised("The  U.S. 'Army'!") == "us army"
  assert normalised("An apple-a-day") == "appleaday"  # marks go first, so this "a" is no article
  assert normalised("a an the") == ""


def test_exact_match_and_f1_are_the_best_over_the_answers():
  """'in the park' and 'park bench': one word of two (P 1/2), one of two (R 1/2)."""
  close(answer_scores([["Park.", "the park bench"]], ["a park"]), exact_match=1, f1=1)
  close(answer_scores([["park bench"]], ["in the park"]), exact_match=0, f1=1 / 2)
  close(answer_scores([["x"], ["b c d"]], ["y", "b b c"]), exact_match=0, f1=(2 * (2 / 3) * (2 / 3) / (4 / 3)) / 2)


def test_words_are_counted_as_often_as_they_stand():
  """'b b' against 'b': one in common, P 1/2, R 1."""
  close(answer_scores([["b"]], ["b b"]), exact_match=0, f1=2 / 3)


def test_squad_2_counts_no_answer_as_an_answer():
  gold, guess = [[], [], ["x"], ["the"]], ["", "x", "", ""]
  close(answer_scores(gold, guess, unanswerable=True), exact_match=2 / 4, f1=2 / 4)
  close(answer_scores([["the"]], ["the"]), exact_match=1, f1=0)  # SQuAD 1.1's F1 of nothing is 0
  close(answer_scores([[]], [""]), exact_match=0, f1=0)


def threshold_oracle(scores, odds, has_answer):
  """The best mean over all thresholds, tried one after the other."""
  best = (sum(not there for there in has_answer), -math.inf)
  for threshold in sorted(odds):
    total = sum((not there) if none > threshold else score for score, none, there in zip(scores, odds, has_answer))
    best = max(best, (total, threshold), key=lambda each: each[0])
  return best[0] / len(scores), best[1]


def test_the_best_threshold_against_all_of_them():
  """Every question is answered, so what has no answer is right only above the threshold."""
  draw = random.Random(2)
  for _ in range(100):
    has_answer = [draw.random() < 0.5 for _ in range(12)]
    scores = [draw.choice((0.0, 0.5, 1.0)) * there for there in has_answer]
    odds = draw.sample(range(-20, 20), 12)
    want = threshold_oracle(scores, odds, has_answer)
    assert best_threshold(scores, odds, has_answer, [True] * 12) == want
  assert best_threshold([0.0], [-1.0], [True], [True]) == (0, -math.inf)
  assert best_threshold([1.0, 1.0], [-1.0, 3.0], [False, True], [False, True]) == (1, 3)  # "" loses nothing


# Figures of the other tasks


def test_accuracy_and_matthews_by_hand():
  """tp 2, tn 1, fp 1, fn 1: (2 * 1 - 1 * 1) / sqrt(3 * 3 * 2 * 2)."""
  gold, guess = [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]
  close(accuracy(gold, guess), accuracy=3 / 5)
  close(matthews(gold, guess), matthews=1 / 6)
  close(matthews([1, 0], [1, 1]), matthews=0)


def matthews_oracle(gold, guess):
  """R_K by counts: c right of s; t_k there and p_k said of class k."""
  true, said = Counter(gold), Counter(guess)
  c, s = sum(a == b for a, b in zip(gold, guess)), len(gold)
  over = c * s - sum(true[k] * said[k] for k in true)
  under = (s * s - sum(n * n for n in said.values())) * (s * s - sum(n * n for n in true.values()))
  return over / under**0.5 if under else 0


def test_matthews_of_several_classes():
  draw = random.Random(3)
  for classes in ("ab", "abc", "abcde"):
    for _ in range(30):
      gold, guess = (draw.choices(classes, k=15) for _ in range(2))
      close(matthews(gold, guess), matthews=matthews_oracle(gold, guess))
  close(matthews(["a", "b", "c"], ["b", "b", "b"]), matthews=0)


def test_correlations_against_scipy():
  draw = random.Random(1)
  for _ in range(20):
    gold, guess = ([draw.choice((0.0, 1.0, 2.5, 4.0, 5.0)) for _ in range(30)] for _ in range(2))
    close(pearson(gold, guess), pearson=scipy.stats.pearsonr(gold, guess).statistic)
    close(spearman(gold, guess), spearman=scipy.stats.spearmanr(gold, guess).statistic)
  close(pearson([1, 1], [1, 2]), pearson=0)


def test_every_figure_is_0_for_nothing_right_and_1_for_all():
  labels = ["A(e1,e2)", "B(e2,e1)", "Other"]
  for figure in (relation_micro, relation_macro, accuracy):
    assert set(figure(labels[:2], labels[:2]).values()) == {1.0}
  for a, b in itertools.permutations(labels, 2):
    assert relation_macro([a], [b])["f1"] == 0
  assert metrics.precision_recall_f1(0, 0, 0) == {"precision": 0, "recall": 0, "f1": 0}
