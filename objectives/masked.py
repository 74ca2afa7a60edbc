"""Masked-token objectives: predict the tokens at chosen positions, with a sentence-pair decision and span boundaries.

BERT (Devlin et al. 2019, section 3.1): sum of the mean cross entropy over predicted tokens and the mean over pairs.
SpanBERT (Joshi et al. 2020, section 3.2) adds the tokens of masked spans predicted from the spans' edges. Each term is
a mean of its own, as in the original code (which divides the boundary term by n + 1; here by n).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from data.batch import Masked
from models.bert import Bert
from models.heads import replace_columns
from objectives.base import Array, Draws, Terms, TokenObjective, mean_losses, rate, tally
from objectives.losses import cross_entropy, is_top


@dataclasses.dataclass(frozen=True)
class MaskedObjective(TokenObjective):
  """Masked tokens (term `mlm`).

  Attributes:
    pair: the name of a sentence-pair decision (`nsp`, `sop`), which is then a term; None = there is none.
    sbo: weight of the span boundary term `sbo`; 0 = there is none.
  """

  model: Bert
  pair: str | None = None
  sbo: float = 0.0
  separable: bool = True

  @property
  def weights(self) -> dict[str, float]:
    return {"mlm": 1.0, **({self.pair: 1.0} if self.pair else {}), **({"sbo": self.sbo} if self.sbo else {})}

  def counts(self, batch: Masked) -> Terms:
    counts = {"mlm": jnp.sum(batch.weights)}
    if self.pair:
      counts[self.pair] = jnp.sum(batch.pair.weights)
    if self.sbo:
      counts["sbo"] = jnp.sum(_inside(batch))
    return counts

  def sums(self, params: dict, carry: None, batch: Masked, draws: Draws, train: bool) -> tuple[Terms, dict, None]:
    variables = {"params": params}
    ids = replace_columns(batch.tokens.ids, batch.positions, batch.inputs, batch.weights)
    encoded = self.model.apply(variables, ids, batch.tokens, draws.dropout() if train else None)
    logits = self.model.apply(variables, encoded.hidden, batch.positions, method="token_logits")
    losses = cross_entropy(logits, batch.labels)
    sums = {"mlm": jnp.sum(losses * batch.weights)}
    statistics = {"mlm": tally(is_top(logits, batch.labels), batch.weights)}
    if self.pair:
      pair = batch.pair
      logits = self.model.apply(variables, encoded.hidden, pair.cls, method="pair_logits")
      sums[self.pair] = jnp.sum(cross_entropy(logits, pair.labels) * pair.weights)
      statistics[self.pair] = tally(is_top(logits, pair.labels), pair.weights)
    if self.sbo:
      places = encoded.hidden, batch.edges, batch.offsets
      logits = self.model.apply(variables, *places, method="boundary_logits")
      sums["sbo"] = jnp.sum(cross_entropy(logits, batch.labels) * _inside(batch))
      statistics["sbo"] = tally(is_top(logits, batch.labels), _inside(batch))
    return sums, statistics, None

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    figures = mean_losses(sums, counts, self.weights)
    figures["mlm_perplexity"] = math.exp(min(figures["mlm_loss"], 700.0))
    return figures | {f"{term}_accuracy": rate(statistic) for term, statistic in statistics.items()}


def _inside(batch: Masked) -> Array:
  """float32 [B, P]: weights of the predictions that have a span with two edges."""
  return batch.weights * (batch.edges[..., 0] >= 0)
