"""ELECTRA's examples (google-research/electra, build_pretraining_dataset.py): [CLS] A [SEP] (B [SEP]).

Sentences gather until they have as many tokens as the target or the document ends; none is carried over. The target is
the length, in 5 % of the examples uniform from 5 to the length. Sentence by sentence, A takes it if A is empty, if A
stays below its own target (half of what the target leaves for tokens; in 10 % of the examples without bound, so that
there is no B), or, while B is empty and A is below its target, by a fair coin; otherwise B does. So a short sentence
may still join A after B has begun, and a segment may have gaps: its spans are `joined`. A is cut to length - 2, then B
to what is left; what overflows is dropped. B is the document's own text, nothing is decided about the pair, and there
are no labels.

The original draws each target after the example before it and begins every process with the whole length. Here an
example draws its own: the same distribution, and a document depends on no other.

Words of a chunk's stream (the document's key with the number of the chunk's first sentence folded in): 0 = is it short,
1 = its short target, 2 = is it a single segment, 3 + j = coin of its sentence j.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data import draws
from data.spans import Cut, Options, chain, document_blocks

SHORT, SHORTEST, SINGLE = 0.05, 5, 0.1
_UNBOUNDED = 1 << 40  # tokens


def cut(store: Any, options: Options, seed: int, pass_: int) -> Cut:
  """The examples of a pass."""
  sentences, documents = np.asarray(store.sentences), np.asarray(store.documents)
  key = draws.key(seed, "examples", pass_)
  blocks = document_blocks(len(documents) - 1)
  parts = [_examples_of(sentences, documents, block, key, options.length) for block in blocks]
  starts, lengths, joined, sizes, singles = (np.concatenate(column) for column in zip(*parts, strict=True))
  counts = {
    "single_share": round(float(singles.mean()), 6),
    "cut_tokens": len(store.tokens) - int(lengths.sum(dtype=np.int64)),
  }
  spans = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
  return Cut(spans, starts, lengths.astype(np.int32), np.zeros(len(sizes), np.int32), counts, joined)


def _examples_of(sentences, documents, block, key: int, length: int):
  """The examples of a block of documents.

  Returns:
    starts, lengths and joined of the spans; of each example, how many spans it has and whether it has no B.
  """
  keys, target, first, count = _chunks(sentences, documents, block, key, length)
  sizes = np.diff(sentences[documents[block[0]] : documents[block[-1] + 1] + 1])
  in_b = _in_b(sizes, first, count, _first_targets(keys, target), keys)
  segment = 2 * np.repeat(np.arange(len(first)), count) + in_b
  order = np.argsort(segment, kind="stable")  # A's sentences, then B's
  segment, sizes = segment[order], sizes[order]
  ends = np.cumsum(np.bincount(segment, sizes, 2 * len(first)).astype(np.int64))
  begins = np.concatenate([[0], ends[:-1]])
  room = np.full(len(begins), length - 2)
  room[1::2] = np.maximum(0, length - 3 - np.minimum((ends - begins)[0::2], length - 2))
  kept = np.minimum(sizes, (begins + room)[segment] - (np.cumsum(sizes) - sizes))
  some = kept > 0
  starts = sentences[documents[block[0]] + order[some]].astype(np.int64)
  return _merge(starts, kept[some], segment[some], len(first))


def _chunks(sentences, documents, block, key: int, length: int):
  """Of each example: stream, token target, first sentence (from the block's first on), number of sentences."""
  sizes = documents[block + 1] - documents[block]
  document = np.repeat(block, sizes)
  at = np.arange(documents[block[0]], documents[block[-1] + 1])
  keys = draws.fold(np.repeat(draws.fold(key, block), sizes), at - documents[document])
  target = np.full(len(at), length)
  short = np.flatnonzero(draws.uniform(keys, 0) < SHORT)
  target[short] = SHORTEST + draws.below(keys[short], 1, length - SHORTEST + 1)
  end = np.minimum(np.searchsorted(sentences, sentences[at] + target), documents[document + 1])
  bounds = np.array(chain(end - at[0]))
  first = bounds[:-1]
  return keys[first], target[first], first, np.diff(bounds)


def _first_targets(keys: np.ndarray, target: np.ndarray) -> np.ndarray:
  return np.where(draws.uniform(keys, 2) < SINGLE, _UNBOUNDED, (target - 3) // 2)


def _in_b(sizes, first, count, target, keys) -> np.ndarray:
  """Whether each sentence stands in B; all examples are walked abreast, their sentences j together."""
  in_b, tokens, begun = np.ones(len(sizes), bool), np.zeros(len(first), np.int64), np.zeros(len(first), bool)
  walked, number = np.arange(len(first)), 0
  while walked.size:
    at, have, goal = first[walked] + number, tokens[walked], target[walked]
    coin = ~begun[walked] & (draws.uniform(keys[walked], 3 + number) < 0.5)
    joins = (have == 0) | (have + sizes[at] < goal) | (coin & (have < goal))
    in_b[at] = ~joins
    tokens[walked] = have + np.where(joins, sizes[at], 0)
    begun[walked] |= ~joins
    number += 1
    walked = walked[(count[walked] > number) & (tokens[walked] < goal)]  # a full A takes nothing more
  return in_b


def _merge(starts, lengths, segment, examples: int):
  """Sentences of one segment that follow one another in the store, as one span."""
  same = segment[1:] == segment[:-1]
  goes_on = same & (starts[1:] == starts[:-1] + lengths[:-1])
  first = np.flatnonzero(np.concatenate([[True], ~goes_on]))
  starts, lengths, segment = starts[first], np.add.reduceat(lengths, first), segment[first]
  joined = np.append(segment[1:] == segment[:-1], False)
  sizes = np.bincount(segment // 2, minlength=examples)
  with_b = np.bincount(segment[segment % 2 == 1] // 2, minlength=examples) > 0
  return starts, lengths, joined, sizes, ~with_b
