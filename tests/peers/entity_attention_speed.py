"""Time of a LUKE layer with four queries against the same layer with one, forward and backward, on this machine.

    python -m tests.peers.entity_attention_speed [--rounds=15] [--forms=auto] [--batch_size=2] [--dropout=0.0]

One layer of base size (D 768, 12 heads, feed-forward 3072, float32) on 512 words and 64 entities a row. One process a
layer, all alive side by side and at work strictly in turn, each on all cores, so that whatever else the machine does
falls on all of them; the figures are medians of the ratios within a round. The last line is one JSON object, which also
goes to docs/results/entity_attention_cpu.json (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from tests.peers.worker import ROOT, Worker

WORDS, ENTITIES, LIMIT = 512, 64, 1.15
WARM = 3


def worker_of(role: str, flags: argparse.Namespace) -> Worker:
  """A child process that runs its layer once when told."""
  command = [sys.executable, "-m", "tests.peers.entity_attention_speed", f"--role={role}"]
  return Worker(role, [*command, f"--batch_size={flags.batch_size}", f"--dropout={flags.dropout}"])


def serve(flags: argparse.Namespace) -> None:
  """A worker's life: compile, say so, then time one pass for every line of stdin."""
  from trainer.host_memory import keep_freed_memory

  keep_freed_memory()
  import jax

  from tests.peers.entity_layer import base_layer

  function, arguments = base_layer(flags.role, flags.batch_size, WORDS, ENTITIES, flags.dropout)
  compiled = jax.jit(function).lower(*arguments).compile()
  memory = compiled.memory_analysis()
  print(json.dumps({"jax": jax.__version__, "temporary_bytes": memory.temp_size_in_bytes}), flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def compare(flags: argparse.Namespace) -> dict:
  """Figures of every form against the plain layer."""
  workers = [worker_of(role, flags) for role in ("plain", *flags.forms.split(","))]
  times: dict[str, list[float]] = {worker.role: [] for worker in workers}
  for number in range(-WARM, flags.rounds):
    for worker in workers if number % 2 else reversed(workers):
      seconds = worker.ask()["seconds"]
      if number >= 0:
        times[worker.role].append(seconds)
    print(f"round {number + 1}/{flags.rounds}", file=sys.stderr)
  for worker in workers:
    worker.close()
  ratios = {role: [t / plain for t, plain in zip(times[role], times["plain"])] for role in times if role != "plain"}
  return {
    "case": {"words": WORDS, "entities": ENTITIES, "batch_size": flags.batch_size, "dropout": flags.dropout},
    "cores": os.cpu_count(),
    "jax": workers[0].first["jax"],
    "rounds": flags.rounds,
    "seconds_median": {role: round(statistics.median(values), 4) for role, values in times.items()},
    "ratio_to_plain": {role: round(statistics.median(values), 4) for role, values in ratios.items()},
    "ratio_limit": LIMIT,
    "temporary_bytes": {worker.role: worker.first["temporary_bytes"] for worker in workers},
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--forms", default="auto", help="of auto, dense, doubled, merged, by commas")
  parser.add_argument("--batch_size", type=int, default=2)
  parser.add_argument("--dropout", type=float, default=0.0)
  parser.add_argument("--output", default=str(ROOT / "docs/results/entity_attention_cpu.json"))
  parser.add_argument("--role", default="", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.role:
    return serve(flags)
  figures = compare(flags)
  output = Path(flags.output)  # a case with dropout and one without stand side by side
  known = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
  known["dropout" if flags.dropout else "no_dropout"] = figures
  output.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
  print(json.dumps(figures))


if __name__ == "__main__":
  main()
