"""Adagrad as the original ELMo was trained with: by hand, against TensorFlow's formula, and behind clip and scale."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data.batch import Tokens
from models.sharding import make_mesh
from objectives.optimizers import Optimizer, adagrad, constant_schedule
from objectives.state import init_state, state_shardings
from objectives.step import StepSettings, make_step


def test_the_first_direction_from_an_accumulator_of_1():
  """g / sqrt(1 + g^2): 3 / sqrt(10)."""
  transform, params = adagrad(1.0), {"w": jnp.zeros(1)}
  direction, state = transform.update({"w": jnp.full(1, 3.0)}, transform.init(params))
  assert float(direction["w"][0]) == pytest.approx(3 / 10**0.5, rel=1e-6)
  assert float(state.squares["w"][0]) == 10.0


@pytest.mark.parametrize("accumulator", [1.0, 0.1])
def test_twenty_updates_equal_a_plain_loop(accumulator):
  rng, transform = np.random.default_rng(0), adagrad(accumulator)
  params = {"w": jnp.zeros(5)}
  state, w, total = transform.init(params), np.zeros(5), np.full(5, accumulator)
  for _ in range(20):
    g = rng.normal(size=5)
    total += g * g
    w -= 0.2 * g / np.sqrt(total)
    direction, state = transform.update({"w": jnp.asarray(g, jnp.float32)}, state)
    params = jax.tree.map(lambda p, d: p - 0.2 * d, params, direction)
  np.testing.assert_allclose(params["w"], w, rtol=1e-5)
  np.testing.assert_allclose(state.squares["w"], total, rtol=1e-5)


def test_there_is_no_epsilon():
  """From an accumulator of 1e-12 a gradient of 1e-6 moves by 1 / sqrt(2); optax adds 1e-7 to the root."""
  params, g = {"w": jnp.zeros(1)}, {"w": jnp.full(1, 1e-6)}
  direction = lambda transform: float(transform.update(g, transform.init(params))[0]["w"][0])
  assert direction(adagrad(1e-12)) == pytest.approx(0.5**0.5, rel=1e-5)
  assert direction(optax.scale_by_rss(1e-12, 1e-7)) < 0.7


def test_rows_without_a_gradient_and_their_sums_stay():
  table = {"embedding": jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)}
  transform = adagrad(1.0)
  gradient = jax.tree.map(jnp.zeros_like, table)
  gradient["embedding"] = gradient["embedding"].at[2].set(1.0)
  direction, state = transform.update(gradient, transform.init(table))
  for leaf, still in ((direction["embedding"], 0.0), (state.squares["embedding"], 1.0)):
    assert (leaf[jnp.array([0, 1, 3, 4, 5])] == still).all() and (leaf[2] != still).all()


@dataclasses.dataclass(frozen=True)
class Slope:
  """The loss w . slope, for any batch."""

  slope: tuple[float, ...]
  separable: bool = True
  weights = {"term": 1.0}

  def init(self, key, batch):
    return {"w": jnp.zeros(len(self.slope))}

  def carry(self, batch):
    return None

  def axes(self):
    return (("^w$", (None,)),)

  def counts(self, batch):
    return {"term": jnp.float32(1.0)}

  def sums(self, params, carry, batch, draws, train):
    return {"term": params["w"] @ jnp.array(self.slope)}, {}, None


def steps(slope, count):
  """(parameters, sums of squares, norm before the clip) after `count` steps of ELMo's optimiser."""
  optimizer = Optimizer(adagrad(1.0), constant_schedule(0.2, 0, 1), 10.0)
  batch = Tokens(*(np.zeros((1, 8), np.int32),) * 4)
  objective, mesh = Slope(slope), make_mesh(1, 1, jax.devices()[:1])
  state = init_state(objective, optimizer, 0, (), batch)
  assert state_shardings(state, objective, mesh, "none").opt.squares.keys() == {"w"}
  step = jax.jit(make_step(objective, optimizer, StepSettings(0, 1, 20.0), mesh))
  for _ in range(count):
    state, report = step(state, batch)
  return state.params["w"], state.opt.squares["w"], float(report.grad_norm)


def test_the_loss_times_20_is_clipped_to_10_and_then_scaled():
  """Slope (3, 4): 20 times it is (60, 80), of norm 100; clipped (6, 8). w = -0.2 (6 / sqrt(37), 8 / sqrt(65))."""
  w, squares, norm = steps((3.0, 4.0), 1)
  assert norm == pytest.approx(100.0)
  np.testing.assert_allclose(squares, [37.0, 65.0], rtol=1e-6)
  np.testing.assert_allclose(w, [-0.2 * 6 / 37**0.5, -0.2 * 8 / 65**0.5], rtol=1e-6)


def test_a_second_step_adds_to_the_sums():
  """Again (6, 8): sums 73 and 129."""
  w, squares, _ = steps((3.0, 4.0), 2)
  np.testing.assert_allclose(squares, [73.0, 129.0], rtol=1e-6)
  want = [-0.2 * 6 * (37**-0.5 + 73**-0.5), -0.2 * 8 * (65**-0.5 + 129**-0.5)]
  np.testing.assert_allclose(w, want, rtol=1e-6)


def test_below_the_clip_the_scale_of_20_counts():
  """Slope (0.03, 0.04): 20 times it is (0.6, 0.8), of norm 1, and stays."""
  w, squares, norm = steps((0.03, 0.04), 1)
  assert norm == pytest.approx(1.0, rel=1e-5)
  np.testing.assert_allclose(squares, [1.36, 1.64], rtol=1e-6)
  np.testing.assert_allclose(w, [-0.2 * 0.6 / 1.36**0.5, -0.2 * 0.8 / 1.64**0.5], rtol=1e-5)
