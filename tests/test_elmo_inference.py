"""Running an ELMo on texts gives what the language models in both directions give for each text."""

import dataclasses
import json

import h5py
import jax
import numpy as np
import pytest

import predict
from data.characters import BEGIN, END, spell
from data.tokenizers import wordpiece
from models.elmo import Elmo
from tests.elmo_files import SENTENCES, elmo_run
from tests.elmo_oracle import Oracle, random_tensors
from tests.test_allennlp_files import OPTIONS, SHARED, STREAMS, golden, spelled, write_files
from tests.test_allennlp_files import SENTENCES as EACH
from tests.trained import finished_run
from trainer.inference import encode, fill, load_model, relate, word_encoding
from trainer.inference.word_encoding import word_vectors
from trainer.loading import check_vocabulary
from trainer.texts import InputError

LONG = " ".join(["Zürich is far from unbelievably-long-words and"] * 5)
TEXTS = ["the cat sat", "", "a dog", LONG, "no", "<S>"]
WIDTH = 2 * OPTIONS["lstm"]["projection_dim"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("words") / "released"
  write_files(folder)
  return folder


@pytest.fixture(scope="module")
def released(folder):
  return load_model(folder)


def characters(text):
  """int [n + 2, C] of words between spaces, with boundaries; `spelled` has the one empty word of an empty text."""
  return spelled(text, 12) if text else np.stack([BEGIN, END])[:, :12]


def oracle(rows=1):
  return Oracle(random_tensors(OPTIONS), OPTIONS, rows=rows)


def close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-5)


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size, max_length", [(32, None), (2, 3), (1, 1)])
def test_every_text_has_the_layers_it_has_alone_however_it_is_run(released, batch_size, max_length):
  """Windows of 1 and 3 steps too: the state goes through them, so a long text has the layers of one piece."""
  found = encode(released, TEXTS, layers="all", split="space", batch_size=batch_size, max_length=max_length)
  assert found.words == [text.split() for text in TEXTS] and found.lengths.tolist() == [3, 0, 2, 30, 1, 1]
  for i, (text, n) in enumerate(zip(TEXTS, found.lengths, strict=True)):
    want = oracle().sentence(characters(text))[:, 1:-1]
    close(found.layers[i, :, :n], want)
    close(found.hidden[i, :n], want[-1])
    close(found.pooled[i], want[-1].mean(0) if n else np.zeros(WIDTH))
    assert not found.layers[i, :, n:].any() and not found.hidden[i, n:].any()


@pytest.mark.parametrize("max_length", [None, 2])
def test_a_state_that_is_carried_goes_from_row_to_row_of_the_batches(released, max_length):
  """Three streams of unequal texts, side by side; the last batch has one text."""
  texts = [*TEXTS, "the last one"]
  found = encode(released, texts, layers="all", split="space", batch_size=3, stateful=True, max_length=max_length)
  rows = oracle(rows=3)
  for i, text in enumerate(texts):
    close(found.layers[i, :, : found.lengths[i]], rows.sentence(characters(text), i % 3)[:, 1:-1])
  afresh = encode(released, texts, layers="all", split="space").layers
  np.testing.assert_array_equal(found.layers[:, 0], afresh[:, 0])
  assert np.abs(found.layers[3:, 1:] - afresh[3:, 1:]).max() > 0.05


@golden
def test_the_released_model_from_text():
  """AllenNLP's fixture: top layers of 3 streams of 10 sentences, whose state goes on from sentence to sentence."""
  model, streams = load_model(SHARED), json.loads((SHARED / "sentences.json").read_text())
  texts = [stream[i] for i in range(EACH) for stream in streams]
  found = encode(model, texts, split="space", batch_size=STREAMS, stateful=True)
  for number in range(STREAMS):
    with h5py.File(SHARED / f"lm_embeddings_{number}.hdf5") as file:
      for i in range(EACH):
        place, want = i * STREAMS + number, np.concatenate([*file[str(i)][()]], axis=-1)
        assert found.lengths[place] == len(want)
        close(found.hidden[place, : len(want)], want)


@golden
def test_the_released_word_vectors():
  words = [word for word in (SHARED / "vocab_test.txt").read_text().split() if word not in ("<S>", "</S>")]
  names = (SHARED / "vocab_test.txt").read_text().split("\n")
  with h5py.File(SHARED / "elmo_token_embeddings.hdf5") as file:
    table = file["embedding"][()]
  close(word_vectors(load_model(SHARED), words), [table[names.index(word)] for word in words])


def test_word_vectors_are_the_first_layer(released):
  words = ["the", "Zürich", "x" * 100]
  close(word_vectors(released, words), [oracle().word(ids) for ids in spell(words, 12)])
  close(word_vectors(released, words, batch_size=2), word_vectors(released, words))


@pytest.mark.parametrize("layers, kept", [("last", []), ("0,-1", [0, 2]), ((1,), [1]), ("none", [])])
def test_what_was_asked_for_is_kept(released, layers, kept):
  everything, found = (encode(released, TEXTS, layers=which) for which in ("all", layers))
  if kept:
    close(found.layers, everything.layers[:, kept])
  names = {"words", "lengths", "pooled"} | ({"layers"} if kept else set()) | ({"hidden"} if layers != "none" else set())
  assert found.arrays().keys() == names
  close(found.pooled, everything.pooled)


# --- words -----------------------------------------------------------------------------------------------------------


def test_marks_divide_texts_unless_they_are_divided_before(released):
  text = "Don't stop (now), Zoë."
  assert encode(released, [text], layers="none").words == [["Don", "'", "t", "stop", "(", "now", ")", ",", "Zoë", "."]]
  assert encode(released, [text], layers="none", split="space").words == [["Don't", "stop", "(now),", "Zoë."]]


def test_arrays_have_the_words_as_far_as_they_are_read(released):
  found = encode(released, ["a " + "b" * 40, "c"], split="space")
  assert found.arrays()["words"].tolist() == [["a", "b" * 10], ["c", ""]]
  assert found.words[0][1] == "b" * 40


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_a_workdir_runs_with_its_own_words(tmp_path_factory, kind):
  """Words of a table by their ids: all that it lacks have the row of <UNK>, <S> in a text among them."""
  folder = elmo_run(tmp_path_factory.getbasetemp(), kind)
  loaded = load_model(folder)
  texts = [*SENTENCES, "Nobody saw <S> , Ada"]
  found = encode(loaded, texts, layers="all")
  vocabulary, model = loaded.tokenizer.vocabulary[:12], loaded.model
  for i, text in enumerate(texts):
    words = loaded.tokenizer.words([text])[0]
    assert found.words[i] == words
    if kind == "characters":
      spelling = np.concatenate([BEGIN[None, :12], spell(words, 12), END[None, :12]])
    else:
      ids = [max(vocabulary.index(word), 2) if word in vocabulary else 2 for word in words]
      spelling = np.array([0, *ids, 1])[:, None]
    n, empty = len(spelling), model.empty_carry(1)
    index, lengths = np.arange(n, dtype=np.int32)[None], np.array([n])
    want, _ = model.apply({"params": loaded.params}, spelling[None], index, lengths, empty, method="encode")
    close(found.layers[i, :, : n - 2], want.layers[:, 0, 1:-1])
  assert loaded.source == f"{folder} step 0"


def test_each_distinct_word_of_a_batch_is_spelled_once(released, monkeypatch):
  heights = []
  layers = word_encoding._layers
  monkeypatch.setattr(word_encoding, "_layers", lambda *given: heights.append(given[2]) or layers(*given))
  encode(released, ["the cat and the dog and the cat"] * 20, split="space")
  (words,) = heights
  assert words.shape == (1, 256, 12) and len({row.tobytes() for row in words[0] if row.any()}) == 6  # 4 and boundaries


# --- commands --------------------------------------------------------------------------------------------------------


def command(capsys, *argv):
  assert predict.main([str(argument) for argument in argv]) == 0
  *records, summary = map(json.loads, capsys.readouterr().out.splitlines())
  return records, summary


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_encode_writes_words_and_layers(folder, released, tmp_path, capsys, kind):
  texts, source, output = ["The cat sat.", "", "Now (no)!"], tmp_path / f"a.{kind}", tmp_path / "out.npz"
  lines = texts if kind == "txt" else [json.dumps({"text": text}) for text in texts]
  source.write_text("".join(f"{line}\n" for line in lines))
  argv = ["encode", f"--model={folder}", f"--input={source}", f"--output={output}", "--layers=all"]
  _, summary = command(capsys, *argv)
  want = encode(released, texts, layers="all").arrays()
  with np.load(output) as arrays:
    assert {name: list(arrays[name].shape) for name in arrays} == summary["arrays"]
    assert arrays.keys() == want.keys()
    for name, array in want.items():
      np.testing.assert_array_equal(arrays[name], array)
  assert summary["arrays"]["layers"] == [3, 3, 5, WIDTH]
  assert (summary["texts"], summary["tokens"], summary["stateful"]) == (3, 9, False)


def test_encode_carries_the_state_where_it_is_asked_to(folder, released, tmp_path, capsys):
  (tmp_path / "a.txt").write_text("a dog .\nran home .\n")
  argv = ["encode", f"--model={folder}", f"--input={tmp_path / 'a.txt'}", f"--output={tmp_path / 'o.npz'}"]
  command(capsys, *argv, "--stateful", "--batch_size=1", "--split=space")
  rows = oracle()
  with np.load(tmp_path / "o.npz") as arrays:
    for text, hidden in zip(("a dog .", "ran home ."), arrays["hidden"], strict=True):
      close(hidden, rows.sentence(characters(text))[-1, 1:-1])


def test_tokenize_shows_the_words_of_a_folder_without_vocabulary(folder, capsys):
  (record,), summary = command(capsys, "tokenize", f"--model={folder}", "--text=Now (no)!")
  assert record["offsets"][1:-1] == [[0, 3], [4, 5], [5, 7], [7, 8], [8, 9]]
  assert (summary["tokens"], summary["unknown"]) == (7, 5)


# --- wrong input -----------------------------------------------------------------------------------------------------


ENCODE = ["encode", "--input={tmp}/a.txt", "--output={tmp}/o.npz"]


@pytest.mark.parametrize(
  "argv, says",
  [
    (["fill", "--text=a [MASK]"], "is an ELMo, which has no fill, want one of encode, neighbors and tokenize"),
    (["pair", "--first=a", "--second=b"], "has no pair, want one of encode"),
    (["detect", "--text=a"], "has no detect, want one of encode"),
    (["relate", "--text=a b", "--spans=0:1,2:3"], "has no relate, want one of encode"),
    (["type", "--text=a b", "--spans=0:1"], "has no types, want one of encode"),
    ([*ENCODE, "--pool=cls"], "got 'cls', want one of none, mean for"),
    ([*ENCODE, "--layers=3"], "want last, none, all, or numbers from -3"),
    ([*ENCODE, "--max_length=0"], "max_length: got 0, want 1 or more"),
    ([*ENCODE, "--split=bytes"], "invalid choice: 'bytes'"),
    (["encode", "--input={tmp}/a.jsonl", "--output={tmp}/o.npz"], "got spans, want a LUKE for them"),
  ],
)
def test_what_an_elmo_cannot_do_is_one_line(folder, tmp_path, capsys, argv, says):
  (tmp_path / "a.txt").write_text("a dog\n")
  (tmp_path / "a.jsonl").write_text('{"text": "a dog", "spans": [[0, 1]]}\n')
  try:
    status = predict.main([argv[0], f"--model={folder}", *(part.replace("{tmp}", str(tmp_path)) for part in argv[1:])])
  except SystemExit as ended:
    status = ended.code
  out, err = capsys.readouterr()
  (line,) = err.splitlines()
  assert status == 2 and out == "" and says in line


def test_answers_of_python_refuse_it_too(released):
  for answer in (fill, relate):
    with pytest.raises(InputError, match=f"has no {answer.__name__}, want one of encode"):
      answer(released, ["a [MASK]"])


def test_other_models_have_no_state_and_no_split(tmp_path_factory):
  model = load_model(finished_run(tmp_path_factory.getbasetemp()))
  with pytest.raises(InputError, match="stateful: is of an ELMo"):
    encode(model, ["a dog"], stateful=True)
  with pytest.raises(InputError, match="split: is of an ELMo"):
    encode(model, ["a dog"], split="space")


def test_a_vocabulary_of_another_kind_or_size_is_named(released):
  model = Elmo(dataclasses.replace(released.model.config, vocab_size=20))
  with pytest.raises(InputError, match="got 3 pieces of a words tokenizer, want 20 or more"):
    check_vocabulary(released.tokenizer, model)
  with pytest.raises(InputError, match="got 60 pieces of a wordpiece tokenizer, want 20 or more of one of whole words"):
    check_vocabulary(wordpiece.train(SENTENCES, vocab_size=60), model)


def test_results_larger_than_the_memory_are_refused_before_the_work(released, monkeypatch):
  monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 512}.get)
  with pytest.raises(InputError, match="GB, want no more than the memory here"):
    encode(released, TEXTS)


def test_an_empty_list_of_texts_has_no_layers(released):
  found = encode(released, [], layers="all")
  assert found.layers.shape == (0, 3, 0, WIDTH) and jax.tree.leaves(found.words) == []
