"""LUKE (Yamada et al. 2020) and mLUKE (Ri et al. 2022): RoBERTa over words and the entities that they mention.

An entity is embedded by its own row of a table, the mean of the position vectors of its mention's pieces, and a type
vector; words and entities pass the same layers as one sequence. Pretraining asks everything with one query matrix;
`query_kinds=4` is the entity-aware attention that fine-tuning adds (`models/entity_attention.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from data.batch import Entities, Tokens
from models.bert import Bert, BertConfig, Heads, on_top, unshared
from models.encoded import Encoded
from models.encoder import padded
from models.entity_attention import EntityAttention, split_mask
from models.heads import MaskedTokenHead, gather_columns
from models.layers import Array, Dense, LayerNorm, SelfAttention, Table, attention_mask, dropout, split_key
from models.roberta import PADDING
from models.task_heads import beside, fine_tunes


@dataclasses.dataclass(frozen=True, kw_only=True)
class LukeConfig(BertConfig):
  """RoBERTa with entities.

  Attributes:
    entity_vocab_size: rows of the entity table in use.
    entity_embedding: width of that table; a dense layer without bias maps it to D where it is another.
    query_kinds: 1, or 4 = entity-aware attention.
    attention: how that is computed, auto | dense | doubled | merged.
    heads_on_top: of mlm, entity, and the names of TASK_HEADS.
  """

  entity_vocab_size: int
  entity_embedding: int = 256
  query_kinds: int = 1
  attention: str = "auto"
  heads_on_top: tuple[str, ...] = ("mlm", "entity")

  @property
  def padded_entities(self) -> int:
    return padded(self.entity_vocab_size)

  @property
  def sublayer(self) -> Callable[..., SelfAttention]:
    if self.query_kinds == 1:
      return SelfAttention
    return functools.partial(EntityAttention, form=self.attention)


class EntityEmbeddings(nn.Module):
  """Entity, mean position of its mention, type; layer norm, dropout. Entities of [B, E] -> [B, E, D].

  A position is that of the piece in its example, from 0 on; tables are its own, none is the words'. A mention without
  pieces has the zero vector for its position.
  """

  config: LukeConfig

  def setup(self):
    c = self.config
    self.entity = Table(c.padded_entities, c.entity_embedding, c.init, used=c.entity_vocab_size)
    if c.entity_embedding != c.hidden:
      self.dense = Dense((c.entity_embedding,), (c.hidden,), c.init, c.dtype, use_bias=False)
    self.position = Table(c.max_positions + c.position_offset, c.hidden, c.init)
    self.type = Table(1, c.hidden, c.init)
    self.norm = LayerNorm(c.hidden, c.norm_eps, c.dtype)

  def __call__(self, entities: Entities, tokens: Tokens, key: Array | None) -> Array:
    c = self.config
    x = self.entity(entities.ids)
    x = self.dense(x) if c.entity_embedding != c.hidden else x
    places = jnp.take_along_axis(tokens.positions[:, None], jnp.maximum(entities.positions, 0), axis=2)
    places = jnp.where(entities.positions >= 0, places, -1)
    x = x + mean_rows(self.position.embedding, places) + self.type.embedding[0]
    return dropout(self.norm(x), c.dropout, key)


def mean_rows(table: Array, rows: Array) -> Array:
  """Mean over M of rows [B, E, M] of a table [R, D], -1 = none: float32 [B, E, D], zeros where all are.

  As a product with how often each row occurs: nothing of size M x D is made, and no gradient is scattered.
  """
  occurs = jnp.sum(rows[..., None] == jnp.arange(len(table)), axis=2, dtype=jnp.float32)
  share = occurs / jnp.maximum(jnp.sum(occurs, axis=-1, keepdims=True), 1e-7)
  return jnp.einsum("BER,RD->BED", share, table, precision=jax.lax.Precision.HIGHEST)


class LukeHeads(Heads):
  """BERT's masked words, masked entities, and heads of tasks."""

  config: LukeConfig

  def setup(self):
    super().setup()
    c = self.config
    if "entity" in c.heads_on_top:
      self.entity = MaskedTokenHead(
        c.hidden, c.entity_embedding, c.entity_vocab_size, c.padded_entities, c.activation, c.norm_eps, c.init, c.dtype
      )


class Luke(Bert):
  """LUKE with the heads of its config, as pure `init`/`apply`.

  Logits of tasks take a `key` that switches the dropout before the head on.
  """

  config: LukeConfig

  def setup(self):
    super().setup()
    self.entity_embeddings = EntityEmbeddings(self.config)

  def _heads(self) -> nn.Module:
    return LukeHeads(self.config)

  def __call__(
    self,
    ids: Array,
    tokens: Tokens,
    key: Array | None = None,
    collect: bool = False,
    entities: Entities | None = None,
  ) -> Encoded:
    """Encodes `ids` [B, L] in the layout of `tokens`, with or without entities; `key` switches dropout on.

    `layers`, if collected, are those of the words. An entity sees, and is seen by, its own packed example.
    """
    word_key, entity_key, layer_key = split_key(key, 3)
    x, segments, words = self.embeddings(ids, tokens, word_key), tokens.segments, ids.shape[1]
    if entities is not None:
      x = jnp.concatenate([x, self.entity_embeddings(entities, tokens, entity_key)], axis=1)
      segments = jnp.concatenate([segments, entities.segments], axis=1)
    hidden, outputs = self.layers(x, self._mask(segments, words), layer_key, collect)
    return Encoded(
      hidden[:, :words],
      layers=jnp.concatenate([x[None], outputs])[:, :, :words] if collect else None,
      entities=None if entities is None else hidden[:, words:],
    )

  def _mask(self, segments: Array, words: int) -> Any:
    """What the attention sublayers take."""
    mask = attention_mask(segments)
    if self.config.query_kinds == 1:
      return mask
    return split_mask(mask, words) if segments.shape[1] > words else (mask, None)

  def fill_logits(self, ids: Array, tokens: Tokens, columns: Array, entities: Entities | None = None) -> Array:
    """float32 logits [B, P, V'] of what stands at columns [B, P] of ids [B, L]."""
    return self.token_logits(self(ids, tokens, entities=entities).hidden, columns)

  def entity_logits(self, states: Array, slots: Array) -> Array:
    """float32 logits [B, J, Ve'] of the entities at slots [B, J] of states [B, E, D]."""
    return self.heads.entity(gather_columns(states, slots), self.entity_embeddings.entity.embedding)

  def entity_scores(self, states: Array, slots: Array) -> tuple[Array, Array, Array]:
    """What entity_logits multiply: (x [B, J, 256], the entity table [Ve', 256], float32 bias [Ve'])."""
    head = self.heads.entity
    return head.transform(gather_columns(states, slots)), self.entity_embeddings.entity.embedding, head.masked_bias()

  def span_logits(self, hidden: Array, entities: Array, spans: Array, slots: Array, key: Array | None = None) -> Array:
    """Logits [B, K, n] of spans [B, K, 2] (first and last column of hidden [B, L, D]) with mentions at [B, K, 1]."""
    return self.decide("spans", jnp.concatenate([beside(hidden, spans), beside(entities, slots)], axis=-1), key)

  def everything(self, tokens: Tokens, entities: Entities) -> None:
    """Touches every parameter once, for `init`."""
    super().everything(tokens)
    encoded = self(tokens.ids, tokens, entities=entities)
    hidden, states, first = encoded.hidden, encoded.entities, tokens.ids[:, :1] * 0
    slots = lambda each: jnp.repeat(first[..., None], each, axis=2)
    uses = {
      "entity": lambda: self.entity_scores(states, first),
      "spans": lambda: self.span_logits(hidden, states, slots(2), slots(1)),
    }
    for name in self.config.heads_on_top:
      if name in uses:
        uses[name]()

  def axes(self) -> tuple:
    c = self.config
    return (
      *ENTITY_AXES,
      *(DENSE_AXES if c.entity_embedding != c.hidden else ()),
      *(QUERY_AXES if c.query_kinds == 4 else ()),
      *(ENTITY_HEAD_AXES if "entity" in c.heads_on_top else ()),
      *super().axes(),
    )

  def table_sizes(self) -> dict[str, int]:
    return {**super().table_sizes(), "entities": self.config.entity_vocab_size}


# Positions, types and norm of entities are under the rules of the words'.
ENTITY_AXES = ((r"^entity_embeddings/entity/embedding$", ("entities", "embed")),)
DENSE_AXES = ((r"^entity_embeddings/dense/kernel$", (None, "embed")),)
QUERY_AXES = (
  (r"layers/attention/(word|entity)_to_(word|entity)/kernel$", ("copies", "embed", "heads", "head_dim")),
  (r"layers/attention/(word|entity)_to_(word|entity)/bias$", ("copies", "heads", "head_dim")),
)
ENTITY_HEAD_AXES = (
  (r"^heads/entity/dense/kernel$", ("embed", None)),
  (r"^heads/entity/dense/bias$", (None,)),
  (r"^heads/entity/norm/(scale|bias)$", ("embed",)),
  (r"^heads/entity/bias$", ("entities",)),
)


def build(config: Any, dtype: Any) -> Luke:
  """The LUKE of a resolved config: with its pretraining heads and no pooler, which pretraining does not train, or with
  the head of a task.
  """
  model = config.model
  pretraining = {"pooler": False, "heads_on_top": ("mlm", "entity")}
  return Luke(
    LukeConfig(
      **unshared(config, dtype),
      **(on_top(config) if fine_tunes(config) else pretraining),
      position_offset=PADDING + 1,
      zero_padding=PADDING,
      entity_vocab_size=model.entity_vocab_size,
      entity_embedding=model.entity_embedding,
      query_kinds=model.query_kinds,
      attention=model.attention,
    )
  )
