"""Tokenizers small enough to be read by eye, examples of the tasks, and what their rows say."""

import functools

import numpy as np

from data.tasks.cloze import ClozeExample
from data.tasks.named_entities import TaggedDocument
from data.tasks.questions import Answer, QuestionExample
from data.tokenizers import bytebpe, sentencepieces, wordpiece

MARKERS = ("<ent>", "<ent2>", "[HIGHLIGHT]", "[PLACEHOLDER]", "[ENTITY]")
TEXTS = ["the cat sat on the mat with Ann Lee of Rome", "where did the painter Bob go when he left town"] * 4


@functools.cache
def tokenizer(kind):
  build = {
    "bytebpe": lambda: bytebpe.train(TEXTS, 300),
    "wordpiece": lambda: wordpiece.train(TEXTS, 90, lowercase=False),
    "sentencepiece": lambda: sentencepieces.train(TEXTS, 60, lowercase=False),
  }[kind]
  return build().with_added(MARKERS)


@functools.cache
def by_words(*words, double=False):
  """One piece a word; `double` for RoBERTa's special pieces."""
  specials = ("<pad>", "<unk>", "<s>", "</s>", "<mask>") if double else wordpiece.SPECIALS
  settings = wordpiece.Settings(lowercase=False, specials=specials)
  return wordpiece.WordPiece([*specials, *words], settings, "test").with_added(MARKERS)


LETTERS = by_words(*"abcdefghijklmnopqrst?.")
ROBERTA = by_words(*"abcdefghijklmnopqrst?.", double=True)
KINDS = ("bytebpe", "wordpiece", "sentencepiece")


def said(row, of):
  return " ".join(of.pieces(row.ids))


def lists(arrays):
  return [array.tolist() for array in arrays]


def document(sentences, spans=(), where="document"):
  words = tuple(" ".join(sentences).split())
  bounds = np.cumsum([0, *(len(each.split()) for each in sentences)]).tolist()
  return TaggedDocument(words, tuple(bounds), tuple(spans), where)


def record(query, passage, names, answer=None):
  spans = sorted((passage.index(name), passage.index(name) + len(name)) for name in names)
  right = frozenset([(passage.index(answer), passage.index(answer) + len(answer))]) if answer else None
  return ClozeExample("q", query, passage, tuple(spans), right, (answer,) if answer else ())


def question(passage, answer=None, asked="a ?"):
  found = (Answer(answer, passage.index(answer)),) if answer else ()
  return QuestionExample("q", "", asked, passage, found)
