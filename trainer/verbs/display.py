"""What the commands that run a model show: progress, speed, and answers as tables or JSON lines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

EVERY = 10.0  # seconds


@dataclasses.dataclass
class Meter:
  """Texts and tokens that are done, since when, and what to tell about them. unit: what a text is, in words."""

  advance: Callable[[int], None]
  unit: str = "texts"
  total: int = 0
  silent: bool = False  # where a bar shows it
  told: float = dataclasses.field(default_factory=lambda: time.monotonic())
  texts: int = 0
  tokens: int = 0
  started: float = dataclasses.field(default_factory=time.monotonic)

  def __call__(self, texts: int, tokens: int) -> None:
    self.texts, self.tokens = self.texts + texts, self.tokens + tokens
    self.advance(texts)
    if not self.silent and time.monotonic() - self.told > EVERY:
      self.told = time.monotonic()
      print(f"{self.texts:,} of {self.total:,} {self.unit}", file=sys.stderr)

  def summary(self) -> dict[str, Any]:
    """Counts and rates; one line of them on stderr too."""
    seconds = max(time.monotonic() - self.started, 1e-6)
    counts = {self.unit: self.texts, "tokens": self.tokens}
    rates = {unit: round(count / seconds, 1) for unit, count in counts.items()}
    print(
      f"{', '.join(f'{count:,} {unit}' for unit, count in counts.items())} in {seconds:.2f} s, compilation included: "
      f"{', '.join(f'{rate:,} {unit}/s' for unit, rate in rates.items())}",
      file=sys.stderr,
    )
    return {**counts, "seconds": round(seconds, 3), **{f"{unit}_per_second": rate for unit, rate in rates.items()}}


@contextlib.contextmanager
def metered(texts: int, unit: str = "texts") -> Iterator[Meter]:
  """A Meter, and a bar on a terminal; elsewhere a line on stderr every EVERY seconds."""
  columns = (
    *Progress.get_default_columns()[:2],
    TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
  )
  with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
    task = bar.add_task("running", total=texts)
    yield Meter(lambda done: bar.advance(task, done), unit, texts, silent=sys.stderr.isatty())


def show(records: Sequence[dict[str, Any]], title: Callable[[dict], str], rows: Callable[[dict], list[dict]]) -> None:
  """Records as tables on a terminal, as JSON lines elsewhere."""
  if not sys.stdout.isatty():
    for record in records:
      print(json.dumps(record, ensure_ascii=False))
    return
  console = Console(markup=False, highlight=False, emoji=False)  # a text may look like markup: [MASK]
  for record in records:
    console.print(title(record), style="italic")  # a table's own title would be as narrow as the table
    table = Table()
    lines = rows(record)
    for name in lines[0] if lines else ():
      table.add_column(name)
    for line in lines:
      table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in line.values()))
    console.print(table)


def warn(warnings: Sequence[str], most: int = 5) -> None:
  """The first ones on stderr, and how many more there are."""
  for warning in warnings[:most]:
    print(f"warning: {warning}", file=sys.stderr)
  if len(warnings) > most:
    print(f"warning: {len(warnings) - most:,} more of these, {len(warnings):,} in all", file=sys.stderr)
