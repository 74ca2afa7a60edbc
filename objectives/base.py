"""The objective contract, and where the randomness inside a step comes from."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
  """Keys for one micro-step, all functions of (seed, stream name, cursor, and row or micro-step). None is ever stored.

  root: key of the run's seed. cursor: batches consumed before this one. micro: index of the micro-step.
  rows [b]: row of each local row in the whole batch, so that micro-batches draw what the whole batch would.
  """

  root: Array
  cursor: Array
  micro: Array
  rows: Array

  def dropout(self) -> Array:
    """One key per micro-step."""
    return jax.random.fold_in(self.stream("dropout"), self.micro)

  def stream(self, name: str) -> Array:
    """One key per step, the same in every micro-step (shared negatives)."""
    return jax.random.fold_in(jax.random.fold_in(self.root, zlib.crc32(name.encode())), self.cursor)

  def per_row(self, name: str) -> Array:
    """One key per global row: draws do not depend on micro-batches or the mesh."""
    return jax.vmap(jax.random.fold_in, (None, 0))(self.stream(name), self.rows)


Terms = dict[str, Array]


class Objective(Protocol):
  """One training signal: a model with losses whose denominators come from the whole batch.

  weights: weight of each term in the loss.
  separable: whether the sums of the rows of a batch are the sum over its micro-batches. Where it is False (in-batch
    negatives, batch-wide norms), micro_batches > 1 is refused.
  """

  weights: dict[str, float]
  separable: bool

  def init(self, key: Array, batch: Any) -> dict:
    """Fresh float32 parameters as nested dicts; `batch` gives shapes only."""

  def carry(self, batch: Any) -> Any:
    """Initial recurrent state with rows leading, or None."""

  def counts(self, batch: Any) -> Terms:
    """Denominator of each term, from the whole batch. A term is divided by max(n, 1)."""

  def sums(
    self, params: dict, carry: Any, batch: Any, draws: Draws, train: bool
  ) -> tuple[Terms, dict[str, Array], Any]:
    """(sum of each term's losses, statistics that merge by addition, next recurrent state)."""

  def report(self, sums: dict, counts: dict, statistics: dict) -> dict[str, float]:
    """Named figures from host values merged over any number of batches."""

  def axes(self) -> tuple:
    """Sharding rules of the parameters."""

  def table_sizes(self) -> dict[str, int]:
    """Real sizes of the axes that are padded, by axis name."""


class TokenObjective:
  """What objectives over rows of tokens share: no carry; parameters, sharding rules and table sizes are the model's."""

  model: Any

  def init(self, key: Array, batch: Any) -> dict:
    return self.model.init(key, batch.tokens, method="everything")["params"]

  def carry(self, batch: Any) -> None:
    return None

  def axes(self) -> tuple:
    return self.model.axes()

  def table_sizes(self) -> dict[str, int]:
    return self.model.table_sizes()


def mean_losses(sums: dict, counts: dict, weights: dict[str, float]) -> dict[str, float]:
  """{loss, <term>_loss}: what every objective reports first. Host values."""
  losses = {term: float(total) / max(float(counts[term]), 1.0) for term, total in sums.items()}
  return {
    "loss": sum(weights[term] * loss for term, loss in losses.items()),
    **{f"{term}_loss": loss for term, loss in losses.items()},
  }


def tally(hits: Array, weights: Array) -> Array:
  """float32 [2]: weighted number of hits and of trials; finish with `rate`."""
  return jnp.stack([jnp.sum(hits.astype(jnp.float32) * weights), jnp.sum(weights)])


def rate(statistic: Any) -> float:
  """Share of hits of a merged `tally`."""
  return float(statistic[0]) / max(float(statistic[1]), 1.0)
