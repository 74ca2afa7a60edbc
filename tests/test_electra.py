"""ELECTRA: published counts, initial losses, gradients that stay in their network, labels, samples, one update."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from data.synthetic import synthetic_batch
from models import electra, flops
from models.paths import map_named, named_leaves
from models.sharding import axis_names, make_mesh, row_sharding
from objectives import BUILDERS
from objectives.base import Draws
from objectives.optimizers import Optimizer, constant_schedule, sgd
from objectives.replaced import ReplacedObjective
from objectives.state import State, init_opt, state_shardings
from objectives.step import StepSettings, make_step
from tests.tenants import LENGTH, PREDICTIONS, ROWS, VOCAB, masked_batch
from tests.test_packing_equivalence import inside_examples, unpack
from trainer.config import load
from trainer.programs import Program, Setup, parameter_counts

PADDED = 128  # rows of the tables


def make(**choices):
  """The objective of a small ELECTRA with `choices` of its model and objective groups."""
  model = {
    "vocab_size": VOCAB, "hidden": 32, "layers": 2, "heads": 4, "ffn": 64, "max_positions": LENGTH, "types": 2,
    "dropout": 0.0, "attention_dropout": 0.0, "activation": "gelu", "norm_eps": 1e-12, "init": "truncated_normal",
    "init_std": 0.1, "remat": "none", "unroll": 1, "embedding": 24, "generator_layers": 1, "generator_hidden": 16,
    "generator_heads": 2, "generator_ffn": 32, "tie": "embeddings",
  }  # fmt: skip
  objective = {
    "name": "electra", "generator": "mlm", "sample": "softmax", "temperature": 1.0, "disallow_correct": False,
    "mlm_weight": 1.0, "rtd_weight": 50.0, "target": "all_tokens", "adversarial": False,
  }  # fmt: skip
  for name, value in choices.items():
    {**dict.fromkeys(model, model), **dict.fromkeys(objective, objective)}[name][name] = value
  config = ConfigDict({"model": model, "objective": objective})
  return BUILDERS["electra"](electra.build(config, jnp.float32), config.objective)


SAME_SIZES = {"embedding": 32, "generator_hidden": 32, "generator_heads": 4, "generator_ffn": 64, "generator_layers": 2}


def batch_of(seed=0):
  return dataclasses.replace(masked_batch(seed), pair=None)


def draws(rows=None):
  """The draws of the first step of a run of seed 3."""
  rows = jnp.arange(ROWS) if rows is None else rows
  return Draws(jax.random.fold_in(jax.random.key(3), 1), jnp.int32(0), jnp.int32(0), rows)


@functools.cache
def params_of(objective, std=0.1):
  """Parameters as `init` names them, drawn faster."""
  rng = np.random.default_rng(0)

  def leaf(path, shape):
    if path.endswith(("kernel", "embedding")):
      return np.float32(std * rng.normal(size=shape.shape))
    return np.full(shape.shape, path.endswith("scale"), np.float32)

  return map_named(leaf, jax.eval_shape(lambda: objective.init(jax.random.key(0), batch_of())))


@functools.cache
def compiled(objective):
  """(parameters, batch) -> (sums, statistics)."""
  return jax.jit(lambda params, batch: objective.sums(params, None, batch, draws(), False)[:2])


def figures(objective, params, batch=None):
  batch = batch_of() if batch is None else batch
  sums, statistics = compiled(objective)(params, batch)
  return objective.report(*map(jax.device_get, (sums, objective.counts(batch), statistics)))


@functools.cache
def gradients(objective):
  """{term: {path: gradient of its sum}}, of all terms at once."""
  terms = lambda params: objective.sums(params, None, batch_of(), draws(), True)[0]
  trees = jax.device_get(jax.jit(jax.jacrev(terms))(params_of(objective)))
  return {term: named_leaves(tree) for term, tree in trees.items()}


# --- sizes and initialisation ---------------------------------------------------------------------------------------

COUNTS = {  # embeddings, discriminator with them, its head, generator's own, its head beside the table, all
  "small": (3_972_864, 13_483_008, 66_049, 608_064, 39_098, 14_196_219),
  "small_plus": (3_972_864, 13_483_008, 66_049, 9_510_144, 63_674, 23_122_875),
  "base": (23_837_184, 108_891_648, 591_361, 9_673_984, 229_434, 119_386_427),
  "large": (31_782_912, 334_092_288, 1_050_625, 19_216_640, 295_738, 354_655_291),
}


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameter_counts(size):
  config = load(f"configs/electra.py:{size}", {"batch_size": 8})
  setup = Setup.of(config, jax.devices()[:1])
  shapes = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0)).shapes
  counts = parameter_counts(setup, shapes.params)
  part = lambda *names: sum(n for path, n in counts.items() if path.startswith(names))
  assert COUNTS[size] == (
    part("embeddings/"), part("embeddings/", "discriminator/"), part("heads/rtd/"), part("generator/"),
    part("heads/mlm/"), part(""),
  )  # fmt: skip


def test_projections_and_the_last_detection_layer_start_glorot_uniform_all_else_truncated_normal():
  objective = make(init_std=0.02, embedding=64, hidden=96, generator_hidden=48)
  params = named_leaves(jax.jit(lambda: objective.init(jax.random.key(0), batch_of()))())
  uniform = {"generator/projection/kernel", "discriminator/projection/kernel", "heads/rtd/output/kernel"}
  assert uniform < set(params)
  for path, leaf in params.items():
    if path in uniform:
      limit = (6 / sum(leaf.shape)) ** 0.5
      assert 0.9 * limit < float(jnp.abs(leaf).max()) <= limit, path
    elif path.endswith(("kernel", "embedding")):
      assert float(jnp.abs(leaf).max()) <= 0.04, path
    else:
      np.testing.assert_array_equal(leaf, 1.0 if path.endswith("scale") else 0.0, err_msg=path)


@pytest.mark.parametrize("tie", ["embeddings", "all"])
def test_losses_start_at_the_entropy_of_a_guess(tie):
  objective = make(tie=tie, **SAME_SIZES)
  start = figures(objective, params_of(objective, 0.02))
  assert start["mlm_loss"] == pytest.approx(np.log(VOCAB), rel=0.02)
  assert start["rtd_loss"] == pytest.approx(np.log(2), rel=0.1)
  assert start["loss"] == pytest.approx(start["mlm_loss"] + 50 * start["rtd_loss"])


def test_every_leaf_has_a_sharding_rule_in_every_way_of_tying():
  for tie in ("embeddings", "none", "all"):
    objective = make(tie=tie, **SAME_SIZES)
    names = axis_names(jax.eval_shape(lambda o=objective: o.init(jax.random.key(0), batch_of())), objective.axes())
    assert names["heads/mlm/bias"] == ("vocab",)


# --- which network is used where ------------------------------------------------------------------------------------


def test_the_encoder_is_the_discriminator_and_the_generator_fills():
  objective, tokens = make(), batch_of().tokens
  params = params_of(objective)
  zero = lambda name: map_named(lambda path, leaf: leaf * (not path.startswith(name)), params)

  def outputs(params):
    model, variables = objective.model, {"params": params}
    encoded = model.apply(variables, tokens.ids, tokens, collect=True)
    filled = model.apply(variables, tokens.ids, tokens, batch_of().positions, method="fill_logits")
    return encoded.hidden, model.apply(variables, tokens.ids, tokens, method="detect_logits"), filled, encoded.layers

  outputs = jax.jit(outputs)
  hidden, detected, filled, layers = outputs(params)
  assert hidden.shape == (ROWS, LENGTH, 32) and layers.shape == (3, ROWS, LENGTH, 32)
  assert detected.shape == (ROWS, LENGTH) and filled.shape == (ROWS, PREDICTIONS, PADDED)
  without = outputs(zero("generator/"))
  np.testing.assert_array_equal(hidden, without[0])
  assert not np.array_equal(filled, without[2])
  np.testing.assert_array_equal(filled, outputs(zero("discriminator/"))[2])


def test_detection_reaches_the_generator_through_the_shared_tables_only():
  of_generator, of_discriminator = ("generator/", "heads/mlm/"), ("discriminator/", "heads/rtd/")
  for term, alone in (("rtd", of_generator), ("mlm", of_discriminator)):
    for path, leaf in gradients(make())[term].items():
      if not path.endswith("key/bias"):  # softmax does not see those
        assert leaf.any() != path.startswith(alone), (term, path)


# --- labels ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scripted(ReplacedObjective):
  """A generator whose even slots are right and whose odd slots are the next word."""

  def choose(self, logits, labels, draws):
    return jnp.where(jnp.arange(labels.shape[1]) % 2 == 0, labels, (labels + 1) % VOCAB)


def scripted(objective):
  return Scripted(**vars(objective))


def oracle_detection(objective, params, batch):
  """(logits, labels, attended) token by token: odd slots of weight 1 hold the next word, all else is the original."""
  ids, labels = np.array(batch.tokens.ids), np.zeros((ROWS, LENGTH), bool)
  for row in range(ROWS):
    for slot in range(1, PREDICTIONS, 2):
      if batch.weights[row, slot]:
        column = batch.positions[row, slot]
        ids[row, column], labels[row, column] = (ids[row, column] + 1) % VOCAB, True
  logits = objective.model.apply({"params": params}, ids, batch.tokens, method="detect_logits")
  return np.asarray(logits, np.float64), labels, batch.tokens.segments > 0


def test_every_attended_token_is_judged_and_right_samples_are_originals():
  objective, batch = scripted(make()), batch_of()
  params = params_of(objective)
  logits, labels, attended = oracle_detection(objective, params, batch)
  got = figures(objective, params)
  losses = np.log1p(np.exp(np.where(labels, -logits, logits)))
  assert got["rtd_loss"] == pytest.approx(losses[attended].mean(), rel=1e-5)
  assert got["replaced_share"] == pytest.approx(labels.sum() / attended.sum())
  said, truth = (logits > 0)[attended], labels[attended]
  assert got["rtd_accuracy"] == pytest.approx((said == truth).mean())
  assert got["rtd_recall"] == pytest.approx((said & truth).sum() / truth.sum())
  assert got["rtd_precision"] == pytest.approx((said & truth).sum() / said.sum())
  even = batch.weights[:, ::2].sum() / batch.weights.sum()
  assert got["sampled_accuracy"] == pytest.approx(even)


def test_slots_of_weight_0_replace_nothing():
  batch = batch_of()
  none = dataclasses.replace(batch, weights=batch.weights * 0)
  objective = make(disallow_correct=True)
  got = figures(objective, params_of(objective), none)
  assert got["replaced_share"] == 0 and got["mlm_loss"] == 0 and got["rtd_loss"] > 0


def test_a_generator_that_may_not_be_right_replaces_every_slot():
  objective = make(disallow_correct=True)
  got, batch = figures(objective, params_of(objective)), batch_of()
  assert got["sampled_accuracy"] == 0
  assert got["replaced_share"] == pytest.approx(batch.weights.sum() / (batch.tokens.segments > 0).sum())


# --- samples --------------------------------------------------------------------------------------------------------


def test_samples_of_a_row_do_not_depend_on_the_other_rows():
  objective, batch = make(), batch_of()
  logits = jax.random.normal(jax.random.key(0), (ROWS, PREDICTIONS, PADDED))
  choose = jax.jit(lambda logits, rows, cursor: objective.choose(
    logits, batch.labels[: len(rows)], dataclasses.replace(draws(), rows=rows, cursor=cursor)
  ))  # fmt: skip
  whole, some = choose(logits, jnp.arange(ROWS), 0), np.array([3, 11, 7])
  np.testing.assert_array_equal(choose(logits[some], jnp.asarray(some), 0), whole[some])
  later = choose(logits, jnp.arange(ROWS), 4)
  assert (later != whole).mean() > 0.5


def test_temperature_sharpens_and_argmax_takes_the_likeliest():
  logits = 3 * jax.random.normal(jax.random.key(0), (ROWS, PREDICTIONS, PADDED))
  labels, best = batch_of().labels, jnp.argmax(logits, -1)
  share = lambda **choices: float((make(**choices).choose(logits, labels, draws()) == best).mean())
  assert share(temperature=0.01) > 0.98 and share(sample="argmax") == 1.0
  assert share(temperature=1.0) < 0.7 and share(temperature=100.0) < 0.1


# --- the step -------------------------------------------------------------------------------------------------------

RATE = 0.01
SGD = Optimizer(sgd(), constant_schedule(RATE, 0, 1), 0.0)


def update(objective, micro_batches, mesh):
  """Parameters on the host after the first step."""
  mesh, batch, zero = make_mesh(*mesh), batch_of(), np.int32(0)
  state = State(zero, zero, zero, params_of(objective), init_opt(SGD, params_of(objective), ()), None)
  shardings = state_shardings(state, objective, mesh, "none")
  step = make_step(objective, SGD, StepSettings(3, micro_batches, "mean"), mesh)
  step = jax.jit(step, out_shardings=(shardings, None))
  state, _ = step(jax.device_put(state, shardings), jax.device_put(batch, row_sharding(mesh)))
  return named_leaves(jax.device_get(state.params))


@pytest.mark.slow
def test_sampling_on_4x2_devices_in_4_micro_batches_gives_the_update_of_the_whole_batch():
  objective, got = make(), update(make(), 4, (4, 2))
  counts, terms = objective.counts(batch_of()), gradients(objective)
  for path, start in named_leaves(params_of(objective)).items():
    slope = terms["mlm"][path] / counts["mlm"] + 50 * terms["rtd"][path] / counts["rtd"]
    np.testing.assert_allclose(got[path], start - RATE * slope, rtol=1e-5, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("parts", [1, 2])
def test_sums_on_8x1_devices_in_parts_are_those_of_the_whole_batch(parts):
  """Part m holds rows m, m + parts, ... and draws what they draw in the whole batch."""
  objective, rows = make(), row_sharding(make_mesh(8, 1))
  sums = jax.jit(lambda params, batch, own: objective.sums(params, None, batch, draws(own), False)[:2])
  part = lambda m: jax.device_put(jax.tree.map(lambda x: x[m::parts], (batch_of(), np.arange(ROWS))), rows)
  totals = [sums(params_of(objective), *part(m)) for m in range(parts)]
  whole = named_leaves(compiled(objective)(params_of(objective), batch_of()))
  for path, leaf in named_leaves(jax.tree.map(lambda *x: sum(x), *jax.device_get(totals))).items():
    np.testing.assert_allclose(leaf, whole[path], rtol=1e-5, err_msg=path)


def test_packed_equals_unpacked_where_the_likeliest_word_is_taken():
  objective, packed = make(sample="argmax"), inside_examples(batch_of(4))
  params = params_of(objective)
  together, alone = ((compiled(objective)(params, b), objective.counts(b)) for b in (packed, unpack(packed)))
  for path, leaf in named_leaves(together).items():
    np.testing.assert_allclose(leaf, named_leaves(alone)[path], rtol=1e-5, err_msg=path)


def test_vocabulary_products_and_noise_run_on_slots_not_on_columns_or_words():
  objective, batch = make(), batch_of()
  shapes = jax.eval_shape(lambda: params_of(objective))
  loss = lambda p: sum(objective.sums(p, None, batch, draws(), True)[0].values())
  text = jax.jit(jax.grad(loss)).lower(shapes).as_text()
  products = re.findall(r"dot_general .*-> tensor<([\dx]+)xf32>", text)
  wide = {shape for shape in products if str(PADDED) in shape.split("x")}
  assert wide == {f"{ROWS}x{PREDICTIONS}x{PADDED}", f"{PADDED}x24"}  # logits, and the gradient of the table
  assert not re.search(rf"tensor<{ROWS}x{PREDICTIONS}x{PADDED}xui", text)  # no random word for each logit


def test_flops_by_hand():
  """9 tokens, 29 pairs, 3 predictions: stacks and projections, the table at predictions, detection everywhere."""
  work = flops.Work(tokens=9, squares=29, predictions=3, pairs=0, spans=0, slots=12)
  stack = lambda h, f: 2 * (2 * 9 * (4 * h * h + 2 * h * f) + 4 * h * 29)
  generator = stack(16, 32) / 2 + 2 * 9 * 24 * 16 + 2 * 3 * (16 * 24 + 24 * VOCAB)
  discriminator = stack(32, 64) + 2 * 9 * 24 * 32 + 2 * 9 * (32 * 32 + 32)
  model = make().model
  assert flops.FORWARD[type(model)](model.config, work) == generator + discriminator
