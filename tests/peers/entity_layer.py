"""One LUKE layer of base size and a batch for it: what the time and the compiled form of attention are taken from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.entity_attention import EntityAttention, split_mask
from models.layers import FeedForward, Init, LayerConfig, SelfAttention, attention_mask


def base_layer(
  role: str, rows: int, words: int, entities: int, dropout: float = 0.0, dtype: Any = jnp.float32
) -> tuple[Callable, tuple]:
  """(loss and gradients by parameters and input, its arguments) of a layer of base size.

  Args:
    role: `plain`, or a form of entity-aware attention.
    entities: of the slots of a row, three quarters are filled.
  """
  config = LayerConfig(768, 12, 3072, dropout, dropout, "gelu", 1e-5, Init(0.02), dtype)
  attention = SelfAttention(config) if role == "plain" else EntityAttention(config, role)
  ffn, size = FeedForward(config), words + entities
  real = (np.arange(entities) < 3 * entities // 4).astype(np.int32)
  segments = jnp.asarray(np.tile(np.concatenate([np.ones(words, np.int32), real]), (rows, 1)))
  x = jax.random.normal(jax.random.key(0), (rows, size, config.hidden), dtype)
  params = {
    "attention": attention.init(jax.random.key(1), x[:1, :2], attention.everyone(2), None)["params"],
    "ffn": ffn.init(jax.random.key(2), x[:1, :2], None)["params"],
  }

  def loss(params, x, segments, key):
    keys = jax.random.split(key) if dropout else (None, None)
    mask = attention_mask(segments)
    mask = mask if role == "plain" else split_mask(mask, words)
    y = attention.apply({"params": params["attention"]}, x, mask, keys[0])
    return jnp.sum(jnp.square(ffn.apply({"params": params["ffn"]}, y, keys[1]).astype(jnp.float32)))

  return jax.value_and_grad(loss, (0, 1)), (params, x, segments, jax.random.key(3))
