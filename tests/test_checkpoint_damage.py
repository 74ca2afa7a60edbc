"""A step that is listed as good is the state that was saved, whatever happened to the process or the disk."""

import dataclasses
import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.saved_states import expect, make_state, restored_step, save_all
from trainer import storage
from trainer.checkpoints import Checkpoints
from trainer.faults import fault_point
from trainer.manifest import CheckpointError, state_digest
from trainer.restore import Reader


def all_files(directory):
  return sorted(path for path in Path(directory).rglob("*") if path.is_file())


def test_a_flipped_bit_anywhere_is_harmless_or_refused(tmp_path, caplog):
  save_all(tmp_path, [100, 200])
  rng, refused, files = random.Random(5), 0, all_files(tmp_path / "200")
  sizes = [path.stat().st_size for path in files]
  places = files + rng.choices(files, sizes, k=60 - len(files))
  for path in places:
    whole = path.read_bytes()
    bit = rng.randrange(8 * len(whole))
    path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
    caplog.clear()
    step = restored_step(tmp_path)  # asserts that what comes back is bit-equal to one of the two
    refused += step == 100
    assert step == 200 or "200 is damaged" in caplog.text
    path.write_bytes(whole)
  assert len(places) == 60 and refused >= 55  # white space of the manifest is harmless
  assert restored_step(tmp_path) == 200


def damage_truncate(path, other):
  path.write_bytes(path.read_bytes()[:-1])


def damage_empty(path, other):
  path.write_bytes(b"")


def damage_delete(path, other):
  path.unlink()


def damage_swap(path, other):
  shutil.copy(other, path)


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_delete, damage_swap])
@pytest.mark.parametrize("kind", ["manifest.json", "params/_METADATA", "opt/manifest.ocdbt", "carry/ocdbt.*/d/*"])
def test_damaged_files_fall_back_to_the_older_step(tmp_path, caplog, damage, kind):
  save_all(tmp_path, [100, 200])
  path = sorted((tmp_path / "200").glob(kind))[0]
  others = sorted((tmp_path / "100").glob(kind)) + all_files(tmp_path / "100")
  damage(path, next(other for other in others if other.read_bytes() != path.read_bytes()))
  with caplog.at_level(logging.WARNING):
    assert restored_step(tmp_path) == 100
  assert [r.getMessage().count("\n") for r in caplog.records] == [0]
  assert f"{tmp_path / '200'} is damaged: " in caplog.text
  with pytest.raises(CheckpointError, match="200 is damaged"):
    Reader(tmp_path).restore(expect(make_state()), step=200)


def test_a_step_under_the_number_of_another_is_refused(tmp_path, caplog):
  save_all(tmp_path, [100, 200])
  (tmp_path / "200").rename(tmp_path / "300")
  assert restored_step(tmp_path) == 100
  assert "got step 200, want 300" in caplog.text


def test_a_kill_while_the_only_step_is_replaced_does_not_lose_it(tmp_path):
  save_all(tmp_path, [100])
  (tmp_path / "100").rename(tmp_path / "100.replaced")  # what stands between the two renames of a replacement
  shutil.copytree(tmp_path / "100.replaced", tmp_path / "100.tmp")
  Checkpoints(tmp_path, keep=1).close()
  assert [path.name for path in tmp_path.iterdir()] == ["100"] and restored_step(tmp_path) == 100


def test_a_bit_that_flips_between_the_host_copy_and_the_files_is_refused(tmp_path, monkeypatch):
  save_all(tmp_path, [100])
  whole = storage.write_item

  def flip(directory, host, item):
    if item == "opt":
      host["opt/0/mu/embed/kernel"].view(np.uint16)[3, 3] ^= 1
    return whole(directory, host, item)

  monkeypatch.setattr(storage, "write_item", flip)
  save_all(tmp_path, [200])
  assert Reader(tmp_path).verify(200) == []  # the files are what was written
  assert restored_step(tmp_path) == 100


def test_damaged_steps_are_set_aside_then_saved_anew(tmp_path):
  save_all(tmp_path, [100, 200])
  (tmp_path / "200" / "params" / "_METADATA").unlink()
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert checkpoints.restore(expect(make_state()))[1]["step"] == 100
    assert checkpoints.good_steps() == [100] and (tmp_path / "200.damaged").is_dir()
    checkpoints.save(make_state(150), {}, scheduled=True, wait=True)
    assert checkpoints.good_steps() == [150]  # the damaged step counted for nothing
    checkpoints.save(make_state(200), {}, scheduled=True, wait=True)
    checkpoints.save(make_state(250), {}, scheduled=True, wait=True)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["250"]


def test_only_damaged_steps_is_an_error_and_never_a_fresh_start(tmp_path):
  save_all(tmp_path, [100])
  (tmp_path / "100" / "manifest.json").unlink()
  for _ in range(2):
    with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(CheckpointError, match="manifest.json is missing"):
      checkpoints.restore(expect(make_state()))
  assert (tmp_path / "100").is_dir()


def await_failure(checkpoints, caplog):
  """Calls `check` like a training loop until the log tells of the failed save."""
  caplog.clear()
  deadline = time.monotonic() + 20
  while "failed" not in caplog.text:
    assert time.monotonic() < deadline
    checkpoints.check()
    time.sleep(0.005)


def test_a_full_disk_is_told_at_once_and_costs_no_good_step(tmp_path, monkeypatch, caplog):
  save_all(tmp_path, [100])
  whole, full = storage.write_item, [True]

  def no_space(directory, host, item):
    if full[0] and item == "opt":
      raise OSError(errno.ENOSPC, "No space left on device")
    return whole(directory, host, item)

  monkeypatch.setattr(storage, "write_item", no_space)
  checkpoints = Checkpoints(tmp_path, keep=1, max_failures=3)
  for step, count in ((200, 1), (300, 2)):
    checkpoints.save(make_state(step), {}, scheduled=True)
    await_failure(checkpoints, caplog)
    assert f"{step} failed ({count} in a row, stop at 3): OSError: [Errno 28] No space left" in caplog.text
    assert "good steps: [100]" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["100"]  # the half-written step gave its space back
  full[0] = False
  checkpoints.save(make_state(400), {}, scheduled=True, wait=True)  # the disk is free again: the count starts anew
  full[0] = True
  for step in (500, 600):
    checkpoints.save(make_state(step), {}, scheduled=True)
  checkpoints.save(make_state(700), {}, scheduled=True)
  with pytest.raises(CheckpointError, match="3 in a row, stop at 3"):
    await_failure(checkpoints, caplog)
  with pytest.raises(CheckpointError, match="1 in a row"):  # who waits for a save hears of its failure
    Checkpoints(tmp_path, keep=1).save(make_state(800), {}, scheduled=True, wait=True)
  assert restored_step(tmp_path) == 400


def test_the_array_writer_failing_halfway_costs_no_good_step(tmp_path, caplog):
  save_all(tmp_path, [100])
  checkpoints = Checkpoints(tmp_path, keep=1)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  big = dataclasses.replace(make_state(200), carry=np.random.default_rng(0).standard_normal((256, 256), np.float32))
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
  try:
    with pytest.raises(CheckpointError, match=r"200 failed .*good steps: \[100\]"):
      checkpoints.save(big, {}, scheduled=True, wait=True)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert [path.name for path in tmp_path.iterdir()] == ["100"]
  checkpoints.save(big, {}, scheduled=True, wait=True)
  assert checkpoints.verify(200) == []


# where the scenario below is killed -> (step, cursor) that a restart must find
KILLS = {
  "before_save:3": (200, 200),
  "during_write:7": (200, 200),  # params of 300 are written, its optimiser is not
  "before_manifest:3": (200, 200),
  "after_manifest:3": (200, 200),
  "after_commit:3": (300, 300),
  "during_retention:1": (300, 300),
  "before_rollback": (300, 300),
  "after_rollback": (200, 250),
  "during_replace": (200, 250),  # the void 300 was moved away, the new one was not yet there
  "never": (300, 350),
}


def kill_scenario(directory):
  """100, 200, 300 with keep=2, a rollback to 200 at batch 250, and 300 anew."""
  checkpoints = Checkpoints(directory, keep=2)
  for step in (100, 200, 300):
    checkpoints.save(make_state(step), {}, scheduled=True, wait=True)
  checkpoints.rollback(200, cursor=250)
  checkpoints.save(make_state(300, 350), {}, scheduled=True, wait=True)


def endless_saves(directory):
  checkpoints = Checkpoints(directory, keep=1)
  for step in range(1, 10_000):
    checkpoints.save(make_state(step), {}, scheduled=step % 2 == 0)


def run_killed_children(directory, random_kills):
  """Forks one child per kill, before a device is touched; prints {name: signal that ended it}."""
  ended, rng = {}, random.Random(7)
  for name in [*KILLS, *(f"random:{i}" for i in range(random_kills))]:
    child = os.fork()
    if not child:
      os.environ["SEPTET_KILL_AT"] = name
      (endless_saves if name.startswith("random") else kill_scenario)(Path(directory, name))
      os._exit(0)
    if name.startswith("random"):
      while not Path(directory, name, "2").exists():
        time.sleep(0.005)
      time.sleep(rng.uniform(0, 0.2))
      os.kill(child, signal.SIGKILL)
    ended[name] = os.WTERMSIG(os.waitpid(child, 0)[1])
  print(json.dumps(ended))


def test_a_kill_anywhere_leaves_a_good_step_and_the_next_run_goes_on(tmp_path):
  code = f"from tests.test_checkpoint_damage import run_killed_children as run; run({str(tmp_path)!r}, 6)"
  done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
  ended = json.loads(done.stdout)
  assert len(ended) == len(KILLS) + 6
  for name, signal_number in ended.items():
    assert signal_number == (0 if name == "never" else signal.SIGKILL), name
    with Checkpoints(tmp_path / name, keep=2) as checkpoints:
      state, meta = checkpoints.restore(expect(make_state()))
      assert state_digest(state) == state_digest(make_state(meta["step"], meta["cursor"])), name
      if name in KILLS:
        assert (meta["step"], meta["cursor"]) == KILLS[name], name
      checkpoints.save(make_state(20_000, 20_000), {}, scheduled=True, wait=True)
      assert checkpoints.good_steps()[-1] == 20_000 and len(checkpoints.good_steps()) <= 3
    left = {path.name for path in (tmp_path / name).iterdir()} - {"rollbacks.json"}
    assert left == {str(step) for step in Reader(tmp_path / name).good_steps()}, name


def test_fault_points_do_nothing_unless_named(monkeypatch):
  monkeypatch.setenv("SEPTET_KILL_AT", "elsewhere:2")
  fault_point("here")
  fault_point("elsewhere")
