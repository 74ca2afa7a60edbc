"""What a corpus knows its source's files by."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from data.store import StoreError, read_card


def described(paths: tuple[Path, ...], output: Path) -> list[dict]:
  """Name, size and SHA-256 of files; what the finished card in `output` knows by time and size is not read again."""
  known = {}
  with contextlib.suppress(StoreError, KeyError):
    card = read_card(output)
    known = {tuple(stamped): file for stamped, file in zip(card["stamps"], card["settings"]["files"], strict=True)}
  return [known.get(tuple(stamp(path))) or _described(path) for path in paths]


def stamp(path: Path) -> list:
  """What a file is known by without reading it: path, bytes, time of the last change."""
  status = path.stat()
  return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _described(path: Path) -> dict:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
