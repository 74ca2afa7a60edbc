"""Exact after any kill: an interrupted run ends with the state of one that was left alone, bit for bit.

Kills here end the loop at a named point inside the process; tests/test_kills.py kills real processes.
"""

import collections
import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from models.paths import named_leaves
from models.sharding import make_mesh
from tests.tenants import ROWS, TENANTS
from train import train
from trainer import faults
from trainer.checkpoints import Checkpoints
from trainer.config import load, stages
from trainer.logs import MetricLog
from trainer.loop import TrainingError
from trainer.programs import Setup
from trainer.start import adopt

BASE = {
  "steps": 6, "batch_size": ROWS, "save_every": 2, "eval_every": 3, "log_every": 1, "max_skips": 2, "max_rollbacks": 1,
  "optimizer.warmup_steps": 2, "optimizer.lr": 1e-2, "keep_checkpoints": 2,
}  # fmt: skip
LONGER = functools.partial(pytest.param, marks=pytest.mark.slow)


class Killed(BaseException):
  """Stands for SIGKILL: nothing of ours catches it."""


class ArrayFeed:
  """A tenant's random batches; `poisoned` cursors are not finite, `hooks` run before a cursor is read."""

  fingerprint = "arrays"

  def __init__(self, tenant, poisoned=(), hooks=None):
    self.make, self.poisoned, self.hooks = TENANTS[tenant][1], poisoned, hooks or {}

  def example(self, stage):
    return self.make(0)

  def batches(self, stage, cursor):
    while True:
      if cursor in self.hooks:
        self.hooks.pop(cursor)()
      batch = self.make(cursor)
      if cursor in self.poisoned:
        batch = dataclasses.replace(batch, weights=batch.weights * np.float32(np.nan))
      yield cursor, batch
      cursor += 1

  def held_out(self, stage):
    return (self.make(1000 + number) for number in range(2))

  def score(self, outputs):
    return {}

  def baseline(self, batch):
    return {}

  def save_tokenizer(self, workdir):
    pass


def launch(workdir, tenant, poisoned=(), hooks=None, **overrides):
  """One launch of the training command's function on two devices."""
  config = load("configs/bert.py:tiny", BASE | overrides)
  objective, _ = TENANTS[tenant]
  setup = Setup(
    config, objective, objectives.build_optimizer(config), make_mesh(2, 1, jax.devices()[:2]), stages(config)
  )
  return train(config, workdir, setup=setup, feed=ArrayFeed(tenant, poisoned, hooks))


@pytest.fixture
def kill_at(monkeypatch):
  """kill_at(point, n): the n-th passage of a named point ends the launch, once."""

  def arm(point, n=1):
    faults._passed.clear()
    monkeypatch.setenv("SEPTET_KILL_AT", f"{point}:{n}")
    monkeypatch.setattr(faults, "os", collections.namedtuple("Os", "environ kill getpid")(os.environ, die, os.getpid))

  def die(pid, number):
    monkeypatch.delenv("SEPTET_KILL_AT")
    raise Killed

  return arm


def killed_then_resumed(workdir, tenant, kill_at, point, n, **options):
  kill_at(point, n)
  with pytest.raises(Killed):
    launch(workdir, tenant, **options)
  return launch(workdir, tenant, **options)[0]


def lines(workdir, prefix="eval/"):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [row for row in rows if any(name.startswith(prefix) for name in row)]


@pytest.mark.parametrize("tenant", [LONGER(name) if name == "entities" else name for name in TENANTS])
def test_kill_and_resume_give_the_same_state_hash(tenant, tmp_path, kill_at):
  want, _ = launch(tmp_path / "whole", tenant)
  got = killed_then_resumed(tmp_path / "killed", tenant, kill_at, "step", 5)
  assert got["state_sha256"] == want["state_sha256"]
  assert got["step"] == want["step"] == 6
  assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


@pytest.mark.parametrize(
  "point,n",
  [
    ("before_save", 2),
    ("step", 3),
    LONGER("before_save", 1),
    LONGER("before_save", 3),
    LONGER("step", 1),
    LONGER("step", 2),
  ],
)
def test_kills_at_any_point_resume_exactly(point, n, tmp_path, kill_at, once):
  want = once("whole", lambda workdir: launch(workdir, "recurrent")[0])
  got = killed_then_resumed(tmp_path, "recurrent", kill_at, point, n)
  assert got["state_sha256"] == want["state_sha256"]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
  """A run whose result several tests compare with."""
  results = {}

  def get(name, run):
    if name not in results:
      results[name] = run(tmp_path_factory.mktemp("once"))
    return results[name]

  return get


def test_a_non_finite_batch_is_skipped_and_survives_a_kill(tmp_path, kill_at):
  want, _ = launch(tmp_path / "whole", "recurrent", poisoned=(3,))
  got = killed_then_resumed(tmp_path / "killed", "recurrent", kill_at, "step", 6, poisoned=(3,))
  assert got["state_sha256"] == want["state_sha256"]
  assert want["metrics"]["train/skipped"] == 1 and want["step"] == 6


ROLLBACK = {"poisoned": (3, 4)}  # two in a row after step 3: back to step 2, on at batch 5


@pytest.mark.parametrize(
  "point,n",
  [
    LONGER("rollback_begins", 1),
    ("before_rollback", 1),
    ("after_rollback", 1),
    LONGER("rolled_back", 1),
    LONGER("step", 7),
  ],
)
def test_a_kill_during_and_after_the_rollback_gives_the_same_hash(point, n, tmp_path, kill_at, once):
  want = once("rollback", lambda workdir: launch(workdir, "masked", **ROLLBACK)[0])
  got = killed_then_resumed(tmp_path, "masked", kill_at, point, n, **ROLLBACK)
  assert got["state_sha256"] == want["state_sha256"]


def test_a_rollback_goes_on_past_the_bad_range(tmp_path):
  """Batches 0, 1, 2 make steps 1 to 3, 3 and 4 are bad, so steps 3 to 6 are made of batches 5 to 8 on top of step 2."""
  summary, _ = launch(tmp_path / "rolled", "masked", **ROLLBACK)
  clean, _ = launch(tmp_path / "clean", "masked")
  with Checkpoints(tmp_path / "rolled" / "checkpoints", 2) as checkpoints:
    meta = checkpoints.read_meta()
  assert (meta["step"], meta["cursor"]) == (6, 9)
  assert summary["state_sha256"] != clean["state_sha256"]


def test_rollbacks_end_when_they_are_used_up(tmp_path):
  with pytest.raises(TrainingError, match="2 updates in a row .* batch 6, and max_rollbacks=1 are used up"):
    launch(tmp_path, "masked", poisoned=range(3, 100))


STAGES = (
  {"steps": 3, "length": 24, "max_predictions": 6, "batch_size": ROWS, "freeze": ("^discriminator/", "^detect/")},
  {"steps": 3, "length": 24, "max_predictions": 6, "batch_size": ROWS, "freeze": ("^generator/",),
   "reset_optimizer": True, "copy": {"generator": "discriminator"}},
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("point,n", [("step", 3), ("stage", 1), ("step", 5)])
def test_a_stage_change_killed_across_the_boundary_gives_the_same_hash(point, n, tmp_path, kill_at, once):
  options = {"stages": STAGES, "save_every": 4}
  want = once("stages", lambda workdir: launch(workdir, "replaced", **options)[0])
  got = killed_then_resumed(tmp_path, "replaced", kill_at, point, n, **options)
  assert got["state_sha256"] == want["state_sha256"]


def test_stages_freeze_copy_and_reset(tmp_path):
  """Frozen subtrees have no moments and do not move; the copy is of the trained one; the optimiser starts over."""
  config = load("configs/bert.py:tiny", BASE | {"stages": STAGES, "save_every": 3})
  launch(tmp_path, "replaced", stages=STAGES, save_every=3, keep_checkpoints=9)
  objective, make = TENANTS["replaced"]
  from trainer.programs import Program

  setup = Setup(
    config, objective, objectives.build_optimizer(config), make_mesh(1, 1, jax.devices()[:1]), stages(config)
  )
  programs = [Program(setup, stage, make(0)) for stage in setup.stages]
  with Checkpoints(tmp_path / "checkpoints", 3) as checkpoints:
    start, _ = checkpoints.restore(lambda step: programs[0].abstract_state, step=0)
    middle, _ = checkpoints.restore(lambda step: programs[1].abstract_state, step=3)
    end, _ = checkpoints.restore(lambda step: programs[1].abstract_state, step=6)
  same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  assert not any("discriminator/" in path for path in named_leaves(start.opt))
  assert not any("generator/" in path for path in named_leaves(middle.opt))
  assert same(middle.params["generator"], middle.params["discriminator"])
  assert not same(start.params["generator"], middle.params["generator"])
  assert same(middle.params["generator"], end.params["generator"])
  assert not same(middle.params["discriminator"], end.params["discriminator"])
  assert same(start.params["detect"], middle.params["detect"])
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(middle.opt))


def test_sigterm_saves_the_current_step_and_the_same_command_goes_on(tmp_path):
  want, _ = launch(tmp_path / "whole", "recurrent")
  summary, stopped = launch(tmp_path / "stopped", "recurrent", hooks={3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
  assert stopped and summary["step"] < 6
  with Checkpoints(tmp_path / "stopped" / "checkpoints", 2) as checkpoints:
    assert checkpoints.good_steps()[-1] == summary["step"]
  got, stopped = launch(tmp_path / "stopped", "recurrent")
  assert not stopped and got["state_sha256"] == want["state_sha256"]


def test_another_config_on_resume_is_listed_and_refused_unless_allowed(tmp_path):
  launch(tmp_path, "recurrent", steps=2)
  with pytest.raises(ValueError, match=r"optimizer.lr: 0.01 -> 0.02.*--allow_change"):
    launch(tmp_path, "recurrent", steps=2, **{"optimizer.lr": 0.02})


def test_data_of_another_fingerprint_is_refused(tmp_path, monkeypatch):
  launch(tmp_path, "recurrent", steps=2)
  monkeypatch.setattr(ArrayFeed, "fingerprint", "other arrays")
  with pytest.raises(ValueError, match="trained on data arrays, got other arrays"):
    launch(tmp_path, "recurrent", steps=2)


FRESH = {"embeddings": {"word": jnp.zeros((4, 2))}, "heads": {"mlm": jnp.ones((2,))}}


def test_parameters_of_another_run_are_adopted_by_name():
  """Renamed by prefix, left out, or from the seed where they are not there, as init_map says."""
  init_map = (("encoder/", "embeddings/"), ("pooler/", ""), ("", "heads/"))
  found = {"encoder/word": jnp.full((4, 2), 7.0), "pooler/kernel": jnp.zeros((3,))}
  adopted = adopt(found, FRESH, init_map)
  np.testing.assert_array_equal(adopted["embeddings"]["word"], 7.0)
  np.testing.assert_array_equal(adopted["heads"]["mlm"], 1.0)
  np.testing.assert_array_equal(adopt(found | {"heads/mlm": jnp.zeros(2)}, FRESH, init_map)["heads"]["mlm"], 0.0)


@pytest.mark.parametrize(
  "found, line",
  [
    ({"embeddings/word": jnp.zeros((4, 2))}, "missing heads/mlm"),
    ({"embeddings/word": jnp.zeros((4, 2)), "heads/mlm": jnp.ones(2), "more": jnp.ones(2)}, "extra more"),
    ({"embeddings/word": jnp.zeros((5, 2)), "heads/mlm": jnp.ones(2)}, r"word: got \(5, 2\) float32, want \(4, 2\)"),
    (
      {"embeddings/word": jnp.zeros((4, 2), jnp.bfloat16), "heads/mlm": jnp.ones(2)},
      "got .* bfloat16, want .* float32",
    ),
  ],
)
def test_parameters_that_do_not_fit_are_listed(found, line):
  with pytest.raises(ValueError, match=line):
    adopt(found, FRESH, ())


# --- the best checkpoint ----------------------------------------------------------------------------------------------


def test_the_best_of_a_loss_is_its_lowest_and_of_a_score_its_highest(tmp_path):
  lines = [{"step": s, "eval/loss": v, "eval/f1": v} for s, v in ((10, 0.5), (20, 0.9), (30, 0.1), (40, 0.9))]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  assert MetricLog.best(tmp_path, "loss") == (30, 0.1)
  assert MetricLog.best(tmp_path, "f1") == (20, 0.9)
  assert MetricLog.best(tmp_path, "accuracy") is None
