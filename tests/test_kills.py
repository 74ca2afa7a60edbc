"""Real processes, killed and multiplied: the same bits after any SIGKILLs, the same losses on two processes."""

import json
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.test_train_command import ROOT, SMALL, command, corpus, environment, summary  # noqa: F401  fixtures

pytestmark = pytest.mark.slow

LONG = (*(a for a in SMALL[1:] if "save_every" not in a), "--config.steps=3000", "--config.save_every=50")


def test_sigkills_at_random_instants_lose_nothing(tmp_path, corpus):  # noqa: F811
  """Kills between 2 and 7 seconds after each start, the first of which hit the preparation, until one gets through."""
  source = f"--config.data.source={corpus}"
  want = summary(command(tmp_path / "whole", source, *LONG))
  rng, kills = random.Random(0), 0
  line = [
    sys.executable,
    "train.py",
    "--config=configs/bert.py:tiny",
    f"--workdir={tmp_path / 'killed'}",
    source,
    *LONG,
  ]
  for _ in range(12):
    running = subprocess.Popen(
      line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(rng.uniform(2, 7))
    running.kill()
    out, err = running.communicate()
    if running.returncode == 0:
      break
    assert running.returncode == -signal.SIGKILL, err[-2000:]
    kills += 1
  got = summary(command(tmp_path / "killed", source, *LONG))
  assert kills >= 2 and got["state_sha256"] == want["state_sha256"] and got["step"] == 3000


def test_two_processes_train_as_one(tmp_path, corpus):  # noqa: F811
  """Two processes of one device give the figures of one process with two, and what they save, one resumes."""
  arguments = (f"--config.data.source={corpus}", *SMALL[:-1], "--config.mesh.data=2")
  two = {"XLA_FLAGS": f"{environment()['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
  want = summary(command(tmp_path / "one", *arguments, **two))
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  shared = (*arguments, f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
  line = [sys.executable, "train.py", "--config=configs/bert.py:tiny", f"--workdir={tmp_path / 'two'}", *shared]
  pair = [
    subprocess.Popen(
      [*line, f"--process_id={i}"],
      cwd=ROOT,
      env=environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=300) for process in pair]
  assert [process.returncode for process in pair] == [0, 0], [err[-1500:] for _, err in outputs]
  got = json.loads(outputs[0][0].splitlines()[-1])
  for name in ("train/mlm_loss", "eval/mlm_loss", "eval/nsp_loss"):
    assert abs(got["metrics"][name] - want["metrics"][name]) < 1e-5, name
  assert got["step"] == want["step"] and "{" not in outputs[1][0]
  resumed = command(tmp_path / "two", *arguments, **two)
  assert summary(resumed)["state_sha256"] == got["state_sha256"] and "resumed" in resumed.stderr
