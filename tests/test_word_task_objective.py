"""What labelled sentences cost a task network: losses by hand, the mixes' penalty, micro-batches, a frozen biLM."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.batch import LabelledWords, validate
from data.tasks import tags as schemes
from models.elmo import ElmoConfig
from models.paths import named_leaves
from models.sharding import make_mesh
from models.task_networks import TaskNetwork, TaskNetworkConfig
from objectives.base import Draws
from objectives.optimizers import Optimizer, adamw, constant_schedule, sgd
from objectives.state import init_state, state_shardings
from objectives.step import StepSettings, make_step
from objectives.word_tasks import WordTaskObjective

ROWS, COLUMNS, WORDS, VECTORS = 4, 6, 8, 12
LABELS = ("O", "B-PER", "I-PER")
BILM = ElmoConfig(
  vocab_size=90, input="words", characters=6, char_embedding=3, filters=((1, 4),), activation="relu", highway=0,
  layers=1, cell=4, projection=3, cell_clip=3.0, projection_clip=3.0, skip=True, dropout=0.0, recompute_gates=False,
  unroll=1, heads_on_top=(),
)  # fmt: skip
NETWORK = TaskNetworkConfig(
  bilm=BILM, place="both", mixture="learned", layer_norm=False, elmo_dropout=0.0, vectors=VECTORS, vector_size=5,
  encoder="lstm", hidden=4, layers=1, dropout=0.0, head="crf", labels=LABELS,
)  # fmt: skip
LENGTHS = np.int32([6, 4, 3, 0])  # the last row is padding
L2 = 0.1


def objective_of(l2=L2, **changes):
  return WordTaskObjective(TaskNetwork(dataclasses.replace(NETWORK, **changes)), l2)


def batch_of(objective):
  """Two rows of words of their own; labels and weights of unlike numbers in the halves of a batch."""
  rng = np.random.default_rng(0)
  ints = lambda high, *shape: rng.integers(0, high, shape).astype(np.int32)
  head = objective.model.config.head
  labels = {"tag": COLUMNS - 2, "crf": COLUMNS - 2, "answer": 2, "choose": 3}.get(head, 1)
  sentences, several = 4 if head == "choose" else objective.model.config.sentences, None
  lengths = np.repeat(LENGTHS[:, None], sentences, axis=1)
  sizes = LENGTHS[:, None] - 2 if head in ("tag", "crf") else labels * (LENGTHS[:, None] > 0)
  weights = np.float32(np.arange(labels) < sizes)
  if head == "regress":
    several = rng.normal(size=(ROWS, 1, 1)).astype(np.float32)
  shape = (ROWS, sentences, COLUMNS)
  words, index, ids, classes = ints(90, 2, WORDS, 1), ints(WORDS, *shape), ints(VECTORS, *shape), ints(3, ROWS, labels)
  if head == "answer":
    classes = np.minimum(classes, np.maximum(LENGTHS - 2, 0)[:, None])  # columns that there are
  if head == "choose":
    classes, weights[1, 2] = np.int32([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]), 0  # row 1 has two choices
  batch = LabelledWords(words, index, lengths, ids, classes, weights, several)
  validate(batch)
  return batch


def draws(rows=ROWS, first=0):
  return Draws(jax.random.key(0), jnp.int32(0), jnp.int32(0), jnp.arange(first, first + rows))


@functools.cache
def params_of(objective):
  shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch_of(objective)))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.6, leaf.shape)), shapes)


@functools.cache
def judged(objective):
  """(sums, statistics) of held-out data."""
  of = lambda params: objective.sums(params, None, batch_of(objective), draws(), train=False)[:2]
  return jax.device_get(jax.jit(of)(params_of(objective)))


def figures(objective):
  sums, statistics = judged(objective)
  return objective.report(sums, jax.device_get(objective.counts(batch_of(objective))), statistics)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["classify", "tag"])
def test_classes_cost_their_cross_entropy_meaned_over_labels(head):
  objective = objective_of(head=head, place="none", bilm=None)
  batch, (_, statistics) = batch_of(objective), judged(objective)
  logits = np.float64(statistics["outputs"])
  shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  losses = [-np.log(shares[b, k, batch.labels[b, k]]) for b, k in np.argwhere(batch.weights > 0)]
  hits = [logits[b, k].argmax() == batch.labels[b, k] for b, k in np.argwhere(batch.weights > 0)]
  assert logits.shape == (ROWS, batch.labels.shape[1], len(LABELS))
  assert figures(objective) == pytest.approx(
    {"loss": np.mean(losses), "task_loss": np.mean(losses), "accuracy": np.mean(hits)}, abs=1e-5
  )


def test_a_number_costs_its_squared_error_and_nothing_is_right_or_wrong():
  objective = objective_of(head="regress", labels=("score",), place="none", bilm=None)
  batch, (_, statistics) = batch_of(objective), judged(objective)
  errors = (statistics["outputs"] - batch.several)[:3, 0, 0] ** 2
  assert figures(objective) == pytest.approx({"loss": errors.mean(), "task_loss": errors.mean()}, abs=1e-5)


def test_the_right_choice_costs_its_cross_entropy_over_the_choices_of_its_row():
  objective = objective_of(head="choose", labels=(), place="none", bilm=None)
  batch, (_, statistics) = batch_of(objective), judged(objective)
  losses, hits = [], []
  for row, (right, count) in enumerate(((1, 3), (0, 2), (2, 3))):
    logits = np.float64(statistics["outputs"][row, :count])
    losses.append(np.log(np.exp(logits).sum()) - logits[right])
    hits.append(logits[right] >= logits.max())  # words may be the same
  assert statistics["outputs"].shape == (ROWS, 3) and objective.counts(batch)["task"] == 3
  assert figures(objective) == pytest.approx(
    {"loss": np.mean(losses), "task_loss": np.mean(losses), "accuracy": np.mean(hits)}, rel=1e-5
  )


def test_an_answer_costs_the_cross_entropy_of_both_its_ends_over_the_columns():
  """Column 0, no answer, is one of them; columns behind a passage have no share."""
  objective = objective_of(head="answer", labels=(), place="none", bilm=None)
  batch, (_, statistics) = batch_of(objective), judged(objective)
  logits, losses, hits = np.float64(statistics["outputs"]), [], []
  assert logits.shape == (ROWS, COLUMNS - 1, 2) and len(set(batch.labels[:3].ravel())) == 3
  for row, size in enumerate(LENGTHS[:3] - 1):
    for side in (0, 1):
      own, label = logits[row, :size, side], batch.labels[row, side]
      losses.append(np.log(np.exp(own).sum()) - logits[row, label, side])
      hits.append(own.argmax() == label)
  assert figures(objective) == pytest.approx(
    {"loss": np.mean(losses), "task_loss": np.mean(losses), "accuracy": np.mean(hits)}, rel=1e-5
  )


def scored(params, emissions, tags):
  crf = params["crf"]
  inside = sum(crf["transitions"][a, b] for a, b in zip(tags, tags[1:]))
  return crf["start"][tags[0]] + sum(emissions[range(len(tags)), tags]) + inside + crf["end"][tags[-1]]


def test_tags_of_a_crf_cost_minus_log_p_meaned_over_sentences():
  """A row of padding is no sentence. The best tags keep the scheme, and are int32 [B, K]."""
  objective = objective_of()
  batch, params, (sums, statistics) = batch_of(objective), params_of(objective), judged(objective)
  apply = lambda p: objective.logits(p, batch, None)
  emissions, losses = np.float64(jax.jit(apply)(params)), []
  for row, size in enumerate(LENGTHS - 2):
    if size > 0:
      paths = [list(path) for path in np.ndindex(*[len(LABELS)] * size)]
      scores = np.array([scored(params, emissions[row], path) for path in paths])
      losses.append(np.log(np.exp(scores).sum()) - scored(params, emissions[row], batch.labels[row, :size].tolist()))
      legal = [schemes.check([LABELS[tag] for tag in path], "iob2") is None for path in paths]
      best = paths[np.argmax(np.where(legal, scores, -np.inf))]
      assert statistics["outputs"][row].tolist() == [*best, *[0] * (COLUMNS - 2 - size)]
  assert statistics["outputs"].dtype == np.int32
  assert np.isclose(sums["task"], np.sum(losses), atol=1e-4) and len(losses) == 3
  found, inside = figures(objective), batch.weights > 0
  assert np.isclose(found["task_loss"], np.mean(losses), atol=1e-5)
  assert np.isclose(found["accuracy"], np.mean(statistics["outputs"][inside] == batch.labels[inside]))


def test_a_sentence_without_labels_costs_nothing_and_is_tagged():
  objective = objective_of(place="none", bilm=None)
  batch = batch_of(objective)
  blank = dataclasses.replace(batch, weights=batch.weights * (np.arange(ROWS) > 0)[:, None])
  of = jax.jit(lambda params, batch: objective.sums(params, None, batch, draws(), train=False)[:2])
  (known, tagged), (unknown, same) = (of(params_of(objective), each) for each in (batch, blank))
  assert objective.counts(blank)["task"] == 2 and unknown["task"] < known["task"]
  assert np.array_equal(tagged["outputs"], same["outputs"]) and tagged["outputs"][0].any()


# --- the penalty of the mixes -----------------------------------------------------------------------------------------


def test_mixtures_cost_their_squared_weights_once_a_step():
  """l2 * sum of w^2 over both places, in the part of a batch that has the first row."""
  objective = objective_of()
  params = params_of(objective)
  weights = np.concatenate([params["mix"][place]["weights"] for place in ("input", "output")])
  assert np.isclose(figures(objective)["mixture_loss"], L2 * np.sum(weights**2), rtol=1e-5)
  assert np.isclose(figures(objective)["loss"], sum(figures(objective)[f"{term}_loss"] for term in objective.weights))
  later = lambda p: objective.sums(p, None, batch_of(objective), draws(first=2), train=True)[0]["mixture"]
  assert jax.jit(later)(params) == 0


@pytest.mark.parametrize("l2, changes", [(0.0, {}), (L2, {"mixture": "top"}), (L2, {"place": "none", "bilm": None})])
def test_without_weights_or_lambda_there_is_no_penalty(l2, changes):
  objective = objective_of(l2, **changes)
  assert objective.weights == {"task": 1.0} and objective.counts(batch_of(objective)).keys() == {"task"}


# --- the step ---------------------------------------------------------------------------------------------------------


def stepped(objective, transform=sgd, rate=0.1, steps=1, **settings):
  """(state before, state after, report) of the one train step on one device."""
  optimizer = Optimizer(transform(), constant_schedule(rate, 0, 1), 0.0)
  settings = StepSettings(**{"seed": 0, "micro_batches": 1, "loss_scale": "mean"} | settings)
  mesh, batch = make_mesh(1, 1, jax.devices()[:1]), batch_of(objective)
  init = lambda: init_state(objective, optimizer, 0, settings.freeze, batch)
  shardings = state_shardings(jax.eval_shape(init), objective, mesh, "none")
  start = jax.device_get(jax.jit(init, out_shardings=shardings)())
  state, step = start, jax.jit(make_step(objective, optimizer, settings, mesh))
  for _ in range(steps):
    state, report = step(state, batch)
  return start, jax.device_get(state), jax.device_get(report)


@pytest.mark.parametrize(
  "changes",
  [
    {"vectors": 0, "encoder": "none"},
    pytest.param({"head": "answer", "labels": ()}, marks=pytest.mark.slow),
    pytest.param({"head": "choose", "labels": ()}, marks=pytest.mark.slow),
  ],
)
def test_micro_batches_give_the_same_update(changes):
  """Of sentences of unlike lengths, with the mix's penalty."""
  objective = objective_of(place="input", **changes)
  _, whole, report = stepped(objective)
  _, parts, same = stepped(objective, micro_batches=2)
  assert report.applied and same.applied
  assert np.isclose(report.grad_norm, same.grad_norm, rtol=1e-5)
  assert np.isclose(report.sums["mixture"], same.sums["mixture"], rtol=1e-6) and same.counts["mixture"] == 1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params)


def test_a_norm_over_the_batch_is_not_cut_in_parts():
  assert objective_of().separable and objective_of(layer_norm=True, place="none", bilm=None).separable
  with pytest.raises(ValueError, match="^micro_batches: got 2, want 1"):
    stepped(objective_of(layer_norm=True), micro_batches=2)


def scans(objective, freeze):
  """Loops in the program of a step's gradient, those of the biLM's backward pass among them."""
  batch, params = batch_of(objective), params_of(objective)
  trained = {name: leaf for name, leaf in params.items() if name not in freeze}
  frozen = {name: params[name] for name in freeze}
  loss = lambda p: objective.sums(p | frozen, None, batch, draws(), True)[0]["task"]
  return str(jax.make_jaxpr(jax.grad(loss))(trained)).count("scan[")


def test_a_frozen_language_model_is_only_read():
  """No gradient, no moments, and no backward loop of it in the program, while the rest learns its few sentences."""
  objective = objective_of(l2=0.001)
  adam = lambda: adamw(0.9, 0.999, 1e-8, 0.0, (), bias_correction=True)
  start, state, report = stepped(objective, adam, 0.03, 60, freeze=("^bilm/",))
  before, after = named_leaves(start.params), named_leaves(state.params)
  unchanged = {path for path in before if np.array_equal(before[path], after[path])}
  assert unchanged == {path for path in before if path.startswith("bilm/")}
  assert not any("bilm" in path for path in named_leaves(state.opt))
  assert report.sums["task"] < 0.1
  assert scans(objective, ("bilm",)) == scans(objective, ()) - 1
