"""Preparation of a corpus: what it holds, what it counts, and that it survives interruptions."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data import chunks, preparation, records, stamps
from data.corpus import CorpusError, Training, main, prepare
from data.documents import Document, Skipped, encode
from data.store import StoreError, open_store
from tests.words import N_DOCUMENTS, VOCABULARY, Words, content, ids_of, load_words, prepared, sentences, write_text

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  return write_text(tmp_path_factory.mktemp("text") / "a.txt")


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
  """A corpus in its folder, prepared without interruption and without workers, and its card."""
  folder = tmp_path_factory.mktemp("corpus")
  return folder, prepared(text, folder)


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


def test_records_of_any_size_are_written_as_they_come(text, tmp_path, monkeypatch):
  """TFDS's builders collect a split, and one of over 1 GB needs TensorFlow there."""
  from tensorflow_datasets.core import shuffle

  monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)
  assert prepared(text, tmp_path / "out")["splits"]["train"]["documents"] > 9


def test_documents_keep_their_order_over_many_files(text, tmp_path, monkeypatch):
  whole = open_store(tmp_path / "one", "train") if prepared(text, tmp_path / "one") else None
  monkeypatch.setattr(records, "_SHARD", 3)
  prepared(text, tmp_path / "many")
  many = open_store(tmp_path / "many", "train")
  assert len([*(tmp_path / "many").rglob("*train.array_record*")]) > 2
  assert many.fingerprint == whole.fingerprint
  np.testing.assert_array_equal(many.tokens, whole.tokens)


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
  code = "import sys; from tests import words as w; w.prepared(*sys.argv[1:], load=w.load_words_and_die)"
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
  with pytest.raises(CorpusError, match='other settings: language was "en", now "ko"; seed was 0, now 3: name'):
    prepared(text, folder, language="ko", seed=3)
  other = tmp_path / "a.txt"
  other.write_text("a of\n\nof a")
  with pytest.raises(CorpusError, match=r'other settings: input was .*; files was \[{"name": "a.txt"'):
    prepared(other, folder)
  with pytest.raises(CorpusError, match="tokenizer was .* now"):
    prepare(f"lines:{text}", Words(VOCABULARY, 101), folder, holdout=0.3)


def test_a_corpus_is_reused_with_the_tokenizer_that_it_learned(text, tmp_path):
  """Handed back by a run that starts from a model of the same corpus."""
  words = lambda sentences: Words(dict.fromkeys(word for sentence in sentences for word in sentence.split()))
  learn = Training(words, {"by": "order"})
  card = prepare(f"lines:{text}", learn, tmp_path, holdout=0.3, load=load_words)
  own = load_words(tmp_path / "tokenizer")
  assert own.digest != Words(VOCABULARY).digest
  assert prepare(f"lines:{text}", own, tmp_path, holdout=0.3, load=load_words) == card
  with pytest.raises(CorpusError, match='other settings: tokenizer was {"train": {"by": "order"}}, now {"digest"'):
    prepare(f"lines:{text}", Words(VOCABULARY), tmp_path, holdout=0.3, load=load_words)


def test_a_finished_corpus_does_not_read_its_source_again(corpus, text, tmp_path, monkeypatch):
  folder = tmp_path / "copy"
  shutil.copytree(corpus[0], folder)
  monkeypatch.setattr(stamps, "_described", lambda path: pytest.fail(f"{path} was read"))
  assert prepared(text, folder) == corpus[1]


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
