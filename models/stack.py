"""The layer stack: one `lax.scan` over depth that serves every way of sharing parameters.

Every leaf of a sublayer has a leading axis `copies`, chosen per sublayer: depth (BERT), 1 (ALBERT), or groups times
inner blocks. Depth d = i * inner + j of layer i reads row floor(i * groups / layers) * inner + j. `unroll` and `remat`
change the compiled program and no parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.layers import Array, FeedForward, LayerConfig, SelfAttention, split_key

# What a block keeps for the backward pass. `none` keeps everything, `dots` the results of the weight matrices
# (attention scores and elementwise work are computed again), `full` only the block's input.
REMAT: dict[str, Callable[[Callable], Callable]] = {
  "none": lambda f: f,
  "dots": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
  "full": jax.checkpoint,
}


# Parameter path -> axis names of a stack named `layers`; models put these among their own rules.
STACK_AXES = (
  (r"layers/attention/(query|key|value)/kernel$", ("copies", "embed", "heads", "head_dim")),
  (r"layers/attention/(query|key|value)/bias$", ("copies", "heads", "head_dim")),
  (r"layers/attention/output/kernel$", ("copies", "heads", "head_dim", "embed")),
  (r"layers/ffn/up/kernel$", ("copies", "embed", "mlp")),
  (r"layers/ffn/up/bias$", ("copies", "mlp")),
  (r"layers/ffn/down/kernel$", ("copies", "mlp", "embed")),
  (r"layers/(attention/output|ffn/down)/bias$", ("copies", "embed")),
  (r"layers/(attention|ffn)/norm/(scale|bias)$", ("copies", "embed")),
)


@dataclasses.dataclass(frozen=True)
class Sharing:
  """Groups of layers that share one sublayer's parameters: `layers` groups share nothing, 1 group shares everything."""

  attention_groups: int
  ffn_groups: int
  inner: int = 1  # distinct blocks that every layer runs in order


def copy_rows(layers: int, groups: int, inner: int = 1) -> np.ndarray:
  """Row of `copies` that each of the layers * inner blocks reads (ALBERT's num_hidden_groups, inner_group_num)."""
  depth = np.arange(layers * inner)
  return (depth // inner * groups // layers) * inner + depth % inner


class Stack(nn.Module):
  """`layers` post-norm blocks. x [B, L, D], mask -> (x, outputs of all blocks [depth, B, L, D] | None).

  sublayer: makes the attention sublayer of a LayerConfig; `mask` is what that sublayer takes (SelfAttention: bool
  [B, 1, L, L]).
  """

  config: LayerConfig
  layers: int
  sharing: Sharing
  unroll: int = 1
  remat: str = "none"
  sublayer: Callable[..., SelfAttention] = SelfAttention

  @nn.compact
  def __call__(self, x: Array, mask: Any, key: Array | None, collect: bool = False) -> tuple[Array, Array | None]:
    attention, ffn = self.sublayer(self.config, parent=None), FeedForward(self.config, parent=None)
    rows = {
      "attention": copy_rows(self.layers, self.sharing.attention_groups, self.sharing.inner),
      "ffn": copy_rows(self.layers, self.sharing.ffn_groups, self.sharing.inner),
    }
    example = jnp.zeros((1, 2, self.config.hidden), self.config.dtype)
    params = {
      "attention": self._copies("attention", rows, lambda k: attention.init(k, example, attention.everyone(2), None)),
      "ffn": self._copies("ffn", rows, lambda k: ffn.init(k, example, None)),
    }
    scanned = {name: leaves for name, leaves in params.items() if rows[name].max() > 0}
    shared = {name: jax.tree.map(lambda leaf: leaf[0], p) for name, p in params.items() if name not in scanned}
    scanned = {name: _per_block(leaves, rows[name]) for name, leaves in scanned.items()}

    def block(x, step):
      index, own = step
      layer = {**shared, **own}
      attention_key, ffn_key = split_key(None if key is None else jax.random.fold_in(key, index), 2)
      x = attention.apply({"params": layer["attention"]}, x, mask, attention_key)
      x = ffn.apply({"params": layer["ffn"]}, x, ffn_key)
      return x, (x if collect else None)

    depth = self.layers * self.sharing.inner
    return jax.lax.scan(REMAT[self.remat](block), x, (jnp.arange(depth), scanned), unroll=min(self.unroll, depth))

  def _copies(self, name: str, rows: dict[str, np.ndarray], init: Callable[[Array], Any]) -> Any:
    copies = int(rows[name].max()) + 1
    return self.param(name, lambda key: jax.vmap(lambda k: init(k)["params"])(jax.random.split(key, copies)))


def _per_block(leaves: Any, rows: np.ndarray) -> Any:
  """Leaves [copies, ...] as scanned inputs [depth, ...]: themselves when every block has a row of its own."""
  if np.array_equal(rows, np.arange(len(rows))):
    return leaves
  return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), leaves)
