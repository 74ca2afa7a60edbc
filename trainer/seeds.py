"""One config under several seeds: a run each, and the mean and spread of what they report."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.rules import ConfigError


def read_seeds(text: str) -> tuple[int, ...]:
  """Seeds of a flag such as `0,1,2`; () for an empty one.

  Raises:
    ConfigError: something else than different whole numbers.
  """
  parts = [part.strip() for part in text.split(",")] if text else []
  if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
    raise ConfigError(f"flag --seeds: got {text!r}, want different whole numbers such as 0,1,2")
  return tuple(map(int, parts))


def train_seeds(
  config: Any, workdir: Path, seeds: Sequence[int], train: Callable[[Any, Path], tuple[dict[str, Any], bool]]
) -> tuple[dict[str, Any], bool]:
  """Runs `train` in WORKDIR/seed-N for each seed; those that are done already are only read.

  Returns:
    (the summary, whether a run was stopped on request). `metrics` has for each held-out and test figure its mean, its
    standard deviation (n - 1), and the figure of each seed.
  """
  found: list[dict[str, float]] = []
  for seed in seeds:
    own = copy.deepcopy(config)
    own.seed = seed
    summary, stopped = train(own, workdir / f"seed-{seed}")
    if stopped:
      return {"workdir": str(workdir), "seeds": list(seeds[: len(found)]), "stopped": seed}, True
    found.append(summary["metrics"])
  return {"workdir": str(workdir), "seeds": list(seeds), "metrics": spread(found)}, False


def spread(found: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
  """{figure: mean, std, values} of the held-out and the test figures that all runs have."""
  names = [
    name for name in found[0] if name.startswith(("eval/", "best/", "test/")) and all(name in each for each in found)
  ]
  columns = {name: [each[name] for each in found] for name in names}
  return {
    name: {
      "mean": statistics.fmean(values),
      "std": statistics.stdev(values) if len(values) > 1 else 0.0,
      "values": values,
    }
    for name, values in columns.items()
  }
