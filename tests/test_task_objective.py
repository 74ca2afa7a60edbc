"""What a label costs, for each kind of head, against plain loops; packing adds nothing and takes nothing."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.batch import Labelled, Tokens
from data.tasks.batches import Shape, collate
from data.tasks.rows import TaskRow
from models.luke import Luke
from objectives.base import Draws
from objectives.tasks import KINDS, TaskObjective
from tests.luke_models import case
from tests.parity_models import random_params

CLASSES = 5


def softmax_cost(logits, label):
  return -(logits[label] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())


def sigmoid_cost(logit, label):
  p = 1 / (1 + np.exp(-logit))
  return -np.log(p if label else 1 - p)


def batch_of(**fields):
  tokens = np.zeros((2, 7), np.int32)
  segments = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0, 0]], np.int32)
  ones = np.ones(fields["labels"].shape, np.float32)
  return Labelled(Tokens(tokens, tokens, segments, tokens), weights=ones, **fields)


def test_a_class_costs_its_cross_entropy():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(2, 3, CLASSES)), rng.integers(0, CLASSES, (2, 3)).astype(np.int32)
  for kind in ("relate", "spans", "classify"):
    losses, hits = KINDS[kind].losses(logits, batch_of(labels=labels))
    want = [[softmax_cost(logits[b, k], labels[b, k]) for k in range(3)] for b in range(2)]
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    assert np.array_equal(hits, logits.argmax(-1) == labels)


def test_types_cost_the_mean_over_classes_of_what_each_costs_by_itself():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(2, 2, CLASSES))
  several = rng.integers(0, 2, (2, 2, CLASSES)).astype(np.float32)
  batch = batch_of(labels=np.zeros((2, 2), np.int32), several=several)
  losses, hits = KINDS["type"].losses(logits, batch)
  for b in range(2):
    for k in range(2):
      costs = [sigmoid_cost(logits[b, k, c], several[b, k, c]) for c in range(CLASSES)]
      assert losses[b, k] == pytest.approx(np.mean(costs), rel=1e-5)
      assert hits[b, k] == all((logits[b, k] > 0) == (several[b, k] > 0))


def test_a_candidate_costs_whether_it_is_one_of_the_answers():
  logits, labels = np.array([[2.0, -1.0], [0.5, -3.0]]), np.array([[1, 1], [0, 0]], np.int32)
  losses, hits = KINDS["cloze"].losses(logits, batch_of(labels=labels))
  want = [[sigmoid_cost(x, y) for x, y in zip(*rows)] for rows in zip(logits, labels)]
  np.testing.assert_allclose(losses, want, rtol=1e-5)
  assert hits.tolist() == [[True, False], [False, True]]


def test_an_answer_is_sought_among_the_tokens_of_its_own_example():
  """Row 0 packs two questions; labels are first and last columns by turns; row 1 has one question and no second."""
  logits = np.random.default_rng(2).normal(size=(2, 7, 2))
  labels = np.array([[1, 2, 3, 5], [0, 3, 0, 0]], np.int32)
  losses, _ = KINDS["answer"].losses(jnp.array(logits), batch_of(labels=labels))
  own = {(0, 0): slice(0, 3), (0, 1): slice(3, 6), (1, 0): slice(0, 4)}
  for (row, question), columns in own.items():
    for side in (0, 1):
      label = labels[row, 2 * question + side] - columns.start
      want = softmax_cost(logits[row, columns, side], label)
      assert losses[row, 2 * question + side] == pytest.approx(want, rel=1e-5)


def rows_of(kind, rng, count=6):
  """Examples of odd sizes with two mentions or a span and a label."""
  rows = []
  for number in range(count):
    size = int(rng.integers(8, 14))
    ids = rng.integers(5, 40, size).astype(np.int32)
    mentions = (np.array([1, 2], np.int32), np.array([4, 5, 6], np.int32))
    fields = {"entities": np.array([2, 3], np.int32), "mentions": mentions}
    labels, slots = np.array([number % CLASSES], np.int32), {"relate": [[0, 1]], "type": [[1]]}
    if kind == "spans":
      labels = np.array([1, 3], np.int32)
      fields |= {"spans": np.array([[1, 2], [4, 6]], np.int32), "slots": np.array([[0], [1]], np.int32)}
    elif kind == "answer":
      labels = np.array([2, 5], np.int32)
    elif kind == "cloze":
      labels, fields["slots"] = np.array([1], np.int32), np.array([[0, 1]], np.int32)
    else:
      fields["slots"] = np.array(slots[kind], np.int32)
    if kind == "type":
      fields["several"] = rng.integers(0, 2, (1, CLASSES)).astype(np.float32)
    rows.append(TaskRow(ids, np.zeros(size, np.int32), labels, np.ones(len(labels), np.float32), **fields))
  return rows


@pytest.mark.parametrize("kind", ["type", "relate", "spans", "answer", "cloze"])
def test_packed_examples_have_the_logits_and_the_loss_of_lone_ones(kind):
  classes = 0 if kind in ("answer", "cloze") else CLASSES
  given = case(heads_on_top=(kind,), classes=classes, pooler=False)
  objective = TaskObjective(given.model, kind)
  params = random_params(given.model)
  rows = rows_of(kind, np.random.default_rng(3))
  draws = types.SimpleNamespace()
  found = []
  for packed in (1, 3):
    placed = collate(rows, Shape(48, packed, 1, 1, 3, columns=kind == "answer"))
    batch = jax.tree.map(jnp.asarray, placed.batch)
    sums, statistics, _ = objective.sums(params, None, batch, draws, train=False)
    loss = sums["task"] / objective.counts(batch)["task"]
    found.append((float(loss), placed.parts(np.asarray(statistics["outputs"]), by_column=kind == "answer")))
  assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
  for lone, packed in zip(found[0][1], found[1][1], strict=True):
    np.testing.assert_allclose(lone, packed, atol=2e-5)


def test_dropout_is_of_training_alone():
  given = case(heads_on_top=("relate",), classes=CLASSES, pooler=False, dropout=0.4)
  assert isinstance(given.model, Luke)
  objective, params = TaskObjective(given.model, "relate"), random_params(given.model)
  batch = jax.tree.map(jnp.asarray, collate(rows_of("relate", np.random.default_rng(4)), Shape(48, 2, 1, 1, 3)).batch)
  draws = lambda cursor: Draws(jax.random.key(0), jnp.int32(cursor), jnp.int32(0), jnp.arange(batch.labels.shape[0]))
  losses = [float(objective.sums(params, None, batch, draws(c), train=True)[0]["task"]) for c in (0, 0, 1)]
  assert losses[0] == losses[1] != losses[2]
  calm = [float(objective.sums(params, None, batch, draws(c), train=False)[0]["task"]) for c in (0, 1)]
  assert calm[0] == calm[1]
