"""Per-position losses in float32; nothing here reduces over positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.layers import product

Array = jax.Array

CHUNK_ROWS = 1 << 16  # of a table whose logits stand in memory together


def cross_entropy(logits: Array, labels: Array) -> Array:
  """-log softmax(logits)[label]. logits [..., V], labels [...] -> float32 [...]."""
  logits = logits.astype(jnp.float32)
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - picked


def is_top(logits: Array, labels: Array) -> Array:
  """bool [...]: no class has a larger logit than the label. A maximum is several times cheaper than an argmax here."""
  picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  return picked >= jnp.max(logits, axis=-1)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
  """-log sigmoid of the true side. logits, labels in {0, 1}, any shape -> float32."""
  logits, labels = logits.astype(jnp.float32), labels.astype(jnp.float32)
  return jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def choice_losses(logits: Array, weights: Array) -> tuple[Array, Array]:
  """(what each choice of a row would cost as the right one, whether none has a larger logit), both [B, K].

  logits, weights: [B, K]; a place of weight 0 is no choice.
  """
  logits = jnp.where(weights > 0, logits, -1e9)
  return jax.nn.logsumexp(logits, axis=1, keepdims=True) - logits, logits >= jnp.max(logits, axis=1, keepdims=True)


@jax.custom_vjp
def tied_cross_entropy(x: Array, table: Array, bias: Array, labels: Array) -> tuple[Array, Array]:
  """Cross entropy and `is_top` of the logits x table^T + bias, of which only a chunk is ever in memory.

  The table is taken chunk by chunk, forward and again backward. A chunk holds every n-th row, so that a table split
  over a mesh stays where it is: each device works on its own share of every chunk.

  Args:
    x: [B, J, E], in the dtype of the products.
    table: float32 [V', E], V' a multiple of 128.
    bias: float32 [V'], very low where a row is no class.
    labels: int [B, J].
  Returns:
    float32 [B, J], bool [B, J].
  """
  return _tied_forward(x, table, bias, labels)[0]


def _tied_forward(x, table, bias, labels):
  chunks = table_chunks(len(table))

  def one(_, number):
    _, logits, own = _chunk(x, table, bias, labels, chunks, number)
    picked = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    return None, (jax.nn.logsumexp(logits, axis=-1), picked, jnp.max(logits, axis=-1))

  _, (totals, picked, tops) = jax.lax.scan(one, None, jnp.arange(chunks))
  total, picked = jax.nn.logsumexp(totals, axis=0), jnp.sum(picked, axis=0)
  return (total - picked, picked >= jnp.max(tops, axis=0)), (x, table, bias, labels, total)


def _chunk(x: Array, table: Array, bias: Array, labels: Array, chunks: int, number: Array):
  """(rows [V'/n, E] of a chunk, float32 logits [B, J, V'/n], which of them is the label's)."""
  take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf.reshape(-1, chunks, *leaf.shape[1:]), number, 1, False)
  rows = take(table).astype(x.dtype)
  logits = product("BJE,VE->BJV", x, rows) + take(bias)
  own = (labels // chunks)[..., None] == jnp.arange(len(rows))
  return rows, logits, own & (labels % chunks == number)[..., None]


def _tied_backward(kept, gradients):
  x, table, bias, labels, total = kept
  chunks = table_chunks(len(table))

  def one(sums, number):
    of_x, of_table, of_bias = sums
    rows, logits, own = _chunk(x, table, bias, labels, chunks, number)
    error = (jnp.exp(logits - total[..., None]) - own) * gradients[0][..., None]
    narrow = error.astype(x.dtype)
    of_x += jnp.einsum("BJV,VE->BJE", narrow, rows, preferred_element_type=jnp.float32)
    of_rows = jnp.einsum("BJV,BJE->VE", narrow, x, preferred_element_type=jnp.float32)
    put = lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, number, 1)
    return (of_x, put(of_table, of_rows), put(of_bias, jnp.sum(error, axis=(0, 1)))), None

  cut = lambda leaf: jnp.zeros((len(leaf) // chunks, chunks, *leaf.shape[1:]))
  start = jnp.zeros(x.shape), cut(table), cut(bias)
  (of_x, of_table, of_bias), _ = jax.lax.scan(one, start, jnp.arange(chunks))
  return of_x.astype(x.dtype), of_table.reshape(table.shape), of_bias.reshape(bias.shape), None


tied_cross_entropy.defvjp(_tied_forward, _tied_backward)


def table_chunks(rows: int) -> int:
  """A power of two: chunks of at most CHUNK_ROWS rows, as far as halves of the table are whole."""
  chunks = 1
  while rows // chunks > CHUNK_ROWS and rows % (2 * chunks) == 0:
    chunks *= 2
  return chunks
