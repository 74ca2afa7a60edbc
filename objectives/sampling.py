"""Drawing one class for each of many slots from logits, on the device.

The usual way adds Gumbel noise to every logit and takes the argmax: a random number for each of slots x classes. Here a
slot needs two: the first picks one of GROUPS runs of classes by their cumulative mass, the second a class of that run.
So the noise costs nothing beside the logits, and full-quality random numbers (threefry) are affordable.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

GROUPS = 128  # runs of classes; vocabulary tables are padded to this, so a mesh that divides them divides the runs


def draw(logits: Array, uniforms: Array) -> Array:
  """One class of softmax(logits) for every slot.

  float32 throughout; a class of probability 0 (a padded row at -1e9) is never drawn. Classes below 2^-23 of the mass of
  their run, and runs below 2^-23 of the whole, are drawn at a resolution of that size.

  Args:
    logits: float [..., V'], V' a multiple of GROUPS. No gradient passes.
    uniforms: float32 [..., 2] in [0, 1).
  Returns:
    int32 [...].
  """
  logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
  top = jnp.max(logits, axis=-1, keepdims=True)
  runs = logits.reshape(*logits.shape[:-1], GROUPS, -1)
  group = _crossing(jnp.sum(jnp.exp(runs - top[..., None]), axis=-1), uniforms[..., 0])
  run = jnp.take_along_axis(runs, group[..., None, None], axis=-2)[..., 0, :]
  return group * run.shape[-1] + _crossing(jnp.exp(run - top), uniforms[..., 1])


def _crossing(masses: Array, uniform: Array) -> Array:
  """int32 [...]: the first class of positive mass at which the cumulative mass [..., n] passes uniform * total."""
  reached = jnp.where(masses > 0, jnp.cumsum(masses, axis=-1), 0.0)
  threshold = uniform * jnp.max(reached, axis=-1)  # below the maximum, so that some class passes it
  return jnp.argmax(reached > threshold[..., None], axis=-1).astype(jnp.int32)
