"""Heads of fine-tuning, on states that the task picks.

Most are one linear layer; names and shapes of the kernels (D the width, n the classes):

- `classify` D -> n, `regress` D -> 1 and `choose` D -> 1, of a text, from its [CLS]; `tag` D -> n of a word; `answer`
  D -> 2 of a word, first and last of an answer.
- `type` D -> n, of a mention; `relate` 2D -> n without bias, of two; `spans` 3D -> n, of a span's first word, its last
  and the mention that stands for it; `cloze` 2D -> 1, of a placeholder and a candidate (Yamada et al. 2020, section 4).
  A mention is a LUKE's entity; for other encoders it is the marker before it (Soares et al. 2019, section 3: "entity
  markers, entity start").

What stands for a text is the pooled [CLS] (BERT, ALBERT, SpanBERT, LUKE, and RoBERTa's choices), or [CLS] itself,
which the head then has a dense layer of its own for (`SummaryHead`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models.encoder import EncoderConfig
from models.heads import gather_columns
from models.layers import Array, Dense, dropout, gelu, split_key
from models.paths import map_named


@dataclasses.dataclass(frozen=True)
class TaskHead:
  """states: how many states of width D it reads together. outputs: None = one a class. text: it reads whole texts."""

  states: int = 1
  outputs: int | None = None
  bias: bool = True
  text: bool = False


TASK_HEADS: dict[str, TaskHead] = {
  "type": TaskHead(),
  "relate": TaskHead(2, bias=False),
  "spans": TaskHead(3),
  "cloze": TaskHead(2, outputs=1),
  "answer": TaskHead(outputs=2),
  "tag": TaskHead(),
  "classify": TaskHead(text=True),
  "regress": TaskHead(outputs=1, text=True),
  "choose": TaskHead(outputs=1, text=True),
}
POOLER = "pooler"
# config.summary, where it is not the pooler -> activation of the dense layer that a head of texts has of its own
SUMMARIES = {"tanh": jnp.tanh, "gelu": gelu}
# Model -> heads that do not read the pooler -> what they read, as transformers has it
_SUMMARY = {
  "roberta": {"classify": "tanh", "regress": "tanh"},
  "electra": {"classify": "gelu", "regress": "gelu", "choose": "gelu"},
}


def summary_of(model: str, head: str) -> str:
  """What a head of `model` (bert, roberta...) reads of a text, POOLER or a key of SUMMARIES."""
  return _SUMMARY.get(model, {}).get(head, POOLER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadedConfig(EncoderConfig):
  """An encoder under heads.

  Attributes:
    heads_on_top: of pretraining, and names of TASK_HEADS.
    classes: outputs of a task's head; 0 = there is none that has classes.
    summary: what heads of texts read, POOLER or a key of SUMMARIES.
    head_dropout: of what a task's head reads; None = `dropout`.
    target_scale: what the outputs of `regress` are multiplied by; they learn the numbers over this.
  """

  heads_on_top: tuple[str, ...] = ()
  classes: int = 0
  summary: str = POOLER
  head_dropout: float | None = None
  target_scale: float = 1.0

  @property
  def task_init(self) -> Any:
    """Initialiser of the kernels that a task's outputs come from."""
    return self.init

  @property
  def task_dropout(self) -> float:
    return self.dropout if self.head_dropout is None else self.head_dropout


class SummaryHead(nn.Module):
  """Dropout, dense, activation, dropout, dense: states [..., D] of [CLS] -> float32 logits [..., n]."""

  config: HeadedConfig
  outputs: int

  def setup(self):
    c = self.config
    self.dense = Dense((c.hidden,), (c.hidden,), c.init, c.dtype)
    self.output = Dense((c.hidden,), (self.outputs,), c.task_init, jnp.float32)

  def __call__(self, x: Array, key: Array | None) -> Array:
    c, (first, second) = self.config, split_key(key, 2)
    x = SUMMARIES[c.summary](self.dense(dropout(x, c.task_dropout, first)))
    return self.output(dropout(x, c.task_dropout, second))


def task_heads(c: HeadedConfig) -> dict[str, nn.Module]:
  """The heads of tasks among those of a model; what decides is float32."""
  heads: dict[str, nn.Module] = {}
  for name in c.heads_on_top:
    if name in TASK_HEADS:
      head = TASK_HEADS[name]
      outputs = head.outputs or c.classes
      if summarizes(c, name):
        heads[name] = SummaryHead(c, outputs)
      else:
        heads[name] = Dense((head.states * c.hidden,), (outputs,), c.task_init, jnp.float32, head.bias)
  return heads


def summarizes(c: HeadedConfig, name: str) -> bool:
  """Whether a head has a dense layer of its own before its outputs."""
  return TASK_HEADS[name].text and c.summary != POOLER


class TaskLogits(nn.Module):
  """What heads of tasks say, for a model with `config`, `heads` and, where they read it, `pool`.

  A `key` switches the dropout before the head on.
  """

  def answer_logits(self, hidden: Array) -> Array:
    """Logits [B, L, 2] that words of hidden [B, L, D] are the first, the last of an answer. Never any dropout."""
    return self.heads.answer(hidden)

  def tag_logits(self, states: Array, key: Array | None = None) -> Array:
    """Logits [B, K, n] of words, from their states [B, K, D]."""
    return self.decide("tag", states, key)

  def classify_logits(self, hidden: Array, cls: Array, key: Array | None = None) -> Array:
    """Logits [B, K, n] of texts, from hidden [B, L, D] at columns cls [B, K]."""
    return self._of_texts("classify", hidden, cls, key)

  def regress_logits(self, hidden: Array, cls: Array, key: Array | None = None) -> Array:
    """Numbers [B, K, 1] of texts, from hidden [B, L, D] at columns cls [B, K]."""
    return self._of_texts("regress", hidden, cls, key) * self.config.target_scale

  def choose_logits(self, hidden: Array, cls: Array, key: Array | None = None) -> Array:
    """Logits [B, K] of choices, from hidden [B, L, D] at columns cls [B, K]."""
    return self._of_texts("choose", hidden, cls, key)[..., 0]

  def type_logits(self, states: Array, slots: Array, key: Array | None = None) -> Array:
    """Logits [B, K, n] of the mentions at slots [B, K, 1] of states [B, E, D]."""
    return self.decide("type", beside(states, slots), key)

  def relate_logits(self, states: Array, slots: Array, key: Array | None = None) -> Array:
    """Logits [B, K, n] of pairs of mentions, at slots [B, K, 2] of states [B, E, D]."""
    return self.decide("relate", beside(states, slots), key)

  def cloze_logits(self, states: Array, slots: Array, key: Array | None = None) -> Array:
    """Logits [B, K] that a candidate fills a placeholder, at slots [B, K, 2] (placeholder, candidate) of states."""
    return self.decide("cloze", beside(states, slots), key)[..., 0]

  def _of_texts(self, head: str, hidden: Array, cls: Array, key: Array | None) -> Array:
    if self.config.summary == POOLER:
      return self.decide(head, self.pool(hidden, cls), key)
    return getattr(self.heads, head)(gather_columns(hidden, cls), key)

  def decide(self, head: str, x: Array, key: Array | None) -> Array:
    """What a linear head says of states [..., D]."""
    return getattr(self.heads, head)(dropout(x, self.config.task_dropout, key))

  def touch_tasks(self, hidden: Array, cls: Array) -> None:
    """Uses every parameter of the heads of words, texts and mentions once, for `init`."""
    slots = lambda each: jnp.repeat(cls[..., None], each, axis=2)
    uses = {
      "answer": lambda: self.answer_logits(hidden),
      "tag": lambda: self.tag_logits(hidden),
      "classify": lambda: self.classify_logits(hidden, cls),
      "regress": lambda: self.regress_logits(hidden, cls),
      "choose": lambda: self.choose_logits(hidden, cls),
      "type": lambda: self.type_logits(hidden, slots(1)),
      "relate": lambda: self.relate_logits(hidden, slots(2)),
      "cloze": lambda: self.cloze_logits(hidden, slots(2)),
    }
    for name in self.config.heads_on_top:
      if name in uses:
        uses[name]()


def beside(states: Array, slots: Array) -> Array:
  """States [B, E, D] at A slots of each label, slots [B, K, A], side by side: [B, K, A D]."""
  rows, labels, each = slots.shape
  return gather_columns(states, slots.reshape(rows, labels * each)).reshape(rows, labels, each * states.shape[-1])


def scaled_numbers(params: Any, factor: float) -> Any:
  """The tree with the outputs of `regress` times `factor`."""
  last = r"^heads/regress/(output/)?(kernel|bias)$"
  return map_named(lambda path, leaf: leaf * factor if re.search(last, path) else leaf, params)


def task_axes(c: HeadedConfig) -> tuple:
  """Sharding rules of the heads of tasks."""
  rules = []
  for name in c.heads_on_top:
    if name in TASK_HEADS:
      layer = f"{name}/(dense|output)" if summarizes(c, name) else name
      rules.append((rf"^heads/{layer}/kernel$", ("embed", None)))
      rules += [(rf"^heads/{layer}/bias$", (None,))] if TASK_HEADS[name].bias else []
  return tuple(rules)


def fine_tunes(config: Any) -> bool:
  """Whether the objective of a resolved config is a task, or sentence embeddings (`pairs`)."""
  return config.objective.name in ("task", "pairs")


def task_fields(config: Any) -> dict[str, Any]:
  """HeadedConfig fields of the model of a resolved config that fine-tunes; embeddings have no head."""
  if config.objective.name == "pairs":
    return {"heads_on_top": (), "summary": POOLER}
  head, summary = config.objective.kind, summary_of(config.model.name, config.objective.kind)
  classes = 0 if TASK_HEADS[head].outputs else len(config.objective.labels)
  fields = {"heads_on_top": (head,), "classes": classes, "summary": summary}
  return fields | {"target_scale": target_scale(config)}


def target_scale(config: Any) -> float:
  """That of a config, whose objective may have none."""
  return config.objective.get("target_scale", 1.0)


def reads_pooler(heads: Sequence[str], summary: str) -> bool:
  """Whether a task's head is among `heads` that reads the pooler."""
  return summary == POOLER and any(TASK_HEADS[name].text for name in heads if name in TASK_HEADS)
