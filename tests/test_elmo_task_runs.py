"""Runs of tasks on ELMo: they learn, what is frozen stays, a workdir stands alone, a kill changes nothing."""

import json
import shutil

import jax
import numpy as np
import pytest

from models.paths import named_leaves
from tests.word_task_runs import NUMBERS, WORDS, config_of, elmo_run, fit, params_of, task_folder, unborn
from trainer.config import load
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.recipe import task_form
from trainer.inference import answer, load_model
from trainer.programs import Program, Setup
from trainer.rules import ConfigError
from trainer.seeds import train_seeds

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = elmo_run(tmp_path_factory.mktemp("word_task_runs") / "elmo")
  task_folder(folder.parent / "task")
  return folder


@pytest.fixture(scope="module")
def done(run):
  """(config, workdir, summary) of a run of named entities."""
  config, folder = config_of(run, "wnut17", keep_checkpoints=2, task__epochs=7), run.parent / "done"
  return config, folder, fit(config, folder)[0]


def test_named_entities_are_learned_and_the_test_file_is_scored_once(run, done):
  config, folder, summary = done
  metrics = summary["metrics"]
  assert metrics["best/f1"] > 0.9 and metrics["test/f1"] > 0.9
  assert metrics["test/step"] == metrics["best/step"]
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines if "test/f1" in line] == [21]
  assert [line["step"] for line in lines if "eval/f1" in line] == [3, 6, 9, 12, 15, 18, 21]


def test_a_frozen_bilm_stays_as_it_is_and_has_no_moments(run, done):
  config, folder, _ = done
  after, there = params_of(folder, config), params_of(run, load(str(run / "config.json")))
  for path, leaf in there.items():
    if not path.startswith("heads/"):
      np.testing.assert_array_equal(after[f"bilm/{path}"], leaf)
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], TaskFeed(config, folder).example(setup.stages[0]))
  learns = " ".join(named_leaves(program.shapes.opt))
  assert "bilm/" not in learns and all(name in learns for name in ("mix/input/weights", "vectors/", "crf/"))


def test_the_workdir_stands_alone(run, done, tmp_path):
  """Its words and the rule that divides texts are its own, where neither the biLM nor the vectors are any more."""
  config, folder, _ = done
  form = task_form(load(str(folder / "config.json"), {"init_from": "gone"}), folder)
  assert form.vocabulary.words == task_form(config, unborn(run)).vocabulary.words == tuple(sorted(WORDS))
  assert form.tokenizer.split == "space"  # the biLM's
  assert task_form(config_of(run, "sst2,vectors=tuned"), unborn(run)).tokenizer.split == "space"


def test_a_workdir_of_other_words_is_refused(run, done):
  config, folder, _ = done
  other = load(str(folder / "config.json"), {"model.vectors": config.model.vectors + 1})
  with pytest.raises(ConfigError, match=f"model.vectors: got {len(WORDS) + 3}, want {len(WORDS) + 2}, the rows of"):
    TaskFeed(other, folder)


def test_a_killed_run_ends_with_the_same_state(run, done, tmp_path):
  config, folder, summary = done
  shutil.copytree(folder, tmp_path / "cut")
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / "21")
  again, _ = fit(config, tmp_path / "cut")
  assert again["state_sha256"] == summary["state_sha256"]
  names = [name for name in summary["metrics"] if name.startswith(("eval/", "best/", "test/"))]
  assert "test/f1" in names and all(again["metrics"][name] == summary["metrics"][name] for name in names)


def test_official_figures_are_those_of_the_answers_in_order(run):
  """Tags that name each word's class give 1 whatever batches the sentences stand in; all O find nothing."""
  feed = TaskFeed(config_of(run, "wnut17", batch_size=7), unborn(run))
  for part in (feed, feed.test):
    batches = list(part.held_out(None))
    assert len(batches) == 3
    assert part.score([batch.labels for batch in batches])["f1"] == 1.0
    assert part.score([0 * batch.labels for batch in batches])["f1"] == 0.0


def test_a_process_gets_its_rows_and_all_words(run, monkeypatch):
  feed = TaskFeed(config_of(run, "sst2,vectors=tuned"), unborn(run))
  whole = next(iter(feed.held_out(None)))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for number in range(2):
    monkeypatch.setattr(jax, "process_index", lambda number=number: number)
    own = next(iter(feed.held_out(None)))
    np.testing.assert_array_equal(own.index, whole.index[10 * number : 10 * number + 10])
    np.testing.assert_array_equal(own.words, whole.words)


@pytest.mark.slow
def test_devices_and_micro_batches_change_no_update(run):
  found, begun = [], None
  for devices, parts in ((1, 1), (4, 2)):
    config = config_of(run, "wnut17,place=both", micro_batches=parts, mesh__data=devices)
    setup = Setup.of(config, jax.devices()[:devices])
    batch = TaskFeed(config, unborn(run)).example(setup.stages[0])
    program = Program(setup, setup.stages[0], batch)
    begun = jax.device_get(program.fresh_state()) if begun is None else begun
    state, report = program.step(jax.device_put(begun, program.shardings), program.place(batch))
    found.append((len(batch.labels), jax.device_get(report), named_leaves(jax.device_get(state.params))))
  (rows, lone, one), (more, parted, two) = found
  assert (rows, more) == (20, 24)  # rows of padding fill 4 x 2 parts
  for term in ("task", "mixture"):
    assert float(lone.sums[term]) == pytest.approx(float(parted.sums[term]), rel=1e-5)
  assert float(lone.grad_norm) == pytest.approx(float(parted.grad_norm), rel=1e-4)
  for path in ("crf/transitions", "mix/output/weights", "heads/tag/kernel"):
    np.testing.assert_allclose(one[path], two[path], atol=1e-4)


@pytest.mark.slow
def test_sentences_are_classified_with_a_tuned_bilm_under_two_seeds(run, tmp_path):
  config = config_of(run, "sst2,vectors=tuned,bilm=tuned")
  summary, stopped = train_seeds(config, tmp_path, (0, 1), fit)
  found = summary["metrics"]["best/accuracy"]
  assert not stopped and found["values"][0] > 0.9 and found["mean"] > 0.9 and len(found["values"]) == 2
  there = params_of(run, load(str(run / "config.json")))
  for seed in (0, 1):
    after = params_of(tmp_path / f"seed-{seed}", config)
    assert not np.array_equal(after["bilm/char/projection/kernel"], there["char/projection/kernel"])


@pytest.mark.slow
def test_pairs_are_classified(run, tmp_path):
  config = config_of(run, "snli,vectors=tuned", task__epochs=12, seed=1)
  assert config.objective.labels == ("contradiction", "entailment", "neutral")
  assert fit(config, tmp_path / "pairs")[0]["metrics"]["best/accuracy"] > 0.8


@pytest.mark.slow
def test_numbers_are_learned(run, tmp_path):
  config = config_of(run, "stsb,vectors=tuned", task__epochs=20, **NUMBERS)
  assert config.objective.labels == ("score",)
  assert fit(config, tmp_path / "numbers")[0]["metrics"]["best/spearman"] > 0.8


@pytest.mark.slow
def test_the_right_choice_is_learned(run, tmp_path):
  config = config_of(run, "swag,vectors=tuned", task__epochs=12)
  assert fit(config, tmp_path / "swag")[0]["metrics"]["best/accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("task, figure", [("squad", "f1"), ("squad2", "best_f1")])
def test_questions_are_answered_from_passages(run, tmp_path, task, figure):
  config = config_of(run, f"{task},vectors=tuned", task__epochs=25)
  assert config.objective.labels == ()
  summary, _ = fit(config, tmp_path / task)
  assert summary["metrics"][f"best/{figure}"] > 0.9
  written = json.loads((tmp_path / task / "predictions/submission/dev/predictions.json").read_text())
  assert len(written) == 20
  loaded = load_model(tmp_path / task)
  asked = ["saw anna in", "saw the cat in"]
  found = answer(loaded, asked, ["bert in rome and anna in paris near the cat"] * 2)
  assert found[0].text == "paris" and (found[1].text == "") == (task == "squad2")


@pytest.mark.slow
def test_frozen_vectors_of_a_file_stay_as_they_are(run, tmp_path):
  config = config_of(run, "wnut17,vectors=frozen", task__vectors=str(run.parent / "glove.txt"), task__epochs=1)
  fit(config, tmp_path / "frozen")
  table = params_of(tmp_path / "frozen", config)["vectors/embedding"]
  vocabulary = task_form(config, tmp_path / "frozen").vocabulary
  for i, word in enumerate(WORDS[:5]):
    np.testing.assert_array_equal(table[vocabulary.id_of(word)], [i + 0.5, -1, 0.25])
