"""Batches of the right shapes and realistic lengths without a corpus, for benchmarks and compile-only reports.

Examples are pieces of articles: lengths log-normal, cut every `length` tokens, so most examples fill a row of 128 and
half of one of 512 is padding. MEDIAN and SIGMA give the mean at 512 of MLPerf's BERT corpus (Wikipedia), 254 tokens.
Ids are uniform: the time of a step does not depend on them.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from data.batch import FIRST, SECOND, Entities, Labelled, Masked, MaskedEntities, Pair, TextPairs, Tokens
from data.draws import key
from data.masking.mentions import masked_per_row, mention_budgets
from data.packing import pack
from data.synthetic_streams import streams
from data.synthetic_words import labelled_words
from data.tasks.batches import Shape, collate
from data.tasks.rows import ENTITIES, TaskRow
from data.tasks.text_pairs import PairRow, PairShape

MEDIAN, SIGMA = 160.0, 1.2  # tokens of an article, and the standard deviation of their logarithm
SHORTEST = 8  # tokens of an example, special tokens included
TOKENS_A_MENTION = 20  # Wikipedia's words between links, about
SENTENCE = 40.0  # median tokens of an example of a task that reads sentences, with its markers


def synthetic_batch(config: Any, stage: Any, number: int, full_rows: bool = False) -> Any:
  """Host batch `number` of a stage (length, batch_size, max_predictions) of a resolved config, a pure function.

  Args:
    config: reads seed, objective, model and data groups.
    full_rows: every row holds one example of the whole length, with all predictions used.
  """
  rng = np.random.Generator(np.random.Philox(key(config.seed, "synthetic", number)))
  return BATCHES[config.objective.name](config, stage, rng, full_rows)


def article_pieces(rng: np.random.Generator, size: int, length: int) -> np.ndarray:
  """int64[size] example lengths, SHORTEST to `length`, in random order."""
  pieces: list[np.ndarray] = []
  while sum(map(len, pieces)) < size:
    articles = np.exp(rng.normal(np.log(MEDIAN), SIGMA, size)).astype(np.int64) + SHORTEST
    tails = articles % length
    pieces += [np.repeat(length, int((articles // length).sum())), tails[tails >= SHORTEST]]
  return rng.permutation(np.concatenate(pieces))[:size]


def packed_rows(rng: np.random.Generator, rows: int, length: int, per_row: int, full: bool) -> np.ndarray:
  """int64[rows, per_row] lengths of the examples of each row, 0 = none."""
  if full:
    return np.where(np.arange(per_row) == 0, length, 0) * np.ones((rows, 1), np.int64)
  sizes = article_pieces(rng, rows * per_row, length)
  packed = pack(sizes, length, per_row) if per_row > 1 else np.arange(rows)[:, None]
  chosen = packed[rng.permutation(len(packed))[:rows]]
  return np.where(chosen >= 0, sizes[chosen], 0)


def token_rows(rng: np.random.Generator, sizes: np.ndarray, length: int, vocab: int, types: int) -> Tokens:
  """Rows of packed examples of the given sizes; the second half of each example has type 1, if there are two."""
  ends = np.cumsum(sizes, axis=1)
  columns = np.arange(length)
  segment = (columns[None, :, None] >= ends[:, None, :]).sum(-1)  # examples that end before or at a column
  real = columns < ends[:, -1:]
  slot = np.minimum(segment, sizes.shape[1] - 1)
  begins = np.take_along_axis(ends - sizes, slot, 1)
  positions = np.where(real, columns - begins, 0)
  second = positions * 2 >= np.take_along_axis(sizes, slot, 1)
  number = np.cumsum(sizes > 0, axis=1)  # rows number their examples from 1 without gaps
  return Tokens(
    ids=np.where(real, rng.integers(0, vocab, real.shape), 0).astype(np.int32),
    types=np.where(real & second & (types > 1), 1, 0).astype(np.int32),
    segments=np.where(real, np.take_along_axis(number, slot, 1), 0).astype(np.int32),
    positions=positions.astype(np.int32),
  )


def masked(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> Masked:
  """Masked with mask_rate of each row's real columns to predict, at most stage.max_predictions, and pairs."""
  rows, length, most = stage.batch_size, stage.length, stage.max_predictions
  sizes = packed_rows(rng, rows, length, config.data.pack, full_rows)
  tokens = token_rows(rng, sizes, length, config.model.vocab_size, config.model.types)
  real = tokens.segments > 0
  order = np.argsort(np.where(real, rng.random(real.shape), 2.0), axis=1)[:, :most]  # distinct columns, real ones first
  wanted = np.full(rows, most) if full_rows else np.clip(np.round(real.sum(1) * config.data.mask_rate), 1, most)
  used = np.arange(order.shape[1]) < wanted[:, None]
  labels = np.take_along_axis(tokens.ids, order, 1)
  pair = None
  if "pair" in config.objective and config.objective.pair != "none":
    cls = np.where(sizes > 0, np.cumsum(sizes, axis=1) - sizes, 0)
    weights = (sizes > 0).astype(np.float32)
    pair = Pair(cls.astype(np.int32), (rng.integers(0, 2, cls.shape) * (sizes > 0)).astype(np.int32), weights)
  inputs = rng.integers(0, config.model.vocab_size, order.shape)
  slots = [np.where(used, values, 0).astype(np.int32) for values in (order, inputs, labels)]
  return Masked(tokens, *slots, used.astype(np.float32), pair=pair)


def spans(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> Masked:
  """`masked`, with the columns beside each prediction as the edges of its span where both are real ones."""
  batch = masked(config, stage, rng, full_rows)
  if not config.objective.sbo:
    return batch
  edges = batch.positions[..., None] + np.array([-1, 1], np.int32)
  last = (batch.tokens.segments > 0).sum(1)[:, None] - 1
  inside = (batch.weights > 0) & (edges[..., 0] >= 0) & (edges[..., 1] <= last)
  offsets = rng.integers(0, config.model.span_positions, inside.shape) * inside
  return dataclasses.replace(
    batch, edges=np.where(inside[..., None], edges, -1).astype(np.int32), offsets=offsets.astype(np.int32)
  )


def entities(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> MaskedEntities:
  """`masked` with mentions of 1 to 4 pieces anywhere in each example, and `entity_mask_rate` of an example's masked."""
  words, data, most = masked(config, stage, rng, full_rows), config.data, config.data.max_entities
  rows, rate = stage.batch_size, data.entity_mask_rate
  segments, real = words.tokens.segments, words.tokens.segments > 0
  tokens = real.sum(1, keepdims=True)
  found = np.where(full_rows, most, np.clip(np.rint(tokens / TOKENS_A_MENTION), 1, most))
  starts = np.sort(rng.integers(0, tokens, (rows, most)), axis=1)
  owner = np.take_along_axis(segments, starts, 1) * (np.arange(most) < found)
  pieces = starts[..., None] + np.arange(data.max_mention)
  long = np.arange(data.max_mention) < rng.integers(1, 5, (rows, most, 1))
  there = np.take_along_axis(segments, np.minimum(pieces, segments.shape[1] - 1).reshape(rows, -1), 1)
  inside = (there.reshape(pieces.shape) == owner[..., None]) & (pieces < segments.shape[1]) & (owner[..., None] > 0)
  chosen, used = _masked_mentions(rng, owner, rate, masked_per_row(most, data.pack, rate))
  ids = np.where(owner > 0, rng.integers(0, config.model.entity_vocab_size, owner.shape), 0).astype(np.int32)
  labels = np.where(used, np.take_along_axis(ids, chosen, 1), 0).astype(np.int32)
  positions = np.where(inside & long, pieces, -1).astype(np.int32)
  mentions = Entities(ids, positions, owner.astype(np.int32))
  return MaskedEntities(words, mentions, np.where(used, chosen, 0).astype(np.int32), labels, used.astype(np.float32))


def _masked_mentions(
  rng: np.random.Generator, owner: np.ndarray, rate: float, slots: int
) -> tuple[np.ndarray, np.ndarray]:
  """(slots of the masked mentions [B, J], which are used) of mentions that belong to examples `owner` [B, E]."""
  rank = rng.random(owner.shape)
  order = np.lexsort((rank, owner), axis=1)
  sorted_owner = np.take_along_axis(owner, order, 1)
  same = sorted_owner[:, :, None] == sorted_owner[:, None, :]
  place, size = np.tril(same, -1).sum(2), same.sum(2)
  taken = (sorted_owner > 0) & (place < mention_budgets(size, rate))
  first = np.argsort(~taken, axis=1, kind="stable")[:, :slots]
  return np.take_along_axis(order, first, 1), np.take_along_axis(taken, first, 1)


@dataclasses.dataclass(frozen=True)
class _Kind:
  """What examples of one kind of task look like.

  whole: of the whole length, as windows of passages and sentences in their document's context are; else sentences.
  labels: labels of an example. mentions: of an example, pieces: of one at most. slots, spans: of a label. columns:
  whether a label has a column (`cls`). texts: of an example, which do not see each other; a label each.
  """

  whole: bool
  labels: int
  mentions: int
  pieces: int
  slots: int = 0
  spans: int = 0
  columns: bool = False
  texts: int = 1


_KINDS = {
  "type": _Kind(False, 1, 1, 30, slots=1),
  "relate": _Kind(False, 1, 2, 30, slots=2),
  "spans": _Kind(True, 100, 100, 16, slots=1, spans=2),  # the spans of a sentence of 14 words
  "cloze": _Kind(True, 12, 13, 30, slots=2),
  "answer": _Kind(True, 2, 0, 30),
  "classify": _Kind(False, 1, 0, 1, columns=True),
  "regress": _Kind(False, 1, 0, 1, columns=True),
  "tag": _Kind(True, 14, 0, 1, columns=True),  # the words of a sentence in its document's context
  "choose": _Kind(False, 4, 0, 1, columns=True, texts=4),
}
# Those of encoders without entities, which read a mention at its first marker
_MARKED = {
  "type": _Kind(False, 1, 0, 1, columns=True),
  "relate": _Kind(False, 1, 0, 1, spans=2),
  "cloze": _Kind(True, 12, 0, 1, spans=2),
}


def labelled(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> Labelled:
  """`batch_size` examples of a task, packed as the task's feed packs them; all batches have one shape.

  Rows are a multiple of micro_batches and, where it is named, of mesh.data.
  """
  kinds = _KINDS if config.model.name == "luke" else _KINDS | _MARKED
  kind, size, length = kinds[config.objective.kind], stage.batch_size, stage.length
  sizes = np.full(size, length) if full_rows or kind.whole else _sentence_lengths(size, length)
  shape = Shape(
    length,
    config.data.pack,
    _multiple(config),
    0,
    kind.pieces,
    config.objective.kind == "answer",
  )
  return collate([_task_row(config, kind, int(each), rng) for each in sizes], shape).batch


def _multiple(config: Any) -> int:
  """What divides the rows of a batch."""
  return config.micro_batches * max(config.mesh.data, 1)


def _sentence_lengths(count: int, length: int) -> np.ndarray:
  """int64[count]: quantiles of what sentences have, so that batches differ in no length."""
  spread = statistics.NormalDist(np.log(SENTENCE), SIGMA / 2)
  return np.clip([int(np.exp(spread.inv_cdf((i + 0.5) / count))) for i in range(count)], SHORTEST, length)


def text_pairs(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> TextPairs:
  """`batch_size` pairs of sentences, packed as the task's feed packs them; all batches have one shape."""
  size, length = stage.batch_size, stage.length
  sizes = np.full(2 * size, length) if full_rows else _sentence_lengths(2 * size, length)
  texts = [rng.integers(0, config.model.vocab_size, each).astype(np.int32) for each in sizes]
  rows = [PairRow((texts[i], texts[size + i]), (FIRST, SECOND), i) for i in range(size)]
  return PairShape(length, config.data.pack, _multiple(config), 0).collate(rows).batch


def _task_row(config: Any, kind: _Kind, size: int, rng: np.random.Generator) -> TaskRow:
  """An example of `size` tokens with its mentions and labels anywhere in it."""
  labels, name = kind.labels, config.objective.kind
  linked = bool(config.task.links)  # a question's entities are those of the whole table
  mentions = max(1, size // TOKENS_A_MENTION) if linked else kind.mentions
  classes = size if name == "answer" else max(len(config.objective.labels), 2)
  begins, pieces = rng.integers(0, size, mentions), rng.integers(1, 5, mentions)
  columns = tuple(np.arange(a, min(a + n, size), dtype=np.int32) for a, n in zip(begins, pieces))
  fields: dict[str, Any] = {}
  if mentions:
    ids = rng.integers(0, config.model.entity_vocab_size, mentions) if linked else np.full(mentions, ENTITIES["[MASK]"])
    fields |= {"entities": ids.astype(np.int32), "mentions": columns}
  if kind.slots:
    fields["slots"] = rng.integers(0, mentions, (labels, kind.slots)).astype(np.int32)
  if kind.spans:
    fields["spans"] = np.sort(rng.integers(0, size, (labels, kind.spans)), axis=1).astype(np.int32)
  if kind.columns:
    begins = np.arange(kind.texts) * size
    fields["cls"] = (np.arange(labels) % size if kind.texts == 1 else begins).astype(np.int32)
    fields |= {"parts": begins.astype(np.int32)} if kind.texts > 1 else {}
  ids = rng.integers(0, config.model.vocab_size, size * kind.texts).astype(np.int32)
  fields |= _answers(name, labels, classes, rng)
  return TaskRow(ids, np.zeros_like(ids), weights=np.ones(labels, np.float32), **fields)


def _answers(name: str, labels: int, classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """What is right of the labels of an example: classes, several of them, a number, or one of the labels themselves."""
  wanted = rng.integers(0, classes, labels).astype(np.int32)
  if name == "type":
    return {"labels": wanted * 0, "several": rng.integers(0, 2, (labels, classes)).astype(np.float32)}
  if name == "regress":
    return {"labels": wanted * 0, "several": rng.uniform(0, 5, (labels, 1)).astype(np.float32)}
  return {"labels": (np.arange(labels) == wanted[0] % labels).astype(np.int32) if name == "choose" else wanted}


BATCHES: dict[str, Callable[..., Any]] = {
  "electra": masked,
  "entities": entities,
  "language": streams,
  "masked": masked,
  "pairs": text_pairs,
  "spans": spans,
  "task": labelled,
  "word_task": labelled_words,
}
