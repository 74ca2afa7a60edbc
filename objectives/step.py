"""The one train step: every model and every task goes through `make_step`.

Denominators come from the whole batch before it is split, so 1 and N micro-batches give the same update. If anything is
not finite, nothing changes but `cursor` and `skipped`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data.batch import batch_size, split_rows
from models.paths import merge, split
from objectives.base import Array, Draws, Objective, Terms
from objectives.optimizers import Optimizer
from objectives.state import State


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepReport:
  """What a step tells: sums, counts, statistics, gradient norm before the clip, rate, whether it was applied."""

  sums: Terms
  counts: Terms
  statistics: dict[str, Array]
  grad_norm: Array
  lr: Array
  applied: Array


@dataclasses.dataclass(frozen=True)
class StepSettings:
  """What a stage fixes. loss_scale: `mean` (each term over its count), `sum`, or a factor on the mean, before the clip.

  freeze: patterns of parameter paths that take no gradient. schedule_start: the step that the schedule counts from.
  """

  seed: int
  micro_batches: int
  loss_scale: str | float
  freeze: tuple[str, ...] = ()
  schedule_start: int = 0


def make_step(
  objective: Objective, optimizer: Optimizer, settings: StepSettings, mesh: Mesh
) -> Callable[[State, Any], tuple[State, StepReport]]:
  """The pure function (state, batch) -> (state, report) of a stage; the caller jits it with shardings and donation."""
  if settings.micro_batches > 1 and not objective.separable:
    raise ValueError(
      f"micro_batches: got {settings.micro_batches}, want 1: this objective's terms are no sums over rows; "
      "set micro_batches=1"
    )

  def step(state: State, batch: Any) -> tuple[State, StepReport]:
    counts = objective.counts(batch)
    trainable, frozen = split(state.params, settings.freeze)
    gradient = _gradient(objective, settings, mesh, counts, frozen)
    grads, (sums, statistics, carry) = gradient(trainable, state.carry, batch, state.cursor)
    norm = optax.tree.norm(grads)
    finite = is_finite(norm, sums, carry)
    scale = optimizer.clip / jnp.maximum(norm, optimizer.clip) if optimizer.clip else 1.0
    lr = jnp.asarray(optimizer.schedule(state.step - settings.schedule_start), jnp.float32)

    def update(trainable, opt, _):
      clipped = jax.tree.map(lambda g: g * scale, grads)
      direction, opt = optimizer.transform.update(clipped, opt, trainable)
      return jax.tree.map(lambda p, d: p - lr * d, trainable, direction), opt, carry

    # A branch, not a choice per element: that would copy every moment first.
    trainable, opt, carry = jax.lax.cond(finite, update, lambda *old: old, trainable, state.opt, state.carry)
    applied = finite.astype(jnp.int32)
    state = State(
      state.step + applied, state.cursor + 1, state.skipped + 1 - applied, merge(trainable, frozen), opt, carry
    )
    return state, StepReport(sums, counts, statistics, norm, lr, finite)

  return step


def _gradient(objective: Objective, settings: StepSettings, mesh: Mesh, counts: Terms, frozen: dict) -> Callable:
  """(trainable, carry, batch, cursor) -> (gradient of sum_k w_k S_k / n_k, (sums, statistics, carry))."""
  denominators = {term: 1.0 if settings.loss_scale == "sum" else jnp.maximum(n, 1) for term, n in counts.items()}
  factor = settings.loss_scale if isinstance(settings.loss_scale, float) else 1.0
  root = jax.random.fold_in(jax.random.key(settings.seed), 1)

  def loss(trainable, carry, batch, draws):
    sums, statistics, carry = objective.sums(merge(trainable, frozen), carry, batch, draws, train=True)
    total = sum(objective.weights[term] * sums[term] / denominators[term] for term in sums)
    return total * factor, (sums, statistics, carry)

  grad = jax.grad(loss, has_aux=True)

  def whole(trainable, carry, batch, cursor):
    rows = jnp.arange(batch_size(batch))
    return grad(trainable, carry, batch, Draws(root, cursor, jnp.zeros((), jnp.int32), rows))

  def accumulated(trainable, carry, batch, cursor):
    rows, rebuild = split_rows(batch)
    inputs = _strided((rows, carry, jnp.arange(batch_size(batch))), settings.micro_batches, mesh)

    def micro_step(micro, inputs):
      rows, carry, numbers = inputs
      grads, (sums, statistics, carry) = grad(trainable, carry, rebuild(rows), Draws(root, cursor, micro, numbers))
      return (grads, sums, statistics), carry

    def add(total, inputs):
      addend, carry = micro_step(*inputs)
      return jax.tree.map(jnp.add, total, addend), carry

    shapes, _ = jax.eval_shape(lambda: micro_step(cursor, jax.tree.map(lambda leaf: leaf[0], inputs)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (grads, sums, statistics), carry = jax.lax.scan(add, zeros, (jnp.arange(settings.micro_batches), inputs))
    return grads, (sums, statistics, _unstrided(carry))

  return whole if settings.micro_batches == 1 else accumulated


def _strided(tree: Any, micro_batches: int, mesh: Mesh) -> Any:
  """[B, ...] -> [M, B/M, ...] with micro-batch m holding rows m, M + m, ...

  Striding keeps every device's rows on that device; cutting the batch in blocks would all-gather it.
  """
  sharding = NamedSharding(mesh, P(None, "data"))

  def one(leaf):
    leaf = leaf.reshape(leaf.shape[0] // micro_batches, micro_batches, *leaf.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(leaf, sharding)

  return jax.tree.map(one, tree)


def _unstrided(tree: Any) -> Any:
  """[M, B/M, ...] -> [B, ...], the inverse of `_strided`."""
  return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), tree)


def is_finite(grad_norm: Array, sums: Terms, carry: Any) -> Array:
  """Whether an update may be applied: finite gradients bound everything that the optimiser computes from them."""
  leaves = (grad_norm, *jax.tree.leaves((sums, carry)))
  return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
