"""Byte-level BPE: pieces, spans and words as GPT-2 and RoBERTa define them, and its training."""

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import tokenizers
from data.tokenizers import Special, TokenizerError, bytebpe
from data.tokenizers.bytebpe import FIRST, SPECIALS, ByteBPE, Settings, byte_pieces

ROOT = Path(__file__).parent.parent


def build(merges, **changes):
  """A tokenizer with merges written as "left right"."""
  pairs = [tuple(merge.split(" ")) for merge in merges]
  vocabulary = [*FIRST, *byte_pieces(), *dict.fromkeys(map("".join, pairs)), SPECIALS[-1]]
  return ByteBPE(vocabulary, pairs, Settings(**changes), "test")


MERGES = """w o,r l,wo rl,worl d,Ġ world,H e,l l,He ll,Hell o,Ã ©,Ġ Ã©,ä ¸,' t,n Ġ,Ġ Ġ,1 9,Ċ Ċ,a b,Ġ a,Ġa b"""
MERGES = MERGES.split(",")


# Slow oracle: the splitting in words, the merges one at a time, the spans byte by byte.


def kind(char):
  return "space" if char.isspace() else {"L": "letter", "N": "digit"}.get(unicodedata.category(char)[0], "other")


def oracle_words(text):
  at = 0
  while at < len(text):
    contraction = re.match("'s|'t|'re|'ve|'m|'ll|'d", text[at:])
    here = at + (text[at] == " " and at + 1 < len(text) and kind(text[at + 1]) != "space")
    end = here
    while end < len(text) and kind(text[end]) == kind(text[here]):
      end += 1
    if contraction:
      end = at + contraction.end()
    elif kind(text[here]) == "space" and end < len(text) and end - at > 1:
      end -= 1  # the last white space stays with what follows
    yield at, text[at:end]
    at = end


def oracle(text, merges):
  """(piece, first character, one past the last) of each piece of a text."""
  found = []
  for first, word in oracle_words(text):
    owners = [first + i for i, char in enumerate(word) for _ in char.encode()]
    pieces = [byte_pieces()[byte] for byte in word.encode()]
    while ranks := [merges.index(f"{a} {b}") for a, b in zip(pieces, pieces[1:], strict=False) if f"{a} {b}" in merges]:
      left, right = merges[min(ranks)].split(" ")
      i = 0
      while i < len(pieces) - 1:
        if (pieces[i], pieces[i + 1]) == (left, right):
          pieces[i : i + 2] = [left + right]
        i += 1
    for piece in pieces:
      mine, owners = owners[: len(piece)], owners[len(piece) :]
      spaces = len(piece) - len(piece.lstrip("Ġ"))
      found.append((piece, mine[0] + spaces, mine[-1] + 1))
  return found


def check(tokenizer, merges, text):
  encoding = tokenizer.encode([text])[0]
  pieces = tokenizer.pieces(encoding.ids)
  want = oracle(text, merges)
  assert pieces == [piece for piece, _, _ in want]
  np.testing.assert_array_equal(encoding.offsets, np.array([span for _, *span in want], np.int32).reshape(-1, 2))
  assert encoding.word_starts.tolist() == [n == 0 or piece[0] == "Ġ" for n, piece in enumerate(pieces)]
  assert encoding.ids.dtype == encoding.offsets.dtype == np.int32 and encoding.word_starts.dtype == bool
  assert tokenizer.decode(encoding.ids) == text


TEXTS = [
  "Hello world! Hello  world",
  " world's don't DON'T we'll 'twas it'd I'm you're",
  "\n\nworld \n a\n\n\nb\t\tc \u00a0 d\u3000e ",
  "é é 中文 한국어 日本😀👨‍👩‍👧 e\u0301 x½²3 1999a",
  "<mask> <s> </s> madeupword0000 <|endoftext|>",
  "", " ", "   ", "\n",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_spans_and_words_are_those_of_the_definition(text):
  check(build(MERGES), MERGES, text)


@settings(max_examples=200, deadline=None)
@given(st.text(list("Hello wrdab'ts19é中한😀\n\t\u00a0.!<mk>"), max_size=24))
def test_pieces_spans_and_words_are_those_of_the_definition_for_any_text(text):
  check(build(MERGES), MERGES, text)


def test_every_byte_has_a_printable_character_of_its_own():
  """Printable bytes stand for themselves, the other 68 are U+0100 and on, in order."""
  assert len(set(byte_pieces())) == 256 and all(char.isprintable() and not char.isspace() for char in byte_pieces())
  moved = [char for byte, char in enumerate(byte_pieces()) if chr(byte) != char]
  assert moved == [chr(0x100 + n) for n in range(68)]
  assert byte_pieces()[ord(" ")] == "Ġ" and byte_pieces()[ord("\n")] == "Ċ"


def test_a_leading_space_makes_another_first_piece():
  tokenizer = build(MERGES)
  for text, pieces in {
    "Hello world!": ["<s>", "Hello", "Ġworld", "!", "</s>"],
    " world": ["<s>", "Ġworld", "</s>"],
    "world": ["<s>", "world", "</s>"],
  }.items():
    assert tokenizer.pieces(tokenizer.encode([text], specials=True)[0].ids) == pieces
  prefixed = build(MERGES, prefix_space=True).encode(["world", " world"])
  assert [tokenizer.pieces(e.ids) for e in prefixed] == [["Ġworld"]] * 2
  assert [e.offsets.tolist() for e in prefixed] == [[[0, 5]], [[0, 6]]]


def test_names_of_special_pieces_are_text_unless_asked_for():
  tokenizer = build(MERGES)
  plain, published = (tokenizer.encode(["Hello  <mask>world"], specials=each)[0] for each in (False, True))
  assert not set(plain.ids.tolist()) & {0, 1, 2, 3, tokenizer.special.mask}
  assert tokenizer.pieces(published.ids) == ["<s>", "Hello", "<mask>", "world", "</s>"]
  assert published.offsets.tolist() == [[0, 0], [0, 5], [7, 13], [13, 18], [0, 0]]
  assert published.word_starts.all()
  assert tokenizer.decode(published.ids) == "Helloworld"
  assert tokenizer.decode(published.ids, specials=True) == "<s>Hello<mask>world</s>"
  kept = build(MERGES, mask_takes_space=False)
  assert kept.pieces(kept.encode(["Hello <mask>"], specials=True)[0].ids) == ["<s>", "Hello", "Ġ", "<mask>", "</s>"]


def test_words_from_pieces_are_those_of_the_released_code_and_words_from_text_are_like_berts():
  text = "don't (Hello) 한국어 worlds"
  words = {}
  for name in ("pieces", "text"):
    encoding, words[name] = build(MERGES, words=name).encode([text])[0], []
    for (first, end), start in zip(encoding.offsets, encoding.word_starts, strict=True):
      words[name] += [set()] if start else []
      words[name][-1] |= {*range(first, end)}
    words[name] = ["".join(text[i] for i in sorted(word)) for word in words[name]]
  assert words["pieces"] == ["don't", "(Hello)", "한국어", "worlds"]
  assert words["text"] == ["don", "'t", "(", "Hello", ")", "한국어", "worlds"]


def test_many_texts_are_encoded_as_each_alone():
  tokenizer, texts = build(MERGES), [f"{' world a' * (i % 5)}" for i in range(2100)]
  for text, encoding in list(zip(texts, tokenizer.encode(texts), strict=True))[1010:1040]:
    alone = tokenizer.encode([text])[0]
    for field in dataclasses.fields(alone):
      np.testing.assert_array_equal(getattr(encoding, field.name), getattr(alone, field.name))


@pytest.mark.parametrize("texts, message", [("one", "wrap it in a list"), (["a", 1], "text 1: got int 1")])
def test_what_is_not_text_is_refused(texts, message):
  for use in (build(MERGES).encode, lambda texts: bytebpe.train(texts, 300)):
    with pytest.raises(TokenizerError, match=message):
      use(texts)


# Training

CORPUS = ["low lower lowest newer new, wider", "the lower the newer, the widest newest low", "ünited low new z"] * 3


def oracle_training(texts, vocab_size, min_frequency):
  """Merges the most frequent pair of the words' pieces, the pair of lower ids first, until nothing is left to merge."""
  words = Counter(word for text in texts for _, word in oracle_words(text))
  split = {word: [byte_pieces()[byte] for byte in word.encode()] for word in words}
  vocabulary = [*FIRST, *sorted(byte_pieces())]
  while len(vocabulary) < vocab_size - 1:
    pairs = Counter()
    for word, count in words.items():
      for pair in zip(split[word], split[word][1:], strict=False):
        pairs[pair] += count
    pair = min(pairs, key=lambda p: (-pairs[p], vocabulary.index(p[0]), vocabulary.index(p[1])), default=None)
    if pair is None or pairs[pair] < min_frequency:
      break
    vocabulary.append("".join(pair))
    for pieces in split.values():
      i = 0
      while i < len(pieces) - 1:
        if (pieces[i], pieces[i + 1]) == pair:
          pieces[i : i + 2] = ["".join(pair)]
        i += 1
  return vocabulary


@pytest.mark.parametrize("vocab_size, min_frequency, learnt", [(280, 2, 279), (320, 2, 291), (320, 7, 269)])
def test_training_merges_the_most_frequent_pair(vocab_size, min_frequency, learnt):
  tokenizer = bytebpe.train(iter(CORPUS), vocab_size, min_frequency=min_frequency)
  want = oracle_training(CORPUS, vocab_size, min_frequency)
  assert list(tokenizer.vocabulary[: len(want)]) == want and len(want) == learnt
  fill = [f"madeupword{i:04d}" for i in range(vocab_size - 1 - learnt)]
  assert list(tokenizer.vocabulary[len(want) :]) == [*fill, "<mask>"]
  tokenizers.validate(tokenizer, vocab_size)
  assert tokenizer.special == Special(pad=1, unk=3, cls=0, sep=2, mask=vocab_size - 1)


def test_a_small_text_says_how_many_pieces_it_gives(caplog):
  bytebpe.train(CORPUS, 320)
  assert "the text gives 292 pieces, want 320: filled with 28 madeupwordN pieces" in caplog.text


@pytest.mark.parametrize(
  "texts, size, message",
  [([], 300, "got no text"), ([""], 300, "got no text"), (CORPUS, 260, "want at least 261: 5 special pieces and 256")],
)
def test_training_that_cannot_work_is_refused(texts, size, message):
  with pytest.raises(TokenizerError, match=message):
    bytebpe.train(texts, size)


TRAIN = """
import random, sys
from data.tokenizers import bytebpe
letters = [chr(i) for i in range(0x61, 0x7B)] + [chr(i) for i in range(0x430, 0x450)]
dice = random.Random(1)
words = [''.join(dice.choices(letters, k=dice.randint(1, 6))) for _ in range(4000)]
bytebpe.train([' '.join(words[i : i + 50]) for i in range(0, 4000, 50)], 700).save(sys.argv[1])
print(sorted({'sentencepiece', 'google.protobuf', 'huggingface_hub', 'torch', 'jax', 'requests'} & set(sys.modules)))
"""


def test_training_writes_the_same_bytes_in_every_process(tmp_path):
  digests = []
  for seed, threads in (("1", "1"), ("2", "4")):
    folder = tmp_path / seed
    environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
    command = [sys.executable, "-c", TRAIN, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"  # nothing foreign is imported
    digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
  assert digests[0] == digests[1]
  assert set(digests[0]) == {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", tokenizers.OWN_FILE}
  assert "madeupword0000" not in tokenizers.load(folder).vocabulary  # enough text, so ties had to be broken
