"""Heads of fine-tuning on an encoder of words and entities: one linear layer each, on states that the task picks.

Names and shapes of the kernels (D the width, n the classes):

- `type` D -> n, of a mention; `relate` 2D -> n without bias, of two; `spans` 3D -> n, of a span's first word, its last
  and the mention that stands for it; `cloze` 2D -> 1, of a placeholder and a candidate (Yamada et al. 2020, section 4).
- `answer` D -> 2 on every word, first and last of an answer; `tag` D -> n on every word.
- `classify` D -> n and `choose` D -> 1 on the pooled [CLS].
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from models.heads import gather_columns
from models.layers import Array, Dense, Init


@dataclasses.dataclass(frozen=True)
class TaskHead:
  """states: how many states of width D it reads together. outputs: None = one a class. pooled: it reads pooled ones."""

  states: int
  outputs: int | None = None
  bias: bool = True
  pooled: bool = False


TASK_HEADS: dict[str, TaskHead] = {
  "type": TaskHead(1),
  "relate": TaskHead(2, bias=False),
  "spans": TaskHead(3),
  "cloze": TaskHead(2, outputs=1),
  "answer": TaskHead(1, outputs=2),
  "tag": TaskHead(1),
  "classify": TaskHead(1, pooled=True),
  "choose": TaskHead(1, outputs=1, pooled=True),
}


def linear(name: str, hidden: int, classes: int, init: Init) -> Dense:
  """The layer of a head; float32, as all that classes are decided from."""
  head = TASK_HEADS[name]
  return Dense((head.states * hidden,), (head.outputs or classes,), init, jnp.float32, head.bias)


def beside(states: Array, slots: Array) -> Array:
  """States [B, E, D] at A slots of each label, slots [B, K, A], side by side: [B, K, A D]."""
  rows, labels, each = slots.shape
  return gather_columns(states, slots.reshape(rows, labels * each)).reshape(rows, labels, each * states.shape[-1])


def task_axes(names: tuple[str, ...]) -> tuple:
  """Sharding rules of the heads among `names`."""
  rules = []
  for name in names:
    if name in TASK_HEADS:
      rules.append((rf"^heads/{name}/kernel$", ("embed", None)))
      rules += [(rf"^heads/{name}/bias$", (None,))] if TASK_HEADS[name].bias else []
  return tuple(rules)
