"""ELMo in tasks: the recipe, what completes it, what a run starts from, batches without files."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

import models
import objectives
from configs import elmo_tasks
from data.batch import validate as validate_batch
from data.synthetic import synthetic_batch
from data.word_vectors import FIRST
from models.paths import merge, named_leaves
from models.published import allennlp
from tests.word_task_runs import NUMBERS, SIZES, WORDS, config_of, elmo_run, params_of, task_folder, unborn
from trainer.config import flatten, load, stages, validate
from trainer.dry_run import dry_run
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.recipe import task_form
from trainer.rules import WORD_TASK_RULES, ConfigError
from trainer.start import initial_params

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = elmo_run(tmp_path_factory.mktemp("word_tasks") / "elmo")
  task_folder(folder.parent / "task")
  return folder


def started(run, variant, **changes):
  """(parameters that a run starts with, those from the seed, the config), by path."""
  config, rng = config_of(run, variant, **changes), np.random.default_rng(0)
  objective, batch = objectives.build(config), TaskFeed(config, unborn(run)).example(None)
  shapes = named_leaves(jax.eval_shape(lambda: objective.init(jax.random.key(0), batch)))
  fresh = {path: rng.normal(size=shape.shape).astype(np.float32) for path, shape in shapes.items()}
  begun = named_leaves(jax.device_get(initial_params(config, jax.device_put(merge(fresh), jax.devices()[0]))))
  return begun, fresh, config


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_has_the_published_numbers():
  ner, sst, snli = (elmo_tasks.get_config(name) for name in ("conll2003", "sst5", "snli"))
  numbers = lambda c: (c.batch_size, c.optimizer.lr, c.optimizer.clip, c.objective.l2, c.model.hidden, c.model.layers)
  assert numbers(ner) == (64, 1e-3, 5.0, 0.1, 200, 2) and ner.objective.kind == "crf"
  assert numbers(sst) == (100, 1e-3, 5.0, 0.001, 300, 1) and sst.objective.kind == "classify"
  assert numbers(snli) == (32, 4e-4, 10.0, 0.001, 300, 1) and snli.objective.kind == "pair"
  assert [c.model.place for c in (ner, sst, snli)] == ["input", "input", "both"]
  assert [c.select_by for c in (ner, sst, snli)] == ["f1", "accuracy", "accuracy"]
  assert elmo_tasks.get_config("cola").select_by == "matthews"
  for name in ("mnli", "qnli", "rte", "wnli", "mrpc", "qqp", "stsb"):
    assert numbers(elmo_tasks.get_config(name)) == numbers(snli)
  stsb = elmo_tasks.get_config("stsb")
  assert (stsb.objective.kind, stsb.select_by) == ("regress", "spearman")
  assert numbers(elmo_tasks.get_config("swag")) == numbers(snli) == numbers(elmo_tasks.get_config("race"))
  squad, squad2 = (elmo_tasks.get_config(name) for name in ("squad", "squad2"))
  assert numbers(squad) == numbers(squad2) == (45, 1e-3, 5.0, 0.001, 90, 1) and squad.task.epochs == 24
  assert (squad.model.dropout, squad.optimizer.b2, squad.data.length, squad.model.place) == (0.2, 0.9, 382, "both")
  assert [c.select_by for c in (squad, squad2)] == ["f1", "best_f1"]
  for c in (ner, sst, snli):
    assert (c.optimizer.weight_decay, c.optimizer.eps, c.optimizer.bias_correction) == (0.0, 1e-8, True)  # Adam


def test_settings_change_what_they_name_and_nothing_else():
  plain = flatten(elmo_tasks.get_config("wnut17"))
  settings = {
    "place=both": {"model.place": "both"},
    "mixture=first": {"model.mixture": "first"},
    "lambda=0.001": {"objective.l2": 0.001},
    "vectors=none": {"task.word_vectors": "none"},
    "bilm=tuned": {"task.bilm": "tuned"},
  }
  for setting, wanted in settings.items():
    own = flatten(elmo_tasks.get_config(f"wnut17,{setting}"))
    assert {key: value for key, value in own.items() if value != plain[key]} == wanted
  probe = flatten(elmo_tasks.get_config("wnut17,network=linear,mixture=1"))
  assert {key: value for key, value in probe.items() if value != plain[key]} == {
    "model.mixture": "1", "model.encoder": "none", "objective.kind": "tag", "task.word_vectors": "none",
    "model.dropout": 0.0, "model.elmo_dropout": 0.0, "objective.loss_scale": "mean",
  }  # fmt: skip


# --- what it is completed with ----------------------------------------------------------------------------------------


def test_the_config_is_completed_from_the_bilm_and_the_files(run):
  config = config_of(run, "wnut17")
  assert (config.model.bilm.cell, config.model.bilm.projection, config.model.bilm.filters) == (16, 6, ((1, 8), (2, 8)))
  assert config.model.bilm.characters == SIZES["model.characters"] and config.dtype == "float32"
  kinds = [f"{letter}-{kind}" for kind in ("location", "person") for letter in "BIES"]
  assert config.objective.labels == ("O", *kinds)
  assert (config.steps, config.eval_every, config.save_every) == (15, 3, 3)  # 60 sentences, 20 of them a batch
  assert (config.model.vectors, config.model.vector_size) == (len(WORDS) + FIRST, 100)
  assert config.stages == ({"steps": 15, "freeze": ("^bilm/",)},) and config.model.bilm.dropout == 0.0
  validate(config)


def test_what_is_frozen_follows_from_the_settings(run):
  glove = {"task__vectors": str(run.parent / "glove.txt")}
  frozen = lambda variant, **changes: stages(config_of(run, variant, **changes))[0].freeze
  assert frozen("wnut17,vectors=frozen", **glove) == ("^bilm/", "^vectors/")
  assert frozen("wnut17,bilm=tuned") == ()
  assert frozen("wnut17,place=none", init_from="") == ()
  tuned = config_of(run, "wnut17,bilm=tuned", model__bilm__dropout=0.2)
  assert tuned.model.bilm.dropout == 0.2
  assert frozen("wnut17,bilm=tuned,place=both,vectors=frozen", **glove) == ("^vectors/",)


def test_a_file_of_vectors_gives_the_rows_of_the_words_of_all_files(run):
  config = config_of(run, "wnut17", task__vectors=str(run.parent / "glove.txt"))
  assert (config.model.vectors, config.model.vector_size) == (5 + FIRST, 3)


def test_without_a_place_there_is_no_bilm(run):
  config = config_of(run, "sst2,place=none,vectors=tuned", init_from="")
  assert not config.model.bilm and config.dtype == "float32"
  assert "bilm" not in " ".join(named_leaves(started(run, "sst2,place=none,vectors=tuned", init_from="")[0]))


def test_a_folder_as_allennlp_has_it_will_do(run, tmp_path):
  model = models.build(load(str(run / "config.json")))
  params = {path: leaf for path, leaf in params_of(run, load(str(run / "config.json"))).items() if "heads" not in path}
  bare = model.clone(config=dataclasses.replace(model.config, heads_on_top=()))
  allennlp.write(tmp_path / "elmo", bare, merge(params))
  config, own = config_of(run, "wnut17", init_from=str(tmp_path / "elmo")), flatten(config_of(run, "wnut17"))
  same = {key: own[key] for key in own if key.startswith("model.") and not key.endswith(("vocab_size", "unroll"))}
  assert {key: flatten(config)[key] for key in same} == same and config.model.bilm.vocab_size == 0
  begun = started(run, "wnut17", init_from=str(tmp_path / "elmo"))[0]
  for path, leaf in params.items():
    np.testing.assert_array_equal(begun[f"bilm/{path}"], leaf)


@pytest.mark.parametrize(
  "variant, changes, line",
  [
    ("wnut17", {"init_from": ""}, "init_from: got '', want a run of configs/elmo.py or a folder with options.json"),
    ("wnut17", {"init_from": "nowhere"}, "init_from: got 'nowhere', want a run of configs/elmo.py"),
    ("wnut17", {"task__dir": ""}, "task.dir: is empty, want the folder of wnut17's files"),
    ("wnut17", {"task__dev": "none"}, "none: no such file, want the official one"),
    ("wnut17,vectors=frozen", {"init_from": "nowhere"}, "init_from: got 'nowhere', want a run of configs/elmo.py"),
    ("wnut17,vectors=frozen", {}, "task.vectors: is empty with task.word_vectors=frozen, want a file of GloVe's"),
    ("wnut17,vectors=none", {"task__vectors": "a.txt"}, "task.vectors: got 'a.txt' with task.word_vectors=none"),
    ("wnut17", {"task__vectors": "none.txt"}, "none.txt: cannot be read"),
    ("wnut17", {"model__vectors": 9}, "model.vectors: is set, want it left out"),
    ("wnut17", {"task__vectors": "GLOVE", "model__vector_size": 50}, "model.vector_size: got 50, want 0 or 3, that of"),
    ("wnut17,vectors=none,place=none", {}, "model.place is none and there are no word vectors, want place=input"),
    ("wnut17,vectors=none,place=output", {}, "model.place is output and there are no word vectors"),
    ("wnut17,mixture=3", {}, "model.mixture is 3, want a layer from 0 to 2, those of init_from"),
    ("wnut17,mixture=mean", {}, "mixture='mean'"),
    ("wnut17", {"objective__kind": "spans"}, "objective.kind: got 'spans', want one of crf, tag, classify, pair"),
    ("wnut17", {"objective__kind": "pair"}, "task wnut17: got head 'words_pair', want one of"),
    ("wnut17", {"objective__labels": "a,b"}, "objective.labels: is set, want it left out"),
    ("wnut17", {"data__length": 0}, "data.length: got 0, want a whole number"),
    ("wnut17", {"task__dir": "/no/where"}, "task.dir: /no/where: no such folder, want the folder of wnut17's files"),
    ("wnut17", {"task__name": "sst2"}, "task.name: is set, want it left out: say sst2 in the variant"),
    ("wnut17", {"task__offsets": "nearest"}, "task.offsets: got 'nearest', want 'exact': wnut17 has no answers"),
    ("squad,network=linear", {}, "setting 'network': got linear for squad, want lstm: a passage has to be read"),
    ("squad,vectors=tuned", {"model__encoder": "none"}, "model.encoder is none, want lstm with objective.kind"),
    ("wnut17", {"task__bilm": "cold"}, "task.bilm: got 'cold', want one of frozen, tuned"),
    ("semeval", {}, "unknown size 'semeval'"),
  ],
)
def test_what_is_missing_or_cannot_be_is_one_line(run, variant, changes, line):
  changes = {key: str(run.parent / "glove.txt") if value == "GLOVE" else value for key, value in changes.items()}
  with pytest.raises(ConfigError) as caught:
    config_of(run, variant, **changes)
  assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_of_another_model_or_of_word_tables_is_refused(run, tmp_path):
  for name, line in (("luke", "is a run of luke, want a biLM that reads words"), ("words", "reads words by a table")):
    config = json.loads((run / "config.json").read_text())
    config["model"] |= {"name": "luke"} if name == "luke" else {"input": "words"}
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=line):
      config_of(run, "wnut17", init_from=str(tmp_path / name))


def test_every_rule_has_a_key(run):
  keys = flatten(config_of(run, "wnut17"))
  assert [pattern for pattern, _ in WORD_TASK_RULES if not any(re.fullmatch(pattern, key) for key in keys)] == []


# --- what it starts from ----------------------------------------------------------------------------------------------


def test_the_bilm_is_taken_over_without_its_softmax_and_the_rest_is_from_the_seed(run):
  begun, fresh, _ = started(run, "wnut17,place=both")
  there = params_of(run, load(str(run / "config.json")))
  assert {path.removeprefix("bilm/") for path in begun if path.startswith("bilm/")} == {
    path for path in there if not path.startswith("heads/")
  }
  for path, leaf in begun.items():
    wanted = there[path.removeprefix("bilm/")] if path.startswith("bilm/") else fresh[path]
    np.testing.assert_array_equal(leaf, wanted, err_msg=path)
  assert {path for path in begun if path.startswith("mix/")} == {
    f"mix/{place}/{name}" for place in ("input", "output") for name in ("weights", "gamma")
  }


def test_a_fresh_start_takes_the_sizes_alone(run):
  begun, fresh, _ = started(run, "wnut17", task__fresh=True)
  for path, leaf in begun.items():
    np.testing.assert_array_equal(leaf, fresh[path])


def test_vectors_of_a_file_stand_in_the_rows_of_their_words(run):
  """With a biLM and without: row 0 is no word, row 1 the mean."""
  for variant, source in (("wnut17", str(run)), ("wnut17,place=none", "")):
    config = config_of(run, variant, task__vectors=str(run.parent / "glove.txt"), init_from=source)
    begun = started(run, variant, task__vectors=str(run.parent / "glove.txt"), init_from=source)[0]
    table = begun["vectors/embedding"]
    vocabulary = task_form(config, unborn(run)).vocabulary
    for i, word in enumerate(WORDS[:5]):
      np.testing.assert_array_equal(table[vocabulary.id_of(word)], [i + 0.5, -1, 0.25])
    assert not table[0].any() and vocabulary.id_of("unseen") == 1
    np.testing.assert_allclose(table[1], [2.5, -1, 0.25])


def test_words_from_the_seed_are_those_that_training_shows_twice(run, tmp_path):
  shutil.copytree(run.parent / "task", tmp_path / "task")
  with (tmp_path / "task" / "train.tsv").open("a") as file:
    file.write("once good twice\t1\ntwice bad\t0\n")
  config = config_of(run, "sst2,vectors=tuned", task__dir=str(tmp_path / "task"))
  vocabulary = task_form(config, unborn(run)).vocabulary
  assert "twice" in vocabulary.words and "once" not in vocabulary.words


# --- without files, and on devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "variant, labels",
  [
    ("wnut17", None), ("wnut17,network=linear", None), ("sst2,vectors=tuned", 20), ("snli,vectors=tuned", 20),
    ("stsb,vectors=tuned", 20), ("squad,vectors=tuned", 40), ("swag,vectors=tuned", 80),
  ],
)  # fmt: skip
def test_synthetic_batches_have_one_shape_and_the_fields_of_real_ones(run, variant, labels):
  config = config_of(run, variant, mesh__data=8, **(NUMBERS if variant.startswith("stsb") else {}))
  stage = stages(config)[0]
  first, other = (synthetic_batch(config, stage, number) for number in (0, 1))
  real = TaskFeed(config, unborn(run)).example(stage)
  for batch in (first, other, real):
    validate_batch(batch)
    assert len(batch.labels) % 8 == 0 and batch.ids.max() < max(config.model.vectors, 2)
  shape = lambda batch: jax.tree.map(lambda x: (x.shape, x.dtype), batch)
  assert shape(first) == shape(other)
  assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other)))
  kinds = lambda batch: {path: (leaf.ndim, leaf.dtype) for path, leaf in named_leaves(batch).items()}
  assert kinds(first) == kinds(real)
  assert labels is None or batch.weights.sum() == labels


def test_a_probe_is_the_bilm_a_scale_and_one_layer(run):
  begun, _, config = started(run, "wnut17,network=linear,mixture=1")
  own = {path: leaf.shape for path, leaf in begun.items() if not path.startswith("bilm/")}
  assert own == {"mix/input/gamma": (), "heads/tag/kernel": (12, 9), "heads/tag/bias": (9,)}


def test_a_dry_run_needs_no_training(run, monkeypatch):
  monkeypatch.setattr("trainer.dry_run.memory", lambda program: {"rows": len(program.example.labels)})
  report = dry_run(config_of(run, "wnut17", mesh__data=8))
  assert report["stages"][0]["rows"] == 24 and report["parameters"] > 1000  # 20 sentences on 8 devices
