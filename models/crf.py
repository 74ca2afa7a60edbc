"""Linear-chain conditional random fields (Lafferty et al. 2001): a sentence's tags are decided together.

The score of tags y of a sentence of m words is start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_t, y_t+1]
+ end[y_m], and p(y) = exp(score(y)) / Z. Sentences of one batch have their own lengths; all loops are over the longest.

Dimension letters: B sentences, K words, N tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.layers import Array

FORBIDDEN = -1e9


class Chain(NamedTuple):
  """transitions [N, N] (from, to), start [N], end [N]: scores, or bools that say what may stand there."""

  transitions: Array
  start: Array
  end: Array


class Crf(nn.Module):
  """The parameters of a chain: transitions by Glorot's normal distribution, start and end N(0, 1)."""

  tags: int

  @nn.compact
  def __call__(self) -> Chain:
    ends = nn.initializers.normal(1.0)
    transitions = self.param("transitions", nn.initializers.glorot_normal(), (self.tags, self.tags))
    return Chain(transitions, *(self.param(name, ends, (self.tags,)) for name in ("start", "end")))


CRF_AXES = ((r"^crf/transitions$", (None, None)), (r"^crf/(start|end)$", (None,)))


def log_likelihood(emissions: Array, chain: Chain, tags: Array, mask: Array) -> Array:
  """log p of each sentence's tags, float32 [B].

  Args:
    emissions: float32 [B, K, N].
    tags: int [B, K]; what stands behind a sentence is not read.
    mask: bool [B, K]: words, then padding. A sentence of no words has log p = 0.
  """
  return path_score(emissions, chain, tags, mask) - log_partition(emissions, chain, mask)


def path_score(emissions: Array, chain: Chain, tags: Array, mask: Array) -> Array:
  """The score of the paths tags [B, K], float32 [B]; 0 for a sentence of no words."""
  own = jnp.take_along_axis(emissions, tags[..., None], axis=-1)[..., 0]
  steps = chain.transitions[tags[:, :-1], tags[:, 1:]]
  last = jnp.take_along_axis(tags, _last(mask)[:, None], axis=1)[:, 0]
  inside = jnp.sum(own * mask, axis=1) + jnp.sum(steps * mask[:, 1:], axis=1)
  return inside + jnp.where(mask[:, 0], chain.start[tags[:, 0]] + chain.end[last], 0.0)


def log_partition(emissions: Array, chain: Chain, mask: Array) -> Array:
  """log Z, the logarithm of the sum of exp(score) over all paths, float32 [B]; 0 for a sentence of no words."""

  def step(scores, inputs):
    emission, advance = inputs
    new = jax.nn.logsumexp(scores[:, :, None] + chain.transitions, axis=1) + emission
    return jnp.where(advance[:, None], new, scores), None

  scores, _ = jax.lax.scan(step, chain.start + emissions[:, 0], (emissions.swapaxes(0, 1)[1:], mask.T[1:]))
  return jnp.where(mask[:, 0], jax.nn.logsumexp(scores + chain.end, axis=-1), 0.0)


def best_path(emissions: Array, chain: Chain, mask: Array, allowed: Chain) -> Array:
  """The likeliest tags among those that `allowed` lets be, by Viterbi's algorithm: int32 [B, K], 0 behind a sentence.

  Where no path is allowed (a set of tags that cannot say such a sentence), the one that breaks fewest rules.
  """
  start, end, transitions = (
    getattr(chain, name) + jnp.where(getattr(allowed, name), 0.0, FORBIDDEN) for name in ("start", "end", "transitions")
  )

  def forward(scores, inputs):
    emission, advance = inputs
    through = scores[:, :, None] + transitions
    new = jnp.where(advance[:, None], jnp.max(through, axis=1) + emission, scores)
    return new, jnp.where(advance[:, None], jnp.argmax(through, axis=1), jnp.arange(through.shape[1]))

  scores, origins = jax.lax.scan(forward, start + emissions[:, 0], (emissions.swapaxes(0, 1)[1:], mask.T[1:]))
  last = jnp.argmax(scores + end, axis=-1)

  def backward(tag, origin):
    before = jnp.take_along_axis(origin, tag[:, None], axis=1)[:, 0]
    return before, before

  _, before = jax.lax.scan(backward, last, origins, reverse=True)
  tags = jnp.concatenate([before, last[None]]).T
  return jnp.where(mask, tags, 0).astype(jnp.int32)


def _last(mask: Array) -> Array:
  """int [B]: the place of each sentence's last word; 0 where it has none."""
  return jnp.maximum(jnp.sum(mask, axis=1) - 1, 0)


def allowed_paths(labels: Sequence[str]) -> Chain:
  """Which tags may begin a sentence, follow one another and end a sentence: NumPy bools, from the names of the tags.

  BIOES (also written BIOUL) where some tag says E, S, L or U; else BIO where some tag says B. In any other set, as that
  of parts of speech, everything may follow everything.
  """
  split = [_split(label) for label in labels]
  letters = {letter for letter, _ in split}
  if None in letters or not letters & {"B", "E", "S"}:
    return Chain(np.ones((len(labels),) * 2, bool), np.ones(len(labels), bool), np.ones(len(labels), bool))
  closes = bool(letters & {"E", "S"})
  outside = ("O", "")
  follows = lambda a, b: _follows(a, b, closes)
  return Chain(
    np.array([[follows(a, b) for b in split] for a in split]),
    np.array([follows(outside, b) for b in split]),
    np.array([follows(a, outside) for a in split]),
  )


_SAME = {"L": "E", "U": "S"}


def _split(label: str) -> tuple[str | None, str]:
  """(B, I, E, S or O; type) of a tag; None in place of the letter of what is no such tag."""
  letter, dash, kind = label.partition("-")
  letter = _SAME.get(letter, letter)
  if label == "O" or (dash and kind and letter in ("B", "I", "E", "S")):
    return letter, kind
  return None, ""


def _follows(before: tuple[str, str], tag: tuple[str, str], closes: bool) -> bool:
  """Whether `tag` may stand behind `before`; in BIOES (`closes`) an open span must end by its own E."""
  is_open = before[0] in ("B", "I")
  goes_on = tag[0] in ("I", "E")
  if goes_on:
    return is_open and before[1] == tag[1]
  return not (closes and is_open)
