"""Entity-aware attention: every form against four separate blocks of scores, in values, gradients and dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.entity_attention import FORMS, EntityAttention, doubled_heads, split_mask
from models.layers import Init, LayerConfig, SelfAttention, attention_mask, dropout
from models.paths import map_named, named_leaves

WORDS, ENTITIES, D, N = 10, 5, 24, 3
LAYER = LayerConfig(D, N, 48, 0.0, 0.0, "gelu", 1e-5, Init(0.5))
THREE = ("dense", "doubled", "merged")
QUERIES = ("query", "word_to_entity", "entity_to_word", "entity_to_entity")
WORD_SEGMENTS = np.array([[1] * 10, [1] * 6 + [2] * 3 + [0], [1] * 7 + [0] * 3, [1] * 10, [1] * 5 + [2] * 5])
ENTITY_SEGMENTS = np.array([
  [1, 1, 1, 1, 1],  # everything real
  [1, 2, 2, 1, 0],  # two packed examples and padding of both kinds
  [1, 0, 0, 0, 0],
  [0, 0, 0, 0, 0],  # a row without entities, and without padded words: padded entities see no word at all
  [1, 1, 0, 0, 0],  # the second example has no entity
])  # fmt: skip

WORD_MASK = np.asarray(attention_mask(WORD_SEGMENTS))
ONES = np.ones((len(WORD_SEGMENTS), N, WORDS + ENTITIES, WORDS + ENTITIES), np.float32)  # nothing is dropped


@functools.cache
def case():
  """(parameters with random biases and norms, x, masks)."""
  full = np.asarray(attention_mask(np.concatenate([WORD_SEGMENTS, ENTITY_SEGMENTS], axis=1)))
  masks = split_mask(full, WORDS)
  rng = np.random.default_rng(0)
  x = np.float32(rng.standard_normal((len(full), WORDS + ENTITIES, D)))
  shapes = jax.eval_shape(lambda: EntityAttention(LAYER).init(jax.random.key(1), x, masks, None)["params"])
  draw = lambda path, leaf: np.float32(rng.normal(path == "norm/scale", 0.5 if "kernel" in path else 0.2, leaf.shape))
  return map_named(draw, shapes), x, masks


def four_blocks(p, x, masks, drop):
  """The formula, block by block: score(i, j) = q_kind(i)->kind(j)(x_i) k(x_j) / sqrt(H), one softmax, times V."""
  project = lambda name, x: jnp.einsum("BLD,DNH->BNLH", x, p[name]["kernel"]) + p[name]["bias"][:, None]
  words, entities = x[:, :WORDS], x[:, WORDS:]
  kinds = {"word": words, "entity": entities}
  query = {
    ("word", "word"): "query", ("word", "entity"): "word_to_entity",
    ("entity", "word"): "entity_to_word", ("entity", "entity"): "entity_to_entity",
  }  # fmt: skip
  blocks = [
    [
      jnp.einsum("BNQH,BNKH->BNQK", project(query[one, other], kinds[one]), project("key", kinds[other]))
      for other in kinds
    ]
    for one in kinds
  ]
  scores = jnp.block(blocks) / np.sqrt(D // N)
  seen = jnp.concatenate(masks, axis=-1)
  shares = jnp.where(seen, jnp.exp(scores - jnp.max(jnp.where(seen, scores, -jnp.inf), -1, keepdims=True)), 0.0)
  shares = shares / shares.sum(-1, keepdims=True) * drop
  context = jnp.einsum("BNQK,BNKH->BQNH", shares, project("value", x))
  y = x + jnp.einsum("BLNH,NHD->BLD", context, p["output"]["kernel"]) + p["output"]["bias"]
  centred = y - y.mean(-1, keepdims=True)
  normal = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + LAYER.norm_eps)
  return normal * p["norm"]["scale"] + p["norm"]["bias"]


def with_gradients(function, *arguments):
  """(value, gradients by every argument) of a loss that weighs each output differently."""

  def loss(*arguments):
    y = function(*arguments)
    return jnp.sum(jnp.sin(3 * y)), y

  (_, y), gradients = jax.value_and_grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)
  return y, gradients


def on_host(*static):
  """jit for tests: results are NumPy arrays, so that comparing them compiles nothing."""

  def decorated(function):
    jitted = jax.jit(function, static_argnums=static)
    return lambda *arguments: jax.device_get(jitted(*arguments))

  return decorated


@on_host(0, 1)
def attended(form, config, p, x, masks, key=None):
  """(outputs as float32, gradients by parameters and x) of a form."""
  apply = lambda p, x: EntityAttention(config, form).apply({"params": p}, x, masks, key).astype(jnp.float32)
  return with_gradients(apply, p, x)


@on_host()
def by_blocks(p, x, masks, drop):
  """The same of the formula."""
  return with_gradients(lambda p, x: four_blocks(p, x, masks, drop), p, x)


@on_host()
def plain(p, x, mask):
  """(outputs, gradient by x) of the layer with one query."""
  one = {name: leaf for name, leaf in p.items() if name not in QUERIES[1:]}
  return with_gradients(lambda x: SelfAttention(LAYER).apply({"params": one}, x, mask, None), x)


def assert_alike(got, want):
  """Outputs to 1e-5, gradients to 1e-4 of the largest entry of each."""
  np.testing.assert_allclose(got[0], want[0], atol=1e-5)
  for (path, left), right in zip(named_leaves(got[1]).items(), jax.tree.leaves(want[1]), strict=True):
    np.testing.assert_allclose(left, right, atol=1e-4 * np.abs(right).max(), err_msg=path)


def test_auto_is_one_of_the_three():
  assert FORMS.keys() == {"auto", *THREE} and FORMS["auto"] is FORMS["merged"]


@pytest.mark.parametrize("form", THREE)
def test_every_form_equals_four_blocks_of_scores(form):
  got = attended(form, LAYER, *case())
  assert_alike(got, by_blocks(*case(), ONES))
  assert all(np.abs(got[1][0][name]["kernel"]).max() > 1 for name in (*QUERIES, "key", "value"))


@pytest.mark.parametrize("form", THREE)
def test_without_entities_it_is_plain_attention_with_the_word_query(form):
  p, x, _ = case()
  words, mask = x[:, :WORDS], WORD_MASK
  y, (_, of_x) = attended(form, LAYER, p, words, (mask, None))
  assert_alike((y, (of_x,)), plain(p, words, mask))


@pytest.mark.parametrize("form", THREE)
def test_words_of_a_row_without_entities_are_as_if_there_were_no_slots(form):
  p, x, masks = case()
  got, _ = attended(form, LAYER, p, x, masks)
  without, _ = attended(form, LAYER, p, x[:, :WORDS], (WORD_MASK, None))
  np.testing.assert_allclose(got[3, :WORDS], without[3], atol=1e-5)


@pytest.mark.parametrize("form", THREE)
def test_four_equal_queries_are_the_plain_layer(form):
  p, x, masks = case()
  p = p | {name: p["query"] for name in QUERIES}
  y, (_, of_x) = attended(form, LAYER, p, x, masks)
  assert_alike((y, (of_x,)), plain(p, x, np.concatenate(masks, axis=-1)))


@pytest.mark.parametrize("form", THREE)
def test_entities_in_another_order_come_out_in_that_order(form):
  p, x, (to_words, to_entities) = case()
  order = np.array([3, 0, 4, 1, 2])
  rows = np.concatenate([np.arange(WORDS), WORDS + order])
  got, _ = attended(form, LAYER, p, x[:, rows], (to_words[:, :, rows], to_entities[:, :, rows][..., order]))
  want, _ = attended(form, LAYER, p, x, (to_words, to_entities))
  np.testing.assert_allclose(got, want[:, rows], atol=1e-5)


@pytest.mark.parametrize("form", THREE)
def test_dropout_is_the_same_in_every_form_and_leaves_the_normaliser_whole(form):
  """Shares of one softmax are dropped after it: what is kept does not sum to 1."""
  config = dataclasses.replace(LAYER, attention_dropout=0.4)
  p, x, masks = case()
  key = jax.random.key(7)
  probability_key, _ = jax.random.split(key)
  drop = dropout(jnp.asarray(ONES), 0.4, probability_key)
  assert_alike(attended(form, config, p, x, masks, key), by_blocks(p, x, masks, drop))


@pytest.mark.parametrize("form", THREE)
def test_bfloat16_stays_near_float32_and_finite(form):
  """Scores, softmax and the logarithms of sums are float32: large scores cost no more than rounding of the inputs."""
  config = dataclasses.replace(LAYER, dtype=jnp.bfloat16)
  p, x, masks = case()
  p = p | {name: jax.tree.map(lambda leaf: 3 * leaf, p[name]) for name in QUERIES}
  got, gradients = attended(form, config, p, x, masks)
  want, _ = by_blocks(p, x, masks, ONES)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert np.abs(got - want).mean() < 0.02


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient_in_the_merged_form():
  key, seen = np.float32(np.random.default_rng(0).standard_normal((1, 4, 2, 8))), np.ones((1, 1, 4, 4), bool)
  seen[:, :, 1] = False
  attend = lambda q, k, v: FORMS["merged"](q, q, k, v, split_mask(seen, 2), 0.0, None)
  y, gradients = on_host()(functools.partial(with_gradients, attend))(key, key + 1, key + 2)
  assert not y[:, 1].any() and not gradients[0][:, 1].any()
  assert all(np.isfinite(leaf).all() for leaf in gradients)


def test_doubled_heads_serve_any_attention_kernel():
  """jax.nn's attention on q = [QW | QE], keys with zeros, values padded with zeros, at scale 1 / sqrt(H)."""
  shape = (len(WORD_SEGMENTS), WORDS + ENTITIES, N, D // N)
  arrays, (_, _, masks) = np.float32(np.random.default_rng(3).standard_normal((4, *shape))), case()

  def kernel(of_words, of_entities, key, value):
    query, doubled_keys = doubled_heads(of_words, of_entities, key, WORDS)
    wide = jnp.concatenate([value, jnp.zeros_like(value)], axis=-1)
    mask = np.concatenate(masks, axis=-1)
    scale = shape[-1] ** -0.5
    return jax.nn.dot_product_attention(query, doubled_keys, wide, mask=mask, scale=scale)[..., : shape[-1]]

  merged = lambda *arrays: FORMS["merged"](*arrays, masks, 0.0, None)
  assert_alike(*(on_host()(functools.partial(with_gradients, form))(*arrays) for form in (kernel, merged)))
