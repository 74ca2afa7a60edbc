"""An ELMo on text: texts to words, words to the layers of both directions.

Both language models read a text as a stream of its own, the backward one from its end, and a window of steps runs at a
time, with the state carried from window to window. So a text of any length has the layers that it has in one piece, and
none is cut. Each batch spells its distinct words once.

Dimension letters: N texts, n words of a text, W steps of a window, U distinct words, B rows, T LSTM layers, P
projection, C characters of a word.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.characters import Spellings
from data.tokenizers.words import BEGIN, END, SPECIALS, UNKNOWN, Words, checked_split
from models.elmo import Elmo
from trainer.inference.running import Report
from trainer.loading import Loaded
from trainer.texts import Chunk, InputError, chunks, chunks_in_order, power_of_two, refuse_beyond_memory

POOLS = ("none", "mean")
_FEWEST = 256  # distinct words of a batch, at least, as each size is a program to compile


@dataclasses.dataclass(frozen=True)
class WordEncodings:
  """Layers of N texts, the longest of L words, without their boundaries; zeros behind a text.

  words: of each text. layers: K chosen ones, 0 = the word's vector, twice; forward half first. hidden: the top layer.
  pooled: its mean over a text's words. Fields that were not asked for are None.
  """

  words: list[list[str]]
  lengths: np.ndarray  # int32[N], words
  hidden: np.ndarray | None  # float32[N, L, 2P]
  pooled: np.ndarray | None  # float32[N, 2P]
  layers: np.ndarray | None  # float32[N, K, L, 2P]
  characters: int

  def arrays(self) -> dict[str, np.ndarray]:
    """The arrays there are, by name; `words` is str[N, L], each as far as its characters are read."""
    words = np.zeros((len(self.words), max(map(len, self.words), default=0)), f"U{self.characters - 2}")
    for row, own in zip(words, self.words, strict=True):
      row[: len(own)] = own
    arrays = {name: getattr(self, name) for name in ("lengths", "hidden", "pooled", "layers")}
    return {"words": words} | {name: array for name, array in arrays.items() if array is not None}


def splitter(loaded: Loaded, split: str | None = None) -> Words:
  """What divides texts into words: one of `words.SPLITS`; by default as an ELMo's own tokenizer does, else at marks."""
  own = loaded.tokenizer.split if isinstance(loaded.tokenizer, Words) else "marks"
  return Words(SPECIALS, split=checked_split(own if split is None else split))


def encode(
  loaded: Loaded,
  texts: Sequence[str],
  pool: str = "mean",
  layers: Sequence[int] = (),
  hidden: bool = True,
  batch_size: int = 32,
  max_length: int | None = None,
  report: Report | None = None,
  split: str | None = None,
  stateful: bool = False,
) -> WordEncodings:
  """Layers of texts. By default each starts from the empty state, so that it has the same ones in any company.

  Args:
    pool: none, or mean.
    layers: numbers from 0 to T.
    hidden: whether to keep the top layer.
    max_length: steps of a window, which no result depends on; by default `loaded.max_length`.
    split: see `splitter`; "space" for text that was divided into words before.
    stateful: a text goes on from the state behind the text `batch_size` places before it, in both directions, as the
      released code has it, whose batches are rows of as many streams. Then texts depend on their order.
  Raises:
    InputError: a choice that the model does not have, or results larger than the memory here.
  """
  if pool not in POOLS:
    raise InputError(f"pool: got {pool!r}, want one of {', '.join(POOLS)} for {loaded.source}, an ELMo")
  for name, value in (("batch_size", batch_size), ("max_length", max_length)):
    if value is not None and value < 1:
      raise InputError(f"{name}: got {value}, want 1 or more")
  words = splitter(loaded, split).words(list(texts))
  result = _Result(loaded, words, pool, tuple(layers), hidden)
  rows, spelled = _rows(loaded, words)
  windows = _run(loaded, rows, spelled, result.wanted, batch_size, max_length or loaded.max_length, stateful)
  running: list[tuple[Chunk, int, Any]] = []
  try:
    for window in itertools.chain(windows, [None]):
      running += [] if window is None else [window]
      while len(running) > (window is not None):  # the next window runs while one is taken over
        chunk, first, outputs = running.pop(0)
        result.take(chunk, first, jax.device_get(outputs))
        if report is not None and first + chunk.width >= max(len(rows[i]) for i in chunk.rows):
          report(len(chunk.rows), sum(len(words[i]) for i in chunk.rows))
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise InputError(f"batches of {batch_size} texts do not fit in memory; choose a smaller batch_size") from error
  return result.encodings()


class _Result:
  """The arrays of all texts, filled window by window.

  wanted: numbers of the layers that are read.
  """

  def __init__(self, loaded: Loaded, words: list[list[str]], pool: str, layers: tuple[int, ...], hidden: bool):
    c = loaded.model.config
    self._words, self._layers = words, layers
    self._characters, self._top, self._half = c.characters, c.layers, c.projection
    self._lengths = np.fromiter(map(len, words), np.int32, len(words))
    n, longest, width = len(words), int(self._lengths.max(initial=0)), 2 * c.projection
    shapes = {
      "hidden": (n, longest, width) if hidden else None,
      "pooled": (n, width) if pool != "none" else None,
      "layers": (n, len(layers), longest, width) if layers else None,
    }
    refuse_beyond_memory(shapes.values())
    self._arrays = {name: np.zeros(shape, np.float32) if shape else None for name, shape in shapes.items()}
    self.wanted = tuple(dict.fromkeys((*layers, *([c.layers] if hidden or pool != "none" else []))))

  def take(self, chunk: Chunk, first: int, outputs: list[np.ndarray]) -> None:
    """The wanted layers, [B, 2, W, P], of the steps from `first` on; the backward half has a text's last word first."""
    hidden, pooled, layers = (self._arrays[name] for name in ("hidden", "pooled", "layers"))
    by_number = dict(zip(self.wanted, outputs, strict=True))
    for row, i in enumerate(chunk.rows):
      n = int(self._lengths[i])  # step 0 is the boundary, step s word s - 1, or s - 1 from the end
      begin, end = max(first, 1), min(first + chunk.width, n + 1)
      if begin >= end:
        continue
      steps = slice(begin - first, end - first)
      forward = slice(begin - 1, end - 1)
      backward = slice(n - end + 1, n - begin + 1)
      halves = ((0, forward, slice(self._half), 1), (1, backward, slice(self._half, None), -1))
      for direction, places, columns, order in halves:
        for k, number in enumerate(self._layers):
          layers[i, k, places, columns] = by_number[number][row, direction, steps][::order]
        if hidden is not None:
          hidden[i, places, columns] = by_number[self._top][row, direction, steps][::order]
        if pooled is not None:
          pooled[i, columns] += by_number[self._top][row, direction, steps].sum(0)

  def encodings(self) -> WordEncodings:
    if self._arrays["pooled"] is not None:
      self._arrays["pooled"] /= np.maximum(self._lengths, 1)[:, None]
    return WordEncodings(words=self._words, lengths=self._lengths, characters=self._characters, **self._arrays)


Speller = Callable[[np.ndarray], np.ndarray]  # numbers of words [U] -> [U, C], or ids [U, 1] of a model with a table


def _rows(loaded: Loaded, words: list[list[str]]) -> tuple[list[np.ndarray], Speller]:
  """(numbers of each text's words, boundaries around them, what spells them); BEGIN and END are 0 and 1."""
  distinct = dict.fromkeys(word for text in words for word in text)
  numbers = {word: number for number, word in enumerate(distinct, 2)}
  rows = [np.array([BEGIN, *(numbers[word] for word in text), END], np.int32) for text in words]
  return rows, _speller(loaded, list(distinct))


def _speller(loaded: Loaded, words: Sequence[str]) -> Speller:
  """What spells words by their numbers: 0 and 1 are the boundaries, and `words` follow."""
  c = loaded.model.config
  if c.input == "characters":
    return Spellings((*SPECIALS[:2], *words), c.characters, boundaries=True).__getitem__
  known = {word: i for i, word in enumerate(loaded.tokenizer.vocabulary[: c.vocab_size])}
  ids = np.array([BEGIN, END, *(max(known.get(word, UNKNOWN), UNKNOWN) for word in words)], np.int32)
  return lambda numbers: ids[numbers][:, None]


def word_vectors(loaded: Loaded, words: Sequence[str], batch_size: int = 1024) -> np.ndarray:
  """float32 [n, P]: context-free vectors of words, layer 0."""
  spelled, found = _speller(loaded, words), []
  for first in range(0, len(words), batch_size):
    numbers = np.arange(first, min(first + batch_size, len(words)))
    height = min(batch_size, max(_FEWEST, power_of_two(len(numbers))))
    with _precision(loaded):
      vectors = _spell(loaded.model, loaded.params, _padded(spelled(numbers + 2), height))
    found.append(jax.device_get(vectors)[: len(numbers)])
  return np.concatenate(found) if found else np.zeros((0, loaded.model.config.projection), np.float32)


def _run(
  loaded: Loaded,
  rows: list[np.ndarray],
  spelled: Speller,
  wanted: tuple[int, ...],
  batch_size: int,
  longest: int,
  stateful: bool,
) -> Iterator[tuple[Chunk, int, list[jax.Array]]]:
  """(chunk, first step of a window, `wanted` layers [B, 2, W, P] on the device)."""
  lengths = [len(row) for row in rows]
  carry = None
  for chunk in (chunks_in_order if stateful else chunks)(lengths, batch_size, longest):
    carry = carry if stateful else None
    for first in range(0, max(lengths[i] for i in chunk.rows), chunk.width):
      words, index, mask = _window(chunk, rows, first, spelled)
      with _precision(loaded):
        layers, carry = _layers(loaded.model, loaded.params, words, index, carry, mask)
      yield chunk, first, [layers[number] for number in wanted]


def _window(
  chunk: Chunk, rows: list[np.ndarray], first: int, spelled: Speller
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """words [1, U, C], index [B, 2, W] and mask [B, 2, W] of the steps from `first` on."""
  numbers = np.full((chunk.height, 2, chunk.width), BEGIN, np.int32)
  mask = np.zeros(numbers.shape, bool)
  for row, i in enumerate(chunk.rows):
    part = slice(first, first + chunk.width)
    for direction, order in enumerate((rows[i], rows[i][::-1])):
      size = len(order[part])
      numbers[row, direction, :size], mask[row, direction, :size] = order[part], True
  distinct, index = np.unique(numbers, return_inverse=True)
  words = _padded(spelled(distinct), max(_FEWEST, power_of_two(len(distinct))))
  return words[None], index.reshape(numbers.shape).astype(np.int32), mask


def _padded(words: np.ndarray, height: int) -> np.ndarray:
  """[height, C] with rows that are no word at all."""
  return np.pad(words, ((0, height - len(words)), (0, 0)))


def _precision(loaded: Loaded) -> Any:
  # Accelerators multiply float32 in fewer bits unless told otherwise.
  return jax.default_matmul_precision("highest" if loaded.model.config.dtype == jnp.float32 else None)


@functools.partial(jax.jit, static_argnums=0)
def _layers(model: Elmo, params, words, index, carry, mask) -> tuple[jax.Array, jax.Array]:
  carry = model.empty_carry(len(index)) if carry is None else carry
  layers, carry = model.apply({"params": params}, words, index, carry, mask=mask)
  return layers.astype(jnp.float32), carry


@functools.partial(jax.jit, static_argnums=0)
def _spell(model: Elmo, params, words) -> jax.Array:
  return model.apply({"params": params}, words[None], method="spell_words")[0].astype(jnp.float32)
