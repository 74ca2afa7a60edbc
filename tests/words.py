"""A corpus small enough to be told by hand, and the tokenizer of words that goes with it."""

import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np

from data.corpus import prepare
from data.sources import open_source
from data.tokenizers import Encoding, wordpiece


class Words:
  """Words are ids by their order in `vocabulary`; a word of more than four characters becomes two tokens."""

  kind = "words"

  def __init__(self, vocabulary, vocab_size=100):
    self.vocabulary, self.vocab_size = list(vocabulary), vocab_size
    self.digest = hashlib.sha256(json.dumps([self.vocabulary, vocab_size]).encode()).hexdigest()

  def encode(self, texts, specials=False):
    return [self._encoding(text.split()) for text in texts]

  def _encoding(self, words):
    pieces = [(word, True) if n == 0 else ("##", False) for word in words for n in range(1 + (len(word) > 4))]
    ids = [1 if piece == "##" else 2 + self.vocabulary.index(piece) for piece, _ in pieces if piece != "|"]
    starts = [start for piece, start in pieces if piece != "|"]
    return Encoding(np.asarray(ids, np.int32), np.zeros((len(ids), 2), np.int32), np.asarray(starts, bool))

  def save(self, directory):
    (Path(directory) / "words.json").write_text(json.dumps([self.vocabulary, self.vocab_size]))


def load_words(path):
  return Words(*json.loads((Path(path) / "words.json").read_text()))


def load_words_and_die(path):
  """Like `load_words`, of a tokenizer that kills its process at the fourth chunk of three documents."""
  words, calls = load_words(path), []
  encode_all = words.encode

  def encode_some(texts, specials=False):
    calls.append(texts)
    if len(calls) > 9:
      os.kill(os.getpid(), signal.SIGKILL)
    return encode_all(texts)

  words.encode = encode_some
  return words


VOCABULARY = ["a", "sentence", "of", "document", *map(str, range(40))]
N_DOCUMENTS = 18


def write_text(path):
  """Documents 0 to 17, one sentence a line; document n has 1 + n mod 4 sentences."""
  path.write_text("\n\n".join("\n".join(sentences(n)) for n in range(N_DOCUMENTS)))
  return path


def sentences(number):
  return [f"a sentence {index} of document {number}" for index in range(1 + number % 4)]


def ids_of(number):
  tokens = [[["a"], ["sentence", "##"], [str(index)], ["of"], ["document", "##"], [str(number)]] for index in range(40)]
  flat = [[piece for word in row for piece in word] for row in tokens]
  return [[1 if p == "##" else 2 + VOCABULARY.index(p) for p in row] for row in flat[: 1 + number % 4]]


def prepared(text, output, **settings):
  settings = {"holdout": 0.3, "chunk_chars": 120, "load": load_words, **settings}
  return prepare(f"lines:{text}", Words(VOCABULARY), output, **settings)


def content(folder):
  """{path: bytes} of everything that training reads."""
  files = [path for path in Path(folder).rglob("*") if path.is_file() and "documents" not in path.parts]
  files += Path(folder).glob("store-*/*/documents.npy")
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def written(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def jsonl(path, rows):
  return written(path, "\n".join(map(json.dumps, rows)))


def word_piece(*pieces):
  """An uncased WordPiece tokenizer with these pieces."""
  return wordpiece.WordPiece([*wordpiece.SPECIALS, *pieces], wordpiece.Settings(lowercase=True))


def read(spec, language="en", seed=0):
  """{id: sentences}, and the counts of what was left out."""
  source = open_source(str(spec), language, seed)
  return {document.id: document.text for document in source}, dict(source.skipped)
