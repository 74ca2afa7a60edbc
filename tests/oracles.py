"""What the slow plain oracles share: stores in memory, and single words of the random streams.

The oracles draw from the same streams as the vectorised code (how a word becomes a number is restated here, not
imported), so results must be equal draw for draw.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data import draws


@dataclasses.dataclass(frozen=True)
class MemoryStore:
  """A token store in memory, with the attributes of `data.store.Store`."""

  tokens: np.ndarray
  word_starts: np.ndarray
  sentences: np.ndarray
  documents: np.ndarray
  fingerprint: str = "memory"
  annotations: np.ndarray | None = None
  mentions: np.ndarray | None = None


def store_of(documents: list[list[int]], continuation: float = 0.2, seed: int = 0) -> MemoryStore:
  """A store whose documents have sentences of the given lengths; token n has id 10 + n mod 50000."""
  sizes = [size for document in documents for size in document]
  sentences = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
  word_starts = np.random.default_rng(seed).random(sentences[-1]) >= continuation
  word_starts[sentences[:-1]] = True
  offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])]).astype(np.int64)
  ids = (10 + np.arange(sentences[-1]) % 50000).astype(np.uint16)
  return MemoryStore(ids, word_starts, sentences, offsets, mentions=_mentions(sentences, seed))


def _mentions(sentences: np.ndarray, seed: int) -> np.ndarray:
  """Mentions of 1 to 4 tokens, about one in seven tokens of a sentence away from one another, of entities 1 to 99."""
  draw, found = np.random.default_rng([seed, 1]), []
  for first, end in zip(sentences[:-1].tolist(), sentences[1:].tolist(), strict=True):
    at = first + int(draw.geometric(1 / 7)) - 1
    while at < end:
      stop = min(end, at + int(draw.integers(1, 5)))
      found.append((at, stop, int(draw.integers(1, 100))))
      at = stop + int(draw.geometric(1 / 7)) - 1
  return np.array(found, np.int64).reshape(-1, 3)


def random_store(documents: int, seed: int = 0, longest: int = 60, sentences: float = 8) -> MemoryStore:
  """A store of documents with that many sentences in the mean (geometric), of about 17 tokens (log-normal)."""
  draw = np.random.default_rng(seed)
  counts = 1 + draw.geometric(1 / sentences, documents)
  sizes = [np.clip(draw.lognormal(2.7, 0.6, count), 1, longest).astype(int).tolist() for count in counts]
  return store_of(sizes, seed=seed)


def _word(key, number) -> int:
  return int(draws.words(int(key), number))


def _uniform(key, number) -> float:
  return (_word(key, number) >> 11) / 2**53


def _below(key, number, bound) -> int:
  return ((_word(key, number) >> 32) * bound) >> 32


def _coin(key, number) -> bool:
  return bool(_word(key, number // 64) >> (number % 64) & 1)


def _fold(key, number) -> int:
  return int(draws.fold(int(key), number))
