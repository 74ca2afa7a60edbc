"""BERT (Devlin et al. 2019): encoder, tanh pooler, masked-token and sentence-pair heads, or the head of a task.

ALBERT and RoBERTa are this module with other choices: see `models/albert.py` and `models/roberta.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data.batch import Tokens
from models.encoder import MLM_AXES, Encoder, common_fields, encoder_axes, masked_token_head
from models.heads import Pooler, gather_columns
from models.layers import Array, Dense
from models.stack import Sharing
from models.task_heads import (
  HeadedConfig,
  TaskLogits,
  fine_tunes,
  reads_pooler,
  task_axes,
  task_fields,
  task_heads,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(HeadedConfig):
  """An encoder with what BERT puts on top.

  pooler: the tanh layer on [CLS]. heads: `mlm` on the tied word table, `pair` (two classes) on the pooler, tasks.
  """

  pooler: bool
  heads_on_top: tuple[str, ...] = ("mlm", "pair")


class Heads(nn.Module):
  """The heads of pretraining and of tasks."""

  config: BertConfig

  def setup(self):
    c = self.config
    if "mlm" in c.heads_on_top:
      self.mlm = masked_token_head(c)
    if "pair" in c.heads_on_top:
      self.pair = Dense((c.hidden,), (2,), c.init, jnp.float32)
    for name, head in task_heads(c).items():
      setattr(self, name, head)


class Bert(Encoder, TaskLogits):
  """BERT with the heads of its config, as pure `init`/`apply`."""

  config: BertConfig

  def setup(self):
    super().setup()
    c = self.config
    if c.pooler:
      self.pooler = Pooler(c.hidden, c.init, c.dtype)
    self.heads = self._heads()

  def _heads(self) -> nn.Module:
    return Heads(self.config)

  def token_logits(self, hidden: Array, columns: Array) -> Array:
    """float32 logits [B, P, V'] at columns [B, P]."""
    return self.heads.mlm(gather_columns(hidden, columns), self.embeddings.word.embedding)

  def fill_logits(self, ids: Array, tokens: Tokens, columns: Array) -> Array:
    """float32 logits [B, P, V'] of what stands at columns [B, P] of ids [B, L]."""
    return self.token_logits(self(ids, tokens).hidden, columns)

  def pool(self, hidden: Array, cls: Array) -> Array:
    """Pooled [CLS] states [B, S, D] at columns cls [B, S]."""
    return self.pooler(hidden, cls)

  def pair_logits(self, hidden: Array, cls: Array) -> Array:
    """float32 logits [B, S, 2] of the sentence-pair decision."""
    return self.heads.pair(self.pooler(hidden, cls))

  def everything(self, tokens: Tokens) -> None:
    """Touches every parameter once, for `init`."""
    hidden, first = self(tokens.ids, tokens).hidden, tokens.ids[:, :1] * 0
    if self.config.pooler:
      self.pool(hidden, first)
    if "mlm" in self.config.heads_on_top:
      self.token_logits(hidden, first)
    if "pair" in self.config.heads_on_top:
      self.pair_logits(hidden, first)
    self.touch_tasks(hidden, first)

  def axes(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Parameter path -> axis names, first match; every leaf has a rule and every rule a leaf."""
    c = self.config
    return (
      *encoder_axes(c),
      *(POOLER_AXES if c.pooler else ()),
      *(MLM_AXES if "mlm" in c.heads_on_top else ()),
      *(PAIR_AXES if "pair" in c.heads_on_top else ()),
      *task_axes(c),
    )


POOLER_AXES = ((r"^pooler/dense/kernel$", ("embed", None)), (r"^pooler/dense/bias$", (None,)))
PAIR_AXES = ((r"^heads/pair/kernel$", ("embed", None)), (r"^heads/pair/bias$", (None,)))


def on_top(config: Any) -> dict[str, Any]:
  """BertConfig fields that follow from the objective; in pretraining a pair decision needs the pooler."""
  if fine_tunes(config):
    fields = task_fields(config)
    return fields | {"pooler": reads_pooler(fields["heads_on_top"], fields["summary"])}
  pair = config.objective.pair != "none"
  return {"pooler": pair, "heads_on_top": ("mlm", "pair") if pair else ("mlm",)}


def unshared(config: Any, dtype: Any) -> dict[str, Any]:
  """EncoderConfig fields of a model whose tables are as wide as its layers, which share nothing."""
  model = config.model
  sharing = Sharing(model.layers, model.layers)
  return {**common_fields(model, dtype), "embedding": model.hidden, "sharing": sharing}


def build(config: Any, dtype: Any) -> Bert:
  """The Bert of a resolved config."""
  return Bert(BertConfig(**unshared(config, dtype), **on_top(config)))
