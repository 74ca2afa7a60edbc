"""Step time of ELMo's recurrent stack against PyTorch's nn.LSTM with proj_size, on this machine's CPU.

    python -m tests.peers.elmo_speed --torch_python=PYTHON_WITH_TORCH [--rounds=11] [--update=adagrad] [--unroll=1]

The stack of the original size: two directions that share nothing, two layers, cell 4096, projection 512, a skip around
the second layer, 32 rows of 20 steps, float32; forward and backward pass and Adagrad's update (PyTorch's fused one).
One process each, all alive side by side and at work strictly in turn on all cores, so that whatever else the machine
does falls on both; the ratio is the median of those within a round. Before anything is timed both must give the same
loss and the same gradient norms of every parameter and of the input, to 1e-4.

nn.LSTM has no clips, so PyTorch does less work than ours here; with these inputs none is reached, so the figures agree.
It has a second bias, which stays zero and is not updated. The last line is one JSON object, which also goes to
docs/results/elmo_speed_cpu.json (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LAYERS, LR, START = 2, 0.2, 1.0  # of Adagrad: the rate, and what its sums begin at
WARM, AGREE, LIMIT = 2, 1e-4, 1.2


class Worker:
  """A child process that takes its step once when told and answers with one JSON line."""

  def __init__(self, role: str, python: str, flags: argparse.Namespace):
    names = ("cell", "projection", "batch_size", "steps", "unroll", "update")
    command = [python, "-m", "tests.peers.elmo_speed", f"--role={role}"]
    command += [f"--{name}={getattr(flags, name)}" for name in names]
    self.role = role
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ), cwd=ROOT
    )
    self.about = self._answer()

  def seconds(self) -> float:
    """Of one step."""
    self.process.stdin.write("go\n")
    self.process.stdin.flush()
    return self._answer()["seconds"]

  def close(self) -> None:
    self.process.stdin.close()
    self.process.wait()

  def _answer(self) -> dict:
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f"error: the {self.role} worker ended; its message stands above")
    return json.loads(line)


def arrays(flags: argparse.Namespace) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Parameters as `ProjectedLstms` names them, gates i, j, f, o, and the input [R, L, B, P]; the same for both."""
  rng, cell, width = np.random.default_rng(0), flags.cell, flags.projection
  draw = lambda *shape: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(cell**-0.5)
  lead = (LAYERS, 2)
  params = {
    "input": draw(*lead, width, 4, cell),
    "recurrent": draw(*lead, width, 4, cell),
    "bias": draw(*lead, 4, cell),
    "projection": draw(*lead, cell, width),
  }
  return params, rng.normal(size=(2, flags.steps, flags.batch_size, width)).astype(np.float32)


def ours(flags: argparse.Namespace) -> tuple[dict, Callable[[], None]]:
  """(what the first pass gives, a step)."""
  from trainer.host_memory import keep_freed_memory

  keep_freed_memory()
  import jax
  import jax.numpy as jnp

  from models.recurrent import ProjectedLstms, RecurrentConfig, empty_carry

  config = RecurrentConfig(flags.cell, flags.projection, LAYERS, 3.0, 3.0, True, 0.0, flags.unroll, False)
  given, x = arrays(flags)
  params = {name: leaf if name == "bias" else {"kernel": leaf} for name, leaf in given.items()}
  params = jax.tree.map(jnp.asarray, params)

  def loss(params, x, carry):
    outputs, carry = ProjectedLstms(config).apply({"params": params}, x, carry)
    return jnp.mean(jnp.square(outputs[-1])), carry

  def step(params, sums, x, carry):
    (value, carry), (grads, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x, carry)
    if flags.update == "none":
      return params, sums, carry, (value, grads, dx)
    sums = jax.tree.map(lambda s, g: s + g * g, sums, grads)
    params = jax.tree.map(lambda p, s, g: p - LR * g * jax.lax.rsqrt(s), params, sums, grads)
    return params, sums, carry, (value, dx)

  norm = lambda leaf: jnp.sqrt(jnp.sum(jnp.square(leaf)))
  x, carry = jnp.asarray(x), empty_carry(config, flags.batch_size)
  (value, _), (grads, dx) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x, carry)
  first = {name: float(norm(grads[name] if name == "bias" else grads[name]["kernel"])) for name in given}
  about = {"version": jax.__version__, "loss": float(value), "norms": first | {"x": float(norm(dx))}}
  sums = jax.tree.map(lambda p: jnp.full(p.shape, START), params)
  del grads, dx
  step = jax.jit(step, donate_argnums=(0, 1, 3)).lower(params, sums, x, carry).compile()
  state = [params, sums, carry]

  def once() -> None:
    *state[:], report = step(state[0], state[1], x, state[2])
    jax.block_until_ready((state, report))

  return about, once


def peer(flags: argparse.Namespace) -> tuple[dict, Callable[[], None]]:
  """The same of PyTorch."""
  import torch

  given, x = arrays(flags)
  order = [0, 2, 1, 3]  # ours i, j, f, o; PyTorch's i, f, g, o
  nets = [[torch.nn.LSTM(flags.projection, flags.cell, proj_size=flags.projection) for _ in range(2)] for _ in range(2)]
  for layer in range(LAYERS):
    for r in range(2):
      net, at = nets[layer][r], lambda name, layer=layer, r=r: given[name][layer, r]
      rows = lambda kernel: torch.from_numpy(np.ascontiguousarray(kernel[:, order].reshape(len(kernel), -1).T))
      bias = at("bias")[order] + np.array([0, 1, 0, 0], np.float32)[:, None]
      net.weight_ih_l0.data, net.weight_hh_l0.data = rows(at("input")), rows(at("recurrent"))
      net.weight_hr_l0.data = torch.from_numpy(np.ascontiguousarray(at("projection").T))
      net.bias_ih_l0.data, net.bias_hh_l0.data = torch.from_numpy(bias.reshape(-1)), torch.zeros(4 * flags.cell)
      net.bias_hh_l0.requires_grad_(False)
  params = [p for pair in nets for net in pair for p in net.parameters() if p.requires_grad]
  inputs = [torch.from_numpy(direction.copy()).requires_grad_() for direction in x]
  zeros = lambda width: torch.zeros(1, flags.batch_size, width)
  states = [[(zeros(flags.projection), zeros(flags.cell)) for _ in range(2)] for _ in range(2)]
  optimizer = torch.optim.Adagrad(params, LR, initial_accumulator_value=START, eps=0.0, fused=True)

  def backward() -> float:
    for p in (*params, *inputs):
      p.grad = None
    loss = 0.0
    for r in range(2):
      y = inputs[r]
      for layer in range(LAYERS):
        z, state = nets[layer][r](y, states[layer][r])
        states[layer][r] = tuple(part.detach() for part in state)
        y = y + z if layer else z
      loss = loss + y.square().sum()
    loss = loss / x.size
    loss.backward()
    return loss.item()

  def once() -> None:
    backward()
    if flags.update == "adagrad":
      optimizer.step()

  value = backward()
  norm = lambda parts: float(sum(p.grad.square().sum() for p in parts) ** 0.5)
  of = {"input": "weight_ih_l0", "recurrent": "weight_hh_l0", "bias": "bias_ih_l0", "projection": "weight_hr_l0"}
  norms = {name: norm([getattr(net, own) for pair in nets for net in pair]) for name, own in of.items()}
  return {"version": torch.__version__, "loss": value, "norms": norms | {"x": norm(inputs)}}, once


ROLES = {"ours": ours, "pytorch": peer}


def serve(flags: argparse.Namespace) -> None:
  """A worker's life: say what the first pass gives, then time a step for every line of stdin."""
  about, once = ROLES[flags.role](flags)
  print(json.dumps(about), flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    once()
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def agree(workers: list[Worker]) -> float:
  """Largest relative difference of the loss and the norms; ends the program above AGREE."""
  mine, theirs = ({"loss": worker.about["loss"]} | worker.about["norms"] for worker in workers)
  worst = max(abs(mine[name] - theirs[name]) / abs(theirs[name]) for name in theirs)
  if not worst < AGREE:
    raise SystemExit(f"error: {workers[0].role} gives {mine}, {workers[1].role} {theirs}; want {AGREE}: not one model")
  return worst


def compare(flags: argparse.Namespace) -> dict:
  """The figures."""
  workers = [Worker("ours", sys.executable, flags), Worker("pytorch", flags.torch_python, flags)]
  worst = agree(workers)
  times: dict[str, list[float]] = {worker.role: [] for worker in workers}
  for number in range(-WARM, flags.rounds):
    for worker in workers if number % 2 else reversed(workers):
      seconds = worker.seconds()
      if number >= 0:
        times[worker.role].append(seconds)
    print(f"round {number + 1}/{flags.rounds}", file=sys.stderr)
  for worker in workers:
    worker.close()
  ratios = [theirs / mine for mine, theirs in zip(times["ours"], times["pytorch"])]
  width, tokens = flags.projection, 2 * LAYERS * flags.steps * flags.batch_size
  flops = 3 * 2 * tokens * (2 * width * 4 * flags.cell + flags.cell * width)
  seconds = {role: round(statistics.median(values), 4) for role, values in times.items()}
  return {
    "case": {name: getattr(flags, name) for name in ("cell", "projection", "batch_size", "steps", "update", "unroll")},
    "cores": os.cpu_count(),
    "versions": {worker.role: worker.about["version"] for worker in workers},
    "rounds": flags.rounds,
    "largest_difference": worst,
    "seconds_median": seconds,
    "seconds_least": {role: round(min(values), 4) for role, values in times.items()},
    "gflops": {role: round(flops / value / 1e9, 1) for role, value in seconds.items()},
    "faster_median": round(statistics.median(ratios), 3),
    "faster_range": [round(min(ratios), 3), round(max(ratios), 3)],
    "wanted": LIMIT,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--torch_python", default=sys.executable, help="interpreter with torch and numpy")
  parser.add_argument("--rounds", type=int, default=11)
  parser.add_argument("--cell", type=int, default=4096)
  parser.add_argument("--projection", type=int, default=512)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--unroll", type=int, default=1)
  parser.add_argument("--update", default="adagrad", choices=("adagrad", "none"))
  parser.add_argument("--output", default=str(ROOT / "docs/results/elmo_speed_cpu.json"))
  parser.add_argument("--role", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.role:
    return serve(flags)
  figures = compare(flags)
  Path(flags.output).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
  print(json.dumps(figures))


if __name__ == "__main__":
  main()
