"""WordPiece as BERT's released code defines it, its files, its training, and word starts."""

import dataclasses
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import tokenizers
from data.tokenizers import TokenizerError, wordpiece, wordsegments
from data.tokenizers.wordpiece import SPECIALS, Settings, WordPiece

ROOT = Path(__file__).parent.parent

# Slow oracle: BERT's basic tokenisation and greedy longest match, word by word and character by character.

CJK = (
  (0x4E00, 0x9FFF),
  (0x3400, 0x4DBF),
  (0x20000, 0x2A6DF),
  (0x2A700, 0x2B73F),
  (0x2B740, 0x2B81F),
  (0x2B820, 0x2CEAF),
  (0xF900, 0xFAFF),
  (0x2F800, 0x2FA1F),
)


def is_punctuation(char):
  ascii_mark = any(a <= ord(char) <= b for a, b in ((33, 47), (58, 64), (91, 96), (123, 126)))
  return ascii_mark or unicodedata.category(char).startswith("P")


def clean(text):
  for char in text:
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
      yield " "
    elif char not in "\0\ufffd" and unicodedata.category(char) not in ("Cc", "Cf"):
      yield f" {char} " if any(a <= ord(char) <= b for a, b in CJK) else char


def oracle_words(text, uncased):
  words = []
  for word in "".join(clean(text)).split():
    if uncased:
      decomposed = unicodedata.normalize("NFD", word.lower())
      word = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    words += "".join(f" {char} " if is_punctuation(char) else char for char in word).split()
  return words


def oracle_pieces(text, vocabulary, uncased, longest=100):
  pieces = []
  for word in oracle_words(text, uncased):
    found, start = [], 0
    while start < len(word) <= longest:
      tries = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
      piece = next((piece for piece in tries if piece in vocabulary), None)
      if piece is None:
        break
      found.append(piece)
      start += len(piece) - (2 if start else 0)
    pieces += found if start == len(word) else ["[UNK]"]
  return pieces


def characters_of(texts, uncased):
  """A vocabulary of the characters in texts, alone and continuing."""
  chars = sorted({char for text in texts for word in oracle_words(text, uncased) for char in word})
  return [*chars, *("##" + char for char in chars)]


def build(pieces, lowercase=True, **others):
  return WordPiece([*SPECIALS, *pieces], Settings(lowercase=lowercase, **others), "test")


ENGLISH = ["the", "un", "##want", "##ed", "runn", "##ing", "want", "low", "##er", ",", "!", "a", "b", "##a", "##b"]
TEXTS = [
  "UNwanted,running the LOWER!",
  "naïve Ünïted ﬁ ½ ﬀ École crème brûlée",
  "東京とTokyo大学,豈𠀀x",
  "한국어 형태소를 분석한다",
  "a\0b\ufffdc\u200bd\x07e\tf\ng\rh\u00a0i\u3000j\u2028k\x85l\u00adm",
  "😀 ok👨‍👩‍👧 x😀y",
  "don't—stop…«now» $5.00 ^_^ `x` ~~ a+b=c",
  "ÀÁ a\u0301b\u0328 ẞß İI ǅ Ω",
  "x" * 100 + " " + "x" * 101,
  "",
  " \t\n ",
]


@pytest.mark.parametrize("uncased", [True, False])
def test_pieces_are_those_of_the_definition(uncased):
  half = characters_of(TEXTS, uncased)[::2]  # so that some words are unknown
  vocabulary = list(dict.fromkeys([*half, *ENGLISH, *characters_of(["xabcdefghijklm한국어"], uncased)]))
  tokenizer = build(vocabulary, uncased)
  for text, encoding in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
    assert tokenizer.pieces(encoding.ids) == oracle_pieces(text, set(vocabulary), uncased)
    assert encoding.ids.dtype == encoding.offsets.dtype == np.int32 and encoding.word_starts.dtype == bool
    assert encoding.ids.shape == encoding.word_starts.shape and encoding.offsets.shape == (len(encoding), 2)


@pytest.mark.parametrize("uncased", [True, False])
def test_every_character_of_unicode_3_2_is_treated_as_defined(uncased):
  """All of them but private use, whose loss is documented, and most ideographs and Hangul syllables, to be quick."""
  old = unicodedata.ucd_3_2_0
  chars = [chr(i) for i in range(0x30000) if i % 89 == 0 or not (0x3400 <= i < 0xE000 or 0x20000 <= i < 0x2F800)]
  stable = [c for c in chars if old.category(c) == unicodedata.category(c) not in ("Cn", "Co", "Cs")]
  assert len(stable) > 13_000
  texts = [f"a{char}b" for char in stable]
  vocabulary = characters_of(texts, uncased)
  tokenizer, known = build(vocabulary, uncased), set(vocabulary)
  for text, encoding in zip(texts, tokenizer.encode(texts), strict=True):
    assert tokenizer.pieces(encoding.ids) == oracle_pieces(text, known, uncased), ascii(text)


ALPHABET = list("abAB  éÉ東京한글あゝ,.!-_$\t\n\0\ufffd\u200d\u0301😀ßİ…「」٣")
MIXED = [*characters_of(["".join(ALPHABET[:-6])], True), "ab", "##ab", "##aba", "bab", "##あa"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=24), max_size=3))
def test_pieces_are_those_of_the_definition_for_any_text(texts):
  tokenizer = build(MIXED)
  for text, encoding in zip(texts, tokenizer.encode(texts), strict=True):
    assert tokenizer.pieces(encoding.ids) == oracle_pieces(text, set(MIXED), uncased=True)
    assert (encoding.offsets[:, 0] < encoding.offsets[:, 1]).all() and (np.diff(encoding.offsets[:, 0]) >= 0).all()


def test_documented_corners_of_the_library():
  tokenizer = build(["ο", "##ς", "##σ", "a", "##b", "𫠠", "##𫠠"])
  assert tokenizer.pieces(tokenizer.encode(["ΟΣ"])[0].ids) == ["ο", "##σ"]  # Python's lower() writes a final sigma
  assert tokenizer.pieces(tokenizer.encode(["a\ue000b"])[0].ids) == ["a", "##b"]  # private use
  assert tokenizer.pieces(tokenizer.encode(["a𫠠"])[0].ids) == ["a", "##𫠠"]  # U+2B820


def test_a_word_over_the_limit_is_unknown_and_the_limit_is_a_setting():
  words, vocabulary = ["a" * 100, "a" * 101, "a" * 201], ["a", "##a"]
  assert [len(e) for e in build(vocabulary).encode(words)] == [100, 1, 1]
  assert [len(e) for e in build(vocabulary, longest_word=200).encode(words)] == [100, 101, 1]


def test_offsets_count_characters_of_the_text_as_given():
  text = "😀 The UNwanted, naïve"
  tokenizer = build(["the", "un", "##want", "##ed", ",", "na", "##ive"])
  encoding = tokenizer.encode([text])[0]
  spans = [text[first:end] for first, end in encoding.offsets]
  assert spans == ["😀", "The", "UN", "want", "ed", ",", "na", "ïve"]
  assert tokenizer.pieces(encoding.ids)[0] == "[UNK]"
  assert encoding.word_starts.tolist() == [True, True, True, False, False, True, True, False]


def test_names_of_special_pieces_are_text_unless_asked_for():
  tokenizer = build(["[", "]", "mask", "sep", "the", "cat"])
  plain, published = tokenizer.encode(["the [MASK] [SEP]"])[0], tokenizer.encode(["the [MASK] cat"], specials=True)[0]
  assert tokenizer.pieces(plain.ids) == ["the", "[", "mask", "]", "[", "sep", "]"]
  assert tokenizer.pieces(published.ids) == ["[CLS]", "the", "[MASK]", "cat", "[SEP]"]
  assert published.offsets.tolist() == [[0, 0], [0, 3], [4, 10], [11, 14], [0, 0]]
  assert published.word_starts.all()
  assert tokenizer.decode(published.ids) == "the cat"
  assert tokenizer.decode(published.ids, specials=True) == "[CLS] the [MASK] cat [SEP]"


def test_decode_joins_pieces_and_keeps_unknown_words():
  tokenizer = build(ENGLISH)
  assert tokenizer.decode(tokenizer.encode(["Unwanted, xyz low!"])[0].ids) == "unwanted, [UNK] low!"


def test_many_texts_are_encoded_as_each_alone():
  tokenizer, texts = build(ENGLISH), [f"{'the lower ' * (i % 5)}unwanted {i}" for i in range(2500)]
  for text, encoding in list(zip(texts, tokenizer.encode(texts), strict=True))[1000:1050]:
    alone = tokenizer.encode([text])[0]
    for field in dataclasses.fields(alone):
      np.testing.assert_array_equal(getattr(encoding, field.name), getattr(alone, field.name))


# Word starts


def groups(tokenizer, text):
  """The text of each word, joined from the spans of its pieces."""
  words = []
  encoding = tokenizer.encode([text])[0]
  for (first, end), start in zip(encoding.offsets, encoding.word_starts, strict=True):
    if start:
      words.append("")
    words[-1] += text[first:end]
  return words


KOREAN, JAPANESE = "한국어 형태소를 분석한다.", "東京大学で自然言語処理を研究しています"


def test_a_piece_starts_a_word_unless_it_carries_the_prefix():
  assert groups(build(ENGLISH), "unwanted running, lower") == ["unwanted", "running", ",", "lower"]


def test_korean_words_are_grouped_though_no_piece_carries_a_prefix():
  pieces = sorted(set(KOREAN) - {" "})
  assert groups(build(pieces, False, prefix=""), KOREAN) == [char for char in KOREAN if char != " "]
  assert groups(build(pieces, False, prefix="", words="text"), KOREAN) == ["한국어", "형태소를", "분석한다", "."]


def test_korean_words_are_grouped_where_syllables_fall_into_letters():
  """Uncased, each syllable is decomposed; the spans of its letters are all that of the syllable."""
  tokenizer = build(characters_of(["한국"], True), words="text")
  assert tokenizer.encode(["한국 한"])[0].word_starts.tolist() == [True, *[False] * 5, True, False, False]


@pytest.mark.parametrize("prefix", ["", "##"])
def test_japanese_words_are_grouped_by_morphology(prefix):
  pytest.importorskip("fugashi", reason="extra [japanese]")
  pieces = [part for char in sorted(set(JAPANESE + "はNLP2年。東京")) for part in {char, prefix + char}]
  tokenizer = build(pieces, False, prefix=prefix, words="text")
  words = ["東京", "大学", "で", "自然", "言語", "処理", "を", "研究", "し", "て", "い", "ます"]
  assert groups(tokenizer, JAPANESE) == words
  mixed = f"NLPは{JAPANESE}。2年 東京でNLP"
  assert groups(tokenizer, mixed) == ["NLP", "は", *words, "。", "2", "年", "東京", "で", "NLP"]


def test_chinese_ideographs_are_words_of_their_own():
  assert groups(build(sorted("東京大學"), words="text"), "東京大學") == list("東京大學")


def test_japanese_without_the_extra_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "fugashi", None)
  wordsegments._analyser.cache_clear()
  with pytest.raises(TokenizerError, match=r"no module 'fugashi'.*pip install 'septet\[japanese\]'"):
    build([], words="text").encode([JAPANESE])
  wordsegments._analyser.cache_clear()


def english_lines():
  path = ROOT / "../shared/data/text/wikitext-2"
  if not path.is_dir():
    pytest.skip("../shared/data/text/wikitext-2 is not here")
  lines = "".join(file.read_text(encoding="utf-8") for file in sorted(path.iterdir())).split("\n")
  return [line for line in lines if line.strip()]


ORDINARY = [
  "The quick brown fox (it was 3.5 kg) jumped — over the lazy dog's tail; e.g., at 10:30, for $5!",
  "He said: “I don't know…” and left.\tSo did Zoë\u00a0and\u200b Renée, the co-owners of caf\u00adé #7.",
  "[MASK] a_b x@y.org 'quoted'  two  spaces\nnext line ^`|~ \0 a\0b ,\u200bc \x7f;",
  " ",
]


@pytest.mark.parametrize("specials", [False, True])
def test_english_words_start_alike_in_text_and_pieces(specials):
  by_pieces = build(characters_of(ORDINARY, True))
  by_text = WordPiece(by_pieces.vocabulary, dataclasses.replace(by_pieces.settings, words="text"))
  for one, other in zip(by_pieces.encode(ORDINARY, specials), by_text.encode(ORDINARY, specials), strict=True):
    np.testing.assert_array_equal(one.word_starts, other.word_starts)


def test_real_english_words_start_alike_in_text_and_pieces():
  lines = english_lines()[:800]
  by_pieces = build(characters_of(lines, True))
  by_text = WordPiece(by_pieces.vocabulary, dataclasses.replace(by_pieces.settings, words="text"))
  for line, one, other in zip(lines, by_pieces.encode(lines), by_text.encode(lines), strict=True):
    np.testing.assert_array_equal(one.word_starts, other.word_starts, err_msg=line)


# Misuse


def test_validate_wants_the_models_size_and_five_special_pieces():
  tokenizer = build(ENGLISH)
  tokenizers.validate(tokenizer, len(ENGLISH) + 5)
  with pytest.raises(TokenizerError, match=f"tokenizer test: got {len(ENGLISH) + 5} pieces, want 30522"):
    tokenizers.validate(tokenizer, 30522)
  with pytest.raises(TokenizerError, match="special piece sep: got id 5, also of mask, want an id of its own"):
    tokenizers.validate(build(ENGLISH, specials=(*SPECIALS[:3], "the", "the")), len(ENGLISH) + 5)


@pytest.mark.parametrize(
  "texts, message",
  [
    ("one", "got one string 'one', want a list of strings"),
    (["a", None], "text 1: got NoneType None, want a string"),
    ([("a", "b")], "text 0: got tuple"),
    (["a", "b\ud800"], r"text 1: got a lone surrogate '\\ud800' at character 1"),
  ],
)
def test_what_is_not_text_is_refused(texts, message):
  for use in (build(ENGLISH).encode, lambda texts: wordpiece.train(texts, 100)):
    with pytest.raises(TokenizerError, match=message):
      use(texts)


@pytest.mark.parametrize("i", [-1, 5])
def test_an_id_outside_the_vocabulary_is_refused(i):
  for use in (build([]).pieces, build([]).decode):
    with pytest.raises(TokenizerError, match=f"got id {i}, want 0 to 4"):
      use([2, i])


# Processes

FORK = """
import multiprocessing, os, sys
from data.tokenizers.wordpiece import SPECIALS, Settings, WordPiece
tokenizer = WordPiece([*SPECIALS, 'a', '##b'], Settings(lowercase=True))
texts = ['ab ' * (i % 9) for i in range(3000)]
lengths = [len(e) for e in tokenizer.encode(texts)]

def child(_):
  return [len(e) for e in tokenizer.encode(texts)] == lengths, os.environ['TOKENIZERS_PARALLELISM']

with multiprocessing.get_context('fork').Pool(1) as pool:
  print(pool.map_async(child, [0]).get(timeout=60))
print(os.environ.get('TOKENIZERS_PARALLELISM'))
print(sorted({'huggingface_hub', 'torch', 'tensorflow', 'jax', 'fugashi', 'requests'} & set(sys.modules)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_workers_encode_without_hanging_or_warning_and_nothing_foreign_is_imported():
  environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
  result = subprocess.run(
    [sys.executable, "-c", FORK], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
  )
  assert (result.returncode, result.stderr) == (0, "")
  assert result.stdout.splitlines() == ["[(True, 'false')]", "None", "[]"]
