"""Masked words and masked entities (LUKE, Yamada et al. 2020, section 3.3): the sum of two mean cross entropies.

Entities are predicted among all of the table, by a softmax whose logits never stand in memory whole. Means are over the
whole batch; the released code takes them over each micro-batch of four sequences and averages those.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from data.batch import MaskedEntities
from models.heads import replace_columns
from models.luke import Luke
from objectives.base import Array, Draws, Terms, TokenObjective, mean_losses, rate, tally
from objectives.losses import cross_entropy, is_top, tied_cross_entropy


@dataclasses.dataclass(frozen=True)
class EntityObjective(TokenObjective):
  """Terms `mlm` (words) and `mem` (entities)."""

  model: Luke
  separable: bool = True

  @property
  def weights(self) -> dict[str, float]:
    return {"mlm": 1.0, "mem": 1.0}

  def init(self, key: Array, batch: MaskedEntities) -> dict:
    return self.model.init(key, batch.words.tokens, batch.entities, method="everything")["params"]

  def counts(self, batch: MaskedEntities) -> Terms:
    return {"mlm": jnp.sum(batch.words.weights), "mem": jnp.sum(batch.weights)}

  def sums(
    self, params: dict, carry: None, batch: MaskedEntities, draws: Draws, train: bool
  ) -> tuple[Terms, dict, None]:
    variables, words = {"params": params}, batch.words
    ids = replace_columns(words.tokens.ids, words.positions, words.inputs, words.weights)
    key = draws.dropout() if train else None
    encoded = self.model.apply(variables, ids, words.tokens, key, entities=batch.entities)
    logits = self.model.apply(variables, encoded.hidden, words.positions, method="token_logits")
    scores = self.model.apply(variables, encoded.entities, batch.positions, method="entity_scores")
    losses, hits = tied_cross_entropy(*scores, batch.labels)
    sums = {
      "mlm": jnp.sum(cross_entropy(logits, words.labels) * words.weights),
      "mem": jnp.sum(losses * batch.weights),
    }
    statistics = {
      "mlm": tally(is_top(logits, words.labels), words.weights),
      "mem": tally(hits, batch.weights),
    }
    return sums, statistics, None

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    figures = mean_losses(sums, counts, self.weights)
    for term in self.weights:
      figures[f"{term}_perplexity"] = math.exp(min(figures[f"{term}_loss"], 700.0))
    return figures | {f"{term}_accuracy": rate(statistic) for term, statistic in statistics.items()}
