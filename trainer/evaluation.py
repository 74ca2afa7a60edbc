"""Evaluation on every held-out batch once: sums over the whole set, divided once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from data.tasks.task import named
from trainer.feed import Feed
from trainer.finetuning.feed import TaskFeed
from trainer.programs import Program


def evaluate(program: Program, feed: Feed, params: Any, tick: Callable[[], None] = lambda: None) -> dict[str, float]:
  """{name: figure} over the held-out set; {} where there is none. A recurrent state of its own runs from zero.

  Args:
    params: on the devices.
    tick: called after each batch.
  """
  figures, outputs = run_through(program, feed, params, tick)
  return figures | feed.score(outputs) if figures or outputs else {}


def evaluate_all(program: Program, feed: Feed, params: Any) -> dict[str, float]:
  """`evaluate` of the held-out set, and of further files of a task: their figures begin with the file's name."""
  figures = evaluate(program, feed, params)
  for name, held in feed.further.items() if isinstance(feed, TaskFeed) else ():
    figures |= named(name, evaluate(program, held, params))
  return figures


def run_through(
  program: Program, feed: Feed, params: Any, tick: Callable[[], None] = lambda: None
) -> tuple[dict[str, float], list[np.ndarray]]:
  """(what the objective reports of the held-out set, its outputs for each batch); both empty without a set."""
  objective = program.setup.objective
  carry, total, baseline, collected = program.fresh_carry(), None, {}, []
  for number, host in enumerate(feed.held_out(program.stage)):
    batch = program.place(host)
    *figures, carry = program.evaluate(params, carry, batch, program.on_all(np.int32(number)))
    sums, counts, statistics = jax.device_get(figures)
    if "outputs" in statistics:  # rows for metrics of the whole set, which no sum gives
      collected.append(statistics.pop("outputs"))
    figures = sums, counts, statistics
    total = figures if total is None else jax.tree.map(np.add, total, figures)
    for name, pair in feed.baseline(host).items():
      baseline[name] = np.add(baseline.get(name, (0.0, 0.0)), pair)
    tick()
  if total is None:
    return {}, []
  return objective.report(*total) | _means(baseline), collected


def _means(baseline: dict[str, tuple[float, float]]) -> dict[str, float]:
  """Mean losses of a baseline, and each as a perplexity too."""
  losses = {name: float(value / max(count, 1.0)) for name, (value, count) in baseline.items()}
  return losses | {name.replace("_loss", "_perplexity"): math.exp(loss) for name, loss in losses.items()}
