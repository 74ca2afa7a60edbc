"""BERT's optimiser and schedules against hand computation and the published numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from objectives.optimizers import adamw, bert_schedule, constant_schedule, decay_mask, linear_schedule, scale_by_moments

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
