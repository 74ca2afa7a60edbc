"""Runs to published weights and back, by the commands that users have."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from data.synthetic import synthetic_batch
from models import hf
from models.paths import named_leaves
from models.published import weights
from tests.trained import SIZES, finished_run
from trainer.config import load
from trainer.inference import encode, fill, load_model, pair
from trainer.programs import Program, Setup
from trainer.rules import ConfigError
from trainer.start import initial_params

pytestmark = pytest.mark.usefixtures("own_logging")
TEXTS = ["the cat sat", "it rained in paris [MASK] day"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return finished_run(tmp_path_factory.mktemp("exchange"))


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
  target = tmp_path_factory.mktemp("published") / "bert"
  assert hf.main(["export", f"--source={run}", f"--target={target}"]) == 0
  return target


def line(capsys):
  """The one line on stderr of a command that failed."""
  captured = capsys.readouterr()
  (text,) = captured.err.strip().splitlines()
  assert captured.out == "" and text.startswith("models.hf ")
  return text


def test_an_export_holds_what_transformers_and_sha256sum_read(published):
  names = {path.name for path in published.iterdir()}
  assert names == {
    "config.json", "model.safetensors", "SHA256SUMS", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
    "septet_tokenizer.json",
  }  # fmt: skip
  config = json.loads((published / "config.json").read_text())
  assert (config["architectures"], config["model_type"], config["vocab_size"]) == (["BertForPreTraining"], "bert", 128)


def test_an_exported_model_answers_as_the_run_does(run, published):
  ours, theirs = load_model(run), load_model(published)
  for name, array in encode(ours, TEXTS, pool="pooler", layers="all").arrays().items():
    np.testing.assert_array_equal(encode(theirs, TEXTS, pool="pooler", layers="all").arrays()[name], array)
  assert fill(ours, TEXTS[1:]) == fill(theirs, TEXTS[1:])
  np.testing.assert_array_equal(pair(ours, [TEXTS]), pair(theirs, [TEXTS]))


def test_import_of_an_export_is_the_run_bit_for_bit(run, published, tmp_path, capsys):
  target = tmp_path / "again"
  assert hf.main(["import", f"--source={published}", f"--target={target}"]) == 0
  assert json.loads(capsys.readouterr().out)["family"] == "bert"
  ours, again = (named_leaves(jax.device_get(load_model(folder).params)) for folder in (run, target))
  assert ours.keys() == again.keys()
  for path, leaf in ours.items():  # 128 pieces: no row only pads the table
    np.testing.assert_array_equal(again[path], leaf, err_msg=path)


def test_training_starts_from_published_weights(published):
  config = load("configs/bert.py:tiny", {**SIZES, "init_from": str(published)})
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  started = initial_params(config, program.fresh_state().params)
  for path, leaf in named_leaves(weights.load(published).params).items():
    np.testing.assert_array_equal(named_leaves(started)[path], leaf, err_msg=path)


def test_weights_of_another_size_are_named(published):
  config = load("configs/bert.py:tiny", {**SIZES, "model.ffn": 32, "init_from": str(published)})
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  with pytest.raises(ConfigError, match=r"layers/ffn/up/kernel: got \(2, 32, 64\) float32, want \(2, 32, 32\)"):
    initial_params(config, program.fresh_state().params)


def test_weights_without_heads_need_a_word_for_fresh_ones(published, tmp_path, capsys):
  """A folder as sentence encoders are published: encoder and pooler, no heads."""
  bare, target = tmp_path / "bare", tmp_path / "target"
  found = weights.load(published)
  config = found.model.config
  model = type(found.model)(type(config)(**{**vars(config), "heads_on_top": ()}))
  params = {name: tree for name, tree in found.params.items() if name != "heads"}
  weights.save(bare, "bert", model, params, {"pad": 0, "cls": 2, "sep": 3})
  for name in ("tokenizer.json", "tokenizer_config.json", "septet_tokenizer.json"):
    shutil.copy(published / name, bare)
  (bare / "SHA256SUMS").unlink()
  assert hf.main(["import", f"--source={bare}", f"--target={target}"]) == 2
  assert "have no heads/mlm/, heads/pair/; --fresh_heads" in line(capsys)
  assert hf.main(["import", f"--source={bare}", f"--target={target}", "--fresh_heads"]) == 0
  np.testing.assert_array_equal(encode(load_model(target), TEXTS).pooled, encode(load_model(bare), TEXTS).pooled)


@pytest.mark.parametrize(
  ("verb", "source", "says"),
  [
    ("export", "nowhere", "no such directory"),
    ("import", "nowhere", "No such file"),
  ],
)
def test_a_wrong_source_is_one_line(verb, source, says, tmp_path, capsys):
  assert hf.main([verb, f"--source={tmp_path / source}", f"--target={tmp_path / 'out'}"]) == 2
  assert says in line(capsys)
  assert not (tmp_path / "out").exists()


def test_a_target_in_use_is_left_alone(run, published, tmp_path, capsys):
  (tmp_path / "notes.txt").write_text("mine")
  for verb, source in (("export", run), ("import", published)):
    assert hf.main([verb, f"--source={source}", f"--target={tmp_path}"]) == 2
    assert str(tmp_path) in line(capsys)
  assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_checkpoint_of_the_original_code_becomes_a_run(tmp_path, capsys):
  """Written by TensorFlow: two shards, Adam's slots beside the weights."""
  source, target = tmp_path / "release", tmp_path / "run"
  shutil.copytree(Path(__file__).parent / "fixtures" / "tf_bert", source)
  pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijkl"]
  (source / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
  assert hf.main(["import", f"--source={source}", f"--target={target}", "--tensorflow"]) == 0
  assert json.loads(capsys.readouterr().out)["family"] == "bert"
  found = named_leaves(weights.load_tensorflow(source).params)
  for path, leaf in named_leaves(jax.device_get(load_model(target).params)).items():
    np.testing.assert_array_equal(leaf, found[path], err_msg=path)
