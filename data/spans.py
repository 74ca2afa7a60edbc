"""What example tables are cut with, and what their builders share: blocks of documents, the chain of examples."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

FORMATS = (
  "segment_pairs", "sentence_pairs", "full_sentences", "doc_sentences", "electra_segments", "entity_sentences",
)  # fmt: skip
_OF_ENTITIES = ("min_sentence", "max_entities", "require_mention")  # options that only "entity_sentences" reads
BLOCK = 1 << 16  # documents that are cut together: what is in memory besides the table does not grow with the corpus


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
    min_sentence: for sentences with entities, the fewest tokens of a sentence; shorter ones are left out.
    max_entities: E, the most mentions of an example, which keeps its first ones, and of a row.
    require_mention: for sentences with entities, drop examples without any (original).
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
  min_sentence: int = 5
  max_entities: int = 128
  require_mention: bool = True

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
    for name in ("min_sentence", "max_entities"):
      if getattr(self, name) < 1:
        raise TableError(f"example option {name}: got {getattr(self, name)}, want at least 1")

  @property
  def linked(self) -> bool:
    """Whether examples have mentions of entities."""
    return self.format == "entity_sentences"

  @property
  def identity(self) -> dict[str, Any]:
    """What a table is known by: the options, and those of entities only where they are read."""
    options = dataclasses.asdict(self)
    return options if self.linked else {name: value for name, value in options.items() if name not in _OF_ENTITIES}

  @property
  def paired(self) -> bool:
    """Whether something is decided about the pair: labels mean something."""
    return self.format in ("segment_pairs", "sentence_pairs")

  @property
  def segmented(self) -> bool:
    """Whether an example's second segment has type 1."""
    return self.paired or self.format == "electra_segments"


class Cut(NamedTuple):
  """The examples of a pass: arrays as in `data.examples.Table`, and counts for its card."""

  spans: np.ndarray
  starts: np.ndarray
  lengths: np.ndarray
  labels: np.ndarray
  counts: dict[str, Any]
  joined: np.ndarray | None = None
  mentions: np.ndarray | None = None


def document_blocks(count: int) -> list[np.ndarray]:
  """Documents 0 to count - 1 in consecutive blocks."""
  return [np.arange(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]


def chain(until: np.ndarray) -> list[int]:
  """0, until[0], until[until[0]], ... to the end."""
  following, reached = memoryview(np.ascontiguousarray(until, np.int64)), [0]
  while reached[-1] < len(following):
    reached.append(following[reached[-1]])
  return reached
