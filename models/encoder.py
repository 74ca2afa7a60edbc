"""The encoder under BERT, RoBERTa, ALBERT, ELECTRA and SpanBERT: embeddings, a projection where widths differ, a stack.

The embeddings sum word, position and type (if the model has types) at width E, then layer norm and dropout; where E is
not the hidden width D a dense layer maps E to D (ALBERT, ELECTRA).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data.batch import Tokens
from models.encoded import Encoded
from models.heads import MaskedTokenHead
from models.layers import (
  Array,
  Dense,
  Init,
  LayerConfig,
  LayerNorm,
  SelfAttention,
  Table,
  attention_mask,
  dropout,
  split_key,
)
from models.stack import STACK_AXES, Sharing, Stack

TABLE_MULTIPLE = 128  # rows of vocabulary tables are padded to this, whatever the mesh, so that every mesh divides them


def padded(rows: int) -> int:
  """Rows of a table that holds `rows` of a vocabulary."""
  return -(-rows // TABLE_MULTIPLE) * TABLE_MULTIPLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
  """Sizes and choices of one encoder.

  Attributes:
    embedding: width E of the tables.
    max_positions: the longest input; the position table has `position_offset` rows more.
    position_offset: row of the first token's position (RoBERTa: 2, behind the padding's row 1).
    types: token types; 0 = the model has none.
    activation: gelu is the exact erf form.
    sharing: which layers share which sublayers.
    projection: a dense layer between embeddings and stack; needed where E is not D.
    zero_padding: id of a word, and row of a position, that start at zero (RoBERTa's padding), or None.
  """

  vocab_size: int
  embedding: int
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
  init: Init
  sharing: Sharing
  projection: bool = False
  position_offset: int = 0
  zero_padding: int | None = None
  remat: str = "none"
  unroll: int = 1
  dtype: Any = jnp.float32

  @property
  def padded_vocab(self) -> int:
    return padded(self.vocab_size)

  @property
  def depth(self) -> int:
    """Blocks that an input passes."""
    return self.layers * self.sharing.inner

  @property
  def sublayer(self) -> Callable[..., SelfAttention]:
    """What makes the attention sublayers."""
    return SelfAttention

  @property
  def layer(self) -> LayerConfig:
    return LayerConfig(
      self.hidden, self.heads, self.ffn, self.dropout, self.attention_dropout, self.activation, self.norm_eps,
      self.init, self.dtype,
    )  # fmt: skip


class Embeddings(nn.Module):
  """Sum of word, position and type embeddings, layer norm, dropout. ids, types, positions [B, L] -> [B, L, E]."""

  config: EncoderConfig

  def setup(self):
    c = self.config
    self.word = Table(c.padded_vocab, c.embedding, c.init, c.zero_padding, c.vocab_size)
    self.position = Table(c.max_positions + c.position_offset, c.embedding, c.init, c.zero_padding)
    if c.types:
      self.type = Table(c.types, c.embedding, c.init)
    self.norm = LayerNorm(c.embedding, c.norm_eps, c.dtype)

  def __call__(self, ids: Array, tokens: Tokens, key: Array | None) -> Array:
    c = self.config
    x = self.word(ids) + self.position(tokens.positions + c.position_offset)
    if c.types == 1:
      x = x + self.type.embedding[0]  # whatever the batch says: there is no second one
    elif c.types:
      x = x + self.type(tokens.types)
    return dropout(self.norm(x), c.dropout, key)


class Trunk(nn.Module):
  """An encoder without its tables: the projection, if there is one, and the stack."""

  config: EncoderConfig

  def setup(self):
    c = self.config
    if c.projection:
      self.projection = Dense((c.embedding,), (c.hidden,), c.init, c.dtype)
    self.layers = Stack(c.layer, c.layers, c.sharing, c.unroll, c.remat, c.sublayer)

  def contextualize(self, x: Array, segments: Array, key: Array | None, collect: bool = False) -> Encoded:
    """Embedded tokens x [B, L, E] in context; `layers`, if collected, begin with what enters the first block."""
    if self.config.projection:
      x = self.projection(x)
    hidden, outputs = self.layers(x, attention_mask(segments), key, collect)
    return Encoded(hidden, layers=jnp.concatenate([x[None], outputs]) if collect else None)


class Encoder(Trunk):
  """Embeddings and trunk, as pure `init`/`apply`."""

  def setup(self):
    super().setup()
    self.embeddings = Embeddings(self.config)

  def __call__(self, ids: Array, tokens: Tokens, key: Array | None = None, collect: bool = False) -> Encoded:
    """Encodes `ids` [B, L] in the layout (types, segments, positions) of `tokens`; `key` switches dropout on."""
    embedding_key, layer_key = split_key(key, 2)
    x = self.embeddings(ids, tokens, embedding_key)
    return self.contextualize(x, tokens.segments, layer_key, collect)

  def table_sizes(self) -> dict[str, int]:
    """Real sizes of the axes that are padded."""
    return {"vocab": self.config.vocab_size}


def masked_token_head(c: EncoderConfig) -> MaskedTokenHead:
  """The head that predicts words with the encoder's own table."""
  return MaskedTokenHead(c.hidden, c.embedding, c.vocab_size, c.padded_vocab, c.activation, c.norm_eps, c.init, c.dtype)


# Parameter path -> axis names. A model puts together those of the parts it has.
MLM_AXES = (
  (r"^heads/mlm/dense/kernel$", ("embed", None)),
  (r"^heads/mlm/dense/bias$", (None,)),
  (r"^heads/mlm/norm/(scale|bias)$", ("embed",)),
  (r"^heads/mlm/bias$", ("vocab",)),
)
PROJECTION_AXES = ((r"projection/kernel$", (None, "embed")), (r"projection/bias$", ("embed",)))


def embedding_axes(c: EncoderConfig) -> tuple:
  """Rules of the tables named `embeddings`."""
  return (
    (r"embeddings/word/embedding$", ("vocab", "embed")),
    (r"embeddings/(position|type)/embedding$" if c.types else r"embeddings/position/embedding$", (None, "embed")),
    (r"embeddings/norm/(scale|bias)$", ("embed",)),
  )


def encoder_axes(c: EncoderConfig) -> tuple:
  """Rules of an encoder."""
  return (*embedding_axes(c), *(PROJECTION_AXES if c.projection else ()), *STACK_AXES)


def common_fields(model: Any, dtype: Any) -> Mapping[str, Any]:
  """EncoderConfig fields from the keys that the `model` group of every recipe has."""
  return {
    "vocab_size": model.vocab_size,
    "hidden": model.hidden,
    "layers": model.layers,
    "heads": model.heads,
    "ffn": model.ffn,
    "max_positions": model.max_positions,
    "types": model.types,
    "dropout": model.dropout,
    "attention_dropout": model.attention_dropout,
    "activation": model.activation,
    "norm_eps": model.norm_eps,
    "init": Init(model.init_std, model.init == "truncated_normal"),
    "remat": model.remat,
    "unroll": model.unroll,
    "dtype": dtype,
  }
