"""What compilers for accelerators make of LUKE's train step, with one query and with four in every form.

    python -m tests.peers.luke_compile_only [--targets=tpu:v5e:2x2,gpu:h100] [--output=docs/results/...json]

Each case is the second stage of configs/luke.py:base in bfloat16, 512 words and 128 entities a row, 32 rows in all, by
`benchmark.py --compile_only`; nothing runs. Needs the wheels that its errors name, and no device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = {
  "one query": (1, "auto"),
  "four queries, dense": (4, "dense"),
  "four queries, doubled": (4, "doubled"),
  "four queries, merged": (4, "merged"),
}
KEPT = ("fits", "temporary_bytes", "fusions", "custom_calls", "dots")


def report(target: str, queries: int, form: str) -> dict:
  """Figures of one compiled step."""
  command = [
    sys.executable, "benchmark.py", "--config=configs/luke.py:base", "--stage=1", f"--compile_only={target}",
    "--config.batch_size=32", f"--config.model.query_kinds={queries}", f"--config.model.attention={form}",
  ]  # fmt: skip
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  if done.returncode:
    raise SystemExit(done.stderr.strip().splitlines()[-1])
  found = json.loads(done.stdout.splitlines()[-1])
  return {name: found[name] for name in KEPT if name in found} | {"devices": found["devices"]}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--targets", default="tpu:v5e:2x2,gpu:h100")
  parser.add_argument("--output", default=str(ROOT / "docs/results/luke_compile_only.json"))
  flags = parser.parse_args()
  figures = {}
  for target in flags.targets.split(","):
    figures[target] = {}
    for name, (queries, form) in CASES.items():
      print(f"{target}: {name}", file=sys.stderr)
      figures[target][name] = report(target, queries, form)
  Path(flags.output).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
  print(json.dumps(figures))


if __name__ == "__main__":
  main()
