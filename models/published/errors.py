"""The error of published weights, and lists of names that stay readable."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 20  # problems or names that one message spells out


class WeightsError(ValueError):
  """Published weights that cannot be read, written or used here; one line: what, where, got, want, what to do."""


def listed(items: Sequence[str], separator: str = ", ") -> str:
  """The first LISTED items in a row, then the number of the others."""
  more = f"{separator}and {len(items) - LISTED} more" if len(items) > LISTED else ""
  return separator.join(items[:LISTED]) + more
