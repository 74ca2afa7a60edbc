"""A run's examples: which files are read, and their errors. Real files of the tasks, where they are at hand."""

import dataclasses
import functools
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from data import tokenizers
from data.tasks import named_entities, pieces, questions, registry, tags
from data.tasks.metrics import normalised
from data.tasks.rows import TaskError
from tests.task_rows import LETTERS
from tests.test_task_file_damage import FILES
from trainer.finetuning.data import task_data

DATA = Path(__file__).parent.parent / "../shared/data"
SEMEVAL, DOCRED, WNUT = DATA / "relation/semeval2010_task8", DATA / "relation/re-docred", DATA / "ner/wnut17"


def examples(name, folder, split):
  task = registry.find(name)
  if not (folder / task.files[split]).is_file():
    pytest.skip(f"../shared/data has no {folder.name}")
  return task.examples(folder, split)


@functools.cache
def tokenizer():
  if not (DATA / "tokenizers").is_dir():
    pytest.skip("../shared/data/tokenizers is not here")
  return tokenizers.load(DATA / "tokenizers").with_added(("<ent>", "<ent2>"))


def mentions_are_their_texts(rows, spans, first):
  """Each mention without its markers, decoded, is its text; rows in which it was cut are left out."""
  of, checked = tokenizer(), 0
  for row in rows[first::23]:
    for mention, text in zip(row.mentions, spans(row.example), strict=True):
      if len(mention) < 30:
        assert " ".join(of.decode(row.ids[mention[1:-1]]).split()) == " ".join(text.split())
        checked += 1
  return checked


def test_semeval():
  task = registry.find("semeval")
  train, test = (examples("semeval", SEMEVAL, split) for split in ("train", "test"))
  assert (len(train), len(test)) == (8000, 2717)
  labels = task.label_list(train)
  assert len(labels) == 19 and labels[0] == "Other" and task.label_list(test)[0] == "Other"
  assert set(task.label_list(test)) <= set(labels)
  rows = task.rows(test, tokenizer(), labels)
  texts = lambda i: [test[i].text[slice(*span)] for span in (test[i].head, test[i].tail)]
  assert mentions_are_their_texts(rows, texts, 0) > 200
  assert max(len(row) for row in rows) < 512 and len(rows) == 2717
  assert [labels[row.labels[0]] for row in rows] == [example.relation for example in test]
  assert task.figures(test, [example.relation for example in test])["f1"] == 1
  swapped = [example.relation.translate(str.maketrans("12", "21")) for example in test]
  assert task.figures(test, swapped)["f1"] == 0  # the right relation in the wrong direction


def test_wnut():
  """Counts of the data set's own description; its tags keep IOB2."""
  task, counts = registry.find("wnut17"), []
  splits = {split: examples("wnut17", WNUT, split) for split in task.files}
  for split, found in splits.items():
    counts.append((len(found), sum(len(document.spans) for document in found)))
    lines = named_entities._sentences(WNUT / task.files[split])[0]
    assert tags.scheme_of([[tag for _, _, tag in sentence] for sentence in lines]) == "iob2"
  assert counts == [(3394, 1975), (1009, 836), (1287, 1079)]
  labels = task.label_list(splits["train"])
  assert labels == ("NIL", "corporation", "creative-work", "group", "location", "person", "product")
  development = splits["dev"]
  rows = task.rows(development, tokenizer(), labels)
  found = task.decode(development, rows, [np.eye(7)[row.labels] for row in rows], labels)
  figures = task.figures(development, found)
  assert figures["precision"] == 1 and figures["recall"] == 835 / 836  # one entity has more than 16 pieces
  for row in rows[::17]:
    words = development[row.example].words
    for (first, end), mention in zip(row.window, row.mentions, strict=True):
      assert tokenizer().decode(row.ids[mention]).replace(" ", "") == "".join(words[first:end])


def pairs_of_docred(records):
  """Pairs of entities with mentions side by side, without those of several relations; and how many have one."""
  counts = [0, 0]
  for record in records:
    relations = Counter((relation["h"], relation["t"]) for relation in record["labels"])
    words = [[{(m["sent_id"], i) for i in range(*m["pos"])} for m in entity] for entity in record["vertexSet"]]
    for a, b in itertools.permutations(range(len(words)), 2):
      near = any(min(x)[0] == min(y)[0] and not x & y for x in words[a] for y in words[b])
      counts[0] += near and relations[a, b] < 2
      counts[1] += near and relations[a, b] == 1
  return tuple(counts)


def test_redocred():
  """500 documents, 13,189 mentions, and the relations of pairs in one sentence that have one."""
  task = registry.find("redocred_relations")
  found = examples("redocred_relations", DOCRED, "dev")
  related = [example for example in found if example.relation != "no_relation"]
  assert (len(found), len(related)) == pairs_of_docred(json.loads((DOCRED / "dev_revised.json").read_text()))
  assert task.label_list(found)[0] == "no_relation" and len(task.label_list(found)) == 93
  typed, documents = (examples(f"redocred_{name}", DOCRED, "dev") for name in ("types", "mentions"))
  assert len(typed) == 13189 and len(documents) == 500
  assert registry.find("redocred_types").label_list(typed) == ("LOC", "MISC", "NUM", "ORG", "PER", "TIME")
  rows = registry.find("redocred_types").rows(typed[:2000], tokenizer(), ("LOC", "MISC", "NUM", "ORG", "PER", "TIME"))
  assert mentions_are_their_texts(rows, lambda i: [typed[i].text[slice(*typed[i].span)]], 5) > 80
  for document in documents:
    first, end = np.array([span[:2] for span in document.spans]).T
    sentence = np.searchsorted(document.sentences, first, "right")
    assert (first[1:] >= end[:-1]).all() and (end <= np.array(document.sentences)[sentence]).all()


def test_xquad():
  """1,190 questions with true offsets; labels are where the answers stand, and right logits give them back."""
  path = DATA / "qa/xquad.en.json"
  if not path.is_file():
    pytest.skip("../shared/data/qa is not here")
  found, task = questions.read_squad(path), registry.find("squad")
  assert len(found) == 1190
  assert all(e.passage.startswith(answer.text, answer.start) for e in found for answer in e.answers)
  rows = task.rows(found, tokenizer(), ())
  logits = [np.zeros((len(row), 2)) for row in rows]
  for row, values in zip(rows, logits):
    if row.labels[0]:
      values[row.labels[0], 0] = values[row.labels[1], 1] = 9
  answers = task.decode(found, rows, logits, ())
  pairs = [(normalised(answer), normalised(example.answers[0].text)) for example, answer in zip(found, answers)]
  wider = [(answer, true) for answer, true in pairs if answer != true]
  assert wider == [("7000000 square kilometres 2700", "7000000 square kilometres 270")]  # ends in the piece "700"
  assert {row.example for row in rows if row.labels[0]} == set(range(1190))


def test_half_of_squad_2():
  """6,078 questions, 3,168 of them without an answer; some offsets are of the passage before it was cleaned."""
  path = DATA / "qa/squad-v2.0-half-dev.json"
  if not path.is_file():
    pytest.skip("../shared/data/qa is not here")
  with pytest.raises(questions.TaskError, match="set task.offsets=nearest"):
    questions.read_squad(path)
  found = questions.read_squad(path, unanswerable="keep", offsets="nearest")
  assert (len(found), sum(example.impossible for example in found)) == (6078, 3168)
  assert len(questions.read_squad(path, offsets="nearest")) == 6078 - 3168
  task = registry.find("squad2")
  assert task.figures(found, [""] * 6078)["exact_match"] == 3168 / 6078
  right = task.figures(found, [e.answers[0].text if e.answers else "" for e in found])
  assert right == {f"{part}{name}": 1 for part in ("", "HasAns/", "NoAns/") for name in ("exact_match", "f1")}


# Files of a run, made here


@dataclasses.dataclass(frozen=True, eq=False)
class LetterForm:
  """Rows of one-letter words."""

  task: registry.Task
  by_column: bool = False
  digest: str = "letters"

  def builder(self, examples):
    return lambda part, labels: self.task.rows(part, LETTERS, labels)


def read(folder, name, select_by="", **changes):
  own = {
    "name": name, "dir": str(folder), "train": "", "dev": "", "test": "", "dev_share": 0.0, "limit": 0, "patience": 0,
    "predictions": True,
  }  # fmt: skip
  config = ConfigDict({"select_by": select_by, "task": own | changes})
  return task_data(config, LetterForm(registry.find(name)))


def inferred(path, *labels):
  lines = [f"{i}\ta b\tc d\t{label}" for i, label in enumerate(labels)]
  path.write_text("\n".join(["index\tsentence1\tsentence2\tgold_label", *lines]) + "\n")


@pytest.fixture
def mnli(tmp_path):
  inferred(tmp_path / "train.tsv", "neutral", "entailment")
  inferred(tmp_path / "dev_matched.tsv", "neutral")
  inferred(tmp_path / "dev_mismatched.tsv", "contradiction", "neutral", "neutral")
  (tmp_path / "test_matched.tsv").write_text("index\tsentence1\tsentence2\n9\ta\tb\n")
  return tmp_path


def test_further_files_and_those_without_labels_are_read_where_they_stand(mnli):
  data = read(mnli, "mnli")
  assert (list(data.further), list(data.blind), data.test) == (["mismatched"], ["MNLI-m"], None)
  assert [row.labels.tolist() for row in data.further["mismatched"].rows] == [[0], [2], [2]]
  (row,) = data.blind["MNLI-m"].rows
  assert row.weights.tolist() == [0] and data.blind["MNLI-m"].examples[0].name == "9"
  lines = ["Premise\tHypothesis\tLabel", "a\tb\tneutral", "a\tc\tentailment"]
  (mnli / "diagnostic-full.tsv").write_text("\n".join(lines) + "\n")
  data = read(mnli, "mnli", limit=1)  # another key: a config's files are read once
  assert list(data.further) == ["mismatched", "diagnostic"]
  assert set(data.further["diagnostic"].task.score(["neutral"], ["neutral"])) == {"matthews"}
  assert read(mnli, "mnli", predictions=False).blind == {}


def test_what_is_read_is_said(mnli, caplog):
  """A large file takes a while, before anything else of a run is to be seen."""
  with caplog.at_level("INFO"):
    read(mnli, "mnli")
  assert caplog.messages == [f"task mnli: reading {mnli}", "task mnli: 2 examples to train on, 1 held out"]


def test_the_fingerprint_is_of_what_batches_follow_from(mnli):
  """Neither of files that are only scored, nor of those that are only answered."""
  whole = read(mnli, "mnli", dev_share=0.0).fingerprint
  (mnli / "dev_mismatched.tsv").unlink()
  (mnli / "test_matched.tsv").unlink()
  assert read(mnli, "mnli", predictions=False).fingerprint == whole
  assert read(mnli, "mnli", limit=1).fingerprint != whole


def test_pairs_in_both_orders_are_trained_on_and_not_scored(mnli):
  """Behind those that the limit leaves, with their labels; it is another run's data."""
  data = read(mnli, "mnli", both_orders=True, limit=1)
  one, other = data.train
  assert one.labels.tolist() == other.labels.tolist()
  first, second = LETTERS.encode(["a b", "c d"])
  for row, texts in ((one, (first, second)), (other, (second, first))):
    np.testing.assert_array_equal(row.ids, pieces.pair(LETTERS, *(each.ids for each in texts))[0])
  assert len(data.dev.rows) == 1 and len(data.further["mismatched"].rows) == 3
  once = read(mnli, "mnli", both_orders=False, limit=1)
  assert (len(once.train), data.epoch_size(1), once.epoch_size(1)) == (1, 2, 1)
  assert once.fingerprint != data.fingerprint


def race(folder, level, number, **changes):
  (folder / level).mkdir(parents=True, exist_ok=True)
  record = {"article": "a b", "questions": ["c ?"], "answers": ["A"], "options": [["d", "e"]]}
  (folder / level / f"{number}.txt").write_text(json.dumps(record | changes))


def test_splits_may_be_folders(tmp_path):
  """RACE's: the test folder is scored if it is there, and the fingerprint follows the articles of the others."""
  for split, count in (("train", 3), ("dev", 2)):
    for number in range(count):
      race(tmp_path / split, "high", number)
  data = read(tmp_path, "race")
  assert (len(data.train), len(data.dev.rows), data.test) == (3, 2, None)
  race(tmp_path / "test", "middle", 1)
  again = read(tmp_path, "race", predictions=False)  # another key: a config's files are read once
  assert [example.part for example in again.test.examples] == ["middle"]
  assert again.fingerprint == data.fingerprint
  race(tmp_path / "dev", "high", 0, answers=["B"])
  changed = read(tmp_path, "race", test="test")
  assert changed.fingerprint != data.fingerprint


def squad(path, *names, answers=({"text": "b", "answer_start": 0},)):
  asked = [{"id": name, "question": "a ?", "answers": list(answers)} for name in names]
  path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "b c", "qas": asked}]}]}))


def test_a_test_file_without_labels_is_only_answered(tmp_path, caplog):
  """Which the log says; where nothing is written it is of no use."""
  for file in ("train-v2.0.json", "dev-v2.0.json"):
    squad(tmp_path / file, "q")
  squad(tmp_path / "test.json", "p", "r", answers=())
  with caplog.at_level("INFO"):
    data = read(tmp_path, "squad2", test="test.json")
  assert f"task squad2: {tmp_path}/test.json says no answers: it is answered at the end, not scored" in caplog.messages
  assert (data.test, list(data.blind)) == (None, ["test"])
  assert [row.weights.tolist() for row in data.blind["test"].rows] == [[0, 0], [0, 0]]
  with pytest.raises(TaskError, match="test.json, article 0, question p: says no answer, want one to score"):
    read(tmp_path, "squad2", test="test.json", predictions=False)
  squad(tmp_path / "test.json", "p", "p", answers=())
  with pytest.raises(TaskError, match="got two questions of the id 'p'"):
    read(tmp_path, "squad2", test="test.json", limit=1)  # another key: a config's files are read once


@pytest.mark.parametrize("file", ["test.tsv", "./test.tsv", "mine.tsv"])
def test_a_test_file_of_glues_form_may_be_named(tmp_path, file):
  """The official one is what is handed in; another is answered beside it."""
  for name in ("train.tsv", "dev.tsv"):
    (tmp_path / name).write_text("sentence\tlabel\na\t1\n")
  (tmp_path / "test.tsv").write_text("index\tsentence\n7\ta\n")
  (tmp_path / file).write_text("index\tsentence\n8\ta\n")
  data = read(tmp_path, "sst2", test=file)
  names = {name: [example.name for example in split.examples] for name, split in data.blind.items()}
  assert data.test is None and names == ({"SST-2": ["8"]} if "test" in file else {"SST-2": ["7"], "test": ["8"]})


@pytest.mark.parametrize("file", ["test_matched.tsv", "./test_matched.tsv", "mine.tsv"])
def test_which_of_mnlis_files_a_test_file_is_follows_from_where_it_stands(mnli, file):
  (mnli / "mine.tsv").write_text("index\tsentence1\tsentence2\n9\ta\tb\n")
  data = read(mnli, "mnli", test=file)
  assert data.test is None and list(data.blind) == (["MNLI-m", "test"] if file == "mine.tsv" else ["MNLI-m"])


@pytest.mark.parametrize("field, name", [("relation", "label"), ("id", "id")])
def test_what_no_file_can_hold_is_refused_before_training(tmp_path, field, name):
  record = FILES["tacred"][0]
  for file in ("train.json", "dev.json"):
    (tmp_path / file).write_text(json.dumps([record | {field: "r\ud800"}]))
  with pytest.raises(TaskError, match=f"{name}: got 'r.ud800', want Unicode without lone surrogates"):
    read(tmp_path, "tacred")


def test_names_of_figures_are_those_of_an_evaluation(mnli):
  """Of the whole, of parts of the data, of what is tuned, and of further files."""
  data = read(mnli, "mnli")
  assert data.figure_names() == ["accuracy", "mismatched/accuracy"]
  for name in registry.TASKS:
    assert registry.find(name).figure_names([], ("a", "b")), name
  asked = [questions.QuestionExample("q", "", "a ?", "b", (), impossible=True)]
  names = registry.find("squad2").figure_names(asked, ())
  assert {"f1", "best_f1", "best_f1_thresh", "NoAns/exact_match"} <= set(names)


SWAG = "sent1,sent2,ending0,ending1,ending2,ending3\na,b,c,d,e,f\n"


QUESTIONS = "id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\t0\n2\tc\n3\td\te\t1\n"  # of line 3 columns lack


def test_what_is_held_out_of_a_damaged_training_file_is_whole(tmp_path):
  (tmp_path / "train.tsv").write_text(QUESTIONS)
  data = read(tmp_path, "qqp", dev_share=0.5)
  assert (len(data.train), len(data.dev.examples)) == (1, 1)


@pytest.mark.parametrize(
  "name, files, line",
  [
    ("qqp", {"train.tsv": QUESTIONS, "dev.tsv": QUESTIONS}, "{}/dev.tsv, line 3: got 2 columns, want 4"),
    ("race", {}, "{}/train: no such folder, want the official one, or name it: task.train, task.dev, task.test"),
    ("sst2", {}, "{}/train.tsv: no such file, want the official one, or name it: task.train, task.dev, task.test"),
    ("sst2", {"dev.tsv": "sentence\na\n"}, "{}/dev.tsv, line 2: says no answer, want one to score against"),
    ("sst2", {"train.tsv": "sentence\na\n", "dev.tsv": "sentence\tlabel\na\t1\n"},
     "{}/train.tsv, line 2: says no answer, want one to train on, in a column or field 'label'; use a file"),
    ("swag", {"train.csv": SWAG, "val.csv": SWAG}, "{}/train.csv, line 2: says no answer, want one to train on"),
    ("squad", {"train-v1.1.json": (), "dev-v1.1.json": ("q", "p")},
     "{}/train-v1.1.json, article 0, question open: says no answer, want one to train on"),
    ("embed", {"train.tsv": "a\tb\n", "dev.tsv": "a\tb\nc\td\n"}, "{}/dev.tsv, line 1: says no answer, want one to"),
    ("embed", {"train.tsv": "score\tsentence1\tsentence2\n1\ta\tb\n", "dev.tsv": "a\tb\n"},
     "{}/train.tsv, line 2: got two texts with a score, want texts that belong together"),
    ("mnli", {"dev_mismatched.tsv": "sentence1\tsentence2\na\tb\n"}, "{}/dev_mismatched.tsv, line 2: says no answer"),
    ("mnli", {"test_matched.tsv": "sentence1\tsentence2\na\n"}, "{}/test_matched.tsv, line 2: got 1 columns, want 2"),
    ("squad", {"train-v1.1.json": ("q", "p"), "dev-v1.1.json": ("q", "q")},
     "{}/dev-v1.1.json, article 0, question q: got two questions of the id 'q', want one; correct the file"),
  ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line_with_its_place(tmp_path, name, files, line):
  if name == "mnli":
    inferred(tmp_path / "train.tsv", "neutral")
    inferred(tmp_path / "dev_matched.tsv", "neutral")
  if name == "sst2" and files:
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\t1\n")
  for file, content in files.items():
    if isinstance(content, str):
      (tmp_path / file).write_text(content)
    else:
      squad(tmp_path / file, *content) if content else squad(tmp_path / file, "open", answers=())
  with pytest.raises(TaskError) as caught:
    read(tmp_path, name)
  assert line.format(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_embeddings_are_held_out_by_pairs_with_a_score(tmp_path):
  """Training pairs have none; a test file of the same folder is read only if it is named."""
  (tmp_path / "train.tsv").write_text("a\tb\nc\td\n")
  (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\tscore\na b\tc\t2.5\n")
  (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
  data = read(tmp_path, "embed")
  assert (len(data.train), data.test) == (2, None)
  assert [data.task.gold(example) for example in data.dev.examples] == [2.5]
