"""Small networks on ELMo with parameters and batches of their own, run on what a test changes."""

import dataclasses
import functools
import zlib

import jax
import numpy as np

from data.batch import LabelledWords, validate
from models.elmo import Elmo, ElmoConfig
from models.paths import map_named
from models.task_networks import TaskNetwork, TaskNetworkConfig

GROUPS, ROWS, COLUMNS, WORDS, VECTORS = 2, 4, 7, 8, 20
LABELS = ("O", "B-PER", "I-PER")
BILM = ElmoConfig(  # words from a table: what spells them is no matter of these networks
  vocab_size=90, input="words", characters=6, char_embedding=3, filters=((1, 4), (2, 4)), activation="relu",
  highway=1, layers=2, cell=4, projection=3, cell_clip=3.0, projection_clip=3.0, skip=True, dropout=0.0,
  recompute_gates=False, unroll=1, heads_on_top=(),
)  # fmt: skip
BOTH = TaskNetworkConfig(
  bilm=BILM, place="both", mixture="learned", layer_norm=False, elmo_dropout=0.25, vectors=VECTORS, vector_size=5,
  encoder="lstm", hidden=4, layers=1, dropout=0.5, head="classify", labels=LABELS,
)  # fmt: skip
# What reads nothing but one layer of the biLM
PROBE = dataclasses.replace(BOTH, place="input", vectors=0, encoder="none", mixture="top", head="tag")


def network(config=BOTH, **changes):
  return TaskNetwork(dataclasses.replace(config, **changes))


def is_tagger(model):
  return model.config.head in ("tag", "crf")


def batch_of(model, seed=0):
  """Sentences of all lengths, one of no words among them; what must not be read is random."""
  rng = np.random.default_rng(seed)
  ints = lambda high, *shape: rng.integers(0, high, shape).astype(np.int32)
  sentences = model.config.sentences
  lengths = np.int32([[7, 3, 4, 5], [4, 5, 7, 0], [3, 7, 2, 6], [2, 4, 4, 3]])
  lengths = lengths[:, : 4 if model.config.head == "choose" else sentences]
  sentences = lengths.shape[1]
  shape = (ROWS, sentences, COLUMNS)
  count = COLUMNS - 2 if is_tagger(model) else 1
  weights = np.float32(np.arange(count) < lengths[:, :1] - 2) if is_tagger(model) else np.ones((ROWS, 1), np.float32)
  words, index, ids = ints(90, GROUPS, WORDS, BILM.characters), ints(WORDS, *shape), ints(VECTORS, *shape)
  batch = LabelledWords(words, index, lengths, ids, ints(3, ROWS, count), weights)
  validate(batch)
  return batch


def inputs(batch):
  return batch.words, batch.index, batch.lengths, batch.ids


@functools.cache
def shapes(model):
  init = lambda: model.init(jax.random.key(0), *inputs(batch_of(model)), method="everything")["params"]
  return jax.eval_shape(init)


@functools.cache
def params_of(model):
  """Parameters without zeros, drawn by their paths, so that networks share what they have in common."""
  draw = lambda path, leaf: np.float32(np.random.default_rng(zlib.crc32(path.encode())).normal(0, 0.6, leaf.shape))
  return map_named(draw, shapes(model))


@functools.cache
def compiled(model):
  """jitted (params, *inputs) -> (logits, what the head reads of each word, where words stand)."""

  def both(params, *arguments):
    logits = model.apply({"params": params}, *arguments)
    return logits, *model.apply({"params": params}, *arguments, method="encode")

  return jax.jit(both)


def run(model, batch, *key, params=None):
  params = params_of(model) if params is None else params
  return jax.tree.map(np.asarray, compiled(model)(params, *inputs(batch), *key))


@functools.cache
def reader():
  """jitted (params, words, index [1, L], lengths [1]) -> the layers of one sentence from an empty state."""
  model = Elmo(BILM)
  return jax.jit(lambda params, *of: model.apply({"params": params}, *of, model.empty_carry(1), method="encode")[0])


def alone(params, batch, row, sentence=0):
  """The biLM's layers [T + 1, m, 2P] of a sentence's words, read by itself with the words of its row's group."""
  words, size = batch.words[row // (ROWS // GROUPS)][None], batch.lengths[row, sentence]
  layers = reader()(params["bilm"], words, batch.index[row, sentence][None], size[None]).layers
  return np.asarray(layers)[:, 0, 1 : size - 1]
