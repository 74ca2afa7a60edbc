"""Tasks out of TFDS: its own builders make data sets of official files, which must give the examples of those files."""

import dataclasses
import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from data.tasks import registry, tfds_source
from data.tasks.rows import TaskError
from tests.test_task_data import read as run_data

LETTERS = "abcdefghijkl"
COUNT = len(LETTERS)  # examples of a training file
NAMES = {task: name for task, (name, _) in tfds_source.SETS.items()}
FOLDERS = {"cola": "CoLA", "sst2": "SST-2", "qqp": "QQP", "stsb": "STS-B", "mnli": "MNLI", "qnli": "QNLI", "rte": "RTE",
           "wnli": "WNLI", "snli": "snli_1.0", "mrpc": "MRPC"}  # fmt: skip


def table(path, names, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join("\t".join(map(str, row)) + "\n" for row in ([names] if names else []) + [*rows]))


def text_files(folder, task):
  """Official files, with and without labels; the words of each example are its own."""
  reader = registry.find(task).read
  written = ["0.0", "3.800", "2.333", "5.00"] if reader.classes is None else list(reader.classes)
  for file, split in tfds_source.SETS[task][1].splits.items():
    size, blind = (COUNT if split == "train" else 4), split.startswith("test") and task != "snli"
    own = [
      (i, written[i % len(written)], *(f"é {split[:1]} {LETTERS[i]} {column} " for column in reader.texts))
      for i in range(size)
    ]
    if task == "cola" and not blind:
      table(folder / file, (), (("x", label, "", text) for _, label, text in own))
    elif blind:
      table(folder / file, ("index", *reader.texts), ((i, *texts) for i, _, *texts in own))
    else:
      table(folder / file, ("index", reader.label, *reader.texts), own)
  if task == "snli":
    rows = [("-", "a", "b"), ("neutral", "c", "d")]
    table(folder / "snli_1.0_train.txt", ("gold_label", "sentence1", "sentence2"), rows)
  if task == "qqp":
    (folder / "train.tsv").open("a").write("99\t1\tno second question\n")


def question_files(folder):
  for version in ("1.1", "2.0"):
    for split in ("train", "dev"):
      answers = [{"text": text, "answer_start": start} for text, start in (("b c", 2), ("b", 2), ("d", 6))]
      whole = [{"id": f"{split}{n}", "question": f"é {n} ?", "answers": answers[n - 1 :: 2]} for n in (1, 2)]
      if version == "2.0":
        whole = [one | {"is_impossible": False} for one in whole]
        whole.append({"id": f"{split}3", "question": "f ?", "answers": [], "is_impossible": True,
                      "plausible_answers": [{"text": "a", "answer_start": 0}]})  # fmt: skip
      article = {"title": "An_%C3%89_x", "paragraphs": [{"context": "a b c d e", "qas": whole}]}
      (folder / f"{split}-v{version}.json").write_text(json.dumps({"version": version, "data": [article]}))


def column_files(folder):
  for name, words in (("train", "abcd"), ("valid", "efgh"), ("test", "ijkl")):
    tags = ("B-PER", "I-PER", "B-PER", "O")
    first = [f"{word} NN I-NP {tag}" for word, tag in zip(words, tags)]
    lines = [*first, "", "é NN I-NP B-ORG", "", *reversed([line.replace("I-PER", "B-LOC") for line in first]), ""]
    (folder / f"{name}.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("official")
  for task, name in FOLDERS.items():
    text_files(folder / name, task)
  question_files(folder)
  column_files(folder)
  names = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
  rows = [(i % 2, i, i + 50, f"m {LETTERS[i]}", "n é") for i in range(COUNT)]
  table(folder / "MRPC/whole.tsv", names, rows)
  whole = folder / "MRPC/whole.tsv"
  whole.write_bytes(b"\xef\xbb\xbf" + whole.read_bytes())
  table(folder / "MRPC/dev_ids.tsv", (), [(i, i + 50) for i in (2, 7)])
  for split, inside in (("train", lambda i: i not in (2, 7)), ("dev", lambda i: i in (2, 7))):
    table(folder / f"MRPC/{split}.tsv", names, [row for i, row in enumerate(rows) if inside(i)])
  return folder


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory):
  """A TFDS folder that TFDS's own builders fill with all data sets, from `files` instead of the network."""
  folder = tmp_path_factory.mktemp("tfds")

  def fetched(manager, addresses):
    if isinstance(addresses, str):
      return epath.Path(files)
    if "dev_ids" in addresses:
      return {"dev_ids": files / "MRPC/dev_ids.tsv", "train": files / "MRPC/whole.tsv", "test": files / "MRPC/test.tsv"}
    return {key: files / Path(address).name for key, address in addresses.items()}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tfds.download.DownloadManager, "download", fetched)
    patch.setattr(tfds.download.DownloadManager, "download_and_extract", fetched)
    tfds.text  # noqa: B018  registers the text data sets, which are looked up lazily
    for name in NAMES.values():
      tfds.builder(name, data_dir=str(folder), file_format="array_record").download_and_prepare()
    patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
    yield folder


def official(files, task, file):
  """What the task's reader makes of an official file."""
  renamed = {"eng.train": "train.txt", "eng.testa": "valid.txt", "eng.testb": "test.txt"}
  of = registry.find(task)
  path = files / FOLDERS.get(task, "") / renamed.get(file, file)
  return of.read_split(path, "train" if file == of.files["train"] else "test")


def content(examples, *without):
  left_out = [{"where": ""} | {name: "" for name in without}] * len(examples)
  return [dataclasses.replace(example, **changes) for example, changes in zip(examples, left_out)]


@pytest.mark.parametrize("task, file", [(task, file) for task in FOLDERS for file in tfds_source.SETS[task][1].splits])
def test_texts_are_those_of_the_official_file_in_its_order(files, prepared, task, file):
  found = registry.find(task).read(registry.find(task).file(f"tfds:{NAMES[task]}", file))
  wanted = official(files, task, file)
  if file == "snli_1.0_train.txt":
    assert len(wanted) == 1  # of two, one without an agreed label
  if task == "snli":  # shuffled, and without names of their own
    by_text = lambda example: example.texts
    found, wanted = sorted(found, key=by_text), sorted(wanted, key=by_text)
  unnamed = ("name",) * (task in ("mrpc", "snli"))
  assert content(found, *unnamed) == content(wanted, *unnamed)


@pytest.mark.parametrize("task", ["squad", "squad2"])
@pytest.mark.parametrize("split", ["train", "dev"])
def test_questions_are_those_of_the_official_file(files, prepared, task, split):
  of = registry.find(task)
  found, wanted = of.examples(f"tfds:{NAMES[task]}", split), official(files, task, of.files[split])
  by_name = lambda example: example.name
  assert content(sorted(found, key=by_name)) == content(sorted(wanted, key=by_name))
  assert [e.impossible for e in wanted] == [False, False, True][: len(wanted)] and wanted[0].title == "An É x"


@pytest.mark.parametrize("file", ["eng.train", "eng.testa", "eng.testb"])
def test_sentences_of_conll_are_documents(files, prepared, file):
  task = registry.find("conll2003")
  found, wanted = task.read(task.file("tfds:conll2003", file)), official(files, "conll2003", file)
  by_words = lambda document: document.words
  assert content(sorted(found, key=by_words)) == content(sorted(wanted, key=by_words))
  assert len(found) == 3 and {kind for document in found for *_, kind in document.spans} == {"PER", "ORG", "LOC"}


def test_an_example_says_where_it_is(prepared):
  of = registry.find("sst2")
  assert of.examples("tfds:glue/sst2", "train")[7].where == "tfds:glue/sst2 train, example 7"
  folder = prepared / "glue/sst2/2.0.0"
  assert of.examples(f"tfds:{folder}", "dev")[1].where == f"tfds:{folder} validation, example 1"
  words = registry.find("conll2003").examples("tfds:conll2003:1.0.0", "dev")
  assert sorted(e.where for e in words) == [f"tfds:conll2003:1.0.0 dev, example {i}" for i in range(3)]
  questions = registry.find("squad").examples("tfds:squad/v1.1", "dev")
  assert {e.where for e in questions} <= {
    f"tfds:squad/v1.1 validation, article {i}, question dev{n}" for i in (0, 1) for n in (1, 2)
  }


# A run's data


def same_rows(found, wanted):
  plain = lambda row: {name: np.asarray(value).tolist() for name, value in vars(row).items()}
  return [plain(row) for row in found] == [plain(row) for row in wanted]


@pytest.mark.parametrize("task", ["mnli", "stsb", "qnli"])
def test_a_run_has_the_same_rows_as_with_official_files(files, prepared, monkeypatch, task):
  """All splits, without the network and without TensorFlow."""
  monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
  found, wanted = run_data(f"tfds:{NAMES[task]}", task), run_data(files / FOLDERS[task], task)
  assert "tensorflow" not in sys.modules
  assert found.labels == wanted.labels and found.test is wanted.test is None
  assert same_rows(found.train, wanted.train) and len(found.train) == COUNT
  assert same_rows(found.dev.rows, wanted.dev.rows)
  for part in ("further", "blind"):
    ours, theirs = getattr(found, part), getattr(wanted, part)
    assert list(ours) == list(theirs)
    for name in theirs:
      assert same_rows(ours[name].rows, theirs[name].rows)
      assert [e.name for e in ours[name].examples] == [e.name for e in theirs[name].examples]
  assert (list(found.further), list(found.blind)) == (
    (["mismatched"], ["MNLI-m", "MNLI-mm"]) if task == "mnli" else ([], [list(found.task.blind)[0]])
  )
  assert found.fingerprint != wanted.fingerprint


def test_the_official_test_split_may_be_named_and_a_slice_of_it_is_none(prepared):
  data = run_data("tfds:glue/mnli", "mnli", test="test_matched")
  assert (data.test, list(data.blind)) == (None, ["MNLI-mm", "MNLI-m"])
  data = run_data("tfds:glue/mnli", "mnli", test="test_matched[:2]")
  assert list(data.blind) == ["MNLI-m", "MNLI-mm", "test"] and len(data.blind["test"].rows) == 2


def test_slices_are_named_like_files(prepared):
  data = run_data("tfds:glue/sst2", "sst2", train="train[:75%]", dev="train[75%:]", predictions=False)
  assert (len(data.train), len(data.dev.rows)) == (9, 3)
  whole = run_data("tfds:glue/sst2", "sst2")
  names = {e.where.rpartition(" ")[2] for e in whole.task.examples("tfds:glue/sst2", "train")}
  sliced = [whole.task.read(whole.task.file("tfds:glue/sst2", part)) for part in ("train[:75%]", "train[75%:]")]
  assert {e.where.rpartition(" ")[2] for part in sliced for e in part} == names and len(names) == COUNT
  assert data.fingerprint != whole.fingerprint


def test_test_files_with_labels_are_scored(prepared):
  data = run_data("tfds:snli", "snli", train="validation")
  assert (len(data.train), len(data.test.rows)) == (4, 4)


def test_the_fingerprint_is_of_name_version_split_and_records(prepared, tmp_path):
  of = lambda folder, split="train": registry.find("rte").file(f"tfds:{folder}", split).digest
  own, copy = prepared / "glue/rte/2.0.0", tmp_path / "glue/rte/2.0.0"
  shutil.copytree(own, copy)
  assert of("glue/rte") == of(own) == of(copy)
  assert len({of(own), of(own, "validation"), of(own, "train[:50%]")}) == 3
  newer = changed(prepared, tmp_path, "glue/rte", "dataset_info.json", "2.0.0", "2.0.1")
  assert of(newer.removeprefix("tfds:")) != of(own)
  (record,) = copy.glob("*train*")
  record.write_bytes(record.read_bytes() + b"\0")
  assert of(copy) != of(own)


# What cannot be used


def changed(prepared, tmp_path, name, file, old, new):
  """The folder of a copy of a data set, one of whose files has other text."""
  (folder,) = (prepared / name).glob("*.*.*")
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  text = (copy / file).read_text()
  assert old in text
  (copy / file).write_text(text.replace(old, new))
  return f"tfds:{copy}"


@pytest.mark.parametrize(
  "task, spec, split, line",
  [
    ("race", "tfds:race", "train", "task race: got task.dir=tfds:race, want a folder; of TFDS there are cola, sst2"),
    ("sst2", "tfds:glue/cola", "train.tsv", "got task.dir=tfds:glue/cola, want tfds:glue/sst2, tfds:glue/sst2:VERSION"),
    ("sst2", "tfds:/nowhere/glue/sst2", "train.tsv", "or tfds:FOLDER with the folder of a version of that data set"),
    ("sst2", "tfds:glue/sst2:1.0.0", "train.tsv", "task sst2: tfds:glue/sst2:1.0.0: is not prepared below {tfds}; set "
     'TFDS_DATA_DIR to where it is, or prepare it: python -c "import tensorflow_datasets as tfds; tfds.text; '
     "tfds.builder('glue/sst2', file_format='array_record').download_and_prepare()\""),
    ("sst2", "tfds:{tfds}/glue/cola/2.0.0", "train.tsv", "glue/cola/2.0.0: holds glue/cola, want glue/sst2"),
    ("sst2", "tfds:glue/sst2", "dev", "got split 'dev', want one of train, validation, test or a slice as train[:10%]"),
    ("sst2", "tfds:glue/sst2", "train[:x%]", "got split 'train[:x%]', want one of train, validation, test"),
  ],
)  # fmt: skip
def test_what_is_not_there_is_one_line(prepared, task, spec, split, line):
  with pytest.raises(TaskError) as caught:
    registry.find(task).file(spec.format(tfds=prepared), split)
  assert line.format(tfds=prepared) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "file, old, new, line",
  [
    ("dataset_info.json", "array_record", "tfrecord", "got tfrecord records, want array_record; prepare it below"),
    ("features.json", '"sentence2"', '"other"', "got the features idx, label, other, sentence1, want sentence2 too"),
    ("dataset_info.json", "{", "[", "cannot be opened ("),
    ("label.labels.txt", "entailment\nnot", "yes\nnot", "example 0: got label 'yes', want one of ['entailment'"),
  ],
)
def test_a_data_set_that_cannot_be_used_is_one_line(prepared, tmp_path, file, old, new, line):
  spec = changed(prepared, tmp_path, "glue/rte", file, old, new)
  with pytest.raises(TaskError) as caught:
    registry.find("rte").examples(spec, "train")
  assert line in str(caught.value) and spec in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_records_are_one_line(prepared, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(prepared / "glue/rte/2.0.0", copy)
  (record,) = copy.glob("*train*")
  record.write_bytes(record.read_bytes()[:-100])
  with pytest.raises(TaskError, match=r"copy train: cannot be read \(.*\); prepare the data set again") as caught:
    registry.find("rte").examples(f"tfds:{copy}", "train")
  assert "\n" not in str(caught.value)


def test_a_split_that_the_data_set_lacks_is_no_file(prepared, tmp_path):
  spec = changed(prepared, tmp_path, "glue/rte", "dataset_info.json", '"validation"', '"other"')
  with pytest.raises(TaskError, match=r"copy validation: no such file, want the official one, or name it"):
    run_data(spec, "rte")
