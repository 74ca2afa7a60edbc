"""Early stop: `task.patience` evaluations without a better figure end a run as if its steps were up."""

import json

import pytest

import trainer.loop
from tests.word_task_runs import config_of, fit, sentences
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.predictions import step_of
from trainer.rules import ConfigError

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Beside it stand the files of a task; the network on words needs no ELMo."""
  folder = tmp_path_factory.mktemp("early_stop") / "none"
  (folder.parent / "task").mkdir()
  for name, count, seed in (("train.tsv", 40, 0), ("dev.tsv", 10, 1), ("labelled.tsv", 10, 2)):
    sentences(folder.parent / "task" / name, count, seed)
  return folder


def settings(run, **changes):
  own = {"task__epochs": 6, "task__test": "labelled.tsv", "keep_checkpoints": 1, "log_every": 2}
  return config_of(run, "sst2,place=none,vectors=tuned,network=linear", **own | changes)


def scripted(monkeypatch, values):
  """Evaluations that find these accuracies, one after the other by the step that they are for."""
  monkeypatch.setattr(
    trainer.loop, "evaluate_all", lambda program, feed, params: {"accuracy": values[evaluations.pop(0)]}
  )
  evaluations = list(range(len(values)))
  return evaluations


def lines(folder, name):
  found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  return {line["step"]: line[name] for line in found if name in line}


def stop_of(values, patience):
  """Number of evaluations until `patience` of them in a row are no better than the best before, by plain counting."""
  best, waited = None, 0
  for number, value in enumerate(values, 1):
    waited = 0 if best is None or value > best else waited + 1
    best = value if waited == 0 else best
    if patience and waited == patience:
      return number
  return len(values)


CURVES = ([0.5, 0.6, 0.6, 0.7, 0.1, 0.7], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
LONG = ((CURVES[2], 1), (CURVES[0], 0))


@pytest.mark.parametrize(
  "values, patience", [(CURVES[0], 2), (CURVES[1], 3), *(pytest.param(*each, marks=pytest.mark.slow) for each in LONG)]
)
def test_a_run_ends_where_counting_says(run, tmp_path, monkeypatch, values, patience):
  """An equal figure is no better. Of six evaluations, two steps apart, those up to the stop are done."""
  scripted(monkeypatch, values)
  summary, stopped = fit(settings(run, task__patience=patience), tmp_path / "run")
  last = stop_of(values, patience)
  assert not stopped and summary["step"] == 2 * last
  assert list(lines(tmp_path / "run", "eval/accuracy").values()) == values[:last]
  assert summary["metrics"]["best/step"] == 2 * (1 + values[:last].index(max(values[:last])))
  assert (tmp_path / "run" / "checkpoints" / str(2 * last)).is_dir()


def test_an_early_end_is_an_end(run, tmp_path, monkeypatch, caplog):
  """The test file is scored with the best step and the predictions are written; a second start changes nothing."""
  config, folder = settings(run, task__patience=2), tmp_path / "run"
  scripted(monkeypatch, [0.5, 0.7, 0.6, 0.6])
  summary, _ = fit(config, folder)
  assert summary["step"] == 8 and lines(folder, "test/step") == {8: 4} and step_of(folder) == 4
  log = (folder / "metrics.jsonl").read_bytes()
  caplog.set_level("INFO")
  caplog.clear()  # another file's commands may have let the first start's lines through
  again, stopped = fit(config, folder)
  assert not stopped and again["state_sha256"] == summary["state_sha256"]
  assert (folder / "metrics.jsonl").read_bytes() == log
  said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("early stop")]
  assert said == ["early stop: step 8 of 12, accuracy is no better since step 4 (task.patience=2)"] * 1


@pytest.mark.parametrize("killed_after", [6, pytest.param(4, marks=pytest.mark.slow)])
def test_a_resumed_run_decides_the_same(run, tmp_path, monkeypatch, killed_after):
  """What is waited for survives a kill: before the best step, and between it and the end."""
  values, config = [0.5, 0.6, 0.7, 0.6, 0.65, 0.9], settings(run, task__patience=2)
  scripted(monkeypatch, values)
  whole, _ = fit(config, tmp_path / "whole")
  assert whole["step"] == 10
  real, left = trainer.loop.fault_point, [killed_after]

  class Killed(BaseException):
    pass

  def killing(point):
    left[0] -= point == "step"
    if left[0] < 0:
      raise Killed
    real(point)

  evaluations = scripted(monkeypatch, values)
  monkeypatch.setattr(trainer.loop, "fault_point", killing)
  with pytest.raises(Killed):
    fit(config, tmp_path / "cut")
  monkeypatch.setattr(trainer.loop, "fault_point", real)
  done = json.loads((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()[-1])["step"] // 2
  assert len(values) - len(evaluations) == done
  # a kill forgets what was not saved: evaluations after the newest checkpoint are done again
  saved = max(int(step.name) for step in (tmp_path / "cut" / "checkpoints").iterdir() if step.name.isdecimal())
  evaluations[:] = range(saved // 2, len(values))
  again, _ = fit(config, tmp_path / "cut")
  assert again["state_sha256"] == whole["state_sha256"] and again["metrics"] | times(whole) == whole["metrics"]


def times(summary):
  """Figures that tell time, which no two runs share."""
  return {name: value for name, value in summary["metrics"].items() if name.endswith(("_ms", "_per_s"))}


def test_patience_needs_a_figure(run):
  with pytest.raises(ConfigError) as caught:
    settings(run, task__patience=2, select_by="")
  line = str(caught.value)
  assert line.startswith("config key task.patience: got 2 with an empty select_by, want 0, or select_by=FIGURE")
  assert "\n" not in line
  with pytest.raises(ConfigError, match="task.patience: got -1, want a whole number of at least 0"):
    settings(run, task__patience=-1)


def test_the_share_of_tokens_that_are_no_padding_is_reported(run, tmp_path):
  """Of every window of the log: tokens with their boundaries, of all places of the batches."""
  config = settings(run, task__epochs=1)
  fit(config, tmp_path / "run")
  batches = TaskFeed(config, tmp_path / "run").batches(None, 0)
  seen = [next(batches)[1] for _ in range(config.steps)]
  tokens, places = (sum(each) for each in zip(*((int(b.lengths.sum()), b.index.size) for b in seen)))
  assert lines(tmp_path / "run", "train/non_padding") == {2: pytest.approx(tokens / places)}
  assert 0 < tokens < places


def test_figures_before_the_first_step_count_if_they_are_asked_for(run, tmp_path, monkeypatch):
  """What a run starts from may be its best: then it is what the test file is scored with."""
  scripted(monkeypatch, [0.7, 0.5, 0.6])
  summary, _ = fit(settings(run, task__eval_first=True, task__patience=2), tmp_path / "run")
  assert lines(tmp_path / "run", "eval/accuracy") == {0: 0.7, 2: 0.5, 4: 0.6}
  assert summary["step"] == 4 and summary["metrics"]["best/step"] == 0
  assert lines(tmp_path / "run", "test/step") == {4: 0} and (tmp_path / "run" / "checkpoints" / "0").is_dir()
