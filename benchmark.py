"""Times the real train step of any recipe on synthetic batches, or compiles it for accelerators that are not here.

    python benchmark.py --config=configs/bert.py:base [--config.key=value ...] [--steps=20] [--warmup=5]
    python benchmark.py --config=configs/albert.py:base --inference    the encoder alone, forward
    python benchmark.py --config=configs/bert.py:large --compile_only=tpu:v5e:4x4

Runs without grain, tensorflow-datasets or tokenizers. The last line on stdout is one JSON object; progress goes to
stderr. Times come from windows of steps with one wait at the end of each, after warm-up (docs/performance.md).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import numpy as np
import optax

from data.batch import Chars, validate
from data.synthetic import synthetic_batch
from models import flops
from models.sharding import ShardingError
from trainer import chips, compile_only
from trainer.command import USER_ERROR, Flag, parse_or_exit
from trainer.host_memory import keep_freed_memory
from trainer.programs import Program, Setup, parameter_counts
from trainer.rules import ConfigError

FLAGS = (
  Flag("steps", 20, "steps to time, in windows of a fifth"),
  Flag("warmup", 5, "steps before the clock starts, at least 1"),
  Flag("stage", 0, "stage of the recipe, counted from 0"),
  Flag("full_rows", False, "rows without padding; else lengths as in Wikipedia"),
  Flag("inference", False, "time the encoder on the batch's tokens, forward only, in place of the train step"),
  Flag("compile_only", "", "tpu:TOPOLOGY (tpu:v5e:4x4) or gpu:h100: compile for it and report, time nothing"),
)
WINDOWS = 5
BATCHES = 4  # distinct batches, taken in turn


def main() -> int:
  """Returns the exit code: 0, or 2 for a wrong command line, config, mesh or target."""
  command = parse_or_exit(FLAGS, __doc__.splitlines()[0])
  flags = command.flags
  try:
    _check(flags)
    keep_freed_memory()
    target = compile_only.devices(flags.compile_only) if flags.compile_only else jax.devices()
    setup = Setup.of(command.config, target)
    program = _program(setup, flags)
    run = inference if flags.inference else timed
    figures = compiled(program, flags.compile_only) if flags.compile_only else run(program, flags)
  except (ConfigError, ShardingError, compile_only.TargetError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_ERROR
  print(json.dumps({"config": command.source, "stage": flags.stage, **_setting(program), **figures}))
  return 0


def _check(flags: Any) -> None:
  if flags.inference and flags.compile_only:
    raise ConfigError("flags --inference and --compile_only: got both, want one; compile_only reports the train step")
  for name, low in (("steps", 1), ("warmup", 1), ("stage", 0)):
    if getattr(flags, name) < low:
      raise ConfigError(f"flag --{name}: got {getattr(flags, name)}, want at least {low}")


def _program(setup: Setup, flags: Any) -> Program:
  """The program of a stage with an example of its batches."""
  if flags.stage >= len(setup.stages):
    raise ConfigError(f"flag --stage: got {flags.stage}, want below {len(setup.stages)}, the stages of this recipe")
  stage = setup.stages[flags.stage]
  example = synthetic_batch(setup.placed, stage, 0, flags.full_rows)
  validate(example)
  return Program(setup, stage, example)


def _setting(program: Program) -> dict[str, Any]:
  """What was run, on what, with which versions."""
  setup, stage = program.setup, program.stage
  modules = {"jax": jax, "jaxlib": jax.lib, "flax": flax, "optax": optax, "numpy": np}
  return {
    "device": setup.mesh.devices.flat[0].device_kind,
    "devices": int(setup.mesh.devices.size),
    "mesh": dict(setup.mesh.shape),
    "dtype": setup.config.dtype,
    "batch_size": stage.batch_size,
    "length": stage.length,
    "max_predictions": stage.max_predictions,
    "micro_batches": setup.config.micro_batches,
    "versions": {"python": platform.python_version(), **{name: m.__version__ for name, m in modules.items()}},
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
  }


def compiled(program: Program, target: str) -> dict[str, Any]:
  """The compile-only report of the step."""
  _progress(f"compiling for {target}")
  start = time.perf_counter()
  report = compile_only.compile_report(program, target)
  return {"compile_only": target, "compile_s": round(time.perf_counter() - start, 2), **report}


def timed(program: Program, flags: Any) -> dict[str, Any]:
  """Step time, throughput, utilisation, memory and losses of the step on BATCHES synthetic batches."""
  hosts = [synthetic_batch(program.setup.placed, program.stage, n, flags.full_rows) for n in range(BATCHES)]
  batches = [program.place(host) for host in hosts]
  _progress(f"compiling on {jax.devices()[0].device_kind}")
  start = time.perf_counter()
  executable = program.step.lower(program.abstract_state, batches[0]).compile()
  compile_s = time.perf_counter() - start
  state, first = executable(program.fresh_state(), batches[0])
  report = first

  def step(n: int) -> Any:
    nonlocal state, report
    state, report = executable(state, batches[n % BATCHES])
    return state

  windows, dispatch = _windows(step, flags)
  losses = [_loss(program, jax.device_get(r)) for r in (first, report)]
  return {
    "compile_s": round(compile_s, 2),
    "dispatch_ms": round(1e3 * statistics.median(dispatch), 3),
    **_throughput(program, hosts, windows),
    **_memory(executable),
    "loss": {"first": losses[0], "last": losses[1]},
  }


def inference(program: Program, flags: Any) -> dict[str, Any]:
  """Time, throughput and memory of the encoder's forward pass on BATCHES synthetic batches."""
  setup, stage = program.setup, program.stage
  hosts = [synthetic_batch(setup.placed, stage, n, flags.full_rows) for n in range(BATCHES)]
  batches = [program.place(host) for host in hosts]
  params, model = program.fresh_state().params, setup.objective.model
  encode = jax.jit(lambda params, batch: _states(model, params, batch))
  _progress(f"compiling on {jax.devices()[0].device_kind}")
  start = time.perf_counter()
  executable = encode.lower(params, batches[0]).compile()
  compile_s = time.perf_counter() - start
  jax.block_until_ready(executable(params, batches[0]))
  windows, dispatch = _windows(lambda n: executable(params, batches[n % BATCHES]), flags)
  valid, slots = (sum(getattr(flops.count(host), name) for host in hosts) / BATCHES for name in ("tokens", "slots"))
  median = statistics.median(windows)
  return {
    "inference": True,
    "compile_s": round(compile_s, 2),
    "dispatch_ms": round(1e3 * statistics.median(dispatch), 3),
    "parameter_bytes": 4 * sum(parameter_counts(setup, params).values()),
    "step_ms": {name: round(1e3 * t, 3) for name, t in _extremes(windows).items()},
    "tokens_per_s": round(slots / median, 1),
    "valid_tokens_per_s": round(valid / median, 1),
    **_memory(executable),
  }


def _states(model: Any, params: Any, batch: Any) -> Any:
  """The last layer's states of a batch's tokens, or of its streams from an empty state."""
  variables = {"params": params}
  if isinstance(batch, Chars):
    return model.apply(variables, batch.words, batch.index, model.empty_carry(len(batch.index)))[0][-1]
  return model.apply(variables, batch.tokens.ids, batch.tokens).hidden


def _windows(step: Callable[[int], Any], flags: Any) -> tuple[list[float], list[float]]:
  """(seconds a step in each window, seconds of each window's first call) of step(n) after the warm-up."""
  for n in range(1, flags.warmup):
    jax.block_until_ready(step(n))
  windows, dispatch, size, done = [], [], max(1, flags.steps // WINDOWS), 0
  while done < flags.steps:
    steps = min(size, flags.steps - done)
    begin = time.perf_counter()
    for n in range(done, done + steps):
      last = step(n)
      if n == done:  # later calls may wait for the device's queue
        dispatch.append(time.perf_counter() - begin)
    jax.block_until_ready(last)
    windows.append((time.perf_counter() - begin) / steps)
    done += steps
    _progress(f"{done}/{flags.steps} steps, {1e3 * windows[-1]:.1f} ms a step")
  return windows, dispatch


def _extremes(windows: list[float]) -> dict[str, float]:
  return {"median": statistics.median(windows), "min": min(windows), "max": max(windows)}


def _throughput(program: Program, hosts: list[Any], windows: list[float]) -> dict[str, Any]:
  """Rates at the median window. valid_tokens and FLOPs are those of real tokens; tokens counts padding too."""
  works = [flops.count(host) for host in hosts]
  valid, slots = (sum(getattr(w, name) for w in works) / len(works) for name in ("tokens", "slots"))
  model_flops = statistics.mean(program.setup.step_flops(host) for host in hosts)
  median = statistics.median(windows)
  peak = chips.peak([*program.setup.mesh.devices.flat])
  return {
    "windows": len(windows),
    "step_ms": {name: round(1e3 * t, 3) for name, t in _extremes(windows).items()},
    "tokens_per_s": round(slots / median, 1),
    "valid_tokens_per_s": round(valid / median, 1),
    "padding_share": round(1 - valid / slots, 4),
    "model_flops_per_step": model_flops,
    "model_flops_per_s": model_flops / median,
    "peak_flops_per_s": None if peak is None else peak.flops,
    "peak_source": "unknown chip" if peak is None else peak.source,
    "mfu": None if peak is None else round(model_flops / median / peak.flops, 4),
  }


def _memory(executable: Any) -> dict[str, Any]:
  """Peak bytes of one device: as the device counted them, else as the compiler planned them."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return {"peak_bytes": stats["peak_bytes_in_use"], "peak_bytes_source": "memory_stats"}
  plan = executable.memory_analysis()
  peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
  return {"peak_bytes": peak, "peak_bytes_source": "memory_analysis"}


def _loss(program: Program, report: Any) -> float:
  return program.setup.objective.report(report.sums, report.counts, report.statistics)["loss"]


def _progress(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
  sys.exit(main())
