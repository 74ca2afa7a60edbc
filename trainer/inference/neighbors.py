"""Nearest neighbours of a word: words by context-free vectors, and sentences by its vector in context, layer by layer
(Peters et al. 2018, table 4).

    found = find(model, "play", sentences, sentence="They signed to do a Broadway play .")
    for space in neighbors(model, found):
      print(space.name, [(near.cosine, near.word, near.text) for near in space.neighbors])

Any model will do: a word has the mean of the vectors of its pieces.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data.tokenizers import Encoding
from data.tokenizers.words import Words
from data.word_vectors import FIRST, UNKNOWN, WordVectors
from models.elmo import Elmo
from trainer.inference import word_encoding
from trainer.inference.encoding import encode, layer_numbers
from trainer.inference.running import Report
from trainer.loading import Loaded
from trainer.texts import InputError

MOST = 10_000  # words that are compared by context-free vectors of the model, the commonest ones
_BLOCK = 64  # texts whose vectors are in memory at once


@dataclasses.dataclass(frozen=True)
class Occurrence:
  """A word of a text: its number there, and its characters [start, end)."""

  text: str
  number: int
  start: int
  end: int

  @property
  def word(self) -> str:
    return self.text[self.start : self.end]


@dataclasses.dataclass(frozen=True)
class Occurrences:
  """What a word is compared with.

  word: as it was asked for. query: where it stands. others: the occurrences of it, or of all words, in other texts of
    a corpus.
  words: of the corpus, the commonest first. texts: how many the corpus has.
  """

  word: str
  query: Occurrence
  others: list[Occurrence]
  words: list[str]
  texts: int
  split: str


@dataclasses.dataclass(frozen=True)
class Neighbor:
  """A word, and where it is one in context its text and its characters there."""

  cosine: float
  word: str
  text: str | None = None
  start: int | None = None
  end: int | None = None


@dataclasses.dataclass(frozen=True)
class Space:
  """Neighbours by one kind of vector, the nearest first."""

  name: str
  neighbors: list[Neighbor]


def find(
  loaded: Loaded,
  word: str,
  texts: Iterable[str],
  sentence: str | None = None,
  any_word: bool = False,
  split: str | None = None,
) -> Occurrences:
  """Occurrences of a word, upper and lower case alike, in the texts of a corpus.

  Args:
    sentence: where the word stands that is compared, its first one there; by default the first text that has it.
    any_word: all words of the corpus are compared with it, as in the paper, and not its other occurrences alone.
    split: see `word_encoding.splitter`.
  Raises:
    InputError: the sentence, or the corpus, has no such word, or no other text has one.
  """
  divide = word_encoding.splitter(loaded, split)
  counter, kept, count, lower = Counter(), {}, 0, word.lower()
  for text in texts:
    (words,) = divide.words([text])
    counter.update(words)
    count += 1
    if any_word or any(other.lower() == lower for other in words):
      kept[text] = None  # a text that comes again is compared once
  if sentence is None:
    sentence = next((text for text in kept if _occurrences(divide, text, word)), None)
    if sentence is None:
      raise InputError(f"word: got {word!r:.60}, which no text of {count} has, want a word of the corpus")
  query = next(iter(_occurrences(divide, sentence, word)), None)
  if query is None:
    raise InputError(f"word: got {word!r:.60}, want a word of the sentence {sentence!r:.80}")
  wanted = None if any_word else word
  texts_of_others = [text for text in kept if text != sentence]
  others = [other for text in texts_of_others for other in _occurrences(divide, text, wanted)]
  if not others:
    raise InputError(f"word: got {word!r:.60}, want one that another of the {count} texts has, or any_word")
  return Occurrences(word, query, others, [name for name, _ in counter.most_common()], count, divide.split)


def neighbors(
  loaded: Loaded,
  found: Occurrences,
  top: int = 10,
  layers: str | Sequence[int] = "all",
  vectors: WordVectors | None = None,
  batch_size: int = 32,
  report: Report | None = None,
) -> list[Space]:
  """The nearest by cosine: by `vectors`, by layer 0, which knows no context (the MOST commonest words), and by layers.

  Args:
    layers: those that are compared: "all", "last", "none" or numbers; 0 = words.
    vectors: of words, from a file.
  Raises:
    InputError: a layer that the model does not have, or a word that `vectors` lack.
  """
  if top < 1:
    raise InputError(f"top: got {top}, want 1 or more")
  depth = loaded.model.config.layers if isinstance(loaded.model, Elmo) else loaded.model.config.depth
  numbers = (depth,) if layers == "last" else layer_numbers(layers, depth)
  spaces = [] if vectors is None else [_by_vectors(found.word, vectors, top)]
  if 0 in numbers:
    spaces.append(_by_words(loaded, found, top, batch_size))
  chosen = tuple(number for number in dict.fromkeys(numbers) if number)
  return [*spaces, *(_in_context(loaded, found, top, chosen, batch_size, report) if chosen else ())]


def _occurrences(divide: Words, text: str, word: str | None) -> list[Occurrence]:
  """Those of a word, or of all words."""
  (encoding,) = divide.encode([text])
  all_words = [Occurrence(text, number, *span) for number, span in enumerate(encoding.offsets.tolist())]
  return [one for one in all_words if word is None or one.word.lower() == word.lower()]


def _by_vectors(word: str, vectors: WordVectors, top: int) -> Space:
  words, row = vectors.vocabulary.words, vectors.vocabulary.id_of(word)
  if row == UNKNOWN:
    raise InputError(f"vectors: have no word {word!r:.60}, want one that they have")
  cosines = _cosines(vectors.matrix[row], vectors.matrix[FIRST:])
  best = (i for i in np.argsort(-cosines, kind="stable") if i + FIRST != row)
  return Space("vectors", [Neighbor(float(cosines[i]), words[i]) for i, _ in zip(best, range(top))])


def _by_words(loaded: Loaded, found: Occurrences, top: int, batch_size: int) -> Space:
  words = [found.word, *(other for other in found.words[: MOST + 1] if other != found.word)]
  if isinstance(loaded.model, Elmo):
    matrix = word_encoding.word_vectors(loaded, words)
  else:
    alone = [Occurrence(other, 0, 0, len(other)) for other in words]
    matrix = np.concatenate([states[:, 0] for _, states in _states(loaded, alone, (0,), None, batch_size, None)])
  cosines = _cosines(matrix[0], matrix[1:])
  best = np.argsort(-cosines, kind="stable")[:top]
  return Space("layer 0", [Neighbor(float(cosines[i]), words[1 + i]) for i in best])


def _in_context(
  loaded: Loaded, found: Occurrences, top: int, layers: tuple[int, ...], batch_size: int, report: Report | None
) -> list[Space]:
  ((_, query),) = _states(loaded, [found.query], layers, found.split, batch_size, None)
  if not len(query):
    raise InputError(f"word: {found.query.word!r:.60} stands behind what is read of its sentence, want a shorter one")
  read, cosines = [], []
  for some, states in _states(loaded, found.others, layers, found.split, batch_size, report):
    read += some
    cosines.append(np.stack([_cosines(query[0, k], states[:, k]) for k in range(len(layers))], axis=1))
  cosines = np.concatenate(cosines)
  spaces = []
  for k, layer in enumerate(layers):
    best = [(float(cosines[i, k]), read[i]) for i in np.argsort(-cosines[:, k], kind="stable")[:top]]
    near = [Neighbor(cosine, one.word, one.text, one.start, one.end) for cosine, one in best]
    spaces.append(Space(f"layer {layer}", near))
  return spaces


def _cosines(vector: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """[n] of a vector [D] and rows [n, D]; 0 where one is zeros."""
  sizes = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
  return matrix @ vector / np.where(sizes > 0, sizes, 1.0)


def _states(
  loaded: Loaded,
  occurrences: Sequence[Occurrence],
  layers: tuple[int, ...],
  split: str | None,
  batch_size: int,
  report: Report | None,
) -> Iterator[tuple[list[Occurrence], np.ndarray]]:
  """(some occurrences, float32 [n, K, D] of them); without those that stand behind what a model reads of a text."""
  by_text: dict[str, list[Occurrence]] = {}
  for one in occurrences:
    by_text.setdefault(one.text, []).append(one)
  texts = list(by_text)
  for first in range(0, len(texts), _BLOCK):
    block = texts[first : first + _BLOCK]
    if isinstance(loaded.model, Elmo):
      pieces = [None] * len(block)
      encoded = word_encoding.encode(
        loaded, block, "none", layers, hidden=False, batch_size=batch_size, report=report, split=split
      )
    else:
      pieces = loaded.tokenizer.encode(block, specials=True)
      encoded = encode(loaded, block, "none", layers, batch_size, report=report)
    read, states = [], []
    for i, (text, encoding) in enumerate(zip(block, pieces, strict=True)):
      for one in by_text[text]:
        columns = [one.number] if encoding is None else _columns(encoding, one, encoded.lengths[i])
        if len(columns):
          read.append(one)
          states.append(encoded.layers[i][:, columns].mean(axis=1))
    width = encoded.layers.shape[-1]
    yield read, np.stack(states) if states else np.zeros((0, len(layers), width), np.float32)


def _columns(encoding: Encoding, one: Occurrence, length: int) -> np.ndarray:
  """Of the pieces that have a character of the word, in a row of `length` pieces, the last of which ends it."""
  first, end = encoding.offsets[: length - 1].T
  return np.flatnonzero((first < one.end) & (end > one.start))
