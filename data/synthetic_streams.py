"""Batches of word streams without a corpus: random words, spelled as real ones are."""

from __future__ import annotations

from typing import Any

import numpy as np

from data.batch import Chars
from data.characters import BEGIN_WORD, END_WORD, FILLER, FIRST_BYTE

LETTERS = 5.0  # mean bytes of a distinct word of English text, less one


def streams(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool = False) -> Chars:
  """`batch_size` rows of `length` steps in both directions; words in characters, or ids where a model has a table.

  A group's words fill the room that it has, so that none of it is padding; targets are log-uniform over the vocabulary,
  as a sampler of negatives takes them to be. Streams have no padding, so `full_rows` changes nothing.
  """
  del full_rows
  data, model = config.data, config.model
  shape = stage.batch_size, 2, stage.length
  room = data.groups, data.distinct_words
  if model.input == "characters":
    words = spelled(rng, room, model.characters)
  else:
    words = rng.integers(0, model.vocab_size, (*room, 1)).astype(np.int32)
  index = rng.integers(0, data.distinct_words, shape)
  targets = np.exp(rng.random(shape) * np.log(model.vocab_size + 1)) - 1
  targets = np.minimum(targets, model.vocab_size - 1)
  return Chars(words, index.astype(np.int32), targets.astype(np.int32), np.ones(shape, np.float32))


def spelled(rng: np.random.Generator, shape: tuple[int, ...], characters: int) -> np.ndarray:
  """int32 [*shape, characters]: words of one lower-case letter and more."""
  sizes = np.minimum(1 + rng.poisson(LETTERS, (*shape, 1)), characters - 2)
  column = np.arange(characters)
  letters = FIRST_BYTE + rng.integers(ord("a"), ord("z") + 1, (*shape, characters))
  words = np.where(column <= sizes, letters, np.where(column == sizes + 1, END_WORD, FILLER))
  words[..., 0] = BEGIN_WORD
  return words.astype(np.int32)
