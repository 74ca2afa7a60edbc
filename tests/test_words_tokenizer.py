"""Whole words: the vocabulary of a corpus in descending counts, its files, and text divided into words."""

import json
import logging
import pickle

import numpy as np
import pytest

from data import tokenizers
from data.corpus import prepare
from data.preparation import Training
from data.store import open_store, unigram_counts
from data.tokenizers import Special, TokenizerError, wordpiece
from data.tokenizers.training import training
from data.tokenizers.words import SPECIALS, Words, train

SENTENCES = ["the cat saw the dog .", "  ", "the dog <S> saw zebra !!!MAXTERMID", "a b B ."]


def trained():
  return train(SENTENCES)


def published(folder, *words):
  """A vocabulary as it is released: a list of words and nothing beside it."""
  (folder / "vocab-2016-09-10.txt").write_text("".join(f"{word}\n" for word in (*SPECIALS, *words)))
  return folder / "vocab-2016-09-10.txt"


# --- the vocabulary ------------------------------------------------------------------------------------------------


def test_all_words_stand_behind_three_specials_by_count_then_code_point():
  words = trained()
  assert words.vocabulary == (*SPECIALS, "the", ".", "dog", "saw", "B", "a", "b", "cat", "zebra")
  assert words.counts.tolist() == [3, 3, 0, 3, 2, 2, 2, 1, 1, 1, 1, 1]  # boundaries: once a sentence
  assert words.special == Special(pad=-1, unk=2, cls=0, sep=1, mask=-1) and words.kind == "words"


def test_an_iterator_of_sentences_gives_the_same_vocabulary():
  assert train(iter(SENTENCES)).digest == trained().digest


def test_words_that_a_trained_model_predicts_keep_their_ids(tmp_path):
  first = tokenizers.load(published(tmp_path, "dog", "bird", "the"))
  words = train(SENTENCES, first=first)
  assert words.vocabulary == (*SPECIALS, "dog", "bird", "the", ".", "saw", "B", "a", "b", "cat", "zebra")
  assert words.counts.tolist() == [-1] * 6 + [2, 2, 1, 1, 1, 1, 1]
  again = train(SENTENCES[:1], first=trained())
  assert again.vocabulary == trained().vocabulary and (again.counts == trained().counts).all()


def test_a_masked_model_takes_no_words():
  with pytest.raises(TokenizerError, match="special piece pad: got id -1"):
    tokenizers.validate(trained(), trained().vocab_size)


def test_the_order_is_held_against_the_counts_of_what_is_predicted(caplog):
  trained().check_order(12)
  unsorted = Words((*SPECIALS, "a", "b", "c", "d"), np.array([9, 9, 0, 5, 4, 4, 7]))
  unsorted.check_order(6)
  with pytest.raises(TokenizerError, match=r"got 'd' \(seen 7 times\) behind 'c' \(seen 4 times\), want descending"):
    unsorted.check_order(7)
  with caplog.at_level(logging.INFO):
    Words((*SPECIALS, "a", "b")).check_order(5)
  assert "taken to be in descending order" in caplog.text


# --- text ----------------------------------------------------------------------------------------------------------

TEXTS = {
  "space": {
    "Don't  stop , now !": ["Don't", "stop", ",", "now", "!"],
    "\tU.S. \u00a0$3,000\n": ["U.S.", "$3,000"],
    "日本 語": ["日本", "語"],
  },
  "marks": {
    "Don't stop, now!": ["Don", "'", "t", "stop", ",", "now", "!"],
    " a\u00a0b\x85c\x0bd (e)": ["a", "b", "c", "d", "(", "e", ")"],
    "हिन्दी में": ["हिन्दी", "में"],
    "中文 字x": ["中", "文", "字", "x"],
  },
}


@pytest.mark.parametrize("split", TEXTS)
def test_how_text_is_divided(split):
  words = Words(SPECIALS, split=split)
  texts = [*TEXTS[split], "", "  "]
  assert words.words(texts) == [*TEXTS[split].values(), [], []]
  for text, encoding in zip(texts, words.encode(texts), strict=True):
    assert [text[first:end] for first, end in encoding.offsets.tolist()] == words.words([text])[0]
    assert encoding.word_starts.all() and (encoding.ids == 2).all() and encoding.ids.dtype == np.int32


def test_marks_in_ascii_are_those_of_any_text():
  """A letter outside ASCII, a word of its own behind the text, changes nothing before it."""
  chars = "".join(map(chr, range(128)))
  texts = [chars, *("".join(np.random.default_rng(seed).choice([*chars, *" .-a"], 300)) for seed in range(20))]
  words = Words(SPECIALS, split="marks")
  assert words.words(texts) == [found[:-1] for found in words.words([text + " é" for text in texts])]


def test_ids_are_those_of_the_whole_words_and_decode_back():
  words = trained()
  (encoding,) = words.encode(["the zebra saw The cat"])
  assert words.pieces(encoding.ids) == ["the", "zebra", "saw", "<UNK>", "cat"]
  assert words.decode(encoding.ids) == "the zebra saw <UNK> cat"


def test_a_text_that_names_a_boundary_holds_none():
  words = trained()
  plain, marked = (words.encode(["<S> the </S>"], specials)[0] for specials in (False, True))
  assert plain.ids.tolist() == [2, 3, 2]
  assert marked.ids.tolist() == [0, 0, 3, 1, 1] and marked.offsets[[0, -1]].tolist() == [[0, 0], [0, 0]]
  assert words.decode(marked.ids) == "the" and words.decode(marked.ids, specials=True) == "<S> <S> the </S> </S>"


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["space", "marks"])
def test_save_and_load_give_back_the_tokenizer(tmp_path, split):
  words = train(SENTENCES, split)
  words.save(tmp_path, max_length=50)
  for again in (tokenizers.load(tmp_path), tokenizers.load(tmp_path / "vocab.txt"), pickle.loads(pickle.dumps(words))):
    assert (again.digest, again.split) == (words.digest, split) and (again.counts == words.counts).all()
  assert (tmp_path / "vocab.txt").read_text().split("\n")[:4] == [*SPECIALS, words.vocabulary[3]]
  assert words.digest != train(SENTENCES, {"space": "marks", "marks": "space"}[split]).digest
  assert tokenizers.load(tmp_path, words="space").split == "space"


def test_a_published_vocabulary(tmp_path):
  """Its line !!!MAXTERMID has no id; it has no counts and stands for text that is divided already."""
  words = tokenizers.load(published(tmp_path, "the", "!!!MAXTERMID", "of"))
  assert words.vocabulary == (*SPECIALS, "the", "of") and words.split == "space"
  assert words.encode(["of the U.S."])[0].ids.tolist() == [4, 3, 2] and (words.counts == -1).all()
  words.save(tmp_path / "again")
  assert not (tmp_path / "again" / "counts.txt").exists() and tokenizers.load(tmp_path / "again").digest == words.digest


def test_a_wordpiece_vocabulary_may_hold_the_names(tmp_path):
  """Multilingual BERT's has "<S>" among its pieces."""
  (tmp_path / "vocab.txt").write_text("\n".join([*wordpiece.SPECIALS, "the", "<S>", "</S>"]))
  assert tokenizers.load(tmp_path).kind == "wordpiece"


def wrong(name, content):
  def change(folder):
    (folder / name).write_text(content)
    tokenizers.load(folder)

  return change


WRONG = {
  "order": (wrong("vocab.txt", "the\n<S>\n</S>\n<UNK>\n"), r"begins with \['the', '<S>', '</S>'\], want \['<S>'"),
  "blank": (wrong("vocab.txt", "<S>\n</S>\n<UNK>\nthe\n\ncat\n"), "word 4: got '', want a word"),
  "two words": (wrong("vocab.txt", "<S>\n</S>\n<UNK>\nNew York\n"), "word 3: got 'New York', want a word without"),
  "twice": (wrong("vocab.txt", "<S>\n</S>\n<UNK>\nthe\nthe\n"), "'the' has ids 3 and 4, want one id"),
  "counts": (wrong("counts.txt", "3\n3\n0\n"), "got 3 counts in counts.txt, want 12, one a word; remove the file"),
  "count": (wrong("counts.txt", "3\nmany\n"), "counts.txt: got invalid literal .*'many', want a whole number"),
  "setting": (wrong("septet_tokenizer.json", '{"words": "pieces"}'), "got 'pieces', want 'space' .* or 'marks'"),
  "lowercase": (lambda folder: tokenizers.load(folder, lowercase=True), "got lowercase, want text as it is"),
  "markers": (lambda folder: tokenizers.load(folder).with_added(["<ent>"]), r"markers \['<ent>'\] to add, want none"),
  "no text": (lambda folder: train(["", " "]), "got no text, want at least one word"),
  "one string": (lambda folder: trained().words("the cat"), "got one string 'the cat', want a list"),
  "surrogate": (lambda folder: trained().words(["a\ud800"]), "lone surrogate"),
  "training": (lambda folder: training("words", 9, True, "marks"), "got words with lowercase, want text as it is"),
  "pieces": (lambda folder: training("words", 9, False, "pieces"), "setting words: got 'pieces', want 'space'"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_what_is_refused_in_one_line(tmp_path, change, message):
  trained().save(tmp_path)
  with pytest.raises(TokenizerError, match=message) as error:
    change(tmp_path)
  assert "\n" not in str(error.value)


# --- a corpus ------------------------------------------------------------------------------------------------------


def test_a_corpus_is_prepared_in_its_own_words(tmp_path):
  """Both splits are in ids of all words, so none is unknown, and the counts of both are those of the vocabulary."""
  text = tmp_path / "text.txt"
  text.write_text("\n\n".join(f"word {n} , of document {n} .\nthe end of {n % 3} !" for n in range(12)))
  train_words, settings = training("words", 5, False, "space")
  assert settings == {"kind": "words", "split": "space"}  # how many a model predicts changes no corpus
  card = prepare(f"lines:{text}", Training(train_words, settings), tmp_path / "out", holdout=0.3)
  words = tokenizers.load(tmp_path / "out" / "tokenizer")
  stores = [open_store(tmp_path / "out", split) for split in ("train", "validation")]
  assert card["tokenizer"]["kind"] == "words" and all(2 not in store.tokens for store in stores)
  counts = sum(unigram_counts(store, words.vocab_size) for store in stores)
  np.testing.assert_array_equal(counts[3:], words.counts[3:])
  assert sum(store.n_sentences for store in stores) == words.counts[0] == words.counts[1] == 24
  words.check_order(words.vocab_size)
  first = stores[0].tokens[: stores[0].sentences[1]]
  assert words.decode(first).startswith("word ") and json.loads((tmp_path / "out" / "card.json").read_text())
