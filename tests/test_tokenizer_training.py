"""Training of WordPiece vocabularies: which pairs are merged, and the same bytes from every process."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data import tokenizers
from data.tokenizers import Special, TokenizerError, wordpiece
from data.tokenizers.wordpiece import SPECIALS

ROOT = Path(__file__).parent.parent

CORPUS = ["low lower lowest newer new, wider", "the lower the newer, the widest newest low", "united low new z x"] * 3


def oracle_training(texts, vocab_size, min_frequency):
  """Merges the most frequent pair of the words' pieces, the pair of lower ids first, until nothing is left to merge."""
  words = Counter(word for text in texts for word in re.findall(r"\w+|,", text))
  split = {word: [word[0], *("##" + char for char in word[1:])] for word in words}
  singles = sorted({char for word in words for char in word})
  vocabulary = [*SPECIALS, *sorted({p for pieces in split.values() for p in pieces[1:]}), *singles]
  while len(vocabulary) < vocab_size:
    pairs = Counter()
    for word, count in words.items():
      for pair in zip(split[word], split[word][1:], strict=False):
        pairs[pair] += count
    if not pairs:
      break
    pair = min(pairs, key=lambda p: (-pairs[p], vocabulary.index(p[0]), vocabulary.index(p[1])))
    if pairs[pair] < min_frequency:
      break
    merged = pair[0] + pair[1].removeprefix("##")
    vocabulary += [merged] if merged not in vocabulary else []
    for pieces in split.values():
      for i in range(len(pieces) - 1, 0, -1):
        if (pieces[i - 1], pieces[i]) == pair and (i < 2 or pair[0] != pair[1]):
          pieces[i - 1 : i + 1] = [merged]
  return vocabulary


@pytest.mark.parametrize("vocab_size, min_frequency, size", [(40, 2, 40), (60, 2, 52), (60, 7, 39)])
def test_training_merges_the_most_frequent_pair(vocab_size, min_frequency, size):
  tokenizer = wordpiece.train(CORPUS, vocab_size, min_frequency=min_frequency)
  learnt = oracle_training(CORPUS, vocab_size, min_frequency)
  assert len(learnt) == size
  assert list(tokenizer.vocabulary[: len(learnt)]) == learnt
  tokenizers.validate(tokenizer, vocab_size)


def test_a_small_text_is_filled_up_with_unused_pieces(caplog):
  tokenizer = wordpiece.train(iter(CORPUS), 500)
  assert tokenizer.vocab_size == 500 and tokenizer.vocabulary[-1] == f"[unused{tokenizer.unused - 1}]"
  assert f"the text gives {500 - tokenizer.unused} pieces, want 500: filled with {tokenizer.unused}" in caplog.text
  assert tokenizer.special == Special(0, 1, 2, 3, 4)
  assert tokenizer.digest == wordpiece.train(CORPUS, 500).digest
  assert tokenizer.pieces(tokenizer.encode(["LOWEST united"])[0].ids) == ["lowest", "united"]


def test_only_the_most_frequent_characters_are_kept():
  tokenizer = wordpiece.train(["zzz yy c"] * 2 + ["zzy"], 20, alphabet=2)
  assert {piece.removeprefix("##")[0] for piece in tokenizer.vocabulary} == {"[", "y", "z"}
  assert tokenizer.pieces(tokenizer.encode(["zz c yy"])[0].ids) == ["zz", "[UNK]", "yy"]


def test_a_cased_vocabulary_keeps_capitals_and_accents():
  texts = ["Ünïted Low"] * 2
  cased, uncased = wordpiece.train(texts, 50, lowercase=False), wordpiece.train(texts, 50)
  assert cased.pieces(cased.encode(texts)[0].ids) == ["Ünïted", "Low"]
  assert uncased.pieces(uncased.encode(texts)[0].ids) == ["united", "low"]


@pytest.mark.parametrize("texts, message", [([], "got no text"), ([" \0"], "no text"), (CORPUS, "want at least 30: 5")])
def test_training_that_cannot_work_is_refused(texts, message):
  with pytest.raises(TokenizerError, match=message):
    wordpiece.train(texts, 20)


TRAIN = """
import random, sys
from data.tokenizers import wordpiece
letters = [chr(i) for i in range(0x61, 0x7B)] + [chr(i) for i in range(0x430, 0x450)]
dice = random.Random(1)
words = [''.join(dice.choices(letters, k=dice.randint(1, 6))) for _ in range(4000)]
wordpiece.train([' '.join(words[i : i + 50]) for i in range(0, 4000, 50)], 700).save(sys.argv[1])
"""


def test_training_writes_the_same_bytes_in_every_process(tmp_path):
  digests = []
  for seed, threads in (("1", "1"), ("2", "4")):
    folder = tmp_path / seed
    environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", TRAIN, str(folder)], cwd=ROOT, env=environment, check=True, timeout=120)
    digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
  assert digests[0] == digests[1] and len(digests[0]) == 4
  assert "[unused0]" not in tokenizers.load(folder).vocabulary  # enough text for 700 pieces, so ties had to be broken
