"""The numbers of fine-tuning: those that were published with each encoder, and that every task has some."""

import pytest

from configs import common, finetune
from data.tasks import registry
from tests.elmo_files import elmo_run
from tests.encoder_runs import write_tasks
from trainer.config import difference, flatten, load
from trainer.rules import ConfigError, check_value

pytestmark = pytest.mark.usefixtures("own_logging")


def numbers(variant):
  own = finetune.get_config(variant)
  o = own.optimizer
  return own.batch_size, o.lr, own.task.epochs, own.task.warmup, o.weight_decay, o.b2, o.layer_decay, o.clip


@pytest.mark.parametrize(
  "variant, wanted",
  [
    ("mnli,model=bert", (32, 2e-5, 3, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("squad2,model=bert", (48, 5e-5, 2, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("rte,model=roberta", (16, 2e-5, 10, 0.06, 0.1, 0.98, 1.0, 0.0)),
    ("qqp,model=roberta", (32, 1e-5, 10, 0.25, 0.1, 0.98, 1.0, 0.0)),
    ("squad,model=roberta", (48, 1.5e-5, 2, 0.06, 0.01, 0.98, 1.0, 0.0)),
    ("mnli,model=albert", (128, 3e-5, 3, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("wnli,model=albert", (16, 2e-5, 50, 0.125, 0.01, 0.999, 1.0, 1.0)),
    ("sst2,model=electra", (32, 1e-4, 3, 0.1, 0.0, 0.999, 0.8, 1.0)),
    ("stsb,model=electra_small", (32, 3e-4, 10, 0.1, 0.0, 0.999, 0.8, 1.0)),
    ("squad,model=electra_large", (32, 5e-5, 2, 0.1, 0.0, 0.999, 0.9, 1.0)),
    ("cola,model=spanbert", (32, 2e-5, 4, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("tacred,model=spanbert", (32, 2e-5, 10, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("redocred_mentions,model=bert", (32, 5e-5, 3, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("tacred,model=luke", (32, 1e-5, 5, 0.06, 0.01, 0.98, 1.0, 0.0)),
    ("conll2003", (8, 1e-5, 5, 0.06, 0.01, 0.98, 1.0, 0.0)),
    ("conll2003,model=bert", (32, 5e-5, 3, 0.1, 0.01, 0.999, 1.0, 1.0)),
    ("cola", (32, 2e-5, 3, 0.1, 0.01, 0.999, 1.0, 1.0)),
  ],
)
def test_a_recipe_has_the_published_numbers(variant, wanted):
  assert numbers(variant) == wanted


# Tokens of an example: BERT's released command lines; RoBERTa's and ALBERT's appendices; ELECTRA's code; SpanBERT's
# appendix B; LUKE's configurations. 0 = nobody published one.
LENGTHS = {
  "bert": {"sst2": 128, "mnli": 128, "stsb": 128, "squad": 384, "squad2": 384, "swag": 0, "race": 0, "conll2003": 0,
           "tacred": 0, "redocred_types": 0},
  "roberta": {"sst2": 512, "rte": 512, "squad": 384, "squad2": 384, "race": 512},
  "albert": {"sst2": 512, "mnli": 512, "squad": 384, "squad2": 512, "race": 512},
  "electra": {"sst2": 128, "mrpc": 128, "rte": 128, "stsb": 128, "squad": 512, "squad2": 512, "swag": 0, "wnut17": 0,
              "semeval": 0},
  "spanbert": {"tacred": 128, "semeval": 0, "open_entity": 0,
               "cola": 128, "mnli": 128, "squad": 512, "squad2": 512, "race": 0, "conll2003": 0},
  "luke": {"open_entity": 0, "tacred": 0, "conll2003": 512, "record": 512, "squad": 512, "sst2": 0},
  # by no name LUKE's for entities and answers, BERT's for other tasks
  "": {"conll2003": 512, "squad": 512, "semeval": 0, "cola": 128, "qqp": 128, "swag": 0},
}  # fmt: skip


@pytest.mark.parametrize("model", [*LENGTHS, "electra_small", "electra_large"])
def test_lengths_are_published_too(model):
  variant = f",model={model}" if model else ""
  wanted = LENGTHS[model.partition("_")[0]] | {"embed": 0}
  assert {task: finetune.get_config(task + variant).data.length for task in wanted} == wanted


def test_adams_form_and_dropout_are_published_too():
  albert, roberta = (finetune.get_config(f"cola,model={name}") for name in ("albert", "roberta"))
  assert albert.model.dropout == albert.model.attention_dropout == 0.0
  assert finetune.get_config("rte,model=albert").model.dropout == 0.1
  assert roberta.optimizer.bias_correction and roberta.optimizer.eps_hat and roberta.optimizer.decay_exclude == ()
  assert finetune.get_config("sst2,model=electra").objective.loss_scale == "sum"


def test_electras_code_trains_on_pairs_in_both_orders_where_none_comes_first():
  for model in ("electra_small", "electra", "electra_large"):
    found = {task: finetune.get_config(f"{task},model={model}") for task in ("mrpc", "stsb", "qqp", "rte", "sst2")}
    assert [task for task, own in found.items() if own.task.both_orders] == ["mrpc", "stsb"]
    scales = {task: own.objective.target_scale for task, own in found.items()}
    assert scales == dict.fromkeys(found, 1.0) | {"stsb": 5.0}
  assert not finetune.get_config("mrpc,model=bert").task.both_orders


def test_the_epoch_of_questions_without_answers_is_chosen_as_they_are_answered():
  """With the best threshold, not with 0; LUKE's programs take the last epoch."""
  assert finetune.get_config("squad2,model=bert").select_by == "best_f1"
  assert finetune.get_config("squad,model=bert").select_by == "f1"
  assert finetune.get_config("squad2").select_by == finetune.get_config("squad2,model=luke").select_by == ""


def test_every_task_has_a_recipe_with_every_model():
  assert {*finetune.TASKS} == {*registry.TASKS}
  for task in finetune.TASKS:
    for model in ("", *(f",model={name}" for name in finetune.PUBLISHED)):
      for key, value in flatten(finetune.get_config(task + model)).items():
        if value not in (0, "") and key not in ("model.name", "objective.labels"):
          check_value(key, value)


def test_a_network_on_an_elmo_is_the_same_by_either_recipe(tmp_path):
  folder = write_tasks(tmp_path / "task")
  files = {"task.dir": str(folder), "task.train": "sst2.tsv", "task.dev": "sst2.tsv"}
  own = files | {"init_from": str(elmo_run(tmp_path)), "task.word_vectors": "none"}
  recipes = ("configs/elmo_tasks.py:sst2", "configs/finetune.py:sst2,model=elmo")
  alone, here = (load(recipe, own) for recipe in recipes)
  assert difference(alone, here) == [f"recipe: {recipes[0]!r} -> {recipes[1]!r}"]
  with pytest.raises(ConfigError, match="holds an elmo, want model=elmo in the variant, or configs/elmo_tasks.py"):
    load("configs/finetune.py:sst2", files | {"init_from": own["init_from"]})


@pytest.mark.parametrize(
  ("variant", "sizes"),
  [
    ("mnli,model=bert", {"optimizer.lr": 4}),
    ("conll2003,model=bert", {"optimizer.lr": 3, "batch_size": 2, "task.epochs": 3}),
    ("rte,model=roberta", {"optimizer.lr": 3, "batch_size": 2}),
    ("squad,model=spanbert", {"optimizer.lr": 5, "batch_size": 2}),
    ("squad,model=bert", {}),
    ("squad,model=roberta", {}),
    ("cola,model=albert", {}),
    ("cola", {}),
    ("embed,model=spanbert", {}),
    ("wnut17,model=elmo", {}),
  ],
)
def test_searches_are_those_of_the_papers_and_hold_the_numbers_of_the_recipe(variant, sizes):
  if not sizes:
    with pytest.raises(common.VariantError, match="no search is published"):
      finetune.get_grid(variant)
    return
  grid, own = finetune.get_grid(variant), flatten(finetune.get_config(variant))
  assert {key: len(values) for key, values in grid.items()} == sizes
  for key, values in grid.items():
    assert own[key] in values
    for value in values:
      check_value(key, value)
