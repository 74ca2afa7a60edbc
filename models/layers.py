"""Building blocks of the transformer encoders: dense, layer norm, dropout, embedding tables, self-attention, FFN.

Parameters are float32; matrix products run in the compute dtype, normalisation and softmax in float32.
Dimension letters: B batch, L tokens, D model, N heads, H head size, F feed-forward, Q/K query and key positions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


@jax.custom_vjp
def gelu(x: Array) -> Array:
  """x * Phi(x), the exact erf form (Hendrycks and Gimpel 2016), float32 inside; the backward pass keeps x alone."""
  wide = x.astype(jnp.float32)
  return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_backward(x, gradient):
  wide = x.astype(jnp.float32)
  density = jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
  return (((_normal_cdf(wide) + wide * density) * gradient.astype(jnp.float32)).astype(x.dtype),)


def _normal_cdf(x):
  return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "gelu": gelu,
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class Init:
  """Initialiser of weights: Normal(0, std), cut at two sigma unless `truncated` is False.

  The cut one is not rescaled, as TensorFlow's truncated_normal (effective std 0.88 * std).
  """

  std: float
  truncated: bool = True

  def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    if self.truncated:
      return self.std * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)
    return self.std * jax.random.normal(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class LayerConfig:
  """Sizes and choices that the sublayers of one encoder share."""

  hidden: int
  heads: int
  ffn: int
  dropout: float
  attention_dropout: float
  activation: str
  norm_eps: float
  init: Init
  dtype: Any = jnp.float32

  @property
  def head_dim(self) -> int:
    return self.hidden // self.heads


def dropout(x: Array, rate: float, key: Array | None) -> Array:
  """Inverted dropout; `key` None or rate 0 is the identity. The mask depends on the key and the global shape only."""
  if key is None or rate == 0.0:
    return x
  keep = random_words(key, x.shape) >= jnp.uint32(round(rate * 2**32))
  return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def random_words(key: Array, shape: tuple[int, ...]) -> Array:
  """Uniform uint32 words for dropout: a hash of the key, the row (first axis) and the place in the row.

  jax.random's generator spends as long on a mask as the rest of a layer's elementwise work. This hash is a few integer
  operations that fuse into whatever reads the mask, forward and backward, so no mask is ever stored; being a
  function of global indices, it is the same on every mesh.
  """
  first, second = jax.random.key_data(key).reshape(-1)[:2].astype(jnp.uint32)
  rows = _mix(_mix(jax.lax.iota(jnp.uint32, shape[0]) ^ first) + second)
  place = jnp.zeros(shape[1:], jnp.uint32)
  for axis, size in enumerate(shape[1:]):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis)
  return _mix(place ^ rows.reshape(-1, *[1] * (len(shape) - 1)))


def _mix(x: Array) -> Array:
  """A bijection of 32-bit words; every bit of the result depends on every bit of x (lowbias32, C. Wellons 2018)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(letters: str, a: Array, b: Array) -> Array:
  """einsum with a float32 result, whose backward products run in the dtype of `a` and `b`.

  Left to itself the float32 cotangent would make both of them float32 products, several times slower on accelerators.
  """
  return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def _product_backward(letters, operands, gradient):
  a, b = operands
  return jax.vjp(lambda a, b: jnp.einsum(letters, a, b), a, b)[1](gradient.astype(a.dtype))


product.defvjp(lambda letters, a, b: (product(letters, a, b), (a, b)), _product_backward)


def split_key(key: Array | None, n: int) -> list[Array | None]:
  """n independent keys, or n times None."""
  return [None] * n if key is None else list(jax.random.split(key, n))


class Dense(nn.Module):
  """Affine map between groups of axes: the last len(inputs) axes of x become `outputs`.

  Kernel [*inputs, *outputs], bias [*outputs].
  """

  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  kernel_init: Callable
  dtype: Any = jnp.float32
  use_bias: bool = True

  def setup(self):
    self.kernel = self.param("kernel", self.kernel_init, (*self.inputs, *self.outputs))
    if self.use_bias:
      self.bias = self.param("bias", nn.initializers.zeros, self.outputs)

  def __call__(self, x: Array) -> Array:
    n_in, n_out = math.prod(self.inputs), math.prod(self.outputs)
    lead = x.shape[: x.ndim - len(self.inputs)]
    # Two axes, not three: XLA's CPU compiler needs more than twice as long for the gradients of a product of three.
    y = x.reshape(-1, n_in).astype(self.dtype) @ self.kernel.reshape(n_in, n_out).astype(self.dtype)
    if self.use_bias:
      y = y + self.bias.reshape(n_out).astype(self.dtype)
    return y.reshape(*lead, *self.outputs)


class LayerNorm(nn.Module):
  """Layer norm over the last axis with float32 statistics; returns the compute dtype."""

  size: int
  eps: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param("scale", nn.initializers.ones, (self.size,))
    bias = self.param("bias", nn.initializers.zeros, (self.size,))
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * (jax.lax.rsqrt(variance + self.eps) * scale) + bias).astype(self.dtype)


class Table(nn.Module):
  """An embedding table [rows, width] that is looked up and, when tied, multiplied."""

  rows: int
  width: int
  init: Init
  zero_row: int | None = None  # a row that starts at zero (RoBERTa's padding)
  used: int | None = None  # rows from here on only pad the table: zeros, which no norm of it should count

  def setup(self):
    self.embedding = self.param("embedding", self._start)

  def _start(self, key: Array) -> Array:
    table = self.init(key, (self.rows, self.width))
    table = table if self.zero_row is None else table.at[self.zero_row].set(0.0)
    return table if self.used is None else table.at[self.used :].set(0.0)

  def __call__(self, ids: Array) -> Array:
    return jnp.take(self.embedding, ids, axis=0)


class SelfAttention(nn.Module):
  """Multi-head self-attention with its residual connection and post-layer-norm (Vaswani et al. 2017, section 3.2).

  x [B, L, D], mask bool [B, 1, Q, K] (True = may attend) -> [B, L, D].
  """

  config: LayerConfig

  def setup(self):
    c = self.config
    self.query, self.key, self.value = (self._projection() for _ in range(3))
    self.output = Dense((c.heads, c.head_dim), (c.hidden,), c.init, c.dtype)
    self.norm = LayerNorm(c.hidden, c.norm_eps, c.dtype)

  def _projection(self) -> Dense:
    c = self.config
    return Dense((c.hidden,), (c.heads, c.head_dim), c.init, c.dtype)

  def __call__(self, x: Array, mask: Any, key: Array | None) -> Array:
    probability_key, output_key = split_key(key, 2)
    output = self.output(self.context(x, mask, probability_key))
    return self.norm(x + dropout(output, self.config.dropout, output_key))

  def context(self, x: Array, mask: Any, key: Array | None) -> Array:
    """What each token takes from the tokens that it sees, [B, L, N, H]."""
    return dot_product_attention(self.query(x), self.key(x), self.value(x), mask, self.config.attention_dropout, key)

  def everyone(self, tokens: int) -> Any:
    """A mask under which all of `tokens` tokens see each other."""
    return jnp.ones((1, 1, tokens, tokens), bool)


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  mask: Array,
  dropout_rate: float,
  dropout_key: Array | None,
  scale: float | None = None,
) -> Array:
  """softmax(scale q k) v with dropout on the probabilities. [B, Q, N, H], [B, K, N, H], mask [B, 1, Q, K].

  scale: None = 1 / sqrt(H).
  """
  query = query * jnp.asarray(query.shape[-1] ** -0.5 if scale is None else scale, query.dtype)
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # heads lead: plain batched products
  scores = product("BNQH,BNKH->BNQK", query, key)
  scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  context = jnp.einsum("BNQK,BNKH->BNQH", dropout(probabilities, dropout_rate, dropout_key), value)
  return jnp.swapaxes(context, 1, 2)


def attention_mask(segments: Array) -> Array:
  """bool [B, 1, L, L]: tokens see their own segment only. Padding sees padding, so no row of it is empty."""
  return segments[:, None, :, None] == segments[:, None, None, :]


class FeedForward(nn.Module):
  """Position-wise feed-forward with its residual connection and post-layer-norm. [B, L, D] -> [B, L, D]."""

  config: LayerConfig

  @nn.compact
  def __call__(self, x: Array, key: Array | None) -> Array:
    c = self.config
    inner = ACTIVATIONS[c.activation](Dense((c.hidden,), (c.ffn,), c.init, c.dtype, name="up")(x))
    output = Dense((c.ffn,), (c.hidden,), c.init, c.dtype, name="down")(inner)
    return LayerNorm(c.hidden, c.norm_eps, c.dtype, name="norm")(x + dropout(output, c.dropout, key))
