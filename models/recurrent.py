"""Projected LSTMs (Sak et al. 2014) in two directions that share nothing, as ELMo stacks them (Peters et al. 2018).

    z = x K_x + h K_h + b, split into i, j (the candidate), f, o
    c = clip(s(f + 1) c + s(i) tanh(j))
    h = clip((s(o) tanh(c)) P)

What is known beforehand, x K_x, is one large matrix product over all steps; a step of the loop has the two products
that need the step before it, for both directions at once. The backward pass is written by hand: its loop has two
products as well, and what only sums over steps (the gradients of kernels and of x) is one large product each behind the
loop, where differentiating the loop would add up a gradient of every kernel in each step.

Dimension letters: R directions (2), L steps, B rows, P projection, G gates (4), C cell, T layers.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Array, dropout, split_key

FORGET = 2  # place of the forget gate among the gates
FORGET_BIAS = 1.0  # is added to it, and does not stand in the bias


@dataclasses.dataclass(frozen=True)
class RecurrentConfig:
  """Sizes and choices of a stack.

  Attributes:
    cell: C. projection: P, also the width of the input.
    cell_clip, projection_clip: bounds of |c| and of |h|.
    skip: every layer but the first adds its input to its output; the state h is without it.
    dropout: of each layer's input, which is also what the skip adds.
    unroll: steps in one turn of the compiled loop.
    remat: gates are computed again for the backward pass, by one product over all steps; 4 C numbers a step and row
      less to keep.
    dtype: of matrix products; cells, gates and the carried state are float32.
  """

  cell: int
  projection: int
  layers: int
  cell_clip: float
  projection_clip: float
  skip: bool
  dropout: float
  unroll: int
  remat: bool
  dtype: Any = jnp.float32


class Kernels(NamedTuple):
  """Parameters of one layer: input, recurrent [R, P, 4C], bias [R, 4C], projection [R, C, P]."""

  input: Array
  recurrent: Array
  bias: Array
  projection: Array


class State(NamedTuple):
  """c [R, B, C] and h [R, B, P], float32."""

  c: Array
  h: Array


class Weights(nn.Module):
  """A kernel of `shape`, drawn Glorot uniform for a matrix of so many inputs and outputs."""

  shape: tuple[int, ...]
  inputs: int
  outputs: int

  @nn.compact
  def __call__(self) -> Array:
    bound = (6.0 / (self.inputs + self.outputs)) ** 0.5
    return self.param("kernel", lambda key: jax.random.uniform(key, self.shape, jnp.float32, -bound, bound))


class ProjectedLstms(nn.Module):
  """T layers of projected LSTMs in two directions. Parameters have the leading axes [T, R].

  The original holds K_x and K_h in one [2P, 4C] matrix, whose Glorot bound both get here.
  """

  config: RecurrentConfig

  def setup(self):
    c = self.config
    lead, gates = (c.layers, 2), (c.projection, 4, c.cell)
    self.input = Weights((*lead, *gates), 2 * c.projection, 4 * c.cell)
    self.recurrent = Weights((*lead, *gates), 2 * c.projection, 4 * c.cell)
    self.projection = Weights((*lead, c.cell, c.projection), c.cell, c.projection)
    self.bias = self.param("bias", nn.initializers.zeros, (*lead, 4, c.cell))

  def __call__(
    self, x: Array, carry: Array, mask: Array | None = None, key: Array | None = None
  ) -> tuple[Array, Array]:
    """Runs all layers over all steps.

    Args:
      x: [R, L, B, P]; each direction in the order in which it is read.
      carry: float32 [B, R, T, C + P], cells and then states h, from `empty_carry` or an earlier call.
      mask: bool [R, L, B]; False = the step does not advance the state of its row, and its output has no meaning.
      key: switches dropout on.
    Returns:
      (outputs float32 [T, R, L, B, P], skips added; the carry behind the last step).
    """
    c, outputs, states = self.config, [], []
    parameters = (*(_merged(p) for p in (self.input(), self.recurrent(), self.bias)), self.projection())
    options = Options(c.cell_clip, c.projection_clip, c.unroll, c.remat, c.dtype)
    for layer, layer_key in enumerate(split_key(key, c.layers)):
      start = State(*jnp.split(carry[:, :, layer].swapaxes(0, 1), [c.cell], axis=-1))
      kernels = Kernels(*(p[layer] for p in parameters))
      x = dropout(x, c.dropout, layer_key)
      y, end = projected_lstm(options, x, kernels, start, mask)
      x = x + y if c.skip and layer else y
      outputs.append(x)
      states.append(jnp.concatenate(end, axis=-1).swapaxes(0, 1))
    return jnp.stack(outputs), jnp.stack(states, axis=2)


def empty_carry(config: RecurrentConfig, rows: int) -> Array:
  """The state before anything was read: zeros [B, R, T, C + P]."""
  return jnp.zeros((rows, 2, config.layers, config.cell + config.projection))


# Whole on every device, also where parameters shard over `data`: they would be gathered again in each step of the loop.
RECURRENT_AXES = (
  (r"^layers/(input|recurrent)/kernel$", ("copies", None, None, None, None)),
  (r"^layers/bias$", ("copies", None, None, None)),
  (r"^layers/projection/kernel$", ("copies", None, None, None)),
)


# --- one layer ------------------------------------------------------------------------------------------------------


class Options(NamedTuple):
  """What of a RecurrentConfig one layer needs."""

  cell_clip: float
  projection_clip: float
  unroll: int
  remat: bool
  dtype: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def projected_lstm(
  options: Options, x: Array, kernels: Kernels, start: State, mask: Array | None
) -> tuple[Array, State]:
  """One layer over all steps: x [R, L, B, P], mask bool [R, L, B] | None -> (h float32 [R, L, B, P], end State)."""
  h, _, _, end = _run(options, x, kernels, start, mask, keep=False)
  return h, end


def _multiply(options: Options, a: Array, b: Array, axes_a: tuple[int, ...], axes_b: tuple[int, ...]) -> Array:
  """Sums over `axes_a` of a and `axes_b` of b, for each direction (axis 0); in the compute dtype, float32 out at least.

  Not einsum, which sums over pairs of axes in an order of its own: the arrays would be transposed for it.
  """
  a, b = a.astype(options.dtype), b.astype(options.dtype)
  wide = jnp.promote_types(options.dtype, jnp.float32)
  return jax.lax.dot_general(a, b, ((axes_a, axes_b), ((0,), (0,))), preferred_element_type=wide)


def _activate(z: Array) -> list[Array]:
  """The gates i, j, f, o of z [..., 4C]: sigmoid, but tanh of the candidate."""
  i, j, f, o = jnp.split(z, 4, axis=-1)
  sigmoid = jax.nn.sigmoid
  return [sigmoid(i), jnp.tanh(j), sigmoid(f + FORGET_BIAS), sigmoid(o)]


def _cast(options: Options, kernels: Kernels) -> Kernels:
  """Kernels in the compute dtype, once and not in every step; the bias as it is."""
  return Kernels(*(k.astype(options.dtype) for k in kernels))._replace(bias=kernels.bias)


def _merged(x: Array) -> Array:
  """[..., 4, C] as [..., 4C]."""
  return x.reshape(*x.shape[:-2], -1)


def _at(x: Array, step: Array) -> Array:
  return jax.lax.dynamic_index_in_dim(x, step, axis=1, keepdims=False)


def _put(x: Array, value: Array, step: Array) -> Array:
  return jax.lax.dynamic_update_index_in_dim(x, value.astype(x.dtype), step, axis=1)


def _run(
  options: Options, x: Array, kernels: Kernels, start: State, mask: Array | None, keep: bool
) -> tuple[Array, Array | None, Array | None, State]:
  """(h, c, gates over all steps, end); c and gates are None unless `keep`, gates too where they are computed again.

  Gates replace, step by step, the products that they are made from.
  """
  kernels = _cast(options, kernels)
  known = _multiply(options, x, kernels.input, (3,), (1,))
  kept = {"h": jnp.zeros(x.shape, start.h.dtype)}
  if keep:
    kept["c"] = jnp.zeros((*x.shape[:3], start.c.shape[-1]), start.c.dtype)
  in_place = keep and not options.remat
  if in_place:
    kept["gates"] = known

  def step(loop, t):
    state, kept = loop
    z = _at(kept["gates"] if in_place else known, t) + kernels.bias[:, None]
    gates = i, j, f, o = _activate(z + _multiply(options, state.h, kernels.recurrent, (2,), (1,)))
    c = jnp.clip(f * state.c + i * j, -options.cell_clip, options.cell_clip)
    h = _multiply(options, o * jnp.tanh(c), kernels.projection, (2,), (1,))
    h = jnp.clip(h, -options.projection_clip, options.projection_clip)
    if mask is not None:
      advance = _at(mask, t)[..., None]
      c, h = jnp.where(advance, c, state.c), jnp.where(advance, h, state.h)
    new = {"c": c, "h": h, "gates": jnp.concatenate(gates, axis=-1) if in_place else None}
    return (State(c, h), {name: _put(kept[name], new[name], t) for name in kept}), None

  (end, kept), _ = jax.lax.scan(step, (start, kept), jnp.arange(x.shape[1]), unroll=options.unroll)
  return kept["h"], kept.get("c"), kept.get("gates"), end


def _forward(
  options: Options, x: Array, kernels: Kernels, start: State, mask: Array | None
) -> tuple[tuple[Array, State], tuple]:
  h, c, gates, end = _run(options, x, kernels, start, mask, keep=True)
  return (h, end), (x, kernels, start, mask, h, c, gates)


def _backward(options: Options, saved: tuple, gradients: tuple[Array, State]) -> tuple[Array, Kernels, State, None]:
  x, kernels, start, mask, h, c, gates = saved
  dh_out, d_end = gradients
  kernels = _cast(options, kernels)
  before = jnp.concatenate([start.h[:, None], h[:, :-1]], axis=1)
  if gates is None:
    z = _multiply(options, x, kernels.input, (3,), (1,)) + kernels.bias[:, None, None]
    gates = jnp.concatenate(_activate(z + _multiply(options, before, kernels.recurrent, (3,), (1,))), axis=-1)

  def step(loop, t):
    dc, dh, kept = loop
    i, j, f, o = jnp.split(_at(gates, t), 4, axis=-1)
    c_t, c_before = _at(c, t), jnp.where(t > 0, _at(c, jnp.maximum(t - 1, 0)), start.c)
    dh = dh + _at(dh_out, t)
    advance = True if mask is None else _at(mask, t)[..., None]
    dh_new = jnp.where(advance & (jnp.abs(_at(h, t)) < options.projection_clip), dh, 0.0)
    tanh_c = jnp.tanh(c_t)
    dm = _multiply(options, dh_new, kernels.projection, (2,), (2,))
    dc_new = dc + dm * o * (1 - tanh_c * tanh_c)
    dc_new = jnp.where(advance & (jnp.abs(c_t) < options.cell_clip), dc_new, 0.0)
    di, dj, df, do = dc_new * j, dc_new * i, dc_new * c_before, dm * tanh_c
    dz = jnp.concatenate([di * i * (1 - i), dj * (1 - j * j), df * f * (1 - f), do * o * (1 - o)], axis=-1)
    kept = _put(kept[0], dz, t), _put(kept[1], dh_new, t)
    # The kernel stands first: as the second factor it would be rearranged in every step. The barrier keeps it there.
    dh_before = _multiply(options, kernels.recurrent, dz, (2,), (2,))
    dh_before = jax.lax.optimization_barrier(dh_before).swapaxes(1, 2)
    dc_before = dc_new * f
    if mask is not None:
      dh_before, dc_before = dh_before + jnp.where(advance, 0.0, dh), dc_before + jnp.where(advance, 0.0, dc)
    return (dc_before, dh_before, kept), None

  kept = jnp.zeros_like(gates), jnp.zeros_like(h)
  loop, _ = jax.lax.scan(step, (d_end.c, d_end.h, kept), jnp.arange(x.shape[1]), reverse=True, unroll=options.unroll)
  dc, dh, (dz, dh_new) = loop
  m = jnp.split(gates, 4, axis=-1)[3] * jnp.tanh(c)
  d_kernels = Kernels(
    input=_multiply(options, x, dz, (1, 2), (1, 2)),
    recurrent=_multiply(options, before, dz, (1, 2), (1, 2)),
    bias=jnp.sum(dz, axis=(1, 2)),
    projection=_multiply(options, m, dh_new, (1, 2), (1, 2)),
  )
  dx = _multiply(options, dz, kernels.input, (3,), (2,)).astype(x.dtype)
  return dx, d_kernels, State(dc, dh), None


projected_lstm.defvjp(_forward, _backward)
