"""Sampled softmax: the cross entropy of a large vocabulary from the target and a few thousand shared other words.

Words are numbered by descending frequency, and negatives are drawn log-uniformly over those numbers, word by word until
the wanted number of distinct ones is there, as TensorFlow's log_uniform_candidate_sampler(unique=True) draws them for
the original. Shapes are static here: more words are drawn than are ever needed, and those behind the last one that the
original would draw count for nothing. So the set, and the number of tries that it took, have exactly the original's
distribution, for the price of sorting some 16,000 numbers where noise on every word would sort the vocabulary.

Each logit loses the logarithm of how often its word is expected among the negatives, without which frequent words would
be pushed down for being drawn often (Jean et al. 2015, section 3.1). At the logits log p(word) the expected gradient is
then zero, but the loss is no estimate of the full one: it is far lower.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.layers import product

Array = jax.Array

REMOVED = -1e9  # logit of what is no class of a sampled softmax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Negatives:
  """Distinct words drawn for a whole batch.

  ids: int32 [K]. filled: bool [K], False where the tries did not give as many distinct words (see `tries_for`). tries:
  int32 [], draws with replacement that it took to find them.
  """

  ids: Array
  filled: Array
  tries: Array


def log_uniform(ids: Array, vocab: int) -> Array:
  """float32: P(k) = log((k + 2) / (k + 1)) / log(V + 1) of ids below V, any shape."""
  return jnp.log1p(1.0 / (ids.astype(jnp.float32) + 1.0)) / np.log(vocab + 1.0)


def log_expected_count(ids: Array, tries: Array, vocab: int) -> Array:
  """float32: log(1 - (1 - P(k))^tries), how often a word is expected among distinct words that took `tries` draws."""
  return jnp.log(-jnp.expm1(tries * jnp.log1p(-log_uniform(ids, vocab))))


@functools.lru_cache
def tries_for(vocab: int, distinct: int) -> int:
  """Draws that suffice for `distinct` different words.

  So many that distinct + 6 sqrt(distinct) are expected. Fewer than `distinct`, of a thousand and more, then come in
  less than one step of a million (Chernoff), and cost that step a few negatives, nothing else. Where the vocabulary is
  not much larger than `distinct`, so many that half a word of it is expected to be missing.
  """
  chances = np.log1p(1.0 / np.arange(1, vocab + 1)) / np.log(vocab + 1.0)
  expected = lambda tries: -np.expm1(tries * np.log1p(-chances)).sum()
  want, low, high = min(distinct + 6 * distinct**0.5, vocab - 0.5), 0, 1
  while expected(high) < want:
    low, high = high, 2 * high
  while high - low > max(1, high // 256):  # to half a percent: each look takes milliseconds
    middle = (low + high) // 2
    low, high = (middle, high) if expected(middle) < want else (low, middle)
  return high


def draw_words(key: Array, vocab: int, tries: int) -> Array:
  """int32 [tries] ids with the probabilities of `log_uniform`, drawn with replacement.

  The integer part of exp(u log(V + 1)), less 1. One float32 u cannot tell the rare words of a large vocabulary apart,
  so one number picks the octave [2^n, 2^(n + 1)), all of which are equally likely, and another the place in it.
  """
  octave, place = jax.random.uniform(key, (2, tries))
  octaves = np.float32(np.log2(vocab + 1.0))  # the last one ends at V + 1 and may be narrower
  first = jnp.floor(octave * octaves)
  width = jnp.minimum(1.0, octaves - first)
  numbers = jnp.left_shift(1, first.astype(jnp.int32)) * jnp.exp2(place * width)
  return jnp.clip(numbers.astype(jnp.int32), 1, vocab) - 1


def distinct_words(words: Array, count: int) -> Negatives:
  """The first `count` different ones of words [N] in the order in which they come."""
  order = jnp.argsort(words, stable=True)
  ordered = words[order]
  first = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
  is_new = jnp.zeros(len(words), bool).at[order].set(first, unique_indices=True)
  rank = jnp.cumsum(is_new)  # different words up to here
  slots = jnp.where(is_new, rank - 1, count)
  ids = jnp.zeros(count, jnp.int32).at[slots].set(words, mode="drop")
  return Negatives(ids, jnp.arange(count) < rank[-1], jnp.minimum(jnp.sum(rank < count) + 1, len(words)))


def draw_negatives(key: Array, vocab: int, count: int) -> Negatives:
  """`count` distinct negatives out of `vocab` words."""
  return distinct_words(draw_words(key, vocab, tries_for(vocab, count)), count)


@jax.custom_vjp
def two_look_ups(table: Array, first: Array, second: Array) -> tuple[Array, Array]:
  """(table[first], table[second]), whose gradient is one array of the table's size and not the sum of two.

  `first` is split with the rows of a batch, `second` is the same on all devices; put together they would be neither.
  """
  return table[first], table[second]


def _look_ups_backward(kept, gradients):
  table, first, second = kept
  return jnp.zeros_like(table).at[first].add(gradients[0]).at[second].add(gradients[1]), None, None


two_look_ups.defvjp(lambda *arguments: (two_look_ups(*arguments), arguments), _look_ups_backward)


def sampled_cross_entropy(
  x: Array, table: Array, bias: Array, labels: Array, negatives: Negatives, vocab: int
) -> Array:
  """Cross entropy of each label against itself and its direction's negatives. A negative that is the label is left out.

  Only the rows of the table that are drawn or are labels are read.

  Args:
    x: [B, D, L, P] in the dtype of the products; D directions.
    table: float32 [V', P].
    bias: float32 [V'].
    labels: int [B, D, L].
    negatives: of every direction: [D, K].
    vocab: V, real words of the table.
  Returns:
    float32 [B, D, L].
  """
  rows, other_rows = two_look_ups(table, labels, negatives.ids)
  offsets, other_offsets = two_look_ups(bias, labels, negatives.ids)
  tries = negatives.tries[:, None]
  offsets -= log_expected_count(labels, tries, vocab)
  other_offsets -= log_expected_count(negatives.ids, tries, vocab)
  true = product("BDLP,BDLP->BDL", x, rows.astype(x.dtype)) + offsets
  others = product("BDLP,DKP->BDLK", x, other_rows.astype(x.dtype)) + other_offsets[:, None]
  gone = (labels[..., None] == negatives.ids[:, None]) | ~negatives.filled[:, None]
  return jnp.logaddexp(true, jax.nn.logsumexp(jnp.where(gone, REMOVED, others), axis=-1)) - true
