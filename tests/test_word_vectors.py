"""Files of word vectors: each published form, told from its content, and what none of them may be."""

import gzip
import struct

import numpy as np
import pytest

from data.word_vectors import VectorError, WordVocabulary, load, read

WORDS = ("the", "of", "Ünïon", "cat")
VECTORS = np.array([[1, -2.5, 0.125], [3e-05, 4, 5], [0, 0, 0], [-1, 2.5, 7]], np.float32)


def numbers(row):
  return " ".join(repr(float(value)) for value in row)


def text(words=WORDS, vectors=VECTORS):
  return "".join(f"{word} {numbers(row)}\n" for word, row in zip(words, vectors))


def binary(end=b"", words=WORDS, vectors=VECTORS):
  """word2vec.c's form (which ends each vector with a line end), or gensim's (which does not)."""
  body = b"".join(w.encode() + b" " + struct.pack("<3f", *row.tolist()) + end for w, row in zip(words, vectors))
  return f"{len(words)} 3\n".encode() + body


FORMS = {
  "glove": text().encode(),
  "word2vec": (f"{len(WORDS)} 3\n" + text()).encode(),
  "fasttext": (f"{len(WORDS)} 3\n" + text().replace("\n", " \n")).encode(),
  "binary": binary(b"\n"),
  "gensim": binary(),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_the_same_whatever_its_file_is_called(form, zipped, tmp_path):
  path = tmp_path / "vectors"
  path.write_bytes(gzip.compress(FORMS[form]) if zipped else FORMS[form])
  found = read(path)
  assert found.vocabulary.words == WORDS and found.matrix.dtype == np.float32
  np.testing.assert_array_equal(found.matrix[2:], VECTORS)
  np.testing.assert_array_equal(found.matrix[0], np.zeros(3))
  np.testing.assert_allclose(found.matrix[1], VECTORS.astype(np.float64).mean(0), rtol=1e-6)


def test_rows_are_those_of_wanted_words_and_their_lower_case_in_the_order_of_the_file(tmp_path):
  (tmp_path / "v").write_bytes(FORMS["glove"])
  found = read(tmp_path / "v", ["Cat", "THE", "dog"])
  assert found.vocabulary.words == ("the", "cat")
  np.testing.assert_array_equal(found.matrix[2:], VECTORS[[0, 3]])
  assert [found.vocabulary.id_of(word) for word in ("THE", "the", "cAT", "dog")] == [2, 2, 3, 1]
  exact = read(tmp_path / "v", ["Cat", "of"], lowercase=False)
  assert exact.vocabulary.words == ("of",) and exact.vocabulary.id_of("OF") == 1


def test_words_of_glove_may_have_spaces_and_stand_there_twice(tmp_path):
  """Lines like GloVe 840B's `. . . 0.1 ...`, and `at name@domain.com`; also a no-break space inside a word."""
  words = (". . .", "the", "at name@domain.com", "a\xa0b", "1 2", "the")
  vectors = np.arange(18, dtype=np.float32).reshape(6, 3)
  (tmp_path / "v").write_text(text(words, vectors) + text(["x"] * 9, np.ones((9, 3))), encoding="utf-8")
  found = read(tmp_path / "v")
  assert found.vocabulary.words == (*words[:5], "x")
  np.testing.assert_array_equal(found.matrix[2:7], vectors[:5])


def test_a_file_longer_than_what_is_read_at_once(tmp_path):
  """Vectors of 200,000 numbers: each entry of the binary form is nearly the 2^20 bytes of a read."""
  words = tuple(f"w{i}" for i in range(4))
  vectors = np.random.default_rng(0).normal(size=(4, 200_000)).astype(np.float32)
  body = b"".join(word.encode() + b" " + row.astype("<f4").tobytes() for word, row in zip(words, vectors))
  (tmp_path / "v").write_bytes(b"4 200000\n" + body)
  found = read(tmp_path / "v", ["w1", "w3"])
  np.testing.assert_array_equal(found.matrix[2:], vectors[[1, 3]])


@pytest.mark.slow  # gensim's import takes seconds
@pytest.mark.parametrize("form", ["binary", "text"])
def test_what_gensim_writes(form, tmp_path):
  models = pytest.importorskip("gensim.models")
  made = models.KeyedVectors(vector_size=3)
  made.add_vectors(list(WORDS), VECTORS)
  made.save_word2vec_format(str(tmp_path / "v"), binary=form == "binary")
  found = read(tmp_path / "v")
  assert found.vocabulary.words == tuple(made.index_to_key)
  np.testing.assert_array_equal(found.matrix[2:], made.vectors)


@pytest.mark.parametrize(
  "content, says",
  [
    (b"", "{}, line 1: got no number, want a word and its vector in a line"),
    (b"the 1 2 3\nof 1 2 3\ncat 1 2\n", "{}, line 3: got 2 numbers, want 3 as in the others"),
    (b"the 1 2 3\nof 1 x 3\n", "{}, line 2: got b'1 x 3', want 3 numbers"),
    (b"the 1 nan 3\n", "{}, line 1: word 'the': got a number that is not finite"),
    (b"\xff 1 2 3\n", "{}, line 1: got the word b'\\xff', want UTF-8"),
    (FORMS["word2vec"].replace(b"4 3", b"5 3"), "{}: got 4 words, want the 5 of its header"),
    (FORMS["word2vec"].replace(b"4 3", b"4 4"), "{}, line 2: got 3 numbers, want 4 as in the others"),
    (b"0 3\n", "{}: got none of the wanted words"),
    (b"2 3\n", "{}: got 0 words, want the 2 of its header"),
    (FORMS["binary"][:-9], "{}, word 4: the file ends, want the 4 words of its header"),
    (FORMS["binary"].replace(b"4 3", b"3 3"), "{}: goes on behind word 3, want the 3 words of its header"),
    (gzip.compress(FORMS["glove"], mtime=0)[:-12], "{}: cannot be read ("),
  ],
)
def test_a_file_that_is_none_is_refused_in_one_line(content, says, tmp_path):
  path = tmp_path / "v"
  path.write_bytes(content)
  with pytest.raises(VectorError) as caught:
    read(path)
  assert str(caught.value).startswith(says.format(path)) and "\n" not in str(caught.value)
  with pytest.raises(VectorError, match="cannot be read .*No such file"):
    read(tmp_path / "absent")


def test_vectors_of_another_language_are_refused(tmp_path):
  (tmp_path / "v").write_bytes(FORMS["glove"])
  with pytest.raises(VectorError, match="got none of the wanted words, want vectors of the language of the texts"):
    read(tmp_path / "v", ["Katze"])


def test_a_vocabulary_comes_back_from_its_file(tmp_path):
  made = WordVocabulary(("Cat", "a b", "\x85", "the", "", "\r"))
  made.save(tmp_path / "run")
  assert (tmp_path / "run/word_vectors.txt").read_bytes() == "Cat\na b\n\x85\nthe\n\n\r\n".encode()
  found = load(tmp_path / "run")
  assert found.words == made.words and found.size == 8
  assert [found.id_of(word) for word in ("Cat", "cat", "THE", "")] == [2, 1, 5, 6]
  assert load(tmp_path / "run", lowercase=False).id_of("THE") == 1
  with pytest.raises(VectorError, match="word_vectors.txt: cannot be read"):
    load(tmp_path)


@pytest.mark.parametrize("words", [("a", "b", "a"), ("a\nb",)])
def test_words_that_no_file_of_one_a_line_can_hold(words):
  with pytest.raises(VectorError, match="want each once and none of two lines"):
    WordVocabulary(words)
