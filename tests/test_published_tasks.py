"""Heads of tasks in published files: transformers' names and classes, what config.json says, and what is refused."""

import json

import numpy as np
import pytest

from models.published import files, weights
from models.published.errors import WeightsError
from models.published.tasks import labels_of
from tests.parity_models import assert_same, random_params
from tests.task_models import CASES, CLASSES, D, case


@pytest.mark.parametrize(
  "name", ["bert_classify", "roberta_regress", "roberta_choose", "albert_choose", "electra_choose", "spanbert_answer"]
)
def test_what_is_written_comes_back(name, tmp_path):
  given = CASES[name]
  params = random_params(given.model)
  weights.save(tmp_path, given.family, given.model, params, given.special)
  found = weights.load(tmp_path)
  assert found.model == given.model and found.notes == ()
  assert_same(params, found.params)


TWO = ("classifier.dense.bias", "classifier.dense.weight", "classifier.out_proj.bias", "classifier.out_proj.weight")
ONE, ANSWER = ("classifier.bias", "classifier.weight"), ("qa_outputs.bias", "qa_outputs.weight")
SUMMARY = ("sequence_summary.summary.bias", "sequence_summary.summary.weight")
CLASSIFY, REGRESS = {"problem_type": "single_label_classification"}, {"problem_type": "regression"}


@pytest.mark.parametrize(
  ("name", "architecture", "tensors", "stated"),
  [
    ("bert_classify", "BertForSequenceClassification", ONE, CLASSIFY),
    ("spanbert_regress", "BertForSequenceClassification", ONE, REGRESS),
    ("bert_tag", "BertForTokenClassification", ONE, {}),
    ("albert_answer", "AlbertForQuestionAnswering", ANSWER, {"classifier_dropout_prob": 0.1}),
    ("roberta_classify", "RobertaForSequenceClassification", TWO, CLASSIFY),
    ("roberta_choose", "RobertaForMultipleChoice", ONE, {}),
    ("electra_regress", "ElectraForSequenceClassification", TWO, REGRESS),
    (
      "electra_choose", "ElectraForMultipleChoice", (*ONE, *SUMMARY),
      {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu", "summary_last_dropout": 0.1},
    ),
  ],
)  # fmt: skip
def test_files_have_transformers_names(name, architecture, tensors, stated, tmp_path):
  given = CASES[name]
  weights.save(tmp_path, given.family, given.model, random_params(given.model), given.special)
  config = json.loads((tmp_path / "config.json").read_text())
  outside = {key for key in files.read_tensors(tmp_path) if not key.startswith(f"{config['model_type']}.")}
  assert config["architectures"] == [architecture] and outside == set(tensors)
  own = ("problem_type", "classifier_dropout_prob", *(key for key in config if key.startswith("summary")))
  assert {key: config[key] for key in own if key in config} == stated
  outputs = {"classify": CLASSES, "tag": CLASSES, "regress": 1}.get(given.model.config.heads_on_top[0])
  assert labels_of(config) == (() if outputs is None else tuple(f"LABEL_{i}" for i in range(outputs)))


def test_labels_are_named_in_the_order_of_the_outputs(tmp_path):
  given, labels = CASES["roberta_classify"], ("no", "yes", "perhaps", "never")
  save = lambda folder, names: weights.save(
    folder, given.family, given.model, random_params(given.model), given.special, labels=names
  )  # fmt: skip
  save(tmp_path / "x", labels)
  assert labels_of(weights.load(tmp_path / "x").config) == labels
  with pytest.raises(WeightsError, match=f"got 3 labels, want {CLASSES}, the outputs of the head"):
    save(tmp_path / "y", labels[:3])


def edited(folder, name, tensors=lambda tensors: None, **changes):
  """A file of a case with changed tensors and keys of config.json; None takes a key away."""
  given = CASES[name]
  weights.save(folder, given.family, given.model, random_params(given.model), given.special)
  stored, path = files.read_tensors(folder), folder / "config.json"
  tensors(stored)
  stated = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
  (folder / "SHA256SUMS").unlink()
  files.write_tensors(folder, stored)
  return folder


@pytest.mark.parametrize(
  ("name", "changes", "head"),
  [
    ("bert_regress", {"problem_type": None}, "regress"),  # as transformers: one output is a number
    ("bert_regress", {"problem_type": "single_label_classification"}, "classify"),
    ("roberta_classify", {"problem_type": None, "architectures": None}, "classify"),
    ("electra_regress", {"architectures": ["SomethingElse"]}, "regress"),
    ("bert_tag", {"architectures": ["MyModel", "BertForTokenClassification"]}, "tag"),
  ],
)
def test_config_json_says_what_the_outputs_are(name, changes, head, tmp_path):
  model = weights.load(edited(tmp_path, name, **changes)).model
  outputs = CASES[name].model.config.classes or 1
  assert model.config.heads_on_top == (head,)
  assert model.config.classes == (0 if head == "regress" else outputs)


def test_classes_of_which_several_may_be_right_are_told(tmp_path):
  folder = edited(tmp_path, "bert_classify", problem_type="multi_label_classification")
  assert weights.load(folder).notes == (
    "problem_type is multi_label_classification: here one class is right, not several",
  )  # fmt: skip


@pytest.mark.parametrize(
  ("name", "rate"),
  [("bert_tag", {"classifier_dropout": 0.3}), ("electra_choose", {"summary_last_dropout": 0.3}),
   ("albert_classify", {"classifier_dropout_prob": 0.3})],
)  # fmt: skip
def test_the_dropout_of_a_head_is_read_and_written(name, rate, tmp_path):
  found = weights.load(edited(tmp_path / "x", name, **rate))
  assert found.model.config.head_dropout == 0.3
  weights.save(tmp_path / "y", found.family, found.model, found.params, CASES[name].special)
  assert json.loads((tmp_path / "y" / "config.json").read_text()).items() >= rate.items()


def beside(name, shape):
  return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


def headless(tensors):
  for name in [name for name in tensors if "pooler" in name]:
    del tensors[name]


@pytest.mark.parametrize(
  ("name", "tensors", "changes", "message"),
  [
    ("bert_tag", None, {"architectures": ["BertModel"]},
     r"architectures is \['BertModel'\], want one of BertForSequenceClassification, BertForTokenClassification, "
     "BertForMultipleChoice: several have a classifier"),
    ("electra_tag", None, {"architectures": None}, "architectures is \\[\\], want one of ElectraForTokenClass"),
    ("bert_tag", beside("qa_outputs.weight", (2, D)), {}, "hold classifier and qa_outputs, want the head of one task"),
    ("bert_classify", headless, {}, "has classifier and no pooler below it, want the whole model"),
    ("bert_classify", None, {"problem_type": "regression"}, f"problem_type is regression, of {CLASSES} outputs"),
    ("electra_choose", None, {"summary_type": "mean"}, "summary_type is 'mean', want 'first'"),
    ("bert_tag", None, {"classifier_dropout": "0.1"}, "classifier_dropout is '0.1', want a number from 0 below 1"),
    ("bert_answer", beside("qa_outputs.bias", (3,)), {}, r"qa_outputs.bias float32\[3\], want float32\[2\]"),
    ("electra_choose", lambda tensors: tensors.pop("sequence_summary.summary.bias"), {},
     "missing sequence_summary.summary.bias"),
  ],
)  # fmt: skip
def test_heads_that_are_none_of_ours_are_refused(name, tensors, changes, message, tmp_path):
  folder = edited(tmp_path / "x", name, tensors or (lambda tensors: None), **changes)
  with pytest.raises(WeightsError, match=message) as error:
    weights.load(folder)
  assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_two_tasks_at_once_have_no_layout(tmp_path):
  both = case("bert", "tag", heads_on_top=("tag", "answer"))
  with pytest.raises(WeightsError, match="a model with the heads tag, answer has no published layout; want one task"):
    weights.save(tmp_path / "x", "bert", both.model, random_params(both.model), both.special)
