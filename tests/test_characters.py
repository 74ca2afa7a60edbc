"""Words as characters: the ids of the published files, 0 for no word and everything else one above bilm-tf's."""

import numpy as np
import pytest

from data.characters import BEGIN, END, SIZE, CharacterError, Spellings, boundaries, spell

WORDS = ["Hello", "", "a", "été", "日本語", "🙂", "<S>", "x" * 48, "y" * 49, "語" * 17, "naïve" * 20, "\x00\x7f"]


def oracle(content, length):
  """bilm-tf's numbers: 258, the bytes, 259, 260 up to the length; the files at inference have one more."""
  row = [260] * length
  cut = list(content)[: length - 2]
  row[0], row[1 : 1 + len(cut)], row[1 + len(cut)] = 258, cut, 259
  return [char + 1 for char in row]


def test_the_numbers_of_the_published_files():
  assert spell(["hello"])[0].tolist() == [259, 105, 102, 109, 109, 112, 260] + 43 * [261]
  assert BEGIN.tolist() == [259, 257, 260] + 47 * [261] and END.tolist() == [259, 258, 260] + 47 * [261]
  assert spell([""])[0].tolist() == [259, 260] + 48 * [261]  # a real token, not padding
  assert spell(["\x00"])[0, 1] == 1 and spell(["\u00ff"])[0, 1:3].tolist() == [0xC3 + 1, 0xBF + 1] and SIZE == 262


@pytest.mark.parametrize("length", [3, 8, 50])
def test_words_are_their_first_bytes_between_two_marks(length):
  got = spell(WORDS, length)
  assert got.dtype == np.int32 and got.shape == (len(WORDS), length)
  assert got.tolist() == [oracle(word.encode(), length) for word in WORDS]


def test_a_word_is_cut_at_48_bytes_which_are_16_characters_of_three():
  assert (spell(["語" * 16]) == spell(["語" * 30])).all() and (spell(["語" * 15]) != spell(["語" * 30])).any()


def test_a_word_called_like_a_boundary_is_spelled_as_text():
  assert spell(["<S>"])[0, :5].tolist() == [259, ord("<") + 1, ord("S") + 1, ord(">") + 1, 260]


@pytest.mark.parametrize("length", [3, 50])
def test_spellings_of_a_vocabulary(length):
  """Its first two words are the boundaries, id -1 is no word at all, and ids may have any shape."""
  spellings = Spellings(("<S>", "</S>", *WORDS), length, boundaries=True)
  ids = np.array([[0, 1, -1], [5, 2, 13]])
  got = spellings[ids]
  assert got.shape == (2, 3, length) and len(spellings) == len(WORDS) + 2
  np.testing.assert_array_equal(got[0], [*boundaries(length), np.zeros(length)])
  np.testing.assert_array_equal(got[1], spell([WORDS[3], WORDS[0], WORDS[11]], length))
  assert spellings[np.zeros((4, 0), int)].shape == (4, 0, length)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: spell(["fine", "a\ud800b"]), r"word 'a\\ud800b': got a lone surrogate .* character 1, .*errors='replace'"),
    (lambda: spell(["a"], 2), "characters of a word: got 2, want at least 3"),
    (lambda: Spellings(["a"])[np.array([0, 1])], "got ids 0 to 1, want -1 to 0; .* another vocabulary"),
    (lambda: Spellings(["a"])[np.array([-2])], "got ids -2 to -2, want -1 to 0"),
  ],
)
def test_what_cannot_be_spelled_is_one_line(call, message):
  with pytest.raises(CharacterError, match=message) as error:
    call()
  assert "\n" not in str(error.value)
