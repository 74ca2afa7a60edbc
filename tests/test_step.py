"""One step for every objective: one update whatever the micro-batches and the mesh, and none that is not finite."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from data.batch import validate
from models.sharding import make_mesh, row_sharding
from objectives.optimizers import Optimizer, adamw, constant_schedule, sgd
from objectives.state import init_state, state_shardings
from objectives.step import StepSettings, make_step
from tests.tenants import BERT, LENGTH, ROWS, TENANTS, WIDTH

SGD = Optimizer(sgd(), constant_schedule(0.1, 0, 1), 0.0)
ADAM = Optimizer(adamw(0.9, 0.999, 1e-6, 0.01, ("norm/", "bias"), False), constant_schedule(1e-3, 0, 1), 1.0)
MESHES = {"8x1": (8, 1), "4x2": (4, 2), "2x4": (2, 4)}
LONGER = functools.partial(pytest.param, marks=pytest.mark.slow)


@functools.cache
def initial(tenant, optimizer):
  """The fresh state on the host; tests of sharded creation do it on the mesh instead."""
  objective, make_batch = TENANTS[tenant]
  return jax.device_get(jax.jit(lambda: init_state(objective, optimizer, 3, (), make_batch(0)))())


@functools.cache
def compiled_step(tenant, optimizer, settings, mesh, over_data):
  """(jitted step with donation, state shardings, mesh) of one program."""
  objective, _ = TENANTS[tenant]
  mesh = make_mesh(*mesh, jax.devices()[: mesh[0] * mesh[1]])
  shardings = state_shardings(initial(tenant, optimizer), objective, mesh, over_data)
  step = make_step(objective, optimizer, settings, mesh)
  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)), shardings, mesh


def run(tenant, micro_batches=1, mesh=(1, 1), optimizer=SGD, loss_scale="mean", batches=None, over_data="none"):
  """(state, report) on the host after the batches (by default one), jitted with shardings on a mesh."""
  settings = StepSettings(seed=3, micro_batches=micro_batches, loss_scale=loss_scale)
  step, shardings, mesh = compiled_step(tenant, optimizer, settings, mesh, over_data)
  state = jax.device_put(initial(tenant, optimizer), shardings)
  for batch in batches or [TENANTS[tenant][1](0)]:
    validate(batch)
    state, report = step(state, place(batch, mesh))
  return jax.device_get(state), jax.device_get(report)


def place(batch, mesh):
  """Rows over `data`; a partial batch, or the word tables of a few groups, whole on every device."""
  rows, whole = row_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  return jax.device_put(batch, jax.tree.map(lambda x: whole if x.shape[0] % mesh.shape["data"] else rows, batch))


@functools.cache
def reference(tenant):
  return run(tenant)


def assert_close(got, want, tolerance=1e-5):
  for (path, a), (_, b) in zip(*(jax.tree_util.tree_flatten_with_path(tree)[0] for tree in (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("micro_batches", [2, LONGER(4)])
def test_micro_batches_give_the_same_update(tenant, micro_batches):
  (state, report), (want, whole) = run(tenant, micro_batches), reference(tenant)
  assert_close((state, report.sums, report.statistics), (want, whole.sums, whole.statistics))


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("mesh", [LONGER("8x1"), "4x2", LONGER("2x4")])
def test_meshes_give_the_same_update(tenant, mesh):
  (state, report), (want, whole) = run(tenant, 2, MESHES[mesh]), reference(tenant)
  assert_close((state, report.sums), (want, whole.sums))


@pytest.mark.parametrize("over_data", ["all", LONGER("optimizer")])
def test_sharding_parameters_over_data_gives_the_same_update(over_data):
  state, _ = run("masked", 1, (4, 2), optimizer=ADAM, over_data=over_data)
  want, _ = run("masked", optimizer=ADAM)
  # Adam divides round-off by itself where a gradient is zero (key biases), so only the step's size bounds those.
  assert_close(state.params, want.params, 2e-3)


@pytest.mark.parametrize("tenant", TENANTS)
def test_update_moves_every_term(tenant):
  objective, make_batch = TENANTS[tenant]
  _, report = run(tenant, optimizer=ADAM, batches=[make_batch(0)])
  assert set(report.sums) == set(objective.weights) == set(report.counts)
  first = objective.report(report.sums, report.counts, report.statistics)
  _, report = run(tenant, optimizer=ADAM, batches=[make_batch(0)] * 30)
  assert objective.report(report.sums, report.counts, report.statistics)["loss"] < first["loss"]


@functools.cache
def compiled_text(tenant, micro_batches, mesh):
  step, shardings, mesh = compiled_step(tenant, SGD, StepSettings(3, micro_batches, "mean"), mesh, "none")
  shape = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
  state = jax.tree.map(shape, initial(tenant, SGD), shardings)
  return step.lower(state, place(TENANTS[tenant][1](0), mesh)).compile().as_text()


def matmul_shapes(text):
  """Output shapes of the matrix products in optimised HLO."""
  return [tuple(map(int, dims.split(","))) for dims in re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text)]


@pytest.mark.parametrize("micro_batches", [LONGER(1), 2, LONGER(4)])
def test_devices_keep_their_rows_of_the_batch(micro_batches):
  """On 4 data devices: no all-gather, and FFN products have B / (M * devices) rows (or are weight gradients)."""
  text = compiled_text("masked", micro_batches, (4, 1))
  assert "all-gather" not in text
  rows = {int(np.prod(shape[:-1])) for shape in matmul_shapes(text) if shape[-1] == BERT.ffn}
  assert rows == {ROWS // (micro_batches * 4) * LENGTH, WIDTH}


def poisoned(batch):
  return dataclasses.replace(batch, weights=batch.weights * np.float32(np.nan))


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_non_finite_batch_changes_nothing_but_cursor_and_skipped(tenant):
  _, make_batch = TENANTS[tenant]
  before, _ = run(tenant, batches=[make_batch(0)], optimizer=ADAM)
  after, report = run(tenant, batches=[make_batch(0), poisoned(make_batch(1))], optimizer=ADAM)
  assert not report.applied
  assert (after.step, after.cursor, after.skipped) == (1, 2, 1)
  moving = lambda state: jax.tree.leaves((state.params, state.opt, state.carry))
  for got, want in zip(moving(after), moving(before), strict=True):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("tenant", TENANTS)
def test_terms_without_targets_are_finite_and_exact(tenant):
  """n_k = 0: the term is 0, its gradient is 0, and the others are what they are alone."""
  _, make_batch = TENANTS[tenant]
  empty = dataclasses.replace(make_batch(0), weights=make_batch(0).weights * 0)
  state, report = run(tenant, batches=[empty])
  assert report.applied and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
  for term, count in report.counts.items():
    if count == 0:
      assert report.sums[term] == 0
  assert any(count == 0 for count in report.counts.values())


def test_partial_batches_equal_smaller_batches():
  """Rows of padding (segments 0, weights 0) change no term."""
  objective, make_batch = TENANTS["masked"]
  batch = make_batch(0)
  keep = np.arange(ROWS) < 10
  small = jax.tree.map(lambda leaf: leaf[:10], batch)
  pad = lambda leaf: np.where(keep.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0).astype(leaf.dtype)
  got, _ = run("masked", batches=[jax.tree.map(pad, batch)])
  want, _ = run("masked", batches=[small])
  assert_close(got.params, want.params)


def test_loss_scales_multiply_the_gradient_before_the_clip():
  _, mean = run("masked")
  _, factor = run("masked", loss_scale=20.0)
  _, total = run("masked", 2, loss_scale="sum")
  np.testing.assert_allclose(factor.grad_norm, 20 * mean.grad_norm, rtol=1e-5)
  assert total.grad_norm > 10 * mean.grad_norm
  np.testing.assert_allclose(total.sums["mlm"], mean.sums["mlm"], rtol=1e-5)


def test_clip_bounds_the_update():
  clipped = dataclasses.replace(SGD, clip=0.01)
  before = run("masked", batches=[poisoned(TENANTS["masked"][1](0))])[0].params
  after, report = run("masked", optimizer=clipped)
  moved = jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(before))))
  assert report.grad_norm > 0.01
  np.testing.assert_allclose(moved, 0.1 * 0.01, rtol=1e-3)


def test_micro_batches_of_an_inseparable_objective_are_refused():
  objective = dataclasses.replace(TENANTS["masked"][0], separable=False)
  with pytest.raises(ValueError, match="micro_batches: got 2, want 1"):
    make_step(objective, SGD, StepSettings(0, 2, "mean"), make_mesh(8, 1))
