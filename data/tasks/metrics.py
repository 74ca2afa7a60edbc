"""Figures of whole data sets, as the official scorers define them. All are fractions: 0.782 where a paper says 78.2."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence

import numpy as np

Scores = dict[str, float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIRECTION = re.compile(r"\(e[12],e[12]\)$")


def precision_recall_f1(right: int, predicted: int, gold: int) -> Scores:
  """precision, recall and f1 of counts; 0 where nothing was predicted, or nothing was there."""
  precision, recall = (right / n if n else 0.0 for n in (predicted, gold))
  f1 = 2 * precision * recall / (precision + recall) if right else 0.0
  return {"precision": precision, "recall": recall, "f1": f1}


def micro(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> Scores:
  """Micro-averaged precision, recall and F1 of sets, one of each an example.

  Of sets of types this is the loose micro F1 of entity typing (Ling and Weld, 2012), of sets of (first, end, label) the
  span F1 of CoNLL's conlleval and of seqeval.
  """
  pairs = [(set(true), set(guess)) for true, guess in zip(gold, predicted, strict=True)]
  right = sum(len(true & guess) for true, guess in pairs)
  return precision_recall_f1(right, sum(len(guess) for _, guess in pairs), sum(len(true) for true, _ in pairs))


def relation_micro(gold: Sequence[str], predicted: Sequence[str], none: str = "no_relation") -> Scores:
  """TACRED's micro precision, recall and F1: `none` counts neither as a prediction nor as something to find.

  As in its scorer precision is 1 where nothing is predicted.
  """
  scores = micro(*([{label} - {none} for label in labels] for labels in (gold, predicted)))
  return scores if set(predicted) - {none} else scores | {"precision": 1.0}


def relation_macro(gold: Sequence[str], predicted: Sequence[str], none: str = "Other") -> Scores:
  """The official figure of SemEval-2010 task 8 (scorer 1.2): (9+1)-way macro F1, directions taken into account.

  A prediction of the right relation in the wrong direction counts in the denominator of that relation's precision and
  is not right. The mean is over the relations that `gold` has, without `none`.
  """
  pairs = list(zip(gold, predicted, strict=True))
  names = {label: _DIRECTION.sub("", label) for pair in pairs for label in pair}
  right, true, guessed = Counter(), Counter(), Counter()
  for label, guess in pairs:
    true[names[label]] += 1
    guessed[names[guess]] += 1
    right[names[label]] += label == guess
  each = [precision_recall_f1(right[name], guessed[name], true[name]) for name in sorted(true) if name != none]
  return {figure: _mean([scores[figure] for scores in each]) for figure in ("precision", "recall", "f1")}


def normalised(text: str) -> str:
  """An answer as SQuAD's and ReCoRD's scorers compare it: lower case, no ASCII punctuation, articles or extra space."""
  return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str], unanswerable: bool = False) -> Scores:
  """Means of `each_answer`'s figures."""
  return {name: _mean(values) for name, values in each_answer(gold, predicted, unanswerable).items()}


def each_answer(
  gold: Sequence[Sequence[str]], predicted: Sequence[str], unanswerable: bool = False
) -> dict[str, list[float]]:
  """exact_match and f1 (of words) of each answer, each the best over the answers of its question.

  This is SQuAD 1.1's scorer, and ReCoRD's, which is the same. `unanswerable` makes it SQuAD 2.0's: a question without
  answers is answered by "", answers of which nothing is left are ignored, and F1 with nothing on one side is 1 if
  nothing is on the other. Otherwise a question without answers counts 0.
  """
  exact, f1 = [], []
  for answers, guess in zip(gold, predicted, strict=True):
    if unanswerable:
      answers = [answer for answer in answers if normalised(answer)] or [""]
    exact.append(float(any(normalised(guess) == normalised(answer) for answer in answers)))
    f1.append(max((_overlap(guess, answer, unanswerable) for answer in answers), default=0.0))
  return {"exact_match": exact, "f1": f1}


def best_threshold(
  scores: Sequence[float], odds: Sequence[float], has_answer: Sequence[bool], answered: Sequence[bool]
) -> tuple[float, float]:
  """(mean score, threshold) of SQuAD 2.0's scorer: with the best threshold, which answers of higher odds become "".

  The threshold rises over the odds, one question after the other: a question that has an answer then adds its score,
  one that has none is lost if it was answered. The first best threshold counts, -inf where none is better than no
  answer at all (the scorer says 0 there, as of probabilities, which have none below).

  Args:
    scores: of each answer as it is. odds: that the question has none. answered: whether the answer is not "".
  """
  total = best = float(sum(not there for there in has_answer))
  threshold = -math.inf
  for i in sorted(range(len(odds)), key=lambda i: odds[i]):
    total += scores[i] if has_answer[i] else -float(answered[i])
    if total > best:
      best, threshold = total, float(odds[i])
  return best / max(len(scores), 1), threshold


def _overlap(guess: str, answer: str, unanswerable: bool) -> float:
  found, wanted = normalised(guess).split(), normalised(answer).split()
  if unanswerable and not (found and wanted):
    return float(found == wanted)
  common = sum((Counter(found) & Counter(wanted)).values())
  return precision_recall_f1(common, len(found), len(wanted))["f1"]


def accuracy(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> Scores:
  return {"accuracy": _mean([true == guess for true, guess in zip(gold, predicted, strict=True)])}


def matthews(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> Scores:
  """Matthews's correlation (CoLA), of more than two classes Gorodkin's R_K (GLUE's diagnostic set).

  It is 0 where one class is all there is on either side, or nothing at all.
  """
  if not len(gold):
    return {"matthews": 0.0}
  classes = {label: i for i, label in enumerate(dict.fromkeys([*gold, *predicted]))}
  sides = [np.eye(len(classes))[[classes[label] for label in side]] for side in (gold, predicted)]
  true, guess = (side - side.mean(axis=0) for side in sides)
  norm = math.sqrt(float(np.sum(true * true)) * float(np.sum(guess * guess)))
  return {"matthews": float(np.sum(true * guess)) / norm if norm else 0.0}


def pearson(gold: Sequence[float], predicted: Sequence[float]) -> Scores:
  """Pearson's correlation; 0 where one side is constant, or nothing is there."""
  if not len(gold):
    return {"pearson": 0.0}
  true, guess = (np.asarray(values, np.float64) - np.mean(values) for values in (gold, predicted))
  norm = math.sqrt(float(true @ true) * float(guess @ guess))
  return {"pearson": float(true @ guess) / norm if norm else 0.0}


def spearman(gold: Sequence[float], predicted: Sequence[float]) -> Scores:
  """Spearman's correlation: Pearson's of ranks, those of equal values averaged."""
  return {"spearman": pearson(_ranks(gold), _ranks(predicted))["pearson"]}


def _ranks(values: Sequence[float]) -> np.ndarray:
  _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts - 1) / 2)[place]


def merged(*figures: Callable[..., Scores]) -> Callable[..., Scores]:
  """One metric out of several of the same arguments."""
  return lambda gold, predicted: {k: v for figure in figures for k, v in figure(gold, predicted).items()}


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values)) if len(values) else 0.0
