"""Plain LSTMs in two directions (Hochreiter and Schmidhuber 1997; Graves and Schmidhuber 2005), as tasks stack them.

    i, f, o = s(x W_x + h W_h + b), g = tanh(x W_x + h W_h + b), each with columns of its own
    c = f c + i g
    h = o tanh(c)

What is known beforehand, x W_x, is one product over all steps and both directions; a step of the loop has the one
product that needs the step before it, again for both. The backward direction walks the columns from the last one on:
padding does not advance a state, so it begins at the last word of each sentence, whatever its length.

Dimension letters: B rows, L steps, D input, R directions (2), G gates (4: i, f, g, o), H hidden.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Array, Dense, dropout, split_key

FORGET = 1  # place of the forget gate among the gates


class BiLstm(nn.Module):
  """Layers of LSTMs, each of which reads both directions of the one below it.

  Initial parameters: Glorot uniform W_x, orthogonal W_h, zero biases but those of the forget gate, which are 1
  (Jozefowicz et al. 2015).

  Attributes:
    inputs: D. hidden: H, of one direction.
    dropout: between layers.
    dtype: of matrix products; cells, gates and states are float32.
  """

  inputs: int
  hidden: int
  layers: int
  dropout: float
  dtype: Any = jnp.float32

  def setup(self):
    sizes = (self.inputs, *[2 * self.hidden] * (self.layers - 1))
    self.layer = [BiLstmLayer(size, self.hidden, self.dtype) for size in sizes]

  def __call__(self, x: Array, mask: Array, key: Array | None = None) -> Array:
    """x [B, L, D], mask bool [B, L], words before padding -> float32 [B, L, 2H], forward half first.

    What stands at padding is not read and is zeros in the result. `key` switches dropout on.
    """
    keys = split_key(key, len(self.layer))
    for number, layer in enumerate(self.layer):
      x = layer(dropout(x, self.dropout, keys[number]) if number else x, mask)
    return x


class BiLstmLayer(nn.Module):
  """One layer: parameters input/kernel [D, R, G, H], recurrent [R, H, G, H] and bias [R, G, H]."""

  inputs: int
  hidden: int
  dtype: Any = jnp.float32

  def setup(self):
    gates = (2, 4, self.hidden)
    self.input = Dense((self.inputs,), gates, glorot(self.inputs, 4 * self.hidden), self.dtype, use_bias=False)
    self.recurrent = self.param("recurrent", _orthogonal, (2, self.hidden, 4, self.hidden))
    self.bias = self.param("bias", lambda key: jnp.zeros(gates).at[:, FORGET].set(1.0))

  def __call__(self, x: Array, mask: Array) -> Array:
    rows, steps, _ = x.shape
    z = self.input(x).astype(jnp.float32) + self.bias
    z = z.reshape(rows, steps, 2, 4 * self.hidden).transpose(1, 2, 0, 3)
    outputs = recur(_turned(z), self.recurrent.reshape(2, self.hidden, -1).astype(self.dtype), mask)
    outputs = _turned(outputs).transpose(2, 0, 1, 3).reshape(rows, steps, 2 * self.hidden)
    return jnp.where(mask[..., None], outputs, 0.0)


def recur(z: Array, kernel: Array, mask: Array) -> Array:
  """The loop over steps: z float32 [L, R, B, GH] in the order of reading, kernel [R, H, GH], mask [B, L] -> h.

  Returns:
    float32 [L, R, B, H], in the order of reading; at padding, the state of the step before it.
  """
  _, directions, rows, width = z.shape
  advance = _turned(jnp.broadcast_to(mask.T[:, None], (len(z), directions, rows)))[..., None]

  def step(state, inputs):
    (c, h), (z, advance) = state, inputs
    z += jnp.einsum("RBH,RHG->RBG", h.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
    i, f, g, o = jnp.split(z, 4, axis=-1)
    new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
    c, h = jnp.where(advance, new_c, c), jnp.where(advance, new_h, h)
    return (c, h), h

  zeros = jnp.zeros((directions, rows, width // 4))
  return jax.lax.scan(step, (zeros, zeros), (z, advance))[1]


def _turned(x: Array) -> Array:
  """x [L, R, ...] with the steps of direction 1 reversed."""
  return jnp.stack([x[:, 0], x[::-1, 1]], axis=1)


def glorot(inputs: int, outputs: int) -> Any:
  """Initialiser: uniform in +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), for any shape."""
  bound = (6.0 / (inputs + outputs)) ** 0.5
  return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _orthogonal(key: Array, shape: tuple[int, ...]) -> Array:
  """The H rows of [H, GH] orthonormal, in each direction (Saxe et al. 2014); flax's `orthogonal`, drawn as it is."""
  directions, hidden, gates, _ = shape
  draw = lambda key: jax.random.normal(key, (gates * hidden, hidden), jnp.float32)
  drawn = jax.vmap(draw)(jax.random.split(key, directions))
  return jax.vmap(_orthonormal)(drawn).swapaxes(1, 2).reshape(shape)


def _orthonormal(x: Array) -> Array:
  """The columns of x [N, H], N >= H, made orthonormal one after the other: Q of its QR decomposition, R's diagonal
  above 0.

  By Gram and Schmidt, twice over, which is exact to rounding. LAPACK's QR is not asked: on the CPU its batches wait for
  threads of the pool that they run in, and two at a time wait for each other for ever (jaxlib 0.10).
  """
  times = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

  def column(number, found):
    own = x[:, number]
    for _ in range(2):
      own -= times(found, times(found.T, own))
    return found.at[:, number].set(own / jnp.linalg.norm(own))

  return jax.lax.fori_loop(0, x.shape[1], column, jnp.zeros_like(x))


def lstm_axes(name: str) -> tuple:
  """Sharding rules of a BiLstm whose parameters stand below `name`."""
  return (
    (rf"^{name}/layer_\d+/input/kernel$", ("embed", None, None, None)),
    (rf"^{name}/layer_\d+/recurrent$", (None, "embed", None, None)),
    (rf"^{name}/layer_\d+/bias$", (None, None, None)),
  )
