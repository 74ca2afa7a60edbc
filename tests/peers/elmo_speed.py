"""Step time of ELMo's training against PyTorch's nn.LSTM with proj_size, on this machine's CPU.

    python -m tests.peers.elmo_speed --torch_python=PYTHON_WITH_TORCH [--part=stack|whole] [--rounds=11] [--unroll=1]

The original size: two directions that share nothing, two layers, cell 4096, projection 512, a skip around the second
layer, 32 rows of 20 steps, float32; forward and backward pass, the clip of the gradient's norm at 10, Adagrad.

  stack   the LSTMs alone, between an input that is trained like a parameter and the mean square of the top layer
  whole   behind characters (each of 704 distinct words once, on both sides; 2048 filters, two highway layers), under a
          softmax over 8192 words, as many as the sampled one compares

`ours` is the step that train.py runs. `pytorch` is tests/peers/elmo_pytorch.py, `pytorch_kept` the same with malloc set
up as train.py does it. One process each, side by side and at work strictly in turn on all cores, so that whatever else
the machine does falls on all; ratios are medians of those within a round. Before anything is timed the losses of three
steps must agree to 1e-4, so that the updates agree too, and gradient norms as far as PyTorch adds them up. No clip of
cells or projections, which PyTorch lacks, is reached with these inputs, so the figures agree; ours does that work all
the same. The last line is a JSON object, which also goes into docs/results/elmo_speed_cpu.json (--output), under the
name of the part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.peers.worker import ROOT, Worker, in_turn

LAYERS, HIGHWAY, CHARACTERS, EMBEDDING, WORDS, VOCAB = 2, 2, 50, 16, 704, 8192
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
RATE, START, CLIP = 0.2, 1.0, 10.0  # Adagrad's rate, what its sums begin at; bound of the gradient's norm
CHECKED, WANTED = 3, 1.2
# Of losses and norms. PyTorch's norm of 33 million normal numbers is 2e-3 too small in float32, ours right to 3e-8.
AGREE = (1e-4, 2e-3)
PEERS = ("pytorch", "pytorch_kept")
KEPT = {  # trainer/host_memory.py, by environment
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
  "MALLOC_TOP_PAD_": str(64 << 20),
}


def worker_of(role: str, flags: argparse.Namespace) -> Worker:
  """A child process that takes its step once when told."""
  names = ("part", "cell", "projection", "batch_size", "steps", "unroll", "recompute")
  python = sys.executable if role == "ours" else flags.torch_python
  command = [python, "-m", "tests.peers.elmo_speed", f"--role={role}"]
  command += [f"--{name}={getattr(flags, name)}" for name in names]
  return Worker(role, command, KEPT if role == "pytorch_kept" else {})


def parameters(flags: argparse.Namespace) -> dict[str, np.ndarray]:
  """{path: float32 array} as `models.elmo` names them, uniform within a bound; the same in all workers."""
  cell, width, size = flags.cell, flags.projection, sum(number for _, number in FILTERS)
  shapes = {
    "layers/input/kernel": ((LAYERS, 2, width, 4, cell), cell**-0.5),
    "layers/recurrent/kernel": ((LAYERS, 2, width, 4, cell), cell**-0.5),
    "layers/bias": ((LAYERS, 2, 4, cell), cell**-0.5),
    "layers/projection/kernel": ((LAYERS, 2, cell, width), cell**-0.5),
  }
  if flags.part == "stack":
    shapes["x"] = (2, flags.steps, flags.batch_size, width), 1.0
  else:
    shapes["char/embedding"] = (262, EMBEDDING), 1.0
    for i, (places, number) in enumerate(FILTERS):
      shapes |= {f"char/conv_{i}/kernel": ((places, EMBEDDING, number), 0.05), f"char/conv_{i}/bias": ((number,), 0.05)}
    for name in (f"highway_{i}/{gate}" for i in range(HIGHWAY) for gate in ("carry", "transform")):
      shapes |= {f"char/{name}/kernel": ((size, size), size**-0.5), f"char/{name}/bias": ((size,), 0.05)}
    shapes |= {"char/projection/kernel": ((size, width), size**-0.5), "char/projection/bias": ((width,), 0.05)}
    shapes |= {"heads/softmax/kernel": ((VOCAB, width), width**-0.5), "heads/softmax/bias": ((VOCAB,), 0.05)}
  rng = np.random.default_rng(0)
  return {path: rng.uniform(-bound, bound, shape).astype(np.float32) for path, (shape, bound) in shapes.items()}


def streams(flags: argparse.Namespace) -> dict[str, np.ndarray]:
  """The integers of a batch of `data.batch.Chars`."""
  rng, rows = np.random.default_rng(1), (flags.batch_size, 2, flags.steps)
  draw = lambda low, high, shape: rng.integers(low, high, shape).astype(np.int32)
  return {
    "words": draw(1, 262, (1, WORDS, CHARACTERS)),
    "index": draw(0, WORDS, rows),
    "targets": draw(0, VOCAB, rows),
  }


# --- workers --------------------------------------------------------------------------------------------------------


def ours(flags: argparse.Namespace) -> tuple[str, Callable[[], tuple[float, float]]]:
  """(version, a step of training that returns the loss and the norm of the gradient)."""
  from trainer.host_memory import keep_freed_memory

  keep_freed_memory()
  import jax
  import jax.numpy as jnp

  from data.batch import Chars
  from models.elmo import Elmo, ElmoConfig
  from models.paths import merge
  from models.recurrent import ProjectedLstms
  from models.sharding import make_mesh
  from objectives.language import LanguageObjective
  from objectives.optimizers import Optimizer, adagrad, constant_schedule
  from objectives.state import State, init_opt
  from objectives.step import StepSettings, make_step

  model = ElmoConfig(
    vocab_size=VOCAB, input="characters", characters=CHARACTERS, char_embedding=EMBEDDING, filters=FILTERS,
    activation="relu", highway=HIGHWAY, layers=LAYERS, cell=flags.cell, projection=flags.projection, cell_clip=3.0,
    projection_clip=3.0, skip=True, dropout=0.0, recompute_gates=bool(flags.recompute), unroll=flags.unroll,
  )  # fmt: skip

  @dataclasses.dataclass(frozen=True)
  class Squares(LanguageObjective):
    """The mean square of the top layer over an input that is a parameter."""

    weights = {"square": 1.0}

    def counts(self, batch):
      return {"square": jnp.float32(batch.index.size * self.model.config.projection)}

    def sums(self, params, carry, batch, draws, train):
      lstms = ProjectedLstms(self.model.config.recurrent)
      outputs, carry = lstms.apply({"params": params["layers"]}, params["x"], carry)
      return {"square": jnp.sum(jnp.square(outputs[-1]))}, {}, carry

  objective = (Squares if flags.part == "stack" else LanguageObjective)(Elmo(model), "full", 1, "never")
  optimizer = Optimizer(adagrad(START), constant_schedule(RATE, 0, 1), CLIP)
  batch = Chars(**streams(flags), weights=np.ones((flags.batch_size, 2, flags.steps), np.float32))
  batch = jax.tree.map(jnp.asarray, batch)
  params = jax.tree.map(jnp.asarray, merge(*({path: leaf} for path, leaf in parameters(flags).items())))
  zero = jnp.zeros((), jnp.int32)
  state = State(zero, zero + 0, zero + 0, params, init_opt(optimizer, params, ()), objective.carry(batch))
  step = make_step(objective, optimizer, StepSettings(0, 1, float(flags.steps)), make_mesh(1, 1, jax.devices()[:1]))
  step = jax.jit(step, donate_argnums=0)

  def once() -> tuple[float, float]:
    nonlocal state
    state, report = jax.block_until_ready(step(state, batch))
    losses = (objective.weights[term] * report.sums[term] / report.counts[term] for term in report.sums)
    return float(sum(losses)), float(report.grad_norm)

  return jax.__version__, once


def pytorch(flags: argparse.Namespace) -> tuple[str, Callable[[], tuple[float, float]]]:
  """The same of PyTorch."""
  import torch

  from tests.peers.elmo_pytorch import train_step

  return torch.__version__, train_step(parameters(flags), streams(flags), RATE, START, CLIP, float(flags.steps))


ROLES = {"ours": ours, "pytorch": pytorch, "pytorch_kept": pytorch}


def serve(flags: argparse.Namespace) -> None:
  """A worker's life: say what the first steps give, then time a step for every line of stdin."""
  version, once = ROLES[flags.role](flags)
  print(json.dumps({"version": version, "first": [once() for _ in range(CHECKED)]}), flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    once()
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


# --- comparison -----------------------------------------------------------------------------------------------------


def difference(mine: list, theirs: list) -> float:
  """Largest relative one of losses; ends the program where losses or norms are further apart than AGREE."""
  worst = np.max(np.abs(np.array(mine) / np.array(theirs) - 1), axis=0)
  if not np.all(worst < AGREE):
    raise SystemExit(f"error: [loss, norm] of {CHECKED} steps: ours {mine}, PyTorch {theirs}; want {AGREE} at most")
  return float(worst[0])


def flops(flags: argparse.Namespace) -> int:
  """Of the LSTMs' matrix products in one step, forward and backward."""
  tokens = 2 * LAYERS * flags.steps * flags.batch_size
  return 3 * 2 * tokens * (2 * flags.projection * 4 * flags.cell + flags.cell * flags.projection)


def compare(flags: argparse.Namespace) -> dict:
  """The figures."""
  workers = [worker_of(role, flags) for role in ROLES]
  first = {worker.role: worker.first for worker in workers}
  worst = max(difference(first["ours"]["first"], first[peer]["first"]) for peer in PEERS)
  times: dict[str, list[float]] = {worker.role: [] for worker in workers}
  for number in range(flags.rounds):
    for worker in in_turn(workers, number):
      times[worker.role].append(worker.ask()["seconds"])
    print(f"round {number + 1}/{flags.rounds}", file=sys.stderr)
  for worker in workers:
    worker.close()
  ratios = {peer: [theirs / mine for mine, theirs in zip(times["ours"], times[peer])] for peer in PEERS}
  names = ("part", "cell", "projection", "batch_size", "steps", "unroll", "recompute")
  figures = {
    "case": {name: getattr(flags, name) for name in names},
    "cores": os.cpu_count(),
    "versions": {role: about["version"] for role, about in first.items()},
    "rounds": flags.rounds,
    "largest_difference": worst,
    "seconds_median": {role: round(statistics.median(values), 4) for role, values in times.items()},
    "seconds_least": {role: round(min(values), 4) for role, values in times.items()},
    "faster_median": {peer: round(statistics.median(values), 3) for peer, values in ratios.items()},
    "faster_range": {peer: [round(min(values), 3), round(max(values), 3)] for peer, values in ratios.items()},
    "wanted": WANTED,
  }
  if flags.part == "stack":
    figures["gflops_at_least_time"] = {role: round(flops(flags) / min(t) / 1e9, 1) for role, t in times.items()}
  return figures


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--torch_python", default=sys.executable, help="interpreter with torch and numpy")
  parser.add_argument("--part", default="stack", choices=("stack", "whole"))
  parser.add_argument("--rounds", type=int, default=11)
  parser.add_argument("--cell", type=int, default=4096)
  parser.add_argument("--projection", type=int, default=512)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--unroll", type=int, default=1, help="model.unroll of ours")
  parser.add_argument("--recompute", type=int, default=0, choices=(0, 1), help="model.recompute_gates of ours")
  parser.add_argument("--output", default=str(ROOT / "docs/results/elmo_speed_cpu.json"))
  parser.add_argument("--role", default="", choices=("", *ROLES), help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.role:
    return serve(flags)
  figures, path = compare(flags), Path(flags.output)
  before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  path.write_text(json.dumps(before | {flags.part: figures}, indent=2) + "\n", encoding="utf-8")
  print(json.dumps(figures))


if __name__ == "__main__":
  main()
