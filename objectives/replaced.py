"""Replaced-token detection (ELECTRA, Clark et al. 2020): a generator fills masked slots, a discriminator judges them.

L = mlm_weight * mean cross entropy of the generator over selected slots + rtd_weight * mean loss of the discriminator.
The samples pass no gradient, so the discriminator's loss reaches the generator through shared tables only. A sample
that happens to be the original counts as original. What else can be learnt, or train the generator, is in
`objectives/electra_variants.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Masked
from models.electra import Electra
from models.heads import gather_columns, replace_columns
from models.layers import split_key
from objectives import electra_variants as variants
from objectives.base import Array, Draws, Terms, TokenObjective, mean_losses, rate, tally
from objectives.detection import detection_figures
from objectives.losses import cross_entropy, is_top
from objectives.sampling import draw


@dataclasses.dataclass(frozen=True)
class ReplacedObjective(TokenObjective):
  """Terms `mlm` (if a generator learns), that of `target`, and `policy` and `baseline` if `adversarial`.

  Attributes:
    target: key of variants.TARGETS, what the second network learns.
    generator: `mlm`; `uniform` or `unigram` (no network: every word, or words by frequency); `electric`.
    sample: `softmax`, or `argmax` (the likeliest word).
    temperature: divides the logits before sampling.
    disallow_correct: the original is never sampled.
    rtd_weight: weight of the second network's term, whatever `target` is.
    adversarial: the generator also learns to raise the discriminator's loss, by REINFORCE.
    log_frequencies: float [V], of words, for `unigram`; see `with_frequencies`.
  """

  model: Electra
  target: str = "all_tokens"
  generator: str = "mlm"
  sample: str = "softmax"
  temperature: float = 1.0
  disallow_correct: bool = False
  mlm_weight: float = 1.0
  rtd_weight: float = 50.0
  adversarial: bool = False
  log_frequencies: np.ndarray | None = dataclasses.field(default=None, compare=False)
  separable: bool = True

  @property
  def weights(self) -> dict[str, float]:
    weights = {"mlm": self.mlm_weight} if self.learns else {}
    weights[variants.TARGETS[self.target].term] = self.rtd_weight
    return weights | (variants.ADVERSARIAL_WEIGHTS if self.adversarial else {})

  @property
  def learns(self) -> bool:
    """Whether there is a generator that is trained."""
    return self.model.config.generator is not None

  def with_frequencies(self, counts: np.ndarray) -> ReplacedObjective:
    """This objective, whose `unigram` generator proposes words as often as they occur (`counts` [V])."""
    counts = np.asarray(counts, np.float64)
    with np.errstate(divide="ignore"):
      logs = np.log(counts / counts.sum())
    return dataclasses.replace(self, log_frequencies=np.maximum(logs, -1e9).astype(np.float32))

  def counts(self, batch: Masked) -> Terms:
    slots = jnp.sum(batch.weights)
    target = variants.TARGETS[self.target]
    counts = {"mlm": slots} if self.learns else {}
    counts[target.term] = jnp.sum(target.weights(batch))
    return counts | (dict.fromkeys(variants.ADVERSARIAL_WEIGHTS, slots) if self.adversarial else {})

  def sums(self, params: dict, carry: None, batch: Masked, draws: Draws, train: bool) -> tuple[Terms, dict, None]:
    variables, tokens = {"params": params}, batch.tokens
    keys = split_key(draws.dropout() if train else None, 2)
    sums, statistics = {}, {}
    if self.learns:
      masked = replace_columns(tokens.ids, batch.positions, batch.inputs, batch.weights)
      states = self.model.apply(variables, masked, tokens, keys[0], method="generate")
      states = gather_columns(states, batch.positions)
      logits = self.model.apply(variables, states, method="generator_logits")
      sums["mlm"] = jnp.sum(cross_entropy(logits, batch.labels) * batch.weights)
      statistics["mlm"] = tally(is_top(logits, batch.labels), batch.weights)
    else:
      logits = self._frequency_logits(batch)
    samples = self.choose(logits, batch.labels, draws)
    statistics["sampled"] = tally(samples == batch.labels, batch.weights)
    corrupted = replace_columns(tokens.ids, batch.positions, samples, batch.weights)
    hidden = self.model.apply(variables, corrupted, tokens, keys[1]).hidden
    target = variants.TARGETS[self.target]
    losses, found = target.judge(self.model, variables, hidden, corrupted, batch)
    sums[target.term] = jnp.sum(losses * target.weights(batch))
    if self.adversarial:
      cost = jnp.take_along_axis(losses, batch.positions, axis=1)
      sums |= variants.adversarial_sums(self.model, variables, states, logits, samples, cost, batch.weights)
    return sums, statistics | found, None

  def choose(self, logits: Array, labels: Array, draws: Draws) -> Array:
    """int32 [B, P]: what stands in each slot, from logits [B, P, V'] and originals [B, P]. No gradient passes."""
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32) / self.temperature
    if self.disallow_correct:
      logits -= 1000.0 * jax.nn.one_hot(labels, logits.shape[-1])
    if self.sample == "argmax":
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    keys = draws.per_row("replaced tokens")
    return draw(logits, jax.vmap(lambda key: jax.random.uniform(key, (labels.shape[1], 2)))(keys))

  def _frequency_logits(self, batch: Masked) -> Array:
    """[B, P, V'] of words that stand in every slot alike."""
    c = self.model.config
    if self.generator == "unigram" and self.log_frequencies is None:
      raise ValueError("objective.generator: unigram has no word frequencies; give them by with_frequencies(counts)")
    logs = np.zeros(c.vocab_size, np.float32) if self.generator == "uniform" else self.log_frequencies
    logs = np.pad(logs, (0, c.padded_vocab - c.vocab_size), constant_values=-1e9)
    return jnp.broadcast_to(logs, (*batch.labels.shape, c.padded_vocab))

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    """Losses, and figures of detection; a term that only carries a gradient (`policy`) is no loss and is left out."""
    figures = mean_losses({t: s for t, s in sums.items() if t not in variants.GRADIENT_ONLY}, counts, self.weights)
    if self.learns:
      figures["mlm_perplexity"] = math.exp(min(figures["mlm_loss"], 700.0))
    if "rtd" in statistics:
      figures |= detection_figures(statistics["rtd"])
    tallies = {name: value for name, value in statistics.items() if name != "rtd"}
    return figures | {f"{name}_accuracy": rate(value) for name, value in tallies.items()}
