"""LUKE's objective and recipe: masked entities among all, in chunks and on a mesh; stages with rates of their own."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from configs import luke, roberta
from data.batch import validate
from data.synthetic import synthetic_batch
from models import flops
from models.luke import Luke
from models.paths import named_leaves
from models.sharding import make_mesh, row_sharding
from objectives import losses
from objectives.entities import EntityObjective
from objectives.losses import cross_entropy, is_top, table_chunks, tied_cross_entropy
from objectives.optimizers import Optimizer, constant_schedule, sgd
from objectives.state import init_state, state_shardings
from objectives.step import StepSettings, make_step
from tests.by_hand import random_params, terms
from tests.tenants import LUKE, entity_batch
from trainer.config import load, stages
from trainer.programs import Program, Setup
from trainer.start import adopt

ENTITIES = 1000  # in a table of 1024 rows

# --- the loss ---------------------------------------------------------------------------------------------------------


def problem(rows=1024, used=ENTITIES, shape=(6, 5), width=16):
  keys = jax.random.split(jax.random.key(0), 4)
  bias = jnp.where(jnp.arange(rows) < used, jax.random.normal(keys[2], (rows,)), -1e9)
  x, table = jax.random.normal(keys[0], (*shape, width)), jax.random.normal(keys[1], (rows, width))
  return x, table, bias, jax.random.randint(keys[3], shape, 0, used)


def whole(x, table, bias, labels):
  """With all logits in memory."""
  logits = x @ table.T + bias
  return cross_entropy(logits, labels), is_top(logits, labels)


def differentiated(function, x, table, bias, labels):
  weigh = lambda *arrays: (lambda found: (jnp.sum(jnp.sin(found[0])), found))(function(*arrays, labels))
  return jax.jit(jax.value_and_grad(weigh, (0, 1, 2), has_aux=True))(x, table, bias)


@functools.cache
def wanted():
  return differentiated(whole, *problem())


@pytest.mark.parametrize("chunk_rows, chunks", [(1024, 1), (100, 16)])
def test_chunks_of_the_table_give_the_loss_of_all_logits(chunk_rows, chunks, monkeypatch):
  monkeypatch.setattr(losses, "CHUNK_ROWS", chunk_rows)
  assert table_chunks(1024) == chunks
  ((_, got), gradients), ((_, want), right) = differentiated(tied_cross_entropy, *problem()), wanted()
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
  np.testing.assert_array_equal(got[1], want[1])
  for a, b in zip(gradients, right, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_the_right_entity_is_found_in_every_chunk(monkeypatch):
  """Rows of length 1, and states that are rows: each label is on top with its own state and no other is."""
  monkeypatch.setattr(losses, "CHUNK_ROWS", 64)
  table = problem()[1]
  table = table / jnp.linalg.norm(table, axis=1, keepdims=True)
  labels = jnp.arange(ENTITIES).reshape(1, -1)
  on_top = jax.jit(lambda wanted: tied_cross_entropy(table[labels], table, jnp.zeros(1024), wanted)[1])
  assert bool(on_top(labels).all()) and not bool(on_top((labels + 1) % ENTITIES).any())


@pytest.mark.parametrize("rows, chunks", [(500_096, 8), (1_200_128, 32), (8192, 1), (65_536, 1), (65_664, 2)])
def test_published_tables_are_cut_into_whole_chunks(rows, chunks):
  """500,000 and 1.2 million entities, padded to a multiple of 128; a chunk has 65,536 rows at most."""
  assert table_chunks(rows) == chunks
  assert rows % chunks == 0 and rows // chunks <= 65_536


def test_logits_of_a_large_table_never_stand_in_memory_whole():
  """Forward and backward for 160 slots and 500,096 entities: less than half of what one copy of the logits takes."""
  arrays = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in (
    ((8, 20, 16), jnp.float32), ((500_096, 16), jnp.float32), ((500_096,), jnp.float32), ((8, 20), jnp.int32),
  )]  # fmt: skip
  loss = lambda x, table, bias, labels: jnp.sum(tied_cross_entropy(x, table, bias, labels)[0])
  memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 8 * 20 * 500_096 * 4 / 2


@functools.cache
def on_one_device():
  """(objective with four queries and a table of ENTITIES, parameters, batch, (sums, gradient of the means, counts))."""
  objective = EntityObjective(Luke(dataclasses.replace(LUKE, entity_vocab_size=ENTITIES, query_kinds=4)))
  batch = entity_batch(0)
  params = random_params(objective, batch)
  means = {"mlm": 1 / batch.words.weights.sum(), "mem": 1 / batch.weights.sum()}
  return objective, params, batch, jax.device_get(terms(objective, params, batch, **means))


def test_losses_are_means_over_masked_words_and_over_masked_entities():
  """The sum of two cross entropies, each over its own number of predictions, against all logits."""
  objective, params, batch, (sums, _, counts) = on_one_device()
  assert counts["mlm"] == batch.words.weights.sum() and counts["mem"] == batch.weights.sum()
  words, model = batch.words, objective.model

  @jax.jit
  def logits(ids):
    apply = functools.partial(model.apply, {"params": params})
    encoded = apply(ids, words.tokens, entities=batch.entities)
    of_words = apply(encoded.hidden, words.positions, method="token_logits")
    return of_words, apply(encoded.entities, batch.positions, method="entity_logits")

  ids = words.tokens.ids.copy()
  for row, column, value, weight in zip(
    *np.broadcast_arrays(np.arange(len(ids))[:, None], words.positions, words.inputs, words.weights), strict=True
  ):
    ids[row[weight > 0], column[weight > 0]] = value[weight > 0]
  for term, found, target in zip(("mlm", "mem"), logits(ids), (words, batch), strict=True):
    want = float((cross_entropy(found, target.labels) * target.weights).sum())
    np.testing.assert_allclose(sums[term], want, rtol=1e-4)


# --- a mesh -----------------------------------------------------------------------------------------------------------


@functools.cache
def split_step():
  """(compiled step at rate 1 with the table in four chunks, state, batch) on 2 x 4 devices."""
  objective, params, batch, _ = on_one_device()
  optimizer = Optimizer(sgd(), constant_schedule(1.0, 0, 1), 0.0)
  shapes = jax.eval_shape(lambda: init_state(objective, optimizer, 3, (), batch))
  state = dataclasses.replace(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), params=params)
  mesh = make_mesh(2, 4, jax.devices())
  shardings = state_shardings(state, objective, mesh, "none")
  state, batch = jax.device_put(state, shardings), jax.device_put(batch, row_sharding(mesh))
  step = make_step(objective, optimizer, StepSettings(3, 1, "mean"), mesh)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(losses, "CHUNK_ROWS", 256)
    return jax.jit(step, out_shardings=(shardings, None)).lower(state, batch).compile(), state, batch


def test_a_table_split_over_four_devices_gives_the_same_losses_and_gradients():
  """2 x 4 devices, four queries, the heads split as well; the update at rate 1 is the gradient of the means."""
  _, params, _, (sums, gradient, _) = on_one_device()
  step, state, batch = split_step()
  after, report = step(state, batch)
  np.testing.assert_allclose([report.sums[term] for term in sums], [*sums.values()], rtol=1e-5)
  updates = jax.tree.map(lambda before, after: before - np.asarray(after), params, jax.device_get(after.params))
  for (path, got), want in zip(named_leaves(updates).items(), jax.tree.leaves(gradient), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=path)


def test_no_device_gathers_the_entity_table():
  """Of the compiled step on 2 x 4 devices: nothing is gathered that is as long as the table or a chunk of it."""
  text = split_step()[0].as_text()
  gathered = re.findall(r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)", text)
  assert not [shape for shape in gathered if {"1024", "256"} & set(shape.split(","))]
  assert re.search(r"f32\[64,4,16\]", text), "a device's share of the four chunks"


# --- the recipe -------------------------------------------------------------------------------------------------------


def trained(stage, shapes):
  """Parameters that a stage trains."""
  return {path for path in shapes if not any(re.search(pattern, path) for pattern in stage.freeze)}


def test_first_what_is_new_then_everything_but_the_type_of_words():
  config = load("configs/luke.py:base")
  first, second = stages(config)
  objective = objectives.build(config)
  shapes = named_leaves(jax.eval_shape(lambda: objective.init(jax.random.key(0), entity_batch(0))))
  new = {path for path in shapes if path.startswith(("entity_embeddings/", "heads/entity/"))}
  assert len(new) == 11 and trained(first, shapes) == new
  assert trained(second, shapes) == set(shapes) - {"embeddings/type/embedding"}
  assert second.reset_optimizer and (first.steps, second.end) == (98_168, 196_336)


@pytest.mark.parametrize("size, steps, rate", [
  ("base", 98_168, 1e-5), ("large", 98_168, 1e-5), ("mluke_base", 540_326, 1e-4), ("mluke_large", 540_326, 5e-5),
])  # fmt: skip
def test_each_stage_warms_up_for_2500_steps_and_ends_at_zero(size, steps, rate):
  config = load(f"configs/luke.py:{size}")
  for stage, peak in zip(stages(config), (5e-4, rate), strict=True):
    optimizer = objectives.of_stage(objectives.build_optimizer(config), config, stage)
    assert stage.steps == steps
    got = [float(optimizer.schedule(step)) for step in (0, 1250, 2500, (2500 + steps) / 2, steps)]
    np.testing.assert_allclose(got, [0, peak / 2, peak, peak / 2, 0], rtol=1e-5)


def test_the_optimiser_is_the_published_one():
  """Without bias correction and clip; what is called LayerNorm does not decay, the norm of the word head does."""
  optimizer = load("configs/luke.py:large").optimizer
  assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.weight_decay) == (0.9, 0.999, 1e-6, 0.01)
  assert (optimizer.bias_correction, optimizer.clip, optimizer.schedule) == (False, 0.0, "linear")
  free = ["embeddings/norm/scale", "entity_embeddings/norm/scale", "heads/entity/norm/scale", "heads/entity/bias",
          "layers/ffn/norm/scale", "layers/ffn/up/bias", "heads/mlm/bias", "heads/mlm/norm/bias"]  # fmt: skip
  decayed = ["heads/mlm/norm/scale", "entity_embeddings/entity/embedding", "layers/attention/query/kernel"]
  held = [path for path in free + decayed if any(re.search(p, path) for p in optimizer.decay_exclude)]
  assert held == free


def test_a_stage_with_a_rate_of_its_own_follows_its_own_schedule():
  """The first of two stages with the run's schedule, the second from its own start to its own end."""
  few = "'freeze': ('^(?!heads/entity/bias)',)"  # what is trained decides nothing here but the time
  given = f"({{'steps': 2}}, {{'steps': 3, 'lr': 0.5, 'warmup_steps': 1, {few}}})"
  keys = {"stages": given, "steps": 5, "optimizer.lr": 0.1, "optimizer.warmup_steps": 0, "batch_size": 2,
          "data.length": 16, "data.max_predictions": 2, "data.max_entities": 4, "data.max_mention": 2,
          "model.layers": 1, "model.hidden": 32, "model.heads": 2, "model.ffn": 32, "model.vocab_size": 64,
          "model.entity_vocab_size": 8}  # fmt: skip
  setup = Setup.of(load("configs/luke.py:tiny", keys), jax.devices()[:1])
  first, second = (Program(setup, stage, synthetic_batch(setup.config, stage, 0)) for stage in setup.stages)
  assert objectives.of_stage(setup.optimizer, setup.config, first.stage) is setup.optimizer
  assert (first.settings.schedule_start, second.settings.schedule_start) == (0, 2)
  state = dataclasses.replace(second.fresh_state(), step=second.on_all(np.int32(2)))
  rates = []
  for _ in range(3):
    state, report = second.step(state, second.place(second.example))
    rates.append(float(report.lr))
  np.testing.assert_allclose(rates, [0.0, 0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("keys, line", [
  ({"stages.0.warmup_steps": "99999"}, "stages.0.warmup_steps is 99999, want at most stages.0.steps = 98168"),
  ({"stages.0.lr": "0"}, "stages.0.lr: got 0.0, want a finite number above 0"),
  ({"stages": "({'steps': 196336, 'warmup_steps': 5},)"}, "stages.0.warmup_steps: is of a stage without stages.0.lr"),
  ({"data.format": "full_sentences"}, "data.format is full_sentences, want entity_sentences"),
  ({"model.query_kinds": "2"}, "model.query_kinds: got 2, want 1 or 4"),
  ({"model.attention": "merge"}, "did you mean merged"),
  ({"data.entity_mask_rate": "0"}, "data.entity_mask_rate: got 0.0, want a rate above 0"),
  ({"init_map": "(('a', 'b'),)"}, "init_map is set, but init_from is empty"),
])  # fmt: skip
def test_wrong_values_are_told_in_one_line(keys, line):
  with pytest.raises(ValueError, match=re.escape(line)):
    load("configs/luke.py:base", keys)


def test_a_roberta_is_a_start():
  """Of equal vocabulary: its parameters under the same names, entities and types fresh, its pooler left out."""
  config = load("configs/luke.py:base")
  shapes = lambda recipe, batch: jax.eval_shape(lambda: objectives.build(recipe).init(jax.random.key(0), batch))
  filled = lambda tree, value: jax.tree.map(lambda leaf: np.full((1,) * leaf.ndim, value, np.float32), tree)
  fresh = jax.tree.map(jnp.asarray, filled(shapes(config, entity_batch(0)), 1.0))
  found = named_leaves(filled(shapes(roberta.get_config("base"), entity_batch(0).words), 2.0))
  got = named_leaves(adopt({**found, "pooler/dense/bias": np.zeros(1)}, fresh, config.init_map))
  kept = {path for path, leaf in got.items() if leaf.max() == 1.0}
  assert kept == {path for path in got if path.startswith(("entity_embeddings/", "heads/entity/", "embeddings/type/"))}
  assert all(got[path].max() == 2.0 for path in found) and set(got) == kept | set(found)


def test_settings_change_what_they_name():
  base = load("configs/luke.py:base")
  assert (base.data.masking, base.data.replace_by, base.data.words, base.data.unknown_entities) == (
    "whole_word", "word", "marks", "keep",
  )  # fmt: skip
  mluke = load("configs/luke.py:mluke_base")
  assert (mluke.data.masking, mluke.data.replace_by, mluke.data.words, mluke.data.unknown_entities) == (
    "token", "piece", "pieces", "drop",
  )  # fmt: skip
  lite = luke.get_config("mluke_base,lite=on")
  assert (lite.data.entity_vocab, lite.data.unknown_entities, lite.model.entity_vocab_size) == ("special", "keep", 4)
  assert (base.model.query_kinds, luke.get_config("base,queries=4").model.query_kinds) == (1, 4)
  assert (base.data.max_predictions, base.data.max_entities, base.data.max_mention) == (76, 128, 30)


# --- synthetic batches and floating-point operations ------------------------------------------------------------------


@pytest.mark.parametrize("pack", [1, 3])
@pytest.mark.parametrize("full_rows", [False, True])
def test_synthetic_batches_hold_mentions_inside_their_examples(pack, full_rows):
  config = load("configs/luke.py:base", {"batch_size": 16, "data.pack": pack})
  batch = synthetic_batch(config, stages(config)[0], 3, full_rows)
  sizes, e, segments = validate(batch), batch.entities, batch.words.tokens.segments
  assert (sizes["B"], sizes["L"], sizes["E"], sizes["M"], sizes["P"]) == (16, 512, 128, 30, 76)
  inside = e.positions >= 0
  owners = np.take_along_axis(segments[:, None], np.maximum(e.positions, 0), 2)
  assert (owners == e.segments[..., None])[inside].all()
  np.testing.assert_array_equal(inside.any(2), e.segments > 0)
  masked = np.take_along_axis(e.segments, batch.positions, 1)
  assert (masked[batch.weights > 0] > 0).all()
  for row in range(16):
    for example in range(1, segments[row].max() + 1):
      mentions, taken = (e.segments[row] == example).sum(), (masked[row] == example)[batch.weights[row] > 0].sum()
      assert taken == (max(1, round(0.15 * mentions)) if mentions else 0)
  if full_rows:
    assert (e.segments > 0).all() and batch.weights.sum() == 16 * 19


@pytest.mark.parametrize("kinds, projections", [(1, 4), (4, 5)])
def test_flops_by_the_formula(kinds, projections):
  """Each token makes one query or two; both vocabularies count at predicted positions only."""
  config = load("configs/luke.py:base", {"batch_size": 4, "data.pack": 2, "model.query_kinds": kinds})
  batch = synthetic_batch(config, stages(config)[0], 0)
  words, entities = batch.words.tokens.segments, batch.entities.segments
  lengths = [(words[row] == s).sum() + (entities[row] == s).sum() for row in range(4) for s in (1, 2)]
  n, m, d, f, e = (words > 0).sum(), (entities > 0).sum(), 768, 3072, 256
  layers = 12 * (2 * (n + m) * (projections * d * d + 2 * d * f) + 4 * d * sum(int(size) ** 2 for size in lengths))
  heads = 2 * (batch.words.weights > 0).sum() * (d * d + d * 50_265)
  heads += 2 * (batch.weights > 0).sum() * (d * e + e * 500_000)
  model = objectives.build(config).model
  assert flops.step_flops(model, batch) == pytest.approx(3 * (layers + heads + 2 * m * e * d), rel=1e-12)
