"""Optimisers and schedules as published, on optax's interface.

The step hands the learning rate in; a transformation here returns the direction that is multiplied by -lr.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.encoder import EncoderConfig
from models.paths import map_named, matches
from models.stack import copy_rows

Array = jax.Array


class MomentsState(NamedTuple):
  """count: updates since the moments were zero; mu, nu: float32 first and second moments."""

  count: Array
  mu: Any
  nu: Any


def scale_by_moments(
  b1: float, b2: float, eps: float, bias_correction: bool, eps_hat: bool = False
) -> optax.GradientTransformation:
  """Adam's direction m / (sqrt(v) + eps), with or without bias correction.

  BERT's published optimiser has none (google-research/bert, optimization.py), so its first updates are about 3.16 times
  larger than Adam's at beta (0.9, 0.999).

  Args:
    eps_hat: where eps stands under bias correction. True: sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps), the form
      that Kingma and Ba 2015 (section 2) give for efficiency, which TensorFlow and fairseq (RoBERTa) compute; False:
      m_hat / (sqrt(v_hat) + eps), their algorithm 1, which PyTorch and optax compute.
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return MomentsState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
    mu, nu = jax.lax.optimization_barrier((mu, nu))  # written once, in place, and read below; not computed twice
    scale1 = 1 / (1 - b1**count) if bias_correction else 1.0
    scale2 = 1 / (1 - b2**count) if bias_correction else 1.0
    if bias_correction and eps_hat:
      scale1, scale2 = scale1 / jnp.sqrt(scale2), 1.0
    direction = jax.tree.map(lambda m, v: m * scale1 / (jnp.sqrt(v * scale2) + eps), mu, nu)
    return direction, MomentsState(count, mu, nu)

  return optax.GradientTransformation(init, update)


def decay_mask(params: Any, exclude: tuple[str, ...]) -> Any:
  """True for leaves whose weights decay: those whose path matches none of `exclude`."""
  return map_named(lambda path, _: not matches(path, exclude), params)


def adamw(
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  decay_exclude: tuple[str, ...],
  bias_correction: bool,
  eps_hat: bool = False,
) -> optax.GradientTransformation:
  """AdamW with decoupled decay, lr * weight_decay * w (Loshchilov and Hutter 2019; BERT's AdamWeightDecayOptimizer)."""
  return optax.chain(
    scale_by_moments(b1, b2, eps, bias_correction, eps_hat),
    optax.add_decayed_weights(weight_decay, mask=lambda params: decay_mask(params, decay_exclude)),
  )


def has_copies(path: str) -> bool:
  """Whether a parameter's leading axis is `copies`: rows that are tensors of their own, one of each block (a stack)."""
  return "layers" in path.split("/")


def tensor_norms(path: str, leaf: Array) -> Array:
  """L2 norm of each tensor in a leaf: [copies, 1, ...] where the leaf is a stack, else [1, ...]."""
  axes = tuple(range(int(has_copies(path)), leaf.ndim))
  return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axes, keepdims=True))


def scale_by_trust_ratio(exclude: tuple[str, ...]) -> optax.GradientTransformation:
  """Each tensor's update u times ||w|| / ||u||; times 1 where a norm is 0 or the path matches `exclude`. No clipping.

  Tensors are counted as the published code stores them: each block's kernel is one, though a stack holds them together.
  """

  def scaled(path, update, weight):
    if matches(path, exclude):
      return update
    above, below = tensor_norms(path, weight), tensor_norms(path, update)
    known = (above > 0) & (below > 0)
    return update * jnp.where(known, above / jnp.where(known, below, 1.0), 1.0)

  return optax.stateless(lambda updates, params: map_named(scaled, updates, params))


def lamb(
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  decay_exclude: tuple[str, ...],
  bias_correction: bool,
  eps_hat: bool = False,
) -> optax.GradientTransformation:
  """LAMB (You et al. 2020) as ALBERT's lamb_optimizer.py: AdamW's direction, then the trust ratio of each tensor.

  What does not decay has no trust ratio either. The published code corrects no bias.
  """
  return optax.chain(
    adamw(b1, b2, eps, weight_decay, decay_exclude, bias_correction, eps_hat), scale_by_trust_ratio(decay_exclude)
  )


class AdagradState(NamedTuple):
  """squares: float32 sums of squared gradients, with what they began at."""

  squares: Any


def adagrad(accumulator: float) -> optax.GradientTransformation:
  """Adagrad (Duchi et al. 2011) as TensorFlow has it: g / sqrt(accumulator + sum of g^2), without an epsilon.

  Rows of a table that a batch does not touch have no gradient, so that neither they nor their sums change, as in the
  original's sparse updates.
  """

  def init(params):
    return AdagradState(jax.tree.map(lambda p: jnp.full_like(p, accumulator), params))

  def update(grads, state, params=None):
    del params
    squares = jax.tree.map(lambda s, g: s + g * g, state.squares, grads)
    return jax.tree.map(lambda g, s: g * jax.lax.rsqrt(s), grads, squares), AdagradState(squares)

  return optax.GradientTransformation(init, update)


def sgd() -> optax.GradientTransformation:
  """The gradient itself."""
  return optax.identity()


Factors = Callable[[str], np.ndarray | float]  # path -> what its update is multiplied by: one number, or one a row


def layer_factors(c: EncoderConfig, decay: float, frozen: int = 0, top: int = 1) -> Factors:
  """Factors on the learning rate by depth: 1 for heads and pooler, decay^top for the top block, and so on downwards.

  Of L blocks, block i (from 0) has decay^(L - 1 - i + top), tables and the projection behind them decay^(L + top). A
  row that several blocks share has the factor of the topmost of them.

  Args:
    top: 1 as Clark et al. 2020 (appendix B) mean it, 2 as their code has it (get_layer_lrs), with which all their
      figures were taken.
    frozen: layers from the bottom whose rows do not change at all.
  Raises:
    ValueError: a frozen layer shares parameters with one that is not.
  """
  groups = {"attention": c.sharing.attention_groups, "ffn": c.sharing.ffn_groups}
  read = {part: copy_rows(c.layers, number, c.sharing.inner) for part, number in groups.items()}
  kept = frozen * c.sharing.inner  # blocks
  rows = {}
  for part, own in read.items():
    if shared := set(own[:kept].tolist()) & set(own[kept:].tolist()):
      raise ValueError(
        f"got {frozen} frozen layers of {c.layers} that share parameters ({part}, row {min(shared)}) with the others"
      )
    last = np.array([np.flatnonzero(own == row)[-1] for row in range(own.max() + 1)])
    rows[part] = np.where(last < kept, 0.0, decay ** (c.depth - 1 - last + top)).astype(np.float32)

  def factor(path: str) -> np.ndarray | float:
    names = path.split("/")
    if names[0] in ("heads", "pooler"):
      return 1.0
    return rows[names[names.index("layers") + 1]] if has_copies(path) else float(decay ** (c.depth + top))

  return factor


def scaled(transform: optax.GradientTransformation, factors: Factors) -> optax.GradientTransformation:
  """The transformation with each update, its weight decay included, times its factor; its state stays what it is."""

  def times(path, update):
    factor = jnp.asarray(factors(path), update.dtype)
    factor = factor.reshape(factor.shape + (1,) * (update.ndim - factor.ndim))
    return jnp.where(factor == 0, jnp.zeros_like(update), update * factor)

  def update(grads, state, params=None):
    direction, state = transform.update(grads, state, params)
    return map_named(times, direction), state

  return optax.GradientTransformation(transform.init, update)


def bert_schedule(peak: float, warmup: int, total: int) -> Callable[[Array], Array]:
  """lr of update s (from 0): peak * s / warmup below warm-up, then peak * (1 - s / total).

  The decay counts from step 0, so the rate jumps down at the end of warm-up, as in BERT's optimization.py, which ALBERT
  shares, and in SpanBERT's.
  """

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    rising = peak * step / max(warmup, 1)
    return jnp.where(step < warmup, rising, peak * jnp.maximum(1 - step / total, 0.0))

  return schedule


def linear_schedule(peak: float, warmup: int, total: int) -> Callable[[Array], Array]:
  """peak * s / warmup up to warm-up, then linearly from exactly peak to 0 at total (fairseq's polynomial decay)."""

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    falling = peak * jnp.clip((total - step) / max(total - warmup, 1), 0.0, 1.0)
    return jnp.where(step < warmup, peak * step / max(warmup, 1), falling)

  return schedule


def electra_schedule(peak: float, warmup: int, total: int) -> Callable[[Array], Array]:
  """peak * (1 - s / total) * min(1, s / warmup): the decay acts during warm-up too (ELECTRA's optimization.py)."""

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    rising = jnp.minimum(1.0, step / warmup) if warmup else 1.0
    return peak * rising * jnp.maximum(total - step, 0.0) / total

  return schedule


def constant_schedule(peak: float, warmup: int, total: int) -> Callable[[Array], Array]:
  """peak after a linear warm-up."""
  del total
  return lambda step: peak * jnp.minimum(1.0, jnp.asarray(step, jnp.float32) / max(warmup, 1)) if warmup else peak


SCHEDULES = {
  "bert": bert_schedule,
  "linear": linear_schedule,
  "electra": electra_schedule,
  "constant": constant_schedule,
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A transformation with its schedule and the global-norm clip that comes before it (0 = off)."""

  transform: optax.GradientTransformation
  schedule: Callable[[Array], Array]
  clip: float
