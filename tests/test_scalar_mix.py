"""The mix of a language model's layers, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.scalar_mix import MixtureError, ScalarMix, mix_axes, mixed_layers
from models.sharding import axis_names

TOP, ROWS, STEPS, WIDTH = 2, 3, 4, 6
MASK = np.arange(STEPS) < np.array([4, 2, 0])[:, None]
PARAMS = {"weights": np.float32([0.5, -1.0, 2.0]), "gamma": np.float32(1.7)}


def layers(seed=0):
  """Layers of their own means and scales; large numbers where no word stands, which nothing may read."""
  rng = np.random.default_rng(seed)
  scales = np.array([1.0, 3.0, 0.2])[:, None, None, None]
  found = np.float32(rng.normal(scales, scales, (TOP + 1, ROWS, STEPS, WIDTH)))
  return np.where(MASK[..., None], found, 1e3)


@functools.cache
def compiled(mixture, layer_norm):
  mix = ScalarMix(TOP, mixture, layer_norm)
  return jax.jit(lambda params, *arguments: mix.apply({"params": params}, *arguments))


def mixed(mixture="learned", layer_norm=False, params=PARAMS, mask=MASK, of=None):
  params = params if mixture == "learned" else {"gamma": params["gamma"]}
  return np.asarray(compiled(mixture, layer_norm)(params, layers() if of is None else of, mask))


def by_hand(shares, layer_norm=False, gamma=1.7):
  """gamma * sum_j s_j h_j, word by word; the norm has one mean and one variance a layer."""
  result = np.zeros((ROWS, STEPS, WIDTH))
  for share, layer in zip(shares, layers().astype(np.float64)):
    if layer_norm:
      words = layer[MASK]
      layer = (layer - words.mean()) / np.sqrt(words.var() + 1e-12)
    result += gamma * share * layer
  return np.where(MASK[..., None], result, 0)


def softmax(x):
  return np.exp(x) / np.exp(x).sum()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(
  "mixture, shares",
  {
    "learned": softmax(PARAMS["weights"]), "equal": [1 / 3] * 3, "top": [0, 0, 1], "first": [0, 1, 0], "0": [1, 0, 0],
  }.items(),
)  # fmt: skip
def test_a_mix_is_a_weighted_sum_of_layers(mixture, shares, layer_norm):
  assert np.allclose(mixed(mixture, layer_norm), by_hand(shares, layer_norm), atol=1e-5)


def test_a_fresh_mix_is_the_plain_average():
  params = ScalarMix(TOP, "learned", False).init(jax.random.key(0), layers(), MASK)["params"]
  assert {name: leaf.tolist() for name, leaf in params.items()} == {"weights": [0, 0, 0], "gamma": 1}
  assert np.allclose(mixed(params=params), by_hand([1 / 3] * 3, gamma=1.0), atol=1e-5)


def test_normalised_layers_weigh_alike():
  """Every layer alone has mean 0 and variance 1 over the words of the batch, not of one word."""
  for mixture in ("0", "first", "top"):
    words = mixed(mixture, True, {"gamma": np.float32(1)})[MASK]
    assert abs(words.mean()) < 1e-5 and abs(words.var() - 1) < 1e-4
    assert np.abs(words.mean(axis=-1)).max() > 0.05


def test_a_batch_without_words_is_zeros():
  assert not mixed(layer_norm=True, mask=np.zeros_like(MASK)).any()


@pytest.mark.parametrize("strength, least, most", [(100.0, 0.33, 0.335), (1e-3, 0.9, 1.0)])
def test_a_large_penalty_leaves_the_average(strength, least, most):
  """Where only the middle layer helps, lambda decides whether the mix may prefer it (Peters et al. 2018, 3.4)."""
  wanted = by_hand([0, 1, 0], True, gamma=1.0)

  def loss(params):
    error = compiled("learned", True)(params, layers(), MASK) - wanted
    return jnp.mean(error**2) + strength * jnp.sum(params["weights"] ** 2)

  rate = min(0.5, 0.3 / strength)
  descend = lambda _, params: jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))
  params = jax.jit(lambda: jax.lax.fori_loop(0, 2000, descend, {"weights": jnp.float32([1, 0, 0]), "gamma": 1.0}))()
  assert least < softmax(np.asarray(params["weights"]))[1] < most


@pytest.mark.parametrize("mixture", ["3", "-1", "last", ""])
def test_a_mixture_that_there_is_not(mixture):
  with pytest.raises(MixtureError, match="^mixture: got .*, want learned, equal, top, first or the number .* 0 to 2$"):
    mixed_layers(mixture, TOP)


@pytest.mark.parametrize("mixture", ["learned", "top"])
def test_only_a_learned_mix_has_weights(mixture):
  mix = lambda: ScalarMix(TOP, mixture, False).init(jax.random.key(0), layers(), MASK)["params"]
  tree = {"mix": {place: jax.eval_shape(mix) for place in ("input", "output")}}
  rules = mix_axes(("input", "output"), mixture)
  assert len(axis_names(tree, rules)) == len(rules) == (4 if mixture == "learned" else 2)
