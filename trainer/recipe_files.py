"""Recipe files: found by name, run, and asked for a config or for what its papers searched.

Nothing here imports jax. Every ConfigError is one line.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from trainer.rules import ConfigError, nearest

ROOT = Path(__file__).resolve().parent.parent


def split(source: str) -> tuple[str, str | None]:
  """(file, variant) of `FILE:VARIANT`; None where there is no colon."""
  path, colon, variant = source.partition(":")
  return path, variant if colon else None


def read_text(path: str) -> str:
  """Content of a file as named from here, or from the project's root; ConfigError where there is none."""
  try:
    return _file(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"config {path}: cannot be read: {error}") from error


def build(source: str) -> ConfigDict:
  """The recipe's own config, locked, with `recipe` filled in; ConfigError for no recipe, and for what it raises."""
  path, variant = split(source)
  file = _recipe(source)
  config = _call(file, path, "get_config", () if variant is None else (variant,))
  if not isinstance(config, ConfigDict) or "recipe" not in config:
    raise ConfigError(f"config {path}: get_config gives no ConfigDict with the keys of configs.common.base()")
  name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)
  config.recipe = name if variant is None else f"{name}:{variant}"
  return config.lock()


def published_grid(source: str) -> dict[str, tuple[Any, ...]]:
  """{key: values} that the paper of a recipe's variant searched together.

  Raises:
    ConfigError: the recipe knows of no search.
  """
  path, variant = split(source)
  return _call(_recipe(source), path, "get_grid", () if variant is None else (variant,))


def _recipe(source: str) -> Path:
  path, _ = split(source)
  if not path.endswith(".py"):
    near = (f"{path}.py", f"{path.rstrip('/')}/config.json")
    hint = next((name for name in near if Path(name).is_file() or (ROOT / name).is_file()), "configs/bert.py:tiny")
    raise ConfigError(f"config {source!r}: want FILE.py, FILE.py:VARIANT or FILE.json; did you mean {hint}?")
  return _file(path)


def _file(path: str) -> Path:
  """The file as named from here, or from the project's root."""
  for candidate in (Path(path), ROOT / path):
    if candidate.is_file():
      return candidate.resolve()
  recipes = [f"configs/{file.name}" for file in sorted((ROOT / "configs").glob("[!_]*.py")) if file.stem != "common"]
  raise ConfigError(f"config {path}: no such file; did you mean {nearest(path, recipes)}?")


def _call(file: Path, path: str, name: str, arguments: tuple[str, ...]) -> Any:
  """A function of a recipe file, called; whatever the recipe raises becomes one line."""
  spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
  module: ModuleType = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if name == "get_grid" and not hasattr(module, name):
      raise ConfigError(f"config {path}: has no get_grid, the values that its paper searched; say what varies")
    return getattr(module, name)(*arguments)
  except ConfigError:
    raise
  except Exception as error:  # a recipe is the user's own code
    kind = "" if type(error).__name__ == "VariantError" else f"{type(error).__name__}: "
    raise ConfigError(f"config {path}: {kind}{' '.join(str(error).split())}") from error
