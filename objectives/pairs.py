"""Sentence embeddings: of all second texts of a batch, each first text is to be nearest to its own.

Multiple negatives ranking (Henderson et al. 2017, section 4.4) on mean-pooled states with cosine similarity, as
Sentence-BERT's users train (Reimers and Gurevych 2019).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from data.batch import FIRST, SECOND, TextPairs
from objectives.base import Array, Draws, Terms, TokenObjective, mean_losses, rate, tally
from objectives.tasks import fresh_params


@dataclasses.dataclass(frozen=True)
class PairsObjective(TokenObjective):
  """One term, `pairs`: the cross entropy of a first text's own second among all second texts and negatives.

  Held-out batches also report the embeddings, of length 1, [B, S, D]. A text that stands twice in a batch, in two
  pairs, is a negative to itself: batches should not have such.

  Attributes:
    model: an encoder; no head is used.
    scale: of the cosines, 1 / temperature.
    symmetric: the mean of that and of the first texts as the seconds rank them.
  """

  model: Any
  scale: float = 20.0
  symmetric: bool = False
  separable: bool = False

  @property
  def weights(self) -> dict[str, float]:
    return {"pairs": 1.0}

  def init(self, key: Array, batch: TextPairs) -> dict:
    return fresh_params(self.model, key, batch.tokens)

  def counts(self, batch: TextPairs) -> Terms:
    return {"pairs": jnp.sum(self._side(batch, FIRST), dtype=jnp.float32)}

  def sums(self, params: dict, carry: None, batch: TextPairs, draws: Draws, train: bool) -> tuple[Terms, dict, None]:
    key = draws.dropout() if train else None
    hidden = self.model.apply({"params": params}, batch.tokens.ids, batch.tokens, key).hidden
    texts = unit(mean_pool(hidden, batch.tokens.segments, batch.pairs.shape[1]))
    flat = texts.reshape(-1, texts.shape[-1])
    scores = self.scale * jnp.einsum("ND,MD->NM", flat, flat, precision=jax.lax.Precision.HIGHEST)
    first, second = (self._side(batch, side).reshape(-1) for side in (FIRST, SECOND))
    numbers = batch.pairs.reshape(-1)
    same, candidates = numbers[:, None] == numbers, (numbers >= 0) & ~first
    losses, hits = ranking(scores, same & second, candidates)
    total = jnp.sum(losses * first)
    if self.symmetric:
      total = (total + jnp.sum(ranking(scores, same & first, first)[0] * second)) / 2
    statistics = {"pairs": tally(hits, first.astype(jnp.float32))}
    return {"pairs": total}, statistics | ({} if train else {"outputs": texts}), None

  def _side(self, batch: TextPairs, side: int) -> Array:
    return (batch.pairs >= 0) & (batch.sides == side)

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    """Nothing where no texts belong together: held-out ones are often only compared."""
    if not counts["pairs"]:
      return {}
    return mean_losses(sums, counts, self.weights) | {"accuracy": rate(statistics["pairs"])}


def mean_pool(hidden: Array, segments: Array, texts: int) -> Array:
  """float32 [B, S, D]: the mean state of all tokens of segments 1 to S = `texts`, special tokens among them; zeros
  where a row has no such segment. hidden [B, L, D], segments [B, L].
  """
  own = (segments[:, None] == jnp.arange(1, texts + 1)[:, None]).astype(jnp.float32)
  share = own / jnp.maximum(jnp.sum(own, axis=-1, keepdims=True), 1.0)
  return jnp.einsum("BSL,BLD->BSD", share, hidden.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def unit(x: Array) -> Array:
  """x [..., D] at length 1; zeros stay zeros."""
  squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def ranking(scores: Array, own: Array, candidates: Array) -> tuple[Array, Array]:
  """(float32 [N], bool [N]): cross entropy of each row's own among the candidates, and whether none is above it.

  scores float32 [N, M]; own bool [N, M], one of a row that counts; candidates bool [M].
  """
  among = jnp.where(candidates, scores, -1e9)
  picked = jnp.sum(jnp.where(own, scores, 0.0), axis=-1)
  return jax.nn.logsumexp(among, axis=-1) - picked, picked >= jnp.max(among, axis=-1)
