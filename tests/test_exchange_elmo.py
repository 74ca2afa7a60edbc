"""ELMo's runs to AllenNLP's files and back, by the commands that users have."""

import hashlib
import json

import jax
import numpy as np
import pytest

import predict
from data.synthetic import synthetic_batch
from models import hf
from models.paths import named_leaves
from models.published import weights
from tests.elmo_files import SENTENCES, SMALL, elmo_run
from tests.test_allennlp_files import OPTIONS, read_file, write_files
from trainer.config import load
from trainer.inference import encode, load_model
from trainer.loading import read_config
from trainer.programs import Program, Setup
from trainer.start import initial_params

pytestmark = pytest.mark.usefixtures("own_logging")
WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "dog", "a", "."]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """As the files are published: names with a prefix, the vocabulary beside them."""
  folder = tmp_path_factory.mktemp("released") / "elmo"
  write_files(folder)
  for name in ("options.json", "weights.hdf5"):
    (folder / name).rename(folder / f"elmo_tiny_{name}")
  (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
  return folder


@pytest.fixture(scope="module")
def imported(released, tmp_path_factory):
  target = tmp_path_factory.mktemp("imported") / "run"
  assert hf.main(["import", f"--source={released}", f"--target={target}"]) == 0
  return target


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return elmo_run(tmp_path_factory.getbasetemp())


def line(capsys):
  """The one line on stderr of a command that failed."""
  captured = capsys.readouterr()
  (text,) = captured.err.strip().splitlines()
  assert captured.out == "" and text.startswith("models.hf ")
  return text


def said(capsys):
  """(summary, lines on stderr) of a command that succeeded."""
  out, err = capsys.readouterr()
  return json.loads(out), err.splitlines()


def leaves(folder):
  return named_leaves(jax.device_get(load_model(folder).params))


def test_what_is_imported_is_exported_bit_for_bit(released, imported, tmp_path, capsys):
  out = tmp_path / "out"
  assert hf.main(["export", f"--source={imported}", f"--target={out}"]) == 0
  summary, lines = said(capsys)
  there, back = read_file(released / "elmo_tiny_weights.hdf5"), read_file(out / "weights.hdf5")
  assert there.keys() == back.keys() and all(there[name].tobytes() == back[name].tobytes() for name in there)
  options = json.loads((out / "options.json").read_text())
  assert {part: options[part] for part in OPTIONS} == OPTIONS
  assert (out / "vocab.txt").read_text().split() == WORDS
  row_of_no_character = OPTIONS["char_cnn"]["embedding"]["dim"]
  assert summary["parameters"] == sum(tensor.size for tensor in there.values()) + row_of_no_character
  (about,) = [text for text in lines if "softmax" in text]
  assert "left out: the softmax, which weights.hdf5 has no place for" in about


def test_an_export_has_sums_of_all_its_files(imported, tmp_path):
  out = tmp_path / "out"
  assert hf.main(["export", f"--source={imported}", f"--target={out}"]) == 0
  sums = dict(reversed(row.split("  ")) for row in (out / "SHA256SUMS").read_text().splitlines())
  assert sums.keys() == {path.name for path in out.iterdir()} - {"SHA256SUMS"}
  assert sums.keys() > {"options.json", "weights.hdf5", "vocab.txt"}
  assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == sums[name] for name in sums)


def test_an_exported_run_answers_as_the_run_does(run, tmp_path):
  """Words are divided as the run divides them, and layers have the same bits."""
  out = tmp_path / "out"
  assert hf.main(["export", f"--source={run}", f"--target={out}"]) == 0
  ours, theirs = (encode(load_model(folder), SENTENCES, layers="all") for folder in (run, out))
  assert ours.words == theirs.words and ours.words[0][-1] == "."
  for name, array in ours.arrays().items():
    np.testing.assert_array_equal(theirs.arrays()[name], array)


def test_import_of_an_export_is_the_run_but_for_its_softmax(run, tmp_path, capsys):
  """The softmax starts from the seed: rows that pad the table are zeros, those of words are not those of the run."""
  out, again = tmp_path / "out", tmp_path / "again"
  assert hf.main(["export", f"--source={run}", f"--target={out}"]) == 0
  capsys.readouterr()
  assert hf.main(["import", f"--source={out}", f"--target={again}"]) == 0
  summary, lines = said(capsys)
  assert summary["family"] == "elmo"
  (about,) = [text for text in lines if "softmax" in text]
  assert "have no softmax; one that trains starts from the seed" in about
  ours, theirs = leaves(run), leaves(again)
  assert ours.keys() == theirs.keys()
  for path in ours:
    if not path.startswith("heads/"):
      np.testing.assert_array_equal(theirs[path], ours[path], err_msg=path)
  kernel, words = theirs["heads/softmax/kernel"], read_config(again).model.vocab_size
  assert kernel.shape == (128, 6) and kernel[:words].any(axis=1).all() and not kernel[words:].any()


def test_an_imported_run_says_what_the_files_say(imported):
  config = read_config(imported)
  model = config.model
  assert (model.name, model.vocab_size, model.input) == ("elmo", len(WORDS), "characters")
  assert (model.cell, model.projection, model.layers, model.highway) == (12, 6, 2, 2)
  assert (model.filters, model.characters, model.skip) == (((1, 4), (2, 4), (3, 8)), 12, True)
  assert config.objective.softmax == "full"  # eight words, fewer than are sampled
  assert config.data.words == "marks"


def test_training_starts_from_released_files(released):
  """And its softmax from the seed."""
  config = load("configs/elmo.py:tiny", {**SMALL, "model.highway": 2, "init_from": str(released)})
  setup = Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))
  fresh, found = program.fresh_state().params, named_leaves(weights.load(released).params)
  want = named_leaves(fresh) | found
  assert want.keys() - found.keys() == {"heads/softmax/bias", "heads/softmax/kernel"}
  for path, leaf in named_leaves(initial_params(config, fresh)).items():
    np.testing.assert_array_equal(leaf, want[path], err_msg=path)


def test_files_without_vocabulary_become_no_run_yet_answer(tmp_path, capsys):
  write_files(tmp_path / "bare")
  assert hf.main(["import", f"--source={tmp_path / 'bare'}", f"--target={tmp_path / 'run'}"]) == 2
  assert "have no vocab.txt beside them, want the words that the softmax predicts" in line(capsys)
  assert not (tmp_path / "run").exists()
  assert predict.main(["tokenize", f"--model={tmp_path / 'bare'}", "--text=a dog"]) == 0


def test_a_table_of_words_has_no_place_in_the_files(tmp_path, tmp_path_factory, capsys):
  folder = elmo_run(tmp_path_factory.getbasetemp(), "words")
  assert hf.main(["export", f"--source={folder}", f"--target={tmp_path / 'out'}"]) == 2
  assert "the input is words, want characters" in line(capsys)
  assert not (tmp_path / "out").exists()


def test_damaged_files_are_one_line(released, tmp_path, capsys):
  write_files(tmp_path / "bad")
  (tmp_path / "bad" / "weights.hdf5").write_bytes(b"no HDF5")
  assert predict.main(["encode", f"--model={tmp_path / 'bad'}", "--input=README.md", f"--output={tmp_path}/o.npz"]) == 2
  (text,) = capsys.readouterr().err.splitlines()
  assert "weights.hdf5: cannot be read as HDF5" in text
