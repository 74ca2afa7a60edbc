"""Tasks of words and texts on every encoder: losses against NumPy; packing and micro-batches change nothing."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.batch import Labelled, Tokens
from data.tasks.batches import Shape, collate
from data.tasks.rows import TaskRow
from models.paths import named_leaves
from models.sharding import make_mesh
from objectives.optimizers import Optimizer, constant_schedule, sgd
from objectives.state import State
from objectives.step import StepSettings, make_step
from objectives.tasks import KINDS, TaskObjective
from tests.parity_models import random_params
from tests.task_models import CLASSES, case

FAMILY = {"classify": "bert", "regress": "roberta", "tag": "electra", "answer": "spanbert", "choose": "albert"}


def batch_of(labels, weights, **fields):
  nothing = np.zeros((len(labels), 3), np.int32)
  return Labelled(Tokens(*[nothing] * 4), np.int32(labels), np.float32(weights), **fields)


def total(kind, logits, batch):
  """(sum of the losses, what it is divided by, hits of those that count)."""
  losses, hits = KINDS[kind].losses(jnp.float32(logits), batch)
  counted = np.asarray(KINDS[kind].counted(batch))
  return float((losses * counted).sum()), float(counted.sum()), None if hits is None else np.asarray(hits)[counted > 0]


def test_a_number_costs_its_squared_error():
  """(3 - 2.5)^2 + (0 - 5)^2 over the two that count; nothing is right or wrong."""
  said, true = np.float32([[[3.0], [0.0]], [[7.0], [1.0]]]), np.float32([[[2.5], [5.0]], [[7.5], [0.0]]])
  batch = batch_of([[0, 0], [0, 0]], [[1, 1], [0, 0]], several=true)
  assert total("regress", said, batch) == (0.25 + 25.0, 2.0, None)


def test_a_question_costs_the_cross_entropy_of_its_choices_and_counts_once():
  """A row is a question; one of three choices, one of two, and a row without one."""
  logits = np.random.default_rng(0).normal(size=(3, 4))
  batch = batch_of([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
  cost, count, hits = total("choose", logits, batch)
  want = [-np.log(np.exp(row[right]) / np.exp(row).sum()) for row, right in ((logits[0, :3], 2), (logits[1, :2], 0))]
  assert count == 2.0 and cost == pytest.approx(sum(want), rel=1e-5)
  assert hits.tolist() == [logits[0, :3].argmax() == 2, logits[1, :2].argmax() == 0]


def test_a_choice_that_is_none_takes_no_gradient():
  batch = batch_of([[1, 0, 0]], [[1, 1, 0]])
  slope = jax.grad(lambda logits: (KINDS["choose"].losses(logits, batch)[0] * KINDS["choose"].counted(batch)).sum())
  found = np.asarray(slope(jnp.float32([[0.3, -0.2, 9.0]])))
  assert found[0, 2] == 0 and found[0, 0] == pytest.approx(-found[0, 1]) and found[0, 0] < 0


# --- whole batches ----------------------------------------------------------------------------------------------------


def rows_of(kind, count=6):
  """Examples of odd sizes with one label, or tags on three columns, or two columns of an answer."""
  rng, rows = np.random.default_rng(3), []
  for number in range(count):
    size = int(rng.integers(8, 14))
    ids, kinds = rng.integers(5, 40, size).astype(np.int32), np.int32(np.arange(size) > 5)
    labels, own = np.int32([number % CLASSES]), {"cls": np.int32([0])}
    if kind == "tag":
      labels, own = rng.integers(0, CLASSES, 3).astype(np.int32), {"cls": np.int32([1, 2, 5])}
    elif kind == "answer":
      labels, own = np.int32([2, 5]), {}
    elif kind == "regress":
      labels, own = np.int32([0]), own | {"several": np.float32([[number / 2]])}
    rows.append(TaskRow(ids, kinds, labels, np.ones(len(labels), np.float32), **own))
  return rows


def questions(packed):
  """Questions of 3, 2, 3 and 3 choices, each a row; packed: choices stand one behind the other, without padding."""
  rng, most, width = np.random.default_rng(4), 3, 3 * 14
  shape = (4, width)
  ids, kinds, segments, positions = (np.zeros(shape, np.int32) for _ in range(4))
  cls, labels, weights = np.zeros((4, most), np.int32), np.zeros((4, most), np.int32), np.zeros((4, most), np.float32)
  for row, choices in enumerate((3, 2, 3, 3)):
    column = 0
    for choice in range(choices):
      size = int(rng.integers(8, 14))
      span = slice(column, column + size)
      ids[row, span], kinds[row, span] = rng.integers(5, 40, size), np.arange(size) > 4
      segments[row, span], positions[row, span] = choice + 1, np.arange(size)
      cls[row, choice], weights[row, choice] = column, 1
      column += size if packed else 14
    labels[row, int(rng.integers(choices))] = 1
  return Labelled(Tokens(ids, kinds, segments, positions), labels, weights, cls=cls)


def batches(kind):
  """The same examples twice: each alone in its row, and packed."""
  if kind == "choose":
    return [(questions(packed), lambda values: list(values)) for packed in (False, True)]
  made = [collate(rows_of(kind), Shape(48, packed, 2, 1, 1, columns=kind == "answer")) for packed in (1, 3)]
  return [(one.batch, lambda values, one=one: one.parts(values, KINDS[kind].by_column)) for one in made]


@pytest.mark.parametrize("kind", FAMILY)
def test_packed_examples_have_the_logits_and_the_loss_of_lone_ones(kind):
  given = case(FAMILY[kind], kind)
  objective, params = TaskObjective(given.model, kind), random_params(given.model)
  evaluate = jax.jit(lambda batch: objective.sums(params, None, batch, types.SimpleNamespace(), train=False)[:2])
  found = []
  for batch, parts in batches(kind):
    sums, statistics = evaluate(batch)
    loss = float(sums["task"] / objective.counts(batch)["task"])
    found.append((loss, parts(np.asarray(statistics["outputs"])), batch.tokens.ids.shape))
    assert objective.report(*jax.device_get((sums, objective.counts(batch), statistics)))["loss"] == pytest.approx(loss)
  (lone, apart, _), (packed, together, _) = found
  assert lone == pytest.approx(packed, rel=1e-5)
  for one, other in zip(apart, together, strict=True):
    assert one.shape == other.shape and one.size
    np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_a_scaled_number_costs_its_error_over_the_scale(family):
  """As if its target stood over the scale; what is said of held-out examples is the number itself."""

  def evaluated(batch, **choices):
    given = case(family, "regress", **choices)
    objective, params = TaskObjective(given.model, "regress"), random_params(given.model)
    sums, statistics, _ = objective.sums(params, None, batch, types.SimpleNamespace(), train=False)
    return float(sums["task"]), np.asarray(statistics["outputs"])

  batch = collate(rows_of("regress"), Shape(48, 1, 2, 1, 1)).batch
  cost, said = evaluated(batch, target_scale=5.0)
  plain, learned = evaluated(dataclasses.replace(batch, several=batch.several / 5))
  assert cost == pytest.approx(plain, rel=1e-5) and cost > 0
  np.testing.assert_allclose(said, 5 * learned, rtol=1e-6)


def test_micro_batches_give_the_same_update():
  """Also where rows have unlike numbers of choices: each question counts once."""
  given = case("albert", "choose", head_dropout=0.0)
  objective, params = TaskObjective(given.model, "choose"), random_params(given.model)
  optimizer, zero = Optimizer(sgd(), constant_schedule(0.1, 0, 1), 0.0), jnp.zeros((), jnp.int32)
  state = State(zero, zero, zero, params, optimizer.transform.init(params), None)
  found = []
  for micro_batches in (1, 2):
    settings = StepSettings(seed=3, micro_batches=micro_batches, loss_scale="mean")
    step = jax.jit(make_step(objective, optimizer, settings, make_mesh(1, 1, jax.devices()[:1])))
    after, report = jax.device_get(step(state, questions(packed=True)))
    assert report.applied and report.counts["task"] == 4
    found.append((named_leaves(after.params), float(report.sums["task"])))
  (whole, loss), (split, other) = found
  assert loss == pytest.approx(other, rel=1e-5)
  for path, leaf in whole.items():
    np.testing.assert_allclose(split[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)
