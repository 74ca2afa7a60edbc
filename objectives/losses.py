"""Per-position losses in float32; nothing here reduces over positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


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
