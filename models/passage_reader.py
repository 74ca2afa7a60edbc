"""A question read against a passage: where its answer begins and ends (Clark and Gardner 2018, sections 3 and 3.1).

Their network behind the first reading: attention between passage and question (Seo et al. 2017), a second reading,
attention of the passage to itself beside what it is added to, and a reading each for the first word and the last one.
LSTMs stand where theirs are GRUs. That there is no answer is one place more, column 0, whose logits are computed from
what both softmaxes point at; theirs is one logit for both sides.

Dimension letters: B questions, K words of the passage, Q words of the question, D width, H hidden.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Array, Dense, dropout, product, split_key
from models.lstm import BiLstm, glorot, lstm_axes

LOWEST = jnp.finfo(jnp.float32).min


class WordAttention(nn.Module):
  """Scores between the words of two texts: w_x x + w_y y + (w_xy x) y, parameters first, second and both [D]."""

  size: int
  dtype: Any = jnp.float32

  def setup(self):
    self.first, self.second, self.both = (
      self.param(name, glorot(self.size, 1), (self.size,)) for name in ("first", "second", "both")
    )

  def __call__(self, x: Array, y: Array) -> Array:
    """x [B, K, D], y [B, Q, D] -> float32 [B, K, Q]."""
    scores = product("BKD,BQD->BKQ", (x * self.both).astype(self.dtype), y.astype(self.dtype))
    return scores + (x @ self.first)[..., None] + (y @ self.second)[:, None]


def weighted(scores: Array, y: Array, allowed: Array, dtype: Any) -> Array:
  """The mean of y [B, Q, D] by the softmax of scores [B, K, Q] over what is allowed; zeros where nothing is."""
  weights = jax.nn.softmax(jnp.where(allowed, scores, LOWEST), axis=-1) * allowed
  return product("BKQ,BQD->BKD", weights.astype(dtype), y.astype(dtype))


class PassageReader(nn.Module):
  """Logits of the first and the last word of an answer.

  Attributes:
    inputs: D, what is known of a word behind the first reading.
    hidden: H, of the LSTMs in one direction; dense layers have twice as many.
    dropout: of what is read again, and of what attends to itself.
  """

  inputs: int
  hidden: int
  dropout: float
  dtype: Any = jnp.float32

  def setup(self):
    width = 2 * self.hidden
    dense = lambda inputs, outputs, dtype: Dense((inputs,), (outputs,), glorot(inputs, outputs), dtype)
    reading = lambda inputs: BiLstm(inputs, self.hidden, 1, 0.0, self.dtype)
    self.question, self.itself = WordAttention(self.inputs, self.dtype), WordAttention(width, self.dtype)
    self.question_dense = dense(4 * self.inputs, width, self.dtype)
    self.itself_dense = dense(3 * width, width, self.dtype)
    self.second, self.start_reading, self.end_reading = reading(width), reading(width), reading(2 * width)
    self.start, self.end = (dense(width, 1, jnp.float32) for _ in range(2))
    self.nothing_dense, self.nothing = dense(2 * width, width, jnp.float32), dense(width, 2, jnp.float32)

  def __call__(self, x: Array, mask: Array, key: Array | None = None) -> Array:
    """The passage's words and the question's, x [B, 2, K, D] with zeros behind a sentence, mask bool [B, 2, K].

    Returns:
      float32 [B, K + 1, 2]: column 0 says that there is no answer, word k stands in column k + 1; -1e9 behind the
      passage. `key` switches dropout on.
    """
    keys, words = split_key(key, 4), mask[:, 0]
    drop = lambda x, number: dropout(x, self.dropout, keys[number])
    x = jax.nn.relu(self.question_dense(self.asked(x[:, 0], x[:, 1], words, mask[:, 1])))
    read = drop(self.second(drop(x, 0), words), 1)
    x = drop(x + jax.nn.relu(self.itself_dense(self.seen(read, words))), 2)
    first = self.start_reading(x, words)
    last = self.end_reading(jnp.concatenate([x, first], axis=-1), words)
    logits = jnp.concatenate([self.start(first), self.end(last)], axis=-1)
    logits = jnp.where(words[..., None], logits, -1e9)
    shares = jax.nn.softmax(logits, axis=1)
    found = [jnp.einsum("BK,BKD->BD", shares[..., side], each) for side, each in enumerate((first, last))]
    none = self.nothing(drop(jax.nn.relu(self.nothing_dense(jnp.concatenate(found, axis=-1))), 3))
    return jnp.concatenate([none[:, None], logits], axis=1)

  def asked(self, passage: Array, question: Array, words: Array, asked: Array) -> Array:
    """[p; c; p c; q c] of each word of the passage: p itself, c the question as seen from it, q the passage as the
    question sees it, the same for all words."""
    scores = self.question(passage, question)
    context = weighted(scores, question, asked[:, None], self.dtype)
    highest = jnp.max(jnp.where(asked[:, None], scores, LOWEST), axis=-1)[:, None]
    seen = weighted(highest, passage, words[:, None], self.dtype)
    return jnp.concatenate([passage, context, passage * context, seen * context], axis=-1)

  def seen(self, x: Array, words: Array) -> Array:
    """[x; c; x c] of each word of the passage, c the other words as seen from it."""
    others = words[:, None] & ~jnp.eye(words.shape[1], dtype=bool)
    context = weighted(self.itself(x, x), x, others, self.dtype)
    return jnp.concatenate([x, context, x * context], axis=-1)


READER_AXES = (
  (r"^reader/(question|itself)/(first|second|both)$", (None,)),
  (r"^reader/(question_dense|itself_dense|start|end|nothing_dense|nothing)/kernel$", ("embed", None)),
  (r"^reader/(question_dense|itself_dense|start|end|nothing_dense|nothing)/bias$", (None,)),
  *(rule for name in ("second", "start_reading", "end_reading") for rule in lstm_axes(f"reader/{name}")),
)
