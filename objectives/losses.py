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


def tied_cross_entropy(x: Array, table: Array, bias: Array, labels: Array) -> tuple[Array, Array]:
  """Cross entropy and `is_top` of the logits x table^T + bias, of which only a chunk is ever in memory.

  The rows of the table are taken in chunks, forward and again backward. A chunk holds every n-th row, so that a table
  split over a mesh stays where it is: each device works on its own share of every chunk.

  Args:
    x: [B, J, E], in the dtype of the products.
    table: float32 [V', E], V' a multiple of 128.
    bias: float32 [V'], very low where a row is no class.
    labels: int [B, J].
  Returns:
    float32 [B, J], bool [B, J].
  """
  chunks = table_chunks(len(table))
  strided = lambda leaf: leaf.reshape(-1, chunks, *leaf.shape[1:]).swapaxes(0, 1)

  @jax.checkpoint
  def one(chunk):
    number, rows, offsets = chunk
    logits = product("BJE,VE->BJV", x, rows) + offsets
    own = (labels // chunks)[..., None] == jnp.arange(len(offsets))
    picked = jnp.sum(jnp.where(own & (labels % chunks == number)[..., None], logits, 0.0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1), picked, jnp.max(jax.lax.stop_gradient(logits), axis=-1)

  parts = jnp.arange(chunks), strided(table.astype(x.dtype)), strided(bias)
  totals, picked, tops = jax.lax.map(one, parts)
  picked = jnp.sum(picked, axis=0)
  return jax.nn.logsumexp(totals, axis=0) - picked, picked >= jnp.max(tops, axis=0)


def table_chunks(rows: int) -> int:
  """A power of two: chunks of at most CHUNK_ROWS rows, as far as halves of the table are whole."""
  chunks = 1
  while rows // chunks > CHUNK_ROWS and rows % (2 * chunks) == 0:
    chunks *= 2
  return chunks
