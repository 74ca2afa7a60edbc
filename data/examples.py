"""Example tables: which spans of the token store make up each example of a pass.

A table is built once per pass (BERT's dupe_factor) and saved; masks are not part of it. Every draw is keyed by the pass
and the document, so documents do not depend on one another. Formats:

- `segment_pairs`: [CLS] A [SEP] B [SEP] of BERT's create_pretraining_data.py, with next-sentence labels (1 = B is from
  a random document) or ALBERT's sentence-order labels (1 = A and B are swapped).
- `sentence_pairs`: the same of two single sentences (RoBERTa SENTENCE-PAIR + NSP).
- `full_sentences`: whole consecutive sentences up to the length, across documents (RoBERTa, section 4.2).
- `doc_sentences`: the same, never across documents (RoBERTa DOC-SENTENCES; SpanBERT's single sequence).
- `electra_segments`: [CLS] A [SEP] (B [SEP]) of ELECTRA's builder: B goes on from A, nothing is decided about the pair.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from data import electra_segments, packing, segment_pairs, sentence_blocks

BUILDERS = {
  "segment_pairs": segment_pairs.cut,
  "sentence_pairs": segment_pairs.cut,
  "full_sentences": sentence_blocks.cut,
  "doc_sentences": sentence_blocks.cut,
  "electra_segments": electra_segments.cut,
}
FORMATS = tuple(BUILDERS)


class TableError(ValueError):
  """A store, an option or a file that no example table can be made from."""


@dataclasses.dataclass(frozen=True)
class Options:
  """How examples are cut. Defaults are the originals', known defects included.

  Attributes:
    format: one of FORMATS.
    length: tokens of a row, special tokens included.
    packed: S, the most examples a row holds (1 = an example a row).
    task: for pairs, "nsp" (BERT) or "sop" (ALBERT: swapped halves; a one-sentence chunk still gets a random B).
    short_share: for segment pairs, the share of short targets (BERT's short_seq_prob).
    short_by: for segment pairs, "document": a whole document becomes short together (original); "example": each
      example for itself.
    same_document_negatives: for segment pairs, a random document is drawn up to 10 times until it is another one, and
      the tenth draw is kept and labelled 1 whatever it is (original); False: always another document, as it always is
      for sentence pairs.
    singles_are_negatives: for segment pairs, a chunk of one sentence always gets a random B, so more than half of the
      pairs are random (original); False: such a chunk takes one more sentence, and a sentence left alone at a
      document's end is dropped, as it always is for sentence pairs.
    separators: for sentences, "sentence": a [SEP] after every sentence, a second one between documents (RoBERTa's
      code); "document": a [SEP] between documents and at the end (RoBERTa's paper; SpanBERT).
    long_sentences: for sentences longer than a row, "split": cut into parts, nothing is lost; "skip": left out, and
      what follows counts as another document (SpanBERT).
  """

  format: str
  length: int
  packed: int = 1
  task: str = "nsp"
  short_share: float = 0.1
  short_by: str = "document"
  same_document_negatives: bool = True
  singles_are_negatives: bool = True
  separators: str = "sentence"
  long_sentences: str = "split"

  def __post_init__(self):
    choices = {"format": FORMATS, "task": ("nsp", "sop"), "short_by": ("document", "example")}
    choices |= {"separators": ("sentence", "document"), "long_sentences": ("split", "skip")}
    for name, allowed in choices.items():
      if getattr(self, name) not in allowed:
        raise TableError(f"example option {name}: got {getattr(self, name)!r}, want one of {', '.join(allowed)}")
    if not 5 <= self.length <= 65535:
      raise TableError(f"example option length: got {self.length}, want 5 to 65535 tokens")
    if not 1 <= self.packed <= 255:
      raise TableError(f"example option packed: got {self.packed}, want 1 to 255 examples in a row")
    if not 0 <= self.short_share <= 1:
      raise TableError(f"example option short_share: got {self.short_share}, want a share from 0 to 1")

  @property
  def paired(self) -> bool:
    """Whether something is decided about the pair: labels mean something."""
    return self.format in ("segment_pairs", "sentence_pairs")

  @property
  def segmented(self) -> bool:
    """Whether an example's second segment has type 1."""
    return self.paired or self.format == "electra_segments"


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
  """

  spans: np.ndarray
  starts: np.ndarray
  lengths: np.ndarray
  labels: np.ndarray
  rows: np.ndarray
  card: dict[str, Any]
  joined: np.ndarray | None = None

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
  parts = Table(cut.spans, cut.starts, cut.lengths, cut.labels, alone, {}, cut.joined)
  rows = packing.pack(parts.sizes, options.length, options.packed) if options.packed > 1 else parts.rows
  card = describe(parts.sizes, len(rows), store, options, seed, pass_) | cut.counts
  return dataclasses.replace(parts, rows=rows, card=card)


def describe(sizes: np.ndarray, rows: int, store: Any, options: Options, seed: int, pass_: int) -> dict[str, Any]:
  """The table's card: `rows` is N_p, `efficiency` a bound on the fewest rows that any packing needs, by `rows`."""
  return {
    "rows": rows,
    "examples": len(sizes),
    "tokens": int(sizes.sum()),
    "efficiency": round(packing.fewest_rows(sizes, options.length, options.packed) / rows, 6),
    "store": name_of(store),
    "options": dataclasses.asdict(options),
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
