"""Example tables on disk: one .npz of arrays and one .json card for each pass, written once, checked when read."""

from __future__ import annotations

import collections.abc
import functools
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from data.examples import Options, Table, TableError, build_table, name_of

_ARRAYS = ("spans", "starts", "lengths", "labels", "rows", "joined", "mentions")
_VERSION = 1  # raise it when the same settings would give other examples


class Tables(collections.abc.Sequence):
  """The tables of passes 0 to D - 1, read when asked for; the last two stay in memory."""

  def __init__(self, paths: list[pathlib.Path]):
    self._paths = paths
    self._read = functools.lru_cache(maxsize=2)(_read)

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, pass_: int) -> Table:
    return self._read(self._paths[pass_])

  def __reduce__(self):
    return Tables, (self._paths,)


def load_or_build_tables(directory: str | os.PathLike, store: Any, options: Options, seed: int, passes: int) -> Tables:
  """The tables of `passes` passes, built where `directory` lacks them.

  A file's name carries its settings and the store's name, so tables of several settings and splits share a directory.
  Every host builds the same bytes, and a file appears whole (written aside, then renamed), so hosts may build at once.

  Raises:
    TableError: what cannot be built, or a card that names other settings or another store than its file's name.
  """
  if passes < 1:
    raise TableError(f"example tables: got {passes} passes, want at least 1; set data.passes")
  folder = pathlib.Path(directory)
  folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for pass_ in range(passes):
    identity = {"version": _VERSION, "store": name_of(store), "seed": seed, "pass": pass_}
    identity["options"] = options.identity
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{options.format}-{options.length}-{digest}.npz"
    if not _stands(path, identity):
      _write(path, build_table(store, options, seed, pass_))
    paths.append(path)
  return Tables(paths)


def _stands(path: pathlib.Path, identity: dict[str, Any]) -> bool:
  """True for a whole table of this identity, False for none or a damaged one; a foreign one is refused."""
  card_path = path.with_suffix(".json")
  if not path.exists() or not card_path.exists():
    return False
  try:
    card = json.loads(card_path.read_text())
    digest = card["sha256"]
    found = {name: card[name] for name in identity}
  except (ValueError, KeyError, TypeError) as error:
    logging.warning("example table %s: its card is damaged (%s); building it again", card_path, error)
    return False
  if found != identity:
    name = next(name for name in identity if found[name] != identity[name])
    raise TableError(
      f"example table {card_path}: {name}: got {found[name]}, want {identity[name]}; "
      "remove the file or use another directory"
    )
  if _sha256(path) != digest:
    logging.warning("example table %s: its bytes do not match its card; building it again", path)
    return False
  return True


def _sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: pathlib.Path, table: Table) -> None:
  """The arrays first, the card last: a table without its card does not stand."""
  with tempfile.TemporaryDirectory(dir=path.parent, prefix=".table-") as scratch:
    arrays, card = pathlib.Path(scratch, "arrays.npz"), pathlib.Path(scratch, "card.json")
    np.savez(arrays, **{name: values for name in _ARRAYS if (values := getattr(table, name)) is not None})
    card.write_text(json.dumps({"version": _VERSION, **table.card, "sha256": _sha256(arrays)}, indent=2) + "\n")
    for file in (arrays, card):
      with file.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(arrays, path)
    os.replace(card, path.with_suffix(".json"))


def _read(path: pathlib.Path) -> Table:
  card = json.loads(path.with_suffix(".json").read_text())
  with np.load(path) as arrays:
    return Table(**{name: arrays[name] for name in arrays.files}, card=card)
