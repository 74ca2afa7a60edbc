"""Blocks of whole consecutive sentences, without pairs.

- `full_sentences`: up to the length, across documents (RoBERTa, section 4.2), with an extra separator between
  documents, though never at the edge of a block.
- `doc_sentences`: the same, never across documents (RoBERTa DOC-SENTENCES). With separators="document" and
  long_sentences="skip" it is SpanBERT's single sequence: one run of text of one document, up to length - 2 tokens.

A sentence longer than a row is cut into parts or skipped. What follows a skipped one counts as another document, so a
block of doc_sentences is always a run of text without holes, as in SpanBERT's code; that code also loses the open
block of a document that ends in a skipped sentence, which is not imitated. Nothing is drawn: passes are alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.spans import Cut, Options, chain


def cut(store: Any, options: Options, seed: int, pass_: int) -> Cut:
  """Greedy blocks of whole sentences."""
  del seed, pass_
  crosses, by_sentence = options.format == "full_sentences", options.separators == "sentence"
  starts, lengths, document, counts = _items(store, options, crosses)
  if not len(lengths):  # every sentence was skipped
    return Cut(np.zeros(1, np.int64), starts, lengths.astype(np.int32), np.zeros(0, np.int32), counts)
  cost = lengths + 1 if by_sentence else np.where(lengths == 0, 1, lengths)
  budget = options.length - (1 if by_sentence else 2)
  total = np.concatenate([[0], np.cumsum(cost)])
  until = np.searchsorted(total, total[:-1] + budget, side="right") - 1
  if not crosses:
    until = np.minimum(until, np.searchsorted(document, document, side="right"))
  until += np.append(lengths == 0, False)[until]  # a separator at the edge of a block separates nothing
  block = np.zeros(len(lengths), np.int64)
  block[chain(until)[1:-1]] = 1
  starts, lengths, block = _spans(starts, lengths, document, np.cumsum(block), by_sentence)
  spans = np.concatenate([[0], np.cumsum(np.bincount(block))]).astype(np.int64)
  return Cut(spans, starts, lengths.astype(np.int32), np.zeros(len(spans) - 1, np.int32), counts)


def _items(store: Any, options: Options, crosses: bool):
  """What blocks are made of.

  Returns:
    starts, lengths and documents of the sentences, the long ones cut into consecutive parts or left out, with an empty
    item between documents if `crosses`; counts for the card.
  """
  sentences, documents = np.asarray(store.sentences).astype(np.int64), np.asarray(store.documents)
  longest, sizes = options.length - 2, np.diff(sentences)
  document = np.repeat(np.arange(len(documents) - 1), np.diff(documents))
  parts, counts = -(-sizes // longest), {}
  if options.long_sentences == "skip":
    long = sizes > longest
    parts, document, counts = np.where(long, 0, 1), document + np.cumsum(long), {"skipped_sentences": int(long.sum())}
  sentence = np.repeat(np.arange(len(sizes)), parts)
  number = np.arange(len(sentence)) - np.repeat(np.cumsum(parts) - parts, parts)
  starts = sentences[sentence] + number * longest
  lengths, document = np.minimum(longest, sentences[sentence + 1] - starts), document[sentence]
  if not crosses:
    return starts, lengths, document, counts
  edges = np.flatnonzero(np.diff(document)) + 1
  return (
    np.insert(starts, edges, starts[edges]),
    np.insert(lengths, edges, 0),
    np.insert(document, edges, document[edges]),
    counts,
  )


def _spans(starts, lengths, document, block, by_sentence: bool):
  """Spans of the blocks: the sentences with the separators between them, or the run of each document in each block."""
  if by_sentence:
    kept = (lengths > 0) | np.append(block[1:] == block[:-1], False)
    return starts[kept], lengths[kept], block[kept]
  kept = lengths > 0
  starts, lengths, document, block = starts[kept], lengths[kept], document[kept], block[kept]
  first = np.flatnonzero(np.concatenate([[True], (np.diff(document) != 0) | (np.diff(block) != 0)]))
  return starts[first], np.add.reduceat(lengths, first), block[first]
