"""Rows of a table as the arrays that every masking strategy and every batch is made from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data.batch import Pair, Tokens
from data.examples import Table


@dataclasses.dataclass(frozen=True)
class Mentions:
  """The n mentions of rows, example after example, in order.

  Attributes:
    slots: int64[n], flat place (row * S + slot) of each one's example.
    firsts, ends: int64[n], flat columns (row * L + column): the first token, and one past the last.
    entities: int64[n], ids.
  """

  slots: np.ndarray
  firsts: np.ndarray
  ends: np.ndarray
  entities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rows:
  """B rows of L columns with up to S packed examples each.

  Attributes:
    tokens: ids with special tokens, nothing masked.
    word_starts: bool[B, L]; False on special tokens and padding.
    candidates: bool[B, L], columns that may be masked: neither special nor padding.
    examples: int64[B, S], example ids, -1 = none.
    sizes: int64[B, S], tokens of each example, [CLS] and every [SEP] included; 0 = none.
    pieces: int64[B, S], candidates of each example.
    pair: the sentence-pair decisions, None in formats without pairs.
    annotations: uint8[B, L] flags of each token, 0 on special tokens and padding: 1 begins an entity, 2 continues it,
      4 begins a noun phrase, 8 continues it. None if the store has none.
    mentions: of entities, None in formats without them.
  """

  tokens: Tokens
  word_starts: np.ndarray
  candidates: np.ndarray
  examples: np.ndarray
  sizes: np.ndarray
  pieces: np.ndarray
  pair: Pair | None
  annotations: np.ndarray | None = None
  mentions: Mentions | None = None


def ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """starts[0], starts[0] + 1, ... (counts[0] numbers), then those of starts[1], and so on."""
  ends = np.cumsum(counts)
  return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def assemble(table: Table, store: Any, special: Any, rows: np.ndarray) -> Rows:
  """Reads rows of the table.

  Args:
    table: example table of `store`.
    store: token store.
    special: ids `pad`, `cls`, `sep` of the tokenizer.
    rows: int[B], row numbers of the table; -1 = a row of padding.
  """
  length = table.options.length
  examples = np.where(rows[:, None] >= 0, table.rows[rows], -1).astype(np.int64)
  real = examples >= 0
  sizes = np.where(real, table.sizes[examples], 0).astype(np.int64)
  columns = np.cumsum(sizes, axis=1) - sizes
  begins = (columns + np.arange(len(rows))[:, None] * length)[real]  # flat column of each example's [CLS]
  chosen = examples[real]
  first, count = table.spans[chosen], table.spans[chosen + 1] - table.spans[chosen]
  spans, owner = ragged(first, count), np.repeat(np.arange(len(chosen)), count)
  lengths = table.lengths[spans].astype(np.int64)
  is_first = np.diff(owner, prepend=-1) != 0
  closed = np.ones(len(spans), bool) if table.joined is None else ~table.joined[spans]
  # A run is what a span brings: the [CLS] before it if it is the first, its tokens, the [SEP] behind it if closed.
  runs = lengths + closed + is_first
  before = np.cumsum(runs) - runs
  run_starts = begins[owner] + before - before[is_first][owner]
  separators = (run_starts + runs - 1)[closed]
  row, slot = np.nonzero(real)
  number = np.cumsum(closed) - closed  # of the segment
  number -= number[is_first][owner]
  types = number if table.options.segmented else np.zeros_like(number)
  moves = table.starts[spans] - (run_starts + is_first)  # from a span's columns to its tokens in the store
  values = (moves, begins[owner], (slot + 1)[owner], types)
  free = length - sizes.sum(axis=1)
  ids, word_starts, positions, segments, types, annotations = _fill(store, special, row[owner], runs, free, values)
  ids[begins], ids[separators] = special.cls, special.sep
  candidates = segments > 0
  for specials in (begins, separators):
    candidates[specials] = False
  word_starts &= candidates
  pieces = np.zeros_like(sizes)
  pieces[real] = np.bincount(owner, lengths, len(chosen))
  shape = (len(rows), length)
  tokens = Tokens(ids.reshape(shape), types.reshape(shape), segments.reshape(shape), positions.reshape(shape))
  pair = _pair(table, examples, columns, real) if table.options.paired else None
  if annotations is not None:
    annotations = (annotations * candidates).reshape(shape)
  mentions = None
  if table.mentions is not None:
    mentions = _mentions(table.mentions[spans], store.mentions, moves, np.flatnonzero(real)[owner])
  word_starts, candidates = word_starts.reshape(shape), candidates.reshape(shape)
  return Rows(tokens, word_starts, candidates, examples, sizes, pieces, pair, annotations, mentions)


def _mentions(bounds: np.ndarray, mentions: np.ndarray, moves: np.ndarray, slots: np.ndarray) -> Mentions:
  """Those of spans whose mentions stand at `bounds` [T, 2] in the store, given each one's move and slot."""
  counts = bounds[:, 1] - bounds[:, 0]
  found = mentions[ragged(bounds[:, 0], counts)]
  columns = found[:, :2] - np.repeat(moves, counts)[:, None]
  return Mentions(np.repeat(slots, counts), columns[:, 0], columns[:, 1], found[:, 2])


def _fill(store, special, row, runs, free, values):
  """Flat columns [B * L] from runs (with their rows) and each run's values: store offset less column, column of the
  example's start, segment, type. Each row ends in a run of its `free` columns."""
  total, width = len(runs) + len(free), int(runs.sum() + free.sum())
  place = np.arange(len(runs)) + row
  ends = np.cumsum(np.bincount(row, minlength=len(free))) + np.arange(len(free))
  lengths = np.empty(total, np.int64)
  lengths[place], lengths[ends] = runs, free

  def spread(value, dtype):
    padded = np.zeros(total, dtype)
    padded[place] = value
    return np.repeat(padded, lengths)

  offset, begin, segment, type_ = values
  source = spread(offset, np.int64)
  source += np.arange(width)  # [CLS], [SEP] and padding read some token and are overwritten
  segments = spread(segment, np.int32)
  positions = np.arange(width, dtype=np.int32)
  positions -= spread(begin, np.int32)
  positions *= segments > 0
  ids = np.take(store.tokens, source, mode="clip").astype(np.int32)
  np.copyto(ids, special.pad, where=segments == 0)
  word_starts = np.take(store.word_starts, source, mode="clip")
  annotations = None if store.annotations is None else np.take(store.annotations, source, mode="clip")
  return ids, word_starts, positions, segments, spread(type_, np.int32), annotations


def _pair(table: Table, examples: np.ndarray, columns: np.ndarray, real: np.ndarray) -> Pair:
  return Pair(
    cls=np.where(real, columns, 0).astype(np.int32),
    labels=np.where(real, table.labels[examples], 0).astype(np.int32),
    weights=real.astype(np.float32),
  )
