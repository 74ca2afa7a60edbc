"""The token store: documents in memory maps, and what happens where they or the records are damaged."""

import dataclasses
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data import store
from data.store import Store, StoreError, open_store, unigram_counts
from tests.words import content, prepared, write_text

ROOT = Path(__file__).parents[1]
DOCS = [[[5, 6, 7], [8]], [[9, 10]]]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  return write_text(tmp_path_factory.mktemp("text") / "a.txt")


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
  """A corpus in its folder, prepared without interruption and without workers, and its card."""
  folder = tmp_path_factory.mktemp("corpus")
  return folder, prepared(text, folder)


def test_a_store_from_documents():
  made = Store.from_documents(DOCS, vocab_size=70_000)
  assert made.tokens.tolist() == [5, 6, 7, 8, 9, 10] and made.tokens.dtype == np.int32
  assert made.sentences.tolist() == [0, 3, 4, 6] and made.documents.tolist() == [0, 2, 3]
  assert (made.n_tokens, made.n_sentences, made.n_documents) == (6, 3, 2)
  assert made.word_starts.all()
  assert Store.from_documents(DOCS, vocab_size=65_535).tokens.dtype == np.uint16
  assert Store.from_documents(DOCS, vocab_size=65_536).tokens.dtype == np.int32


def test_the_fingerprint_of_documents_sees_every_part():
  starts = [[[True, True, False], [True]], [[True, True]]]
  made = [
    Store.from_documents(DOCS),
    Store.from_documents([[[5, 6], [7, 8]], [[9, 10]]]),
    Store.from_documents([[[5, 6, 7]], [[8], [9, 10]]]),
    Store.from_documents([[[5, 6, 7], [8]], [[9, 11]]]),
    Store.from_documents(DOCS, starts),
  ]
  assert len({one.fingerprint for one in made}) == 5
  assert Store.from_documents(DOCS, vocab_size=70_000).fingerprint == made[0].fingerprint  # not of the dtype


def test_digest_does_not_depend_on_blocks():
  parts = [np.arange(7), np.ones(7, bool), np.asarray([3, 1, 3]), np.asarray([2, 1])]
  whole, halves = store.Digest(), store.Digest()
  whole.add(*parts)
  halves.add(parts[0][:4], parts[1][:4], parts[2][:2], parts[3][:1])
  halves.add(parts[0][4:], parts[1][4:], parts[2][2:], parts[3][1:])
  assert whole.hexdigest() == halves.hexdigest()


@pytest.mark.parametrize("docs", [[], [[]], [[[1], []]]])
def test_empty_documents_are_refused(docs):
  with pytest.raises(StoreError, match="empty document or sentence"):
    Store.from_documents(docs)


def test_opening_a_decoded_store_imports_no_reader(corpus):
  code = (
    "import sys; from data.store import open_store; s = open_store(sys.argv[1], 'train'); "
    "assert s.tokens.sum() > 0; print(sorted({'tensorflow_datasets', 'array_record', 'jax'} & sys.modules.keys()))"
  )
  command = [sys.executable, "-c", code, str(corpus[0])]
  assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_memory_maps_are_read_only(corpus):
  with pytest.raises(ValueError, match="read-only"):
    open_store(corpus[0], "train").tokens[0] = 1


@pytest.fixture
def copy(corpus, tmp_path):
  shutil.copytree(corpus[0], tmp_path / "corpus")
  return tmp_path / "corpus"


def test_deleted_memory_maps_are_decoded_again(copy, corpus):
  shutil.rmtree(next(copy.glob("store-*")))
  for split in ("train", "validation"):
    open_store(copy, split)
  assert content(copy) == content(corpus[0])


def test_processes_may_race_for_the_first_opening(copy, corpus):
  shutil.rmtree(next(copy.glob("store-*")))
  with ThreadPoolExecutor(4) as threads:
    opened = list(threads.map(lambda _: open_store(copy, "train"), range(4)))
  assert {one.tokens.tobytes() for one in opened} == {opened[0].tokens.tobytes()}
  open_store(copy, "validation")
  assert content(copy) == content(corpus[0])  # and no half-made folder is left


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "replaced"])
@pytest.mark.parametrize("name", ["tokens", "word_starts", "sentences", "documents"])
def test_a_damaged_memory_map_is_named(copy, name, damage):
  path = next(copy.glob(f"store-*/train/{name}.npy"))
  whole = path.read_bytes()
  if damage == "missing":
    path.unlink()
  elif damage == "replaced":
    np.save(path, np.zeros(3, np.int64))
  else:
    path.write_bytes(whole[: {"truncated": len(whole) - 5, "empty": 0}[damage]])
  message = rf"store .*train/{name}.npy: .* delete .*train and it is decoded again"
  with pytest.raises(StoreError, match=message) as raised:
    open_store(copy, "train")
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_records_are_refused(copy, damage):
  shutil.rmtree(next(copy.glob("store-*")))
  path = next(copy.glob("documents/corpus/*/*train*"))
  data = bytearray(path.read_bytes())
  if damage == "flipped":
    for place in range(100, len(data), 97):
      data[place] ^= 16
    path.write_bytes(data)
  elif damage == "truncated":
    path.write_bytes(data[:-70_000])
  else:
    path.unlink()
  with pytest.raises(StoreError, match="split train: the records cannot be read .*: prepare the corpus again") as error:
    open_store(copy, "train")
  assert "\n" not in str(error.value)
  assert not list(copy.glob("store-*/*"))


def test_records_of_another_corpus_are_refused(copy, text, tmp_path):
  shutil.rmtree(next(copy.glob("store-*")))
  swapped = tmp_path / "a.txt"
  swapped.write_text(text.read_text().replace("a sentence", "of sentence"))
  prepared(swapped, tmp_path / "other")
  shutil.rmtree(copy / "documents")
  shutil.copytree(tmp_path / "other/documents", copy / "documents")
  with pytest.raises(StoreError, match="records do not have the digest in card.json"):
    open_store(copy, "train")


@pytest.mark.parametrize(
  ("card", "message"),
  [(None, "has no card.json"), ("{", "card.json is damaged"), ('{"format": 0}', "got format 0, want 1")],
)
def test_a_card_that_is_missing_or_damaged_is_named(copy, card, message):
  (copy / "card.json").unlink()
  if card is not None:
    (copy / "card.json").write_text(card)
  with pytest.raises(StoreError, match=message):
    open_store(copy, "train")


def test_unigram_counts_are_counted_once(copy):
  opened = open_store(copy, "train")
  want = np.asarray([(opened.tokens == i).sum() for i in range(120)])
  first = unigram_counts(opened, 120)
  assert first.dtype == np.int64 and first.tolist() == want.tolist()
  replaced = dataclasses.replace(opened, tokens=opened.tokens[:0])
  assert unigram_counts(replaced, 100).tolist() == want[:100].tolist()  # from the file beside the store
  assert unigram_counts(Store.from_documents(DOCS), 12).tolist() == [0] * 5 + [1] * 6 + [0]
  (opened.directory.parent / "train-unigrams.npy").write_bytes(b"x")
  with pytest.raises(StoreError, match="train-unigrams.npy: is damaged .*: delete it and it is counted again"):
    unigram_counts(opened, 120)
  with pytest.raises(StoreError, match="got token id 10, want ids below 10"):
    unigram_counts(Store.from_documents(DOCS), 10)
