"""Fine-tuning: a labelled example's loss on the logits of a task head.

Each kind of head has one rule: which logits, which loss. The loss of a batch is the mean over its labels, so that
packing and micro-batches change nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from data.batch import Entities, Labelled
from models.heads import gather_columns
from models.layers import split_key
from models.luke import Luke
from objectives.base import Array, Draws, Terms, mean_losses, rate, tally
from objectives.losses import binary_cross_entropy, cross_entropy, is_top


@dataclasses.dataclass(frozen=True)
class Kind:
  """How one kind of task gets its logits and what they cost.

  method: of the model. reads: (encoded, batch) -> its arguments. losses: (logits, batch) -> (losses, hits), both
  [B, K]. dropout: whether the method has dropout before its layer.
  """

  method: str
  reads: Callable[[Any, Labelled], tuple[Array, ...]]
  losses: Callable[[Array, Labelled], tuple[Array, Array]]
  dropout: bool = True


def _classes(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  return cross_entropy(logits, batch.labels), is_top(logits, batch.labels)


def _several(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  """Each class by itself; the mean over classes, and whether all of them are right."""
  right = (logits > 0) == (batch.several > 0)
  return jnp.mean(binary_cross_entropy(logits, batch.several), axis=-1), jnp.all(right, axis=-1)


def _candidates(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  return binary_cross_entropy(logits, batch.labels), (logits > 0) == (batch.labels > 0)


def _answers(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  """Labels are columns, a first and a last one by turns; each against the columns of its own example."""
  sides = jnp.tile(jnp.swapaxes(logits, 1, 2), (1, batch.labels.shape[1] // 2, 1))  # [B, K, L]
  own = jnp.take_along_axis(batch.tokens.segments, batch.labels, axis=1)
  sides = jnp.where(batch.tokens.segments[:, None] == own[..., None], sides, -1e9)
  return cross_entropy(sides, batch.labels), is_top(sides, batch.labels)


def _tags(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  return _classes(gather_columns(logits, batch.cls), batch)


KINDS: dict[str, Kind] = {
  "type": Kind("type_logits", lambda encoded, batch: (encoded.entities, batch.slots), _several),
  "relate": Kind("relate_logits", lambda encoded, batch: (encoded.entities, batch.slots), _classes),
  "spans": Kind(
    "span_logits", lambda encoded, batch: (encoded.hidden, encoded.entities, batch.spans, batch.slots), _classes
  ),
  "cloze": Kind("cloze_logits", lambda encoded, batch: (encoded.entities, batch.slots), _candidates),
  "answer": Kind("answer_logits", lambda encoded, batch: (encoded.hidden,), _answers, dropout=False),
  "classify": Kind("classify_logits", lambda encoded, batch: (encoded.hidden, batch.cls), _classes),
  "tag": Kind("tag_logits", lambda encoded, batch: (encoded.hidden,), _tags),
}


@dataclasses.dataclass(frozen=True)
class TaskObjective:
  """One term, `task`. Held-out batches also report their logits, which dataset metrics are computed from.

  Attributes:
    model: an encoder with the head of `kind`.
    kind: one of KINDS.
  """

  model: Any
  kind: str
  separable: bool = True

  @property
  def weights(self) -> dict[str, float]:
    return {"task": 1.0}

  def init(self, key: Array, batch: Labelled) -> dict:
    entities = batch.entities
    if entities is None and isinstance(self.model, Luke):  # a row's first token stands for one: all parameters are made
      first = batch.tokens.ids[:, :1] * 0
      entities = Entities(first, first[..., None], first + 1)
    arguments = (batch.tokens,) if entities is None else (batch.tokens, entities)
    return self.model.init(key, *arguments, method="everything")["params"]

  def carry(self, batch: Labelled) -> None:
    return None

  def axes(self) -> tuple:
    return self.model.axes()

  def table_sizes(self) -> dict[str, int]:
    return self.model.table_sizes()

  def counts(self, batch: Labelled) -> Terms:
    return {"task": jnp.sum(batch.weights)}

  def sums(self, params: dict, carry: None, batch: Labelled, draws: Draws, train: bool) -> tuple[Terms, dict, None]:
    logits = self.logits(params, batch, draws.dropout() if train else None)
    losses, hits = KINDS[self.kind].losses(logits, batch)
    statistics = {"task": tally(hits, batch.weights)}
    if not train:
      statistics["outputs"] = logits
    return {"task": jnp.sum(losses * batch.weights)}, statistics, None

  def logits(self, params: dict, batch: Labelled, key: Array | None) -> Array:
    """What the head says of a batch; `key` switches dropout on."""
    variables = {"params": params}
    entities = {} if batch.entities is None else {"entities": batch.entities}
    encoder_key, head_key = split_key(key, 2)
    encoded = self.model.apply(variables, batch.tokens.ids, batch.tokens, encoder_key, **entities)
    kind = KINDS[self.kind]
    options = {"key": head_key} if kind.dropout else {}
    return self.model.apply(variables, *kind.reads(encoded, batch), method=kind.method, **options)

  def report(self, sums: dict, counts: dict, statistics: dict[str, Any]) -> dict[str, float]:
    return mean_losses(sums, counts, self.weights) | {"accuracy": rate(statistics["task"])}
