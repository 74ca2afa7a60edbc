"""Fine-tuning from a pretrained LUKE: what it takes over, that it learns, and that a kill changes nothing."""

import json
import shutil

import jax
import numpy as np
import pytest

from data.tasks.rows import ENTITIES
from models.paths import merge, named_leaves
from tests.finetune_runs import SPLIT, config_of, fit, semeval, settings
from tests.trained import WORDS, luke_run
from trainer.config import load, validate
from trainer.evaluation import evaluate
from trainer.feed import Stage
from trainer.finetuning.adaptation import QUERIES, adapted
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.recipe import initial_leaves, task_form
from trainer.inference import load_model
from trainer.programs import Program, Setup
from trainer.rules import ConfigError
from trainer.seeds import read_seeds, train_seeds
from trainer.start import initial_params

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = luke_run(tmp_path_factory.mktemp("finetune") / "luke")
  (folder.parent / "task").mkdir()
  semeval(folder.parent / "task" / "TRAIN_FILE.TXT", 120, 0)
  semeval(folder.parent / "task" / "TEST_FILE_FULL.TXT", 24, 1)
  return folder


@pytest.fixture(scope="module")
def done(run):
  """(config, workdir, summary) of a run of ten epochs."""
  config = config_of(run, keep_checkpoints=2)
  folder = run.parent / "done"
  return config, folder, fit(config, folder)[0]


def figures_of(folder, name):
  """{step: figure} of a run's metrics.jsonl."""
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  return {line["step"]: line[name] for line in lines if name in line}


def test_the_config_is_completed_from_the_weights_and_the_files(run):
  config = config_of(run)
  assert (config.model.name, config.model.hidden, config.model.query_kinds) == ("luke", 32, 4)
  assert (config.model.vocab_size, config.model.entity_vocab_size) == (WORDS + 2, len(ENTITIES))
  assert config.objective.kind == "relate" and config.objective.labels[0] == "Other"
  assert len(config.objective.labels) == 5 and config.dtype == "float32"
  assert (config.steps, config.eval_every, config.save_every) == (80, 8, 8)  # 96 of 120 examples are trained on
  assert config.optimizer.warmup_steps == 4  # 6 % of the steps
  assert config.data.length == 48  # no more than the model has positions
  validate(config)


def test_overrides_of_the_model_and_the_steps_stand(run):
  config = config_of(run, model__dropout=0.3, steps=7, optimizer__warmup_steps=2, dtype="bfloat16", data__length=40)
  assert (config.model.dropout, config.steps, config.optimizer.warmup_steps) == (0.3, 7, 2)
  assert (config.dtype, config.data.length) == ("bfloat16", 40)
  assert load("configs/finetune.py:semeval,queries=1", settings(run)).model.query_kinds == 1


@pytest.mark.parametrize("data, batch", [(8, 4), (8, 12), (-1, 3)])
def test_a_batch_need_not_be_a_multiple_of_the_devices(run, data, batch):
  """Rows of padding fill it up."""
  config = config_of(run, mesh__data=data, batch_size=batch, micro_batches=2)
  validate(config)
  feed = TaskFeed(config, run.parent / "unborn")
  assert len(feed.example(None).tokens.ids) % 16 == 0


@pytest.mark.parametrize(
  "changes, line",
  [
    ({"init_from": ""}, "init_from: got '', want a run or published weights"),
    ({"init_from": "nowhere"}, "init_from: got 'nowhere', want a run or published weights"),
    ({"task__dir": ""}, "task.dir: is empty, want the folder of semeval's files"),
    ({"task__train": "none.txt"}, "none.txt: no such file, want the official one, or name it: task.train, task.dev"),
    ({"task__test": "none.txt"}, "none.txt: no such file, want the official one, or name it: task.train, task.dev"),
    ({"task__dev_share": 0.0}, "has no official dev file, want task.dev, or task.dev_share above 0"),
    ({"task__dev": "TEST_FILE_FULL.TXT"}, "task.dev_share: got 0.2 with task.dev=TEST_FILE_FULL.TXT, want 0"),
    ({"task__links": "links.jsonl"}, "task.links: got 'links.jsonl', want '': semeval has no answers in passages"),
    ({"task__offsets": "nearest"}, "task.offsets: got 'nearest', want 'exact': semeval has no answers in passages"),
    ({"task__queries": 3}, "task.queries: got 3, want 0, 1 or 4"),
    ({"select_by": "acc"}, "select_by: got 'acc', want a held-out figure: precision, recall, f1, loss, task_loss"),
    ({"select_by": "dev_accuracy"}, "select_by: got 'dev_accuracy', want a held-out figure: precision, recall, f1"),
    ({"batch_size": 0}, "batch_size: got 0, want a whole number of at least 1"),
    ({"objective__kind": "type"}, "objective.kind: is set, want it left out: it follows from task.name"),
    ({"objective__labels": "a,b"}, "objective.labels: is set, want it left out: it follows from task.name"),
    ({"data__length": 4000}, "data.length: got 4000, want at most 48, the positions of init_from"),
  ],
)
def test_what_is_missing_or_cannot_be_is_one_line(run, changes, line):
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
  for name in QUERIES:  # which pretraining did not have
    for part in ("kernel", "bias"):
      np.testing.assert_array_equal(after[f"layers/attention/{name}/{part}"], before[f"layers/attention/query/{part}"])


def test_a_fresh_start_takes_sizes_and_words_but_no_weights(run):
  before, after, _, config = started(run, task__fresh=True)
  path = "layers/ffn/up/kernel"
  assert after[path].shape == before[path].shape and not np.array_equal(after[path], before[path])


def test_rows_of_words_beyond_the_tokenizer_go_with_markers_and_without():
  """A published table may have more rows than there are pieces."""
  found = {"embeddings/word/embedding": np.arange(256 * 2, dtype=np.float32).reshape(256, 2)}
  fresh = {"embeddings/word/embedding": np.ones((128, 2), np.float32)}
  plain = adapted(found, fresh, 100, {}, [], False)["embeddings/word/embedding"]
  np.testing.assert_array_equal(plain[:100], found["embeddings/word/embedding"][:100])
  assert plain.shape == (128, 2) and not plain[100:].any()
  marked = adapted(found, fresh, 100, {100: 7}, [], False)["embeddings/word/embedding"]
  np.testing.assert_array_equal(marked[100], found["embeddings/word/embedding"][7])


def test_a_head_is_taken_over_for_the_same_labels_alone(caplog):
  caplog.set_level("INFO")
  found, fresh = ({"heads/relate/kernel": np.full((4, 3), value, np.float32)} for value in (1, 2))
  assert adapted(found, fresh, 0, {}, [], True)["heads/relate/kernel"][0, 0] == 1
  assert adapted(found, fresh, 0, {}, [], False)["heads/relate/kernel"][0, 0] == 2
  wider = {"heads/relate/kernel": np.ones((4, 9), np.float32)}
  assert adapted(wider, fresh, 0, {}, [], True)["heads/relate/kernel"][0, 0] == 2
  said = [record.getMessage() for record in caplog.records]
  assert said[0] == "fine-tuning: goes on with the head of init_from" and said[1].endswith("from the seed: nothing")
  assert said[2:] == ["fine-tuning: from the seed: heads/relate (init_from has one for other labels)"] * 2


def test_a_second_task_goes_on_with_the_head_of_the_first_if_it_has_the_same_labels(run, done):
  config = config_of(run, init_from=str(done[1]))
  found = named_leaves(jax.device_get(load_model(done[1]).params))
  fresh = {path: np.zeros_like(leaf) for path, leaf in found.items()}
  begun = lambda: initial_leaves(config, found, merge(fresh))["heads/relate/kernel"]
  np.testing.assert_array_equal(begun(), found["heads/relate/kernel"])
  with config.unlocked():
    config.objective.labels = tuple(reversed(config.objective.labels))  # as many, of other classes
  assert not begun().any()


def test_it_learns_and_reports_the_official_figures_of_the_held_out_part(run, done):
  config, folder, summary = done
  metrics = summary["metrics"]
  assert metrics["eval/f1"] > 0.8 and metrics["eval/accuracy"] > 0.8
  assert list(figures_of(folder, "eval/f1")) == list(range(8, 81, 8))
  loaded = load_model(folder)
  assert loaded.tokenizer.vocabulary[-2:] == ("<ent>", "<ent2>") and dict(loaded.entities.ids) == ENTITIES
  # the tokenizer of the run goes on where init_from is gone
  assert task_form(config, folder).tokenizer.digest == loaded.tokenizer.digest


def test_the_best_epoch_is_kept_and_used(run, done):
  """The first of equals; newer checkpoints do not push it out."""
  _, folder, summary = done
  figures = figures_of(folder, "eval/f1")
  best = min(step for step in figures if figures[step] == max(figures.values()))
  assert best < 72  # the newest two are kept anyway
  assert (summary["metrics"]["best/step"], summary["metrics"]["best/f1"]) == (best, figures[best])
  assert load_model(folder).source.endswith(f"step {best}")
  assert {int(step.name) for step in (folder / "checkpoints").iterdir()} >= {best, 72, 80}


def test_the_test_file_is_scored_once_with_the_best_epoch(run, done):
  """The file plays no part before; its figures are those of the chosen checkpoint on it, as held-out file."""
  config, folder, summary = done
  metrics = summary["metrics"]
  assert list(figures_of(folder, "test/f1")) == [80] and metrics["test/step"] == metrics["best/step"]
  alone = config_of(run, task__train="TRAIN_FILE.TXT", task__dev="TEST_FILE_FULL.TXT", task__dev_share=0.0)
  feed, setup = TaskFeed(alone, folder), Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], feed.example(setup.stages[0]))
  figures = [evaluate(program, feed, load_model(place).params) for place in (folder, newest(folder))]
  assert {f"test/{name}" for name in figures[0]} == {n for n in metrics if n.startswith("test/")} - {"test/step"}
  for name, value in figures[0].items():
    assert metrics[f"test/{name}"] == pytest.approx(value, rel=1e-5)
  assert figures[0]["f1"] > 0.8 and abs(figures[1]["loss"] - figures[0]["loss"]) > 0.01  # the last step's are others


def newest(folder):
  """A copy of a run that selects no epoch."""
  copy = folder.parent / "newest"
  shutil.copytree(folder, copy)
  config = json.loads((copy / "config.json").read_text())
  (copy / "config.json").write_text(json.dumps(config | {"select_by": ""}))
  return copy


def test_without_a_test_file_nothing_is_scored(run, tmp_path):
  shutil.copy(run.parent / "task" / "TRAIN_FILE.TXT", tmp_path)
  assert TaskFeed(config_of(run, task__dir=str(tmp_path)), run.parent / "unborn").test is None


def test_a_killed_run_ends_with_the_same_state(run, done, tmp_path):
  config, folder, summary = done
  shutil.copytree(folder, tmp_path / "cut")
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / "80")
  again, _ = fit(config, tmp_path / "cut")
  assert again["state_sha256"] == summary["state_sha256"]
  names = [name for name in summary["metrics"] if name.startswith(("eval/", "best/", "test/"))]
  assert "test/f1" in names and all(again["metrics"][name] == summary["metrics"][name] for name in names)


def test_packing_and_micro_batches_change_no_update(run):
  found, begun = [], None
  for pack, parts in ((1, 1), (3, 2)):
    config = config_of(run, data__pack=pack, micro_batches=parts)
    setup = Setup.of(config, jax.devices()[:1])
    batch = TaskFeed(config, run.parent / "unborn").example(setup.stages[0])
    program = Program(setup, setup.stages[0], batch)
    begun = jax.device_get(program.fresh_state()) if begun is None else begun
    state, report = program.step(jax.device_put(begun, program.shardings), program.place(batch))
    found.append((len(batch.tokens.ids), jax.device_get(report), named_leaves(jax.device_get(state.params))))
  (rows, lone, one), (fewer, packed, two) = found
  assert fewer < rows == 12
  assert float(lone.sums["task"]) == pytest.approx(float(packed.sums["task"]), rel=1e-5)
  assert float(lone.grad_norm) == pytest.approx(float(packed.grad_norm), rel=1e-4)
  for path in ("heads/relate/kernel", "layers/ffn/up/kernel"):
    np.testing.assert_allclose(one[path], two[path], atol=1e-5)


def test_official_figures_are_those_of_the_answers_in_order(run):
  """Logits that name each dev example's label give 1 whatever batches the examples stand in; shifted ones do not."""
  config = config_of(run)
  feed = TaskFeed(config, run.parent / "unborn")
  stage = Stage(0, 1, 48, 12, 0)
  for part in (feed, feed.test):
    right = [np.eye(5)[batch.labels] for batch in part.held_out(stage)]
    assert part.score(right)["f1"] == 1.0
    assert part.score([np.roll(logits, 1, axis=-1) for logits in right])["f1"] < 0.5


def test_files_with_other_labels_than_the_config_are_refused(run, tmp_path):
  config = config_of(run)
  shutil.copytree(run.parent / "task", tmp_path / "task")
  semeval(tmp_path / "task" / "TRAIN_FILE.TXT", 60, 0, names=("Cause-Effect", "Other"))
  with config.unlocked():
    config.task.dir = str(tmp_path / "task")
  # and labels of the test file that training lacks end no run
  with pytest.raises(ConfigError, match=r"objective.labels: got 5 labels \(Other, .*want 3 labels \(Other, Cause"):
    TaskFeed(config, run.parent / "unborn")


def test_seeds_give_a_run_each_and_their_mean_and_spread(run, tmp_path):
  config, runs = config_of(run), []

  def train(config, workdir):
    runs.append((config.seed, workdir.name))
    return {"metrics": {"train/loss": 1.0, "eval/f1": 0.5 + config.seed / 10, "test/f1": 0.4, "test/x": 1.0}}, False

  summary, stopped = train_seeds(config, tmp_path, (0, 1), train)
  assert not stopped and runs == [(0, "seed-0"), (1, "seed-1")] and config.seed == 42
  assert summary["seeds"] == [0, 1] and set(summary["metrics"]) == {"eval/f1", "test/f1", "test/x"}
  found = summary["metrics"]["eval/f1"]
  assert found["values"] == [0.5, 0.6] and found["mean"] == pytest.approx(0.55)
  assert found["std"] == pytest.approx(0.1 / 2**0.5)
  assert summary["metrics"]["test/f1"] == {"mean": 0.4, "std": 0.0, "values": [0.4, 0.4]}


@pytest.mark.parametrize("text", ["1,1", "a", "1,,2", "-1"])
def test_wrong_seeds_are_one_line(text):
  with pytest.raises(ConfigError, match="flag --seeds: got .*, want different whole numbers"):
    read_seeds(text)


def test_the_share_that_is_held_out_is_exact(run):
  feed = TaskFeed(config_of(run), run.parent / "unborn")
  assert sum(int(batch.weights.sum()) for batch in feed.held_out(None)) == round(SPLIT * 120)
