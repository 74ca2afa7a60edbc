"""Streams of words in both directions, for a recurrent model whose state goes on from batch to batch.

A batch is a pure function of settings, seed and cursor. In each epoch and direction the sentences stand in an order of
their own, permutation(seed, "order forward" or "order backward", epoch). A sentence of n words gives n + 1 pairs of an
input and its target: `<S>` w1 ... wn -> w1 ... wn `</S>`, backward `</S>` wn ... w1 -> wn ... w1 `<S>`; the last symbol
is never an input. The pairs of an epoch are one sequence, cut into B equal parts whose length is the largest multiple
of L; row r of an epoch's batch k holds pairs k * L and on of part r, so it continues row r of batch k - 1, and what is
left over at the end of the sequence is dropped, other sentences in each epoch.

The original (bilm-tf) hands sentences out to rows from one generator as each row needs the next, so that what a row
reads depends on all others; there too rows go on across batches and epochs, and the directions read independently.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from data import draws
from data.batch import Chars, validate
from data.characters import Spellings
from data.tokenizers.words import BEGIN, END, UNKNOWN

DIRECTIONS = ("forward", "backward")
_NO_WORD = -1  # the input of a slot that holds no pair


class StreamError(ValueError):
  """Settings, a store or a cursor that no batch can be made from; one line."""


@dataclasses.dataclass(frozen=True)
class WordIds:
  """In place of spellings, for a model that reads words from a table of its own: each is one number, its id.

  Words from `vocab_size` on, and no word at all, are `<UNK>`.
  """

  words: int  # of the vocabulary
  vocab_size: int  # of the table
  length: int = 1

  def __len__(self) -> int:
    return self.words

  def __getitem__(self, ids: np.ndarray) -> np.ndarray:
    return np.where((ids >= 0) & (ids < self.vocab_size), ids, UNKNOWN).astype(np.int32)[..., None]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a batch is made with.

  Attributes:
    batch_size: B, rows of a global batch: the streams of each direction.
    length: L, pairs of a row: the steps that are differentiated through.
    vocab_size: V, words that are predicted; as a target a word from V on is `<UNK>`.
    groups: G, parts of neighbouring rows that share one list of distinct words.
    distinct_words: U, room for the distinct words of a group, of both directions together.
  """

  batch_size: int
  length: int
  vocab_size: int
  groups: int
  distinct_words: int

  def __post_init__(self) -> None:
    for name, least in (("batch_size", 1), ("length", 1), ("vocab_size", 3), ("groups", 1), ("distinct_words", 1)):
      if getattr(self, name) < least:
        raise StreamError(f"streams: {name}: got {getattr(self, name)}, want at least {least}")
    if self.batch_size % self.groups:
      raise StreamError(
        f"streams: groups: got {self.groups}, want a number that divides batch_size={self.batch_size}; change one"
      )

  @property
  def group_rows(self) -> int:
    return self.batch_size // self.groups


@dataclasses.dataclass(frozen=True)
class _Reading:
  """One direction of an epoch: sentences `order` [S], and the pairs [S + 1] before each of them, and in all."""

  backward: bool
  order: np.ndarray
  starts: np.ndarray

  @classmethod
  def of(cls, store: Any, direction: int, order: np.ndarray) -> _Reading:
    pairs = np.diff(store.sentences)[order] + 1
    return cls(direction == 1, order.astype(np.int32), np.append(0, np.cumsum(pairs)))

  def pairs(self, store: Any, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of (inputs, targets), int64 of the shape of `numbers`, which pairs of the sequence they are."""
    place = np.searchsorted(self.starts, numbers, side="right") - 1
    within = numbers - self.starts[place]
    sentence = self.order[place]
    first, size = store.sentences[sentence], store.sentences[sentence + 1] - store.sentences[sentence]
    step, word = (-1, first + size) if self.backward else (1, first - 1)
    begin, end = (END, BEGIN) if self.backward else (BEGIN, END)
    tokens = lambda at: np.take(store.tokens, at, mode="clip").astype(np.int64)  # clipped: a boundary stands there
    inputs = np.where(within == 0, begin, tokens(word + step * within))
    return inputs, np.where(within == size, end, tokens(word + step * (within + 1)))


class Streams:
  """Training batches.

  Args:
    store: of one training split, in ids of whole words.
    spellings: of all words of its vocabulary, the first two as boundaries; or their ids.
    settings: shapes.
    seed: of the orders.
  Raises:
    StreamError: the store has fewer pairs than a batch.
  """

  def __init__(self, store: Any, spellings: Spellings | WordIds, settings: Settings, seed: int):
    self.store, self.spellings, self.settings, self.seed = store, spellings, settings, seed
    pairs, wanted = store.n_tokens + store.n_sentences, settings.batch_size * settings.length
    self.epoch_size = pairs // wanted  # batches of an epoch
    if not self.epoch_size:
      raise StreamError(
        f"streams: got a text of {pairs} words and sentences, want at least batch_size x length = "
        f"{settings.batch_size} x {settings.length}; lower batch_size or add text"
      )
    self._lock = threading.Lock()
    self._reading = functools.lru_cache(maxsize=4)(self._make_reading)  # two epochs: batches are read ahead

  def __reduce__(self):
    return Streams, (self.store, self.spellings, self.settings, self.seed)

  def locate(self, cursor: int) -> tuple[int, int]:
    """(epoch, batch of the epoch) of batch `cursor`."""
    if cursor < 0:
      raise StreamError(f"streams: cursor: got {cursor}, want 0 or more")
    return divmod(int(cursor), self.epoch_size)

  def batch(self, cursor: int, rows: slice | None = None) -> Chars:
    """Batch `cursor`, or those rows of it and the words of their groups.

    Raises:
      StreamError: `rows` cut a group, or a group has more distinct words than there is room for.
    """
    inputs, targets = self._pairs(cursor, rows)
    real = np.ones(inputs.shape, bool)
    return _chars(self.spellings, self.settings, inputs, targets, real, f"batch {cursor}")

  def most_distinct_words(self, cursors: Iterable[int]) -> int:
    """The most distinct words that a group of these batches has: what `distinct_words` must be for them."""
    return max(int(_distinct(self._pairs(cursor, None)[0], self.settings)[2].max()) for cursor in cursors)

  def _pairs(self, cursor: int, rows: slice | None) -> tuple[np.ndarray, np.ndarray]:
    epoch, number = self.locate(cursor)
    settings = self.settings
    row = np.arange(settings.batch_size)[_own(settings, rows)]
    numbers = (row * self.epoch_size + number)[:, None] * settings.length + np.arange(settings.length)
    with self._lock:  # one thread sorts an epoch's order, the others wait for it
      readings = [self._reading(direction, epoch) for direction in range(2)]
    inputs, targets = zip(*(reading.pairs(self.store, numbers) for reading in readings))
    return np.stack(inputs, axis=1), np.stack(targets, axis=1)

  def _make_reading(self, direction: int, epoch: int) -> _Reading:
    order = draws.permutation(self.seed, f"order {DIRECTIONS[direction]}", epoch, self.store.n_sentences)
    return _Reading.of(self.store, direction, order)


def held_out_batches(
  store: Any, spellings: Spellings | WordIds, settings: Settings, rows: slice | None = None
) -> Iterator[Chars]:
  """Every pair of a held-out split once, in the order of the store, for a state that starts from zeros.

  The sequence of each direction is cut into B parts, all but the last ones of the same length; behind its part a row is
  filled up with slots of weight 0 whose input is no word at all. `rows` as in `Streams.batch`.
  """
  length = settings.length
  readings = [_Reading.of(store, direction, np.arange(store.n_sentences)) for direction in range(2)]
  pairs = store.n_tokens + store.n_sentences
  part = -(-pairs // settings.batch_size)
  row = np.arange(settings.batch_size)[_own(settings, rows), None]
  for batch, first in enumerate(range(0, part, length)):
    place = first + np.arange(length)
    numbers = row * part + place
    real = np.repeat(((place < part) & (numbers < pairs))[:, None], 2, axis=1)
    found = [reading.pairs(store, np.minimum(numbers, pairs - 1)) for reading in readings]
    inputs, targets = (np.stack(each, axis=1) for each in zip(*found))
    yield _chars(spellings, settings, np.where(real, inputs, _NO_WORD), targets, real, f"held-out batch {batch}")


def _own(settings: Settings, rows: slice | None) -> slice:
  first, end, step = (rows or slice(None)).indices(settings.batch_size)
  if step != 1 or first % settings.group_rows or end % settings.group_rows or first >= end:
    raise StreamError(
      f"streams: rows {first} to {end}: want whole groups of {settings.group_rows} rows; set the number of groups to a "
      "multiple of the number of processes"
    )
  return slice(first, end)


def _distinct(inputs: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Distinct words of each group: (their groups [n], words [n], the number [G] of each group's, index like inputs)."""
  group = (np.arange(len(inputs)) // settings.group_rows)[:, None, None]
  size = int(inputs.max()) + 2
  keys, inverse = np.unique(group * size + inputs + 1, return_inverse=True)
  groups, words = np.divmod(keys, size)
  counts = np.bincount(groups, minlength=len(inputs) // settings.group_rows)
  before = np.cumsum(counts) - counts
  return groups, words - 1, counts, inverse.reshape(inputs.shape) - before[group]


def _chars(
  spellings: Spellings | WordIds,
  settings: Settings,
  inputs: np.ndarray,
  targets: np.ndarray,
  real: np.ndarray,
  where: str,
) -> Chars:
  """The batch of ids int64 [B, 2, L]; `real` says which slots hold a pair, `where` what messages call the batch."""
  groups, words, counts, index = _distinct(inputs, settings)
  if counts.max() > settings.distinct_words:
    most = 2 * settings.length * settings.group_rows
    raise StreamError(
      f"streams: {where}, group {counts.argmax()}: got {counts.max()} distinct words, want at most distinct_words="
      f"{settings.distinct_words}; set it to {counts.max()} or more ({most} is enough for every batch), or raise groups"
    )
  known = np.maximum(targets.max(), words.max())
  if known >= len(spellings):
    raise StreamError(
      f"streams: {where}: got word {known}, want ids below {len(spellings)}, the size of the vocabulary; "
      "use the vocabulary that the corpus was prepared with"
    )
  spelled = np.zeros((len(counts), settings.distinct_words, spellings.length), np.int32)
  spelled[groups, np.arange(len(words)) - (np.cumsum(counts) - counts)[groups]] = spellings[words]
  targets = np.where(real, np.where(targets < settings.vocab_size, targets, UNKNOWN), 0)
  batch = Chars(spelled, index.astype(np.int32), targets.astype(np.int32), real.astype(np.float32))
  validate(batch)
  return batch


def target_counts(counts: np.ndarray, sentences: int, vocab_size: int) -> np.ndarray:
  """How often each word is the target of each direction: int64 [2, V].

  Args:
    counts: int [N], of each word of the vocabulary in the split.
    sentences: of the split.
    vocab_size: V, words that are predicted.
  """
  found = np.zeros((2, vocab_size), np.int64)
  found[:, : len(counts)] = counts[:vocab_size]
  found[:, UNKNOWN] += counts[vocab_size:].sum()
  found[[0, 1], [END, BEGIN]] += sentences
  return found


def windows(length: int, most: int, overlap: int) -> np.ndarray:
  """Overlapping windows of a sentence that is too long to be run at once: int64 [n, 4].

  A row is (first word, one past the last, first word to keep of it, one past the last to keep). Windows have `most`
  words, the last one too, and neighbours share at least `overlap` of them; each word is kept once, from a window where
  it has, but for the ends of the sentence, at least overlap // 2 words on each side.

  Raises:
    StreamError: windows that do not go on.
  """
  if not 0 <= overlap < most:
    raise StreamError(f"windows of {most} words: got an overlap of {overlap}, want at least 0 and below {most}")
  if length <= most:
    return np.array([[0, length, 0, length]], np.int64)
  firsts = np.minimum(np.arange(0, length - overlap, most - overlap), length - most)
  ends = firsts + most
  cuts = (firsts[1:] + ends[:-1]) // 2
  return np.stack([firsts, ends, np.append(0, cuts), np.append(cuts, length)], axis=1)
