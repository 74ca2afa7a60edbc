"""What a run reads: the contract of a feed, and the feed of masked batches from a prepared corpus.

A feed is a pure function of config and cursor, so nothing of it is ever saved.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from data import entity_vocabulary, tokenizers
from data.batch import MaskedEntities
from data.corpus_entities import Entities
from data.entity_vocabulary import EntityError, EntityVocabulary
from data.examples import Options
from data.loader import Pipeline, Settings, evaluation_batches, prefetch
from data.masking import EntitySettings, Masking, Unigram
from data.preparation import Training, prepare
from data.store import open_store, unigram_counts
from data.tables import load_or_build_tables
from data.tokenizers import Tokenizer, TokenizerError
from data.tokenizers.training import training
from trainer.config import Stage
from trainer.loading import with_tokenizer
from trainer.texts import tokenizer_path


class Feed(Protocol):
  """Batches of every stage, on the host; each process gets its own rows."""

  fingerprint: str  # of the data: a run goes on with no other

  def example(self, stage: Stage) -> Any:
    """A whole batch of the stage's shapes."""

  def batches(self, stage: Stage, cursor: int) -> Iterator[tuple[int, Any]]:
    """(cursor, batch) from `cursor` on, without end."""

  def held_out(self, stage: Stage) -> Iterator[Any]:
    """Every held-out batch once."""

  def baseline(self, batch: Any) -> dict[str, tuple[float, float]]:
    """{name: (sum, count)} of what a model that knows only frequencies scores on a held-out batch."""

  def score(self, outputs: list[Any]) -> dict[str, float]:
    """Metrics of the whole held-out set from what the objective reports as `outputs` of each of its batches."""

  def save_tokenizer(self, workdir: Path) -> None:
    """Puts the tokenizer into WORKDIR/tokenizer, so that the model stands without its corpus."""


class TextFeed:
  """What the feeds of a prepared corpus share: it is prepared in `data.dir` (empty: WORKDIR/data) where it is missing.

  card: its data card. stores: its splits by name; "validation" is missing where nothing is held out.
  """

  def __init__(self, config: Any, workdir: Path, tokenizer: Tokenizer | Training, entities: Entities | None = None):
    self._config, data = config, config.data
    self.directory = Path(data.dir) if data.dir else workdir / "data"
    self.card = prepare(
      data.source, tokenizer, self.directory, language=data.language, seed=config.seed, holdout=data.holdout,
      workers=data.workers, entities=entities, report=_Report(self.directory),
    )  # fmt: skip
    self.tokenizer, self.fingerprint = tokenizers.load(self.directory / "tokenizer"), self.card["fingerprint"]
    self.stores = {split: open_store(self.directory, split) for split in self.card["splits"]}

  def score(self, outputs: list[Any]) -> dict[str, float]:
    return {}

  def save_tokenizer(self, workdir: Path) -> None:
    if jax.process_index() == 0:
      self.tokenizer.save(workdir / "tokenizer")

  def read_ahead(self, pipeline: Any, stage: Stage, cursor: int) -> Iterator[tuple[int, Any]]:
    """This process's rows of a pipeline's batches from `cursor` on."""
    data = self._config.data
    return prefetch(pipeline, cursor, workers=0, threads=data.workers or 1, buffer=data.prefetch, rows=own_rows(stage))


class CorpusFeed(TextFeed):
  """Masked batches of a prepared corpus.

  frequencies: int [V], how often words occur in its training split.
  """

  def __init__(self, config: Any, workdir: Path):
    super().__init__(config, workdir, _tokenizer(config), _entities(config))
    tokenizers.validate(self.tokenizer, config.model.vocab_size)
    self.frequencies = counts = unigram_counts(self.stores["train"], config.model.vocab_size)
    self._unigram = Unigram.of(counts) if config.data.random_tokens == "unigram" else None
    self._log_frequency = log_frequencies(counts)
    self.entities, self._entity_log_frequency = None, None
    if "entity_vocab" in config.data:
      self.entities = _load_entities(self.directory / "entities", config.model.entity_vocab_size)
      mentioned = np.bincount(self.stores["train"].mentions[:, 2], minlength=config.model.entity_vocab_size)
      self._entity_log_frequency = log_frequencies(mentioned)

  def example(self, stage: Stage) -> Any:
    return self._pipeline(stage).batch(0)

  def batches(self, stage: Stage, cursor: int) -> Iterator[tuple[int, Any]]:
    return self.read_ahead(self._pipeline(stage), stage, cursor)

  def held_out(self, stage: Stage) -> Iterator[Any]:
    if "validation" not in self.stores:
      return
    table = self._table("validation", stage.length, passes=1)[0]
    store, settings = self.stores["validation"], self._settings(stage)
    yield from evaluation_batches(table, store, settings, self._config.seed, own_rows(stage))

  def baseline(self, batch: Any) -> dict[str, tuple[float, float]]:
    entities = isinstance(batch, MaskedEntities)
    parts = {"unigram_loss": (self._log_frequency, batch.words if entities else batch)}
    if entities:
      parts["unigram_mem_loss"] = (self._entity_log_frequency, batch)
    costs = {name: -frequency[part.labels] * part.weights for name, (frequency, part) in parts.items()}
    return {name: (float(costs[name].sum()), float(part.weights.sum())) for name, (_, part) in parts.items()}

  def save_tokenizer(self, workdir: Path) -> None:
    super().save_tokenizer(workdir)
    if self.entities is not None and jax.process_index() == 0:
      self.entities.save(workdir / "tokenizer")

  @functools.lru_cache(maxsize=1)  # noqa: B019  one stage at a time, for the life of the run
  def _pipeline(self, stage: Stage) -> Pipeline:
    tables = self._table("train", stage.length, self._config.data.passes)
    return Pipeline(tables, self.stores["train"], self._settings(stage), self._config.seed)

  def _table(self, split: str, length: int, passes: int) -> Any:
    data, objective = self._config.data, self._config.objective
    options = Options(
      data.format, length, data.pack, task="sop" if "pair" in objective and objective.pair == "sop" else "nsp",
      short_share=data.short_rate, short_by=data.short_by, same_document_negatives=data.same_document_negatives,
      singles_are_negatives=data.singles_are_negatives, separators=data.separators, long_sentences=data.long_sentences,
      **({"min_sentence": data.min_sentence, "max_entities": data.max_entities} if self.entities else {}),
    )  # fmt: skip
    return load_or_build_tables(self.directory / "tables", self.stores[split], options, self._config.seed, passes)

  def _settings(self, stage: Stage) -> Settings:
    data, model, objective = self._config.data, self._config.model, self._config.objective
    masking = Masking(
      strategy=data.masking, mask_rate=data.mask_rate, max_predictions=stage.max_predictions, budget=data.mask_budget,
      mask_specials=data.mask_specials, mask_share=data.mask_share, random_share=data.random_share,
      keep_share=max(0.0, 1 - data.mask_share - data.random_share), replace_by=data.replace_by,
      random_tokens=data.random_tokens, static_copies=data.static_copies if data.static_masks else 0,
      join_across_separators=data.join_across_separators, max_ngram=data.max_ngram, favor_shorter=data.favor_shorter,
      span_p=data.span_p, max_span=data.max_span, entity_share=data.entity_share,
      max_offset=model.span_positions if "sbo" in objective and objective.sbo > 0 else 0,
    )  # fmt: skip
    entities = None
    if self.entities is not None:
      special = self.entities.special
      entities = EntitySettings(
        special.mask, special.pad, data.entity_mask_rate, data.max_mention, data.mask_words_in_mentions
      )
    special, size = self.tokenizer.special, self.tokenizer.vocab_size
    return Settings(stage.batch_size, special, size, masking, self._unigram, entities)


def log_frequencies(counts: np.ndarray) -> np.ndarray:
  """With one added to each count: what training never shows still has a finite cost."""
  return np.log((counts + 1.0) / (counts.sum() + len(counts)))


def _tokenizer(config: Any) -> Tokenizer | Training:
  """The tokenizer that the config names, that of the weights it starts from, or how to learn one.

  Raises:
    TokenizerError: it has other pieces than the rows of the word tables are of.
  """
  data = config.data
  start = tokenizer_path(with_tokenizer(Path(config.init_from))) if config.init_from else None
  if not data.tokenizer and start is None:
    return Training(*training(data.tokenizer_type, config.model.vocab_size, data.lowercase, data.words))
  chosen = tokenizers.load(data.tokenizer, data.lowercase, data.words) if data.tokenizer else None
  if start is not None:
    own = tokenizers.load(start, None, data.words)
    if chosen is not None and chosen.vocabulary != own.vocabulary:
      raise TokenizerError(
        f"tokenizer {data.tokenizer}: has other pieces than {config.init_from}, whose word table is taken over; leave "
        "data.tokenizer empty"
      )
    chosen = chosen or own
  tokenizers.validate(chosen, config.model.vocab_size)
  return chosen


def _entities(config: Any) -> Entities | None:
  """How the links of the corpus become mentions; None for models without entities."""
  data = config.data
  if "entity_vocab" not in data:
    return None
  vocabulary = data.entity_vocab or None
  if config.init_from and vocabulary is None:  # the rows of its entity table are those of its own titles
    own = tokenizer_path(Path(config.init_from))
    vocabulary = own if any((own / name).is_file() for name in entity_vocabulary.FILES) else None
  return Entities(vocabulary, config.model.entity_vocab_size, data.unknown_entities, pages=data.entity_pages)


def _load_entities(folder: Path, size: int) -> EntityVocabulary:
  found = entity_vocabulary.load(folder)
  if found.size > size:
    raise EntityError(
      f"entity vocabulary {folder}: got {found.size} rows, want at most {size}, the model's entity_vocab_size; "
      f"set --config.model.entity_vocab_size={found.size}"
    )
  return found


def own_rows(stage: Stage) -> slice:
  """This process's share of a batch: the rows that its devices hold."""
  share = stage.batch_size // jax.process_count()
  return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


class _Report:
  """Preparation progress as log lines: the first documents of a stage, then every doubling."""

  def __init__(self, directory: Path):
    self._directory, self._done, self._next = directory, {}, {}

  def __call__(self, stage: str, documents: int) -> None:
    self._done[stage] = self._done.get(stage, 0) + documents
    if self._done[stage] >= self._next.get(stage, 1):
      logging.info("preparing %s: %s, %d documents", self._directory, stage, self._done[stage])
      self._next[stage] = 2 * self._done[stage]
