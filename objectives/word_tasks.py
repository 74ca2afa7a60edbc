"""Tasks on whole words: what a labelled sentence costs a network that reads words and, where it does, ELMo.

Classes of sentences, pairs and words cost their cross entropy, meaned over the labels of a batch, a number its squared
error, the right one of several sentences its cross entropy over them, the first and the last word of an answer each its
cross entropy over the words of the passage and no answer; the tags of a CRF cost -log p of the sentence, meaned over
sentences. The weights of a mix may be held to the plain average by l2 * sum of w^2 over all places (Peters et al. 2018,
section 3.4).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from data.batch import LabelledWords
from models.crf import allowed_paths, best_path, log_likelihood
from models.task_networks import TaskNetwork
from objectives.base import Array, Draws, Terms, mean_losses, rate, tally
from objectives.losses import choice_losses, cross_entropy, is_top


@dataclasses.dataclass(frozen=True)
class WordTaskObjective:
  """Terms `task` and, where it is asked for and a mix learns its weights, `mixture`.

  Held-out batches also report their `outputs`, which official figures are computed from: what the network says, or the
  best tags int32 [B, K] that a CRF finds among those that its labels' scheme allows.

  Attributes:
    l2: lambda; its term stands once in a step, whether the other is meaned or, by `loss_scale`, summed.
  """

  model: TaskNetwork
  l2: float

  @property
  def separable(self) -> bool:
    """Not where layers are normalised by the mean and variance of all words of a batch."""
    c = self.model.config
    return not (c.layer_norm and c.places)

  @property
  def penalised(self) -> bool:
    """Whether there is a term for the mixes."""
    return self.l2 > 0 and bool(self.model.config.places) and self.model.config.mixture == "learned"

  @property
  def weights(self) -> dict[str, float]:
    return {"task": 1.0} | ({"mixture": 1.0} if self.penalised else {})

  def init(self, key: Array, batch: LabelledWords) -> dict:
    return self.model.init(key, batch.words, batch.index, batch.lengths, batch.ids, method="everything")["params"]

  def carry(self, batch: LabelledWords) -> None:
    return None

  def axes(self) -> tuple:
    return self.model.axes()

  def table_sizes(self) -> dict[str, int]:
    return self.model.table_sizes()

  def counts(self, batch: LabelledWords) -> Terms:
    head, weights = self.model.config.head, batch.weights
    if head == "choose":
      weights = weights * batch.labels  # the right choice of each example
    count = jnp.sum(_of_sentences(weights) if head == "crf" else weights)
    return {"task": count} | ({"mixture": jnp.ones(())} if self.penalised else {})

  def sums(
    self, params: dict, carry: None, batch: LabelledWords, draws: Draws, train: bool
  ) -> tuple[Terms, dict[str, Array], None]:
    logits = self.logits(params, batch, draws.dropout() if train else None)
    head = self.model.config.head
    loss, statistics = (self._sequences if head == "crf" else self._labels)(params, logits, batch, train)
    sums = {"task": loss}
    if self.penalised:  # the micro-batch that holds the first row brings the term
      squares = sum(jnp.sum(jnp.square(weights)) for weights in self.model.mixture_weights(params))
      sums["mixture"] = jnp.where(jnp.any(draws.rows == 0), self.l2 * squares, 0.0)
    return sums, statistics, None

  def logits(self, params: dict, batch: LabelledWords, key: Array | None) -> Array:
    """What the network says of a batch; `key` switches dropout on."""
    return self.model.apply({"params": params}, batch.words, batch.index, batch.lengths, batch.ids, key)

  def _labels(self, params: dict, logits: Array, batch: LabelledWords, train: bool) -> tuple[Array, dict[str, Array]]:
    outputs, head, weights = {} if train else {"outputs": logits}, self.model.config.head, batch.weights
    if head == "regress":
      return jnp.sum(jnp.square(logits - batch.several)[..., 0] * weights), outputs
    if head == "choose":
      losses, hits = choice_losses(logits, weights)
      weights = weights * batch.labels
    else:
      logits = jnp.swapaxes(logits, 1, 2) if head == "answer" else logits  # [B, 2, columns], beside the two labels
      losses, hits = cross_entropy(logits, batch.labels), is_top(logits, batch.labels)
    return jnp.sum(losses * weights), {"task": tally(hits, weights)} | outputs

  def _sequences(
    self, params: dict, emissions: Array, batch: LabelledWords, train: bool
  ) -> tuple[Array, dict[str, Array]]:
    """Training does not decide tags, which would cost as much again as the loss, so it has no accuracy."""
    chain = self.model.apply({"params": params}, method="chain")
    words = jnp.arange(batch.labels.shape[1]) < batch.lengths[:, :1] - 2
    loss = -jnp.sum(log_likelihood(emissions, chain, batch.labels, words) * _of_sentences(batch.weights))
    if train:
      return loss, {}
    best = best_path(emissions, chain, words, allowed_paths(self.model.config.labels))
    return loss, {"task": tally(best == batch.labels, batch.weights), "outputs": best}

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    figures = mean_losses(sums, counts, self.weights)
    return figures | ({"accuracy": rate(statistics["task"])} if "task" in statistics else {})


def _of_sentences(weights: Array) -> Array:
  """[B] of the weights [B, K] of words, which a sentence gives all of its words alike."""
  return jnp.max(weights, axis=1)
