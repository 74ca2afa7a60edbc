"""A small model as a run leaves it behind, made without training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Masked, Pair, Tokens
from data.tokenizers import wordpiece
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
