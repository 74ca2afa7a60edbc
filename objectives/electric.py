"""Electric (Clark et al. 2020b): ELECTRA as noise-contrastive estimation of how likely a token is in its context.

The generator reads the unmasked text in two towers and so proposes a distribution q for every token from its context.
The discriminator's score is an energy E: a position holds noise with log odds E + log q(token) + log(p / (1 - p)),
where p is the share of positions that hold noise. What was sampled is noise, even where it equals the original.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from data.batch import Masked
from models.heads import gather_columns, replace_columns
from models.layers import split_key
from objectives.base import Array, Draws, Terms, tally
from objectives.detection import histogram
from objectives.electra_variants import selected
from objectives.losses import binary_cross_entropy, cross_entropy, is_top
from objectives.replaced import ReplacedObjective


@dataclasses.dataclass(frozen=True)
class ElectricObjective(ReplacedObjective):
  """Terms `mlm` (the towers, at every position with neighbours in its example) and `rtd` (the energies, there too)."""

  def counts(self, batch: Masked) -> Terms:
    return dict.fromkeys(("mlm", "rtd"), jnp.sum(inside(batch)))

  def sums(self, params: dict, carry: None, batch: Masked, draws: Draws, train: bool) -> tuple[Terms, dict, None]:
    variables, tokens, weights = {"params": params}, batch.tokens, inside(batch)
    keys = split_key(draws.dropout() if train else None, 2)
    states = self.model.apply(variables, tokens.ids, tokens, keys[0], method="generate")
    logits = self.model.apply(variables, states, method="generator_logits")
    samples = self.choose(gather_columns(logits, batch.positions), batch.labels, draws)
    corrupted = replace_columns(tokens.ids, batch.positions, samples, batch.weights)
    hidden = self.model.apply(variables, corrupted, tokens, keys[1]).hidden
    energies = self.model.apply(variables, hidden, method="replaced_logits")
    noise = selected(batch)
    scores = energies - jax.lax.stop_gradient(cross_entropy(logits, corrupted)) + log_odds(noise, weights)
    sums = {
      "mlm": jnp.sum(cross_entropy(logits, tokens.ids) * weights),
      "rtd": jnp.sum(binary_cross_entropy(scores, noise > 0) * weights),
    }
    statistics = {
      "mlm": tally(is_top(logits, tokens.ids), weights),
      "sampled": tally(samples == batch.labels, batch.weights),
      "rtd": histogram(scores, noise > 0, weights),
    }
    return sums, statistics, None


def inside(batch: Masked) -> Array:
  """float32 [B, L]: 1 on tokens whose left and right neighbour belong to the same example."""
  segments = jnp.asarray(batch.tokens.segments)
  around = jnp.pad(segments, ((0, 0), (1, 1)))
  same = (around[:, :-2] == segments) & (around[:, 2:] == segments)
  return (same & (segments > 0)).astype(jnp.float32)


def log_odds(noise: Array, weights: Array) -> Array:
  """float32 [B, 1]: log(p / (1 - p)) of the share p of a row's positions that hold noise; both [B, L]."""
  positions = jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 2.0)
  held = jnp.clip(jnp.sum(noise * weights, axis=1, keepdims=True), 1.0, positions - 1.0)
  return jnp.log(held) - jnp.log(positions - held)
