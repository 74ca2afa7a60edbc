"""Projected LSTMs: the formulas, gradients by differentiating them, state, masks, clips, numbers of copies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import recurrent
from models.paths import named_leaves
from models.recurrent import ProjectedLstms, RecurrentConfig, empty_carry
from models.sharding import axis_names

CELL, WIDTH, LAYERS, ROWS, STEPS = 5, 3, 2, 4, 6
CONFIG = RecurrentConfig(
  cell=CELL, projection=WIDTH, layers=LAYERS, cell_clip=0.6, projection_clip=0.5, skip=True, dropout=0.0, unroll=1,
  remat=False,
)  # fmt: skip


def inputs(seed=0, config=CONFIG):
  """(parameters, x [R, L, B, P], carry), so large that some of c and h reach their clips, and others do not."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(0, 0.8, shape).astype(np.float32)
  lead = (config.layers, 2)
  params = {
    "input": {"kernel": draw(*lead, WIDTH, 4, CELL)},
    "recurrent": {"kernel": draw(*lead, WIDTH, 4, CELL)},
    "bias": draw(*lead, 4, CELL),
    "projection": {"kernel": draw(*lead, CELL, WIDTH)},
  }
  return params, draw(2, STEPS, ROWS, WIDTH), 0.3 * draw(ROWS, 2, config.layers, CELL + WIDTH)


def plainly(params, x, carry, mask=None, config=CONFIG):
  """(outputs [T, R, L, B, P], carry): the formulas over one scan a layer, for jax to differentiate."""
  mask = np.ones(x.shape[:3], bool) if mask is None else mask
  outputs, ends = [], []
  for layer in range(config.layers):
    at = lambda *names, layer=layer: functools.reduce(lambda tree, name: tree[name], names, params)[layer]

    def step(state, read, at=at):
      (c, h), (x, advance) = state, read
      z = jnp.einsum("RBP,RPGC->GRBC", x, at("input", "kernel")) + at("bias").swapaxes(0, 1)[:, :, None]
      i, j, f, o = z + jnp.einsum("RBP,RPGC->GRBC", h, at("recurrent", "kernel"))
      new_c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(j)
      new_c = jnp.clip(new_c, -config.cell_clip, config.cell_clip)
      new_h = jnp.einsum("RBC,RCP->RBP", jax.nn.sigmoid(o) * jnp.tanh(new_c), at("projection", "kernel"))
      new_h = jnp.clip(new_h, -config.projection_clip, config.projection_clip)
      state = jnp.where(advance[..., None], new_c, c), jnp.where(advance[..., None], new_h, h)
      return state, state[1]

    start = tuple(jnp.split(carry[:, :, layer].swapaxes(0, 1), [CELL], axis=-1))
    end, h = jax.lax.scan(step, start, (x.swapaxes(0, 1), mask.swapaxes(0, 1)))
    h = h.swapaxes(0, 1)
    x = h + x if config.skip and layer else h
    outputs.append(x)
    ends.append(jnp.concatenate(end, axis=-1).swapaxes(0, 1))
  return jnp.stack(outputs), jnp.stack(ends, axis=2)


@functools.cache
def compiled(config):
  return jax.jit(lambda params, *arguments: ProjectedLstms(config).apply({"params": params}, *arguments))


def run(params, x, carry, mask=None, key=None, config=CONFIG):
  return compiled(config)(params, x, carry, mask, key)


def some_mask():
  """Rows of several lengths, one of none, and a hole."""
  lengths = np.array([[STEPS, 3, 0, 5], [1, STEPS, 4, 2]])
  mask = np.arange(STEPS)[None, :, None] < lengths[:, None]
  mask[0, 1, 0] = False
  return mask


@pytest.mark.parametrize(
  "dtype, change, masked",
  [
    (jnp.float64, {}, True),
    (jnp.float64, {"remat": True}, True),
    (jnp.float64, {"skip": False, "unroll": 3}, False),
    (jnp.float32, {"remat": True}, True),
  ],
  ids=["masked", "recomputed", "unmasked, no skip, unrolled", "float32"],
)
def test_outputs_state_and_all_gradients_are_those_of_the_formulas(dtype, change, masked):
  """Gradients from outputs and from the state behind, to all parameters, the input and the state before."""
  config, mask = dataclasses.replace(CONFIG, dtype=dtype, **change), some_mask() if masked else None
  weight = np.random.default_rng(9).normal(size=(LAYERS, 2, STEPS, ROWS, WIDTH))
  if masked:
    weight *= mask[None, ..., None]  # what padding gives has no meaning

  def loss(function, *arguments):
    outputs, carry = function(*arguments, mask=mask, config=config)
    return jnp.sum(outputs * weight) + jnp.sum(jnp.sin(carry)), (outputs * weight, carry)

  with jax.enable_x64(dtype == jnp.float64):
    arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), inputs())
    weight = jnp.asarray(weight, dtype)
    grad = lambda function: jax.jit(jax.grad(functools.partial(loss, function), (0, 1, 2), has_aux=True))(*arguments)
    (want, want_values), (got, got_values) = grad(plainly), grad(run)
  tolerance = 1e-12 if dtype == jnp.float64 else 1e-5
  for a, b in zip(want_values, got_values):
    assert b.dtype == dtype
    np.testing.assert_allclose(b, a, atol=tolerance)
  for path, leaf in named_leaves(want).items():
    np.testing.assert_allclose(named_leaves(got)[path], leaf, rtol=10 * tolerance, atol=tolerance, err_msg=path)


def test_the_inputs_reach_both_clips_and_not_always():
  outputs, carry = plainly(*inputs(), config=dataclasses.replace(CONFIG, skip=False))
  for values, bound in ((carry[..., :CELL], CONFIG.cell_clip), (outputs, CONFIG.projection_clip)):
    share = np.mean(np.abs(values) == np.float32(bound))
    assert 0.05 < share < 0.6


def test_two_calls_that_hand_the_state_on_are_one_call():
  params, x, carry = inputs()
  whole, end = run(params, x, carry)
  first, between = run(params, x[:, :2], carry)
  second, last = run(params, x[:, 2:], between)
  np.testing.assert_allclose(jnp.concatenate([first, second], axis=2), whole, atol=1e-6)
  np.testing.assert_allclose(last, end, atol=1e-6)
  assert np.abs(run(params, x[:, 2:], np.zeros_like(carry))[0] - second).max() > 0.05


def test_directions_layers_and_rows_are_apart():
  """What one direction or row reads does not reach another; a layer's state reaches the layers above it alone."""
  params, x, carry = inputs()
  outputs, _ = run(params, x, carry)
  changed = run(params, x.copy() + np.array([0, 1], np.float32)[:, None, None, None], carry)[0]
  assert np.array_equal(changed[:, 0], outputs[:, 0]) and not np.allclose(changed[:, 1], outputs[:, 1])
  other = x.copy()
  other[:, :, 2] += 1
  rows = np.abs(run(params, other, carry)[0] - outputs).max(axis=(0, 1, 2, 4))
  assert rows[2] > 0.05 and not rows[[0, 1, 3]].any()
  above = carry.copy()
  above[:, :, 1] += 0.5
  layers = np.abs(run(params, x, above)[0] - outputs).max(axis=(1, 2, 3, 4))
  assert layers[0] == 0 and layers[1] > 0.01


def test_padding_leaves_the_state_alone():
  """A row without words keeps its state bit for bit; words in padding change nothing that is real."""
  params, x, carry = inputs()
  mask = some_mask()
  outputs, end = run(params, x, carry, mask)
  np.testing.assert_array_equal(end[2, 0], carry[2, 0])
  noisy, noisy_end = run(params, np.where(mask[..., None], x, 100.0).astype(np.float32), carry, mask)
  np.testing.assert_array_equal(noisy_end, end)
  np.testing.assert_array_equal(np.where(mask[None, ..., None], noisy - outputs, 0.0), 0.0)


def test_dropout_is_of_the_input_and_the_skip_adds_what_is_left_of_it():
  """A layer that always gives zero is its skip alone: the first layer's output, some of it dropped."""
  config = dataclasses.replace(CONFIG, dropout=0.4)
  params, x, carry = inputs()
  params["projection"]["kernel"][1] = 0.0
  first, second = run(params, x, carry, None, jax.random.key(1), config)[0]
  kept = np.asarray(second != 0)
  np.testing.assert_allclose(np.asarray(second)[kept], np.asarray(first)[kept] / 0.6, rtol=1e-6)
  assert 0.4 < kept.mean() < 0.8
  per_step = kept.transpose(1, 0, 2, 3).reshape(STEPS, -1)
  assert len(np.unique(per_step, axis=0)) == STEPS  # a mask of its own in each step
  np.testing.assert_array_equal(run(params, x, carry, None, None, config)[0], run(params, x, carry)[0])


def test_initial_parameters():
  """Kernels Glorot uniform as of the one [2P, 4C] matrix that the original has, biases zero; each copy its own."""
  config = dataclasses.replace(CONFIG, cell=64, projection=32)
  model = ProjectedLstms(config)
  init = lambda: model.init(jax.random.key(0), jnp.zeros((2, 1, 1, 32)), empty_carry(config, 1))["params"]
  params = jax.jit(init)()
  for name, fans in (("input", 64 + 256), ("recurrent", 64 + 256), ("projection", 64 + 32)):
    kernel, bound = np.asarray(params[name]["kernel"]), (6 / fans) ** 0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound and abs(kernel.std() - bound / 3**0.5) < 0.02 * bound
    assert len(np.unique(kernel.reshape(LAYERS * 2, -1), axis=0)) == LAYERS * 2
  assert not np.any(params["bias"])


def test_every_leaf_has_a_rule():
  params, _, _ = inputs()
  assert len(axis_names({"layers": params}, recurrent.RECURRENT_AXES)) == 4


def test_products_in_bfloat16_keep_cells_and_state_in_float32():
  config = dataclasses.replace(CONFIG, dtype=jnp.bfloat16)
  params, x, carry = inputs()
  lowered = jax.jit(functools.partial(run, config=config)).lower(params, x, carry).as_text()
  products = [line for line in lowered.splitlines() if "dot_general" in line]
  assert products and all("bf16" in line and "-> tensor" in line and "f32>" in line.split("->")[1] for line in products)
  outputs, end = run(params, x, carry, config=config)
  assert outputs.dtype == end.dtype == jnp.float32
  np.testing.assert_allclose(outputs, run(params, x, carry)[0], atol=0.05)
  loose = lambda dtype: dataclasses.replace(CONFIG, dtype=dtype, cell_clip=9.0, projection_clip=9.0)
  loss = lambda params, config: jnp.sum(jnp.sin(run(params, x, carry, config=config)[0]))
  gradients = lambda dtype: jax.jit(jax.grad(functools.partial(loss, config=loose(dtype))))(params)
  want, got = gradients(jnp.float32), gradients(jnp.bfloat16)
  for path, leaf in named_leaves(want).items():
    error = np.linalg.norm(named_leaves(got)[path] - leaf) / np.linalg.norm(leaf)
    assert named_leaves(got)[path].dtype == jnp.float32 and 1e-4 < error < 0.03, path


def test_the_backward_loop_has_two_products_and_no_gradient_of_a_kernel():
  """Gradients of kernels are products over all steps, behind the loop."""
  params, x, carry = inputs()
  loss = lambda params: jnp.sum(run(params, x, carry)[0])
  jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr

  def scans(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == "scan":
        yield equation.params["jaxpr"].jaxpr
      for value in equation.params.values():
        if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
          yield from scans(inner)

  products = [sum(e.primitive.name == "dot_general" for e in body.eqns) for body in scans(jaxpr)]
  assert products == [2] * (2 * LAYERS)
