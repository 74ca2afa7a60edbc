"""Two sentences read against each other: ESIM (Chen et al. 2017), and what a probe compares in its place.

Dimension letters: B pairs, K words, D width, H hidden; Q words of one sentence as seen from the other.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Array, Dense, dropout, product, split_key
from models.lstm import BiLstm, glorot, lstm_axes


class Esim(nn.Module):
  """Soft alignment, comparison, a second reading, and pooling.

  Attributes:
    inputs: D, what is known of a word behind the first reading.
    hidden: H, of the LSTMs in one direction and of the dense layers.
  """

  inputs: int
  hidden: int
  dropout: float
  dtype: Any = jnp.float32

  def setup(self):
    dense = lambda inputs: Dense((inputs,), (self.hidden,), glorot(inputs, self.hidden), self.dtype)
    self.projection, self.dense = dense(4 * self.inputs), dense(8 * self.hidden)
    self.composition = BiLstm(self.hidden, self.hidden, 1, 0.0, self.dtype)

  def __call__(self, x: Array, mask: Array, key: Array | None = None) -> Array:
    """x [B, 2, K, D], zeros behind a sentence, mask bool [B, 2, K] -> float32 [B, H]. `key` switches dropout on."""
    read_key, pooled_key, dense_key = split_key(key, 3)
    x = jax.nn.relu(self.projection(compare(x, self.align(x, mask))))
    x = dropout(x, self.dropout, read_key).reshape(-1, *x.shape[2:])
    both = mask.reshape(-1, mask.shape[-1])
    x = self.composition(x, both)
    pooled = jnp.concatenate([mean_of_words(x, both), max_of_words(x, both)], axis=-1)
    pooled = dropout(pooled.reshape(len(mask), -1), self.dropout, pooled_key)
    return dropout(jax.nn.relu(self.dense(pooled)).astype(jnp.float32), self.dropout, dense_key)

  def align(self, x: Array, mask: Array) -> Array:
    """For each word the mean of the other sentence's words, weighted by softmax of their dot products with it."""
    narrow = x.astype(self.dtype)
    scores = product("BQD,BKD->BQK", narrow[:, 0], narrow[:, 1])
    both = jnp.stack([scores, scores.swapaxes(1, 2)], axis=1)
    other = jnp.where(mask[:, ::-1, None], both, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(other, axis=-1).astype(self.dtype)
    return product("BAQK,BAKD->BAQD", weights, narrow[:, ::-1])


def compare(a: Array, b: Array) -> Array:
  """[a; b; a - b; a b] along the last axis."""
  return jnp.concatenate([a, b, a - b, a * b], axis=-1)


def mean_of_words(x: Array, mask: Array) -> Array:
  """x [B, K, D] over the words of mask [B, K] -> [B, D]; zeros where there is none."""
  return jnp.sum(jnp.where(mask[..., None], x, 0.0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None]


def max_of_words(x: Array, mask: Array) -> Array:
  """x [B, K, D] over the words of mask [B, K] -> [B, D]; zeros where there is none."""
  highest = jnp.max(jnp.where(mask[..., None], x, jnp.finfo(x.dtype).min), axis=1)
  return jnp.where(jnp.any(mask, axis=1)[:, None], highest, 0.0)


ESIM_AXES = (
  (r"^pair/(projection|dense)/kernel$", ("embed", None)),
  (r"^pair/(projection|dense)/bias$", (None,)),
  *lstm_axes("pair/composition"),
)
