"""Configs: a recipe file or an earlier run's config.json, overrides, checks, the saved form, and stages.

Nothing here imports jax, so a wrong config ends a command before any device is touched. Every ConfigError is one line.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from trainer.contradictions import contradictions
from trainer.recipe_files import build, read_text, split
from trainer.rules import ConfigError, check_value, nearest

SCHEMA = 1  # of the saved form; rises when a key changes its meaning

# Keys that a resumed run may change freely: they alter no update. `init_*` and `resume_from` only say how a run began.
FREE_ON_RESUME = frozenset(
  ("recipe", "init_from", "init_map", "resume_from", "eval_every", "save_every", "log_every", "keep_checkpoints",
   "select_by", "max_skips", "max_rollbacks", "mesh.data", "mesh.model", "mesh.shard_params", "data.workers",
   "data.prefetch", "data.groups", "data.distinct_words", "task.test", "task.patience",
   "task.predictions", "task.eval_first")
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of training with its own shape.

  start: the step of its first update. length, batch_size, max_predictions: of its batches. freeze: patterns of
  parameter paths that do not train. reset_optimizer: fresh moments and schedule at `start`. copy: pairs (from, to) of
  parameter paths copied at `start`. lr: peak of a schedule of the stage's own, which spans it and begins with
  `warmup_steps`; 0 = the stage goes on with the run's.
  """

  start: int
  steps: int
  length: int
  batch_size: int
  max_predictions: int
  freeze: tuple[str, ...] = ()
  reset_optimizer: bool = False
  copy: tuple[tuple[str, str], ...] = ()
  lr: float = 0.0
  warmup_steps: int = 0

  @property
  def end(self) -> int:
    return self.start + self.steps


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "tuple", dict: "dict"}
_STAGE_TYPES = {
  "steps": int, "length": int, "batch_size": int, "max_predictions": int, "freeze": tuple, "reset_optimizer": bool,
  "copy": dict, "lr": float, "warmup_steps": int,
}  # fmt: skip


def load(source: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
  """The checked, locked config of a recipe (`configs/bert.py:base`) or of an earlier run (`DIR/config.json`).

  Args:
    source: file, and for recipes a variant after a colon.
    overrides: dotted key -> value; text is read as the type of the key.
  Raises:
    ConfigError: naming the key, what it is and what it must be, and the nearest key or file.
  """
  path, variant = split(source)
  if path.endswith(".json"):
    if variant is not None:
      raise ConfigError(f"config {source}: a saved config takes no variant after the colon")
    config = from_json(read_text(path), path)
  else:
    config = build(source)
  try:
    overrides = dict(overrides or {})
    if "task" in config and not config.steps:
      _complete(config, overrides)
    for key, value in overrides.items():
      _override(config, key, value)
    _check(config)
  except ConfigError as error:
    raise ConfigError(f"{error} ({source})") from error
  return config


def _complete(config: ConfigDict, overrides: dict[str, Any]) -> None:
  """Takes what a recipe for fine-tuning leaves open from what it starts from.

  Uses up all overrides but those of keys of the model that it does not have yet.
  """
  from trainer.finetuning.recipe import complete  # it reads the task's files and the model's config

  known, said = flatten(config).keys() - {"model.name"}, frozenset(overrides)
  for key in [key for key in overrides if key in known or not key.startswith("model.")]:
    _override(config, key, overrides.pop(key))
  complete(config, said)


def validate(config: ConfigDict) -> None:
  """Holds keys and types against the recipe that the config names, values against their rules, and keys together.

  Raises:
    ConfigError: for the first thing that is wrong.
  """
  try:
    _check(config)
  except ConfigError as error:
    raise ConfigError(f"{error} ({config.recipe if 'recipe' in config else 'no recipe'})") from error


def _check(config: ConfigDict) -> None:
  if "recipe" not in config or not isinstance(config.recipe, str) or not config.recipe:
    raise ConfigError("config key recipe: is missing or empty, want FILE.py or FILE.py:VARIANT; use load()")
  values, schema = flatten(config), flatten(_schema(config))
  for key in values:
    if key not in schema:
      raise ConfigError(f"config key {key}: unknown; did you mean {nearest(key, schema)}?")
  for key, model in schema.items():
    if key not in values:
      raise ConfigError(f"config key {key}: is missing; the recipe says {model!r}")
    _check_type(key, values[key], type(model))
  for key, value in values.items():
    if key in ("model.name", "objective.name") and value != schema[key]:
      raise ConfigError(f"config key {key}: got {value!r}, want {schema[key]!r}, fixed by the recipe")
    check_value(key, value)
  for number, stage in enumerate(config.stages):
    _check_stage(f"stages.{number}", stage)
  if config.init_map not in ((), schema["init_map"]) and not config.init_from:
    raise ConfigError("config: init_map is set, but init_from is empty; name the run or weights to start from")
  for problem in contradictions(config, stages(config)):
    raise ConfigError(f"config: {problem}")


def _schema(config: ConfigDict) -> ConfigDict:
  """The recipe's own config; a recipe for fine-tuning has the model, or the part of it, that the config names."""
  schema = build(config.recipe)
  if "task" in schema and config.model.name:
    with schema.unlocked():
      if "bilm" not in schema.model:
        schema.model = build(f"configs/{config.model.name}.py:tiny").model
      elif config.model.bilm:
        schema.model.bilm = build("configs/elmo.py:tiny").model
  return schema


def stages(config: ConfigDict) -> tuple[Stage, ...]:
  """The stages of a run, with what they do not say taken from the config; no stages = one of `steps`."""
  resolved, start = [], 0
  for given in config.stages or ({"steps": config.steps},):
    own = {
      "length": config.data.length,
      "batch_size": config.batch_size,
      "max_predictions": config.data.max_predictions if "max_predictions" in config.data else 0,
      "warmup_steps": config.optimizer.warmup_steps,
      **given,
    }
    own["copy"] = tuple(own["copy"].items()) if "copy" in own else ()
    resolved.append(Stage(start=start, **own))
    start += own["steps"]
  return tuple(resolved)


def stage_at(stages: tuple[Stage, ...], step: int) -> Stage:
  """The stage of the update that follows `step` applied ones; the last stage at and after the end."""
  return next((stage for stage in stages if step < stage.end), stages[-1])


def to_json(config: ConfigDict) -> str:
  """The saved form: `schema` and every key, sorted; tuples become lists. Equal configs give equal text."""
  return json.dumps({"schema": SCHEMA, **config.to_dict()}, indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str, where: str = "config.json") -> ConfigDict:
  """The locked config of `to_json`; raises ConfigError. Values are checked by `validate`, not here."""
  try:
    values = json.loads(text)
  except ValueError as error:
    raise ConfigError(f"config {where}: no JSON: {error}") from error
  if not isinstance(values, dict) or "schema" not in values:
    raise ConfigError(f"config {where}: got no key schema, want a config.json that a run has written")
  if values["schema"] != SCHEMA:
    raise ConfigError(f"config {where}: got schema {values['schema']!r}, want {SCHEMA}; start from the recipe again")
  del values["schema"]
  return ConfigDict(_tuples(values)).lock()


def difference(old: ConfigDict, new: ConfigDict, ignore: frozenset[str] = frozenset()) -> list[str]:
  """Lines `key: old -> new` of the keys that differ and are not in `ignore` (FREE_ON_RESUME)."""
  before, after = _leaves(old), _leaves(new)
  lines = []
  for key in [*before, *(key for key in after if key not in before)]:
    pair = [repr(leaves[key]) if key in leaves else "(none)" for leaves in (before, after)]
    if pair[0] != pair[1] and key not in ignore:
      lines.append(f"{key}: {pair[0]} -> {pair[1]}")
  return lines


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
  """{dotted key: value} of every leaf; `stages` is one leaf."""
  leaves = {}
  for name in config:
    if isinstance(config[name], ConfigDict):
      leaves |= flatten(config[name], f"{prefix}{name}.")
    else:
      leaves[prefix + name] = config[name]
  return leaves


def _leaves(config: ConfigDict) -> dict[str, Any]:
  """`flatten` with lists as tuples and stages taken apart."""
  leaves = {key: _tuples(value) for key, value in flatten(config).items()}
  for number, stage in enumerate(leaves.pop("stages", ())):
    leaves |= {f"stages.{number}.{name}": value for name, value in stage.items()}
  return leaves


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(item) for key, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _override(config: ConfigDict, key: str, value: Any) -> None:
  keys = list(flatten(config))
  if re.fullmatch(r"stages\.\d+\.\w+", key):
    return _override_stage(config, key, value)
  if key == "recipe":
    raise ConfigError("config key recipe: follows from --config, set that instead")
  if key not in keys:
    inside = [known for known in keys if known.startswith(key + ".")]
    want = f"is a group, set one of {', '.join(inside)}" if inside else f"unknown; did you mean {nearest(key, keys)}?"
    raise ConfigError(f"config key {key}: {want}")
  *groups, name = key.split(".")
  group = config
  for step in groups:
    group = group[step]
  value = _read(key, value, type(group[name]))
  _check_type(key, value, type(group[name]))
  group[name] = value


def _override_stage(config: ConfigDict, key: str, value: Any) -> None:
  _, number, name = key.split(".")
  given = list(config.stages)
  if int(number) >= len(given):
    raise ConfigError(f"config key {key}: there are {len(given)} stages, counted from 0")
  if name not in _STAGE_TYPES:
    near = f"stages.{number}.{nearest(name, _STAGE_TYPES)}"
    raise ConfigError(f"config key {key}: unknown; did you mean {near}?")
  given[int(number)] = {**given[int(number)], name: _read(key, value, _STAGE_TYPES[name])}
  config.stages = tuple(given)


def _read(key: str, value: Any, kind: type) -> Any:
  """`value` as the type `kind`, where it is text of one; a whole number will do for a float."""
  if kind is float and type(value) is int:
    return float(value)
  if not isinstance(value, str) or kind is str:
    return _tuples(value) if kind is tuple else value
  text = value.strip()
  if kind is bool and text.lower() in ("true", "false"):
    return text.lower() == "true"
  if kind is int and re.fullmatch(r"[+-]?\d+(_\d+)*", text):
    return int(text)
  try:
    if kind is float:
      return float(text)
    if kind in (tuple, dict) and text[:1] in ("(", "[", "{"):
      return _tuples(ast.literal_eval(text))
  except (ValueError, SyntaxError):
    raise ConfigError(f"config key {key}: got {value!r}, want {_KINDS[kind]}") from None
  if kind is tuple:
    return tuple(part.strip() for part in text.split(",")) if text else ()
  raise ConfigError(f"config key {key}: got {value!r}, want {_KINDS[kind]}")


def _check_type(key: str, value: Any, kind: type) -> None:
  if type(value) is not kind:
    raise ConfigError(f"config key {key}: got {value!r}, want {_KINDS[kind]}")


def _check_stage(key: str, stage: Any) -> None:
  _check_type(key, stage, dict)
  for name, value in stage.items():
    if name not in _STAGE_TYPES:
      raise ConfigError(f"config key {key}.{name}: unknown; did you mean {key}.{nearest(str(name), _STAGE_TYPES)}?")
    _check_type(f"{key}.{name}", value, _STAGE_TYPES[name])
    check_value(f"{key}.{name}", value)
  if "warmup_steps" in stage and "lr" not in stage:
    raise ConfigError(f"config key {key}.warmup_steps: is of a stage without {key}.lr, whose schedule is the run's")
  if "steps" not in stage:
    raise ConfigError(f"config key {key}.steps: is missing; every stage says how many steps it has")
  if any(not isinstance(end, str) for pair in stage.get("copy", {}).items() for end in pair):
    raise ConfigError(f"config key {key}.copy: got {stage['copy']!r}, want parameter paths, {{'from': 'to'}}")
