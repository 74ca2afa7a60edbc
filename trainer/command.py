"""Command lines of the programs that take a config: `--config=FILE:VARIANT --config.key=value --flag=value`.

Nothing here imports jax: a wrong line ends the program with one line on stderr and code 2 before any device is touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from trainer.config import load
from trainer.rules import ConfigError, nearest

USER_ERROR = 2  # exit code of a wrong command line or config


class Once(argparse.Action):
  """A flag that is refused where it is given again: else the last one would hold without a word."""

  def __call__(self, parser, namespace, values, option_string=None):
    given = vars(namespace).setdefault("given", set())
    if self.dest in given:
      parser.error(f"argument {option_string}: is given twice, want it once")
    given.add(self.dest)
    setattr(namespace, self.dest, values)


class OneLineParser(argparse.ArgumentParser):
  """argparse for the commands that take no config: a wrong line is one line on stderr and code 2, without the usage.

  A flag that takes a value is given once, and a mistyped one is named before those that lack.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.register("action", None, Once)
    self._arguments: Sequence[str] = ()

  def parse_known_args(self, args=None, namespace=None):
    self._arguments = sys.argv[1:] if args is None else args
    return super().parse_known_args(args, namespace)

  def error(self, message: str):
    flags = [argument.partition("=")[0] for argument in self._arguments if argument.startswith("--")]
    known = [name for name in self._option_string_actions if name.startswith("--")]
    if message.startswith("the following arguments are required") and (unknown := [f for f in flags if f not in known]):
      message = f"unrecognized argument {unknown[0]}; did you mean {nearest(unknown[0], known)}?"
    self.exit(USER_ERROR, f"{self.prog}: {message}\n")


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag of a program. The default fixes its type: bool, int, float or str. A required flag may not be empty.

  The default () is of a flag that may be given several times: its value is a tuple of texts.
  """

  name: str
  default: Any
  help: str
  required: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
  """A read command line: the checked config, where it came from, what it was told otherwise, the flags by name."""

  config: ConfigDict
  source: str
  overrides: dict[str, str]
  flags: SimpleNamespace


def parse_command(
  argv: Sequence[str], flags: Sequence[Flag], check: Callable[[Any, dict[str, str]], None] = lambda flags, keys: None
) -> Command:
  """Reads the arguments after the program's name.

  `--name=value` and `--name value` are the same; a bool flag alone means true.

  Args:
    check: looks at (flags, keys of the config that are set) before the config is read, which may take a while.
  Raises:
    ConfigError: one line for an unknown, repeated, missing or unreadable flag, and for all that `check` and `load`
      refuse.
  """
  known = {flag.name: flag for flag in flags}
  given = _pairs(argv, known)
  values = {flag.name: flag.default for flag in flags}
  for name, text in given.items():
    if name in known:
      values[name] = _read(known[name], text)
  if "config" not in given:
    raise ConfigError("flag --config is missing; say for example --config=configs/bert.py:tiny")
  for flag in flags:
    if flag.required and not values[flag.name]:
      raise ConfigError(f"flag --{flag.name} is missing: {flag.help}")
  prefix = "config."
  overrides = {name.removeprefix(prefix): text for name, text in given.items() if name.startswith(prefix)}
  check(SimpleNamespace(**values), overrides)
  return Command(load(given["config"], overrides), given["config"], overrides, SimpleNamespace(**values))


def parse_or_exit(
  flags: Sequence[Flag], summary: str, check: Callable[[Any, dict[str, str]], None] = lambda flags, keys: None
) -> Command:
  """`parse_command` of sys.argv; --help prints and ends with 0, a ConfigError prints its line and ends with 2."""
  if "--help" in sys.argv[1:] or "-h" in sys.argv[1:]:
    print(usage(flags, summary))
    raise SystemExit(0)
  try:
    return parse_command(sys.argv[1:], flags, check)
  except ConfigError as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(USER_ERROR) from None


def usage(flags: Sequence[Flag], summary: str) -> str:
  """What --help prints."""
  rows = [
    ("--config=FILE:VARIANT", "recipe and variant, or the config.json of an earlier run (required)"),
    ("--config.KEY=VALUE", "another value for one key of the recipe, for example --config.optimizer.lr=3e-4"),
    *((f"--{f.name}={_kind(f).__name__}", f.help + (" (required)" if f.required else "")) for f in flags),
  ]
  width = max(len(left) for left, _ in rows)
  return "\n".join([summary, "", *(f"  {left:<{width}}  {right}" for left, right in rows)])


def _pairs(argv: Sequence[str], known: dict[str, Flag]) -> dict[str, Any]:
  """{flag: text} of the arguments; each flag once, or a tuple of texts where there may be several."""
  given: dict[str, Any] = {}
  rest = list(argv)
  while rest:
    argument = rest.pop(0)
    name, equals, text = argument.removeprefix("--").partition("=")
    if not argument.startswith("--") or not name:
      raise ConfigError(f"argument {argument!r}: want --flag=value")
    if name != "config" and not name.startswith("config.") and name not in known:
      near = nearest(name, ["config", *known])
      raise ConfigError(f"flag --{name} is unknown; did you mean --{near}, or --config.{name} for a key of the recipe?")
    several = name in known and known[name].default == ()
    if name in given and not several:
      raise ConfigError(f"flag --{name} is given twice; once is enough")
    if not equals:
      if name in known and isinstance(known[name].default, bool):
        text = "true"
      elif not rest or rest[0].startswith("--"):
        raise ConfigError(f"flag --{name} has no value; want --{name}=VALUE")
      else:
        text = rest.pop(0)
    given[name] = (*given.get(name, ()), text) if several else text
  return given


def _kind(flag: Flag) -> type:
  return str if flag.default == () else type(flag.default)


def _read(flag: Flag, text: Any) -> Any:
  kind = type(flag.default)
  if kind is tuple:
    return text
  if kind is bool:
    if text.lower() not in ("true", "false"):
      raise ConfigError(f"flag --{flag.name}: got {text!r}, want true or false")
    return text.lower() == "true"
  try:
    return kind(text)
  except ValueError:
    raise ConfigError(f"flag --{flag.name}: got {text!r}, want {kind.__name__}") from None
