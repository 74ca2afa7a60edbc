"""The log of a command on stderr. Nothing here imports jax, so that it stands before a config is read."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler


def set_up_logging(terminal: bool) -> None:
  """The project's log on stderr, without the chatter of the libraries."""
  handler = (
    RichHandler(console=Console(stderr=True), show_path=False) if terminal else logging.StreamHandler(sys.stderr)
  )
  if not terminal:
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
  logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
  for name in ("jax", "orbax", "absl", "grain", "tensorstore"):
    logging.getLogger(name).setLevel(logging.WARNING)
