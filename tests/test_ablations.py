"""A table of ablations: which runs it has, what is shared and resumed, what it says; mistakes are one line."""

import json
import statistics

import pytest

from tests.word_task_runs import task_folder
from trainer import ablations
from trainer.ablations import as_markdown, best_line, check_table, read_cells, read_variations, run_table, variations_of
from trainer.config import load
from trainer.rules import ConfigError

pytestmark = pytest.mark.usefixtures("own_logging")
BASE = "configs/bert.py:tiny"


def made(vary, grid=False, source=BASE, overrides=None):
  return read_cells(source, overrides or {}, vary, grid)


class Runs:
  """Stands for training: a figure that follows from the config, and a list of what was run."""

  def __init__(self, stop_after=99):
    self.seen, self.stop_after = [], stop_after

  def __call__(self, config, folder):
    if len(self.seen) == self.stop_after:
      return {}, True
    self.seen.append((config.optimizer.lr, config.seed))
    folder.mkdir(parents=True)
    value = 100 * config.optimizer.lr + config.seed / 10
    return {"metrics": {"eval/f1": value, "best/f1": value, "test/f1": value / 2, "train/loss": 1.0}}, False


def rates(*values, **options):
  return made([("optimizer.lr", values)], **options)


# --- which lines ------------------------------------------------------------------------------------------------------


def test_one_change_at_a_time_around_the_recipe():
  cells = made([("optimizer.lr", ("1e-3", "2e-3")), ("model.dropout", ("0.2",))])
  assert [cell.name for cell in cells] == ["recipe", "optimizer.lr=1e-3", "optimizer.lr=2e-3", "model.dropout=0.2"]
  assert [cell.config.optimizer.lr for cell in cells] == [0.0015, 0.001, 0.002, 0.0015]
  assert [cell.config.model.dropout for cell in cells] == [0.0, 0.0, 0.0, 0.2]


def test_a_grid_has_all_combinations():
  cells = made([("optimizer.lr", ("1e-3", "2e-3")), ("model.dropout", ("0.1", "0.2"))], grid=True)
  assert [(cell.config.optimizer.lr, cell.config.model.dropout) for cell in cells] == [
    (0.001, 0.1), (0.001, 0.2), (0.002, 0.1), (0.002, 0.2),
  ]  # fmt: skip
  assert cells[1].name == "optimizer.lr=1e-3, model.dropout=0.2"


def test_a_setting_of_the_variant_takes_the_place_of_the_one_that_is_there():
  cells = made([("length", ("128", "512"))], source="configs/bert.py:base,length=512")
  assert [cell.config.recipe for cell in cells] == [
    "configs/bert.py:base,length=512", "configs/bert.py:base,length=128", "configs/bert.py:base,length=512",
  ]  # fmt: skip
  assert cells[0].digest == cells[2].digest != cells[1].digest


def test_overrides_stand_in_every_line():
  for cell in rates("1e-3", overrides={"batch_size": "32"}):
    assert cell.config.batch_size == 32


@pytest.mark.parametrize(
  "texts, part",
  [
    ([], "flag --vary is missing"),
    (["mixture"], "got 'mixture', want NAME=VALUE,VALUE"),
    (["=1,2"], "got '=1,2', want NAME=VALUE,VALUE"),
    (["lr=1,,2"], "got 'lr=1,,2'"),
    (["lr=1,1"], "got 'lr=1,1'"),
    (["lr=1", "lr=2"], "got 'lr=2'"),
    (["seed=1,2"], "want --seeds=0,1,2"),
  ],
)
def test_what_varies_must_be_said(texts, part):
  with pytest.raises(ConfigError) as caught:
    read_variations(texts)
  assert part in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_paper_searched_is_run_in_all_combinations():
  source = "configs/finetune.py:rte,model=roberta"
  found, grid = variations_of(source, ["published"], False)
  assert grid and found == [("optimizer.lr", ("1e-05", "2e-05", "3e-05")), ("batch_size", ("16", "32"))]
  assert variations_of(BASE, ["optimizer.lr=1"], False) == ([("optimizer.lr", ("1",))], False)


@pytest.mark.parametrize(
  "source, texts, part",
  [
    (BASE, ["published"], "has no get_grid"),
    ("configs/finetune.py:rte,model=electra", ["published"], "no search is published"),
    ("configs/finetune.py:rte", ["published", "seed=1"], "got published beside others"),
    ("configs/finetune.py:ret", ["published"], "unknown size 'ret'"),
  ],
)
def test_a_search_that_nobody_published_is_refused(source, texts, part):
  with pytest.raises(ConfigError) as caught:
    variations_of(source, texts, False)
  assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "source, name, value, part",
  [
    (BASE, "mixtures", "1", "unknown setting 'mixtures'"),
    (BASE, "optimizer.lrr", "1", "optimizer.lr"),
    (BASE, "optimizer.lr", "fast", "optimizer.lr: got 'fast', want a number"),
    (BASE, "optimizer.lr", "-1", "optimizer.lr: got -1.0, want a finite number above 0"),
    ("configs/bert.py", "length", "64", "has no key length"),
  ],
)
def test_a_line_that_cannot_be_is_refused_before_anything_runs(source, name, value, part):
  with pytest.raises(ConfigError) as caught:
    made([(name, (value,))], source=source)
  assert part in str(caught.value) and "\n" not in str(caught.value)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_every_line_has_each_seed_once_and_equal_lines_share_their_runs(tmp_path):
  """The recipe's own rate is 1.5e-3, so its line is that of the value."""
  cells, runs = rates("1.5e-3", "1e-3"), Runs()
  table, stopped = run_table(cells, (0, 1, 2), tmp_path, runs)
  assert not stopped and runs.seen == [(rate, seed) for rate in (0.0015, 0.001) for seed in (0, 1, 2)]
  lines = {line["name"]: line for line in table["lines"]}
  assert lines["recipe"]["figures"] == lines["optimizer.lr=1.5e-3"]["figures"]
  assert lines["recipe"]["runs"] == lines["optimizer.lr=1.5e-3"]["runs"]
  found = lines["optimizer.lr=1e-3"]
  values = [0.1, 0.2, 0.3]
  assert (found["n"], found["seeds"], found["changes"]) == (3, [0, 1, 2], {"optimizer.lr": "1e-3"})
  assert found["figures"]["best/f1"]["mean"] == pytest.approx(statistics.fmean(values))
  assert found["figures"]["best/f1"]["std"] == pytest.approx(statistics.stdev(values))
  assert set(found["figures"]) == {"eval/f1", "best/f1", "test/f1"}
  assert json.loads((tmp_path / "table.json").read_text()) == table


def test_a_stopped_table_goes_on_with_what_is_missing(tmp_path):
  first, second = Runs(stop_after=3), Runs()
  table, stopped = run_table(rates("1e-3"), (0, 1), tmp_path, first)
  assert stopped and [line["n"] for line in table["lines"]] == [2, 1]
  assert json.loads((tmp_path / "table.json").read_text()) == table
  table, stopped = run_table(rates("1e-3"), (0, 1), tmp_path, second)
  assert not stopped and second.seen == [(0.001, 1)]
  assert [line["n"] for line in table["lines"]] == [2, 2]


def test_more_values_and_more_seeds_run_only_what_is_new(tmp_path):
  run_table(rates("1e-3"), (0, 1), tmp_path, Runs())
  more = Runs()
  run_table(rates("1e-3", "2e-3"), (0, 1, 2), tmp_path, more)
  assert more.seen == [(0.0015, 2), (0.001, 2), (0.002, 0), (0.002, 1), (0.002, 2)]


def test_the_seed_of_the_config_is_not_changed(tmp_path):
  cells = rates("1e-3")
  before = [cell.config.seed for cell in cells]
  run_table(cells, (5,), tmp_path, Runs())
  assert [cell.config.seed for cell in cells] == before


def test_the_table_of_another_config_is_refused(tmp_path):
  base = load(BASE)
  check_table(tmp_path / "table", base)
  check_table(tmp_path / "table", load(BASE, {"seed": "3"}))
  with pytest.raises(ConfigError, match="holds the table of another config: batch_size: 16 -> 8; use a new one"):
    check_table(tmp_path / "table", load(BASE, {"batch_size": "8"}))
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match="holds other things than a table"):
    check_table(tmp_path / "run", base)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_markdown_has_mean_and_spread_of_the_figure_that_selects(tmp_path):
  table, _ = run_table(rates("1e-3"), (0, 1), tmp_path, Runs())
  assert as_markdown(table["lines"], "f1").splitlines() == [
    "| setting | dev f1 | test f1 | n |",
    "| --- | --- | --- | --- |",
    "| **recipe** | 0.2000 ± 0.0707 | 0.1000 ± 0.0354 | 2 |",
    "| optimizer.lr=1e-3 | 0.1500 ± 0.0707 | 0.0750 ± 0.0354 | 2 |",
  ]
  assert best_line(table["lines"], "f1") == "recipe" and table["best"] is None  # configs/bert.py selects by nothing


def line(name, n, **figures):
  return {"name": name, "n": n, "figures": {f"best/{figure}": {"mean": value} for figure, value in figures.items()}}


def test_the_best_line_has_the_best_mean_of_as_many_runs_as_any():
  lines = [line("a", 2, f1=0.5, loss=2.0), line("b", 2, f1=0.6, loss=3.0), line("c", 2, f1=0.6), line("d", 1, f1=0.9)]
  assert best_line(lines, "f1") == "b" and best_line(lines, "loss") == "a"
  assert best_line(lines, "") is None and best_line([line("a", 0)], "f1") is None


def test_a_line_without_runs_is_empty_and_one_run_has_no_spread(tmp_path):
  table, _ = run_table(rates("1e-3"), (0,), tmp_path, Runs(stop_after=1))
  assert as_markdown(table["lines"], "f1").splitlines()[2:] == [
    "| **recipe** | 0.1500 | 0.0750 | 1 |",
    "| optimizer.lr=1e-3 |  |  | 0 |",
  ]


def test_all_held_out_figures_are_shown_where_none_selects(tmp_path):
  table, _ = run_table(rates("1e-3"), (0,), tmp_path, Runs())
  assert as_markdown(table["lines"], "").splitlines()[0] == "| setting | eval f1 | dev f1 | test f1 | n |"


def test_the_command_ends_with_one_line(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr("sys.argv", ["ablations", f"--config={BASE}", f"--workdir={tmp_path}", "--vary=mixture=1"])
  assert ablations.main() == 2
  said = capsys.readouterr()
  assert said.err.startswith("error: ") and said.err.count("\n") == 1 and "mixture" in said.err and not said.out


@pytest.mark.slow
def test_the_command_runs_a_table_once(monkeypatch, capsys, tmp_path):
  """Two lines of two seeds, real runs; the second time nothing is run, and one more seed runs it alone."""
  task_folder(tmp_path / "task")
  arguments = [
    "ablations", "--config=configs/elmo_tasks.py:wnut17,place=none", f"--config.task.dir={tmp_path / 'task'}",
    "--config.batch_size=20", "--config.task.epochs=2", "--config.model.hidden=8",
    "--config.optimizer.lr=2e-2", f"--workdir={tmp_path / 'table'}", "--vary=task.epochs=1",
  ]  # fmt: skip
  found = []
  for seeds in ("0,1", "0,1", "0,1,2"):
    monkeypatch.setattr("sys.argv", [*arguments, f"--seeds={seeds}"])
    assert ablations.main() == 0
    found.append(json.loads(capsys.readouterr().out))
    assert [line["n"] for line in found[-1]["lines"]] == [len(seeds.split(","))] * 2
  assert found[0] == found[1] and len(list((tmp_path / "table" / "runs").glob("*/seed-*/metrics.jsonl"))) == 6
  figures = [line["figures"]["best/f1"]["values"] for line in found[2]["lines"]]
  assert [values[:2] for values in figures] == [line["figures"]["best/f1"]["values"] for line in found[0]["lines"]]
  assert (tmp_path / "table" / "table.md").read_text().count("\n") == 4
