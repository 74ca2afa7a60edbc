"""SentencePiece as ALBERT uses it: cleaning, commas, spans, words, and its training."""

import functools
import hashlib
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import tokenizers
from data.tokenizers import Special, TokenizerError, sentencepieces
from data.tokenizers.cleaning import clean
from data.tokenizers.sentencepieces import SPECIALS, USER_DEFINED, ModelProto, Piece, SentencePiece, Settings

ROOT = Path(__file__).parent.parent
FIXED = len(SPECIALS) + len(USER_DEFINED)

LEARNT = {
  "▁": -4, "▁the": -3, "▁cat": -5, "▁hello": -5, "s": -4, "'": -5, ",": -3, "▁1": -5, "▁1,": -5.5, "000": -6, "23": -7,
  "232,": -6, "5,": -6, "5": -7, "▁5": -7, "▁,": -4, "zo": -7, "▁zo": -8, "e": -7, "...": -5, "fi": -8, "▁x": -8,
  "한국": -8, "▁한국": -8, "어": -8, "東京": -8, "で": -8, "て": -8, "大": -8, "学": -8, "!": -6, "2": -8, "▁in": -5,
}  # fmt: skip


@functools.cache
def charsmap():
  """The tables of normalisation that the trainer writes into every model."""
  model = ModelProto.FromString(sentencepieces.train(["a b"], 20).model)
  return model.normalizer_spec.precompiled_charsmap


@functools.cache
def model():
  return make()


def make(learnt=LEARNT, unused=0, tables=None):
  """A spiece.model with these pieces and scores."""
  proto = ModelProto()
  proto.trainer_spec.model_type = proto.trainer_spec.UNIGRAM
  proto.normalizer_spec.precompiled_charsmap = charsmap() if tables is None else tables
  kinds = [Piece.CONTROL, Piece.UNKNOWN, *[Piece.CONTROL] * 3, *[Piece.USER_DEFINED] * len(USER_DEFINED)]
  for piece, kind in zip([*SPECIALS, *USER_DEFINED], kinds, strict=True):
    proto.pieces.add(piece=piece, score=0, type=kind)
  for piece, score in learnt.items():
    proto.pieces.add(piece=piece, score=score, type=Piece.NORMAL)
  for i in range(unused):
    proto.pieces.add(piece=f"[unused{i}]", score=0, type=Piece.UNUSED)
  return proto.SerializeToString()


def build(model, **changes):
  return SentencePiece(model, Settings(**changes), "test")


def pieces_of(tokenizer, text, specials=False):
  return tokenizer.pieces(tokenizer.encode([text], specials)[0].ids)


def spans_of(tokenizer, text):
  return [text[first:end] for first, end in tokenizer.encode([text])[0].offsets]


# Cleaning


def oracle_clean(text, lowercase, keep_accents):
  """The released code's cleaning, and the quotation marks that its ancestor XLNet replaces."""
  text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
  if not keep_accents:
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
  return text.lower() if lowercase else text


def check_clean(text):
  for lowercase in (True, False):
    for keep_accents in (True, False):
      cleaned, spans = clean(text, lowercase, keep_accents)
      assert cleaned == oracle_clean(text, lowercase, keep_accents)
      assert spans.shape == (len(cleaned), 2) and (spans[:, 0] < spans[:, 1]).all()
      assert (np.diff(spans, axis=0) >= 0).all() and (not len(spans) or spans[-1, 1] <= len(text))
      for char, (first, end) in zip(cleaned, spans, strict=True):
        assert char == " " or char in oracle_clean(text[first:end], lowercase, keep_accents) or char in "σς"


CLEANED = [
  "", " ", "  Two \t\n spaces\u3000and\u00a0more  ", "``quoted'' ``` '''' '''", "Zoë ﬁne ½ ① Å e\u0301\u0328x",
  "İstanbul ΟΣ ß", "한국어 각", "हिन्दी", "´ a¨b", "\u0301", "\u0301 a", "😀 ﷺ", "a\x1cb",
]  # fmt: skip


@pytest.mark.parametrize("text", CLEANED)
def test_text_is_cleaned_as_in_the_released_code(text):
  check_clean(text)


@settings(max_examples=200, deadline=None)
@given(st.text(list("aB `'\t\u00a0\u3000éÅﬁ½İßΣ각한\u0301\u0327¨😀"), max_size=16))
def test_any_text_is_cleaned_as_in_the_released_code(text):
  check_clean(text)


def test_each_clean_character_has_the_span_it_came_from():
  cleaned, spans = clean("  A``ﬁ''\u00a0 É½ ", True, False)
  assert cleaned == 'a"fi" e1⁄2'
  assert spans.tolist() == [
    [2, 3], [3, 5], [5, 6], [5, 6], [6, 8], [9, 10], [10, 11], [11, 12], [11, 12], [11, 12]
  ]  # fmt: skip


# Pieces


def test_pieces_and_spans():
  tokenizer, text = build(model()), "  Hello, (the)   ``Cats''  ﬁ Zoë"
  assert pieces_of(tokenizer, text) == [
    "▁hello", ",", "▁", "(", "<unk>", "e", ")", "▁", '"', "<unk>", "s", '"', "▁", "fi", "▁zo", "e"
  ]  # fmt: skip
  assert spans_of(tokenizer, text) == [
    "Hello", ",", "(", "(", "th", "e", ")", "``", "``", "Cat", "s", "''", "ﬁ", "ﬁ", "Zo", "ë"
  ]  # fmt: skip
  encoding = tokenizer.encode([text])[0]
  assert encoding.ids.dtype == encoding.offsets.dtype == np.int32 and encoding.word_starts.dtype == bool
  assert tokenizer.decode(encoding.ids) == 'hello, (<unk>e) "<unk>s" fi zoe'


@pytest.mark.parametrize(
  "text, pieces, spans",
  [
    ("1,000", ["▁1", ",", "000"], ["1", ",", "000"]),  # "▁1," is the likelier piece
    ("in 5, x", ["▁in", "▁", "5", ",", "▁x"], ["in", "5", "5", ",", "x"]),
    ("x5,", ["▁x", "5", ","], ["x", "5", ","]),  # without its comma "5," is "▁5", of which the "▁" is taken off
    ("x232,", ["▁x", "23", "2", ","], ["x", "23", "2", ","]),  # "▁" + "23" + "2": the lone "▁" is dropped
    ("cat,", ["▁cat", ","], ["cat", ","]),
    ("cat ,", ["▁cat", "▁,"], ["cat", ","]),
    ("  ²5， x", ["▁", "2", "5", ",", "▁x"], ["²", "²", "5", "，", "x"]),
  ],
)  # fmt: skip
def test_a_comma_after_a_digit_is_a_piece_of_its_own(text, pieces, spans):
  tokenizer = build(model())
  assert (pieces_of(tokenizer, text), spans_of(tokenizer, text)) == (pieces, spans)


def test_a_number_without_a_piece_inside_words_is_unknown_as_in_the_released_code():
  """Of "7," inside a word "▁7" is left, and without its "▁" that is no piece."""
  tokenizer = build(make(LEARNT | {"7,": -5, "▁7": -5}))
  assert pieces_of(tokenizer, "x7,") == ["▁x", "<unk>", ","]


def test_names_of_special_pieces_are_text_unless_asked_for():
  tokenizer, text = build(model(), lowercase=False), "the[MASK] cat [SEP]"
  plain, published = (tokenizer.encode([text], specials=each)[0] for each in (False, True))
  assert not set(plain.ids.tolist()) & {0, 2, 3, 4}
  assert tokenizer.pieces(published.ids) == ["[CLS]", "▁the", "[MASK]", "▁cat", "[SEP]", "[SEP]"]
  assert published.offsets.tolist() == [[0, 0], [0, 3], [3, 9], [10, 13], [14, 19], [0, 0]]
  assert published.word_starts.all()
  assert tokenizer.decode(published.ids) == "the cat"
  assert tokenizer.decode(published.ids, specials=True) == "[CLS] the [MASK] cat [SEP] [SEP]"


@pytest.mark.parametrize("text", ["", "  ", "\u0301"])
def test_a_text_without_characters_has_no_pieces(text):
  encoding, published = build(model()).encode([text])[0], build(model()).encode([text], specials=True)[0]
  assert len(encoding) == 0 and encoding.offsets.shape == (0, 2) and published.ids.tolist() == [2, 3]


@settings(max_examples=150, deadline=None)
@given(text=st.text(list("helo catx15,2 3`'(ﬁZoë\u3000한국어…\u0301\u200b"), max_size=20))
def test_spans_lie_in_the_text_in_order_and_hold_what_the_piece_says(text):
  tokenizer = build(model())
  encoding = tokenizer.encode([text])[0]
  assert (encoding.offsets[:, 0] < encoding.offsets[:, 1]).all() and (np.diff(encoding.offsets, axis=0) >= 0).all()
  for piece, (first, end) in zip(tokenizer.pieces(encoding.ids), encoding.offsets, strict=True):
    held = text[first:end]
    assert held == held.strip() or "\u200b" in held
    if piece not in ("<unk>", "▁"):
      assert piece.strip("▁") in unicodedata.normalize("NFKC", oracle_clean(held, True, False))


# Words


@pytest.mark.parametrize(
  "piece, begins",
  [
    ("▁the", True), ("▁", True), ("the", False), ("<unk>", True), ("s", False), ("S", False),
    (",", True), (".", True), ("€", True), ("...", False), ("s,", False),  # marks only when alone
    ("'", True), ("'s", True), ("=", True),  # not in the list of marks
    ("1998", True), ("5", True), ("한국", True), ("東京", True), ("é", True), ("–", True),
  ],
)  # fmt: skip
def test_a_piece_begins_a_word_as_in_the_released_code(piece, begins):
  assert sentencepieces.begins_word(piece) == begins


def groups(tokenizer, text):
  """Pieces by word."""
  words = []
  encoding = tokenizer.encode([text])[0]
  for piece, start in zip(tokenizer.pieces(encoding.ids), encoding.word_starts, strict=True):
    words += [[]] if start else []
    words[-1].append(piece)
  return words


def test_words_from_pieces_split_korean_and_words_from_text_do_not():
  text = "한국어 hellos, x"
  assert groups(build(model()), text) == [["▁한국"], ["어"], ["▁hello", "s"], [","], ["▁x"]]
  assert groups(build(model(), words="text"), text) == [["▁한국", "어"], ["▁hello", "s"], [","], ["▁x"]]


def test_a_lone_marker_belongs_to_the_word_after_it():
  assert groups(build(model(), words="text"), "x ﬁ (") == [["▁x"], ["▁", "fi"], ["▁", "("]]


def test_japanese_words_from_text_are_grouped_by_morphology():
  pytest.importorskip("fugashi", reason="extra [japanese]")
  tokenizer = build(model(), keep_accents=True)
  assert groups(tokenizer, "東京大学で") == [["▁"], ["東京"], ["大"], ["学"], ["で"]]
  tokenizer = build(model(), keep_accents=True, words="text")
  assert groups(tokenizer, "東京大学で") == [["▁", "東京"], ["大", "学"], ["で"]]


def test_kana_lose_their_voicing_marks_with_the_accents_as_in_the_released_code():
  assert pieces_of(build(model()), "で") == ["▁", "て"]


@pytest.mark.parametrize("texts, message", [("one", "wrap it in a list"), (["a", "\ud800"], "text 1: got a lone surr")])
def test_what_is_not_text_is_refused(texts, message):
  for use in (build(model()).encode, lambda texts: sentencepieces.train(texts, 40)):
    with pytest.raises(TokenizerError, match=message):
      use(texts)


# Training


def corpus(n=400):
  dice = random.Random(1)
  words = ["".join(dice.choices("abcdefghij", k=dice.randint(2, 5))) for _ in range(150)]
  return [" ".join(dice.choices(words, k=12)).capitalize() + ", (Zoë)." for _ in range(n)]


def test_a_trained_vocabulary_has_the_published_order():
  tokenizer = sentencepieces.train(iter(corpus()), 120)
  tokenizers.validate(tokenizer, 120)
  assert tokenizer.vocabulary[:FIXED] == (*SPECIALS, "(", ")", '"', "-", ".", "–", "£", "€")
  assert tokenizer.special == Special(pad=0, unk=1, cls=2, sep=3, mask=4)
  scores = tokenizer.settings_dict()["scores"][FIXED:]
  assert scores == sorted(scores, reverse=True) and scores[0] < 0 and max(map(abs, scores)) < 100
  assert not any("A" <= char <= "Z" or char == "ë" for piece in tokenizer.vocabulary[FIXED:] for char in piece)
  text = corpus(1)[0]
  assert tokenizer.decode(tokenizer.encode([text])[0].ids) == text.lower().replace("ë", "e")


def test_a_cased_vocabulary_keeps_capitals_and_accents():
  tokenizer = sentencepieces.train(corpus(), 120, lowercase=False, keep_accents=True, words="text")
  assert tokenizer.settings == Settings(lowercase=False, keep_accents=True, words="text")
  text = corpus(1)[0]
  assert tokenizer.decode(tokenizer.encode([text])[0].ids) == text


def test_a_small_text_is_filled_up_with_unused_pieces(caplog):
  tokenizer = sentencepieces.train(["a b c " + "d" * 5000], 500)
  assert tokenizer.vocab_size == 500 and tokenizer.vocabulary[-1].startswith("[unused")
  assert f"want 500: filled with {sum(p.startswith('[unused') for p in tokenizer.vocabulary)} [unusedN]" in caplog.text
  assert tokenizer.encode(["[unused0]"])[0].ids.tolist().count(tokenizer.id_of("[unused0]")) == 0
  assert set("abcd") < set(tokenizer.vocabulary)  # long texts are not left out
  assert "x" in sentencepieces.train(["x ▅ x"], 20).vocabulary  # nor those with the library's reserved character


def test_of_many_texts_a_fixed_sample_is_taken():
  first, again = (sentencepieces.train(corpus(), 90, sentences=100).digest for _ in range(2))
  assert first == again != sentencepieces.train(corpus(), 90).digest
  kept = sentencepieces._sample(map(str, range(10_000)), 2500)
  assert len(set(kept)) == 2500 and 4800 < np.mean([int(text) for text in kept]) < 5200


@pytest.mark.parametrize(
  "texts, size, message",
  [([], 50, "got no text"), ([" ", "\u0301", "▁▅"], 50, "no text"), (corpus(), 20, "vocab_size 20, .* 20 vs 2[0-9]")],
)
def test_training_that_cannot_work_is_refused(texts, size, message):
  with pytest.raises(TokenizerError, match=message) as error:
    sentencepieces.train(texts, size)
  assert "\n" not in str(error.value)


TRAIN = """
import sys
from tests.test_sentencepieces import corpus
from data.tokenizers import sentencepieces
sentencepieces.train(corpus(), 150).save(sys.argv[1])
"""


def test_training_writes_the_same_bytes_in_every_process(tmp_path):
  digests = []
  for seed in ("1", "2"):
    folder = tmp_path / seed
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", TRAIN, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    assert done.stderr == b""
    digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
  assert digests[0] == digests[1]
  assert set(digests[0]) == {"spiece.model", "tokenizer.json", "tokenizer_config.json", tokenizers.OWN_FILE}


def test_sentencepiece_is_imported_by_its_own_kind_alone():
  code = "import sys; from data.tokenizers import wordpiece_files, bytebpe_files; print('sentencepiece' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout == b"False\n"
