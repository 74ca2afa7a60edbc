"""Annotated corpora: their stores and cards, what stays as it was without annotations, and masks of whole entities."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import chunks, draws
from data.corpus import prepare
from data.documents import encode
from data.examples import Options, build_table
from data.loader import Pipeline, Settings
from data.masking import MaskError, Masking
from data.sources import open_source
from data.store import Store, StoreError, open_store
from tests.words import Words, content, jsonl, load_words, word_piece

PLAIN = [
  {"text": "a sentence of document one.\r\na sentence of two. a of three.", "id": "x"},
  {"text": ["a  sentence", "of three.", ""], "title": "T"},
  {"text": "of document\0 two."},
]
SPLITS = {  # as prepared before there were annotations
  "train": ("ceb5435b8ee518935586e6f95c231cfc9b3604f06f89b0da841cfeda42afc54c", 2, 5, 22, 16),
  "validation": ("ab3aa8f440152d6645fe43ad23052c840bc1094ffea50ed6fc13cf4efc6fe808", 1, 1, 4, 3),
}


@pytest.mark.parametrize("nothing", [{}, {"entities": [], "noun_phrases": None}, {"entities": [[2, 3], [11, 12]]}])
def test_a_corpus_without_annotations_is_what_it_was(tmp_path, nothing):
  path = jsonl(tmp_path / "a.jsonl", [*PLAIN[:2], PLAIN[2] | nothing])  # 2 and 11 are a space and the NUL
  words = Words(["a", "sentence", "of", "document", "one.", "two.", "three."])
  card = prepare(str(path), words, tmp_path / "out", holdout=0.4, load=load_words)
  names = ("documents", "sentences", "tokens", "words")
  assert card["splits"] == {
    split: {**dict(zip(names, counts, strict=True)), "digest": digest} for split, (digest, *counts) in SPLITS.items()
  }
  assert card["fingerprint"] == "8cd61aabe151c840b6db6baaa9ae4a235b43b1dbebc3c88e8d027892a2b78aba"
  stores = {f"store-8cd61aabe151c840/{split}/{name}.npy" for split in SPLITS for name in ("tokens", "word_starts")}
  stores |= {f"store-8cd61aabe151c840/{split}/{name}.npy" for split in SPLITS for name in ("sentences", "documents")}
  assert content(tmp_path / "out").keys() == stores | {"card.json", "tokenizer/words.json"}
  features = json.loads((tmp_path / "out/documents/corpus/1.0.0/features.json").read_text())
  fields = features["featuresDict"]["features"]
  assert fields.keys() == {"id", "title", "tokens", "word_starts", "sentences"}
  assert open_store(tmp_path / "out", "train").annotations is None


# Prepared corpora

NAMES = ["wil", "##fried", "sch", "##neider", "new", "york"]
WORDS = ["the", "old", "man", "met", "left", "and", "saw", "in", "of", "it"]
PEOPLE = ["Wilfried", "Schneider", "New York"]  # two tokens each


def sentence(draw, per_name):
  """A sentence with `per_name` words before each of three names, and the spans of these."""
  text, found = "", []
  for name in draw.sample(PEOPLE, 3):
    text += " ".join(draw.choices(WORDS, k=per_name)) + " "
    found.append([len(text), len(text) + len(name)])
    text += name + " "
  return text, found


def rows_of(count, per_name=3):
  """Documents of three sentences with entities; every third one without, and no phrase in the second half."""
  draw, rows = random.Random(7), []
  for number in range(count):
    texts, entities, at = [], [], 0
    for _ in range(3):
      text, found = sentence(draw, per_name)
      entities += [[first + at, end + at] for first, end in found]
      texts.append(text)
      at += len(text) + 1
    row = {"text": texts, "id": f"d{number}"}
    if number % 3:
      row["entities"] = entities
    if number % 3 and number < count // 2:
      row["noun_phrases"] = [[0, len(texts[0])]]
    rows.append(row)
  return rows


@pytest.fixture(scope="module")
def pieces():
  return word_piece(*NAMES, *WORDS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, pieces):
  """A JSONL file, the folder of its corpus and the card."""
  folder = tmp_path_factory.mktemp("corpus")
  path = jsonl(folder / "a.jsonl", rows_of(60))
  return path, folder / "out", prepare(str(path), pieces, folder / "out", holdout=0.3, chunk_chars=700)


def test_the_store_holds_the_flags_of_every_document(corpus, pieces):
  path, folder, card = corpus
  want = {split: [] for split in card["splits"]}
  for document in open_source(str(path)):
    held = draws.uniform(np.uint64(draws.key(0, "holdout", document.id)), 0) < 0.3
    want["validation" if held else "train"].append(encode(document, pieces).flags)
  for split, flags in want.items():
    opened, counts = open_store(folder, split), card["splits"][split]
    assert opened.annotations.dtype == np.uint8
    assert opened.annotations.tolist() == np.concatenate(flags).tolist()
    assert counts["entities"] == sum((each & 1 > 0).sum() for each in flags) == 9 * sum(map(np.any, flags))
    assert counts["noun_phrases"] == sum((each & 4 > 0).sum() for each in flags) > 0
  assert sum(counts["entities"] for counts in card["splits"].values()) == 40 * 9
  assert sum(counts["noun_phrases"] for counts in card["splits"].values()) == 20


def test_records_are_readable_with_tfds_alone(corpus):
  import tensorflow_datasets as tfds

  _, folder, _ = corpus
  source = tfds.builder_from_directory(str(folder / "documents/corpus/1.0.0")).as_data_source("validation")
  flags = np.concatenate([record["annotations"] for record in source])
  assert flags.dtype == np.uint8 and flags.tolist() == open_store(folder, "validation").annotations.tolist()


def test_the_result_depends_neither_on_workers_nor_on_chunks_nor_on_interruptions(
  corpus, pieces, tmp_path, monkeypatch
):
  path, folder, card = corpus
  done, original = [], chunks.write_tokens

  def interrupted(target, *arguments):
    if len(done) == 4:
      raise KeyboardInterrupt
    original(target, *arguments)
    done.append(target)

  with monkeypatch.context() as patched:
    patched.setattr(chunks, "write_tokens", interrupted)
    with pytest.raises(KeyboardInterrupt):
      prepare(str(path), pieces, tmp_path / "out", holdout=0.3, chunk_chars=100)
  assert all(map(Path.exists, done))
  again = prepare(str(path), pieces, tmp_path / "out", holdout=0.3, chunk_chars=100, workers=1)
  assert again == card
  assert content(tmp_path / "out") == content(folder)
  assert prepare(str(path), pieces, tmp_path / "out", holdout=0.3) == card  # found again


def test_a_split_without_annotations_of_an_annotated_corpus_has_zeros(tmp_path, pieces):
  rows = rows_of(6)
  for number in (0, 1, 3, 4, 5):
    rows[number] = {"text": rows[number]["text"], "id": rows[number]["id"]}
  card = prepare(str(jsonl(tmp_path / "a.jsonl", rows)), pieces, tmp_path / "out", holdout=1e-9)
  counts = [card["splits"][split]["entities"] for split in ("train", "validation")]
  assert sorted(counts) == [0, 9]
  for split, count in zip(("train", "validation"), counts, strict=True):
    opened = open_store(tmp_path / "out", split)
    assert len(opened.annotations) == opened.n_tokens and (opened.annotations & 1).sum() == count


def test_the_fingerprint_follows_the_annotations(tmp_path, corpus, pieces):
  rows = rows_of(60)
  cards = [corpus[2]]
  rows[1]["entities"][0][1] -= 3  # still every token, so nothing has changed
  cards.append(prepare(str(jsonl(tmp_path / "a.jsonl", rows)), pieces, tmp_path / "a", holdout=0.3))
  rows[1]["entities"] = rows[1]["entities"][1:]
  cards.append(prepare(str(jsonl(tmp_path / "a.jsonl", rows)), pieces, tmp_path / "b", holdout=0.3))
  one, same, other = (card["fingerprint"] for card in cards)
  assert one == same != other
  docs = [[[5, 6, 7], [8]]]
  made = [Store.from_documents(docs, annotations=flags) for flags in (None, [[[1, 2, 0], [4]]], [[[1, 2, 0], [0]]])]
  assert len({store.fingerprint for store in made}) == 3


def test_damaged_annotations_are_named(corpus, tmp_path):
  shutil.copytree(corpus[1], tmp_path / "out")
  path = next(tmp_path.glob("out/store-*/train/annotations.npy"))
  np.save(path, np.load(path).astype(np.int64))
  with pytest.raises(StoreError, match=r"annotations.npy: got int64\[\d+\], want uint8\[\d+\]: delete .*train and"):
    open_store(tmp_path / "out", "train")
  path.unlink()
  with pytest.raises(StoreError, match=r"train/annotations.npy: is missing or damaged"):
    open_store(tmp_path / "out", "train")
  shutil.rmtree(path.parent)
  assert open_store(tmp_path / "out", "train").annotations.any()


def test_a_mixture_keeps_annotations(tmp_path):
  path = jsonl(tmp_path / "a.jsonl", [{"text": "a b", "entities": [[0, 1]]}])
  assert [document.annotations for document in open_source(f"1*{path}+1*{path}")] == [{"entities": [[0, 1]]}] * 2


# Masks


def test_entity_masks_of_a_prepared_corpus_are_whole_entities(tmp_path, pieces):
  rows = [row for row in rows_of(90) if "entities" in row]
  prepare(str(jsonl(tmp_path / "a.jsonl", rows)), pieces, tmp_path / "out", holdout=0.1)
  store = open_store(tmp_path / "out", "train")
  # A document has 45 tokens in a row of 47: ceil(0.2 * 45) = 9, cut to 8 = four entities of two tokens.
  table = build_table(store, Options("doc_sentences", 47, separators="document"), 0, 0)
  options = Masking("entity", 0.2, 8, budget="ceil", replace_by="span", max_offset=15, entity_share=1 - 1e-12)
  pipeline = Pipeline([table], store, Settings(6, pieces.special, pieces.vocab_size, options), 0)
  names = {tuple(pieces.id_of(piece) for piece in NAMES[at : at + 2]) for at in (0, 2, 4)}
  met = Counter()
  for cursor in range(3 * pipeline.epoch_size(0)):
    batch = pipeline.batch(cursor)
    assert batch.tokens.ids.shape == (6, 47) and (batch.weights == 1).all()
    columns = batch.positions.reshape(6, 4, 2)
    assert (columns[..., 1] == columns[..., 0] + 1).all()
    met.update(map(tuple, batch.labels.reshape(-1, 2).tolist()))
  assert met.keys() == names and min(met.values()) > 100
  spread = np.asarray(list(met.values())) / sum(met.values())
  assert (abs(spread - 1 / 3) < 0.05).all()


def test_without_annotations_entity_masking_is_refused(tmp_path, pieces):
  rows = [{"text": row["text"], "id": row["id"]} for row in rows_of(6)]
  prepare(str(jsonl(tmp_path / "a.jsonl", rows)), pieces, tmp_path / "out", holdout=0)
  store = open_store(tmp_path / "out", "train")
  table = build_table(store, Options("doc_sentences", 47), 0, 0)
  with pytest.raises(MaskError, match="got 'entity' and a store without annotations"):
    Pipeline([table], store, Settings(2, pieces.special, pieces.vocab_size, Masking("entity")), 0)
