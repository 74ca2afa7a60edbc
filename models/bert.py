"""BERT (Devlin et al. 2019): embeddings, post-norm encoder, tanh pooler, masked-token and next-sentence heads."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data.batch import Tokens
from models.encoded import Encoded
from models.heads import MaskedTokenHead, Pooler, gather_columns
from models.layers import (
  Array,
  Dense,
  LayerConfig,
  LayerNorm,
  Table,
  attention_mask,
  dropout,
  split_key,
  truncated_normal,
)
from models.stack import STACK_AXES, Sharing, Stack

TABLE_MULTIPLE = 128  # rows of vocabulary tables are padded to this, whatever the mesh, so that every mesh divides them


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Sizes and choices of one BERT. `activation` gelu is the exact erf form."""

  vocab_size: int
  hidden: int
  layers: int
  heads: int
  ffn: int
  max_positions: int
  types: int
  dropout: float
  attention_dropout: float
  activation: str
  norm_eps: float
  init_std: float
  pooler: bool  # the tanh pooler and the next-sentence head that reads it
  remat: str
  unroll: int
  dtype: Any = jnp.float32

  @property
  def padded_vocab(self) -> int:
    return -(-self.vocab_size // TABLE_MULTIPLE) * TABLE_MULTIPLE

  @property
  def layer(self) -> LayerConfig:
    return LayerConfig(
      self.hidden, self.heads, self.ffn, self.dropout, self.attention_dropout, self.activation, self.norm_eps,
      self.init_std, self.dtype,
    )  # fmt: skip


class Embeddings(nn.Module):
  """Sum of word, position and type embeddings, layer norm, dropout. ids, types, positions [B, L] -> [B, L, D]."""

  config: BertConfig

  def setup(self):
    c = self.config
    self.word = Table(c.padded_vocab, c.hidden, c.init_std)
    self.position = Table(c.max_positions, c.hidden, c.init_std)
    self.type = Table(c.types, c.hidden, c.init_std)
    self.norm = LayerNorm(c.hidden, c.norm_eps, c.dtype)

  def __call__(self, ids: Array, tokens: Tokens, key: Array | None) -> Array:
    x = self.word(ids) + self.position(tokens.positions) + self.type(tokens.types)
    return dropout(self.norm(x), self.config.dropout, key)


class Heads(nn.Module):
  """The pretraining heads: `mlm` on the tied word table, `pair` on the pooled [CLS] (two classes)."""

  config: BertConfig

  def setup(self):
    c = self.config
    self.mlm = MaskedTokenHead(
      c.hidden, c.hidden, c.vocab_size, c.padded_vocab, c.activation, c.norm_eps, c.init_std, c.dtype
    )
    if c.pooler:
      self.pair = Dense((c.hidden,), (2,), truncated_normal(c.init_std), jnp.float32)


class Bert(nn.Module):
  """BERT with its pretraining heads, as pure `init`/`apply`."""

  config: BertConfig

  def setup(self):
    c = self.config
    self.embeddings = Embeddings(c)
    self.layers = Stack(c.layer, c.layers, Sharing(c.layers, c.layers), c.unroll, c.remat)
    if c.pooler:
      self.pooler = Pooler(c.hidden, c.init_std, c.dtype)
    self.heads = Heads(c)

  def __call__(self, ids: Array, tokens: Tokens, key: Array | None = None, collect: bool = False) -> Encoded:
    """Encodes `ids` [B, L] in the layout (types, segments, positions) of `tokens`; `key` switches dropout on."""
    embedding_key, layer_key = split_key(key, 2)
    x = self.embeddings(ids, tokens, embedding_key)
    hidden, outputs = self.layers(x, attention_mask(tokens.segments), layer_key, collect)
    layers = jnp.concatenate([x[None], outputs]) if collect else None
    return Encoded(hidden, layers=layers)

  def token_logits(self, hidden: Array, columns: Array) -> Array:
    """float32 logits [B, P, V'] at columns [B, P]."""
    return self.heads.mlm(gather_columns(hidden, columns), self.embeddings.word.embedding)

  def pool(self, hidden: Array, cls: Array) -> Array:
    """Pooled [CLS] states [B, S, D] at columns cls [B, S]."""
    return self.pooler(hidden, cls)

  def pair_logits(self, hidden: Array, cls: Array) -> Array:
    """float32 logits [B, S, 2] of the sentence-pair decision."""
    return self.heads.pair(self.pooler(hidden, cls))

  def everything(self, tokens: Tokens) -> None:
    """Touches every parameter once, for `init`."""
    hidden = self(tokens.ids, tokens).hidden
    self.token_logits(hidden, tokens.ids[:, :1] * 0)
    if self.config.pooler:
      self.pair_logits(hidden, tokens.ids[:, :1] * 0)

  def table_sizes(self) -> dict[str, int]:
    """Real sizes of the axes that are padded."""
    return {"vocab": self.config.vocab_size}

  def axes(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Parameter path -> axis names, first match; every leaf has a rule and every rule a leaf."""
    pooler = (
      (r"^(pooler/dense|heads/pair)/kernel$", ("embed", None)),
      (r"^(pooler/dense|heads/pair)/bias$", (None,)),
    )
    return (
      (r"^embeddings/word/embedding$", ("vocab", "embed")),
      (r"^embeddings/(position|type)/embedding$", (None, "embed")),
      (r"^embeddings/norm/(scale|bias)$", ("embed",)),
      *STACK_AXES,
      (r"^heads/mlm/dense/kernel$", ("embed", None)),
      (r"^heads/mlm/dense/bias$", (None,)),
      (r"^heads/mlm/norm/(scale|bias)$", ("embed",)),
      (r"^heads/mlm/bias$", ("vocab",)),
      *(pooler if self.config.pooler else ()),
    )


def build(model: Any, dtype: Any, pair: bool) -> Bert:
  """The Bert of a config's `model` group; `pair` keeps the pooler and the next-sentence head."""
  return Bert(
    BertConfig(
      vocab_size=model.vocab_size,
      hidden=model.hidden,
      layers=model.layers,
      heads=model.heads,
      ffn=model.ffn,
      max_positions=model.max_positions,
      types=model.types,
      dropout=model.dropout,
      attention_dropout=model.attention_dropout,
      activation=model.activation,
      norm_eps=model.norm_eps,
      init_std=model.init_std,
      pooler=pair,
      remat=model.remat,
      unroll=model.unroll,
      dtype=dtype,
    )
  )
