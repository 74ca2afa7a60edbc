"""What ELECTRA's ablations change: what the second network learns (section 3.4), and how the generator is trained.

Targets of the second network:

- `all_tokens` (ELECTRA): is the token replaced, at every real position, [CLS] and [SEP] included. Term `rtd`.
- `masked` (ELECTRA 15 %): the same at the selected positions only. Term `rtd`.
- `replace_mlm`: the original token at the selected positions, which hold samples instead of [MASK]. Term `restore`.
- `all_tokens_mlm`: the original token at every real position, with a gate that copies the input. Term `restore`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from data.batch import Masked
from models.electra import Electra
from models.heads import gather_columns, replace_columns
from objectives.base import Array, Terms, tally
from objectives.detection import histogram
from objectives.losses import binary_cross_entropy, cross_entropy, is_top


def real(batch: Masked) -> Array:
  """float32 [B, L]: 1 on tokens, 0 on padding."""
  return (batch.tokens.segments > 0).astype(jnp.float32)


def selected(batch: Masked) -> Array:
  """float32 [B, L]: the weight of the slot that stands on a column, 0 where none does."""
  return replace_columns(jnp.zeros(batch.tokens.ids.shape), batch.positions, batch.weights, batch.weights)


def slots(batch: Masked) -> Array:
  """float32 [B, P]."""
  return batch.weights


def _detect(weights: Callable[[Masked], Array]) -> Callable:
  def judge(model: Electra, variables: dict, hidden: Array, corrupted: Array, batch: Masked) -> tuple[Array, dict]:
    scores = model.apply(variables, hidden, method="replaced_logits")
    replaced = corrupted != batch.tokens.ids
    return binary_cross_entropy(scores, replaced), {"rtd": histogram(scores, replaced, weights(batch))}

  return judge


def _restore_selected(model: Electra, variables: dict, hidden: Array, corrupted: Array, batch: Masked):
  states = gather_columns(hidden, batch.positions)
  logits = model.apply(variables, states, method="restored_logits")
  return cross_entropy(logits, batch.labels), {"restore": tally(is_top(logits, batch.labels), batch.weights)}


def _restore_all(model: Electra, variables: dict, hidden: Array, corrupted: Array, batch: Masked):
  logits = model.apply(variables, hidden, method="restored_logits")
  gate = model.apply(variables, hidden, method="gate_logits")
  log_shares, hits = copy_mixture(logits, gate, corrupted, batch.tokens.ids)
  return -log_shares, {"restore": tally(hits, real(batch))}


def copy_mixture(logits: Array, gate: Array, given: Array, labels: Array) -> tuple[Array, Array]:
  """log p(label) and whether it is the likeliest token, for p = D [token = given] + (1 - D) softmax(logits).

  All in log space: no share is ever rounded to 0.

  Args:
    logits: float32 [..., V'].
    gate: float32 [...], D = sigmoid(gate).
    given: int [...], tokens that the network reads.
    labels: int [...], tokens that it must tell.
  """
  total = jax.nn.logsumexp(logits, axis=-1)
  log_copy, log_write = jax.nn.log_sigmoid(gate), jax.nn.log_sigmoid(-gate)

  def log_share(tokens: Array) -> Array:
    written = log_write + jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0] - total
    return jnp.where(tokens == given, jnp.logaddexp(log_copy, written), written)

  best = jnp.maximum(log_write + jnp.max(logits, axis=-1) - total, log_share(given))
  right = log_share(labels)
  return right, right >= best


@dataclasses.dataclass(frozen=True)
class Target:
  """What the second network learns.

  Attributes:
    term: its name among the losses.
    weights: batch -> float32 [B, L] or [B, P], of the positions that count.
    judge: (model, variables, hidden, corrupted ids, batch) -> (losses in the shape of the weights, statistics).
  """

  term: str
  weights: Callable[[Masked], Array]
  judge: Callable[..., tuple[Array, dict[str, Array]]]


TARGETS: dict[str, Target] = {
  "all_tokens": Target("rtd", real, _detect(real)),
  "masked": Target("rtd", selected, _detect(selected)),
  "replace_mlm": Target("restore", slots, _restore_selected),
  "all_tokens_mlm": Target("restore", real, _restore_all),
}

ADVERSARIAL_WEIGHTS = {"policy": 1.0, "baseline": 1.0}
GRADIENT_ONLY = ("policy",)  # terms whose value is 0: they stand for a gradient and are no losses


def adversarial_sums(
  model: Electra, variables: dict, states: Array, logits: Array, samples: Array, costs: Array, weights: Array
) -> Terms:
  """REINFORCE for a generator that raises the discriminator's loss (appendix F).

  The reward of a sample is what the discriminator loses at its slot, taken as if it depended on that sample alone. A
  baseline sigma = sigmoid(w h) of the generator's state is taught exp(-reward), the probability of the right judgement,
  by cross entropy; -log sigma is subtracted from the reward. Its loss is the term `baseline` and reaches no other
  parameter. `policy` has the value 0 and the gradient of -(reward - baseline) log q(sample).

  Args:
    states, logits: the generator's, [B, P, D] and [B, P, V'].
    samples, weights: [B, P].
    costs: losses of the discriminator at the slots [B, P].
  """
  rewards = jax.lax.stop_gradient(costs)
  guess = model.apply(variables, jax.lax.stop_gradient(states), method="baseline_logits")
  baseline = binary_cross_entropy(guess, jnp.exp(-rewards))
  advantage = rewards + jax.nn.log_sigmoid(jax.lax.stop_gradient(guess))
  surrogate = jnp.sum(advantage * cross_entropy(logits, samples) * weights)
  return {"policy": surrogate - jax.lax.stop_gradient(surrogate), "baseline": jnp.sum(baseline * weights)}
