"""Heads of tasks on every encoder: what they read, by hand; where they start; how recipes build them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import models
import objectives
from models.paths import named_leaves
from models.sharding import axis_names
from models.task_heads import TASK_HEADS, summary_of, task_heads
from objectives.pairs import PairsObjective
from tests.parity_models import random_params, shapes
from tests.task_models import BODIES, CASES, CLASSES, D, case
from trainer.config import load

WORDS = ("tag", "answer")


# --- the modules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("family", "head", "paths"),
  [
    ("bert", "classify", {"classify/kernel": (D, CLASSES), "classify/bias": (CLASSES,)}),
    ("bert", "answer", {"answer/kernel": (D, 2), "answer/bias": (2,)}),
    ("spanbert", "regress", {"regress/kernel": (D, 1), "regress/bias": (1,)}),
    ("albert", "tag", {"tag/kernel": (D, CLASSES), "tag/bias": (CLASSES,)}),
    ("roberta", "choose", {"choose/kernel": (D, 1), "choose/bias": (1,)}),
    (
      "roberta", "classify",
      {"classify/dense/kernel": (D, D), "classify/dense/bias": (D,), "classify/output/kernel": (D, CLASSES),
       "classify/output/bias": (CLASSES,)},
    ),
    (
      "electra", "choose",
      {"choose/dense/kernel": (D, D), "choose/dense/bias": (D,), "choose/output/kernel": (D, 1),
       "choose/output/bias": (1,)},
    ),
  ],
)  # fmt: skip
def test_a_head_is_one_layer_or_two(family, head, paths):
  """Two where it reads [CLS] itself; the pooler is there where a head reads it and nowhere else."""
  leaves = {path: leaf.shape for path, leaf in named_leaves(shapes(case(family, head).model)).items()}
  assert {path.removeprefix("heads/"): shape for path, shape in leaves.items() if path.startswith("heads/")} == paths
  pooled = TASK_HEADS[head].text and len(paths) == 2
  assert {path for path in leaves if "pooler" in path} == (
    {"pooler/dense/kernel", "pooler/dense/bias"} if pooled else set()
  )


def erf_gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize("name", CASES)
def test_heads_by_hand(name):
  given = CASES[name]
  (head,), rng = given.model.config.heads_on_top, np.random.default_rng(1)
  p, hidden = random_params(given.model), rng.normal(size=(2, 7, D)).astype(np.float32)
  cls, own = np.int32([[0, 4], [3, 0]]), p["heads"][head]
  affine = lambda x, layer: x @ layer["kernel"] + layer["bias"]
  first = hidden[np.arange(2)[:, None], cls]
  if not TASK_HEADS[head].text:
    want = affine(hidden, own)
  elif "dense" in own:
    inner = affine(first, own["dense"])
    want = affine(np.tanh(inner) if given.family == "roberta" else erf_gelu(inner), own["output"])
  else:
    want = affine(np.tanh(affine(first, p["pooler"]["dense"])), own)
  arguments = (hidden, cls) if TASK_HEADS[head].text else (hidden,)
  said = given.model.apply({"params": p}, *arguments, method=f"{head}_logits")
  np.testing.assert_allclose(said, want[..., 0] if head == "choose" else want, atol=2e-5)


@pytest.mark.parametrize(
  ("name", "layers"), [("bert_classify", 1), ("albert_tag", 1), ("roberta_regress", 2), ("electra_choose", 2)]
)
def test_dropout_stands_before_every_layer_of_a_head(name, layers):
  """Under the head's own rate, whatever the encoder's; at a rate of almost 1 nothing comes through but the biases."""
  given = CASES[name]
  (head,) = given.model.config.heads_on_top
  sure = type(given.model)(dataclasses.replace(given.model.config, head_dropout=1 - 1e-7, dropout=0.0))
  p, hidden = random_params(given.model), np.ones((1, 3, D), np.float32)
  arguments = (hidden, np.int32([[1]])) if TASK_HEADS[head].text else (hidden[:, :1],)
  say = lambda model, key: np.asarray(
    model.apply({"params": p}, *arguments, method=f"{head}_logits", key=key)
  ).reshape(-1)  # fmt: skip
  bias = p["heads"][head]["bias" if layers == 1 else "output"]
  np.testing.assert_array_equal(say(sure, jax.random.key(0)), bias if layers == 1 else bias["bias"])
  np.testing.assert_array_equal(say(sure, None), say(given.model, None))
  free = type(given.model)(dataclasses.replace(given.model.config, head_dropout=0.0, dropout=0.5))
  np.testing.assert_array_equal(say(free, jax.random.key(0)), say(given.model, None))


def test_answers_never_have_dropout():
  model = case("bert", "answer", head_dropout=0.9).model
  assert "key" not in model.answer_logits.__code__.co_varnames


# --- models of resolved configs ---------------------------------------------------------------------------------------


def recipe(family, objective, **overrides):
  """A recipe whose objective was replaced, as fine-tuning does."""
  config = load(f"configs/{family}.py:{'small' if family == 'electra' else 'tiny'}", overrides)
  with config.unlocked():
    config.objective = ConfigDict(objective)
  return config


def built(family, head, **overrides):
  """The model of a recipe with the head of a task."""
  task = {"name": "task", "kind": head, "labels": ("a", "b", "c"), "loss_scale": "mean"}
  return models.build(recipe(family, task, **overrides))


@pytest.mark.parametrize("family", [*BODIES, "luke"])
@pytest.mark.parametrize("head", ["classify", "answer", "choose"])
def test_every_recipe_builds_every_head_with_a_rule_for_each_parameter(family, head):
  model = built(family, head)
  c = model.config
  assert c.heads_on_top == (head,) and c.classes == (3 if head in ("classify", "tag") else 0)
  assert c.summary == summary_of(family, head)
  names = axis_names(shapes(model), model.axes())  # raises for a leaf without a rule, and for a rule without a leaf
  layer = {"kernel": ("embed", None), "bias": (None,)}
  one = {f"heads/{head}/{part}": axes for part, axes in layer.items()}
  two = {f"heads/{head}/{place}/{part}": axes for place in ("dense", "output") for part, axes in layer.items()}
  alone = c.summary == "pooler" or head in WORDS
  assert {path: axes for path, axes in names.items() if path.startswith("heads/")} == (one if alone else two)
  generators = [path for path in names if path.startswith("generator")]
  assert generators == []  # ELECTRA's discriminator alone is fine-tuned


@pytest.mark.parametrize("family", ["albert", "bert", "electra", "luke"])
def test_sentence_embeddings_have_neither_head_nor_pooler(family):
  config = recipe(family, {"name": "pairs", "scale": 20.0, "symmetric": False, "loss_scale": "mean"})
  objective = objectives.build(config)
  assert isinstance(objective, PairsObjective) and (objective.scale, objective.symmetric) == (20.0, False)
  parts = {path.split("/")[0] for path in named_leaves(shapes(objective.model))}
  assert not parts & {"heads", "pooler", "generator"}


def test_alberts_heads_and_robertas_of_texts_have_a_dropout_of_their_own():
  """ALBERT's 0.1, where version 2 has none below (the released code), fairseq's none; others that of their layers."""
  model = built("albert", "classify", **{"model.dropout": 0.0})
  assert (model.config.dropout, model.config.task_dropout) == (0.0, 0.1)
  for family, head, wanted in (
    ("roberta", "classify", 0.0), ("roberta", "regress", 0.0), ("roberta", "choose", 0.0), ("roberta", "tag", 0.2),
    ("bert", "classify", 0.2),
  ):  # fmt: skip
    assert built(family, head, **{"model.dropout": 0.2}).config.task_dropout == wanted


def test_heads_start_small_and_electras_outputs_glorot_uniform():
  """All a normal of 0.02, but ELECTRA's outputs, which follow TensorFlow's default."""

  def fresh(family):
    (head,) = task_heads(case(family, "classify", hidden=84, classes=70).model.config).values()
    arguments = (jnp.zeros((1, 84)),) if family == "bert" else (jnp.zeros((1, 84)), None)
    return head.init(jax.random.key(0), *arguments)["params"]

  electra, bert = fresh("electra"), fresh("bert")
  limit, output = math.sqrt(6 / (84 + 70)), np.abs(electra["output"]["kernel"])
  assert limit * 0.99 < output.max() <= limit and abs(output.mean() - limit / 2) < 0.01 * limit
  for layer in (electra["dense"], bert):
    assert abs(np.std(layer["kernel"]) - 0.02) < 1e-3 and not np.any(layer["bias"])
  assert not np.any(electra["output"]["bias"])


def test_logits_are_float32_under_narrow_products():
  for name in ("bert_classify", "electra_classify"):
    model = type(CASES[name].model)(dataclasses.replace(CASES[name].model.config, dtype=jnp.bfloat16))
    said = jax.eval_shape(
      lambda p, model=model: model.apply(
        {"params": p}, jnp.zeros((1, 3, D), jnp.bfloat16), jnp.zeros((1, 1), jnp.int32), method="classify_logits"
      ),
      shapes(model),
    )
    assert said.dtype == jnp.float32
