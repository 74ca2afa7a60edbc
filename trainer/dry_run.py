"""`train.py --dry_run`: the resolved config, the parameter table, memory and batch shapes, without data or training."""

from __future__ import annotations

import math
import sys
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from data.synthetic import synthetic_batch
from models.paths import named_leaves
from models.sharding import axis_names
from trainer.config import flatten
from trainer.programs import Program, Setup, parameter_counts


def dry_run(config: Any) -> dict[str, Any]:
  """Prints the tables to stderr; returns the figures for the summary line."""
  setup, console = Setup.of(config), _console()
  console.print(_table("config", ("key", "value"), [(k, repr(v)) for k, v in flatten(config).items()]))
  summary: dict[str, Any] = {"mesh": dict(setup.mesh.shape), "stages": []}
  for number, stage in enumerate(setup.stages):
    program = Program(setup, stage, synthetic_batch(setup.placed, stage, 0))
    if number == 0:
      summary |= show_parameters(setup, program)
    shapes = named_leaves(program.example)
    rows = [(path, str(leaf.shape), str(leaf.dtype)) for path, leaf in shapes.items()]
    console.print(_table(f"batch of stage {number}", ("field", "shape", "dtype"), rows))
    summary["stages"].append({"start": stage.start, "steps": stage.steps, "length": stage.length, **memory(program)})
  return summary


def show_parameters(setup: Setup, program: Program) -> dict[str, int]:
  """Prints the parameter table to stderr; returns the numbers of parameters, all of them and those below the heads."""
  counts = parameter_counts(setup, program.shapes.params)
  _console().print(parameter_table(setup, program, counts))
  return totals(counts)


def totals(counts: dict[str, int]) -> dict[str, int]:
  """Of {path: parameters}: all, and without the heads, which is what most papers count."""
  below = sum(number for path, number in counts.items() if not path.startswith("heads/"))
  return {"parameters": sum(counts.values()), "parameters_without_heads": below}


def _console() -> Console:
  return Console(file=sys.stderr, width=None if sys.stderr.isatty() else 160)


def parameter_table(setup: Setup, program: Program, counts: dict[str, int]) -> Table:
  """Path, shape, axes, sharding and number of every parameter."""
  names, shardings = axis_names(program.shapes.params, setup.objective.axes()), named_leaves(program.shardings.params)
  rows = [
    (
      path,
      str(leaf.shape),
      " ".join(str(name or "-") for name in names[path]),
      str(shardings[path].spec),
      f"{counts[path]:,}",
    )
    for path, leaf in named_leaves(program.shapes.params).items()
  ]
  rows += [(name, "", "", "", f"{number:,}") for name, number in totals(counts).items()]
  return _table("parameters", ("path", "shape", "axes", "sharding", "number"), rows)


def memory(program: Program) -> dict[str, int]:
  """Bytes on each device: the state's own, and what the compiled step needs beside it."""
  state = sum(
    leaf.dtype.itemsize * math.prod(where.shard_shape(leaf.shape))
    for leaf, where in zip(jax.tree.leaves(program.shapes), jax.tree.leaves(program.shardings))
  )
  batch = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), program.example, program.batch_shardings
  )
  analysis = program.step.lower(program.abstract_state, batch).compile().memory_analysis()
  return {"state_bytes": state, "temporary_bytes": int(analysis.temp_size_in_bytes)}


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
  table = Table(*columns, title=title, title_justify="left")
  for row in rows:
    table.add_row(*row)
  return table
