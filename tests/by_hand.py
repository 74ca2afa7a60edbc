"""What tests of models share: parameters without zeros, the loss of an objective term by term, layers in NumPy."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from models.paths import map_named
from objectives.base import Draws
from tests.tenants import ROWS


def random_params(objective, batch):
  """Parameters without zeros and ones, so that every bias and scale shows; scales are about 1."""
  shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch))
  rng = np.random.default_rng(0)
  return map_named(lambda path, leaf: np.float32(rng.normal(path.endswith("scale"), 0.2, leaf.shape)), shapes)


def apply(objective, params, *arrays, method=None):
  return jax.jit(lambda p, *a: objective.model.apply({"params": p}, *a, method=method))(params, *arrays)


@functools.cache
def differentiate(objective):
  """(params, batch, {term: weight}) -> (sums, gradient of the weighted sum, counts), jitted."""

  def total(params, batch, weights):
    draws = Draws(jax.random.key(0), jnp.int32(0), jnp.int32(0), jnp.arange(ROWS))
    sums, *_ = objective.sums(params, None, batch, draws, False)
    return sum(weights[term] * sums[term] for term in sums), (sums, objective.counts(batch))

  return jax.jit(jax.value_and_grad(total, has_aux=True))


def terms(objective, params, batch, **weights):
  """(sums, gradient of their total, counts); `weights` picks some terms."""
  weights = {term: weights.get(term, 0.0 if weights else 1.0) for term in objective.weights}
  (_, (sums, counted)), gradient = differentiate(objective)(params, batch, weights)
  return sums, gradient, counted


def embedded(objective, params, tokens):
  """(what enters the first block, number of states that the encoder returns)."""
  encode = lambda p: objective.model.apply({"params": p}, tokens.ids, tokens, None, True).layers
  return jax.jit(lambda p: encode(p)[0])(params), len(jax.eval_shape(encode, params))


def normalised(x, norm, eps):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * norm["scale"] + norm["bias"]


def dense(x, layer):
  return x @ layer["kernel"] + layer["bias"]


def gelu(x):
  return x * 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5))


def gelu_tanh(x):
  return x * 0.5 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
