"""Hidden states of texts, and the vector of each; of a LUKE those of its mentions, of an ELMo those of its words."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.entity_text import EntityText
from models.elmo import Elmo
from models.task_networks import TaskNetwork
from trainer.inference import word_encoding
from trainer.inference.entity_answers import Titles
from trainer.inference.mentions import Remark, cut_to, entities_of, entity_batch, remarks, with_mentions
from trainer.inference.running import Report, longest_of, run
from trainer.inference.word_encoding import WordEncodings
from trainer.loading import Loaded
from trainer.mention_lines import Span
from trainer.texts import Chunk, InputError, check_list, refuse_beyond_memory


def refuse_network(loaded: Loaded, what: str) -> None:
  """Raises InputError for the network of a task on an ELMo, which has no `what`."""
  if isinstance(loaded.model, TaskNetwork):
    raise InputError(
      f"model {loaded.source}: is a task's network on an ELMo, which has no {what}, want classify, tag, answer or "
      "choose of it; the ELMo itself is that of the run's init_from"
    )


def _mean(model: Any, params: dict, hidden: jax.Array, real: jax.Array) -> jax.Array:
  return jnp.sum(hidden, 1) / jnp.maximum(jnp.sum(real, 1, keepdims=True), 1)


def _pooler(model: Any, params: dict, hidden: jax.Array, real: jax.Array) -> jax.Array:
  cls = jnp.zeros((len(hidden), 1), jnp.int32)
  return model.apply({"params": params}, hidden, cls, method="pool")[:, 0].astype(jnp.float32)


# (model, params, hidden [B, L, D] float32 with zeros in padding, real [B, L]) -> [B, D]
POOLS: dict[str, Callable] = {
  "none": lambda *_: None,
  "cls": lambda model, params, hidden, real: hidden[:, 0],
  "pooler": _pooler,  # what the pretraining's sentence-pair decision reads
  "mean": _mean,  # over all real tokens, [CLS] and [SEP] too, as sentence-transformers does
}


@dataclasses.dataclass(frozen=True)
class Encodings:
  """States of N texts, the longest of L tokens; what is padding is the pad id and zeros.

  layers: K chosen outputs, 0 = embeddings; pooled: one vector a text. Fields that were not asked for are None.
  truncated: texts that were cut to the longest length allowed.

  Of texts with at most E spans, row e being the e-th span given: entities: their states, zeros where there is none;
  entity_ids: of their titles, the pad id where there is none; entity_counts: spans given; entity_kept: whether the span
  became a mention; remarks: what is odd about spans, and why some were lost.
  """

  ids: np.ndarray  # int32[N, L]
  lengths: np.ndarray  # int32[N]
  hidden: np.ndarray | None  # float32[N, L, D]
  pooled: np.ndarray | None  # float32[N, D]
  layers: np.ndarray | None  # float32[N, K, L, D]
  truncated: int
  entities: np.ndarray | None = None  # float32[N, E, D]
  entity_ids: np.ndarray | None = None  # int32[N, E]
  entity_counts: np.ndarray | None = None  # int32[N]
  entity_kept: np.ndarray | None = None  # bool[N, E]
  remarks: tuple[Remark, ...] = ()

  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays there are, by name."""
    fields = (field.name for field in dataclasses.fields(self))
    return {name: array for name in fields if isinstance(array := getattr(self, name), np.ndarray)}


def encode(
  loaded: Loaded,
  texts: Sequence[str],
  pool: str = "mean",
  layers: str | Sequence[int] = "last",
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
  spans: Sequence[Sequence[Span]] | None = None,
  titles: Titles | None = None,
  split: str | None = None,
  stateful: bool = False,
) -> Encodings | WordEncodings:
  """Hidden states of texts; an empty text is [CLS] [SEP].

  Of an ELMo they are those of whole words, without boundaries, and nothing is cut: see `word_encoding.encode`, which
  says what `split` and `stateful` are; other models have neither.

  Args:
    pool: none, cls, mean or pooler (see POOLS).
    layers: "last" = `hidden` only; "none" = no states of tokens at all; "all" or numbers = `layers` as well, from 0 =
      embeddings to the last block, negative ones from the end.
    max_length: longer texts are cut before their [SEP]; by default `loaded.max_length`.
    spans: of each text [first, end) characters of its mentions, which a LUKE reads with it.
    titles: of each mention its entity, None = [MASK]; a text without a list has [MASK] for all.
  Raises:
    InputError: a choice that the model does not have, spans that do not fit, or results larger than the memory here.
  """
  refuse_network(loaded, "encode")
  check_list(texts)
  if isinstance(loaded.model, Elmo):
    if spans is not None or titles is not None:
      raise InputError(f"model {loaded.source}: got spans, want a LUKE for them; leave the spans out")
    numbers = layer_numbers(layers, loaded.model.config.layers)
    return word_encoding.encode(
      loaded, texts, pool, numbers, layers != "none", batch_size, max_length, report, split, stateful
    )
  if split is not None or stateful:
    name = "split" if split is not None else "stateful"
    raise InputError(f"{name}: is of an ELMo, and {loaded.source} is none; leave it out")
  if pool not in POOLS or (pool == "pooler" and not loaded.model.config.pooler):
    known = [name for name in POOLS if name != "pooler" or loaded.model.config.pooler]
    raise InputError(f"pool: got {pool!r}, want one of {', '.join(known)} for {loaded.source}")
  chosen = layer_numbers(layers, loaded.model.config.depth)
  longest = longest_of(loaded, max_length)
  rows, truncated, found = _rows(loaded, texts, spans, titles, longest)
  lengths = np.array([len(ids) for ids in rows], np.int32)
  n, width, depth = len(rows), int(lengths.max(initial=0)), loaded.model.config.hidden
  mentions = 0 if spans is None else max(map(len, spans), default=0)
  results = _allocate(
    hidden=(n, width, depth) if layers != "none" else None,
    pooled=(n, depth) if pool != "none" else None,
    layers=(n, len(chosen), width, depth) if chosen else None,
    entities=None if found is None else (n, mentions, depth),
  )
  ids = np.full((n, width), loaded.tokenizer.special.pad, np.int32)
  for i, row in enumerate(rows):
    ids[i, : len(row)] = row
  function = functools.partial(_encode, loaded.model, loaded.params, pool, chosen, layers != "none")
  for chunk, outputs in run(loaded, rows, function, batch_size, longest, report, inputs=_entities(loaded, found)):
    size = min(width, chunk.width)
    for name, array in results.items():
      if array is not None and name != "entities":
        where = () if name == "pooled" else (..., slice(size), slice(None))
        array[(chunk.rows, *where)] = outputs[name][(slice(len(chunk.rows)), *where)]
    for row, i in enumerate(() if found is None else chunk.rows):
      results["entities"][i, found[i].kept] = outputs["entities"][row, : len(found[i].kept)]
  own = {} if found is None else _given(loaded, found, spans)
  return Encodings(ids, lengths, **results, truncated=truncated, **own)


def _rows(
  loaded: Loaded,
  texts: Sequence[str],
  spans: Sequence[Sequence[Span]] | None,
  titles: Titles | None,
  longest: int,
) -> tuple[list[np.ndarray], int, list[EntityText] | None]:
  """(ids of each text, how many were cut, texts with their mentions where there are spans)."""
  if spans is None:
    if titles is not None:
      raise InputError("titles: got some without spans, want the span of each")
    whole = [encoding.ids for encoding in loaded.tokenizer.encode(list(texts), specials=True)]
    rows = [ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1]) for ids in whole]
    return rows, sum(len(row) > longest for row in whole), None
  found = with_mentions(loaded, texts, spans, titles)
  truncated = sum(len(each) > longest for each in found)
  found = cut_to(loaded, found, longest, texts, spans, titles) if truncated else found
  return [each.ids for each in found], truncated, found


def _entities(loaded: Loaded, found: list[EntityText] | None) -> Callable[[Chunk], tuple]:
  """The entities of a batch."""
  if found is None:
    return lambda chunk: ()
  pad = entities_of(loaded).special.pad
  return lambda chunk: (entity_batch(chunk, found, pad),)


def _given(loaded: Loaded, found: list[EntityText], spans: Sequence[Sequence[Span]]) -> dict[str, Any]:
  """What Encodings says of the spans that were given."""
  counts = np.array([len(own) for own in spans], np.int32)
  shape = (len(found), int(counts.max(initial=0)))
  ids, kept = np.full(shape, entities_of(loaded).special.pad, np.int32), np.zeros(shape, bool)
  for i, each in enumerate(found):
    ids[i, each.kept], kept[i, each.kept] = each.entity_ids, True
  odd = tuple(remark for own in remarks(found, spans) for remark in own)
  return {"entity_ids": ids, "entity_counts": counts, "entity_kept": kept, "remarks": odd}


def layer_numbers(layers: str | Sequence[int], last: int) -> tuple[int, ...]:
  """`layers` of `encode` as numbers from 0 to `last`; raises InputError."""
  if layers in ("last", "none"):
    return ()
  if layers == "all":
    return tuple(range(last + 1))
  try:
    numbers = [int(number) for number in (layers.split(",") if isinstance(layers, str) else layers)]
  except ValueError:
    numbers = []
  if not numbers or not all(-last - 1 <= number <= last for number in numbers):
    raise InputError(f"layers: got {layers!r}, want last, none, all, or numbers from {-last - 1} to {last}, as in 0,-1")
  return tuple(number % (last + 1) for number in numbers)


def _allocate(**shapes: tuple[int, ...] | None) -> dict[str, np.ndarray | None]:
  refuse_beyond_memory(shapes.values())
  return {name: np.zeros(shape, np.float32) if shape else None for name, shape in shapes.items()}


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _encode(model, params, pool, layers, hidden, tokens, entities=None) -> dict[str, jax.Array]:
  given = {} if entities is None else {"entities": entities}
  encoded = model.apply({"params": params}, tokens.ids, tokens, collect=bool(layers), **given)
  real = tokens.segments > 0
  states = jnp.where(real[..., None], encoded.hidden.astype(jnp.float32), 0)
  results = {"pooled": POOLS[pool](model, params, states, real)}
  if hidden:
    results["hidden"] = states
  if layers:
    picked = encoded.layers[jnp.array(layers)].astype(jnp.float32)  # [K, B, L, D]
    results["layers"] = jnp.where(real[..., None], picked, 0).swapaxes(0, 1)
  if entities is not None:
    mentioned = (entities.segments > 0)[..., None]
    results["entities"] = jnp.where(mentioned, encoded.entities.astype(jnp.float32), 0)
  return results
