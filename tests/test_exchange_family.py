"""Every family out of a run and back into one, by the command, parameter for parameter."""

import json

import jax
import numpy as np
import pytest

from data.synthetic import synthetic_batch
from data.tokenizers.training import training
from models import hf
from models.paths import named_leaves
from tests.trained import SENTENCES
from trainer.checkpoints import Checkpoints
from trainer.config import load, to_json
from trainer.inference import load_model
from trainer.programs import Program, Setup

pytestmark = pytest.mark.usefixtures("own_logging")
SMALL = {
  "model.hidden": 32, "model.heads": 2, "model.ffn": 48, "model.max_positions": 48, "data.length": 24, "batch_size": 1,
  "data.max_predictions": 4,
}  # fmt: skip
GENERATOR = {"model.generator_hidden": 16, "model.generator_heads": 1, "model.generator_ffn": 24, "model.embedding": 24}
RUNS = {  # recipe and variant -> pieces of its vocabulary, and sizes beside SMALL
  "roberta.py:tiny": (277, {}),
  "roberta.py:tiny,format=segment_pairs": (277, {}),
  "albert.py:tiny": (100, {"model.embedding": 16}),
  "albert.py:tiny,share=attention": (100, {"model.embedding": 32}),
  "spanbert.py:tiny": (100, {}),
  "electra.py:tiny": (100, GENERATOR),
  "electra.py:tiny,tie=none": (100, GENERATOR),
}
QUICK = ("roberta.py:tiny", "electra.py:tiny,tie=none")


@pytest.mark.parametrize("variant", [pytest.param(v, marks=() if v in QUICK else pytest.mark.slow) for v in RUNS])
def test_a_run_goes_out_and_comes_back(variant, tmp_path, capsys):
  pieces, sizes = RUNS[variant]
  config = load(f"configs/{variant}", {**SMALL, **sizes, "model.vocab_size": pieces})
  setup, run = Setup.of(config, jax.devices()[:1]), tmp_path / "run"
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  with Checkpoints(run / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(program.fresh_state(), {}, scheduled=True, wait=True)
  (run / "config.json").write_text(to_json(config))
  data = config.data
  train, _ = training(data.tokenizer_type, pieces, data.lowercase, data.words)
  train(SENTENCES * 3).save(run / "tokenizer")

  assert hf.main(["export", f"--source={run}", f"--target={tmp_path / 'out'}"]) == 0
  assert hf.main(["import", f"--source={tmp_path / 'out'}", f"--target={tmp_path / 'back'}"]) == 0
  family = json.loads(capsys.readouterr().out.splitlines()[-1])["family"]
  assert variant.startswith(family)
  before, after = (load_model(folder) for folder in (run, tmp_path / "back"))
  assert after.tokenizer.digest == before.tokenizer.digest
  ours, again = (named_leaves(jax.device_get(loaded.params)) for loaded in (before, after))
  assert ours.keys() == again.keys()
  for path, leaf in ours.items():
    np.testing.assert_array_equal(again[path], leaf, err_msg=path)
