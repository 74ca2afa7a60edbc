"""Two language models that share words and softmax (ELMo, Peters et al. 2018, section 3.1): forward and backward.

The loss is half the mean cross entropy of each direction. Training may sample the softmax (`sampled_softmax`); held-out
text is always judged by the full one. Each batch goes on where the one before it ended: the recurrent state is carried
over, and no gradient flows through it into the batch before, since there it is an input.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from data.batch import Chars
from models.elmo import Elmo
from models.layers import split_key
from objectives.base import Array, Draws, Terms, mean_losses, rate, tally
from objectives.losses import tied_cross_entropy
from objectives.sampled_softmax import Negatives, draw_negatives, sampled_cross_entropy

DIRECTIONS = ("forward", "backward")
SOFTMAX = ("sampled", "full")
RESET = ("never", "window")


@dataclasses.dataclass(frozen=True)
class LanguageObjective:
  """Terms `forward` and `backward`.

  Attributes:
    softmax: of training, one of SOFTMAX.
    negatives: words that are drawn for each direction and step, shared by all rows, where it is sampled.
    reset: `never`: the state goes on from batch to batch, in training and in evaluation; `window`: every batch starts
      from zeros, and nothing is carried.
  """

  model: Elmo
  softmax: str
  negatives: int
  reset: str
  separable: bool = True

  @property
  def weights(self) -> dict[str, float]:
    return dict.fromkeys(DIRECTIONS, 0.5)

  def init(self, key: Array, batch: Chars) -> dict:
    return self.model.init(key, batch.words, batch.index, self._empty(batch), method="everything")["params"]

  def carry(self, batch: Chars) -> Array | None:
    """float32 [B, 2, T, C + P] zeros: cells and projected outputs of every layer and direction."""
    return self._empty(batch) if self.reset == "never" else None

  def _empty(self, batch: Chars) -> Array:
    return self.model.empty_carry(len(batch.index))

  def next_carry(self, state: Array) -> Array | None:
    """What the next batch starts from, of the state [B, 2, T, C + P] behind this one."""
    return state if self.reset == "never" else None

  def axes(self) -> tuple:
    return self.model.axes()

  def table_sizes(self) -> dict[str, int]:
    return self.model.table_sizes()

  def counts(self, batch: Chars) -> Terms:
    return {term: jnp.sum(batch.weights[:, number]) for number, term in enumerate(DIRECTIONS)}

  def sums(
    self, params: dict, carry: Array | None, batch: Chars, draws: Draws, train: bool
  ) -> tuple[Terms, dict[str, Array], Array | None]:
    variables = {"params": params}
    encoder_key, top_key = split_key(draws.dropout() if train else None, 2)
    start = self._empty(batch) if carry is None else carry
    outputs, state = self.model.apply(variables, batch.words, batch.index, start, encoder_key)
    scores = self.model.apply(variables, outputs[-1], top_key, method="scores")
    statistics = {}
    if train and self.softmax == "sampled":
      losses = sampled_cross_entropy(*scores, batch.targets, self.draw(draws), self.model.config.vocab_size)
    else:
      losses, hits = full_cross_entropy(*scores, batch.targets)
      statistics = {term: tally(hits[:, n], batch.weights[:, n]) for n, term in enumerate(DIRECTIONS)}
    sums = {term: jnp.sum(losses[:, n] * batch.weights[:, n]) for n, term in enumerate(DIRECTIONS)}
    return sums, statistics, self.next_carry(state)

  def draw(self, draws: Draws) -> Negatives:
    """The negatives [2, K] of a step, the same in all of its micro-steps."""
    keys = jax.random.split(draws.stream("negatives"))
    vocab = self.model.config.vocab_size
    return jax.vmap(lambda key: draw_negatives(key, vocab, self.negatives))(keys)

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    """Losses; and of the full softmax perplexity and accuracy of each direction and of both.

    `perplexity` is exp of the mean of both losses, as the original reports it: the geometric mean of the directions. A
    sampled softmax has no perplexity: its loss is that of telling a word from a few others.
    """
    figures = mean_losses(sums, counts, self.weights)
    if statistics:
      exp = lambda loss: math.exp(min(loss, 700.0))
      figures["perplexity"] = exp(figures["loss"])
      figures |= {f"{term}_perplexity": exp(figures[f"{term}_loss"]) for term in DIRECTIONS}
      figures |= {f"{term}_accuracy": rate(statistics[term]) for term in DIRECTIONS}
    return figures


def full_cross_entropy(x: Array, table: Array, bias: Array, labels: Array) -> tuple[Array, Array]:
  """Cross entropy over all words, and whether none is likelier, [B, 2, L] of x [B, 2, L, P] and labels [B, 2, L].

  Logits stand in memory for a slice of the table at a time. table [V', P], bias [V'], very low where a row is no word.
  """
  flat = lambda leaf: leaf.reshape(len(leaf), -1, *leaf.shape[3:])
  losses, hits = tied_cross_entropy(flat(x), table, bias, flat(labels))
  return losses.reshape(labels.shape), hits.reshape(labels.shape)
