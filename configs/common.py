"""The keys that every recipe has, and the variant after the colon of `--config=configs/bert.py:base,length=512`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from ml_collections import ConfigDict


class VariantError(ValueError):
  """A variant that the recipe does not have."""


def base() -> ConfigDict:
  """Keys of every recipe. Zeros and empty strings that a recipe must fill are marked so."""
  config = ConfigDict()
  config.recipe = ""  # the file and variant this came from; the loader fills it
  config.seed = 0
  config.steps = 0  # applied updates; the recipe fills it
  config.batch_size = 0  # rows of one update on all devices together; the recipe fills it
  config.micro_batches = 1  # parts a batch is cut into to save memory; the update stays the same
  config.dtype = "bfloat16"  # of matrix products; parameters, softmax, norms and losses are float32 always
  config.stages = ()  # dicts of steps, length, batch_size, max_predictions, freeze, reset_optimizer, copy

  config.init_from = ""  # run or directory of published weights whose parameters this run starts from
  config.init_map = ()  # pairs (path there, path here) for parameters under another name
  config.resume_from = ""  # run to carry on from in a new workdir: parameters, optimiser and position

  config.eval_every = 10_000
  config.save_every = 10_000
  config.log_every = 100
  config.keep_checkpoints = 3  # newest ones
  config.max_skips = 10  # updates skipped in a row (something not finite) before the run rolls back
  config.max_rollbacks = 3  # roll-backs before the run gives up

  config.mesh = ConfigDict()
  config.mesh.data = -1  # devices that split the batch; -1 = all that mesh.model leaves
  config.mesh.model = 1  # devices that split heads, feed-forward and vocabulary
  config.mesh.shard_params = "none"  # over mesh.data as well: none | optimizer | all
  return config


def parse_variant(
  text: str, sizes: Collection[str], settings: Mapping[str, tuple[str, ...] | type[int]]
) -> tuple[str, dict[str, str | int]]:
  """Splits `size,name=value,...`.

  Args:
    text: the variant; the size stands first.
    sizes: sizes of the recipe.
    settings: per ablation setting its values, or int for any positive whole number.
  Returns:
    The size, and the settings that were named.
  Raises:
    VariantError: naming what is unknown or given twice, and the nearest that exists.
  """
  size, *pairs = (part.strip() for part in text.split(","))
  if size not in sizes:
    raise VariantError(f"variant {text!r}: unknown size {size!r}; {_nearest(size, sizes)}")
  chosen: dict[str, str | int] = {}
  for pair in pairs:
    name, _, value = pair.partition("=")
    if name not in settings:
      raise VariantError(f"variant {text!r}: unknown setting {name!r}; {_nearest(name, settings)}")
    if name in chosen:
      raise VariantError(f"variant {text!r}: setting {name!r} is given twice")
    values = settings[name]
    if values is int:
      if not value.isdecimal() or int(value) < 1:
        raise VariantError(f"variant {text!r}: {name}={value!r}, want a positive whole number")
      chosen[name] = int(value)
    elif value not in values:
      raise VariantError(f"variant {text!r}: {name}={value!r}; {_nearest(value, values)}")
    else:
      chosen[name] = value
  return size, chosen


def _nearest(name: str, names: Collection[str]) -> str:
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
  if close:
    return f"did you mean {' or '.join(close)}?"
  first = [*names][:10]
  return f"want one of {', '.join(first)}{', ...' if len(names) > 10 else ''}"
