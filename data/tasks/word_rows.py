"""Examples as rows of whole words, for networks that read words by their characters."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence

import numpy as np

from data.streams import windows
from data.tasks.named_entities import TaggedDocument
from data.tasks.rows import WordRow
from data.tasks.tagging import sentence_classes
from data.tasks.texts import TextExample, label_arrays
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
  """

  split: str = "marks"
  max_words: int = MAX_WORDS

  def __call__(self, examples: Sequence[TextExample], labels: Sequence[str]) -> list[WordRow]:
    """One row an example; raises TaskError for a label that there is not."""
    texts = [text for example in examples for text in example.texts]
    divided = Words(SPECIALS, split=self.split).words(texts)
    long = sum(len(words) > self.max_words for words in divided)
    if long:
      _log.warning("texts: %d of %d have more than %d words and are cut", long, len(texts), self.max_words)
    sentences = iter([tuple(words[: self.max_words]) or ("",) for words in divided])
    return [
      WordRow(tuple(next(sentences) for _ in example.texts), *label_arrays(example, labels), i)
      for i, example in enumerate(examples)
    ]


def words_of(rows: Iterable[WordRow]) -> tuple[str, ...]:
  """The distinct words of rows, by their code points."""
  return tuple(sorted({word for row in rows for sentence in row.sentences for word in sentence}))
