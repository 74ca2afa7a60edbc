"""LUKE: published parameter counts, entities by hand, what sees what, heads of tasks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import objectives
from configs import luke
from data.batch import Entities
from models.bert import Bert, BertConfig
from models.layers import Init
from models.luke import Luke
from models.paths import named_leaves
from models.sharding import axis_names, count_parameters
from models.task_heads import TASK_HEADS
from objectives.entities import EntityObjective
from tests.by_hand import apply, dense, gelu, normalised, random_params
from tests.tenants import LUKE, ROWS, VOCAB, WIDTH, entity_batch

ALL_HEADS = dataclasses.replace(
  LUKE, pooler=True, classes=5, heads_on_top=("mlm", "entity", *TASK_HEADS), query_kinds=4
)


def encode(config, params, batch, entities=None, ids=None):
  """Encoded of a batch's words, and of the entities if given."""
  tokens = batch.words.tokens
  model = Luke(config)
  return jax.jit(lambda p: model.apply({"params": p}, tokens.ids if ids is None else ids, tokens, entities=entities))(
    params
  )


@functools.cache
def tenant(config=LUKE):
  batch = entity_batch(0)
  return random_params(EntityObjective(Luke(config)), batch), batch


# --- sizes ------------------------------------------------------------------------------------------------------------


def counts(size, **choices):
  """{path: parameters} of a size as users have it: with the pooler, without heads."""
  model = models.build(luke.get_config(size))
  config = dataclasses.replace(model.config, pooler=True, heads_on_top=(), **choices)
  batch = entity_batch(0)
  model = Luke(config)
  init = lambda: model.init(jax.random.key(0), batch.words.tokens, batch.entities, method="everything")["params"]
  return count_parameters(jax.eval_shape(init), model.axes(), model.table_sizes())


@pytest.mark.parametrize("size, millions, lite, queries", [
  ("base", 253.24, 125, 21.26), ("large", 484.15, 356, 75.57),
  ("mluke_base", 585.84, 279, 21.26), ("mluke_large", 867.88, 561, 75.57),
])  # fmt: skip
def test_published_parameter_counts(size, millions, lite, queries):
  """With the pooler and without heads and the three further queries of each layer; a lite model has four entities."""
  whole = sum(counts(size).values())
  assert round(whole / 1e6, 2) == millions
  assert round(sum(counts(f"{size},lite=on").values()) / 1e6) == lite
  assert round((sum(counts(size, query_kinds=4).values()) - whole) / 1e6, 2) == queries


def test_pretraining_has_both_heads_and_no_pooler():
  objective = objectives.build(luke.get_config("base"))
  params = jax.eval_shape(lambda: objective.init(jax.random.key(0), entity_batch(0)))
  found = count_parameters(params, objective.axes(), objective.table_sizes())
  heads = {path: number for path, number in found.items() if path.startswith("heads/")}
  assert sum(heads.values()) == (768 * 768 + 3 * 768 + 50_265) + (768 * 256 + 3 * 256 + 500_000)
  assert not any(path.startswith("pooler") for path in found)
  assert named_leaves(params)["entity_embeddings/entity/embedding"].shape == (500_096, 256)


@pytest.mark.parametrize("config", [LUKE, ALL_HEADS, dataclasses.replace(ALL_HEADS, entity_embedding=WIDTH)])
def test_every_parameter_has_a_sharding_rule_and_every_rule_a_parameter(config):
  params, _ = tenant(config)
  names = axis_names(params, Luke(config).axes())
  assert names["entity_embeddings/entity/embedding"][0] == names["heads/entity/bias"][0] == "entities"
  assert ("entity_embeddings/dense/kernel" in names) == (config.entity_embedding != WIDTH)


# --- embeddings -------------------------------------------------------------------------------------------------------


def entity_embedded(params, batch, entities):
  model = Luke(LUKE)
  run = lambda p: model.apply(
    {"params": p}, entities, batch.words.tokens, None, method=lambda m, *a: m.entity_embeddings(*a)
  )
  return jax.jit(run)(params)


def test_an_entity_is_its_row_widened_the_mean_of_its_positions_and_a_type_by_hand():
  """Positions are those of the pieces in their example, from 0, in a table of their own; the norm is their own too."""
  params, batch = tenant()
  e, own, entities = batch.entities, params["entity_embeddings"], []
  for row in range(ROWS):
    for slot in range(e.ids.shape[1]):
      places = [batch.words.tokens.positions[row, column] for column in e.positions[row, slot] if column >= 0]
      where = own["position"]["embedding"][places].mean(0) if places else np.zeros(WIDTH)
      x = own["entity"]["embedding"][e.ids[row, slot]] @ own["dense"]["kernel"] + where + own["type"]["embedding"][0]
      entities.append(normalised(x, own["norm"], LUKE.norm_eps))
  got = entity_embedded(params, batch, e)
  np.testing.assert_allclose(got, np.reshape(entities, got.shape), atol=2e-5)
  assert ((e.positions >= 0).sum(2) == 0).any() and ((e.positions >= 0).sum(2) > 1).any()
  assert (np.take_along_axis(batch.words.tokens.segments, e.positions[..., 0].clip(0), 1) == 2).any()


def test_a_mention_in_the_second_example_of_a_row_is_placed_in_that_example():
  """Column 12 of a row whose second example begins at 10 is position 2, as in a row of its own."""
  params, batch = tenant()
  segments = np.zeros_like(batch.words.tokens.segments)
  segments[:, :10], segments[:, 10:20] = 1, 2
  positions = np.where(segments == 2, np.arange(segments.shape[1]) - 10, np.arange(segments.shape[1]))
  tokens = dataclasses.replace(batch.words.tokens, segments=segments, positions=np.int32(positions * (segments > 0)))
  batch = dataclasses.replace(batch, words=dataclasses.replace(batch.words, tokens=tokens))
  ids, mention = np.full((ROWS, 1), 7, np.int32), np.int32([[[12, 13, -1]]]).repeat(ROWS, 0)
  second = entity_embedded(params, batch, Entities(ids, mention, ids * 0 + 2))
  first = entity_embedded(params, batch, Entities(ids, np.where(mention < 0, -1, mention - 10), ids * 0 + 1))
  np.testing.assert_array_equal(second, first)


def test_words_have_one_type_whatever_the_batch_says():
  params, batch = tenant()
  other = dataclasses.replace(batch.words.tokens, types=batch.words.tokens.types + 3)
  changed = dataclasses.replace(batch, words=dataclasses.replace(batch.words, tokens=other))
  np.testing.assert_array_equal(encode(LUKE, params, batch).hidden, encode(LUKE, params, changed).hidden)


# --- the encoder ------------------------------------------------------------------------------------------------------


def test_without_entities_it_is_roberta():
  """The same numbers from the same parameters, the word type added to every position of RoBERTa, which has none."""
  params, batch = tenant()
  fields = {field.name: getattr(LUKE, field.name) for field in dataclasses.fields(BertConfig)}
  roberta = BertConfig(**fields | {"types": 0, "heads_on_top": ("mlm",)})
  word = params["embeddings"]
  position = {"embedding": word["position"]["embedding"] + word["type"]["embedding"]}
  own = {"embeddings": {"word": word["word"], "position": position, "norm": word["norm"]}, "layers": params["layers"]}
  tokens = batch.words.tokens
  want = jax.jit(lambda p: Bert(roberta).apply({"params": p}, tokens.ids, tokens).hidden)(own)
  np.testing.assert_allclose(encode(LUKE, params, batch).hidden, want, atol=1e-5)


@pytest.mark.parametrize("kinds", [1, 4])
def test_words_see_entities_and_only_those_of_their_own_example(kinds):
  """Another entity in the second example moves the words there and its fellow entities, and nothing in the first."""
  config = dataclasses.replace(LUKE, query_kinds=kinds)
  params, batch = tenant(config)
  segments, entities = batch.words.tokens.segments, batch.entities
  changed = np.where(entities.segments == 2, (entities.ids + 1) % VOCAB, entities.ids)
  with_two = (entities.segments == 2).any(1)
  before = encode(config, params, batch, entities)
  after = encode(config, params, batch, dataclasses.replace(entities, ids=changed))
  moved = np.abs(np.asarray(before.hidden) - after.hidden).max(-1)
  assert (moved[segments != 2] == 0).all() and (moved[with_two][segments[with_two] == 2] > 1e-4).all()
  moved = np.abs(np.asarray(before.entities) - after.entities).max(-1)
  assert (moved[entities.segments != 2] == 0).all() and (moved[entities.segments == 2] > 1e-4).all()


@pytest.mark.parametrize("kinds", [1, 4])
def test_padded_entities_change_nothing(kinds):
  config = dataclasses.replace(LUKE, query_kinds=kinds)
  params, batch = tenant(config)
  none = dataclasses.replace(batch.entities, segments=batch.entities.segments * 0)
  got, want = encode(config, params, batch, none), encode(config, params, batch)
  real = batch.words.tokens.segments > 0
  np.testing.assert_allclose(np.asarray(got.hidden)[real], np.asarray(want.hidden)[real], atol=1e-5)
  assert want.entities is None and np.isfinite(got.entities).all()


@pytest.mark.parametrize("attention", ["auto", "dense", "doubled", "merged"])
def test_copies_of_the_word_query_are_pretraining(attention):
  """What fine-tuning starts from: three copies, weight and bias, of the one query, and the same numbers."""
  params, batch = tenant()
  config = dataclasses.replace(LUKE, query_kinds=4, attention=attention)
  layers = params["layers"]["attention"]
  copies = {name: layers["query"] for name in ("word_to_entity", "entity_to_word", "entity_to_entity")}
  four = params | {"layers": params["layers"] | {"attention": layers | copies}}
  got, want = encode(config, four, batch, batch.entities), encode(LUKE, params, batch, batch.entities)
  np.testing.assert_allclose(got.hidden, want.hidden, atol=1e-5)
  np.testing.assert_allclose(got.entities, want.entities, atol=1e-5)


def test_layers_are_those_of_the_words_from_the_embeddings_on():
  params, batch = tenant()
  tokens = batch.words.tokens
  got = Luke(LUKE).apply({"params": params}, tokens.ids, tokens, None, True, entities=batch.entities)
  assert got.layers.shape == (LUKE.layers + 1, *tokens.ids.shape, WIDTH)
  np.testing.assert_array_equal(got.layers[-1], got.hidden)
  word = params["embeddings"]
  x = word["word"]["embedding"][tokens.ids] + word["position"]["embedding"][tokens.positions + 2]
  np.testing.assert_allclose(
    got.layers[0], normalised(x + word["type"]["embedding"][0], word["norm"], LUKE.norm_eps), atol=2e-5
  )


def test_embeddings_of_words_and_of_entities_have_dropout_of_their_own():
  """A tenth of what enters the stack is zero, of either; with it off nothing is."""
  params, batch = tenant()
  model, tokens = Luke(dataclasses.replace(LUKE, dropout=0.1)), batch.words.tokens
  embed = lambda m, key: jnp.concatenate(
    [m.embeddings(tokens.ids, tokens, key), m.entity_embeddings(batch.entities, tokens, key)], axis=1
  )
  dropped = model.apply({"params": params}, jax.random.key(5), method=embed) == 0
  words = tokens.ids.shape[1]
  for part in (dropped[:, :words], dropped[:, words:]):
    assert abs(float(part.mean()) - 0.1) < 5 * (0.09 / part.size) ** 0.5
  assert not (model.apply({"params": params}, None, method=embed) == 0).any()
  entered = model.apply({"params": params}, tokens.ids, tokens, jax.random.key(5), True, entities=batch.entities)
  assert abs(float((entered.layers[0] == 0).mean()) - 0.1) < 0.01


# --- heads ------------------------------------------------------------------------------------------------------------


def test_entity_head_by_hand():
  """D -> 256, GELU, layer norm at that width, times the entity table, and a bias per entity."""
  objective, batch = EntityObjective(Luke(LUKE)), entity_batch(0)
  p, states = random_params(objective, batch), np.random.default_rng(1).normal(size=(ROWS, 5, WIDTH))
  head, slots = p["heads"]["entity"], np.tile(np.int32([3, 1]), (ROWS, 1))
  x = normalised(gelu(dense(states[:, [3, 1]], head["dense"])), head["norm"], LUKE.norm_eps)
  want = x @ p["entity_embeddings"]["entity"]["embedding"].T + head["bias"]
  got = apply(objective, p, np.float32(states), slots, method="entity_logits")
  np.testing.assert_allclose(got[..., :VOCAB], want[..., :VOCAB], rtol=1e-4, atol=1e-4)
  assert (np.asarray(got[..., VOCAB:]) < -1e8).all() and head["dense"]["kernel"].shape == (WIDTH, WIDTH // 2)


SPANS, PAIR = np.int32([[[2, 4], [0, 0]]]).repeat(ROWS, 0), np.int32([[[3, 1], [0, 2]]]).repeat(ROWS, 0)
CLS = np.int32([[0, 6]]).repeat(ROWS, 0)


def picked(hidden, entities, pooled):
  """{head: (method, its arguments, the states that its layer reads)}, by hand."""
  rows = np.arange(ROWS)[:, None]
  two = np.concatenate([entities[rows, PAIR[..., 0]], entities[rows, PAIR[..., 1]]], -1)
  ends = [hidden[rows, SPANS[..., 0]], hidden[rows, SPANS[..., 1]], entities[rows, PAIR[..., 0]]]
  return {
    "type": ("type_logits", (entities, PAIR[..., :1]), entities[rows, PAIR[..., 0]]),
    "relate": ("relate_logits", (entities, PAIR), two),
    "spans": ("span_logits", (hidden, entities, SPANS, PAIR[..., :1]), np.concatenate(ends, -1)),
    "cloze": ("cloze_logits", (entities, PAIR), two),
    "answer": ("answer_logits", (hidden,), hidden),
    "tag": ("tag_logits", (hidden,), hidden),
    "classify": ("classify_logits", (hidden, CLS), pooled),
    "regress": ("regress_logits", (hidden, CLS), pooled),
    "choose": ("choose_logits", (hidden, CLS), pooled),
  }


@pytest.mark.parametrize("name", TASK_HEADS)
def test_task_heads_by_hand(name):
  """One linear layer on the states that the task picks; that of pairs of mentions has no bias."""
  objective, batch = EntityObjective(Luke(ALL_HEADS)), entity_batch(0)
  p, rng = random_params(objective, batch), np.random.default_rng(1)
  hidden, entities = (np.float32(rng.normal(size=(ROWS, size, WIDTH))) for size in (8, 4))
  pooled = np.tanh(dense(hidden[np.arange(ROWS)[:, None], CLS], p["pooler"]["dense"]))
  method, arguments, states = picked(hidden, entities, pooled)[name]
  head = p["heads"][name]
  want = states @ head["kernel"] + (0 if name == "relate" else head["bias"])
  got = apply(objective, p, *arguments, method=method)
  np.testing.assert_allclose(got, want[..., 0] if name in ("cloze", "choose") else want, atol=1e-4)
  assert ("bias" in head) == (name != "relate")


def test_tables_start_as_a_plain_normal_with_zeros_where_they_are_padded():
  config = dataclasses.replace(LUKE, entity_vocab_size=4000, entity_embedding=64, init=Init(0.02, truncated=False))
  objective = EntityObjective(Luke(config))
  tables = jax.jit(lambda: objective.init(jax.random.key(0), entity_batch(0))["entity_embeddings"])()
  table = np.asarray(tables["entity"]["embedding"])
  assert table.shape == (4096, 64) and abs(table[:4000].std() - 0.02) < 1e-4 and not table[4000:].any()
  assert abs((np.abs(table[:4000]) > 0.04).mean() - 0.0455) < 0.002
  assert jnp.abs(tables["position"]["embedding"]).min(axis=1).max() > 0 and len(tables["position"]["embedding"]) == 26
