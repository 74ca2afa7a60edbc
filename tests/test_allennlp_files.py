"""ELMo's published files: what the released code computes from them, from text on; read and written bit for bit."""

import functools
import json
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from data.characters import BEGIN, END, spell
from models.paths import named_leaves
from models.published import allennlp
from models.published.errors import WeightsError
from tests.elmo_oracle import MUTATIONS, Oracle, random_tensors

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "elmo"
golden = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/elmo")
STREAMS, SENTENCES = 3, 10
OPTIONS = {
  "lstm": {"use_skip_connections": True, "projection_dim": 6, "cell_clip": 3, "proj_clip": 3, "dim": 12, "n_layers": 2},
  "char_cnn": {
    "activation": "relu",
    "filters": [[1, 4], [2, 4], [3, 8]],
    "n_highway": 2,
    "embedding": {"dim": 4},
    "n_characters": 262,
    "max_characters_per_token": 12,
  },
}
TEXT = [["the cat sat", "a dog", "no"], ["Zürich is far", "yes", "the dog sat on the mat"]]


def write_files(folder, options=OPTIONS, tensors=None):
  """The two files; returns the tensors."""
  tensors = random_tensors(OPTIONS) if tensors is None else tensors
  folder.mkdir(exist_ok=True)
  (folder / "options.json").write_text(json.dumps(options))
  with h5py.File(folder / "weights.hdf5", "w") as file:
    for name, tensor in tensors.items():
      file[name] = tensor
  return tensors


def read_file(path):
  """{name: array} of an HDF5 file."""
  tensors = {}
  with h5py.File(path) as file:
    file.visititems(lambda name, item: tensors.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
  return tensors


def spelled(sentence, length=50):
  """int [n + 2, C]: the words of a sentence, divided by spaces, with its boundaries."""
  ends = np.stack([BEGIN, END])[:, :length]
  return np.concatenate([ends[:1], spell(sentence.split(" "), length), ends[1:]])


@functools.cache
def encoder(model):
  return jax.jit(lambda params, *rest: model.apply({"params": params}, *rest, method="encode"))


def encode(model, params, streams, carried=True):
  """Layers [T + 1, n, 2P] of each sentence of streams: one batch a column, state from batch to batch."""
  longest = max(len(s.split(" ")) for stream in streams for s in stream) + 2
  carry, found = model.empty_carry(len(streams)), [[] for _ in streams]
  for sentences in zip(*streams):
    words = np.zeros((len(streams), longest, model.config.characters), np.int32)
    parts = [spelled(sentence, model.config.characters) for sentence in sentences]
    for row, part in zip(words, parts):
      row[: len(part)] = part
    index = np.tile(np.arange(longest, dtype=np.int32), (len(streams), 1))
    lengths = np.array([len(part) for part in parts], np.int32)
    start = carry if carried else model.empty_carry(len(streams))
    encoded, carry = encoder(model)(params, words, index, lengths, start)
    for row, length in enumerate(lengths):
      found[row].append(np.asarray(encoded.layers)[:, row, :length])
  return found


# --- against the released code --------------------------------------------------------------------------------------


@functools.cache
def released():
  """(streams of sentences, expected top layers [2, n, P] of each)."""
  streams = json.loads((SHARED / "sentences.json").read_text())
  expected = []
  for number in range(STREAMS):
    with h5py.File(SHARED / f"lm_embeddings_{number}.hdf5") as file:
      expected.append([file[str(i)][()] for i in range(SENTENCES)])
  return streams, expected


@functools.cache
def released_model():
  return allennlp.load(SHARED)


def errors(found, expected):
  """Largest absolute difference of each sentence, [streams, sentences]."""
  halves = [[np.stack(np.split(layers[-1, 1:-1], 2, axis=-1)) for layers in stream] for stream in found]
  return np.array([[np.abs(a - b).max() for a, b in zip(*pair)] for pair in zip(halves, expected)])


@golden
def test_the_released_model_from_text():
  """Top layer of 3 streams of 10 sentences, whose state goes on from sentence to sentence."""
  streams, expected = released()
  assert errors(encode(*released_model(), streams), expected).max() < 1e-5


@golden
def test_a_state_that_starts_afresh_spoils_all_but_the_first_sentence():
  streams, expected = released()
  differences = errors(encode(*released_model(), streams, carried=False), expected)
  assert differences[:, 0].max() < 1e-5 and differences[:, 1:].min() > 0.01


@golden
def test_words_of_the_released_model():
  """The word layer is the released table of word vectors, a row for each line of the vocabulary."""
  model, params = released_model()
  words = (SHARED / "vocab_test.txt").read_text().split("\n")
  rows = spell(words)
  rows[words.index("<S>")], rows[words.index("</S>")] = BEGIN, END
  found = model.apply({"params": params}, rows[None], method="spell_words")[0]
  with h5py.File(SHARED / "elmo_token_embeddings.hdf5") as file:
    np.testing.assert_allclose(found, file["embedding"][()], atol=1e-5)


@golden
@pytest.mark.parametrize("mutation", ["", *MUTATIONS])
def test_the_oracle_reproduces_the_released_model_and_no_mutation_of_it_does(mutation):
  streams, expected = released()
  tensors = read_file(SHARED / "lm_weights.hdf5")
  oracle = Oracle(tensors, json.loads((SHARED / "options.json").read_text()), mutation=mutation)
  found = [[oracle.sentence(spelled(sentence)) for sentence in streams[0][:4]]]
  differences = errors(found, [expected[0][:4]])[0]
  assert differences.max() < 1e-5 if not mutation else differences.max() > 0.1


# --- against the oracle ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("allennlp") / "files"
  write_files(folder)
  return folder


@pytest.mark.parametrize(
  "change",
  [{}, {"use_skip_connections": False}, {"cell_clip": 0.4, "proj_clip": 0.3}],
  ids=["skip", "no skip", "tight clips"],
)
def test_all_layers_are_the_oracles(tmp_path, change):
  """Streams of sentences of unequal length; every layer, both directions, and the state from sentence to sentence."""
  options = {**OPTIONS, "lstm": OPTIONS["lstm"] | change}
  tensors = write_files(tmp_path / "files", options)
  found = encode(*allennlp.load(tmp_path / "files"), TEXT)
  oracle = Oracle(tensors, options, rows=len(TEXT))
  for row, stream in enumerate(TEXT):
    for number, sentence in enumerate(stream):
      np.testing.assert_allclose(found[row][number], oracle.sentence(spelled(sentence, 12), row), atol=1e-5)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_no_mutation_of_the_oracle_agrees(folder, mutation):
  found = encode(*allennlp.load(folder), TEXT[:1])[0]
  oracle = Oracle(random_tensors(OPTIONS), OPTIONS, mutation=mutation)
  wrong = [np.abs(layers - oracle.sentence(spelled(text, 12))).max() for layers, text in zip(found, TEXT[0])]
  assert max(wrong) > 0.05 and (mutation != "state" or wrong[0] < 1e-5)


def test_tanh_and_no_highway(tmp_path):
  options = {**OPTIONS, "char_cnn": OPTIONS["char_cnn"] | {"activation": "tanh", "n_highway": 0}}
  tensors = write_files(tmp_path / "files", options, random_tensors(options))
  found = encode(*allennlp.load(tmp_path / "files"), [["one sentence"]])[0][0]
  np.testing.assert_allclose(found, Oracle(tensors, options).sentence(spelled("one sentence", 12)), atol=1e-5)


# --- there and back -------------------------------------------------------------------------------------------------


def test_what_is_read_is_written_bit_for_bit(folder, tmp_path):
  tensors = random_tensors(OPTIONS)
  allennlp.write(tmp_path / "out", *allennlp.load(folder))
  written = read_file(tmp_path / "out" / "weights.hdf5")
  assert written.keys() == tensors.keys()
  assert all(written[name].tobytes() == tensors[name].tobytes() for name in tensors)
  options = json.loads((tmp_path / "out" / "options.json").read_text())
  assert {part: options[part] for part in OPTIONS} == OPTIONS


def test_what_is_written_is_read_bit_for_bit(folder, tmp_path):
  model, params = allennlp.load(folder)
  allennlp.write(tmp_path / "out", model, params)
  again, back = allennlp.load(tmp_path / "out")
  leaves, returned = named_leaves(params), named_leaves(back)
  assert again.config == model.config and leaves.keys() == returned.keys()
  assert all(leaves[path].tobytes() == returned[path].tobytes() for path in leaves)


def test_no_character_is_a_row_of_zeros(folder):
  _, params = allennlp.load(folder)
  table = params["char"]["embedding"]
  assert table.shape == (262, 4) and not table[0].any()
  np.testing.assert_array_equal(table[1:], random_tensors(OPTIONS)["char_embed"])


def test_a_trained_softmax_is_left_out(folder, tmp_path):
  """The format has no place for it."""
  model, params = allennlp.load(folder)
  allennlp.write(tmp_path / "out", model, params | {"heads": {"softmax": {"bias": np.zeros(128)}}})
  assert "heads" not in allennlp.load(tmp_path / "out")[1]


# --- bad files ------------------------------------------------------------------------------------------------------


def refused(folder, match):
  with pytest.raises(WeightsError, match=match) as caught:
    allennlp.load(folder)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "part, key, value, message",
  [
    ("lstm", "dim", None, r"has no lstm\.dim"),
    ("lstm", "dim", "4096", r"lstm\.dim is '4096', want int"),
    ("lstm", "use_skip_connections", 1, "use_skip_connections is 1, want bool"),
    ("char_cnn", "n_characters", 300, r"n_characters is 300, want 261 \(training\) or 262"),
    ("char_cnn", "activation", "gelu", "activation is 'gelu', want relu or tanh"),
    ("char_cnn", "filters", [[1, 4], 3], "filters is .*, want"),
  ],
)
def test_options_that_this_model_does_not_have(tmp_path, part, key, value, message):
  options = json.loads(json.dumps(OPTIONS))
  options[part][key] = value
  if value is None:
    del options[part][key]
  write_files(tmp_path / "files", options)
  refused(tmp_path / "files", message)


def test_a_model_of_words_by_ids_has_no_characters(tmp_path):
  write_files(tmp_path / "files", {"lstm": OPTIONS["lstm"]})
  refused(tmp_path / "files", "want the options.json of a character model")


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda t: t.pop("char_embed"), "missing char_embed"),
    (lambda t: t.update(other=np.zeros(3, np.float32)), "extra other"),
    (lambda t: t.update(char_embed=np.zeros((262, 4), np.float32)), r"char_embed \(262, 4\) float32, want \(261, 4\)"),
    (lambda t: t.update(char_embed=t["char_embed"].astype(np.float64)), "char_embed .* float64, want .* float32"),
  ],
  ids=["missing", "extra", "shape", "dtype"],
)
def test_tensors_that_the_options_do_not_say(tmp_path, change, message):
  tensors = random_tensors(OPTIONS)
  change(tensors)
  write_files(tmp_path / "files", tensors=tensors)
  refused(tmp_path / "files", message)


def test_files_that_are_missing_damaged_or_ambiguous(folder, tmp_path):
  refused(tmp_path / "none", "no such directory")
  (tmp_path / "empty").mkdir()
  refused(tmp_path / "empty", "has no file of names in options.json")
  write_files(tmp_path / "two")
  (tmp_path / "two" / "small_weights.hdf5").write_bytes(b"")
  refused(tmp_path / "two", "has small_weights.hdf5, weights.hdf5 of names in weights.hdf5, want one")
  write_files(tmp_path / "cut")
  (tmp_path / "cut" / "weights.hdf5").write_bytes((folder / "weights.hdf5").read_bytes()[:2000])
  refused(tmp_path / "cut", "cannot be read as HDF5")


def test_an_export_is_held_against_its_sums(folder, tmp_path):
  allennlp.write(tmp_path / "out", *allennlp.load(folder))
  with h5py.File(tmp_path / "out" / "weights.hdf5", "a") as file:
    file["char_embed"][0, 0] += 1
  refused(tmp_path / "out", "does not have its SHA-256")
