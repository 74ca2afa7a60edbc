"""What models say of mentions: a LUKE's titles for masked ones; the relation between two, the types of one.

Of a LUKE a mention is an entity; other encoders read it at its first marker, as their task's own rows have it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.entity_text import EntityText
from models.luke import Luke
from trainer.inference.answers import Blank, blanks_of, need
from trainer.inference.marker_answers import at_markers
from trainer.inference.mentions import Remark, entities_of, entity_batch, remarks, whole, with_mentions
from trainer.inference.running import Report, columns_of, run
from trainer.inference.task_logits import with_head
from trainer.inference.tuned import Tuned
from trainer.loading import Loaded
from trainer.mention_lines import Span, check
from trainer.texts import InputError, check_list

Titles = Sequence[Sequence[str | None] | None]


@dataclasses.dataclass(frozen=True)
class Title:
  """An entity that a masked mention may be of."""

  title: str
  id: int
  probability: float  # softmax over the whole vocabulary of entities; rows without a title have no share


@dataclasses.dataclass(frozen=True)
class Masked:
  """A mention whose entity is masked, with the likeliest titles, best first."""

  start: int  # in characters of the text
  end: int
  mention: str
  candidates: list[Title]


@dataclasses.dataclass(frozen=True)
class Filled:
  """What stands in a text's masked words and mentions."""

  words: list[Blank]
  entities: list[Masked]
  remarks: list[Remark]


@dataclasses.dataclass(frozen=True)
class Label:
  """A class and its probability."""

  label: str
  probability: float


@dataclasses.dataclass(frozen=True)
class Decision:
  """Classes of a mention or of a pair of them, the likeliest first."""

  labels: list[Label]
  remarks: list[Remark]


def fill_entities(
  loaded: Loaded,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  titles: Titles | None = None,
  top: int = 5,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[Filled]:
  """The likeliest pieces for every masked word and the likeliest titles for every masked mention of each text.

  Each is predicted while the others stay masked.

  Args:
    spans: [first, end) characters of each mention.
    titles: as `with_mentions` takes them, None or "[MASK]" = masked; a text without a list has only masked ones.
    top: candidates; of titles no more than there are.
  Raises:
    InputError: a head that is needed is missing; spans or titles do not fit; nothing is masked; a text is too long.
  """
  found = with_mentions(loaded, texts, spans, titles)
  odd = remarks(found, spans)
  rows, longest = whole(loaded, found, max_length, odd)
  special, entities = loaded.tokenizer.special, entities_of(loaded)
  masks = [np.flatnonzero(each.ids == special.mask) for each in found]
  slots = [np.flatnonzero(each.entity_ids == entities.special.mask) for each in found]
  for i, (words, mentions) in enumerate(zip(masks, slots)):
    if not len(words) and not len(mentions):
      mask = loaded.tokenizer.pieces([special.mask])[0]
      raise InputError(f"text {i + 1}: got no {mask} and no masked mention in {texts[i][:60]!r}, want one to fill")
  tops = tuple(_top(loaded, masked, *which, top) for masked, which in ((masks, _WORDS), (slots, _ENTITIES)))
  function = functools.partial(_fill, loaded.model, loaded.params, tops, _titled(loaded))
  inputs = lambda chunk: (
    entity_batch(chunk, found, entities.special.pad), columns_of(chunk, masks), columns_of(chunk, slots),
  )  # fmt: skip
  filled: list[Any] = [None] * len(rows)
  for chunk, (words, mentions) in run(loaded, rows, function, batch_size, longest, report, inputs=inputs):
    for row, i in enumerate(chunk.rows):
      own = [] if words is None else blanks_of(loaded, found[i].offsets, masks[i], words[0][row], words[1][row])
      named = [] if mentions is None else _named(loaded, texts[i], spans[i], slots[i], mentions, row)
      filled[i] = Filled(own, named, odd[i])
  return filled


_WORDS = ("mlm", "a head that predicts words")
_ENTITIES = ("entity", "a head that predicts entities")


def _top(loaded: Loaded, masked: Sequence[np.ndarray], head: str, what: str, top: int) -> int:
  """How many candidates to take from a head, 0 where nothing asks it."""
  if not any(map(len, masked)):
    return 0
  need(loaded, head, what)
  size = loaded.tokenizer.vocab_size if head == "mlm" else int(_titled(loaded).sum())
  if top < 1 or (head == "mlm" and top > size):
    raise InputError(f"top: got {top}, want a number from 1 to {size}, the candidates that there are")
  return min(top, size)


def _titled(loaded: Loaded) -> np.ndarray:
  """bool[Ve']: rows of the entity table that have a title; those of a gap in the ids have none."""
  titled = np.zeros(loaded.model.config.padded_entities, bool)
  titled[list(entities_of(loaded).ids.values())] = True
  return titled


def _named(loaded: Loaded, text: str, spans: Sequence[Span], slots: np.ndarray, best: tuple, row: int) -> list[Masked]:
  """The masked mentions of one text; best: ids and probabilities [B, J, top]."""
  masked = []
  for slot, ids, shares in zip(slots, best[0][row].tolist(), best[1][row].tolist()):  # padding stands last
    first, end = spans[slot]  # none is lost
    titles = entities_of(loaded).titles(ids)
    masked.append(Masked(first, end, text[first:end], list(map(Title, titles, ids, shares))))
  return masked


@functools.partial(jax.jit, static_argnums=(0, 2))
def _fill(model, params, tops, titled, tokens, entities, columns, slots) -> list[tuple[jax.Array, jax.Array] | None]:
  """(ids, probabilities) [B, P, top] of words and [B, J, top] of entities, None where the top is 0."""
  apply = functools.partial(model.apply, {"params": params})
  encoded = apply(tokens.ids, tokens, entities=entities)
  asked = (("token_logits", encoded.hidden, columns), ("entity_logits", encoded.entities, slots))
  best = []
  for top, (method, states, places) in zip(tops, asked):
    if not top:
      best.append(None)
      continue
    logits = apply(states, places, method=method)
    logits = jnp.where(titled, logits, -1e9) if method == "entity_logits" else logits
    shares, ids = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top)
    best.append((ids, shares))
  return best


def relate(
  loaded: Loaded,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  top: int = 1,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[Decision]:
  """The `top` likeliest relations between two mentions of each text.

  Args:
    spans: of each text two, the head (subject) and the tail (object), wherever they stand; they may not overlap.
  Raises:
    InputError: the model has no such head; spans do not fit; a text is longer than `max_length`.
  """
  own = _tuned(loaded, "relate", "tells relations", "tacred")
  labels = own.names()
  if not 1 <= top <= len(labels):
    raise InputError(f"top: got {top}, want a number from 1 to {len(labels)}, the relations that there are")
  _check_spans(texts, spans, "relate")
  shares, odd = _decided(own, texts, spans, "relate", range(len(texts)), batch_size, max_length, report)
  return [Decision(_best(labels, each, top), of_text) for each, of_text in zip(shares, odd, strict=True)]


def types(
  loaded: Loaded,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  top: int | None = None,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
) -> list[list[Decision]]:
  """The types of each mention of each text, by itself: those of a probability above 0.5, or the `top` likeliest.

  Raises:
    InputError: the model has no such head; spans do not fit; a text is longer than `max_length`.
  """
  tuned = _tuned(loaded, "type", "tells types", "open_entity")
  labels = tuned.names()
  if top is not None and not 1 <= top <= len(labels):
    raise InputError(f"top: got {top}, want a number from 1 to {len(labels)}, the types that there are")
  _check_spans(texts, spans, None)
  numbers = [i for i, own in enumerate(spans) for _ in own]
  alone = [[span] for own in spans for span in own]
  each = [texts[i] for i in numbers]
  shares, odd = _decided(tuned, each, alone, "type", numbers, batch_size, max_length, report)
  counts = (shares > 0.5).sum(axis=1).tolist() if top is None else [top] * len(each)
  made = iter(Decision(_best(labels, *own), of_text) for *own, of_text in zip(shares, counts, odd, strict=True))
  return [[next(made) for _ in own] for own in spans]


def _tuned(loaded: Loaded, head: str, what: str, task: str) -> Tuned:
  """The model with the names of its classes; raises InputError where it has no such head."""
  what = f"a head that {what}, as configs/finetune.py:{task} trains it"
  if not isinstance(loaded.model, Luke):
    return with_head(loaded, (head,), what)
  need(loaded, head, what)
  return loaded if isinstance(loaded, Tuned) else Tuned(**vars(loaded))


def _check_spans(texts: Sequence[str], spans: Sequence[Sequence[Span]], task: str | None) -> None:
  check_list(texts)
  if len(spans) != len(texts):
    raise InputError(f"spans: got those of {len(spans)} texts, want {len(texts)}; give a list for each text")
  for i, (text, own) in enumerate(zip(texts, spans)):
    check(f"text {i + 1}", text, own, None, task)


def _decided(
  own: Tuned,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]],
  head: str,
  numbers: Sequence[int],
  batch_size: int,
  max_length: int | None,
  report: Report | None,
) -> tuple[np.ndarray, list[list[Remark]]]:
  """(float[N, n], the probability of each class; what is odd about each text's spans). numbers: of the texts."""
  if isinstance(own.model, Luke):
    found = with_mentions(own, texts, spans, task=head)
    odd = remarks(found, spans, numbers)
    ids, longest = whole(own, found, max_length, odd, numbers)
    return _of_entities(own, found, ids, head, batch_size, longest, report), odd
  return at_markers(own, texts, spans, head, numbers, batch_size, max_length, report)


def _of_entities(
  loaded: Loaded,
  found: Sequence[EntityText],
  rows: list[np.ndarray],
  head: str,
  batch_size: int,
  longest: int,
  report: Report | None,
) -> np.ndarray:
  """float32[N, n]: the probability of each class."""
  shares = np.zeros((len(rows), loaded.model.config.classes), np.float32)
  function = functools.partial(_decide, loaded.model, loaded.params, head)
  inputs = lambda chunk: (entity_batch(chunk, found, entities_of(loaded).special.pad),)
  for chunk, own in run(loaded, rows, function, batch_size, longest, report, inputs=inputs):
    shares[chunk.rows] = own[: len(chunk.rows)]
  return shares


@functools.partial(jax.jit, static_argnums=(0, 2))
def _decide(model, params, head, tokens, entities) -> jax.Array:
  """[B, n]: probabilities of the relations of the first two mentions, or of the types of the first."""
  encoded = model.apply({"params": params}, tokens.ids, tokens, entities=entities)
  mentions = 2 if head == "relate" else 1
  slots = jnp.broadcast_to(jnp.arange(mentions), (len(tokens.ids), 1, mentions))
  logits = model.apply({"params": params}, encoded.entities, slots, method=f"{head}_logits")[:, 0]
  return jax.nn.softmax(logits, axis=-1) if head == "relate" else jax.nn.sigmoid(logits)


def _best(labels: Sequence[str], shares: np.ndarray, top: int) -> list[Label]:
  return [Label(labels[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")[:top]]
