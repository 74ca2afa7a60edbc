"""A small model as a run leaves it behind, made without training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Masked, Pair, Tokens
from data.entity_vocabulary import EntityVocabulary
from data.synthetic import synthetic_batch
from data.tokenizers import bytebpe, wordpiece
from trainer.checkpoints import Checkpoints
from trainer.config import load, to_json
from trainer.programs import Program, Setup

SENTENCES = ["the cat sat on the mat", "it rained in paris all day", "a dog ran after the cat"]
VOCAB, HIDDEN, LAYERS, TRAINED, POSITIONS = 128, 32, 2, 40, 64
SIZES = {
  "model.vocab_size": VOCAB, "model.hidden": HIDDEN, "model.layers": LAYERS, "model.heads": 2, "model.ffn": 64,
  "model.max_positions": POSITIONS, "data.length": TRAINED, "data.max_predictions": 4,
  "model.init_std": 0.3,  # far from uniform answers
}  # fmt: skip


@functools.cache
def finished_run(base):
  """Its workdir, below `base`; steps 3 and 7 have other parameters. Tests that change it work on a copy."""
  folder = base / "finished_run"
  config = load("configs/bert.py:tiny", SIZES)
  setup = Setup.of(config, jax.devices()[:1])
  ints, floats = np.zeros((2, 8), np.int32), np.zeros((2, 1), np.float32)
  row, slot = Tokens(ints, ints, ints, ints), ints[:, :1]
  program = Program(setup, setup.stages[0], Masked(row, slot, slot, slot, floats, pair=Pair(slot, slot, floats)))
  state = program.fresh_state()
  old = dataclasses.replace(state, step=jnp.int32(3), params=jax.tree.map(lambda leaf: leaf * 0.5, state.params))
  with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
    for saved in (old, dataclasses.replace(state, step=jnp.int32(7))):
      checkpoints.save(saved, {}, scheduled=True, wait=True)
  (folder / "config.json").write_text(to_json(config))
  wordpiece.train(SENTENCES * 2, vocab_size=VOCAB).save(folder / "tokenizer")
  return folder


WORDS, TITLES = 290, 40
SMALL_LUKE = {
  "model.hidden": 32, "model.heads": 2, "model.ffn": 48, "model.max_positions": 48, "model.vocab_size": WORDS,
  "model.entity_vocab_size": TITLES, "model.entity_embedding": 24, "data.length": 24, "data.max_predictions": 4,
  "data.max_entities": 6, "data.max_mention": 5, "batch_size": 1, "optimizer.warmup_steps": 10,
}  # fmt: skip


def luke_run(folder):
  """The workdir of a LUKE that is fresh from its seed, with titles of 37 entities."""
  config = load("configs/luke.py:tiny", SMALL_LUKE)
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(program.fresh_state(), {}, scheduled=True, wait=True)
  (folder / "config.json").write_text(to_json(config))
  bytebpe.train(SENTENCES * 3, WORDS).save(folder / "tokenizer")
  titles = [f"Title {i}" for i in range(TITLES - 3)]
  EntityVocabulary.of_titles(titles, range(len(titles), 0, -1)).save(folder / "tokenizer")
  return folder
