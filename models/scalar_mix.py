"""One vector of a word from all layers of a language model (Peters et al. 2018, section 3.2).

    gamma * sum_j s_j h_j,  s = softmax(w)

w begins at zeros and gamma at one, so a mix begins as the plain average. Each place of a network where the vectors
enter has a mix of its own. Dimension letters: T layers above the word's own, D their width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Array

MIXTURES = ("learned", "equal", "top", "first")  # or the number of a layer: 0 = the word's own
NORM_EPS = 1e-12


class MixtureError(ValueError):
  """A mixture that there is not, or of a layer that the language model lacks."""


def mixed_layers(mixture: str, top: int) -> slice:
  """Which of the layers 0 .. `top` a mixture reads; `first` is the first one that has read the context.

  Raises:
    MixtureError: saying which mixtures there are.
  """
  number = {"top": str(top), "first": "1"}.get(mixture, mixture)
  if number in ("learned", "equal"):
    return slice(0, top + 1)
  if not number.isdecimal() or int(number) > top:
    raise MixtureError(f"mixture: got {mixture!r}, want {', '.join(MIXTURES)} or the number of a layer from 0 to {top}")
  return slice(int(number), int(number) + 1)


class ScalarMix(nn.Module):
  """The mix of one place. Parameters: gamma [], and, where it is learned, weights [T + 1], both before any scale.

  Attributes:
    top: T.
    mixture: `learned`; `equal`: the plain average, all that a very large penalty leaves; `top`, `first` or the number
      of a layer: that layer alone. gamma is learned in all of them.
    layer_norm: each layer is first brought to mean 0 and variance 1, over all words of the batch and all of D at once.
  """

  top: int
  mixture: str
  layer_norm: bool

  def setup(self):
    self.gamma = self.param("gamma", nn.initializers.ones, ())
    if self.mixture == "learned":
      self.weights = self.param("weights", nn.initializers.zeros, (self.top + 1,))

  def __call__(self, layers: Array, mask: Array) -> Array:
    """float32 [T + 1, ..., D], bool [...] (True = a word stands there) -> float32 [..., D]; zeros where none stands."""
    layers = layers[mixed_layers(self.mixture, self.top)]
    if self.layer_norm:
      layers = normalise(layers, mask)
    if self.mixture == "learned":
      mixed = jnp.tensordot(jax.nn.softmax(self.weights), layers, axes=1)
    else:
      mixed = jnp.mean(layers, axis=0)
    return jnp.where(mask[..., None], self.gamma * mixed, 0.0)


def normalise(layers: Array, mask: Array) -> Array:
  """Each layer of [T + 1, ..., D] by one mean and one variance, those of the entries whose word is in mask [...]."""
  inside, axes = mask[..., None], tuple(range(1, layers.ndim))
  count = jnp.maximum(jnp.sum(mask) * layers.shape[-1], 1)
  mean = lambda x: jnp.sum(jnp.where(inside, x, 0.0), axis=axes, keepdims=True) / count
  centred = layers - mean(layers)
  return centred * jax.lax.rsqrt(mean(jnp.square(centred)) + NORM_EPS)


def mix_axes(places: tuple[str, ...], mixture: str) -> tuple:
  """Sharding rules of the mixes below mix/, one for each place."""
  names = (("gamma", ()), ("weights", (None,))) if mixture == "learned" else (("gamma", ()),)
  return tuple((rf"^mix/{place}/{name}$", axes) for place in places for name, axes in names)
