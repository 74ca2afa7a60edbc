"""Runs of sentences of one page with the mentions in them (LUKE's pretraining data).

Sentences of fewer than `min_sentence` tokens, or of more than fit, are left out; what stands on their two sides goes on
as if they had not been there. The others are put together, one after another, until the next would pass length - 2; an
example ends with its page. It has no separators inside, and it stands for nothing, and is dropped, where none of its
sentences has a mention (`require_mention`). Its first `max_entities` mentions are kept. Nothing is drawn: passes are
alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.spans import Cut, Options, TableError, chain


def cut(store: Any, options: Options, seed: int, pass_: int) -> Cut:
  """Greedy runs of whole sentences.

  Raises:
    TableError: the store has no mentions at all.
  """
  del seed, pass_
  if store.mentions is None:
    raise TableError(
      "example option format: got 'entity_sentences' and a store without mentions, want one whose links are entities; "
      "prepare the corpus with entities"
    )
  starts, ends, block, skipped = _blocks(store, options)
  firsts = np.ascontiguousarray(store.mentions[:, 0])
  mentions = np.stack([np.searchsorted(firsts, starts), np.searchsorted(firsts, ends)], axis=1).astype(np.int64)
  found = np.bincount(block, mentions[:, 1] - mentions[:, 0], block[-1] + 1 if len(block) else 0).astype(np.int64)
  kept = found > 0 if options.require_mention else np.ones(len(found), bool)
  mine = kept[block]
  starts, ends, mentions, block = starts[mine], ends[mine], mentions[mine], (np.cumsum(kept) - 1)[block[mine]]
  _keep_first(mentions, block, options.max_entities)
  spans = np.searchsorted(block, np.arange(int(kept.sum()) + 1)).astype(np.int64)
  joined = np.ones(len(starts), bool)
  joined[spans[1:] - 1] = False
  total = int((mentions[:, 1] - mentions[:, 0]).sum())
  counts = {
    "mentions": total,
    "skipped_sentences": skipped,
    "dropped_mentions": int(found.sum()) - total,
    "examples_without_mentions": int((found == 0).sum()),
  }
  lengths, labels = (ends - starts).astype(np.int32), np.zeros(len(spans) - 1, np.int32)
  return Cut(spans, starts, lengths, labels, counts, joined, mentions)


def _blocks(store: Any, options: Options):
  """The runs as spans of neighbouring sentences.

  Returns:
    starts, ends int64[T] in tokens of the store, number of each one's run; sentences left out.
  """
  sentences, documents = np.asarray(store.sentences).astype(np.int64), np.asarray(store.documents)
  sizes, longest = np.diff(sentences), options.length - 2
  kept = np.flatnonzero((sizes >= options.min_sentence) & (sizes <= longest))
  document = np.repeat(np.arange(len(documents) - 1), np.diff(documents))[kept]
  total = np.concatenate([[0], np.cumsum(sizes[kept])])
  until = np.searchsorted(total, total[:-1] + longest, side="right") - 1
  until = np.minimum(until, np.searchsorted(document, document, side="right"))
  begins = np.zeros(len(kept), bool)
  begins[chain(until)[:-1]] = True
  first = np.flatnonzero(begins | (np.diff(kept, prepend=-2) != 1))
  last = np.append(first[1:], len(kept))[: len(first)] - 1
  return sentences[kept[first]], sentences[kept[last] + 1], np.cumsum(begins)[first] - 1, len(sizes) - len(kept)


def _keep_first(mentions: np.ndarray, block: np.ndarray, most: int) -> None:
  """Cuts int64[T, 2], first mention and one past the last of each span, to the first `most` mentions of each run."""
  counts = mentions[:, 1] - mentions[:, 0]
  before = np.cumsum(counts) - counts
  before -= before[np.searchsorted(block, block)]
  mentions[:, 1] = mentions[:, 0] + np.clip(most - before, 0, counts)
