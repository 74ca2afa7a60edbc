"""Preparation of a corpus and the token store, with a tokenizer of words so that every id can be told by hand."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data import chunks, preparation, store
from data.corpus import CorpusError, Training, main, prepare
from data.documents import Document, Skipped, encode
from data.store import Store, StoreError, open_store, unigram_counts
from data.tokenizers import Encoding

ROOT = Path(__file__).parents[1]


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


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  path = tmp_path_factory.mktemp("text") / "a.txt"
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


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
  """A corpus in its folder, prepared without interruption and without workers, and its card."""
  folder = tmp_path_factory.mktemp("corpus")
  return folder, prepared(text, folder)


def content(folder):
  """{path: bytes} of everything that training reads."""
  files = [path for path in Path(folder).rglob("*") if path.is_file() and "documents" not in path.parts]
  files += Path(folder).glob("store-*/*/documents.npy")
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# Documents


def test_sentences_without_tokens_are_left_out_and_word_starts_kept():
  document = Document("d", "T", ["a sentence", "|", "of"])
  found = encode(document, Words(VOCABULARY))
  assert (found.id, found.title) == ("d", "T")
  assert (found.ids.tolist(), found.word_starts.tolist()) == ([2, 3, 1, 4], [True, True, False, True])
  assert found.sentences.tolist() == [3, 1]
  assert [array.dtype for array in (found.ids, found.word_starts, found.sentences)] == [np.int32, bool, np.int32]


@pytest.mark.parametrize(("words", "reason"), [(["|", "| |"], "empty"), (["a", "of a"], "too short")])
def test_documents_without_enough_tokens_are_left_out(words, reason):
  with pytest.raises(Skipped, match=f"^{reason}$"):
    encode(Document("d", None, words), Words(VOCABULARY), min_tokens=4)


# Preparation and store


def test_the_store_holds_the_documents_in_order(corpus):
  folder, _ = corpus
  found = {}
  for split in ("train", "validation"):
    opened = open_store(folder, split)
    for first, last in zip(opened.documents[:-1], opened.documents[1:], strict=True):
      bounds = opened.sentences[first : last + 1]
      ids = [opened.tokens[start:end].tolist() for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
      number = ids[0][-1] - 2 - VOCABULARY.index("0")
      assert ids == ids_of(number)
      starts = opened.word_starts[bounds[0] : bounds[-1]]
      assert starts.tolist() == [True, True, False, True, True, True, False, True] * len(ids)
      found.setdefault(split, []).append(number)
  assert found["train"] == sorted(found["train"]) and found["validation"] == sorted(found["validation"])
  assert sorted(found["train"] + found["validation"]) == list(range(N_DOCUMENTS))  # disjoint, and all of them


def test_the_card_counts_what_the_store_holds(corpus, text):
  folder, card = corpus
  for split, counts in card["splits"].items():
    opened = open_store(folder, split)
    assert (opened.n_documents, opened.n_sentences, opened.n_tokens) == (
      counts["documents"],
      counts["sentences"],
      counts["tokens"],
    )
    assert counts["words"] == opened.word_starts.sum() == opened.n_sentences * 6
    assert opened.tokens.dtype == np.uint16
    assert opened.fingerprint == card["fingerprint"]
  assert sum(counts["sentences"] for counts in card["splits"].values()) == sum(1 + n % 4 for n in range(N_DOCUMENTS))
  assert card["skipped"] == {}
  assert card["tokenizer"] == {"kind": "words", "digest": Words(VOCABULARY).digest, "vocab_size": 100}
  assert card["settings"]["files"] == [
    {"name": "a.txt", "bytes": text.stat().st_size, "sha256": hashlib.sha256(text.read_bytes()).hexdigest()}
  ]
  assert {"numpy", "tensorflow-datasets", "array-record", "sentencex"} <= card["libraries"].keys()
  assert json.loads((folder / "card.json").read_text()) == card
  assert load_words(folder / "tokenizer").digest == card["tokenizer"]["digest"]
  assert not (folder / "work").exists()


def test_documents_are_readable_with_tfds_alone(corpus):
  import tensorflow_datasets as tfds

  folder, _ = corpus
  source = tfds.builder_from_directory(str(folder / "documents/corpus/1.0.0")).as_data_source("train")
  opened = open_store(folder, "train")
  assert np.concatenate([record["tokens"] for record in source]).tolist() == opened.tokens.tolist()
  assert [record["id"].decode().split(":")[0] for record in source] == ["a.txt"] * opened.n_documents


@pytest.mark.parametrize("holdout", [1e-9, 0.999999])
def test_either_split_has_a_document(text, tmp_path, holdout):
  card = prepared(text, tmp_path / "out", holdout=holdout)
  want = {1e-9: (N_DOCUMENTS - 1, 1), 0.999999: (1, N_DOCUMENTS - 1)}[holdout]
  assert tuple(card["splits"][split]["documents"] for split in ("train", "validation")) == want


def test_held_out_documents_follow_from_id_and_seed_alone(text, tmp_path, corpus):
  def held_out(folder):
    opened = open_store(folder, "validation")
    return set(opened.tokens[opened.sentences[1:] - 1].tolist())  # every sentence ends with its document's number

  half = tmp_path / "a.txt"  # other documents do not move one from split to split, at most the forced ones
  half.write_text("\n\n".join("\n".join(sentences(n)) for n in range(N_DOCUMENTS // 2)))
  prepared(half, tmp_path / "half")
  assert held_out(tmp_path / "half") < held_out(corpus[0])
  prepared(text, tmp_path / "seeded", seed=1)
  assert held_out(tmp_path / "seeded") != held_out(corpus[0])


def test_the_result_depends_neither_on_workers_nor_on_chunks(text, tmp_path, corpus):
  prepared(text, tmp_path / "out", workers=2, chunk_chars=250)
  assert content(tmp_path / "out") == content(corpus[0])


def test_after_an_interruption_finished_chunks_are_kept_and_the_result_is_the_same(text, tmp_path, corpus, monkeypatch):
  written, stop = [], 0
  for name in ("write_texts", "write_tokens"):
    original = getattr(chunks, name)

    def counting(path, *arguments, original=original):
      if len(written) == stop:
        raise KeyboardInterrupt
      written.append(path.name)
      original(path, *arguments)

    monkeypatch.setattr(chunks, name, counting)
  for place in (3, 9, 10):  # in the first pass, and twice in the second
    stop = place
    with pytest.raises(KeyboardInterrupt):
      prepared(text, tmp_path / "out")
  stop = None
  prepared(text, tmp_path / "out")
  assert len(written) == len(set(written)) == 2 * len([name for name in written if name.startswith("tokens")]) > 12
  assert content(tmp_path / "out") == content(corpus[0])


def test_after_sigkill_finished_chunks_are_kept_and_the_result_is_the_same(text, tmp_path, corpus):
  code = "import sys; from tests import test_corpus as t; t.prepared(*sys.argv[1:], load=t.load_words_and_die)"
  command = [sys.executable, "-c", code, str(text), str(tmp_path / "out")]
  assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
  done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/work").glob("t*-0*-*")}
  assert sorted({name.split("-")[0] for name in done}) == ["texts", "tokens"]
  seen = {}

  def watch(stage, documents):
    for path in (tmp_path / "out/work").glob("t*-0*-*"):
      seen[path.name] = path.stat().st_mtime_ns

  prepared(text, tmp_path / "out", report=watch)
  assert {name: seen[name] for name in done} == done
  assert len(seen) > len(done)
  assert content(tmp_path / "out") == content(corpus[0])


def test_a_finished_corpus_is_reused_and_other_settings_are_refused(corpus, text, tmp_path):
  folder = tmp_path / "copy"
  shutil.copytree(corpus[0], folder)
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
  assert prepared(text, folder, workers=1) == corpus[1]
  assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path != folder} == {
    path: time for path, time in before.items() if path != folder
  }
  with pytest.raises(CorpusError, match="other settings: language was \"en\", now \"ko\"; seed was 0, now 3: name"):
    prepared(text, folder, language="ko", seed=3)
  other = tmp_path / "a.txt"
  other.write_text("a of\n\nof a")
  with pytest.raises(CorpusError, match=r'other settings: input was .*; files was \[{"name": "a.txt"'):
    prepared(other, folder)
  with pytest.raises(CorpusError, match="tokenizer was .* now"):
    prepare(f"lines:{text}", Words(VOCABULARY, 101), folder, holdout=0.3)


def test_a_folder_of_other_things_is_not_touched(text, tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  with pytest.raises(CorpusError, match="is no empty folder and holds no corpus"):
    prepared(text, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_preparation_waits_for_the_first(text, tmp_path, corpus, monkeypatch):
  runs, inside = [], preparation._prepare
  monkeypatch.setattr(preparation, "_prepare", lambda *arguments: (runs.append(1), inside(*arguments))[1])
  with ThreadPoolExecutor(3) as threads:
    cards = list(threads.map(lambda _: prepared(text, tmp_path / "out"), range(3)))
  assert runs == [1] and cards == [corpus[1]] * 3
  assert content(tmp_path / "out") == content(corpus[0])


def test_a_tokenizer_is_trained_on_every_sentence_and_its_settings_are_held(text, tmp_path):
  seen = []

  def train(lines):
    seen.extend(lines)
    return Words(sorted({word for line in seen for word in line.split()}))

  card = prepare(f"lines:{text}", Training(train, {"size": 1}), tmp_path / "out", load=load_words)
  assert seen == [sentence for n in range(N_DOCUMENTS) for sentence in sentences(n)]
  assert load_words(tmp_path / "out/tokenizer").digest == card["tokenizer"]["digest"]
  assert card["settings"]["tokenizer"] == {"train": {"size": 1}}
  with pytest.raises(CorpusError, match="tokenizer was"):
    prepare(f"lines:{text}", Training(train, {"size": 2}), tmp_path / "out", load=load_words)


def test_what_is_left_out_is_counted_over_all_passes(tmp_path):
  path = tmp_path / "a.jsonl"
  rows = [{"text": "a of"}, {"text": "a sentence of a"}, {"text": "of a document"}, {"text": "|"}, {"text": " "}, {}]
  path.write_text("\n".join(map(json.dumps, rows)))
  settings = {"min_tokens": 3, "load": load_words}
  with pytest.raises(CorpusError, match=r"1 of 3 documents are damaged \(no text field: 1\), want at most a share of"):
    prepare(str(path), Words(VOCABULARY), tmp_path / "out", **settings)
  card = prepare(str(path), Words(VOCABULARY), tmp_path / "out", max_bad_share=0.4, **settings)
  assert card["skipped"] == {"empty": 2, "no text field": 1, "too short": 1}


@pytest.mark.parametrize(
  ("content", "settings", "message"),
  [
    ("| |\n\n|", {}, "no document is left, want at least 1"),
    ("a of", {}, "got 1 document, want at least 2 to hold one out: say --holdout=0"),
    ("a", {"holdout": 1.0}, "holdout: got 1.0, want a share of at least 0 and below 1"),
    ("a", {"min_tokens": 0}, "min_tokens: got 0, want at least 1"),
    ("a", {"workers": -1}, "workers: got -1, want at least 0"),
  ],
)
def test_a_corpus_that_cannot_be_prepared_says_why(tmp_path, content, settings, message):
  path = tmp_path / "a.txt"
  path.write_text(content)
  with pytest.raises(CorpusError, match=message):
    prepared(path, tmp_path / "out", **settings)


def test_without_a_held_out_split_there_is_none(text, tmp_path):
  card = prepared(text, tmp_path / "out", holdout=0)
  assert card["splits"].keys() == {"train"}
  with pytest.raises(StoreError, match="got split 'validation', want one of train$"):
    open_store(tmp_path / "out", "validation")


def test_the_fingerprint_follows_content_and_tokenizer(text, tmp_path, corpus):
  marked = tmp_path / "a.txt"
  marked.write_text(text.read_text().replace("document 5", "document 6", 1))
  first = prepared(marked, tmp_path / "text")
  second = prepare(f"lines:{text}", Words(VOCABULARY, 99), tmp_path / "words", holdout=0.3, load=load_words)
  assert len({card["fingerprint"] for card in (first, second, corpus[1])}) == 3


# Store


DOCS = [[[5, 6, 7], [8]], [[9, 10]]]


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
  with pytest.raises(StoreError, match=rf"store .*train/{name}.npy: .* delete .*train and it is decoded again") as error:
    open_store(copy, "train")
  assert "\n" not in str(error.value)


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


def test_a_chunk_keeps_ids_titles_and_counts(tmp_path):
  texts = {"documents": [["x", None, ["a b", "c"]], ["y", "T", ["|"]], ["z", "Z", ["c"]]], "skipped": {"empty": 2}}
  chunks.write_atomically(tmp_path / "t.json", json.dumps(texts).encode())
  Words(["a", "b", "c"]).save(tmp_path)
  chunks.write_tokens(tmp_path / "t.npz", tmp_path / "t.json", load_words, str(tmp_path), 1)
  found = [(d.id, d.title, d.ids.tolist(), d.sentences.tolist()) for d in chunks.read_tokens(tmp_path / "t.npz")]
  assert found == [("x", None, [2, 3, 4], [2, 1]), ("z", "Z", [4], [1])]
  assert chunks.read_names(tmp_path / "t.npz") == (["x", "z"], {"empty": 3})


# Command


def test_the_command_ends_with_one_json_line(tmp_path, capsys):
  text = tmp_path / "a.jsonl"
  text.write_text("\n".join(json.dumps({"text": f"The cat {n} sat. The dog ran."}) for n in range(30)))
  output = str(tmp_path / "out")
  arguments = [f"--input={text}", "--tokenizer=train", "--vocab_size=60", f"--output={output}", "--workers=0"]
  assert main(arguments) == 0
  printed = capsys.readouterr()
  summary = json.loads(printed.out)
  assert printed.out.count("\n") == 1 and printed.err == ""
  assert summary["splits"]["train"]["documents"] + summary["splits"]["validation"]["documents"] == 30
  assert summary["fingerprint"] == open_store(output, "train").fingerprint
  assert main([f"--input={text}", f"--tokenizer={output}/tokenizer", f"--output={tmp_path}/again", "--workers=0"]) == 0
  assert json.loads(capsys.readouterr().out)["fingerprint"] == summary["fingerprint"]


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"input": "nowhere.txt"}, "corpus nowhere.txt: no such file"),
    ({"tokenizer": "nowhere"}, "nowhere"),
    ({"language": "English"}, "language: got 'English'"),
    ({"holdout": "2"}, "holdout: got 2.0"),
    ({"workers": "many"}, "argument --workers: invalid int value: 'many'"),
    ({"vocab_size": "9", "tokenizer": "some"}, "want --tokenizer=train"),
    ({"inputs": "x"}, "unrecognized arguments: --inputs=x"),
  ],
)
def test_wrong_input_ends_with_one_line_and_status_2(text, tmp_path, changed, message, capsys):
  arguments = {"input": str(text), "tokenizer": "train", "output": str(tmp_path / "out"), **changed}
  try:
    status = main([f"--{name}={value}" for name, value in arguments.items()])
  except SystemExit as end:
    status = end.code
  printed = capsys.readouterr()
  assert (status, printed.out, printed.err.count("\n")) == (2, "", 1)
  assert message in printed.err
