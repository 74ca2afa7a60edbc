"""What a model's heads say about texts: pieces for blanks, pairs that follow each other, tokens that were replaced."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from trainer.inference.running import Report, columns_of, longest_of, refuse_long, run
from trainer.loading import Loaded
from trainer.texts import InputError, check_list


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A piece that may stand in a blank."""

  piece: str
  id: int
  probability: float  # softmax over the whole vocabulary


@dataclasses.dataclass(frozen=True)
class Blank:
  """A [MASK] of a text, with the likeliest pieces, best first."""

  start: int  # where [MASK] begins, in characters of the text
  column: int  # in tokens of the row, [CLS] = 0
  candidates: list[Candidate]


def fill(
  loaded: Loaded,
  texts: Sequence[str],
  top: int = 5,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[list[Blank]]:
  """The `top` likeliest pieces for every [MASK] of each text; each is predicted while the others stay masked.

  Raises:
    InputError: the model has no such head; a text without [MASK], or longer than `max_length` (by default
      `loaded.max_length`).
  """
  need(loaded, "mlm", "a head that predicts words")
  check_list(texts)
  special, size = loaded.tokenizer.special, loaded.tokenizer.vocab_size
  if not 1 <= top <= size:
    raise InputError(f"top: got {top}, want a number from 1 to {size}, the pieces of the vocabulary")
  encodings = loaded.tokenizer.encode(list(texts), specials=True)
  masks = [np.flatnonzero(encoding.ids == special.mask) for encoding in encodings]
  for i, found in enumerate(masks):
    if not len(found):
      mask = loaded.tokenizer.pieces([special.mask])[0]
      raise InputError(f"text {i + 1}: got no {mask} in {texts[i][:60]!r}, want at least one to fill")
  rows = [encoding.ids for encoding in encodings]
  longest = refuse_long(rows, longest_of(loaded, max_length))
  function = functools.partial(_fill, loaded.model, loaded.params, top)
  inputs = lambda chunk: (columns_of(chunk, masks),)
  blanks: list[list[Blank]] = [[] for _ in rows]
  for chunk, (ids, probabilities) in run(loaded, rows, function, batch_size, longest, report, inputs=inputs):
    for row, i in enumerate(chunk.rows):
      blanks[i] = blanks_of(loaded, encodings[i].offsets, masks[i], ids[row], probabilities[row])
  return blanks


def blanks_of(
  loaded: Loaded, offsets: np.ndarray, columns: np.ndarray, ids: np.ndarray, probabilities: np.ndarray
) -> list[Blank]:
  """The blanks of one row at its mask columns [p]; ids, probabilities: [P, top] of them, those behind p are padding."""
  blanks = []
  for column, best, shares in zip(columns, ids.tolist(), probabilities.tolist()):
    candidates = list(map(Candidate, loaded.tokenizer.pieces(best), best, shares))
    blanks.append(Blank(int(offsets[column, 0]), int(column), candidates))
  return blanks


@functools.partial(jax.jit, static_argnums=(0, 2))
def _fill(model, params, top, tokens, columns) -> tuple[jax.Array, jax.Array]:
  """ids and probabilities [B, P, top] for columns [B, P]."""
  logits = model.apply({"params": params}, tokens.ids, tokens, columns, method="fill_logits")
  probabilities, ids = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top)
  return ids, probabilities


def pair(
  loaded: Loaded,
  pairs: Sequence[tuple[str, str]],
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> np.ndarray:
  """float32[N]: the probability that the second text follows the first, class 0 (IsNext) of the pair head.

  Raises:
    InputError: the model was trained without the pair decision, or a pair is longer than `max_length`.
  """
  need(loaded, "pair", "a pair head, as training with objective.pair=nsp gives")
  check_list(pairs, "pairs")
  sides = [[e.ids for e in loaded.tokenizer.encode([p[side] for p in pairs], specials=True)] for side in (0, 1)]
  rows = [np.append(first, second[1:]) for first, second in zip(*sides, strict=True)]  # one [CLS]
  longest = refuse_long(rows, longest_of(loaded, max_length))
  second = [len(first) for first in sides[0]]
  function = functools.partial(_pair, loaded.model, loaded.params)
  follows = np.zeros(len(rows), np.float32)
  for chunk, own in run(loaded, rows, function, batch_size, longest, report, second=second):
    follows[chunk.rows] = own[: len(chunk.rows)]
  return follows


@functools.partial(jax.jit, static_argnums=0)
def _pair(model, params, tokens) -> jax.Array:
  hidden = model.apply({"params": params}, tokens.ids, tokens).hidden
  logits = model.apply({"params": params}, hidden, tokens.ids[:, :1] * 0, method="pair_logits")
  return jax.nn.softmax(logits, axis=-1)[:, 0, 0]


def detect(
  loaded: Loaded,
  texts: Sequence[str],
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[np.ndarray]:
  """float32[n] for each text: the probability that each of its n tokens, [CLS] and [SEP] too, was put in its place.

  Raises:
    InputError: the model is no discriminator, or a text is longer than `max_length`.
  """
  need(loaded, "rtd", "a discriminator (ELECTRA)")
  check_list(texts)
  rows = [encoding.ids for encoding in loaded.tokenizer.encode(list(texts), specials=True)]
  longest = refuse_long(rows, longest_of(loaded, max_length))
  found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
  function = functools.partial(_detect, loaded.model, loaded.params)
  for chunk, probabilities in run(loaded, rows, function, batch_size, longest, report):
    for i, own in zip(chunk.rows, probabilities, strict=False):  # padding stands last
      found[i] = own[: len(rows[i])]
  return found


@functools.partial(jax.jit, static_argnums=0)
def _detect(model, params, tokens) -> jax.Array:
  return jax.nn.sigmoid(model.apply({"params": params}, tokens.ids, tokens, method="detect_logits"))


def need(loaded: Loaded, head: str, what: str) -> None:
  """Raises InputError where the model does not have a head; what: what it is, for the message."""
  if head not in loaded.model.config.heads_on_top:
    got = ", ".join(loaded.model.config.heads_on_top) or "none"
    raise InputError(f"model {loaded.source}: want a model with {what}, and this one has none (its heads: {got})")
