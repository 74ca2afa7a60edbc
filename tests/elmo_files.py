"""An ELMo as a run leaves it behind, made without training."""

import functools

import jax

from data.synthetic import synthetic_batch
from data.tokenizers import words
from trainer.checkpoints import Checkpoints
from trainer.config import load, to_json
from trainer.programs import Program, Setup

SENTENCES = ["The cat sat on the mat.", "It rained in Paris all day.", "A dog ran after the cat."]
SMALL = {
  "model.vocab_size": 12, "model.char_embedding": 4, "model.filters": ((1, 4), (2, 4), (3, 8)), "model.characters": 12,
  "model.cell": 12, "model.projection": 6, "batch_size": 2, "data.length": 8, "data.distinct_words": 32,
  "objective.softmax": "full",
}  # fmt: skip


@functools.cache
def elmo_run(base, kind="characters"):
  """Its workdir, below `base`, fresh from its seed. kind: how it reads words."""
  folder = base / f"elmo_{kind}"
  config = load("configs/elmo.py:tiny", {**SMALL, "model.input": kind})
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(program.fresh_state(), {}, scheduled=True, wait=True)
  (folder / "config.json").write_text(to_json(config))
  words.train(SENTENCES * 3, split="marks").save(folder / "tokenizer")
  return folder
