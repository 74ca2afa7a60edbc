"""Pairs of segments with a decision about the pair.

- `segment_pairs` (BERT, create_pretraining_data.py; ALBERT, section 3.1): segments of several sentences that fill the
  row. Trimmed to length - 3 tokens, so SpanBERT's two-segment ablation is this format at length 512 (509 pieces).
- `sentence_pairs` (RoBERTa, section 4.2, SENTENCE-PAIR + NSP; no code was published): single natural sentences, B the
  next one of the document or a uniform sentence of another document, by a fair coin. A sentence that a random B puts
  back is the next A; one left alone at a document's end is no A. It is segment pairs whose target is one token.

Labels: 0 = B follows A, 1 = B is random ("nsp") or A and B are swapped ("sop"), in every format. fairseq's pairs say 1
for the next segment, so labels must be turned round before accuracies by class are compared.

RoBERTa's SEGMENT-PAIR is `segment_pairs` with same_document_negatives=False. fairseq also draws A's end up to the
chunk's last sentence but two where BERT goes to the last but one; that is no switch: A gets half a sentence shorter in
the mean, and no paper names it.

Words of a document's stream: 0 = is it short, 1 = its short target. Words of a chunk's stream (the document's key with
the number of the chunk's first sentence folded in): 0 = sentences of A, 1 = coin (random B or swap), 2 to 11 = tries
for a document, 12 = its first sentence, 13 and 14 = short targets by example. Sub-streams 1 and 2 of it: coins that
trim A and B. A chunk hangs on nothing but where it begins, so all that could begin are decided at once and the real
ones are those reached from a document's first sentence.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data import draws
from data.spans import Cut, Options, chain, document_blocks

TRIES = 10


def cut(store: Any, options: Options, seed: int, pass_: int) -> Cut:
  """The pairs of a pass."""
  if options.format == "sentence_pairs":
    options = dataclasses.replace(options, same_document_negatives=False, singles_are_negatives=False)
  sentences, documents = np.asarray(store.sentences), np.asarray(store.documents)
  key = draws.key(seed, "examples", pass_)
  parts = [_pairs_of(sentences, documents, block, key, options) for block in document_blocks(len(documents) - 1)]
  starts, lengths, labels, replaced, same = (np.concatenate(column) for column in zip(*parts, strict=True))
  spans = np.arange(0, len(starts) + 1, 2, dtype=np.int64)
  counts = {"random_share": round(float(replaced.sum() / max(len(labels), 1)), 6), "same_document": int(same.sum())}
  return Cut(spans, starts, lengths, labels, counts)


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
  if options.format == "sentence_pairs":
    target = np.ones(len(at), np.int64)
  elif options.short_by == "document":
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
  real = np.array(chain(following - chunks.at[0])[:-1])
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
