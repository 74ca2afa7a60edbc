"""Networks of tasks on whole words, read by word vectors, by ELMo's, or by both (Peters et al. 2018, section 3.3).

ELMo's vectors enter beside the word vectors (`input`), beside what the network's LSTMs say (`output`), or at both
places, each with a mix of its own. Heads: classes of a sentence, tags of its words, tags decided together by a CRF,
classes of a pair or a number, the one of several sentences that goes with another, where in a passage the answer to a
question stands. The language model starts each sentence from an empty state, so that a sentence has one answer.

Dropout stands on word vectors, between LSTM layers, on what they say of a word that is tagged or may be an answer's,
and on what is pooled; ELMo's vectors have a rate of their own. Kernels begin Glorot uniform and biases at zeros, as in
AllenNLP's ESIM, but for LSTMs (`models/lstm.py`), CRFs (`models/crf.py`), and word vectors that no file gives: uniform
in +-sqrt(3 / size) (Ma and Hovy 2016).

Dimension letters: B rows, A sentences of a row, L columns with both boundaries, K words (L - 2), D width.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import elmo
from models.crf import CRF_AXES, Chain, Crf
from models.elmo import Elmo, ElmoConfig
from models.esim import ESIM_AXES, Esim, compare, max_of_words, mean_of_words
from models.layers import Array, Dense, Table, dropout, split_key
from models.lstm import BiLstm, glorot, lstm_axes
from models.passage_reader import READER_AXES, PassageReader
from models.scalar_mix import ScalarMix, mix_axes, mixed_layers

PLACES = {"none": (), "input": ("input",), "output": ("output",), "both": ("input", "output")}
ENCODERS = ("lstm", "none")
HEADS = ("classify", "tag", "crf", "pair", "regress", "choose", "answer")
ALIGNED = ("pair", "regress", "choose")  # heads that read two sentences against each other
UNNAMED = {"regress": 1, "choose": 1, "answer": 2}  # heads whose outputs are no classes, and how many these are


class TaskNetworkError(ValueError):
  """Settings of a network that do not fit together, or a batch that its head cannot read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskNetworkConfig:
  """Sizes and choices.

  Attributes:
    bilm: the language model; None where `place` is none.
    place: where its vectors enter, one of PLACES.
    mixture, layer_norm: of the mixes (models.scalar_mix.ScalarMix).
    elmo_dropout: of mixed vectors.
    vectors: rows of the table of word vectors, 0 = none; row 0 is of no word. vector_size: their width.
    encoder: `lstm`, or `none`: the head reads the vectors themselves, a linear probe.
    hidden: of LSTMs in one direction, and of a pair's dense layers. layers: of LSTMs.
    dropout: of all but ELMo's vectors.
    head: one of HEADS; `pair` has classes of two sentences, `regress` a number, `choose` one of the first sentence with
      each other, `answer` a first and a last word.
    labels: names of the classes, where there are such.
    dtype: of matrix products.
  """

  bilm: ElmoConfig | None
  place: str
  mixture: str
  layer_norm: bool
  elmo_dropout: float
  vectors: int
  vector_size: int
  encoder: str
  hidden: int
  layers: int
  dropout: float
  head: str
  labels: tuple[str, ...]
  dtype: Any = jnp.float32

  def __post_init__(self):
    for name, known in (("place", PLACES), ("encoder", ENCODERS), ("head", HEADS)):
      if getattr(self, name) not in known:
        raise TaskNetworkError(f"{name}: got {getattr(self, name)!r}, want one of {', '.join(known)}")
    if self.places and self.bilm is None:
      raise TaskNetworkError(f"bilm: got none with place={self.place}, want a language model, or place=none")
    if not self.vectors and "input" not in self.places:
      raise TaskNetworkError(f"vectors: got none with place={self.place}, want word vectors, or place=input or both")
    if self.head == "answer" and self.encoder == "none":
      raise TaskNetworkError("encoder: got none with head=answer, want lstm: a passage has to be read")
    if self.head not in UNNAMED and len(self.labels) < 2:
      raise TaskNetworkError(f"labels: got {len(self.labels)}, want at least 2 classes to choose from")
    if self.places:
      mixed_layers(self.mixture, self.bilm.layers)

  @property
  def places(self) -> tuple[str, ...]:
    """The places that have a mix."""
    return PLACES[self.place]

  @property
  def classes(self) -> int:
    """0 where outputs are none."""
    return 0 if self.head in UNNAMED else len(self.labels)

  @property
  def outputs(self) -> int:
    return self.classes or UNNAMED[self.head]

  @property
  def sentences(self) -> int:
    """Of an example; where one is chosen, at least so many."""
    return 3 if self.head == "choose" else 2 if self.head in (*ALIGNED, "answer") else 1

  @property
  def by_word(self) -> bool:
    """Whether each word has a label."""
    return self.head in ("tag", "crf")

  @property
  def aligns(self) -> bool:
    """Whether a pair is read as by ESIM; a probe compares two means instead."""
    return self.head in ALIGNED and self.encoder == "lstm"

  @property
  def elmo_size(self) -> int:
    """Width of ELMo's vectors, both directions side by side."""
    return 2 * self.bilm.projection if self.places else 0

  @property
  def read_size(self) -> int:
    """Width of what the LSTMs read."""
    return self.vector_size * bool(self.vectors) + self.elmo_size * ("input" in self.places)

  @property
  def encoded_size(self) -> int:
    """Width of what the head reads of a word."""
    own = 2 * self.hidden if self.encoder == "lstm" else self.read_size
    return own + self.elmo_size * ("output" in self.places)

  @property
  def decided_size(self) -> int:
    """Width of what the last layer reads."""
    if self.aligns:
      return self.hidden
    if self.head in ALIGNED:
      return 4 * self.encoded_size
    return self.encoded_size * (2 if self.head == "classify" and self.encoder == "lstm" else 1)


class Mixes(nn.Module):
  """What ELMo says at each place, below mix/: layers [T + 1, ..., D], mask [...] -> {place: [..., D]}."""

  config: TaskNetworkConfig

  @nn.compact
  def __call__(self, layers: Array, mask: Array) -> dict[str, Array]:
    c = self.config
    mix = lambda place: ScalarMix(c.bilm.layers, c.mixture, c.layer_norm, name=place)
    return {place: mix(place)(layers, mask) for place in c.places}


class Heads(nn.Module):
  """The last layer, below heads/: [..., inputs] -> float32 [..., outputs]."""

  inputs: int
  outputs: int
  kind: str  # tag, classify, regress or choose

  @nn.compact
  def __call__(self, x: Array) -> Array:
    sizes = (self.inputs,), (self.outputs,)
    return Dense(*sizes, glorot(self.inputs, self.outputs), jnp.float32, name=self.kind)(x)


class TaskNetwork(nn.Module):
  """The network of a task, as pure `init`/`apply`."""

  config: TaskNetworkConfig

  def setup(self):
    c = self.config
    if c.places:
      self.bilm, self.mix = Elmo(c.bilm), Mixes(c)
    if c.vectors:
      bound = (3 / c.vector_size) ** 0.5
      self.vectors = Table(c.vectors, c.vector_size, _uniform(bound), zero_row=0)
    if c.encoder == "lstm":
      self.encoder = BiLstm(c.read_size, c.hidden, c.layers, c.dropout, c.dtype)
    if c.aligns:
      self.pair = Esim(c.encoded_size, c.hidden, c.dropout, c.dtype)
    if c.head == "crf":
      self.crf = Crf(c.classes)
    if c.head == "answer":
      self.reader = PassageReader(c.encoded_size, c.hidden, c.dropout, c.dtype)
    else:
      kind = "tag" if c.by_word else c.head if c.head in UNNAMED else "classify"
      self.heads = Heads(c.decided_size, c.outputs, kind)

  def __call__(self, words: Array, index: Array, lengths: Array, ids: Array, key: Array | None = None) -> Array:
    """Logits of sentences; shapes and meaning of the inputs are those of data.batch.LabelledWords.

    Args:
      words: int [G, U, C]. index: int [B, A, L]. lengths: int [B, A]. ids: int [B, A, L].
      key: switches dropout on.
    Returns:
      float32 [B, 1, outputs] of a sentence or pair; [B, K, classes] of words, emissions where a CRF decides, and
      without meaning behind a sentence; [B, A - 1] of choices; [B, K + 1, 2] of the columns of a passage, which is
      sentence 0.
    Raises:
      TaskNetworkError: an example has another number of sentences than the head reads.
    """
    c, (rows, sentences) = self.config, index.shape[:2]
    if sentences < c.sentences or sentences > c.sentences and c.head != "choose":
      raise TaskNetworkError(f"batch: got {sentences} sentences of an example, want {c.sentences} of {c.head}")
    read_key, head_key = split_key(key, 2)
    x, mask = self.encode(words, index, lengths, ids, read_key)
    if c.by_word:
      return self.heads(x)
    if c.head == "classify":
      return self.heads(dropout(self._pool(x, mask), c.dropout, head_key))[:, None]
    x, mask = (_beside_first(leaf.reshape(rows, sentences, *leaf.shape[1:])) for leaf in (x, mask))
    if c.head == "answer":
      return self.reader(x, mask, head_key)
    found = self.heads(self._compared(x, mask, head_key))
    return found.reshape(rows, sentences - 1) if c.head == "choose" else found[:, None]

  def _pool(self, x: Array, mask: Array) -> Array:
    """One vector of each sentence."""
    mean = mean_of_words(x, mask)
    return mean if self.config.encoder == "none" else jnp.concatenate([mean, max_of_words(x, mask)], axis=-1)

  def _compared(self, x: Array, mask: Array, key: Array | None) -> Array:
    """One vector of each pair of sentences, x [N, 2, K, D], mask [N, 2, K]."""
    if self.config.aligns:
      return self.pair(x, mask, key)
    means = (mean_of_words(x[:, side], mask[:, side]) for side in (0, 1))
    return dropout(compare(*means), self.config.dropout, key)

  def encode(
    self, words: Array, index: Array, lengths: Array, ids: Array, key: Array | None = None
  ) -> tuple[Array, Array]:
    """What the head reads of each word of the B A sentences.

    Returns:
      (float32 [B A, K, D], zeros where no word stands; bool [B A, K], where one does).
    """
    c, (rows, sentences, columns) = self.config, index.shape
    index, ids, lengths = index.reshape(-1, columns), ids.reshape(-1, columns)[:, 1:-1], lengths.reshape(-1)
    mask = jnp.arange(columns - 2) < lengths[:, None] - 2
    vectors_key, bilm_key, elmo_key, encoder_key, output_key = split_key(key, 5)
    x = [dropout(self.vectors(ids), c.dropout, vectors_key)] if c.vectors else []
    mixed = {}
    if c.places:
      encoded, _ = self.bilm.encode(words, index, lengths, self.bilm.empty_carry(rows * sentences), bilm_key)
      mixed = self.mix(encoded.layers[:, :, 1:-1], mask)
      keys = split_key(elmo_key, len(c.places))
      mixed = {place: dropout(mixed[place], c.elmo_dropout, key) for place, key in zip(c.places, keys)}
    x = jnp.concatenate([*x, *(mixed[place] for place in c.places if place == "input")], axis=-1)
    if c.encoder == "lstm":
      x = self.encoder(x, mask, encoder_key)
      x = dropout(x, c.dropout, output_key) if c.by_word or c.head == "answer" else x
    x = jnp.concatenate([x, *(mixed[place] for place in c.places if place == "output")], axis=-1)
    return jnp.where(mask[..., None], x, 0.0), mask

  def chain(self) -> Chain:
    """The scores between tags of a CRF."""
    return self.crf()

  def everything(self, words: Array, index: Array, lengths: Array, ids: Array) -> None:
    """Touches every parameter once, for `init`."""
    self(words, index, lengths, ids)
    if self.config.head == "crf":
      self.chain()

  def mixture_weights(self, params: dict) -> list[Array]:
    """The weights of every mix that learns them, before the softmax."""
    c = self.config
    return [params["mix"][place]["weights"] for place in c.places] if c.mixture == "learned" else []

  def axes(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Parameter path -> axis names, first match; every leaf has a rule and every rule a leaf."""
    c = self.config
    heads = r"^heads/(classify|tag|regress|choose)/"
    rules = [*READER_AXES] if c.head == "answer" else [(heads + "kernel$", ("embed", None)), (heads + "bias$", (None,))]
    if c.places:
      rules += [(rf"^bilm/{pattern.removeprefix('^')}", names) for pattern, names in Elmo(c.bilm, parent=None).axes()]
      rules += mix_axes(c.places, c.mixture)
    rules += [(r"^vectors/embedding$", (None, "embed"))] if c.vectors else []
    rules += lstm_axes("encoder") if c.encoder == "lstm" else ()
    rules += ESIM_AXES if c.aligns else ()
    rules += CRF_AXES if c.head == "crf" else ()
    return tuple(rules)

  def table_sizes(self) -> dict[str, int]:
    """Real sizes of the axes that are padded: the biLM's."""
    return Elmo(self.config.bilm, parent=None).table_sizes() if self.config.places else {}


def _beside_first(x: Array) -> Array:
  """The first of A sentences with each of the others: x [B, A, ...] -> [B (A - 1), 2, ...]."""
  first = jnp.broadcast_to(x[:, :1], x[:, 1:].shape)
  return jnp.stack([first, x[:, 1:]], axis=2).reshape(-1, 2, *x.shape[2:])


def _uniform(bound: float) -> Any:
  return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def build(config: Any, dtype: Any) -> TaskNetwork:
  """The TaskNetwork of a resolved config: sizes from `model`, classes from `objective`."""
  model, objective = config.model, config.objective
  bilm = None
  if PLACES.get(model.place) and model.bilm:
    bilm = elmo.build(types.SimpleNamespace(model=model.bilm), dtype).config
    bilm = dataclasses.replace(bilm, heads_on_top=())
  return TaskNetwork(
    TaskNetworkConfig(
      bilm=bilm,
      place=model.place,
      mixture=str(model.mixture),
      layer_norm=model.layer_norm,
      elmo_dropout=model.elmo_dropout,
      vectors=model.vectors,
      vector_size=model.vector_size,
      encoder=model.encoder,
      hidden=model.hidden,
      layers=model.layers,
      dropout=model.dropout,
      head=objective.kind,
      labels=tuple(objective.labels),
      dtype=dtype,
    )
  )
