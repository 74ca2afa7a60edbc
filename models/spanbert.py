"""SpanBERT (Joshi et al. 2020): BERT with a head that predicts a masked span from its boundaries (section 3.2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data.batch import Tokens
from models.bert import Bert, BertConfig, Heads, on_top, unshared
from models.heads import gather_columns, tied_logits
from models.layers import ACTIVATIONS, Array, Dense, LayerNorm, Table
from models.task_heads import fine_tunes


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanBertConfig(BertConfig):
  """span_positions: places inside a span that the boundary head tells apart. span_width: width of their embedding."""

  span_positions: int
  span_width: int = 200


class BoundaryHead(nn.Module):
  """[left state; right state; place in the span] -> two layers of dense, GELU, layer norm -> the tied table and a bias.

  left, right [B, P, D], offsets [B, P] from 0, table [V', E] -> float32 logits [B, P, V'].
  """

  config: SpanBertConfig

  @nn.compact
  def __call__(self, left: Array, right: Array, offsets: Array, table: Array) -> Array:
    c = self.config
    place = Table(c.span_positions, c.span_width, c.init, name="place")(offsets).astype(c.dtype)
    x = jnp.concatenate([left, right, place], axis=-1)
    for number, width in enumerate((2 * c.hidden + c.span_width, c.hidden)):
      x = Dense((width,), (c.hidden,), c.init, c.dtype, name=f"dense_{number}")(x)
      x = LayerNorm(c.hidden, c.norm_eps, c.dtype, name=f"norm_{number}")(ACTIVATIONS[c.activation](x))
    return tied_logits(x, table, self.param("bias", nn.initializers.zeros, (c.padded_vocab,)), c.vocab_size)


class SpanHeads(Heads):
  """BERT's heads and the boundary head `sbo`."""

  config: SpanBertConfig

  def setup(self):
    super().setup()
    if "sbo" in self.config.heads_on_top:
      self.sbo = BoundaryHead(self.config)


class SpanBert(Bert):
  """SpanBERT with its pretraining heads, as pure `init`/`apply`."""

  config: SpanBertConfig

  def _heads(self) -> nn.Module:
    return SpanHeads(self.config)

  def boundary_logits(self, hidden: Array, edges: Array, offsets: Array) -> Array:
    """float32 logits [B, P, V'] of tokens `offsets` [B, P] of the spans between columns `edges` [B, P, 2].

    Where there is no span (edges -1) they are of no meaning, and finite.
    """
    left, right = (gather_columns(hidden, jnp.maximum(edges[..., side], 0)) for side in (0, 1))
    return self.heads.sbo(left, right, offsets, self.embeddings.word.embedding)

  def everything(self, tokens: Tokens) -> None:
    super().everything(tokens)
    if "sbo" in self.config.heads_on_top:
      first = tokens.ids[:, :1] * 0
      self.boundary_logits(self(tokens.ids, tokens).hidden, jnp.stack([first, first], -1), first)

  def axes(self) -> tuple:
    return (*super().axes(), *(SBO_AXES if "sbo" in self.config.heads_on_top else ()))


SBO_AXES = (
  (r"^heads/sbo/place/embedding$", (None, None)),
  (r"^heads/sbo/dense_0/kernel$", (None, "embed")),
  (r"^heads/sbo/dense_1/kernel$", (None, "embed")),
  (r"^heads/sbo/(dense|norm)_\d/(bias|scale)$", ("embed",)),
  (r"^heads/sbo/bias$", ("vocab",)),
)


def build(config: Any, dtype: Any) -> SpanBert:
  """The SpanBERT of a resolved config."""
  parts = on_top(config)
  if not fine_tunes(config) and config.objective.sbo > 0:
    parts["heads_on_top"] += ("sbo",)
  return SpanBert(
    SpanBertConfig(
      **unshared(config, dtype),
      **parts,
      span_positions=config.model.span_positions,
    )
  )
