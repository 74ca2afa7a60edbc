"""Fine-tuning against transformers' Trainer: the same weights, examples, batches of examples, rates and updates.

    python -m tests.peers.finetuning --torch_python=PYTHON --task=sst2 --model=FOLDER --dir=FOLDER --workdir=DIR \
        [--part=scores|speed] [--seeds=0,1,2] [--set=task.limit=20000 ...]

PYTHON has the extra [parity] (and runs this project). FOLDER holds published weights of a BERT, --dir the task's files.

  scores  `train.py` with the seeds in DIR, then the Trainer with the same ones: mean and standard deviation of the
          official figures on the dev file, and how many standard errors of the difference lie between the means
  speed   training examples a second, both sides padding as each does: ours packs several examples into a row, the
          Trainer pads a batch to its longest example. Two processes at work strictly in turn on all cores; the figure
          is the median of the ratios within a round. Compilation of ours falls into the rounds before the first.

The last line is JSON, which also goes into docs/results/finetune_vs_trainer.json (--output) under --name (by default
the task's) and part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.peers.worker import ROOT, Worker, in_turn

# As the Trainer has it. Few updates from a new head remember how large it was drawn: BERT's own code cuts its normal
# distribution at two sigma, which makes it an eighth smaller than transformers'.
AS_TRAINER = (
  "dtype=float32", "optimizer.bias_correction=True", "optimizer.clip=1.0", "optimizer.schedule=linear",
  "model.init=normal",
)  # fmt: skip
WANTED, WITHIN = 1.5, 2.0  # times the Trainer's speed; standard errors between means


def trained(flags: argparse.Namespace, *more: str) -> dict[str, Any]:
  """The summary of a run of ours."""
  keys = [f"task.dir={flags.dir}", f"init_from={flags.model}", *AS_TRAINER, *flags.set]
  command = [sys.executable, "train.py", f"--config=configs/finetune.py:{flags.task},model=bert", *more]
  return _last_line(command + [f"--config.{key}" for key in keys])


def _last_line(command: list[str]) -> dict[str, Any]:
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
  if done.returncode:
    raise SystemExit(f"error: {' '.join(command[:3])} ended with {done.returncode}; its message stands above")
  return json.loads(done.stdout.splitlines()[-1])


def scores(flags: argparse.Namespace) -> dict[str, Any]:
  """Figures of both sides, and the distance of their means."""
  mine = trained(flags, f"--workdir={flags.workdir}", f"--seeds={flags.seeds}")["metrics"]
  config = Path(flags.workdir) / f"seed-{flags.seeds.split(',')[0]}" / "config.json"
  peer = [flags.torch_python, "-m", "tests.peers.trainer_pytorch", f"--config={config}", f"--seeds={flags.seeds}"]
  theirs = _last_line(peer)
  names = [name for name in theirs["metrics"] if name in mine]
  rounded = lambda found: {name: {k: _round(v) for k, v in found[name].items()} for name in names}
  return {
    "seeds": flags.seeds,
    "ours": rounded(mine),
    "trainer": rounded(theirs["metrics"]),
    "standard_errors_apart": {name: _round(distance(mine[name], theirs["metrics"][name])) for name in names},
    "versions": theirs["versions"],
  }


def distance(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
  """Of two means, in standard errors of their difference; 0 where both are the same without any spread."""
  error = math.sqrt(sum(side["std"] ** 2 / len(side["values"]) for side in (mine, theirs)))
  apart = abs(mine["mean"] - theirs["mean"])
  return apart / error if error else math.inf if apart else 0.0


def _round(value: Any) -> Any:
  return [_round(v) for v in value] if isinstance(value, list) else float(f"{value:.4g}")


def speed(flags: argparse.Namespace) -> dict[str, Any]:
  """Examples a second of both sides, by rounds of --steps updates."""
  trained(flags, f"--workdir={flags.workdir}", "--config.steps=1")  # writes config.json
  config = Path(flags.workdir) / "config.json"
  own = [sys.executable, "-m", "tests.peers.finetuning", f"--role={config}", f"--steps={flags.steps}"]
  peer = [flags.torch_python, "-m", "tests.peers.trainer_pytorch", f"--config={config}", f"--paced={flags.steps}"]
  workers = [Worker("ours", own), Worker("trainer", peer)]
  times: dict[str, list[float]] = {worker.role: [] for worker in workers}
  for number in range(flags.warm + flags.rounds):
    for worker in in_turn(workers, number):
      times[worker.role].append(worker.ask()["seconds"])
    print({role: round(seconds[-1], 2) for role, seconds in times.items()}, file=sys.stderr)
  times = {role: seconds[flags.warm :] for role, seconds in times.items()}
  ratios = [theirs / mine for mine, theirs in zip(times["ours"], times["trainer"], strict=True)]
  examples = flags.steps * json.loads(config.read_text(encoding="utf-8"))["batch_size"]
  for worker in workers:
    worker.process.kill()
  return {
    "cores": os.cpu_count(),
    "rounds": flags.rounds,
    "updates_a_round": flags.steps,
    "examples_per_s_median": {role: _round(examples / statistics.median(s)) for role, s in times.items()},
    "share_not_padding": {worker.role: _round(worker.first["dense"]) for worker in workers},
    "faster_median": _round(statistics.median(ratios)),
    "faster_range": [_round(min(ratios)), _round(max(ratios))],
    "wanted": WANTED,
    "versions": workers[0].first["versions"] | workers[1].first["versions"],
  }


def serve(flags: argparse.Namespace) -> None:
  """Our side: the updates of train.py, --steps of them for each line of stdin."""
  from trainer.host_memory import keep_freed_memory

  keep_freed_memory()
  import jax

  from trainer.config import from_json, stages
  from trainer.finetuning.feed import TaskFeed
  from trainer.programs import Setup
  from trainer.start import initial_params, program_finder

  config = from_json(Path(flags.role).read_text(encoding="utf-8"), flags.role)
  feed = TaskFeed(config, Path(flags.role).parent)
  setup = Setup.of(config)
  program = program_finder(setup, feed.example)(0)
  state = program.fresh_state()
  state = dataclasses.replace(state, params=initial_params(config, state.params))
  stage = stages(config)[0]
  sample = [batch for _, (_, batch) in zip(range(50), feed.batches(stage, 0))]
  real = sum(int((batch.tokens.segments > 0).sum()) for batch in sample)
  dense = real / sum(batch.tokens.ids.size for batch in sample)
  print(json.dumps({"versions": {"jax": jax.__version__}, "dense": dense}), flush=True)
  batches = feed.batches(stage, 0)
  for _ in sys.stdin:
    start = time.perf_counter()
    for _ in range(flags.steps):
      state, report = program.step(state, program.place(next(batches)[1]))
    jax.block_until_ready(report)
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--role", default="", help=argparse.SUPPRESS)
  parser.add_argument("--torch_python", default=sys.executable, help="interpreter with the extra [parity]")
  parser.add_argument("--task", default="sst2")
  parser.add_argument("--name", help="what the figures are kept under, where a task has several data sets")
  parser.add_argument("--model", help="published weights of a BERT")
  parser.add_argument("--dir", help="the task's files")
  parser.add_argument("--workdir")
  parser.add_argument("--part", choices=("scores", "speed"), default="scores")
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the config")
  parser.add_argument("--steps", type=int, default=20, help="updates of a round")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--warm", type=int, default=8, help="rounds before the first that counts")
  parser.add_argument("--output", default=str(ROOT / "docs/results/finetune_vs_trainer.json"))
  flags = parser.parse_args()
  if flags.role:
    return serve(flags)
  found, path = {"scores": scores, "speed": speed}[flags.part](flags), Path(flags.output)
  found = {"settings": [*AS_TRAINER, *flags.set], **found}
  before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  name = flags.name or flags.task
  own = before.get(name, {}) | {flags.part: found}
  path.write_text(json.dumps(before | {name: own}, indent=2) + "\n", encoding="utf-8")
  print(json.dumps(found))


if __name__ == "__main__":
  main()
