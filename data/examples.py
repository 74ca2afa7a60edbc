"""Example tables: which spans of the token store make up each example of a pass.

A table is built once per pass (BERT's dupe_factor) and saved; masks are not part of it. Every draw is keyed by the pass
and the document, so documents do not depend on one another. Formats:

- `segment_pairs`: [CLS] A [SEP] B [SEP] of BERT's create_pretraining_data.py, with next-sentence labels (1 = B is from
  a random document) or ALBERT's sentence-order labels (1 = A and B are swapped).
- `sentence_pairs`: the same of two single sentences (RoBERTa SENTENCE-PAIR + NSP).
- `full_sentences`: whole consecutive sentences up to the length, across documents (RoBERTa, section 4.2).
- `doc_sentences`: the same, never across documents (RoBERTa DOC-SENTENCES; SpanBERT's single sequence).
- `electra_segments`: [CLS] A [SEP] (B [SEP]) of ELECTRA's builder: B goes on from A, nothing is decided about the pair.
- `entity_sentences`: runs of sentences of one page, with the mentions of entities in them (LUKE).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from data import electra_segments, entity_sentences, packing, segment_pairs, sentence_blocks
from data.spans import FORMATS, Options, TableError

__all__ = ("BUILDERS", "FORMATS", "Options", "Table", "TableError", "build_table", "describe", "name_of")

BUILDERS = {  # a builder for each of FORMATS
  "segment_pairs": segment_pairs.cut,
  "sentence_pairs": segment_pairs.cut,
  "full_sentences": sentence_blocks.cut,
  "doc_sentences": sentence_blocks.cut,
  "electra_segments": electra_segments.cut,
  "entity_sentences": entity_sentences.cut,
}


@dataclasses.dataclass(frozen=True)
class Table:
  """The examples of one pass; example i stands in the model's input as [CLS] span [SEP] span [SEP] ...

  Attributes:
    spans: int64[N + 1]; example i has spans[i] to spans[i + 1]. An empty span is a bare separator.
    starts: int64[T], token offset of each span in the store, after trimming.
    lengths: int32[T], tokens of each span.
    labels: int32[N], of the pair; 0 in formats without pairs.
    rows: int32[R, S], examples of each row, -1 = none. R is N_p, the rows of pass p.
    card: settings and counts (see `describe`).
    joined: bool[T], True = no [SEP] behind the span: the next one belongs to the same segment. None = nowhere.
    mentions: int64[T, 2], the first of the store's mentions in each span and one past the last; those of one example
      are `max_entities` at most. None in formats without entities.
  """

  spans: np.ndarray
  starts: np.ndarray
  lengths: np.ndarray
  labels: np.ndarray
  rows: np.ndarray
  card: dict[str, Any]
  joined: np.ndarray | None = None
  mentions: np.ndarray | None = None

  @functools.cached_property
  def options(self) -> Options:
    return Options(**self.card["options"])

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """int32[N]: tokens of each example, [CLS] and every [SEP] included."""
    ends = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])[self.spans]
    separators = np.diff(self.spans)
    if self.joined is not None:
      separators = separators - np.diff(np.concatenate([[0], np.cumsum(self.joined)])[self.spans])
    return (1 + np.diff(ends) + separators).astype(np.int32)

  @functools.cached_property
  def room(self) -> np.ndarray:
    """int32[N]: tokens of a row that each example takes up: its size or, where that is more, what its mentions take.

    A row of L tokens has slots for E mentions, so each takes at least L / E: examples whose room is L in all have at
    most E mentions, and packing loses none.
    """
    if self.mentions is None:
      return self.sizes
    before = np.concatenate([[0], np.cumsum(self.mentions[:, 1] - self.mentions[:, 0])])[self.spans]
    taken = -(-self.options.length * np.diff(before) // self.options.max_entities)
    return np.maximum(self.sizes, taken).astype(np.int32)


def build_table(store: Any, options: Options, seed: int, pass_: int) -> Table:
  """Cuts the store into the examples of pass `pass_`.

  Raises:
    TableError: the store has an empty sentence or document, nothing at all, or too few documents for its negatives.
  """
  _check_store(store, options)
  cut = BUILDERS[options.format](store, options, seed, pass_)
  if len(cut.labels) == 0:
    raise TableError(f"example table: the store gives no example for {options}; add documents")
  alone = np.arange(len(cut.labels), dtype=np.int32)[:, None]
  card = {"options": options.identity}
  parts = Table(cut.spans, cut.starts, cut.lengths, cut.labels, alone, card, cut.joined, cut.mentions)
  rows = packing.pack(parts.room, options.length, options.packed) if options.packed > 1 else parts.rows
  card = describe(parts, len(rows), store, seed, pass_) | cut.counts
  return dataclasses.replace(parts, rows=rows, card=card)


def describe(table: Table, rows: int, store: Any, seed: int, pass_: int) -> dict[str, Any]:
  """The table's card: `rows` is N_p, `efficiency` a bound on the fewest rows that any packing needs, by `rows`."""
  return {
    "rows": rows,
    "examples": len(table.sizes),
    "tokens": int(table.sizes.sum()),
    "efficiency": round(packing.fewest_rows(table.room, table.options.length, table.options.packed) / rows, 6),
    "store": name_of(store),
    "options": table.options.identity,
    "seed": seed,
    "pass": pass_,
  }


def name_of(store: Any) -> str:
  """Names the text that a table was cut from: the corpus by its fingerprint and the split by its counts."""
  counts = (len(store.documents) - 1, len(store.sentences) - 1, len(store.tokens))
  return "-".join([store.fingerprint, *map(str, counts)])


def _check_store(store: Any, options: Options) -> None:
  if len(store.documents) < 2 or len(store.tokens) == 0:
    raise TableError("example table: the store is empty, want at least one document; prepare the corpus again")
  for name, offsets in (("sentence", store.sentences), ("document", store.documents)):
    empty = np.flatnonzero(np.diff(offsets) <= 0)
    if empty.size:
      raise TableError(f"example table: {name} {empty[0]} of the store is empty, want none; prepare the corpus again")
  others_only = options.format == "sentence_pairs" or not options.same_document_negatives
  if options.paired and others_only and len(store.documents) < 3:
    raise TableError("example table: got one document, want two or more: a random B is from another one; add documents")
