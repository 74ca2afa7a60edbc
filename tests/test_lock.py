"""A workdir has one run at a time, and a dead run holds nothing."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from trainer.lock import LOCK, LockError, RunLock

HOLD = """
import sys, time
from trainer.lock import RunLock
with RunLock(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


def launch(workdir):
  process = subprocess.Popen([sys.executable, "-c", HOLD, str(workdir)], stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "held\n"
  return process


def test_second_run_is_refused_at_once_and_a_killed_one_holds_nothing(tmp_path, caplog):
  first = launch(tmp_path)
  try:
    start = time.monotonic()
    with pytest.raises(LockError) as refusal, RunLock(tmp_path):
      pass
    assert time.monotonic() - start < 1.0
    assert f"pid {first.pid} on host {socket.gethostname()}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
  finally:
    first.send_signal(signal.SIGKILL)
    first.wait()
  with caplog.at_level(logging.WARNING), RunLock(tmp_path):
    assert f"took over the lock on {tmp_path} left behind by pid {first.pid}" in caplog.text
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_finished_run_leaves_a_free_lock_and_no_warning(tmp_path, caplog):
  for _ in range(2):
    with RunLock(tmp_path / "new" / "workdir"):
      pass
  assert not caplog.records


def test_two_locks_in_one_process_exclude_each_other(tmp_path):
  with RunLock(tmp_path), pytest.raises(LockError, match=f"pid {os.getpid()}"), RunLock(tmp_path):
    pass


def test_a_forked_worker_that_outlives_its_run_does_not_hold_the_lock(tmp_path):
  parent_script = """
import os, sys, time
from trainer.lock import RunLock
with RunLock(sys.argv[1]):
  if not os.fork():
    print(os.getpid(), flush=True)
  time.sleep(60)
"""
  run = subprocess.Popen([sys.executable, "-c", parent_script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
  worker = int(run.stdout.readline())
  try:
    run.kill()
    run.wait()
    os.kill(worker, 0)  # it lives
    with RunLock(tmp_path):
      pass
  finally:
    os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "{", "[]", "not json at all", '{"pid": 3}'])
def test_a_half_written_name_does_not_matter(tmp_path, text):
  (tmp_path / LOCK).write_text(text)
  with RunLock(tmp_path), pytest.raises(LockError, match="is in use by pid"), RunLock(tmp_path):
    pass


def test_a_workdir_that_cannot_be_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(LockError, match=r"workdir .*file: is a file or lies in one, want a folder"):
    RunLock(tmp_path / "file").__enter__()
