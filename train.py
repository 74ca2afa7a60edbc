"""Trains any recipe: `python train.py --config=configs/bert.py:tiny --workdir=DIR [--config.key=value ...]`.

The same command resumes. The last line on stdout is JSON: step, workdir, state_sha256, metrics. Exit codes: 0 done,
2 wrong input, 3 the training cannot go on, 75 stopped on request with everything saved.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from trainer.command import USER_ERROR, Flag, parse_or_exit
from trainer.config import to_json
from trainer.console import set_up_logging
from trainer.host_memory import keep_freed_memory
from trainer.rules import ConfigError
from trainer.seeds import read_seeds, train_seeds

EXIT_FAILED = 3
FLAGS = (
  Flag("workdir", "", "folder of the run: config.json, metrics.jsonl, checkpoints", required=True),
  Flag("seeds", "", "a run for each of these seeds in WORKDIR/seed-N, and mean and spread: 0,1,2"),
  Flag("dry_run", False, "print config, parameters, memory and batch shapes, and train nothing"),
  Flag("allow_change", False, "resume although the config differs from the one the workdir was started with"),
  Flag("profile_steps", "", "FIRST:LAST, a profiler trace of these steps in WORKDIR/profile"),
  Flag("coordinator", "", "HOST:PORT of process 0 for runs of several processes outside SLURM, GKE and TPU pods"),
  Flag("process_id", -1, "number of this process, with --coordinator"),
  Flag("num_processes", -1, "processes of the run, with --coordinator"),
)


def check_flags(flags: Any, overrides: dict[str, str]) -> None:
  """Refuses flags that do not go together, before the config is read; raises ConfigError."""
  from trainer.texts import seeds_of

  if not read_seeds(flags.seeds):
    if not flags.dry_run and (runs := seeds_of(Path(flags.workdir))):
      raise ConfigError(f"flag --workdir: {flags.workdir} holds the runs of --seeds, want {runs}; or another folder")
  elif "seed" in overrides:
    raise ConfigError(f"flag --seeds: got {flags.seeds} and --config.seed={overrides['seed']}, want one of them")


def main() -> int:
  """Reads the command line before anything heavy is imported, then runs."""
  set_up_logging(sys.stderr.isatty())
  command = parse_or_exit(FLAGS, __doc__.splitlines()[0], check_flags)
  seeds = read_seeds(command.flags.seeds)
  keep_freed_memory()
  import jax

  _connect(command.flags)
  leader = jax.process_index() == 0
  if not leader:
    logging.getLogger().setLevel(logging.WARNING)
  try:
    if command.flags.dry_run:
      from trainer.dry_run import dry_run

      print(json.dumps(dry_run(command.config)))
      return 0
    workdir, options = Path(command.flags.workdir), _options(command.flags)
    if seeds:
      run = lambda config, workdir: train(config, workdir, **options)
      summary, stopped = train_seeds(command.config, workdir, seeds, run)
    else:
      summary, stopped = train(command.config, workdir, **options)
  except failures() as error:
    return say(error)
  if leader:
    print(json.dumps(summary))
  from trainer.stopping import EXIT_STOPPED

  return EXIT_STOPPED if stopped else 0


def train(
  config: Any,
  workdir: Path,
  allow_change: bool = False,
  profile: tuple[int, int] | None = None,
  setup: Any = None,
  feed: Any = None,
) -> tuple[dict[str, Any], bool]:
  """Runs a resolved config in `workdir` to its last step, from wherever the workdir stands.

  Args:
    allow_change: resume under a config that differs.
    profile: (first, last) step of a profiler trace.
    setup: a trainer.programs.Setup; by default what the config names, on all devices.
    feed: a trainer.feed.Feed; by default the corpus that the config names.
  Returns:
    (the summary that the command prints, whether the run was stopped on request).
  """
  import jax

  from trainer.checkpoints import Checkpoints
  from trainer.dry_run import show_parameters
  from trainer.lock import RunLock
  from trainer.logs import Live, MetricLog
  from trainer.loop import Loop, Parts, Trace
  from trainer.manifest import state_digest
  from trainer.programs import Setup
  from trainer.start import CHECKPOINTS, check_resume, program_finder, start, write_config
  from trainer.stopping import StopRequest

  leader = jax.process_index() == 0
  with RunLock(workdir) if leader else contextlib.nullcontext(), StopRequest() as stop:
    check_resume(workdir, config, allow_change)
    made = setup or Setup.of(config)  # what does not fit the devices ends the run before data is prepared
    feed = feed or make_feed(config, workdir)
    setup = setup or made.informed(feed.frequencies)
    program_at = program_finder(setup, feed.example)
    with Checkpoints(workdir / CHECKPOINTS, config.keep_checkpoints) as checkpoints:
      beginning = start(setup, program_at, checkpoints, feed.fingerprint)
      logging.info("start: %s", beginning.branch)
      if leader:
        show_parameters(setup, program_at(0))
      write_config(workdir, config)
      feed.save_tokenizer(workdir)
      step = int(beginning.state.step)
      log, live = MetricLog(workdir, step), Live(config.steps, step, leader and sys.stderr.isatty())
      trace = Trace(*profile, str(workdir / "profile")) if profile else None
      meta = {"config": json.loads(to_json(config)), "data": feed.fingerprint}
      parts = Parts(setup, feed, program_at, checkpoints, log, live, stop, meta, _mfu(setup), trace)
      loop = Loop(parts, beginning)
      try:
        state = loop.run()
        checkpoints.wait()
      finally:
        live.close()
        log.close()
      return _summary(config, workdir, feed, loop, state_digest(state)), loop.stopped


def _summary(config: Any, workdir: Path, feed: Any, loop: Any, digest: str) -> dict[str, Any]:
  """What the command prints of a run that ended; figures of a test file are those that the end of the loop wrote."""
  import jax

  from trainer.finetuning.feed import TaskFeed
  from trainer.finetuning.predictions import FOLDER
  from trainer.logs import MetricLog

  concluded, last = isinstance(feed, TaskFeed) and not loop.stopped, MetricLog.last_figures(workdir)
  figures = loop.figures or last
  if concluded and jax.process_index() == 0:
    figures |= {name: value for name, value in last.items() if name.startswith("test/")}
  if config.select_by and (best := MetricLog.best(workdir, config.select_by)):
    figures |= {"best/step": best[0], f"best/{config.select_by}": best[1]}
  shown = {name: value for name, value in figures.items() if "loss" in name or name.startswith(("best/", "test/"))}
  logging.info("done: step %d, %s", loop.step, ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
  summary = {"step": loop.step, "workdir": str(workdir), "state_sha256": digest, "metrics": figures}
  return summary | ({"predictions": str(workdir / FOLDER)} if concluded and feed.answers else {})


def make_feed(config: Any, workdir: Path) -> Any:
  """The trainer.feed.Feed of a resolved config; a corpus is prepared where it is missing."""
  from trainer.feed import CorpusFeed
  from trainer.finetuning.feed import TaskFeed
  from trainer.stream_feed import StreamFeed

  if "task" in config:
    return TaskFeed(config, workdir)
  return (StreamFeed if config.objective.name == "language" else CorpusFeed)(config, workdir)


def _mfu(setup: Any) -> Any:
  """(host batch, seconds of a step) -> share of the devices' peak in matmul FLOPs, or None for unknown devices."""
  from trainer import chips

  peak = chips.peak(setup.mesh.devices.flatten())

  def mfu(batch: Any, seconds: float) -> float | None:
    work = setup.step_flops(batch) if peak else None
    return None if work is None else work / seconds / peak.flops

  return mfu


def _connect(flags: Any) -> None:
  """Joins the other processes: as the flags say, or as a cluster that jax knows does."""
  import jax

  if flags.coordinator:
    jax.distributed.initialize(flags.coordinator, flags.num_processes, flags.process_id, heartbeat_timeout_seconds=10)
  elif any(name in os.environ for name in ("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")):
    jax.distributed.initialize(heartbeat_timeout_seconds=10)


def _options(flags: Any) -> dict[str, Any]:
  from trainer.rules import ConfigError

  profile = None
  if flags.profile_steps:
    first, _, last = flags.profile_steps.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
      raise ConfigError(f"flag --profile_steps: got {flags.profile_steps!r}, want FIRST:LAST such as 10:15")
    profile = (int(first), int(last))
  return {"allow_change": flags.allow_change, "profile": profile}


def say(error: Exception) -> int:
  """Prints one of the `failures` as a line; returns the exit code that it ends with."""
  print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
  return USER_ERROR if isinstance(error, ValueError) else EXIT_FAILED


def failures() -> tuple[type[Exception], ...]:
  """What ends a run with one line instead of a traceback: all are a user's to mend."""
  from data.batch import BatchError
  from data.characters import CharacterError
  from data.entity_vocabulary import EntityError
  from data.examples import TableError
  from data.loader import LoaderError
  from data.masking import MaskError
  from data.preparation import CorpusError
  from data.reading import SourceError
  from data.sentences import LanguageError
  from data.store import StoreError
  from data.streams import StreamError
  from data.tasks.rows import TaskError
  from data.tokenizers import TokenizerError
  from models.published.errors import WeightsError
  from models.scalar_mix import MixtureError
  from models.sharding import ShardingError
  from models.task_networks import TaskNetworkError
  from trainer.lock import LockError
  from trainer.loop import TrainingError
  from trainer.manifest import CheckpointError
  from trainer.rules import ConfigError
  from trainer.texts import InputError

  return (
    BatchError, CharacterError, CheckpointError, ConfigError, CorpusError, EntityError, InputError, LanguageError,
    LoaderError, LockError, MaskError, MixtureError, ShardingError, SourceError, StoreError, StreamError, TableError,
    TaskError, TaskNetworkError, TokenizerError, TrainingError, WeightsError,
  )  # fmt: skip


if __name__ == "__main__":
  sys.exit(main())
