"""Entity-aware attention: every form against four separate blocks of scores, in values, gradients and dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.entity_attention import FORMS, EntityAttention, doubled_heads, split_mask
from models.layers import Init, LayerConfig, SelfAttention, attention_mask, dropout
from models.paths import named_leaves

WORDS, ENTITIES, D, N = 10, 5, 24, 3
LAYER = LayerConfig(D, N, 48, 0.0, 0.0, "gelu", 1e-5, Init(0.5))
QUERIES = ("query", "word_to_entity", "entity_to_word", "entity_to_entity")
WORD_SEGMENTS = jnp.array([[1] * 10, [1] * 6 + [2] * 3 + [0], [1] * 7 + [0] * 3, [1] * 10, [1] * 5 + [2] * 5])
ENTITY_SEGMENTS = jnp.array([
  [1, 1, 1, 1, 1],  # everything real
  [1, 2, 2, 1, 0],  # two packed examples and padding of both kinds
  [1, 0, 0, 0, 0],
  [0, 0, 0, 0, 0],  # a row without entities, and without padded words: padded entities see no word at all
  [1, 1, 0, 0, 0],  # the second example has no entity
])  # fmt: skip


def case(seed=0, config=LAYER):
  """(parameters with random biases and norms, x, masks)."""
  full = attention_mask(jnp.concatenate([WORD_SEGMENTS, ENTITY_SEGMENTS], axis=1))
  masks = split_mask(full, WORDS)
  module = EntityAttention(config)
  x = jax.random.normal(jax.random.key(seed), (len(full), WORDS + ENTITIES, D))
  params = module.init(jax.random.key(1), x, masks, None)["params"]
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  return tree.unflatten([leaf + 0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)]), x, masks


def four_blocks(p, x, masks, drop=1.0):
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

  (_, y), gradients = jax.jit(jax.value_and_grad(loss, tuple(range(len(arguments))), has_aux=True))(*arguments)
  return y, gradients


def assert_alike(got, want):
  """Outputs to 1e-5, gradients to 1e-4 of the largest entry of each."""
  np.testing.assert_allclose(got[0], want[0], atol=1e-5)
  for (path, left), right in zip(named_leaves(got[1]).items(), jax.tree.leaves(want[1]), strict=True):
    np.testing.assert_allclose(left, right, atol=1e-4 * float(jnp.abs(right).max()), err_msg=path)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_four_blocks_of_scores(form):
  p, x, masks = case()
  module = EntityAttention(LAYER, form)
  got = with_gradients(lambda p, x: module.apply({"params": p}, x, masks, None), p, x)
  assert_alike(got, with_gradients(lambda p, x: four_blocks(p, x, masks), p, x))
  assert all(float(jnp.abs(got[1][0][name]["kernel"]).max()) > 1 for name in (*QUERIES, "key", "value"))


@pytest.mark.parametrize("form", FORMS)
def test_without_entities_it_is_plain_attention_with_the_word_query(form):
  p, x, _ = case()
  words, mask = x[:, :WORDS], attention_mask(WORD_SEGMENTS)
  got = with_gradients(lambda x: EntityAttention(LAYER, form).apply({"params": p}, x, (mask, None), None), words)
  plain = {name: leaf for name, leaf in p.items() if name not in QUERIES[1:]}
  assert_alike(got, with_gradients(lambda x: SelfAttention(LAYER).apply({"params": plain}, x, mask, None), words))


@pytest.mark.parametrize("form", FORMS)
def test_words_of_a_row_without_entities_are_as_if_there_were_no_slots(form):
  p, x, masks = case()
  mask = attention_mask(WORD_SEGMENTS)
  module = EntityAttention(LAYER, form)
  got = module.apply({"params": p}, x, masks, None)[3, :WORDS]
  np.testing.assert_allclose(got, module.apply({"params": p}, x[:, :WORDS], (mask, None), None)[3], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_four_equal_queries_are_the_plain_layer(form):
  p, x, masks = case()
  p = p | {name: p["query"] for name in QUERIES}
  plain = {name: leaf for name, leaf in p.items() if name not in QUERIES[1:]}
  got = with_gradients(lambda x: EntityAttention(LAYER, form).apply({"params": p}, x, masks, None), x)
  whole = jnp.concatenate(masks, axis=-1)
  assert_alike(got, with_gradients(lambda x: SelfAttention(LAYER).apply({"params": plain}, x, whole, None), x))


@pytest.mark.parametrize("form", FORMS)
def test_entities_in_another_order_come_out_in_that_order(form):
  p, x, (to_words, to_entities) = case()
  order = jnp.array([3, 0, 4, 1, 2])
  rows = jnp.concatenate([jnp.arange(WORDS), WORDS + order])
  module = EntityAttention(LAYER, form)
  got = module.apply({"params": p}, x[:, rows], (to_words[:, :, rows], to_entities[:, :, rows][..., order]), None)
  np.testing.assert_allclose(got, module.apply({"params": p}, x, (to_words, to_entities), None)[:, rows], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_dropout_is_the_same_in_every_form_and_leaves_the_normaliser_whole(form):
  """Shares of one softmax are dropped after it: what is kept does not sum to 1."""
  config = dataclasses.replace(LAYER, attention_dropout=0.4)
  p, x, masks = case(config=config)
  key = jax.random.key(7)
  probability_key, _ = jax.random.split(key)
  drop = dropout(jnp.ones((len(x), N, WORDS + ENTITIES, WORDS + ENTITIES)), 0.4, probability_key)
  module = EntityAttention(config, form)
  got = with_gradients(lambda p, x: module.apply({"params": p}, x, masks, key), p, x)
  assert_alike(got, with_gradients(lambda p, x: four_blocks(p, x, masks, drop), p, x))


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_stays_near_float32_and_finite(form):
  """Scores, softmax and the logarithms of sums are float32: large scores cost no more than rounding of the inputs."""
  config = dataclasses.replace(LAYER, dtype=jnp.bfloat16)
  p, x, masks = case(config=config)
  p = p | {name: jax.tree.map(lambda leaf: 3 * leaf, p[name]) for name in QUERIES}
  narrow = lambda p, x: EntityAttention(config, form).apply({"params": p}, x, masks, None).astype(jnp.float32)
  got, gradients = with_gradients(narrow, p, x)
  want, _ = with_gradients(lambda p, x: four_blocks(p, x, masks), p, x)
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))
  assert float(jnp.abs(got - want).mean()) < 0.02


def test_a_row_that_sees_nothing_is_zero_and_has_no_gradient_in_the_merged_form():
  key = jax.random.normal(jax.random.key(0), (1, 4, 2, 8))
  masks = split_mask(jnp.ones((1, 1, 4, 4), bool).at[:, :, 1].set(False), 2)
  attend = lambda q, k, v: FORMS["merged"](q, q, k, v, masks, 0.0, None)
  y, gradients = with_gradients(attend, key, key + 1, key + 2)
  assert float(jnp.abs(y[:, 1]).max()) == 0.0 and float(jnp.abs(gradients[0][:, 1]).max()) == 0.0
  assert all(bool(jnp.isfinite(leaf).all()) for leaf in gradients)


def test_doubled_heads_serve_any_attention_kernel():
  """jax.nn's attention on q = [QW | QE], keys with zeros, values padded with zeros, at scale 1 / sqrt(H)."""
  keys = jax.random.split(jax.random.key(3), 4)
  shape = (len(WORD_SEGMENTS), WORDS + ENTITIES, N, D // N)
  of_words, of_entities, key, value = (jax.random.normal(k, shape) for k in keys)
  _, _, masks = case()

  def kernel(of_words, of_entities, key, value):
    query, doubled_keys = doubled_heads(of_words, of_entities, key, WORDS)
    wide = jnp.concatenate([value, jnp.zeros_like(value)], axis=-1)
    mask = jnp.concatenate(masks, axis=-1)
    scale = shape[-1] ** -0.5
    return jax.nn.dot_product_attention(query, doubled_keys, wide, mask=mask, scale=scale)[..., : shape[-1]]

  got = with_gradients(kernel, of_words, of_entities, key, value)
  want = with_gradients(lambda *arrays: FORMS["merged"](*arrays, masks, 0.0, None), of_words, of_entities, key, value)
  assert_alike(got, want)
