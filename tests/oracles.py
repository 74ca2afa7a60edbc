"""Slow plain oracles: the published procedures read step by step, one document, one example, one token at a time.

They draw from the same streams as the vectorised code (word numbers are restated here, not imported), so results must
be equal draw for draw.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data import draws


@dataclasses.dataclass(frozen=True)
class MemoryStore:
  """A token store in memory, with the attributes of `data.store.Store`."""

  tokens: np.ndarray
  word_starts: np.ndarray
  sentences: np.ndarray
  documents: np.ndarray
  fingerprint: str = "memory"


def store_of(documents: list[list[int]], continuation: float = 0.2, seed: int = 0) -> MemoryStore:
  """A store whose documents have sentences of the given lengths; token n has id 10 + n mod 50000."""
  sizes = [size for document in documents for size in document]
  sentences = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
  word_starts = np.random.default_rng(seed).random(sentences[-1]) >= continuation
  word_starts[sentences[:-1]] = True
  offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])]).astype(np.int64)
  return MemoryStore((10 + np.arange(sentences[-1]) % 50000).astype(np.uint16), word_starts, sentences, offsets)


def random_store(documents: int, seed: int = 0, longest: int = 60, sentences: float = 8) -> MemoryStore:
  """A store of documents with that many sentences in the mean (geometric), of about 17 tokens (log-normal)."""
  draw = np.random.default_rng(seed)
  counts = 1 + draw.geometric(1 / sentences, documents)
  sizes = [np.clip(draw.lognormal(2.7, 0.6, count), 1, longest).astype(int).tolist() for count in counts]
  return store_of(sizes, seed=seed)


def _word(key, number) -> int:
  return int(draws.words(int(key), number))


def _uniform(key, number) -> float:
  return (_word(key, number) >> 11) / 2**53


def _below(key, number, bound) -> int:
  return ((_word(key, number) >> 32) * bound) >> 32


def _coin(key, number) -> bool:
  return bool(_word(key, number // 64) >> (number % 64) & 1)


def _fold(key, number) -> int:
  return int(draws.fold(int(key), number))


def pairs(store, options, seed, pass_):
  """create_instances_from_document of every document.

  Returns:
    [(token offsets of A, of B, label, document of a random B or None)].
  """
  documents = [
    [list(range(store.sentences[s], store.sentences[s + 1])) for s in range(first, last)]
    for first, last in zip(store.documents[:-1], store.documents[1:], strict=True)
  ]
  examples = []
  for number in range(len(documents)):
    stream = _fold(draws.key(seed, "examples", pass_), number)
    examples += _pairs_of_document(documents, number, stream, options)
  return examples


def _target(key, coin, size, options, budget):
  return 2 + _below(key, size, budget - 1) if _uniform(key, coin) < options.short_share else budget


def _pairs_of_document(documents, number, stream, options):
  document, budget = documents[number], options.length - 3
  target, examples = _target(stream, 0, 1, options, budget), []
  i, chunk, size = 0, [], 0
  while i < len(document):
    key = _fold(stream, i - len(chunk))  # the chunk's first sentence
    if options.short_by == "example":
      target = _target(key, 13, 14, options, budget)
    chunk.append(document[i])
    size += len(document[i])
    alone = len(chunk) == 1 and not options.singles_are_negatives
    if i == len(document) - 1 or (size >= target and not alone):
      if alone:
        break
      a_end = 1 + _below(key, 0, len(chunk) - 1) if len(chunk) > 1 else 1
      a, other = sum(chunk[:a_end], []), None
      coin = _uniform(key, 1) < 0.5
      if len(chunk) == 1 or (options.task == "nsp" and coin):
        other = _other(key, number, len(documents), options)
        b, label = _random_b(key, documents[other], target - len(a)), 1
        i -= len(chunk) - a_end
      else:
        b, label = sum(chunk[a_end:], []), 0
        if options.task == "sop" and coin:
          a, b, label = b, a, 1
      _trim(key, a, b, budget)
      examples.append((a, b, label, other))
      chunk, size = [], 0
    i += 1
  return examples


def _other(key, number, count, options):
  if not options.same_document_negatives:
    other = _below(key, 2, count - 1)
    return other + (other >= number)
  for attempt in range(10):
    other = _below(key, 2 + attempt, count)
    if other != number:
      break
  return other


def _random_b(key, document, want):
  b = []
  for sentence in document[_below(key, 12, len(document)) :]:
    b.extend(sentence)
    if len(b) >= want:
      break
  return b


def _trim(key, a, b, budget):
  coins = {id(a): [_fold(key, 1), 0], id(b): [_fold(key, 2), 0]}
  while len(a) + len(b) > budget:
    longer = a if len(a) > len(b) else b
    stream = coins[id(longer)]
    longer.pop(0 if _coin(*stream) else -1)
    stream[1] += 1


def blocks(store, options):
  """Greedy whole-sentence blocks: [list of spans], a span being a list of token offsets, each followed by [SEP]."""
  crosses, by_sentence = options.format == "full_sentences", options.separators == "sentence"
  out, block, last = [], [], None
  for number, (first, last_sentence) in enumerate(zip(store.documents[:-1], store.documents[1:], strict=True)):
    for s in range(first, last_sentence):
      sentence = list(range(store.sentences[s], store.sentences[s + 1]))
      for part in range(0, len(sentence), options.length - 2):
        piece = sentence[part : part + options.length - 2]
        grown = _grow(block, piece, last is not None and last != number, by_sentence)
        if block and (1 + sum(len(span) + 1 for span in grown) > options.length or (last != number and not crosses)):
          out.append(block)
          grown = [piece]
        block, last = grown, number
  return [*out, block]


def _grow(block, piece, new_document, by_sentence):
  if not block:
    return [piece]
  if by_sentence:
    return [*block, [], piece] if new_document else [*block, piece]
  return [*block, piece] if new_document else [*block[:-1], block[-1] + piece]


def budget(size, masking):
  return min(masking.max_predictions, max(1, round(masking.mask_rate * size)))


def mask_example(ids, special, starts_word, masking, key, mask_id, vocab_size):
  """create_masked_lm_predictions for one example: {position: (input, label)}."""
  units = []
  for position in range(len(ids)):
    if special[position]:
      continue
    joins = units and not starts_word[position]
    if joins and special[position - 1] and not masking.join_across_separators:
      joins = False
    if masking.strategy == "whole_word" and joins:
      units[-1].append(position)
    else:
      units.append([position])
  units.sort(key=lambda unit: (_word(key, unit[0]) >> 24, unit[0]))
  k, chosen = budget(len(ids), masking), []
  for unit in units:
    if len(chosen) >= k:
      break
    if len(chosen) + len(unit) > k:
      continue
    chosen.extend(unit)
  out = {}
  for position in sorted(chosen):
    kind = _uniform(key, 2**32 + position)
    if kind < masking.mask_share:
      given = mask_id
    elif kind < masking.mask_share + masking.random_share:
      given = _below(key, 2**33 + position, vocab_size)
    else:
      given = ids[position]
    out[position] = (given, ids[position])
  return out
