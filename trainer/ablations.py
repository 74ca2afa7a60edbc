"""A table of ablations: settings of a recipe varied one at a time, each with several seeds, by one command.

    python -m trainer.ablations --config=configs/elmo_tasks.py:wnut17 --config.init_from=runs/elmo \
        --config.task.dir=FOLDER --vary=mixture=learned,equal,top,first --vary=lambda=1,0.001 \
        --vary=place=input,output,both,none --seeds=0,1,2 --workdir=runs/mixtures

What varies is a setting of the variant or a key of the config (`--vary=optimizer.lr=1e-3,1e-4`); with --grid all
combinations are run. `--vary=published` runs all that the paper of the recipe's family searched for the task
(configs/finetune.py). Runs stand in WORKDIR/runs, one for each line of the table and seed; lines that mean the same run
share it. The same command goes on with what is missing, and may name more values and more seeds. WORKDIR/table.md and
table.json are written after every run; the best line by the dev figure that chooses the epoch is bold. The last line on
stdout is JSON. Exit codes as of train.py.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.command import Flag, parse_or_exit
from trainer.config import difference, flatten, from_json, load, to_json
from trainer.console import set_up_logging
from trainer.recipe_files import published_grid
from trainer.rules import ConfigError
from trainer.seeds import read_seeds, spread

FLAGS = (
  Flag("workdir", "", "folder of the table and its runs", required=True),
  Flag("vary", (), "NAME=VALUE,VALUE..., a setting of the variant or a key of the config, several times; or published"),
  Flag("seeds", "0,1,2", "a run for each of these seeds"),
  Flag("grid", False, "all combinations of what varies, not one change at a time"),
)
BASE, TABLE, RUNS, DONE = "base.json", "table", "runs", "figures.json"
RECIPE = "recipe"  # the line of the recipe as it is
PUBLISHED = "published"  # value of --vary

Variations = Sequence[tuple[str, tuple[str, ...]]]  # name, values

Run = Callable[[Any, Path], tuple[dict[str, Any], bool]]


@dataclasses.dataclass(frozen=True)
class Cell:
  """A line of the table: what is changed, and the config that it gives."""

  changes: tuple[tuple[str, str], ...]
  config: Any

  @property
  def name(self) -> str:
    return ", ".join(f"{key}={value}" for key, value in self.changes) or RECIPE

  @functools.cached_property
  def digest(self) -> str:
    """Of what is run, whatever the seed and the recipe's name."""
    return hashlib.sha256(_comparable(self.config).encode()).hexdigest()[:12]


def read_variations(texts: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
  """[(name, values)] of --vary flags; ConfigError for one of another form, or a name or value that is there twice."""
  found: list[tuple[str, tuple[str, ...]]] = []
  for text in texts:
    name, _, rest = text.partition("=")
    values = tuple(value.strip() for value in rest.split(","))
    if not name or not all(values) or len(set(values)) < len(values) or name in dict(found):
      raise ConfigError(f"flag --vary: got {text!r}, want NAME=VALUE,VALUE... with different values, each NAME once")
    found.append((name, values))
  if "seed" in dict(found):
    raise ConfigError("flag --vary: got seed, want --seeds=0,1,2: every line of the table has the same seeds")
  if not found:
    raise ConfigError("flag --vary is missing; say what varies, for example --vary=mixture=learned,equal,top,first")
  return found


def variations_of(source: str, texts: Sequence[str], grid: bool) -> tuple[Variations, bool]:
  """(what varies, whether in all combinations) by the flags --vary and --grid; ConfigError as `read_variations`."""
  if PUBLISHED not in texts:
    return read_variations(texts), grid
  if len(texts) > 1:
    raise ConfigError(f"flag --vary: got {PUBLISHED} beside others, want it alone, or NAME=VALUE,VALUE... for each")
  return [(name, tuple(map(str, values))) for name, values in published_grid(source).items()], True


def read_cells(source: str, overrides: Mapping[str, Any], variations: Variations, grid: bool) -> list[Cell]:
  """The lines of the table, the recipe's own first unless all combinations are asked for.

  Raises:
    ConfigError: a setting, key or value that there is not.
  """
  keys = flatten(load(source, overrides)).keys()
  pairs = [[(name, value) for value in values] for name, values in variations]
  changes = itertools.product(*pairs) if grid else [(), *((pair,) for part in pairs for pair in part)]
  return [Cell(tuple(own), _changed(source, overrides, keys, own)) for own in changes]


def _changed(
  source: str, overrides: Mapping[str, Any], keys: Collection[str], changes: Sequence[tuple[str, str]]
) -> Any:
  """The config of a recipe with some of its `keys`, or settings of its variant, changed."""
  path, _, variant = source.partition(":")
  size, *settings = variant.split(",")
  chosen, own = dict(setting.partition("=")[::2] for setting in settings), dict(overrides)
  for name, value in changes:
    (own if name in keys or "." in name else chosen)[name] = value  # no setting has a dot: a key that there is not
  if chosen and not variant:
    raise ConfigError(f"flag --vary: {source} has no key {[*chosen][0]}, want a key, or a setting of {path}:VARIANT")
  return load(":".join([path, ",".join([size, *map("=".join, chosen.items())])]) if variant else source, own)


def _comparable(config: Any) -> str:
  values = json.loads(to_json(config))
  return json.dumps({name: value for name, value in values.items() if name not in ("recipe", "seed")}, sort_keys=True)


def check_table(workdir: Path, base: Any) -> None:
  """Refuses a folder that holds the table of another config; writes the config down in a new one."""
  path = workdir / BASE
  if path.is_file():
    changes = difference(from_json(path.read_text(encoding="utf-8"), str(path)), base, frozenset({"seed"}))
    if changes:
      raise ConfigError(
        f"flag --workdir: {workdir} holds the table of another config: {'; '.join(changes)}; use a new one"
      )
    return
  if workdir.is_dir() and any(workdir.iterdir()):
    raise ConfigError(f"flag --workdir: {workdir} holds other things than a table, want a new or an empty folder")
  workdir.mkdir(parents=True, exist_ok=True)
  _write(path, to_json(base))


def run_table(cells: Sequence[Cell], seeds: Sequence[int], workdir: Path, run: Run) -> tuple[dict[str, Any], bool]:
  """Runs what is missing of a table.

  Returns:
    (what table.json says, whether a run was stopped on request).
  """
  found: dict[str, list[dict[str, float]]] = {cell.digest: [] for cell in cells}
  total, started, ran = len(found) * len(seeds), time.monotonic(), 0
  for cell in cells:
    for seed in seeds[len(found[cell.digest]) :]:
      done = sum(map(len, found.values()))
      left = "" if not ran else f", about {(time.monotonic() - started) / ran * (total - done):.0f} s to go"
      logging.info("ablations: run %d of %d%s: %s, seed %d", done + 1, total, left, cell.name, seed)
      figures, own = run_once(cell, seed, workdir / RUNS / cell.digest / f"seed-{seed}", run)
      ran += own
      if figures is None:
        return write_table(cells, seeds, found, workdir), True
      found[cell.digest].append(figures)
      write_table(cells, seeds, found, workdir)
  return write_table(cells, seeds, found, workdir), False


def run_once(cell: Cell, seed: int, folder: Path, run: Run) -> tuple[dict[str, float] | None, bool]:
  """(figures of a run, or None if it was stopped; whether it was run, and not read from what an earlier one left)."""
  path = folder / DONE
  if path.is_file():
    return json.loads(path.read_text(encoding="utf-8")), False
  config = copy.deepcopy(cell.config)
  config.seed = seed
  summary, stopped = run(config, folder)
  if stopped:
    return None, True
  _write(path, json.dumps(summary["metrics"]))
  return summary["metrics"], True


def write_table(
  cells: Sequence[Cell], seeds: Sequence[int], found: Mapping[str, list[dict[str, float]]], workdir: Path
) -> dict[str, Any]:
  """Writes table.json and table.md of the runs that are done, and returns what the first says."""
  lines = []
  for cell in cells:
    runs = found[cell.digest]
    figures = spread(runs) if runs else {}
    lines.append(
      {"name": cell.name, "changes": dict(cell.changes), "runs": f"{RUNS}/{cell.digest}", "n": len(runs),
       "seeds": list(seeds[: len(runs)]), "figures": figures}
    )  # fmt: skip
  figure = cells[0].config.select_by
  table = {"recipe": cells[0].config.recipe, "lines": lines, "best": best_line(lines, figure)}
  _write(workdir / f"{TABLE}.json", json.dumps(table, indent=1) + "\n")
  _write(workdir / f"{TABLE}.md", as_markdown(lines, figure))
  return table


def best_line(lines: Sequence[Mapping[str, Any]], figure: str) -> str | None:
  """The name of the line with the best mean of the dev figure that chooses the epoch, the first of equals.

  Only lines with as many runs as any other count. None where no figure chooses, or no run is done.
  """
  from trainer.logs import better  # imports jax

  name, most = f"best/{figure}", max(line["n"] for line in lines)
  known = [line for line in lines if line["n"] == most and name in line["figures"]]
  means = {line["name"]: line["figures"][name]["mean"] for line in known}
  best = None
  for own, mean in means.items():
    if best is None or better(name, mean, means[best]):
      best = own
  return best


def as_markdown(lines: Sequence[Mapping[str, Any]], figure: str) -> str:
  """The table with mean and standard deviation (n - 1) of the figure that chooses the epoch, or of all there are.

  The best line is bold.
  """
  known = dict.fromkeys(name for line in lines for name in line["figures"])
  shown = [name for name in (f"best/{figure}", f"test/{figure}") if name in known] if figure else list(known)
  titles = [name.replace("best/", "dev ").replace("/", " ") for name in shown]
  rows, best = [["setting", *titles, "n"], ["---"] * (len(shown) + 2)], best_line(lines, figure)
  for line in lines:
    cells = [_figure(line["figures"][name], line["n"]) if name in line["figures"] else "" for name in shown]
    name = f"**{line['name']}**" if line["name"] == best else line["name"]
    rows.append([name, *cells, str(line["n"])])
  return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _figure(figure: Mapping[str, Any], n: int) -> str:
  return f"{figure['mean']:.4f}" + (f" ± {figure['std']:.4f}" if n > 1 else "")


def _write(path: Path, text: str) -> None:
  """Whole or not at all."""
  temporary = path.with_name(f".{path.name}.tmp")
  temporary.write_text(text, encoding="utf-8")
  os.replace(temporary, path)


def main() -> int:
  """Reads the command line before anything heavy is imported, then runs."""
  import train
  from trainer.host_memory import keep_freed_memory
  from trainer.stopping import EXIT_STOPPED

  set_up_logging(sys.stderr.isatty())
  command = parse_or_exit(FLAGS, __doc__.splitlines()[0])
  keep_freed_memory()
  flags, workdir = command.flags, Path(command.flags.workdir)
  try:
    cells = read_cells(command.source, command.overrides, *variations_of(command.source, flags.vary, flags.grid))
    seeds = read_seeds(flags.seeds) or (command.config.seed,)
    check_table(workdir, command.config)
    table, stopped = run_table(cells, seeds, workdir, train.train)
  except train.failures() as error:
    return train.say(error)
  lines = [{name: line[name] for name in ("name", "n", "figures")} for line in table["lines"]]
  print(json.dumps({"workdir": flags.workdir, "recipe": table["recipe"], "lines": lines, "best": table["best"]}))
  return EXIT_STOPPED if stopped else 0


if __name__ == "__main__":
  sys.exit(main())
