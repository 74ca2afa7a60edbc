"""How a run starts, in total order: resume this workdir > resume a named run > parameters of init_from > scratch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import models
from models.paths import merge, named_leaves
from models.published import weights
from trainer.checkpoints import Checkpoints
from trainer.config import FREE_ON_RESUME, difference, from_json, stage_at, to_json
from trainer.finetuning.recipe import initial_leaves, source_of
from trainer.loading import best_step, is_published, newest_params, read_config
from trainer.programs import Program, Setup
from trainer.restore import Reader
from trainer.rules import ConfigError

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
SOFTMAX = "heads/softmax/"  # of language models


@dataclasses.dataclass(frozen=True)
class Start:
  """A state to go on from. branch: which of the four, from where. streak: updates skipped in a row just before."""

  state: Any
  branch: str
  streak: int = 0


def check_resume(workdir: Path, config: Any, allow_change: bool) -> None:
  """Refuses a config that differs from the one this workdir was started with, key by key, unless that is allowed."""
  path = workdir / CONFIG
  if not path.exists():
    return
  changed = difference(from_json(path.read_text(encoding="utf-8"), str(path)), config, ignore=FREE_ON_RESUME)
  if changed and not allow_change:
    raise ConfigError(
      f"config: {workdir} was started with other values: {'; '.join(changed)}; use another --workdir, or --allow_change"
    )
  for line in changed:
    logging.warning("config changed since this workdir was started: %s", line)


def start(setup: Setup, program_at: Callable[[int], Program], checkpoints: Checkpoints, fingerprint: str) -> Start:
  """The state of step 0 or of the newest good checkpoint, on the mesh of `setup`.

  Args:
    program_at: the program of the stage that a step belongs to.
    fingerprint: of the data; a run that resumes must have been trained on the same.
  Raises:
    CheckpointError, ConfigError: with one line.
  """
  config = setup.config
  abstract_at = lambda step: program_at(step).abstract_state
  restored = checkpoints.restore(abstract_at)
  if restored is not None:
    return _resumed(*restored, fingerprint, f"resumed {checkpoints.directory}")
  if config.resume_from:
    source = Reader(Path(config.resume_from) / CHECKPOINTS)
    restored = source.restore(abstract_at)
    if restored is None:
      raise ConfigError(f"config key resume_from: {config.resume_from} holds no checkpoint, want the workdir of a run")
    return _resumed(*restored, fingerprint, f"resumed run {config.resume_from}")
  program = program_at(0)
  state = program.fresh_state()
  if setup.stages[0].copy:
    state = program.enter(state)
  source = source_of(config)
  if source or "task" in config:
    state = dataclasses.replace(state, params=initial_params(config, state.params))
  return Start(state, f"parameters from {source}" if source else f"scratch, seed {config.seed}")


def _resumed(state: Any, meta: dict, fingerprint: str, branch: str) -> Start:
  if meta["data"] != fingerprint:
    raise ConfigError(
      f"data: this run was trained on data {meta['data'][:16]}, got {fingerprint[:16]}; bring back the prepared corpus "
      "(data.dir) that it used, or start a new workdir with init_from"
    )
  return Start(state, f"{branch} at step {meta['step']}, batch {meta['cursor']}", meta["streak"])


def initial_params(config: Any, fresh: Any) -> Any:
  """Parameters of another run under this run's names.

  init_map pairs are path prefixes (there, here): another name, ('heads/', '') leaves out what is there, ('', 'heads/')
  lets what is not there start from the seed.
  """
  source, init_map = source_of(config), config.init_map
  found = _leaves_of(Path(source)) if source else {}
  if "task" in config:
    found, init_map = initial_leaves(config, found, fresh), ()
  if config.objective.name == "language" and not any(path.startswith(SOFTMAX) for path in found):
    init_map = (*init_map, ("", SOFTMAX))  # published files have none, which their notes say
  return adopt(found, fresh, init_map)


def _leaves_of(source: Path) -> dict[str, Any]:
  """{path: leaf} of published weights, or of a run's best good checkpoint, its newest where none is chosen."""
  if is_published(source):
    found = weights.load(source)
    for note in found.notes:
      logging.info("weights %s: %s", source, note)
    return named_leaves(found.params)
  config = read_config(source)
  return named_leaves(newest_params(source, models.build(config), best_step(source, config.select_by))[0])


def adopt(found: dict[str, Any], fresh: Any, init_map: tuple[tuple[str, str], ...]) -> Any:
  """`fresh` with the leaves of `found` for its own; ConfigError lists missing, extra and mis-shaped ones."""
  renamed, target, problems = {}, named_leaves(fresh), []
  for path, leaf in found.items():
    there, here = next(((a, b) for a, b in init_map if a and path.startswith(a)), ("", ""))
    if not there or here:
      renamed[here + path[len(there) :]] = leaf
  kept = tuple(here for there, here in init_map if not there)
  for path, leaf in target.items():
    if path not in renamed and kept and path.startswith(kept):
      renamed[path] = leaf
    elif path not in renamed:
      problems.append(f"missing {path}")
    elif renamed[path].shape != leaf.shape or renamed[path].dtype != leaf.dtype:
      problems.append(f"{path}: got {renamed[path].shape} {renamed[path].dtype}, want {leaf.shape} {leaf.dtype}")
  problems += [f"extra {path}" for path in renamed if path not in target]
  if problems:
    raise ConfigError(f"init_from: {'; '.join(problems)}; say init_map=((there, here),) for names that differ")
  return merge(*({path: jax.device_put(renamed[path], leaf.sharding)} for path, leaf in target.items()))


def program_finder(setup: Setup, example: Callable[[Any], Any]) -> Callable[[int], Program]:
  """step -> the program of its stage; each is made once."""
  made: dict[int, Program] = {}

  def program_at(step: int) -> Program:
    stage = stage_at(setup.stages, step)
    if stage.start not in made:
      made[stage.start] = Program(setup, stage, example(stage))
    return made[stage.start]

  return program_at


def write_config(workdir: Path, config: Any) -> None:
  """WORKDIR/config.json, whole or not at all; process 0 writes."""
  if jax.process_index() == 0:
    temporary = workdir / f".{CONFIG}.tmp"
    temporary.write_text(to_json(config), encoding="utf-8")
    temporary.replace(workdir / CONFIG)
