"""What an encoder returns."""

from __future__ import annotations

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
  """hidden [B, L, D] of the last layer; pooled [B, S, D] | None; layers | None: [T+1, B, L, D], embeddings first;
  entities [B, E, D] | None: states of the mentions beside the tokens (LUKE)."""

  hidden: jax.Array
  pooled: jax.Array | None = None
  layers: jax.Array | None = None
  entities: jax.Array | None = None
