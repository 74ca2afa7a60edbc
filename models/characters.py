"""Words by their characters: convolutions, the maximum over a word, highway layers, a projection (Kim et al. 2016).

As in ELMo (Peters et al. 2018) and Jozefowicz et al. 2016. Dimension letters: N words, C characters of a word, E width
of characters, F filters, P projection.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Array, Dense, Init

CHARACTERS = 262  # ids: 0 = no word at all, then bytes, marks of words and sentences, and what fills a word up
CARRY_BIAS = -2.0  # highway layers begin near the identity
CONVOLUTION_BOUND = 0.05
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharacterConfig:
  """Sizes and choices.

  Attributes:
    embedding: E.
    filters: (width, number) of each convolution.
    activation: of the convolutions, one of ACTIVATIONS.
    highway: highway layers.
    projection: P.
    remat: convolutions are computed again for the backward pass.
    dtype: of matrix products.
  """

  embedding: int
  filters: tuple[tuple[int, int], ...]
  activation: str
  highway: int
  projection: int
  remat: bool
  dtype: Any


class Convolution(nn.Module):
  """One width of character convolution and its maximum over the word: x [N, C, E] -> float32 [N, filters].

  The windows of a word lie side by side in one matrix, which is multiplied once. The activation follows the maximum:
  both are monotone, so it is the same and less work.
  """

  width: int
  filters: int
  config: CharacterConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c, shape = self.config, (self.width, self.config.embedding, self.filters)
    kernel = self.param("kernel", self._start, shape)
    bias = self.param("bias", nn.initializers.zeros, (self.filters,))

    def strongest(x, kernel):
      words, places = len(x), x.shape[1] - self.width + 1
      windows = jnp.concatenate([x[:, k : k + places] for k in range(self.width)], axis=-1)
      # Two axes, not three: XLA's CPU compiler then has the kernel's gradient as one plain product, in less than half
      # the time of both passes.
      windows, kernel = windows.reshape(-1, windows.shape[-1]), kernel.reshape(-1, self.filters)
      values = windows.astype(c.dtype) @ kernel.astype(c.dtype)
      return jnp.max(values.reshape(words, places, self.filters), axis=1).astype(jnp.float32)

    strongest = jax.checkpoint(strongest) if c.remat else strongest
    return ACTIVATIONS[c.activation](strongest(x, kernel) + bias)

  def _start(self, key: Array, shape: tuple[int, ...]) -> Array:
    if self.config.activation == "tanh":
      return jax.random.normal(key, shape) / math.sqrt(shape[0] * shape[1])
    return jax.random.uniform(key, shape, jnp.float32, -CONVOLUTION_BOUND, CONVOLUTION_BOUND)


class Gate(Dense):
  """A dense layer whose biases begin at CARRY_BIAS."""

  def setup(self):
    self.kernel = self.param("kernel", self.kernel_init, (*self.inputs, *self.outputs))
    self.bias = self.param("bias", nn.initializers.constant(CARRY_BIAS), self.outputs)


class Highway(nn.Module):
  """g * relu(x W_t + b_t) + (1 - g) * x with g = sigmoid(x W_c + b_c) (Srivastava et al. 2015).

  The published name of the gate is `carry`, though what it lets pass is the transform.
  """

  size: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    sizes = (self.size,), (self.size,), by_inputs(self.size), self.dtype
    gate, new = Gate(*sizes, name="carry")(x), Dense(*sizes, name="transform")(x)
    gate = jax.nn.sigmoid(gate.astype(jnp.float32))
    return gate * jax.nn.relu(new.astype(jnp.float32)) + (1 - gate) * x


class CharacterEncoder(nn.Module):
  """Spelled words int [..., C] -> float32 [..., P]. Row 0 of the table, no character at all, is zeros and stays so."""

  config: CharacterConfig

  @nn.compact
  def __call__(self, words: Array) -> Array:
    c, size = self.config, sum(number for _, number in self.config.filters)
    table = self.param("embedding", _uniform_but_first, (CHARACTERS, c.embedding))
    table = jnp.where(jnp.arange(CHARACTERS)[:, None] > 0, table, 0.0)
    x = jnp.take(table, words.reshape(-1, words.shape[-1]), axis=0)
    parts = [Convolution(*filters, c, name=f"conv_{i}")(x) for i, filters in enumerate(c.filters)]
    x = jnp.concatenate(parts, axis=-1)
    for i in range(c.highway):
      x = Highway(size, c.dtype, name=f"highway_{i}")(x)
    x = Dense((size,), (c.projection,), by_inputs(size), c.dtype, name="projection")(x)
    return x.astype(jnp.float32).reshape(*words.shape[:-1], c.projection)


def by_inputs(inputs: int) -> Init:
  """N(0, 1 / sqrt(inputs)), as all matrices outside the LSTMs begin."""
  return Init(inputs**-0.5, truncated=False)


def _uniform_but_first(key: Array, shape: tuple[int, ...]) -> Array:
  return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0).at[0].set(0.0)


CHARACTER_AXES = (
  (r"^char/embedding$", (None, None)),
  (r"^char/conv_\d+/kernel$", (None, None, "mlp")),
  (r"^char/conv_\d+/bias$", ("mlp",)),
  (r"^char/projection/kernel$", ("mlp", "embed")),
  (r"^char/projection/bias$", ("embed",)),
)
HIGHWAY_AXES = (
  (r"^char/highway_\d+/(carry|transform)/kernel$", ("embed", "mlp")),
  (r"^char/highway_\d+/(carry|transform)/bias$", ("mlp",)),
)
