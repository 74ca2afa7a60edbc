"""Example tables: which spans of the token store make up each example of a pass.

A table is built once per pass (BERT's dupe_factor) and saved; masks are not part of it. Every draw is keyed by the pass
and the document, so documents do not depend on one another. Formats:

- `segment_pairs`: [CLS] A [SEP] B [SEP] of BERT's create_pretraining_data.py, with next-sentence labels (1 = B is from
  a random document) or ALBERT's sentence-order labels (1 = A and B are swapped).
- `full_sentences`: whole consecutive sentences up to the length, across documents (RoBERTa, section 4.2), with an extra
  separator between documents, though never at the edge of a block.
- `doc_sentences`: the same, never across documents (RoBERTa DOC-SENTENCES; SpanBERT's single sequence).

Sentence formats draw nothing, so their passes are alike; a sentence longer than a row is cut into parts, never dropped.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from data import draws, packing

FORMATS = ("segment_pairs", "full_sentences", "doc_sentences")
TRIES = 10
_BLOCK = 1 << 16  # documents that are cut together


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
    short_share: for pairs, the share of short targets (BERT's short_seq_prob).
    short_by: "document": a whole document becomes short together (original); "example": each example for itself.
    same_document_negatives: a random document is drawn up to 10 times until it is another one, and the tenth draw is
      kept and labelled 1 whatever it is (original); False: always another document.
    singles_are_negatives: a chunk of one sentence always gets a random B, so more than half of the pairs are random
      (original); False: such a chunk takes one more sentence, and a sentence left alone at a document's end is dropped.
    separators: for sentences, "sentence": a [SEP] after every sentence, a second one between documents (RoBERTa's
      code); "document": a [SEP] between documents and at the end (RoBERTa's paper; SpanBERT).
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

  def __post_init__(self):
    choices = {"format": FORMATS, "task": ("nsp", "sop"), "short_by": ("document", "example")}
    for name, allowed in (*choices.items(), ("separators", ("sentence", "document"))):
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
    return self.format == "segment_pairs"


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
  """

  spans: np.ndarray
  starts: np.ndarray
  lengths: np.ndarray
  labels: np.ndarray
  rows: np.ndarray
  card: dict[str, Any]

  @functools.cached_property
  def options(self) -> Options:
    return Options(**self.card["options"])

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """int32[N]: tokens of each example, [CLS] and every [SEP] included."""
    ends = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])[self.spans]
    return (1 + np.diff(ends) + np.diff(self.spans)).astype(np.int32)


def build_table(store: Any, options: Options, seed: int, pass_: int) -> Table:
  """Cuts the store into the examples of pass `pass_`.

  Raises:
    TableError: the store has an empty sentence or document, nothing at all, or too few documents for its negatives.
  """
  _check_store(store, options)
  builder = _segment_pairs if options.paired else _sentences
  spans, starts, lengths, labels, counts = builder(store, options, seed, pass_)
  if len(labels) == 0:
    raise TableError(f"example table: the store gives no example for {options}; add documents")
  parts = Table(spans, starts, lengths, labels, np.arange(len(labels), dtype=np.int32)[:, None], {})
  rows = packing.pack(parts.sizes, options.length, options.packed) if options.packed > 1 else parts.rows
  card = describe(parts.sizes, len(rows), store, options, seed, pass_) | counts
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
  if options.paired and not options.same_document_negatives and len(store.documents) < 3:
    raise TableError(
      "example table: got one document, want two or more for same_document_negatives=False; add documents"
    )


# --- segment pairs -------------------------------------------------------------------------------------------------
#
# Words of a document's stream: 0 = is it short, 1 = its short target. Words of a chunk's stream (the document's key
# with the number of the chunk's first sentence folded in): 0 = sentences of A, 1 = coin (random B or swap), 2 to 11 =
# tries for a document, 12 = its first sentence, 13 and 14 = short targets by example. Sub-streams 1 and 2 of it: coins
# that trim A and B. A chunk hangs on nothing but where it begins, so all that could begin are decided at once and the
# real ones are those reached from a document's first sentence.


def _segment_pairs(store: Any, options: Options, seed: int, pass_: int):
  """Documents in blocks, so that what is in memory besides the table does not grow with the corpus."""
  sentences, documents = np.asarray(store.sentences), np.asarray(store.documents)
  key, count = draws.key(seed, "examples", pass_), len(documents) - 1
  blocks = [np.arange(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
  parts = [_pairs_of(sentences, documents, block, key, options) for block in blocks]
  starts, lengths, labels, replaced, same = (np.concatenate(column) for column in zip(*parts, strict=True))
  spans = np.arange(0, len(starts) + 1, 2, dtype=np.int64)
  counts = {"random_share": round(float(replaced.sum() / max(len(labels), 1)), 6), "same_document": int(same.sum())}
  return spans, starts, lengths, labels, counts


@dataclasses.dataclass(frozen=True)
class _Chunks:
  """Chunks: stream, document, token target, and the sentences where A begins, where A ends and where the chunk ends."""

  keys: np.ndarray
  document: np.ndarray
  target: np.ndarray
  at: np.ndarray
  middle: np.ndarray
  end: np.ndarray

  def __getitem__(self, which: np.ndarray) -> _Chunks:
    return _Chunks(**{field.name: getattr(self, field.name)[which] for field in dataclasses.fields(self)})

  def coins(self, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Whether each chunk's B is random, and whether its halves are swapped."""
    coin, single = draws.uniform(self.keys, 1) < 0.5, self.end - self.at == 1
    if options.task == "nsp":
      return single | coin, np.zeros_like(coin)
    return single, coin & ~single


def _chunks(sentences, documents, block, key: int, options: Options) -> _Chunks:
  """The chunk that each sentence of a block of documents would begin."""
  budget, streams, sizes = options.length - 3, draws.fold(key, block), (documents[block + 1] - documents[block])
  document = np.repeat(block, sizes)
  at = np.arange(documents[block[0]], documents[block[-1] + 1])
  keys, stop = draws.fold(np.repeat(streams, sizes), at - documents[document]), documents[document + 1]
  if options.short_by == "document":
    target = np.repeat(_targets(streams, (0, 1), options, budget), sizes)
  else:
    target = _targets(keys, (13, 14), options, budget)
  end = np.searchsorted(sentences, sentences[at] + target)
  if not options.singles_are_negatives:
    end = np.maximum(end, at + 2)
  end = np.minimum(end, stop)
  middle = at + 1 + draws.below(keys, 0, np.maximum(end - at - 1, 1)) * (end - at > 1)
  return _Chunks(keys, document, target, at, middle, end)


def _pairs_of(sentences, documents, block, key: int, options: Options):
  """The pairs of a block of documents.

  Returns:
    starts and lengths of A, B, A, B, ...; then, of each example, its label, whether its B is random, and whether that
    random B is from its own document.
  """
  chunks = _chunks(sentences, documents, block, key, options)
  replaced, swapped = chunks.coins(options)
  following = np.where(replaced, chunks.middle, chunks.end)  # what a random B leaves unused is put back
  real = np.array(_chain(following - chunks.at[0])[:-1])
  if not options.singles_are_negatives:
    real = real[(chunks.end - chunks.at)[real] > 1]
  chunks, replaced, swapped = chunks[real], replaced[real], swapped[real]
  a, a_end, b, b_end = (sentences[at] for at in (chunks.at, chunks.middle, chunks.middle, chunks.end))
  given, other = chunks[replaced], np.full(len(real), -1)
  other[replaced] = _other_documents(given.keys, given.document, len(documents) - 1, options)
  b[replaced], b_end[replaced] = _random_segment(
    sentences, documents, given.keys, other[replaced], given.target - (a_end - a)[replaced]
  )
  a, a_end, b, b_end = (np.where(swapped, x, y) for x, y in ((b, a), (b_end, a_end), (a, b), (a_end, b_end)))
  a, a_end, b, b_end = _trim(chunks.keys, a, a_end, b, b_end, options.length - 3)
  starts = np.stack([a, b], 1).reshape(-1).astype(np.int64)
  lengths = np.stack([a_end - a, b_end - b], 1).reshape(-1).astype(np.int32)
  return starts, lengths, (replaced | swapped).astype(np.int32), replaced, other == chunks.document


def _targets(keys: np.ndarray, counters: tuple[int, int], options: Options, budget: int) -> np.ndarray:
  short = draws.uniform(keys, counters[0]) < options.short_share
  return np.where(short, 2 + draws.below(keys, counters[1], budget - 1), budget)


def _other_documents(keys: np.ndarray, document: np.ndarray, count: int, options: Options) -> np.ndarray:
  if not options.same_document_negatives:
    other = draws.below(keys, 2, count - 1)
    return other + (other >= document)
  other = draws.below(keys, 2, count)
  for number in range(1, TRIES):
    again = np.flatnonzero(other == document)
    other[again] = draws.below(keys[again], 2 + number, count)
  return other


def _random_segment(sentences, documents, keys, other, want):
  """Whole sentences of document `other` from a uniform start until `want` tokens or its end, at least one."""
  first = documents[other] + draws.below(keys, 12, documents[other + 1] - documents[other])
  last = np.maximum(np.searchsorted(sentences, sentences[first] + want), first + 1)
  return sentences[first], sentences[np.minimum(last, documents[other + 1])]


def _trim(keys, a, a_end, b, b_end, budget):
  """One token at a time from the longer segment (tie: B), front or back with probability 0.5 each, in closed form."""
  gap = (a_end - a) - (b_end - b)
  excess = np.maximum((a_end - a) + (b_end - b) - budget, 0)
  first = np.minimum(excess, np.abs(gap))  # all from the longer one, until they are equal; from there B, A, B, ...
  from_a = np.where(gap > 0, first, 0) + (excess - first) // 2
  from_b = excess - from_a
  front_a, front_b = draws.heads(draws.fold(keys, 1), from_a), draws.heads(draws.fold(keys, 2), from_b)
  return a + front_a, a_end - (from_a - front_a), b + front_b, b_end - (from_b - front_b)


# --- sentences -----------------------------------------------------------------------------------------------------


def _sentences(store: Any, options: Options, seed: int, pass_: int):
  """Greedy blocks of whole sentences."""
  del seed, pass_
  crosses, by_sentence = options.format == "full_sentences", options.separators == "sentence"
  starts, lengths, document = _items(store, options.length - 2, crosses)
  cost = lengths + 1 if by_sentence else np.where(lengths == 0, 1, lengths)
  budget = options.length - (1 if by_sentence else 2)
  total = np.concatenate([[0], np.cumsum(cost)])
  until = np.searchsorted(total, total[:-1] + budget, side="right") - 1
  if not crosses:
    until = np.minimum(until, np.searchsorted(document, document, side="right"))
  until += np.append(lengths == 0, False)[until]  # a separator at the edge of a block separates nothing
  block = np.zeros(len(lengths), np.int64)
  block[_chain(until)[1:-1]] = 1
  starts, lengths, block = _spans(starts, lengths, document, np.cumsum(block), by_sentence)
  count = int(block[-1]) + 1
  spans = np.concatenate([[0], np.cumsum(np.bincount(block, minlength=count))])
  return spans, starts, lengths.astype(np.int32), np.zeros(count, np.int32), {}


def _items(store: Any, longest: int, crosses: bool):
  """Sentences, those longer than `longest` cut into consecutive parts; an empty item between documents if `crosses`."""
  sentences, documents = np.asarray(store.sentences).astype(np.int64), np.asarray(store.documents)
  sizes = np.diff(sentences)
  parts = -(-sizes // longest)
  sentence = np.repeat(np.arange(len(sizes)), parts)
  number = np.arange(len(sentence)) - np.repeat(np.cumsum(parts) - parts, parts)
  starts = sentences[sentence] + number * longest
  lengths = np.minimum(longest, sentences[sentence + 1] - starts)
  document = np.repeat(np.arange(len(documents) - 1), np.diff(documents))[sentence]
  if not crosses:
    return starts, lengths, document
  edges = np.flatnonzero(np.diff(document)) + 1
  return (
    np.insert(starts, edges, starts[edges]),
    np.insert(lengths, edges, 0),
    np.insert(document, edges, document[edges]),
  )


def _chain(until: np.ndarray) -> list[int]:
  """0, until[0], until[until[0]], ... to the end."""
  following, chain = memoryview(np.ascontiguousarray(until, np.int64)), [0]
  while chain[-1] < len(following):
    chain.append(following[chain[-1]])
  return chain


def _spans(starts, lengths, document, block, by_sentence: bool):
  """Spans of the blocks: the sentences with the separators between them, or the run of each document in each block."""
  if by_sentence:
    kept = (lengths > 0) | np.append(block[1:] == block[:-1], False)
    return starts[kept], lengths[kept], block[kept]
  kept = lengths > 0
  starts, lengths, document, block = starts[kept], lengths[kept], document[kept], block[kept]
  first = np.flatnonzero(np.concatenate([[True], (np.diff(document) != 0) | (np.diff(block) != 0)]))
  return starts[first], np.add.reduceat(lengths, first), block[first]
