"""Loading: a batch is a pure function of the configuration and a cursor.

`cursor` counts consumed batches. Epoch e reads the table of pass e mod D in the order permutation(seed, "order", e);
the last partial batch of an epoch is dropped. Nothing else is state: to resume is to ask for the next cursor.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data import draws, masking
from data.batch import Masked, MaskedEntities, validate
from data.examples import Table, name_of
from data.rows import assemble

Batch = Masked | MaskedEntities


class LoaderError(ValueError):
  """Settings, tables or a cursor that no batch can be made from."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a batch is made with.

  Attributes:
    batch_size: rows of a global batch.
    special: ids `pad`, `cls`, `sep`, `mask` of the tokenizer.
    vocab_size: of the tokenizer, unpadded.
    masking: how tokens are masked.
    unigram: how often tokens occur in the training corpus, for masking with random_tokens="unigram".
    entities: how mentions of entities are masked, for tables that have them; batches are then `MaskedEntities`.
  """

  batch_size: int
  special: Any
  vocab_size: int
  masking: masking.Masking
  unigram: masking.Unigram | None = None
  entities: masking.EntitySettings | None = None


class Pipeline:
  """Masked batches of the passes of a corpus.

  Args:
    tables: the example tables of passes 0 to D - 1, all of `store` and of one length.
    store: the token store they were cut from.
    settings: batch size and masking.
    seed: of the order and of the masks.
  Raises:
    LoaderError: tables of another store, of several shapes, or with fewer rows than a batch.
    MaskError: masking needs annotations or a unigram table that is not there.
  """

  def __init__(self, tables: Sequence[Table], store: Any, settings: Settings, seed: int):
    self.tables, self.store, self.settings, self.seed = tables, store, settings, seed
    if not len(tables):
      raise LoaderError("loader: got no example table, want one a pass; build them with load_or_build_tables")
    if settings.batch_size < 1:
      raise LoaderError(f"loader: batch_size: got {settings.batch_size}, want at least 1")
    settings.masking.check(store.annotations, settings.unigram, settings.vocab_size)
    if settings.entities:
      settings.entities.check(settings.masking)
    cards = [_check(table, store, settings, pass_) for pass_, table in enumerate(tables)]
    if any(card["options"] != cards[0]["options"] for card in cards):
      raise LoaderError("loader: the tables of the passes differ in their options, want one set; build them together")
    self._batches = np.array([card["rows"] // settings.batch_size for card in cards])
    self._ends = np.cumsum(self._batches)
    self._lock = threading.Lock()
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __reduce__(self):
    return Pipeline, (self.tables, self.store, self.settings, self.seed)

  def epoch_size(self, epoch: int) -> int:
    """Batches of an epoch: N_p // batch_size of its pass."""
    return int(self._batches[epoch % len(self._batches)])

  def epoch_start(self, epoch: int) -> int:
    """The cursor of an epoch's first batch."""
    cycles, pass_ = divmod(epoch, len(self._batches))
    return int(cycles * self._ends[-1] + self._ends[pass_] - self._batches[pass_])

  def locate(self, cursor: int) -> tuple[int, np.ndarray]:
    """The epoch of batch `cursor` and its rows in that epoch's table, int64[B]."""
    if cursor < 0:
      raise LoaderError(f"loader: cursor: got {cursor}, want 0 or more")
    cycles, rest = divmod(int(cursor), int(self._ends[-1]))
    epoch = cycles * len(self._ends) + int(np.searchsorted(self._ends, rest, side="right"))
    first = (cursor - self.epoch_start(epoch)) * self.settings.batch_size
    with self._lock:  # one thread sorts an epoch's order, the others wait for it
      order = self._order(epoch)
    return epoch, order[first : first + self.settings.batch_size]

  def batch(self, cursor: int, rows: slice | None = None) -> Batch:
    """Batch `cursor`, or the rows of it that `rows` selects (a process's share)."""
    epoch, chosen = self.locate(cursor)
    pass_ = epoch % len(self.tables)
    chosen = chosen if rows is None else chosen[rows]
    return _masked(self.tables[pass_], self.store, self.settings, self.seed, chosen, (pass_, epoch))

  def _make_order(self, epoch: int) -> np.ndarray:
    return draws.permutation(self.seed, "order", epoch, len(self.tables[epoch % len(self.tables)].rows))


def _check(table: Table, store: Any, settings: Settings, pass_: int) -> dict[str, Any]:
  card = table.card
  if card["store"] != name_of(store):
    raise LoaderError(
      f"loader: table of pass {pass_}: made from store {card['store']}, want {name_of(store)}; build the tables again"
    )
  if card["rows"] < settings.batch_size:
    raise LoaderError(
      f"loader: table of pass {pass_}: got {card['rows']} rows, want at least batch_size={settings.batch_size}; "
      "lower batch_size or add text"
    )
  if settings.entities and "mentions" not in card:
    raise LoaderError(
      f"loader: table of pass {pass_}: got format {card['options']['format']!r} and settings of entities, want the "
      "format 'entity_sentences'; set data.format or leave the entities out"
    )
  return card


def _masked(
  table: Table, store: Any, settings: Settings, seed: int, chosen: np.ndarray, when: tuple[int, int]
) -> Batch:
  rows = assemble(table, store, settings.special, chosen)
  pass_, epoch = when
  keys = masking.mask_keys(seed, pass_, rows.examples, settings.masking.copy_of(epoch))
  special, entities, inside = settings.special, settings.entities, None
  if entities:
    chosen = masking.choose_mentions(rows, keys, entities.rate)
    if entities.mask_words:
      inside = masking.covered(rows, chosen, entities, settings.masking.max_predictions)
  batch = masking.mask(
    rows, settings.masking, keys, special.mask, settings.vocab_size, settings.unigram, special.pad, inside
  )
  if entities:
    batch = masking.masked_entities(rows, batch, chosen, entities, table.options.max_entities)
  validate(batch)
  return batch


def evaluation_batches(
  table: Table, store: Any, settings: Settings, seed: int, rows: slice | None = None
) -> Iterator[Batch]:
  """The whole held-out table once, in its order, with the masks of epoch 0; the last batch is filled up with rows of
  padding (segments 0, every weight 0). `rows` selects a process's share of each batch."""
  size = settings.batch_size
  for first in range(0, len(table.rows), size):
    chosen = np.arange(first, first + size)
    chosen[chosen >= len(table.rows)] = -1
    yield _masked(table, store, settings, seed, chosen if rows is None else chosen[rows], (0, 0))


@dataclasses.dataclass(frozen=True)
class _Batches:
  """The whole batches from a cursor on, by index, as grain reads them."""

  pipeline: Pipeline
  start: int
  rows: slice | None

  def __len__(self) -> int:
    return 2**62

  def __getitem__(self, index: int) -> tuple[int, Batch]:
    cursor = self.start + index
    return cursor, self.pipeline.batch(cursor, self.rows)


def prefetch(
  pipeline: Pipeline, start: int, *, workers: int = 0, threads: int = 2, buffer: int = 4, rows: slice | None = None
) -> Iterator[tuple[int, Batch]]:
  """(cursor, batch) from cursor `start` on, without end, read ahead by grain.

  Args:
    pipeline: the batches.
    start: first cursor.
    workers: processes that make batches; 0 = threads of this one. The batches do not depend on it.
    threads: threads (of each process) that make batches.
    buffer: batches held ready (by each process).
    rows: this process's share of every batch.
  """
  import grain  # only here: it loads jax, and benchmarks on synthetic batches do without it
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads its flags, which only absl.app parses
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
  source = grain.MapDataset.source(_Batches(pipeline, start, rows)).to_iter_dataset(options)
  if workers:
    source = source.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=buffer))
  return iter(source)
