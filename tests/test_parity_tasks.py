"""Heads of tasks against transformers in float32 on padded rows: outputs to 1e-5, gradients to 1e-4, no dropout."""

import json

import numpy as np
import pytest

from models.paths import named_leaves
from models.published import weights
from objectives.tasks import KINDS as OURS
from tests.parity_models import (
  Case,
  errors,
  example,
  from_pretrained,
  in_our_layout,
  random_params,
  relative_errors,
  table_of,
  their_random,
)
from tests.task_models import CASES, CLASSES, labelled, ours, theirs

pytestmark = pytest.mark.parity

OUTPUTS, GRADIENTS = 1e-5, 1e-4
KINDS = {
  "classify": "ForSequenceClassification", "regress": "ForSequenceClassification", "tag": "ForTokenClassification",
  "answer": "ForQuestionAnswering", "choose": "ForMultipleChoice",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def peers():
  pytest.importorskip("torch")
  pytest.importorskip("transformers")


def above(found, tolerance):
  return {name: error for name, error in found.items() if not error < tolerance}


def head_of(case):
  return case.model.config.heads_on_top[0]


@pytest.mark.parametrize("name", CASES)
def test_exports_compute_the_same_in_transformers(name, tmp_path):
  """Under the class of the task; and what transformers writes again means the same model."""
  case, params = CASES[name], random_params(CASES[name].model)
  weights.save(tmp_path / "export", case.family, case.model, params, case.special)
  model, given, head = from_pretrained(tmp_path / "export"), example(case), head_of(case)
  body = {"spanbert": "Bert", "roberta": "Roberta"}.get(case.family, case.family.capitalize())
  assert type(model).__name__ == f"{body}{KINDS[head]}"
  outputs, gradients = ours(case, params, given)
  said, their_gradients = theirs(model, head, given)
  assert above(errors(outputs, said), OUTPUTS) == {}
  wanted = in_our_layout(their_gradients, table_of(case), case.model)
  assert above(relative_errors(named_leaves(gradients), wanted), GRADIENTS) == {}
  # the scalar reaches every parameter, or agreement would say nothing of it
  assert [path for path, x in wanted.items() if not np.abs(x).max() > 0] == []
  model.save_pretrained(tmp_path / "again")
  found = weights.load(tmp_path / "again")
  assert (found.model.config, found.notes) == (weights.load(tmp_path / "export").model.config, ())
  written, again = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("export", "again"))
  known = written.keys() - {"torch_dtype"}  # which transformers now calls dtype
  assert {key: again[key] for key in known} == {key: written[key] for key in known}


@pytest.mark.parametrize("name", CASES)
def test_models_of_transformers_compute_the_same_here(name, tmp_path):
  """Saved by transformers, loaded here; saved again, transformers has the same weights bit for bit."""
  case, model = CASES[name], their_random(CASES[name])
  model.save_pretrained(tmp_path / "theirs")
  found = weights.load(tmp_path / "theirs")
  loaded = Case(case.family, found.model)
  assert head_of(loaded) == head_of(case)
  outputs, _ = ours(loaded, found.params, example(case))
  assert above(errors(outputs, theirs(model, head_of(case), example(case))[0]), OUTPUTS) == {}
  weights.save(tmp_path / "ours", case.family, found.model, found.params, case.special)
  again = from_pretrained(tmp_path / "ours")
  assert type(again) is type(model)
  state, wanted = again.state_dict(), model.state_dict()
  assert state.keys() == wanted.keys()
  assert [key for key in wanted if state[key].numpy().tobytes() != wanted[key].numpy().tobytes()] == []


def test_transformers_knows_the_names_of_the_classes_and_the_kind_of_problem(tmp_path):
  from transformers import AutoConfig

  for name, problem, count in (
    ("electra_classify", "single_label_classification", CLASSES), ("roberta_regress", "regression", 1),
    ("bert_tag", None, CLASSES),
  ):  # fmt: skip
    case, labels = CASES[name], tuple(f"class {i}" for i in range(count))
    labels = labels if count > 1 else ()
    weights.save(tmp_path / name, case.family, case.model, random_params(case.model), case.special, labels=labels)
    config = AutoConfig.from_pretrained(tmp_path / name)
    assert (config.problem_type, config.num_labels) == (problem, count)
    assert config.id2label == dict(enumerate(labels or ["LABEL_0"]))


@pytest.mark.parametrize("name", ["bert_classify", "roberta_regress", "electra_choose", "albert_tag"])
def test_what_transformers_loses_in_training_is_what_is_lost_here(name, tmp_path):
  """The loss of transformers' own models on labels, by which their users train, is that of our kind of task."""
  import torch

  case, params = CASES[name], random_params(CASES[name].model)
  weights.save(tmp_path, case.family, case.model, params, case.special)
  model, given, head = from_pretrained(tmp_path), example(case), head_of(case)
  batch, labels = labelled(case, given)
  logits = ours(case, params, given)[0][head]
  if head == "tag":
    logits = np.take_along_axis(logits, batch.cls[..., None], axis=1)
  logits = logits.reshape(batch.labels.shape if head == "choose" else (*batch.labels.shape, -1))
  losses, weight = OURS[head].losses(logits, batch)[0], OURS[head].counted(batch)
  as_long = lambda x: torch.from_numpy(np.asarray(x, np.int64))
  inputs = {"input_ids": as_long(given.tokens.ids), "attention_mask": as_long(given.real)}
  inputs["token_type_ids"] = as_long(given.tokens.types)
  if head == "choose":
    inputs = {key: x[None] for key, x in inputs.items()}
  want = model(**inputs, labels=torch.from_numpy(labels)).loss
  assert float((losses * weight).sum() / weight.sum()) == pytest.approx(float(want.detach()), rel=1e-5)


def test_a_head_without_its_class_in_config_json_is_found_by_its_name_where_one_has_it(tmp_path):
  """RoBERTa's and ELECTRA's heads of texts, and those of answers, are named like no other."""
  for name in ("roberta_classify", "electra_classify", "bert_answer"):
    their_random(CASES[name]).save_pretrained(tmp_path / name)
    path = tmp_path / name / "config.json"
    stated = json.loads(path.read_text())
    del stated["architectures"]
    path.write_text(json.dumps(stated))
    assert weights.load(tmp_path / name).model.config.heads_on_top == CASES[name].model.config.heads_on_top
