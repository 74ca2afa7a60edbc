"""The train command as users see it: a line for every mistake, a JSON line at the end, the same run after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = ("the cat sat on the mat .", "a dog ran to the old house .", "she read a long book about the sea .")
SMALL = (
  "--config.steps=8", "--config.batch_size=8", "--config.data.length=32", "--config.data.max_predictions=5",
  "--config.data.passes=2", "--config.data.holdout=0.2", "--config.model.vocab_size=96", "--config.model.hidden=16",
  "--config.model.heads=2", "--config.model.ffn=32", "--config.optimizer.warmup_steps=2", "--config.eval_every=4",
  "--config.save_every=4", "--config.log_every=2", "--config.data.workers=0", "--config.mesh.data=1",
)  # fmt: skip


def environment(**extra):
  flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
  return {**os.environ, "XLA_FLAGS": flags, **extra}


def command(workdir, *arguments, recipe="configs/bert.py:tiny", **extra):
  line = [sys.executable, "train.py", f"--config={recipe}", f"--workdir={workdir}", *arguments]
  return subprocess.run(line, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """24 documents of six lines, different enough that masks and pairs matter."""
  path = tmp_path_factory.mktemp("text") / "corpus.txt"
  documents = ["\n".join(f"{SENTENCES[(d + i) % 3][:-2]} {d} {i} ." for i in range(6)) for d in range(24)]
  path.write_text("\n\n".join(documents))
  return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
  """A run that nothing interrupted."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, command(workdir, f"--config.data.source={corpus}", *SMALL)


def summary(done):
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_a_run_prepares_its_corpus_trains_and_reports(whole):
  workdir, done = whole
  result = summary(done)
  assert result["step"] == 8 and result["workdir"] == str(workdir) and len(result["state_sha256"]) == 64
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [2, 4, 4, 6, 8, 8]
  train, evaluation = (next(line for line in lines if f"{kind}/mlm_loss" in line) for kind in ("train", "eval"))
  assert {"train/loss", "train/nsp_loss", "train/grad_norm", "train/lr", "train/valid_tokens_per_s"} <= train.keys()
  assert {"eval/mlm_accuracy", "eval/mlm_perplexity", "eval/nsp_accuracy", "eval/unigram_loss"} <= evaluation.keys()
  assert (workdir / "tokenizer" / "vocab.txt").exists() and json.loads((workdir / "config.json").read_text())[
    "steps"
  ] == 8
  assert list((workdir / "tensorboard").iterdir())
  assert "start: scratch, seed 0" in done.stderr


def test_sigkill_and_the_same_command_give_the_same_hash(whole, tmp_path, corpus):
  arguments = (f"--config.data.source={corpus}", f"--config.data.dir={whole[0] / 'data'}", *SMALL)
  killed = command(tmp_path, *arguments, SEPTET_KILL_AT="step:6")
  assert killed.returncode == -signal.SIGKILL
  done = command(tmp_path, *arguments)
  assert "resumed" in done.stderr and "took over the lock" in done.stderr
  assert summary(done)["state_sha256"] == summary(whole[1])["state_sha256"]


def test_start_order_of_a_new_workdir(whole, tmp_path, corpus):
  """A named run is resumed with all that it had; init_from takes its parameters alone and starts at step 0."""
  arguments = (f"--config.data.source={corpus}", f"--config.data.dir={whole[0] / 'data'}", *SMALL)
  resumed = command(tmp_path / "resumed", *arguments, f"--config.resume_from={whole[0]}")
  assert f"start: resumed run {whole[0]} at step 8, batch 8" in resumed.stderr
  assert summary(resumed)["state_sha256"] == summary(whole[1])["state_sha256"]
  begun = command(tmp_path / "begun", *arguments, f"--config.init_from={whole[0]}", "--config.optimizer.lr=1e-9")
  assert f"start: parameters from {whole[0]}" in begun.stderr
  for name in ("eval/mlm_loss", "eval/nsp_loss"):
    assert abs(summary(begun)["metrics"][name] - summary(whole[1])["metrics"][name]) < 1e-4


@pytest.mark.slow
def test_profiled_steps_leave_a_trace(whole, tmp_path, corpus):
  arguments = (f"--config.data.source={corpus}", f"--config.data.dir={whole[0] / 'data'}", *SMALL)
  done = command(tmp_path, *arguments, "--profile_steps=2:4")
  assert summary(done)["state_sha256"] == summary(whole[1])["state_sha256"]
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_second_launch_is_refused_and_sigterm_saves(whole, tmp_path, corpus):
  arguments = (
    f"--config.data.source={corpus}",
    f"--config.data.dir={whole[0] / 'data'}",
    *SMALL[1:],
    "--config.steps=100000",
  )
  line = [sys.executable, "train.py", "--config=configs/bert.py:tiny", f"--workdir={tmp_path}", *arguments]
  running = subprocess.Popen(
    line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
  )
  try:
    deadline = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
      assert running.poll() is None and time.monotonic() < deadline
      time.sleep(0.2)
    second = command(tmp_path, *arguments)
    assert second.returncode == 2
    assert f"is in use by pid {running.pid} on host " in second.stderr and "Traceback" not in second.stderr
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=60)
  finally:
    running.kill()
  assert running.returncode == 75
  assert json.loads(out.splitlines()[-1])["step"] == max(int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*"))


@pytest.mark.parametrize(
  "arguments, line",
  [
    (("--config.data.source=/nowhere.txt",), "/nowhere.txt"),
    (("--config.modle.hidden=3",), "did you mean model.hidden?"),
    (("--config.optimizer.lr=nan",), "optimizer.lr"),
    (("--config.mesh.data=2",), "mesh: got data=2 x model=1, want a product of 1"),
    (("--config.data.tokenizer=/nowhere",), "/nowhere"),
    (("--profile_steps=5",), "--profile_steps"),
  ],
)
def test_mistakes_end_in_one_line(arguments, line, tmp_path, corpus):
  source = () if "source" in arguments[0] else (f"--config.data.source={corpus}",)
  mesh = SMALL[:-1] if "mesh" in arguments[0] else SMALL
  done = command(tmp_path, *source, *mesh, *arguments)
  assert done.returncode == 2 and line in done.stderr
  assert "Traceback" not in done.stderr and done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_dry_run_prints_tables_and_leaves_no_workdir(tmp_path):
  done = command(tmp_path / "none", *SMALL, "--dry_run")
  result = summary(done)
  assert result["parameters"] > 0 and result["stages"][0]["length"] == 32 and result["stages"][0]["state_bytes"] > 0
  assert "layers/attention/query/kernel" in done.stderr and "tokens/ids" in done.stderr
  assert not (tmp_path / "none").exists()
