"""Output heads that more than one model uses."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import ACTIVATIONS, Array, Dense, Init, LayerNorm, product


def gather_columns(x: Array, columns: Array) -> Array:
  """x [B, L, D] at columns [B, P] -> [B, P, D]."""
  return jnp.take_along_axis(x, columns[..., None], axis=1)


class MaskedTokenHead(nn.Module):
  """Dense, activation, layer norm, then the tied word table and a bias (BERT's get_masked_lm_output).

  x [..., D], table [V', E] -> float32 logits [..., V']; the V' - V rows that only pad the table get -1e9, so that
  neither the loss nor sampling ever sees them.
  """

  hidden: int
  embedding: int
  vocab_size: int
  padded_vocab: int
  activation: str
  norm_eps: float
  init: Init
  dtype: Any = jnp.float32

  def setup(self):
    self.dense = Dense((self.hidden,), (self.embedding,), self.init, self.dtype)
    self.norm = LayerNorm(self.embedding, self.norm_eps, self.dtype)
    self.bias = self.param("bias", nn.initializers.zeros, (self.padded_vocab,))

  def __call__(self, x: Array, table: Array) -> Array:
    return tied_logits(self.transform(x), table, self.bias, self.vocab_size)

  def transform(self, x: Array) -> Array:
    """What the table is multiplied by: [..., D] -> [..., E]."""
    return self.norm(ACTIVATIONS[self.activation](self.dense(x)))

  def masked_bias(self) -> Array:
    """float32 [V'], -1e9 where rows only pad the table."""
    return without_padding(self.bias, self.vocab_size)


def without_padding(bias: Array, vocab_size: int) -> Array:
  """bias [V'] with -1e9 from `vocab_size` on."""
  return jnp.where(jnp.arange(len(bias)) < vocab_size, bias, -1e9)


def tied_logits(x: Array, table: Array, bias: Array, vocab_size: int) -> Array:
  """float32 logits [..., V'] of x [..., E] on a table [V', E] with bias [V']; rows from `vocab_size` on get -1e9."""
  return product("...D,VD->...V", x, table.astype(x.dtype)) + without_padding(bias, vocab_size)


class Pooler(nn.Module):
  """tanh dense layer on the [CLS] state (BERT, ALBERT). hidden [B, L, D], cls [B, S] -> [B, S, D]."""

  hidden: int
  init: Init
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, hidden: Array, cls: Array) -> Array:
    dense = Dense((self.hidden,), (self.hidden,), self.init, self.dtype, name="dense")
    return jnp.tanh(dense(gather_columns(hidden, cls)))


def replace_columns(ids: Array, columns: Array, values: Array, weights: Array) -> Array:
  """ids [B, L] with values [B, P] written at columns [B, P]; slots of weight 0 are dropped."""
  columns = jnp.where(weights > 0, columns, ids.shape[1])
  return jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(ids, columns, values)
