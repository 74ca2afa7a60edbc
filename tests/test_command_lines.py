"""Command lines: flags and configs out of them, and each mistake one line, without waiting for jax."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_config_errors import line_of
from train import check_flags
from trainer.command import Flag, parse_command
from trainer.rules import ConfigError

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
  Flag("workdir", "", "where the run lives", required=True),
  Flag("allow_change", False, "go on with a changed config"),
  Flag("limit", 20, "steps"),
)
GOOD = ["--config=configs/bert.py:tiny", "--workdir=here"]


def test_a_command_line_gives_config_and_flags():
  command = parse_command([*GOOD, "--config.model.layers=3", "--allow_change", "--limit", "5"], FLAGS)
  assert command.config.model.layers == 3
  assert vars(command.flags) == {"workdir": "here", "allow_change": True, "limit": 5}
  assert parse_command(GOOD, FLAGS).flags.allow_change is False
  assert command.source == "configs/bert.py:tiny"


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["--workdir=here"], ("--config", "configs/bert.py:tiny")),
    (GOOD[:1], ("--workdir", "missing", "where the run lives")),
    ([*GOOD, "--workdri=there"], ("--workdri", "--workdir")),
    ([*GOOD, "--batch_size=8"], ("--batch_size", "--config.batch_size")),
    ([*GOOD, "--conifg.steps=8"], ("--conifg.steps", "--config")),
    ([*GOOD, "--workdir=there"], ("--workdir", "twice")),
    ([*GOOD, "--config=configs/bert.py:base"], ("--config", "twice")),
    ([*GOOD, "--config.steps=4", "--config.steps=5"], ("--config.steps", "twice")),
    ([*GOOD, "--limit=many"], ("--limit", "int")),
    ([*GOOD, "--allow_change=maybe"], ("--allow_change", "true or false")),
    ([*GOOD, "--config.steps"], ("--config.steps", "no value")),
    ([*GOOD, "steps=5"], ("steps=5", "--flag=value")),
    ([*GOOD, "--"], ("'--'", "--flag=value")),
    ([*GOOD, "--config.=5"], ("config key", "did you mean")),
  ],
)
def test_a_wrong_command_line_is_one_line(arguments, parts):
  with pytest.raises(ConfigError) as error:
    parse_command(arguments, FLAGS)
  line = line_of(error)
  assert all(part in line for part in parts), line


# Seconds are the machine's affair; that a mistake is told before jax is imported is ours.
PROGRAM = """
import sys
from trainer.command import Flag, parse_or_exit
try:
  command = parse_or_exit((Flag("workdir", "", "where the run lives"),), "Trains.")
finally:
  assert "jax" not in sys.modules and "flax" not in sys.modules
print(command.config.model.layers)
"""


def run(*arguments):
  command = [sys.executable, "-c", PROGRAM, *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_wrong_config_ends_a_program_with_one_line_and_code_2_before_jax_is_imported():
  done = run("--config=configs/bert.py:tiny", "--config.modle.hiden=3")
  assert (done.returncode, done.stdout) == (2, "")
  assert len(done.stderr.splitlines()) == 1
  assert "modle.hiden" in done.stderr
  assert "model.hidden" in done.stderr
  assert "configs/bert.py:tiny" in done.stderr


def test_loading_and_checking_a_config_imports_no_jax():
  done = run("--config=configs/bert.py:tiny", "--config.model.layers=3")
  assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_help_names_the_flags():
  done = run("--help")
  assert done.returncode == 0
  assert "--workdir" in done.stdout
  assert "--config.KEY=VALUE" in done.stdout


def test_runs_of_seeds_and_a_run_of_one_are_kept_apart(tmp_path):
  """Before the config is read, which may take as long as its task's files are large."""
  flags = (FLAGS[0], Flag("seeds", "", "seeds"), Flag("dry_run", False, "nothing is trained"))
  checked = lambda *more: parse_command([GOOD[0], f"--workdir={tmp_path}", *more], flags, check_flags)
  assert checked("--seeds=0,1").flags.seeds == "0,1"
  with pytest.raises(ConfigError, match="--seeds: got 0,1 and --config.seed=3, want one of them"):
    checked("--seeds=0,1", "--config.seed=3")
  with pytest.raises(ConfigError, match="--seeds: got 'abc', want different whole numbers"):
    checked("--seeds=abc")
  (tmp_path / "seed-0").mkdir()
  (tmp_path / "seed-0" / "config.json").write_text("{}")
  with pytest.raises(ConfigError, match="holds the runs of --seeds, want one of its runs: .*seed-0; or another folder"):
    checked()
  assert checked("--dry_run").flags.dry_run
