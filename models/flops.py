"""Matmul FLOPs of a train step, by formula, from what a batch really holds.

Two FLOPs for each multiply-add, three times the forward pass for forward and backward. Padding, embedding look-ups,
layer norm, softmax, the optimiser and recomputation do not count, and the vocabulary head counts predicted positions
only, so that utilisation compares between programs. XLA's own count will not do: it counts the body of a scan once.

A new model adds its forward formula to FORWARD, a new kind of batch its count to COUNTS. All of it is host NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from data.batch import Chars, Labelled, Masked, MaskedEntities, TextPairs, Tokens
from models.bert import Bert, BertConfig
from models.electra import Electra, ElectraConfig
from models.elmo import Elmo, ElmoConfig
from models.encoder import EncoderConfig
from models.luke import Luke, LukeConfig
from models.spanbert import SpanBert, SpanBertConfig


@dataclasses.dataclass(frozen=True)
class Work:
  """What a host batch asks of a model.

  tokens: real tokens, packed examples together. squares: sum over examples of their squared length, entities counted.
  predictions: positions to predict. pairs: sentence-pair decisions. spans: positions to predict from the edges of their
  span. slots: columns of words, padding included. entities: mentions. entity_predictions: of those, to predict.
  spelled: distinct words that are read by their characters.
  """

  tokens: int
  squares: int
  predictions: int
  pairs: int
  spans: int
  slots: int
  entities: int = 0
  entity_predictions: int = 0
  spelled: int = 0


def count(batch: Any) -> Work:
  """The Work of a host batch (NumPy arrays)."""
  return COUNTS[type(batch)](batch)


def step_flops(model: Any, batch: Any, classes: int | None = None) -> float:
  """Matmul FLOPs of one update, forward and backward, of `model` on a host batch.

  classes: words that each prediction is told from, where training samples the softmax; None = all of them.
  """
  sampled = {} if classes is None else {"vocab_size": classes}
  return 3.0 * FORWARD[type(model)](dataclasses.replace(model.config, **sampled), count(batch))


def example_lengths(tokens: Tokens) -> np.ndarray:
  """Tokens of every packed example, int64, in order of row and segment."""
  return segment_lengths(tokens.segments)


def segment_lengths(segments: np.ndarray) -> np.ndarray:
  """How often each segment number but 0 occurs in each row of segments [B, L], int64, in order of row and segment."""
  segments = np.asarray(segments, np.int64)
  most = int(segments.max(initial=0)) + 1
  sizes = np.bincount((np.arange(len(segments))[:, None] * most + segments).ravel(), minlength=len(segments) * most)
  sizes = sizes.reshape(len(segments), most)[:, 1:]
  return sizes[sizes > 0]


def transformer(hidden: int, ffn: int, layers: int, work: Work) -> float:
  """Encoder layers: four [h, h] projections and the feed-forward a token; scores and their use a pair of tokens."""
  projections = 2 * work.tokens * (4 * hidden**2 + 2 * hidden * ffn)
  return layers * (projections + 4 * hidden * work.squares)


def vocabulary_head(hidden: int, embedding: int, vocab: int, predictions: int) -> float:
  """Dense [h, e] and the tied table [e, V] at every predicted position."""
  return 2 * predictions * (hidden * embedding + embedding * vocab)


def encoder(c: EncoderConfig, work: Work) -> float:
  """The stack and, where the model has one, the projection of the embeddings."""
  projection = 2 * work.tokens * c.embedding * c.hidden if c.projection else 0.0
  return transformer(c.hidden, c.ffn, c.depth, work) + projection


def _bert(c: BertConfig, work: Work) -> float:
  pooler = 2 * c.hidden**2 * work.pairs if c.pooler else 0.0
  return encoder(c, work) + vocabulary_head(c.hidden, c.embedding, c.vocab_size, work.predictions) + pooler


def _spanbert(c: SpanBertConfig, work: Work) -> float:
  """BERT, and for each token that is predicted from its span's edges two dense layers and the table once more."""
  if "sbo" not in c.heads_on_top:
    return _bert(c, work)
  boundary = (2 * c.hidden + c.span_width) * c.hidden + c.hidden**2 + c.hidden * c.vocab_size
  return _bert(c, work) + 2 * work.spans * boundary


def _electra(c: ElectraConfig, work: Work) -> float:
  """Generator and discriminator with the heads they have; one network in both roles runs twice."""
  flops = encoder(c, work)
  if c.generator is not None:
    predictions = work.tokens if c.two_towers else work.predictions
    flops += encoder(c.generator, work) * (2 if c.two_towers else 1)
    flops += vocabulary_head(c.generator_states, c.embedding, c.vocab_size, predictions)
  if "rtd" in c.heads_on_top:
    flops += 2 * work.tokens * (c.hidden**2 + c.hidden)
  if "restore" in c.heads_on_top:
    predictions = work.tokens if "gate" in c.heads_on_top else work.predictions
    flops += vocabulary_head(c.hidden, c.embedding, c.vocab_size, predictions)
  return flops


def _luke(c: LukeConfig, work: Work) -> float:
  """Words and entities through the stack, two queries a token if there are four kinds, and both vocabularies."""
  both = dataclasses.replace(work, tokens=work.tokens + work.entities)
  queries = 2 * both.tokens * c.hidden**2 * c.depth if c.query_kinds == 4 else 0.0
  widened = 2 * work.entities * c.entity_embedding * c.hidden if c.entity_embedding != c.hidden else 0.0
  words = vocabulary_head(c.hidden, c.embedding, c.vocab_size, work.predictions)
  entities = vocabulary_head(c.hidden, c.entity_embedding, c.entity_vocab_size, work.entity_predictions)
  return encoder(c, both) + queries + widened + words + entities


def _elmo(c: ElmoConfig, work: Work) -> float:
  """Characters once for each distinct word; for each word of each direction the LSTMs and the softmax."""
  cell = 2 * c.projection * 4 * c.cell + c.cell * c.projection
  words = 2 * work.tokens * (c.layers * cell + c.projection * c.vocab_size)
  return words + (work.spelled * _spelling(c) if c.input == "characters" else 0.0)


def _spelling(c: ElmoConfig) -> float:
  """Of one word: each filter at each place where it fits, highway layers of two matrices, the projection."""
  convolutions = sum((c.characters - width + 1) * width * c.char_embedding * n for width, n in c.filters)
  size = sum(n for _, n in c.filters)
  return 2 * (convolutions + c.highway * 2 * size**2 + size * c.projection)


def _masked(batch: Masked) -> Work:
  lengths = example_lengths(batch.tokens)
  return Work(
    tokens=int(lengths.sum()),
    squares=int(np.square(lengths).sum()),
    predictions=int(np.count_nonzero(batch.weights)),
    pairs=0 if batch.pair is None else int(np.count_nonzero(batch.pair.weights)),
    spans=0 if batch.edges is None else int(np.count_nonzero((batch.weights > 0) & (batch.edges[..., 0] >= 0))),
    slots=int(np.size(batch.tokens.ids)),
  )


def _masked_entities(batch: MaskedEntities) -> Work:
  segments = np.concatenate([batch.words.tokens.segments, batch.entities.segments], axis=1)
  return dataclasses.replace(
    _masked(batch.words),
    squares=int(np.square(segment_lengths(segments)).sum()),
    entities=int(np.count_nonzero(batch.entities.segments)),
    entity_predictions=int(np.count_nonzero(batch.weights)),
  )


def _labelled(batch: Labelled) -> Work:
  """Heads of tasks are left out: a hundredth of a layer."""
  segments, entities = np.asarray(batch.tokens.segments), batch.entities
  tokens = int(np.count_nonzero(segments))
  mentions = 0 if entities is None else int(np.count_nonzero(entities.segments))
  if entities is not None:
    segments = np.concatenate([segments, entities.segments], axis=1)
  squares = int(np.square(segment_lengths(segments)).sum())
  return Work(tokens, squares, 0, 0, 0, int(np.size(batch.tokens.ids)), entities=mentions)


def _text_pairs(batch: TextPairs) -> Work:
  """The encoder alone; the texts' products with each other are left out, as heads of tasks are."""
  lengths = example_lengths(batch.tokens)
  return Work(int(lengths.sum()), int(np.square(lengths).sum()), 0, 0, 0, int(np.size(batch.tokens.ids)))


def _chars(batch: Chars) -> Work:
  """Tokens are words of both directions; what only fills up a group's room has no character."""
  tokens, spelled = int(np.count_nonzero(batch.weights)), int(np.count_nonzero(np.any(batch.words, axis=-1)))
  return Work(tokens, 0, tokens, 0, 0, int(np.size(batch.weights)), spelled=spelled)


COUNTS: dict[type, Callable[[Any], Work]] = {
  Chars: _chars,
  Labelled: _labelled,
  Masked: _masked,
  MaskedEntities: _masked_entities,
  TextPairs: _text_pairs,
}
FORWARD: dict[type, Callable[[Any, Work], float]] = {
  Bert: _bert,
  Electra: _electra,
  Elmo: _elmo,
  Luke: _luke,
  SpanBert: _spanbert,
}
