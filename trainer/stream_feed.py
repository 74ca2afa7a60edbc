"""The feed of language models over streams of words: a corpus of whole words, read in both directions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data import streams, tokenizers
from data.batch import Chars
from data.characters import Spellings
from data.preparation import Training
from data.store import unigram_counts
from data.streams import Streams, WordIds
from data.tokenizers import TokenizerError
from data.tokenizers.training import training
from data.tokenizers.words import Words
from trainer.config import Stage
from trainer.feed import TextFeed, log_frequencies, own_rows
from trainer.loading import is_published
from trainer.rules import ConfigError
from trainer.texts import tokenizer_path


class StreamFeed(TextFeed):
  """Streams of the words of a prepared corpus.

  Its vocabulary holds every word of the corpus. A model predicts the first vocab_size of them, and reads all of them by
  their characters.
  """

  frequencies = None

  def __init__(self, config: Any, workdir: Path):
    """
    Raises:
      ConfigError: several processes that cannot share out the groups of a batch.
      TokenizerError: there are fewer words than the model predicts, or not in the order that its sampler needs.
    """
    _check_processes(config)
    super().__init__(config, workdir, _vocabulary(config))
    model, vocab = config.model, config.model.vocab_size
    _check_size(self.tokenizer, vocab)
    if config.objective.softmax == "sampled":
      self.tokenizer.check_order(vocab)
    self._spellings = (
      Spellings(self.tokenizer.vocabulary, model.characters, boundaries=True)
      if model.input == "characters"
      else WordIds(self.tokenizer.vocab_size, vocab)
    )
    train = self.stores["train"]
    counts = unigram_counts(train, self.tokenizer.vocab_size)
    found = streams.target_counts(counts, train.n_sentences, vocab)
    self._log_frequency = np.stack([log_frequencies(direction) for direction in found])

  def example(self, stage: Stage) -> Chars:
    return self._streams(stage).batch(0)

  def batches(self, stage: Stage, cursor: int) -> Iterator[tuple[int, Chars]]:
    return self.read_ahead(self._streams(stage), stage, cursor)

  def held_out(self, stage: Stage) -> Iterator[Chars]:
    if "validation" in self.stores:
      store = self.stores["validation"]
      yield from streams.held_out_batches(store, self._spellings, self._settings(stage), own_rows(stage))

  def baseline(self, batch: Chars) -> dict[str, tuple[float, float]]:
    direction = np.arange(2)[:, None]
    costs = -self._log_frequency[direction, batch.targets] * batch.weights
    return {"unigram_loss": (float(costs.sum()), float(batch.weights.sum()))}

  @functools.lru_cache(maxsize=1)  # noqa: B019  one stage at a time, for the life of the run
  def _streams(self, stage: Stage) -> Streams:
    return Streams(self.stores["train"], self._spellings, self._settings(stage), self._config.seed)

  def _settings(self, stage: Stage) -> streams.Settings:
    data, vocab = self._config.data, self._config.model.vocab_size
    return streams.Settings(stage.batch_size, stage.length, vocab, data.groups, data.distinct_words)


def _check_processes(config: Any) -> None:
  """Several processes place whole groups, each on its own devices."""
  data = jax.device_count() // config.mesh.model
  if jax.process_count() > 1 and config.data.groups % data:
    raise ConfigError(
      f"config key data.groups: got {config.data.groups}, want a multiple of mesh.data = {data} where several "
      f"processes train; set --config.data.groups={data}"
    )


def _check_size(words: Words, vocab_size: int) -> None:
  if words.vocab_size < vocab_size:
    raise TokenizerError(
      f"tokenizer {words.source}: got {words.vocab_size} words, want at least {vocab_size}, model.vocab_size: those "
      f"that are predicted; set --config.model.vocab_size={words.vocab_size} or fewer, or add text"
    )


def _vocabulary(config: Any) -> Training:
  """How the words of the corpus get their ids.

  Those that a model predicts keep the ids that they have in `data.tokenizer` or in the run it starts from, whatever the
  text is; all others of the text stand behind them, so that each is read by its own characters.

  Raises:
    TokenizerError: no vocabulary of words, one that is too small, or another one than the run's.
  """
  data, vocab = config.data, config.model.vocab_size
  given = {}
  if data.tokenizer:
    given[data.tokenizer] = _first(tokenizers.load(data.tokenizer), vocab)
  if config.init_from and not is_published(Path(config.init_from)):
    given[config.init_from] = _first(tokenizers.load(tokenizer_path(Path(config.init_from))), vocab)
  if len({words.vocabulary for words in given.values()}) > 1:
    raise TokenizerError(
      f"tokenizer {data.tokenizer}: its first {vocab} words are others than those of {config.init_from}, whose softmax "
      "is taken over; leave data.tokenizer empty"
    )
  learn, settings = training(data.tokenizer_type, vocab, data.lowercase, data.words)
  for first in given.values():
    return Training(functools.partial(learn, first=first), {**settings, "first": first.digest})
  return Training(learn, settings)


def _first(found: Any, vocab_size: int) -> Words:
  """The words that a model predicts."""
  if not isinstance(found, Words):
    raise TokenizerError(
      f"tokenizer {found.source}: got one of kind {found.kind}, want a list of words, <S>, </S> and <UNK> first; "
      "use that of a run of configs/elmo.py, or leave it out"
    )
  _check_size(found, vocab_size)
  return Words(found.vocabulary[:vocab_size], found.counts[:vocab_size], found.split, found.source)
