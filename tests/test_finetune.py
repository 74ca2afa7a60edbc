"""Fine-tuning from a pretrained LUKE: what it takes over, that it learns, and that a kill changes nothing."""

import json
import shutil

import jax
import numpy as np
import pytest

from data.tasks.rows import ENTITIES
from models.paths import named_leaves
from tests.trained import WORDS, luke_run
from train import train
from trainer.adaptation import QUERIES
from trainer.config import load, validate
from trainer.feed import Stage
from trainer.finetuning import task_tokenizer
from trainer.inference import load_model
from trainer.programs import Program, Setup
from trainer.rules import ConfigError
from trainer.seeds import read_seeds, train_seeds
from trainer.start import initial_params
from trainer.task_feed import TaskFeed

pytestmark = pytest.mark.usefixtures("own_logging")
RECIPE = "configs/finetune.py:semeval"
# The words between the two marks tell the relation, and which mark comes first its direction.
BETWEEN = {"Cause-Effect": "made", "Component-Whole": "is part of", "Other": "saw"}


def semeval(path, count, seed):
  rng, lines = np.random.default_rng(seed), []
  for number in range(count):
    name = str(rng.choice(list(BETWEEN)))
    one, two = rng.choice(["cat", "dog", "mat", "rain"], 2, replace=False)
    turned = name != "Other" and rng.random() < 0.5
    first, second = (f"<e2>{one}</e2>", f"<e1>{two}</e1>") if turned else (f"<e1>{one}</e1>", f"<e2>{two}</e2>")
    relation = name if name == "Other" else f"{name}({'e2,e1' if turned else 'e1,e2'})"
    # e1 stands first in every line of the official files; here order and direction say the same
    lines += [f'{number + 1}\t"the {first} {BETWEEN[name]} the {second} ."', relation, "Comment:", ""]
  path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = luke_run(tmp_path_factory.mktemp("finetune") / "luke")
  (folder.parent / "task").mkdir()
  semeval(folder.parent / "task" / "TRAIN_FILE.TXT", 120, 0)
  semeval(folder.parent / "task" / "TEST_FILE_FULL.TXT", 30, 1)
  return folder


def settings(run, **changes):
  own = {
    "init_from": str(run), "task.dir": str(run.parent / "task"), "batch_size": 12, "optimizer.lr": 3e-3,
    "task.epochs": 6, "mesh.data": 1, "log_every": 10, "data.pack": 2,
  }  # fmt: skip
  return own | {name.replace("__", "."): value for name, value in changes.items()}


def config_of(run, **changes):
  return load(RECIPE, settings(run, **changes))


def fit(config, folder):
  """One device, as most who fine-tune have."""
  return train(config, folder, setup=Setup.of(config, jax.devices()[:1]))


def test_the_config_is_completed_from_the_weights_and_the_files(run):
  config = config_of(run)
  assert (config.model.name, config.model.hidden, config.model.query_kinds) == ("luke", 32, 4)
  assert (config.model.vocab_size, config.model.entity_vocab_size) == (WORDS + 2, len(ENTITIES))
  assert config.objective.kind == "relate" and config.objective.labels[0] == "Other"
  assert len(config.objective.labels) == 5 and config.dtype == "float32"
  assert (config.steps, config.eval_every, config.save_every) == (60, 10, 10)
  assert config.optimizer.warmup_steps == 3  # 6 % of the steps
  assert config.data.length == 48  # no more than the model has positions
  validate(config)


def test_overrides_of_the_model_and_the_steps_stand(run):
  config = config_of(run, model__dropout=0.3, steps=7, optimizer__warmup_steps=2)
  assert (config.model.dropout, config.steps, config.optimizer.warmup_steps) == (0.3, 7, 2)
  assert load("configs/finetune.py:semeval,queries=1", settings(run)).model.query_kinds == 1


@pytest.mark.parametrize(
  "changes, line",
  [
    ({"init_from": ""}, "init_from: got '', want a run or published weights"),
    ({"init_from": "nowhere"}, "init_from: got 'nowhere', want a run or published weights"),
    ({"task__dir": ""}, "task.dir: is empty, want the folder of semeval's files"),
    ({"task__train": "none.txt"}, "none.txt: no such file, want the official one, or name it: task.train, task.dev"),
  ],
)
def test_what_is_missing_is_one_line(run, changes, line):
  with pytest.raises(ConfigError) as caught:
    config_of(run, **changes)
  assert line in str(caught.value) and "\n" not in str(caught.value)


def started(run, **changes):
  """(parameters as pretrained, as the fine-tuning starts), by path."""
  config = config_of(run, **changes)
  feed = TaskFeed(config, run.parent / "unborn")
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], feed.example(setup.stages[0]))
  begun = initial_params(config, program.fresh_state().params)
  loaded = load_model(run)
  return *(named_leaves(jax.device_get(tree)) for tree in (loaded.params, begun)), loaded, config


def test_weights_are_taken_over_with_rows_for_markers_and_the_cut_entity_table(run):
  before, after, loaded, config = started(run)
  word, entity = "embeddings/word/embedding", "entity_embeddings/entity/embedding"
  np.testing.assert_array_equal(after[word][:WORDS], before[word][:WORDS])
  at, number = (loaded.tokenizer.id_of(piece) for piece in "@#")
  np.testing.assert_array_equal(after[word][WORDS : WORDS + 2], before[word][[at, number]])
  special = loaded.entities.special
  rows = [special.pad, special.unk, special.mask, special.mask]  # pretraining has no second mask
  np.testing.assert_array_equal(after[entity][:4], before[entity][rows])
  assert not after[entity][4:].any()
  for path in before:
    if path.startswith(("layers/", "entity_embeddings/position", "entity_embeddings/dense")):
      np.testing.assert_array_equal(after[path], before[path])
  assert {path for path in after if path.startswith("heads/")} == {"heads/relate/kernel"}


def test_queries_that_pretraining_did_not_have_are_copies_with_weight_and_bias(run):
  before, after, _, _ = started(run)
  for name in QUERIES:
    for part in ("kernel", "bias"):
      np.testing.assert_array_equal(after[f"layers/attention/{name}/{part}"], before[f"layers/attention/query/{part}"])


def test_a_fresh_start_takes_sizes_and_words_but_no_weights(run):
  before, after, _, config = started(run, task__fresh=True)
  path = "layers/ffn/up/kernel"
  assert after[path].shape == before[path].shape and not np.array_equal(after[path], before[path])


def test_it_learns_and_reports_the_official_figures_of_the_dev_file(run, tmp_path):
  summary, _ = fit(config_of(run), tmp_path / "run")
  metrics = summary["metrics"]
  assert metrics["eval/f1"] > 0.8 and metrics["eval/accuracy"] > 0.8
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines if "eval/f1" in line] == [10, 20, 30, 40, 50, 60]
  loaded = load_model(tmp_path / "run")
  assert loaded.tokenizer.vocabulary[-2:] == ("<ent>", "<ent2>") and dict(loaded.entities.ids) == ENTITIES
  # the tokenizer of the run goes on where init_from is gone
  assert task_tokenizer(config_of(run), tmp_path / "run")[0].digest == loaded.tokenizer.digest


def test_a_killed_run_ends_with_the_same_state(run, tmp_path):
  whole, _ = fit(config_of(run, steps=20), tmp_path / "whole")
  fit(config_of(run, steps=20), tmp_path / "cut")
  for step in (tmp_path / "cut" / "checkpoints").iterdir():
    if step.name == "20":
      shutil.rmtree(step)
  again, _ = fit(config_of(run, steps=20), tmp_path / "cut")
  assert again["state_sha256"] == whole["state_sha256"] and again["metrics"]["eval/f1"] == whole["metrics"]["eval/f1"]


def test_the_best_epoch_is_kept_and_used(run, tmp_path):
  """The first of equals; newer checkpoints do not push it out."""
  config = config_of(run, steps=60, keep_checkpoints=1, eval_every=10, save_every=10)
  folder = tmp_path / "run"
  summary, _ = fit(config, folder)
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  figures = {line["step"]: line["eval/f1"] for line in lines if "eval/f1" in line}
  best = min(step for step in figures if figures[step] == max(figures.values()))
  assert (summary["metrics"]["best/step"], summary["metrics"]["best/f1"]) == (best, figures[best])
  assert load_model(folder).source.endswith(f"step {best}")
  assert int(max(folder.joinpath("checkpoints").iterdir(), key=lambda p: int(p.name)).name) == 60


def test_packing_and_micro_batches_change_no_update(run, tmp_path):
  losses = []
  for pack, parts in ((1, 1), (2, 1), (2, 2)):
    config = config_of(run, data__pack=pack, micro_batches=parts, steps=10, model__dropout=0.0)
    summary, _ = fit(config, tmp_path / f"{pack}-{parts}")
    losses.append((summary["metrics"]["train/loss"], summary["metrics"]["eval/loss"]))
  np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


def test_official_figures_are_those_of_the_answers_in_order(run):
  """Logits that name each dev example's label give 1 whatever batches the examples stand in; shifted ones do not."""
  config = config_of(run)
  feed = TaskFeed(config, run.parent / "unborn")
  stage = Stage(0, 1, 48, 12, 0)
  batches = list(feed.held_out(stage))
  right = [np.eye(5)[batch.labels] for batch in batches]
  assert feed.score(right)["f1"] == 1.0
  assert feed.score([np.roll(logits, 1, axis=-1) for logits in right])["f1"] < 0.5


def test_seeds_give_a_run_each_and_their_mean_and_spread(run, tmp_path):
  config = config_of(run, steps=2, eval_every=2, save_every=2)
  summary, stopped = train_seeds(config, tmp_path, (0, 1), fit)
  assert not stopped and summary["seeds"] == [0, 1]
  losses = [
    json.loads((tmp_path / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()[-1])["eval/loss"]
    for seed in (0, 1)
  ]
  found = summary["metrics"]["eval/loss"]
  assert found["values"] == losses and losses[0] != losses[1]
  assert found["mean"] == pytest.approx(sum(losses) / 2)
  assert found["std"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)


@pytest.mark.parametrize("text", ["1,1", "a", "1,,2", "-1"])
def test_wrong_seeds_are_one_line(text):
  with pytest.raises(ConfigError, match="flag --seeds: got .*, want different whole numbers"):
    read_seeds(text)
