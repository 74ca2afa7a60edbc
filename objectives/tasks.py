"""Fine-tuning: a labelled example's loss on the logits of a task head.

Each kind of head has one rule: which logits, which loss. The loss of a batch is the mean over its labels, so that
packing and micro-batches change nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from data.batch import Entities, Labelled, Tokens
from models.encoded import Encoded
from models.heads import gather_columns
from models.layers import split_key
from models.luke import Luke
from objectives.base import Array, Draws, Terms, mean_losses, rate, tally
from objectives.losses import binary_cross_entropy, choice_losses, cross_entropy, is_top


@dataclasses.dataclass(frozen=True)
class Kind:
  """How one kind of task gets its logits and what they cost.

  method: of the model. reads: (encoded, batch) -> its arguments. losses: (logits, batch) -> (losses, hits), both
  [B, K]; hits None where nothing is right or wrong. counted: (batch) -> weights [B, K] of the losses. dropout: whether
  the method has dropout before its layer. by_column: whether logits stand on columns, not on labels.
  """

  method: str
  reads: Callable[[Any, Labelled], tuple[Array, ...]]
  losses: Callable[[Array, Labelled], tuple[Array, Array | None]]
  counted: Callable[[Labelled], Array] = lambda batch: batch.weights
  dropout: bool = True
  by_column: bool = False


def _classes(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  return cross_entropy(logits, batch.labels), is_top(logits, batch.labels)


def _several(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  """Each class by itself; the mean over classes, and whether all of them are right."""
  right = (logits > 0) == (batch.several > 0)
  return jnp.mean(binary_cross_entropy(logits, batch.several), axis=-1), jnp.all(right, axis=-1)


def _candidates(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  return binary_cross_entropy(logits, batch.labels), (logits > 0) == (batch.labels > 0)


def _numbers(logits: Array, batch: Labelled) -> tuple[Array, None]:
  """The squared error of a number, which stands where classes would."""
  return jnp.square(logits - batch.several)[..., 0], None


def _choices(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  """A row is one question; its labels of weight are its choices. Each costs as if it were the right one."""
  return choice_losses(logits, batch.weights)


def _answers(logits: Array, batch: Labelled) -> tuple[Array, Array]:
  """Labels are columns, a first and a last one by turns; each against the columns of its own example."""
  sides = jnp.tile(jnp.swapaxes(logits, 1, 2), (1, batch.labels.shape[1] // 2, 1))  # [B, K, L]
  own = jnp.take_along_axis(batch.tokens.segments, batch.labels, axis=1)
  sides = jnp.where(batch.tokens.segments[:, None] == own[..., None], sides, -1e9)
  return cross_entropy(sides, batch.labels), is_top(sides, batch.labels)


def _texts(encoded: Encoded, batch: Labelled) -> tuple[Array, Array]:
  return encoded.hidden, batch.cls


def _mentions(encoded: Encoded, batch: Labelled) -> tuple[Array, Array]:
  """The entities that stand for mentions; where there are none, the tokens at `spans` or `cls`."""
  if batch.entities is not None:
    return encoded.entities, batch.slots
  return encoded.hidden, batch.cls[..., None] if batch.spans is None else batch.spans


KINDS: dict[str, Kind] = {
  "type": Kind("type_logits", _mentions, _several),
  "relate": Kind("relate_logits", _mentions, _classes),
  "spans": Kind(
    "span_logits", lambda encoded, batch: (encoded.hidden, encoded.entities, batch.spans, batch.slots), _classes
  ),
  "cloze": Kind("cloze_logits", _mentions, _candidates),
  "answer": Kind("answer_logits", lambda encoded, batch: (encoded.hidden,), _answers, dropout=False, by_column=True),
  "classify": Kind("classify_logits", _texts, _classes),
  "regress": Kind("regress_logits", _texts, _numbers),
  "tag": Kind("tag_logits", lambda encoded, batch: (gather_columns(encoded.hidden, batch.cls),), _classes),
  "choose": Kind("choose_logits", _texts, _choices, lambda batch: batch.weights * batch.labels),
}


@dataclasses.dataclass(frozen=True)
class TaskObjective:
  """One term, `task`. Held-out batches also report their logits, which dataset metrics are computed from.

  The error of a number is that of the number over the model's `target_scale`.

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
    return fresh_params(self.model, key, batch.tokens, batch.entities)

  def carry(self, batch: Labelled) -> None:
    return None

  def axes(self) -> tuple:
    return self.model.axes()

  def table_sizes(self) -> dict[str, int]:
    return self.model.table_sizes()

  def counts(self, batch: Labelled) -> Terms:
    return {"task": jnp.sum(KINDS[self.kind].counted(batch))}

  def sums(self, params: dict, carry: None, batch: Labelled, draws: Draws, train: bool) -> tuple[Terms, dict, None]:
    logits = self.logits(params, batch, draws.dropout() if train else None)
    kind = KINDS[self.kind]
    weights, (losses, hits) = kind.counted(batch), kind.losses(logits, batch)
    losses = losses / self.model.config.target_scale**2 if self.kind == "regress" else losses
    statistics = {} if hits is None else {"task": tally(hits, weights)}
    if not train:
      statistics["outputs"] = logits
    return {"task": jnp.sum(losses * weights)}, statistics, None

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
    losses = mean_losses(sums, counts, self.weights)
    return losses | {"accuracy": rate(statistics["task"])} if "task" in statistics else losses


def fresh_params(model: Any, key: Array, tokens: Tokens, entities: Entities | None = None) -> dict:
  """Fresh parameters of an encoder, of a LUKE's entities too where the batch has none: a row's first token is one."""
  if entities is None and isinstance(model, Luke):
    first = tokens.ids[:, :1] * 0
    entities = Entities(first, first[..., None], first + 1)
  arguments = (tokens,) if entities is None else (tokens, entities)
  return model.init(key, *arguments, method="everything")["params"]
