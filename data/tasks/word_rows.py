"""Examples as rows of whole words, for networks that read words by their characters."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence

import numpy as np

from data.streams import windows
from data.tasks.answers import windows_of
from data.tasks.choices import ChoiceExample, choice_arrays
from data.tasks.named_entities import TaggedDocument
from data.tasks.questions import QuestionExample
from data.tasks.rows import WordRow
from data.tasks.tagging import sentence_classes
from data.tasks.texts import TextExample, label_arrays, number_arrays
from data.tokenizers.words import SPECIALS, Words

MAX_WORDS = 510  # with its boundaries a sentence has the 512 columns of the widest batch

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TagWords:
  """Documents to rows: a sentence each, with a label a word.

  A sentence of more than `max_words` is cut into windows that share a quarter of their words. All words of a window are
  trained on, as tags are decided together; each is found in one of them, where it has the most words around it.
  """

  max_words: int = MAX_WORDS

  def __call__(self, examples: Sequence[TaggedDocument], labels: Sequence[str]) -> list[WordRow]:
    """Rows of all sentences; raises TaskError for a type that no label has."""
    rows = []
    for i, example in enumerate(examples):
      for first, end, classes, weights in sentence_classes(example, labels):
        for a, b, kept_first, kept_end in windows(end - first, self.max_words, self.max_words // 4).tolist():
          kept = np.arange(kept_first, kept_end)
          window = np.stack([kept - a, kept + first], axis=1).astype(np.int32)
          rows.append(WordRow((example.words[first + a : first + b],), classes[a:b], weights[a:b], i, window))
    return rows


@dataclasses.dataclass(frozen=True)
class TextWords:
  """Examples of one text or of two to rows with one label.

  A text without a word is one word of no character, which has a spelling.

  Attributes:
    split: how texts are divided into words, see `data.tokenizers.words`: space | marks.
    max_words: a longer text is cut at its end.
    number: whether the label is a number; it stands in `several`, and its class is 0.
  """

  split: str = "marks"
  max_words: int = MAX_WORDS
  number: bool = False

  def __call__(self, examples: Sequence[TextExample], labels: Sequence[str]) -> list[WordRow]:
    """One row an example; raises TaskError for a label that there is not."""
    sentences = iter(_cut([text for example in examples for text in example.texts], self.split, self.max_words))
    return [
      self._row(tuple(next(sentences) for _ in example.texts), example, labels, i) for i, example in enumerate(examples)
    ]

  def _row(self, sentences: tuple, example: TextExample, labels: Sequence[str], i: int) -> WordRow:
    if not self.number:
      return WordRow(sentences, *label_arrays(example, labels), i)
    label, weight, number = number_arrays(example)
    return WordRow(sentences, label, weight, i, several=number)


@dataclasses.dataclass(frozen=True)
class AnswerWords:
  """Questions to rows of two sentences: a window of the passage, then the question.

  Labels are columns of the window, whose words begin at column 1: where the first answer begins and where it ends. A
  window without the whole answer, and a question that has none, have column 0 twice.

  Attributes:
    split: how texts are divided into words.
    max_words: words of a window.
    max_query: words of the question, its beginning.
    stride: words from one window of the passage to the next.
  """

  split: str = "marks"
  max_words: int = MAX_WORDS
  max_query: int = 64
  stride: int = 128

  def __call__(self, examples: Sequence[QuestionExample], labels: Sequence[str]) -> list[WordRow]:
    """Rows of two labels; their `window` is an `answers.Window`. Weights are 0 where nobody says what is right."""
    divide = Words(SPECIALS, split=self.split)
    texts = list(dict.fromkeys(example.passage for example in examples))  # questions of one share its words
    offsets = [encoding.offsets for encoding in divide.encode(texts)]
    passages = dict(zip(texts, zip(offsets, divide.words(texts), strict=True), strict=True))
    asked = divide.words([example.question for example in examples])
    rows = []
    for i, (example, question) in enumerate(zip(examples, asked, strict=True)):
      question = tuple(question[: self.max_query]) or ("",)
      places, words = passages[example.passage]
      for columns, weights, window in windows_of(example, places, self.max_words, self.stride, 1):
        passage = tuple(words[window.first : window.first + len(window.offsets)]) or ("",)
        rows.append(WordRow((passage, question), columns, weights, i, window))
    return rows


@dataclasses.dataclass(frozen=True)
class ChoiceWords:
  """Questions to rows: the text, then its choices, a sentence each; labels of the choices, 1 = the right one.

  Attributes:
    split: how texts are divided into words.
    max_words: a longer text is cut at its end.
  """

  split: str = "marks"
  max_words: int = MAX_WORDS

  def __call__(self, examples: Sequence[ChoiceExample], labels: Sequence[str]) -> list[WordRow]:
    """One row a question."""
    texts = [text for example in examples for text in (example.text, *example.choices)]
    sentences = iter(_cut(texts, self.split, self.max_words))
    return [
      WordRow(tuple(next(sentences) for _ in range(1 + len(example.choices))), *choice_arrays(example), i)
      for i, example in enumerate(examples)
    ]


def _cut(texts: Sequence[str], split: str, most: int) -> list[tuple[str, ...]]:
  """The words of texts, at most so many of each; one of no character where there is none."""
  divided = Words(SPECIALS, split=split).words([*texts])
  if long := sum(len(words) > most for words in divided):
    _log.warning("texts: %d of %d have more than %d words and are cut", long, len(texts), most)
  return [tuple(words[:most]) or ("",) for words in divided]


def words_of(rows: Iterable[WordRow]) -> tuple[str, ...]:
  """The distinct words of rows, by their code points."""
  return tuple(sorted({word for row in rows for sentence in row.sentences for word in sentence}))
