"""Optimisers and schedules against hand computation, plain loops and the published numbers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import albert, bert, electra, roberta, spanbert
from data.batch import Tokens
from models.sharding import make_mesh
from objectives import build_optimizer
from objectives.base import mean_losses
from objectives.optimizers import (
  SCHEDULES,
  Optimizer,
  adamw,
  bert_schedule,
  constant_schedule,
  decay_mask,
  electra_schedule,
  linear_schedule,
  scale_by_moments,
  sgd,
)
from objectives.state import init_state
from objectives.step import StepSettings, make_step

G = 0.5


def direction(**options):
  transform = scale_by_moments(0.9, 0.999, 1e-6, **options)
  params = {"w": jnp.zeros(3)}
  return transform.update({"w": jnp.full(3, G)}, transform.init(params))[0]["w"]


def test_first_update_without_bias_correction():
  """From zero moments: 0.1 g / (sqrt(0.001) |g| + 1e-6), about 3.16."""
  np.testing.assert_allclose(direction(bias_correction=False), 0.1 * G / (np.sqrt(0.001) * G + 1e-6), rtol=1e-5)
  assert abs(float(direction(bias_correction=False)[0]) - 3.16) < 0.01


def test_first_update_with_bias_correction_is_the_sign():
  np.testing.assert_allclose(direction(bias_correction=True), 1.0, rtol=1e-5)


def first_direction(g, **options):
  """Of scale_by_moments from zero moments with RoBERTa's betas and eps 1e-6."""
  transform = scale_by_moments(0.9, 0.98, 1e-6, **options)
  params = {"w": jnp.zeros(1)}
  return float(transform.update({"w": jnp.full(1, g)}, transform.init(params))[0]["w"][0])


def test_epsilon_hat_damps_small_gradients_more():
  """First update at g = eps = 1e-6: sqrt(0.02) g / (sqrt(0.02) g + eps) = 0.1239 (fairseq), or g / (g + eps) = 0.5."""
  root = 0.02**0.5
  assert abs(first_direction(1e-6, bias_correction=True, eps_hat=True) - root / (root + 1)) < 1e-5
  assert abs(first_direction(1e-6, bias_correction=True, eps_hat=False) - 0.5) < 1e-5


def test_epsilon_hat_means_nothing_without_bias_correction():
  """0.1 g / (sqrt(0.02) g + eps) either way."""
  got = [first_direction(1e-6, bias_correction=False, eps_hat=hat) for hat in (True, False)]
  assert got[0] == got[1] and abs(got[0] - 0.1 / (0.02**0.5 + 1)) < 1e-6


def test_both_places_of_epsilon_equal_their_formulas_over_five_updates():
  """fairseq: step size sqrt(1 - b2^t) / (1 - b1^t) on m / (sqrt(v) + eps); optax's Adam is the other form."""
  rng, eps = np.random.default_rng(1), 1e-3
  hat, plain = (scale_by_moments(0.9, 0.98, eps, True, eps_hat) for eps_hat in (True, False))
  oracle = optax.scale_by_adam(0.9, 0.98, eps)
  zeros = {"w": jnp.zeros(6)}
  states, m, v = [t.init(zeros) for t in (hat, plain, oracle)], np.zeros(6), np.zeros(6)
  for t in range(1, 6):
    g = rng.normal(size=6) * 1e-3
    m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
    results = [f.update({"w": jnp.asarray(g, jnp.float32)}, s) for f, s in zip((hat, plain, oracle), states)]
    (got_hat, got_plain, want_plain), states = ([r[i] for r in results] for i in (0, 1))
    want_hat = (1 - 0.98**t) ** 0.5 / (1 - 0.9**t) * m / (np.sqrt(v) + eps)
    np.testing.assert_allclose(got_hat["w"], want_hat, rtol=1e-4)
    np.testing.assert_allclose(got_plain["w"], want_plain["w"], rtol=1e-4)
    assert np.abs(got_hat["w"] / got_plain["w"] - 1).max() > 0.1


@pytest.mark.parametrize("bias_correction", [True, False])
def test_twenty_updates_equal_a_plain_loop(bias_correction):
  rng = np.random.default_rng(0)
  w = m = v = np.zeros(4)
  w = rng.normal(size=4)
  params = {"dense": {"kernel": jnp.asarray(w)}}
  transform = adamw(0.9, 0.999, 1e-6, 0.01, ("norm/", "bias$"), bias_correction)
  state = transform.init(params)
  for t in range(1, 21):
    g = rng.normal(size=4)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    mh, vh = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if bias_correction else (m, v)
    w = w - 0.01 * (mh / (np.sqrt(vh) + 1e-6) + 0.01 * w)
    step, state = transform.update({"dense": {"kernel": jnp.asarray(g)}}, state, params)
    params = {"dense": {"kernel": params["dense"]["kernel"] - 0.01 * step["dense"]["kernel"]}}
  np.testing.assert_allclose(params["dense"]["kernel"], w, rtol=2e-5)


def test_norms_and_biases_do_not_decay():
  params = {"layers": {"norm": {"scale": 0, "bias": 0}, "query": {"kernel": 0, "bias": 0}}, "word": {"embedding": 0}}
  assert decay_mask(params, ("norm/", "bias$")) == {
    "layers": {"norm": {"scale": False, "bias": False}, "query": {"kernel": True, "bias": False}},
    "word": {"embedding": True},
  }  # fmt: skip


# --- clip -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Inner:
  """The loss w . (3, 4), whose gradient has norm 5."""

  separable: bool = True
  weights = {"inner": 1.0}

  def init(self, key, batch):
    return {"w": jnp.zeros(2)}

  def carry(self, batch):
    return None

  def axes(self):
    return ((r"^w$", (None,)),)

  def table_sizes(self):
    return {}

  def counts(self, batch):
    return {"inner": jnp.ones(())}

  def sums(self, params, carry, batch, draws, train):
    return {"inner": params["w"] @ jnp.asarray([3.0, 4.0])}, {}, None

  def report(self, sums, counts, statistics):
    return mean_losses(sums, counts, self.weights)


@pytest.mark.parametrize("clip, moved", [(0.0, 5.0), (1.0, 1.0), (10.0, 5.0)])
def test_clip_zero_is_off(clip, moved):
  """RoBERTa clips nothing (clip = 0); BERT cuts the global norm to 1."""
  optimizer = Optimizer(sgd(), constant_schedule(1.0, 0, 1), clip)
  batch = Tokens(*[np.zeros((8, 1), np.int32)] * 4)
  state = init_state(Inner(), optimizer, 0, (), batch)
  state, report = make_step(Inner(), optimizer, StepSettings(0, 1, "mean"), make_mesh(8, 1))(state, batch)
  np.testing.assert_allclose(jnp.linalg.norm(state.params["w"]), moved, rtol=1e-6)
  assert float(report.grad_norm) == 5.0


# --- schedules --------------------------------------------------------------------------------------------------------

PUBLISHED = {  # schedule, peak, warm-up, steps -> the factor of the peak at warm-up - 1, warm-up, the last step
  "BERT": ("bert", 1e-4, 10_000, 1_000_000, 0.9999, 0.99, 1e-6),
  "ALBERT": ("bert", 0.00176, 3125, 125_000, 3124 / 3125, 0.975, 8e-6),
  "SpanBERT": ("bert", 1e-4, 10_000, 2_400_000, 0.9999, 239 / 240, 1 / 2_400_000),
  "RoBERTa base": ("linear", 6e-4, 24_000, 500_000, 23_999 / 24_000, 1.0, 1 / 476_000),
  "RoBERTa large": ("linear", 4e-4, 30_000, 500_000, 29_999 / 30_000, 1.0, 1 / 470_000),
  "ELECTRA small": ("electra", 5e-4, 10_000, 1_000_000, 0.9999 * 0.990001, 0.99, 1e-6),
  "ELECTRA large": ("electra", 2e-4, 10_000, 400_000, 0.9999 * (1 - 9999 / 400_000), 0.975, 2.5e-6),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_schedules(model):
  name, peak, warmup, total, *factors = PUBLISHED[model]
  lr = SCHEDULES[name](peak, warmup, total)
  assert float(lr(0)) == 0.0  # every published schedule's first update has rate 0
  before, at, last = (float(lr(step)) / peak for step in (warmup - 1, warmup, total - 1))
  np.testing.assert_allclose([before, at], factors[:2], rtol=1e-6)
  np.testing.assert_allclose(last, factors[2], rtol=1e-6, atol=6e-8)
  assert float(lr(total)) == 0.0


@pytest.mark.parametrize("recipe, direction, rate", [
  (bert, 0.1 / (0.001**0.5 + 1) + 0.01 * 3, 0.99e-4),
  (roberta, 0.02**0.5 / (0.02**0.5 + 1) + 0.01 * 3, 6e-4),
  (albert, 3.0, 0.975 * 0.00176),  # the ratio makes it as long as the weight
  (spanbert, 0.001**0.5 / (0.001**0.5 + 0.01) + 0.1 * 3, 1e-4 * 239 / 240),
  (electra, 0.1 / (0.001**0.5 + 1) + 0.01 * 3, 2e-4 * 756 / 766),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_recipes_have_their_published_optimiser(recipe, direction, rate):
  """First update of a weight of 3 with gradient 1e-6, decay included, and the rate at the end of warm-up."""
  config = recipe.get_config("base")
  optimizer = build_optimizer(config)
  params, gradient = {"kernel": jnp.full(1, 3.0)}, {"kernel": jnp.full(1, 1e-6)}
  got = optimizer.transform.update(gradient, optimizer.transform.init(params), params)[0]["kernel"]
  np.testing.assert_allclose(got, direction, rtol=1e-4)
  np.testing.assert_allclose(optimizer.schedule(config.optimizer.warmup_steps), rate, rtol=1e-5)


def test_electra_decays_during_warm_up():
  """Half-way through warm-up: peak * 0.5 * (1 - 5000 / 1M), where BERT's has 0.5; the same from warm-up on."""
  electra, bert = (make(5e-4, 10_000, 1_000_000) for make in (electra_schedule, bert_schedule))
  np.testing.assert_allclose([electra(5000), bert(5000)], [5e-4 * 0.5 * 0.995, 5e-4 * 0.5], rtol=1e-6)
  np.testing.assert_allclose(electra(400_000), bert(400_000), rtol=1e-6)
  assert float(electra_schedule(1.0, 0, 10)(0)) == 1.0


def test_bert_schedule_jumps_down_at_the_end_of_warm_up():
  """0 at first, the peak never reached: 99.99 % of it, then 99 %, since the decay counts from step 0; 0 at the end."""
  lr = bert_schedule(1e-4, 10_000, 1_000_000)
  assert float(lr(0)) == 0.0 and 0.9e-10 < float(lr(999_999)) < 1.1e-10
  np.testing.assert_allclose([lr(9_999), lr(10_000), lr(500_000)], [0.9999e-4, 0.99e-4, 0.5e-4], rtol=1e-6)


def test_linear_schedule_has_no_jump():
  lr = linear_schedule(4e-4, 30_000, 500_000)
  np.testing.assert_allclose([lr(0), lr(30_000), lr(265_000), lr(500_000)], [0.0, 4e-4, 2e-4, 0.0], rtol=1e-5)


def test_constant_schedule_warms_up():
  np.testing.assert_allclose([constant_schedule(1.0, 4, 10)(s) for s in (0, 2, 4, 9)], [0, 0.5, 1, 1])
  assert float(constant_schedule(1.0, 0, 10)(0)) == 1.0
