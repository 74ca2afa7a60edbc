"""ELMo (Peters et al. 2018): words spelled in characters, two stacks of projected LSTMs, one softmax for both.

The forward and the backward language model share the words' vectors (`models/characters.py`) and the softmax, and no
LSTM (`models/recurrent.py`).

The state behind a call goes out and comes in; nothing is hidden in the module. Direction 1 reads a sequence of its own
that is already reversed. Dimension letters: G row groups, U distinct words of a group, C characters of a word, B rows,
R directions (2), L steps, P projection, T layers, V' words of a padded table.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.characters import ACTIVATIONS as ACTIVATIONS
from models.characters import CHARACTER_AXES, HIGHWAY_AXES, CharacterConfig, CharacterEncoder, by_inputs
from models.characters import CHARACTERS as CHARACTERS
from models.encoded import Encoded
from models.encoder import padded
from models.heads import without_padding
from models.layers import Array, dropout
from models.recurrent import RECURRENT_AXES, ProjectedLstms, RecurrentConfig, empty_carry


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElmoConfig:
  """Sizes and choices.

  Attributes:
    vocab_size: words that the softmax predicts and, where words are the input, that the table holds.
    input: `characters`: words are spelled; `words`: rows of a table, words [G, U, 1] hold their ids.
    characters: of a word, with its begin and end.
    char_embedding: width of a character's vector.
    filters: (width, number) of each convolution.
    activation: of the convolutions: relu or tanh.
    highway: highway layers.
    recompute_gates: of the LSTMs, and the convolutions, for the backward pass instead of keeping them.
    heads_on_top: `softmax`, or nothing: the published files lack it.
    The others are RecurrentConfig's; dropout is also the softmax's, on the top layer.
  """

  vocab_size: int
  input: str
  characters: int
  char_embedding: int
  filters: tuple[tuple[int, int], ...]
  activation: str
  highway: int
  layers: int
  cell: int
  projection: int
  cell_clip: float
  projection_clip: float
  skip: bool
  dropout: float
  recompute_gates: bool
  unroll: int
  dtype: Any = jnp.float32
  heads_on_top: tuple[str, ...] = ("softmax",)

  @property
  def spelling(self) -> CharacterConfig:
    """That of the words' characters."""
    return CharacterConfig(
      embedding=self.char_embedding,
      filters=self.filters,
      activation=self.activation,
      highway=self.highway,
      projection=self.projection,
      remat=self.recompute_gates,
      dtype=self.dtype,
    )

  @property
  def recurrent(self) -> RecurrentConfig:
    """That of the LSTMs."""
    own = {"remat": self.recompute_gates}
    names = {field.name for field in dataclasses.fields(RecurrentConfig)} - own.keys()
    return RecurrentConfig(**own, **{name: getattr(self, name) for name in names})


class WordTable(nn.Module):
  """Words by a table of their own: ids int [..., 1] -> [..., P]."""

  config: ElmoConfig

  def setup(self):
    c = self.config
    self.embedding = self.param("embedding", _uniform_but_padding(c.vocab_size), (padded(c.vocab_size), c.projection))

  def __call__(self, words: Array) -> Array:
    return jnp.take(self.embedding, words[..., 0], axis=0)


class Softmax(nn.Module):
  """What words are predicted by: kernel [V', P], N(0, 1 / sqrt(P)), and bias [V']; rows that only pad are zeros."""

  config: ElmoConfig

  def setup(self):
    c, rows = self.config, padded(self.config.vocab_size)
    real = jnp.arange(rows)[:, None] < c.vocab_size
    start = lambda key: jnp.where(real, by_inputs(c.projection)(key, (rows, c.projection)), 0.0)
    self.kernel = self.param("kernel", start)
    self.bias = self.param("bias", nn.initializers.zeros, (rows,))

  def __call__(self) -> tuple[Array, Array]:
    return self.kernel, without_padding(self.bias, self.config.vocab_size)


class Heads(nn.Module):
  """The heads of pretraining."""

  config: ElmoConfig

  def setup(self):
    if "softmax" in self.config.heads_on_top:
      self.softmax = Softmax(self.config)


class Elmo(nn.Module):
  """The bidirectional language model, as pure `init`/`apply`."""

  config: ElmoConfig

  def setup(self):
    c = self.config
    if c.input == "characters":
      self.char = CharacterEncoder(c.spelling)
    else:
      self.word = WordTable(c)
    self.layers = ProjectedLstms(c.recurrent)
    self.heads = Heads(c)

  def spell_words(self, words: Array) -> Array:
    """Vectors float32 [G, U, P] of distinct words [G, U, C]: in characters, or ids [G, U, 1]."""
    return self.char(words) if self.config.input == "characters" else self.word(words)

  def __call__(
    self, words: Array, index: Array, carry: Array, key: Array | None = None, mask: Array | None = None
  ) -> tuple[Array, Array]:
    """All layers of streams in both directions.

    Args:
      words: int [G, U, C], the distinct words of each group of B / G neighbouring rows.
      index: int [B, R, L], rows of the group's words; each direction in the order in which it is read.
      carry: float32 [B, R, T, C + P] from `empty_carry` or an earlier call.
      key: switches dropout on: of each LSTM's input, which is also what the skip adds.
      mask: bool [B, R, L]; False = no word stands there: the state stays as it is, and outputs have no meaning.
    Returns:
      (float32 [T + 1, B, R, L, P]: words, then the output of each layer with its skip; the carry behind the last word).
    """
    vectors, groups = self.spell_words(words), words.shape[0]
    rows = index.reshape(groups, -1, *index.shape[1:])
    x = jax.vmap(lambda table, rows: jnp.take(table, rows, axis=0))(vectors, rows)
    x = x.reshape(*index.shape, self.config.projection)
    mask = None if mask is None else mask.transpose(1, 2, 0)
    layers, carry = self.layers(x.transpose(1, 2, 0, 3), carry, mask, key)
    return jnp.concatenate([x[None], layers.transpose(0, 3, 1, 2, 4)]), carry

  def encode(
    self, words: Array, index: Array, lengths: Array, carry: Array, key: Array | None = None
  ) -> tuple[Encoded, Array]:
    """Representations of sentences in both directions.

    Args:
      words: int [G, U, C]; see `__call__`.
      index: int [B, L], sentences with their boundaries, from column 0 on; what stands behind a sentence is not read.
      lengths: int [B], columns of each sentence; a row of length 0 leaves its state alone.
      carry: that of the sentences before these, row by row, or `empty_carry`.
    Returns:
      (`layers` float32 [T + 1, B, L, 2P]: forward, then backward half of each column, the word's vector twice in the
      first; zeros behind a sentence. `hidden` is the last of them; the carry).
    """
    mask = jnp.arange(index.shape[1]) < lengths[:, None]
    both = jnp.stack([index, reverse(index, lengths)], axis=1)
    outputs, carry = self(words, both, carry, key, jnp.stack([mask, mask], axis=1))
    layers = pair_layers(outputs, lengths)
    return Encoded(hidden=layers[-1], layers=layers), carry

  def scores(self, hidden: Array, key: Array | None = None) -> tuple[Array, Array, Array]:
    """What the logits of hidden [..., P], hidden kernel^T + bias, are made of.

    Returns:
      (hidden with dropout, in the compute dtype; kernel [V', P]; bias [V'], -1e9 where rows only pad).
    """
    hidden = dropout(hidden, self.config.dropout, key).astype(self.config.dtype)
    return hidden, *self.heads.softmax()

  def everything(self, words: Array, index: Array, carry: Array) -> None:
    """Touches every parameter once, for `init`."""
    outputs, _ = self(words, index, carry)
    if "softmax" in self.config.heads_on_top:
      self.scores(outputs[-1])

  def empty_carry(self, rows: int) -> Array:
    """The state before anything was read: zeros [B, R, T, C + P]."""
    return empty_carry(self.config.recurrent, rows)

  def axes(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Parameter path -> axis names, first match; every leaf has a rule and every rule a leaf."""
    c = self.config
    characters = (*CHARACTER_AXES, *(HIGHWAY_AXES if c.highway else ()))
    return (
      *(characters if c.input == "characters" else WORD_AXES),
      *RECURRENT_AXES,
      *(SOFTMAX_AXES if "softmax" in c.heads_on_top else ()),
    )

  def table_sizes(self) -> dict[str, int]:
    """Real sizes of the axes that are padded."""
    return {"vocab": self.config.vocab_size}


def reverse(x: Array, lengths: Array, axis: int = 1) -> Array:
  """x with the first `lengths` [B] entries of `axis` reversed in each row; rows are axis - 1. What follows stays."""
  size = x.shape[axis]
  place, end = jnp.arange(size), lengths[:, None]
  source = jnp.where(place < end, end - 1 - place, place)
  shape = [1] * x.ndim
  shape[axis - 1 : axis + 1] = source.shape
  return jnp.take_along_axis(x, source.reshape(shape), axis=axis)


def pair_layers(outputs: Array, lengths: Array) -> Array:
  """[T + 1, B, R, L, P] of sentences of `lengths` [B] -> [T + 1, B, L, 2P], halves of one column side by side.

  The backward half is turned round by each row's true length; behind it stand zeros.
  """
  forward, backward = outputs[:, :, 0], reverse(outputs[:, :, 1], lengths, axis=2)
  both = jnp.concatenate([forward, backward], axis=-1)
  inside = jnp.arange(both.shape[2]) < lengths[:, None]
  return jnp.where(inside[..., None], both, 0.0)


def _uniform_but_padding(rows: int) -> Any:
  return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0).at[rows:].set(0.0)


WORD_AXES = ((r"^word/embedding$", ("vocab", "embed")),)
SOFTMAX_AXES = ((r"^heads/softmax/kernel$", ("vocab", "embed")), (r"^heads/softmax/bias$", ("vocab",)))


def build(config: Any, dtype: Any) -> Elmo:
  """The Elmo of a resolved config."""
  model = config.model
  return Elmo(
    ElmoConfig(
      vocab_size=model.vocab_size,
      input=model.input,
      characters=model.characters,
      char_embedding=model.char_embedding,
      filters=tuple(tuple(pair) for pair in model.filters),
      activation=model.activation,
      highway=model.highway,
      layers=model.layers,
      cell=model.cell,
      projection=model.projection,
      cell_clip=model.cell_clip,
      projection_clip=model.projection_clip,
      skip=model.skip,
      dropout=model.dropout,
      recompute_gates=model.recompute_gates,
      unroll=model.unroll,
      dtype=dtype,
    )
  )
