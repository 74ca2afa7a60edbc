"""Neighbours of a word are those that plain cosines of a model's vectors say."""

import json
import re
import sys

import numpy as np
import pytest

import predict
from data import word_vectors
from tests.elmo_oracle import Oracle, random_tensors
from tests.test_allennlp_files import OPTIONS, spelled, write_files
from tests.trained import finished_run
from trainer.inference import encode, load_model
from trainer.inference.neighbors import find, neighbors
from trainer.texts import InputError

QUERY = "They signed to do a Broadway play ."
TEXTS = [
  "A spectacular play on the grounder .", "We play , and they play too .", "no such word", "", "the theatre was full",
  "Play it again ( please )", "We play , and they play too .", QUERY,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("neighbors") / "released"
  write_files(folder)
  return folder


@pytest.fixture(scope="module")
def released(folder):
  return load_model(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
  return load_model(finished_run(tmp_path_factory.getbasetemp()))


def cosine(a, b):
  return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def layers_of(text):
  """[T + 1, n, 2P] of the words of a text by itself."""
  return Oracle(random_tensors(OPTIONS), OPTIONS).sentence(spelled(text, 12))[:, 1:-1]


def close(near, want):
  """Neighbours against (cosine, what) pairs of all candidates."""
  want = sorted(want, key=lambda pair: -pair[0])[: len(near)]
  np.testing.assert_allclose([one.cosine for one in near], [cosine for cosine, _ in want], atol=1e-5)
  assert [(one.text, one.start) if one.text else one.word for one in near] == [what for _, what in want]


def test_occurrences_are_those_of_the_word_in_other_texts_upper_and_lower_case_alike(released):
  found = find(released, "play", TEXTS, QUERY)
  assert (found.query.text, found.query.start, found.query.word, found.texts) == (QUERY, 29, "play", 8)
  assert [(one.text, one.start, one.end, one.number) for one in found.others] == [
    (TEXTS[0], 14, 18, 2), (TEXTS[1], 3, 7, 1), (TEXTS[1], 19, 23, 5), (TEXTS[5], 0, 4, 0),
  ]  # fmt: skip
  assert found.words[:2] == ["play", "."]  # 6 and 4 times: one text stands there twice


def test_without_a_sentence_the_first_text_that_has_the_word_is_asked(released):
  found = find(released, "Play", iter(TEXTS))
  assert (found.query.text, found.query.word) == (TEXTS[0], "play")
  assert TEXTS[0] not in {one.text for one in found.others} and len(found.others) == 4


def test_any_word_is_every_word_of_the_other_texts(released):
  found = find(released, "play", TEXTS, QUERY, any_word=True)
  words = [one.word for one in found.others]
  assert words == [word for text in dict.fromkeys(TEXTS) if text != QUERY for word in text.split()]


def test_neighbours_in_context_are_those_of_each_layer(released):
  *_, first, second = neighbors(released, find(released, "play", TEXTS, QUERY, any_word=True), top=6)
  assert (first.name, second.name) == ("layer 1", "layer 2")
  places = {(text, number) for text in TEXTS if text != QUERY for number in range(len(text.split()))}
  start = lambda text, number: len(" ".join([*text.split()[:number], "x"])) - 1
  vectors = {text: layers_of(text) for text in {*TEXTS} if text}
  for layer, space in ((1, first), (2, second)):
    query = vectors[QUERY][layer, 6]
    close(space.neighbors, [(cosine(query, vectors[t][layer, n]), (t, start(t, n))) for t, n in places])
  assert [one.word for one in first.neighbors] == [one.text[one.start : one.end] for one in first.neighbors]


def test_words_are_compared_by_their_spelling_alone(released):
  space, *others = neighbors(released, find(released, "play", TEXTS, QUERY), top=4, layers="0")
  assert space.name == "layer 0" and others == []
  words = {word for text in TEXTS for word in text.split()} - {"play"}
  vector = lambda word: layers_of(word)[0, 0]
  close(space.neighbors, [(cosine(vector("play"), vector(word)), word) for word in words])


def test_vectors_of_a_file_have_neighbours_of_their_own(released, tmp_path):
  (tmp_path / "glove.txt").write_text("game 2 1 0\nplay 1 1 0\nking 0 0 3\nPlay 2 2 0\nanti -1 -1 0\n")
  vectors = word_vectors.read(tmp_path / "glove.txt", lowercase=False)
  (space,) = neighbors(released, find(released, "play", TEXTS, QUERY), top=9, layers="none", vectors=vectors)
  want = {"Play": 1.0, "game": 3 / np.sqrt(10), "king": 0.0, "anti": -1.0}
  assert space.name == "vectors" and [near.word for near in space.neighbors] == list(want)
  np.testing.assert_allclose([near.cosine for near in space.neighbors], list(want.values()), atol=1e-6)


def test_a_word_of_another_model_has_the_mean_of_its_pieces(bert):
  """ "raining" is several pieces, and what stands behind 38 of them is not read."""
  texts = ["it was raining", "cats raining, dogs", " ".join(["cat"] * 40) + " raining"]
  (space,) = neighbors(bert, find(bert, "raining", texts), layers="last", top=5)

  def vector(text):
    (encoding,), states = bert.tokenizer.encode([text], specials=True), encode(bert, [text], layers=(2,)).layers[0, 0]
    start = text.index("raining")
    inside = [i for i, (first, end) in enumerate(encoding.offsets) if start <= first < end <= start + 7]
    assert len(inside) > 1
    return states[inside].mean(0)

  (near,) = space.neighbors
  assert (near.text, near.start) == (texts[1], 5)
  assert near.cosine == pytest.approx(cosine(vector(texts[0]), vector(texts[1])), abs=1e-5)


def test_words_of_another_model_are_compared_alone(bert):
  (space,) = neighbors(bert, find(bert, "cat", ["the cat sat", "a cat ran"]), layers="0", top=2)
  vector = lambda word: encode(bert, [word], layers=(0,)).layers[0, 0, 1:-1].mean(0)
  words = {"the", "sat", "a", "ran"}
  close(space.neighbors, [(cosine(vector("cat"), vector(word)), word) for word in words])


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
  (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in TEXTS if text))
  return f"lines:{tmp_path / 'corpus.txt'}"


def test_the_command_prints_a_line_for_each_kind_of_vector(folder, released, corpus, capsys):
  argv = ["neighbors", f"--model={folder}", "--word=play", f"--corpus={corpus}", f"--sentence={QUERY}", "--top=2"]
  assert predict.main([*argv, "--split=space"]) == 0
  *records, summary = map(json.loads, capsys.readouterr().out.splitlines())
  spaces = neighbors(released, find(released, "play", TEXTS, QUERY, split="space"), top=2)
  assert [record["space"] for record in records] == ["layer 0", "layer 1", "layer 2"]
  for record, space in zip(records, spaces, strict=True):
    assert [near["word"] for near in record["neighbors"]] == [near.word for near in space.neighbors]
  assert records[0]["neighbors"][0].keys() == {"cosine", "word"}
  assert records[1]["neighbors"][0].keys() == {"cosine", "word", "text", "start", "end"}
  assert (summary["word"], summary["sentence"], summary["start"], summary["end"]) == ("play", QUERY, 29, 33)
  assert (summary["corpus"], summary["occurrences"], summary["texts"]) == (7, 4, 3)


def test_a_terminal_shows_tables_with_the_word_marked(folder, corpus, capsys, monkeypatch):
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  argv = ["neighbors", f"--model={folder}", "--word=play", f"--corpus={corpus}", "--top=1", "--layers=0,2"]
  assert predict.main(argv) == 0
  out = " ".join(re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).split())
  assert "layer 0 ┏" in out and "layer 2: A spectacular [play] on the grounder . ┏" in out
  assert re.search(r"│ 0\.\d{4} │ [^│]*\[(play|Play)\][^│]* │", out)


def test_a_corpus_of_one_word_has_no_neighbours_among_words(folder, tmp_path, capsys):
  (tmp_path / "corpus.txt").write_text("play play\n")
  argv = ["neighbors", f"--model={folder}", "--word=play", f"--corpus=lines:{tmp_path / 'corpus.txt'}", "--layers=0,-1"]
  assert predict.main([*argv, "--sentence=I play"]) == 0
  words, context, _ = map(json.loads, capsys.readouterr().out.splitlines())
  assert words["neighbors"] == [] and sorted(near["start"] for near in context["neighbors"]) == [0, 5]


@pytest.mark.parametrize(
  "flags, says",
  [
    (["--word=zebra"], "word: got 'zebra', which no text of 7 has"),
    (["--word=play", "--sentence=no such word"], "got 'play', want a word of the sentence 'no such word'"),
    (["--word=grounder"], "got 'grounder', want one that another of the 7 texts has, or any_word"),
    (["--word=play", "--top=0"], "top: got 0, want 1 or more"),
    (["--word=play", "--layers=7"], "layers: got '7', want last, none, all, or numbers from -3 to 2"),
    (["--word=play", "--vectors=/no/glove.txt"], "/no/glove.txt: cannot be read"),
    (["--word=play", "--corpus=/no/corpus.txt"], "no such file or folder"),
  ],
)
def test_what_cannot_be_compared_is_one_line(folder, corpus, capsys, flags, says):
  own = [] if any(flag.startswith("--corpus") for flag in flags) else [f"--corpus={corpus}"]
  assert predict.main(["neighbors", f"--model={folder}", *own, *flags]) == 2
  out, err = capsys.readouterr()
  (line,) = err.splitlines()
  assert out == "" and says in line


def test_a_word_that_vectors_lack_is_named(released, tmp_path):
  (tmp_path / "glove.txt").write_text("game 2 1 0\nking 0 0 3\n")
  with pytest.raises(InputError, match="vectors: have no word 'play'"):
    neighbors(released, find(released, "play", TEXTS), vectors=word_vectors.read(tmp_path / "glove.txt"))
