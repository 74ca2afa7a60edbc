"""Predictions as files: a record a line for every kind of head, and what the benchmarks want to be handed in."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from data.tasks import predictions, registry
from data.tasks.certainty import beside, sigmoid, softmax
from data.tasks.choices import ChoiceExample
from data.tasks.entity_typing import TypingExample
from data.tasks.named_entities import read_columns
from data.tasks.questions import Answer, QuestionExample
from data.tasks.relations import RelationExample, read_semeval, read_tacred
from data.tasks.rows import TaskError
from data.tasks.tags import spans_of
from data.tasks.text_pairs import PairExample
from data.tasks.texts import TextExample
from tests.task_files import write
from tests.task_rows import LETTERS, document, record

LOG3 = math.log(3)  # of two logits 0 and log 3 the shares are 1/4 and 3/4


def records(task, examples, logits, labels=(), rows=None):
  """What json_lines says of the logits of examples' rows."""
  rows = task.rows(examples, LETTERS, labels) if rows is None else rows
  found = task.decode(examples, rows, logits, labels)
  text = predictions.json_lines(task, examples, found, beside(task, examples, rows, logits, labels, found))
  assert text.endswith("\n") and text.count("\n") == len(examples)
  return [json.loads(line) for line in text.splitlines()]


# A record a line


def test_a_class_with_its_probability():
  task = registry.find("sst2")
  examples = [TextExample(("a",), "positive", "f, line 2", "0"), TextExample(("ä",), None, "f, line 3")]
  logits = [np.array([[0, LOG3]]), np.array([[LOG3, 0]])]
  assert records(task, examples, logits, ("negative", "positive")) == [
    {"id": "0", "prediction": "positive", "probability": pytest.approx(3 / 4), "gold": "positive"},
    {"id": "f, line 3", "prediction": "negative", "probability": pytest.approx(3 / 4)},
  ]


def test_numbers_and_cosines_stand_by_themselves():
  stsb, embed = registry.find("stsb"), registry.find("embed")
  assert records(stsb, [TextExample(("a", "b"), 2.0, name="7")], [np.array([[2.5]])], ("score",)) == [
    {"id": "7", "prediction": 2.5, "gold": 2.0}
  ]
  assert records(embed, [PairExample(("a", "b"), 1.0, name="7")], [np.array([[1.0, 0], [0, 1]])]) == [
    {"id": "7", "prediction": 0.0, "gold": 1.0}
  ]


def test_a_relation_goes_by_the_files_id(tmp_path):
  example = {"token": ["a", "b"], "relation": "r", "id": "x9"}
  example |= {f"{side}_{edge}": i for i, side in enumerate(("subj", "obj")) for edge in ("start", "end")}
  examples = read_tacred(write(tmp_path, [example, {**example, "id": "x10"}]))
  (first, second) = records(registry.find("tacred"), examples, [np.array([[LOG3, 0]])] * 2, ("no_relation", "r"))
  assert (first["id"], second["id"]) == ("x9", "x10")
  assert (first["prediction"], first["gold"]) == ("no_relation", "r") and first["probability"] == pytest.approx(3 / 4)


def test_types_with_a_probability_each():
  task, labels = registry.find("open_entity"), ("x", "y", "z")
  example = TypingExample("a b", (0, 1), ("x",), "f, example 0")
  (said,) = records(task, [example], [np.array([[LOG3, -1.0, 0.1]])], labels)
  assert (said["id"], said["prediction"], said["gold"]) == ("f, example 0", ["x", "z"], ["x"])
  assert said["probabilities"] == pytest.approx([3 / 4, 1 / (1 + math.exp(-0.1))])


def test_entities_with_a_probability_each():
  """Of spans that of the span; of tags the product over its words; a CRF's classes have none."""
  task, labels = registry.find("conll2003"), ("NIL", "LOC", "PER")
  examples = [document(["a b c"], [(0, 2, "PER")], "f, line 1")]
  (row,) = task.rows(examples, LETTERS, labels)
  logits = np.zeros((6, 3))
  logits[:, 0] = 9
  logits[row.window.tolist().index([0, 2])] = (0, -99, LOG3)
  (said,) = records(task, examples, [logits], labels)
  assert (said["id"], said["prediction"], said["gold"]) == ("f, line 1", [[0, 2, "PER"]], [[0, 2, "PER"]])
  assert said["probabilities"] == pytest.approx([3 / 4])
  tag, tags = task.put("tag"), ("O", "B-PER", "I-PER")
  values = np.array([[-99, LOG3, 0], [-99, 0, LOG3], [LOG3, 0, -99]])
  (said,) = records(tag, examples, [values], tags)
  assert said["prediction"] == [[0, 2, "PER"]] and said["probabilities"] == pytest.approx([9 / 16])
  words = task.put("words_tag")
  rows = words.rows(examples, ("O", "B-PER", "I-PER", "E-PER", "S-PER"))
  (said,) = records(words, examples, [np.array([1, 3, 0])], ("O", "B-PER", "I-PER", "E-PER", "S-PER"), rows)
  assert said["prediction"] == [[0, 2, "PER"]] and "probabilities" not in said


def test_a_candidate_with_its_probability():
  example = record("@placeholder ?", "a b c d", ["a", "c"], "c")
  (said,) = records(registry.find("record"), [example], [np.array([-1.0, LOG3])])
  assert said == {"id": "q", "prediction": "c", "probability": pytest.approx(3 / 4), "gold": ["c"]}


def test_a_choice_with_its_probability_among_its_own():
  example = ChoiceExample("high1-0", "a", ("b", "c"), 0, "high")
  (said,) = records(registry.find("race"), [example], [np.array([0, LOG3])])
  assert said == {"id": "high1-0", "prediction": 1, "probability": pytest.approx(3 / 4), "gold": 0}


def asked(name, answers=("b",)):
  found = tuple(Answer(text, "b c".index(text)) for text in answers)
  return QuestionExample(name, "", "a ?", "b c", found, impossible=not answers)


def answer_logits(row, b, none):
  """Only "b" is likely, with the sum `b`; no answer has the sum `none`."""
  logits = np.full((len(row), 2), -40.0)
  logits[row.window.begin], logits[0] = b / 2, none / 2
  return logits


def test_an_answer_with_its_rivals_and_the_odds_of_none():
  task, examples = registry.find("squad2"), [asked("q1"), asked("q2", ())]
  rows = task.rows(examples, LETTERS, ())
  logits = [answer_logits(rows[0], LOG3, 0.0), answer_logits(rows[1], 0.0, LOG3)]
  first, second = records(task, examples, logits, (), rows)
  assert (first["id"], first["prediction"], first["gold"]) == ("q1", "b", ["b"])
  assert (second["id"], second["prediction"], second["gold"]) == ("q2", "", [])
  assert first["null_odds"] == pytest.approx(-LOG3) and second["null_odds"] == pytest.approx(LOG3)
  assert first["probability"] == pytest.approx(3 / 4) and second["probability"] == pytest.approx(3 / 4)
  assert [each["text"] for each in first["n_best"][:2]] == ["b", ""] and second["n_best"][0]["text"] == ""
  assert sum(each["probability"] for each in first["n_best"]) == pytest.approx(1)
  (plain,) = records(registry.find("squad"), examples[:1], logits[:1], (), rows[:1])
  assert "null_odds" not in plain and plain["probability"] == pytest.approx(1)


def test_shares_of_huge_logits_are_finite():
  assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])).tolist() == [[1, 0], [0.5, 0.5]]
  assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0, 0.5, 1]


# What is handed in

GLUE = {
  "cola": ("CoLA", ("unacceptable", "acceptable"), ("0", "1")),
  "sst2": ("SST-2", ("negative", "positive"), ("0", "1")),
  "mrpc": ("MRPC", ("equivalent", "not_equivalent"), ("1", "0")),
  "qqp": ("QQP", ("duplicate", "not_duplicate"), ("1", "0")),
  "qnli": ("QNLI", ("entailment", "not_entailment"), ("entailment", "not_entailment")),
  "rte": ("RTE", ("entailment", "not_entailment"), ("entailment", "not_entailment")),
  "wnli": ("WNLI", ("entailment", "not_entailment"), ("1", "0")),
  "stsb": ("STS-B", (2.5, 5.25), ("2.500000", "5.000000")),
}


@pytest.mark.parametrize("name", GLUE)
def test_glues_files_have_its_names_and_labels(name):
  """A number outside of 0 to 5 is the nearest in it."""
  file, found, said = GLUE[name]
  examples = [TextExample(("a",), None, name=str(i)) for i in range(2)]
  text = f"index\tprediction\n0\t{said[0]}\n1\t{said[1]}\n"
  assert predictions.submission(registry.find(name), examples, found, [{}] * 2) == {f"{file}.tsv": text}


def test_mnli_has_three_files():
  task, examples = registry.find("mnli"), [TextExample(("a", "b"), None, name="0")]
  for file in ("MNLI-m", "MNLI-mm", "AX"):
    text = "index\tprediction\n0\tneutral\n"
    assert predictions.submission(task, examples, ["neutral"], [{}], file) == {f"{file}.tsv": text}
  with pytest.raises(TaskError, match="task mnli: got predictions of '', want one of MNLI-m, MNLI-mm, AX"):
    predictions.submission(task, examples, ["neutral"], [{}])


def test_answers_by_their_ids():
  examples = [asked("q1"), asked("q2", ())]
  files = predictions.submission(
    registry.find("squad2"), examples, ["Ännä", ""], [{"null_odds": -1.5}, {"null_odds": 2.0}]
  )
  assert {name: json.loads(text) for name, text in files.items()} == {
    "predictions.json": {"q1": "Ännä", "q2": ""},
    "null_odds.json": {"q1": -1.5, "q2": 2.0},
  }
  (only,) = predictions.submission(registry.find("squad"), examples[:1], ["b"], [{}]).items()
  assert only == ("predictions.json", '{"q1": "b"}\n')
  cloze = [record("@placeholder ?", "a b", ["a"], "a")]
  assert predictions.submission(registry.find("record"), cloze, ["a"], [{}]) == {"predictions.json": '{"q": "a"}\n'}
  with pytest.raises(TaskError, match="got two questions of the id 'q1'"):
    predictions.submission(registry.find("squad"), [asked("q1")] * 2, ["b", "b"], [{}] * 2)


@pytest.mark.parametrize("name, separator", [("conll2003", " "), ("wnut17", "\t")])
def test_tags_stand_behind_the_words(name, separator, tmp_path):
  """conlleval's columns: word, true and predicted tag; read again they have the spans of both."""
  examples = [document(["a b c", "d e"], [(0, 2, "PER"), (2, 3, "PER"), (4, 5, "LOC")]), document(["f"], ())]
  found = [((0, 1, "PER"), (3, 5, "LOC")), ((0, 1, "ORG"),)]
  (text,) = predictions.submission(registry.find(name), examples, found, [{}] * 2).values()
  lines = ["a B-PER B-PER", "b I-PER O", "c B-PER O", "", "d O B-LOC", "e B-LOC I-LOC", "", "f O B-ORG"]
  assert text == "".join(line.replace(" ", separator) + "\n" for line in lines)
  again = read_columns(write(tmp_path, text, "predictions.conll"))
  assert [example.spans for example in again] == [((0, 1, "PER"),), ((0, 2, "LOC"),), ((0, 1, "ORG"),)]
  assert spans_of([line.split(separator)[1] for line in text.split("\n")[:3]]) == [(0, 2, "PER"), (2, 3, "PER")]
  unknown = [document(["a"], ())]
  unknown = [type(unknown[0])(unknown[0].words, unknown[0].sentences, None)]
  (text,) = predictions.submission(registry.find(name), unknown, [()], [{}]).values()
  assert text == f"a{separator}O\n"


def test_relations_are_a_label_a_line_or_a_number_and_a_label(tmp_path):
  example = RelationExample("a b", (0, 1), (2, 3), None)
  assert predictions.submission(registry.find("tacred"), [example] * 2, ["no_relation", "r"], [{}] * 2) == {
    "predictions.txt": "no_relation\nr\n"
  }
  lines = '8001\t"A <e1>b</e1> c <e2>d</e2>"\n\n8002\t"A <e1>b</e1> c <e2>d</e2>"\n'
  examples = read_semeval(write(tmp_path, lines, "TEST.TXT"))
  assert predictions.submission(registry.find("semeval"), examples, ["Other", "R(e1,e2)"], [{}] * 2) == {
    "predictions.txt": "8001\tOther\n8002\tR(e1,e2)\n"
  }


def test_a_task_without_a_form_says_so():
  with pytest.raises(TaskError, match="task sst5: has no form to hand predictions in, want one of conll2003, record"):
    predictions.submission(registry.find("sst5"), [TextExample(("a",), None)], ["neutral"], [{}])


def test_every_task_has_something_to_say_beside_its_predictions():
  for task in registry.TASKS.values():
    for head in (task.head, *task.others):
      assert beside(task.put(head), [], [], [], ("O",), []) == []


# Real files

SHARED = Path(__file__).parent.parent / "../shared/data"


@pytest.mark.parametrize("name, file", [("cola", "CoLA"), ("sst2", "SST-2"), ("stsb", "STS-B")])
def test_real_test_files_are_handed_in_by_their_own_index(name, file):
  task = registry.find(name)
  path = SHARED / "glue" / file / task.blind[file]
  if not path.is_file():
    pytest.skip(f"../shared/data has no glue/{file}/{path.name}")
  examples = task.read(path)
  answer = 1.0 if name == "stsb" else task.read.labels[0]
  (text,) = predictions.submission(task, examples, [answer] * len(examples), [{}] * len(examples)).values()
  indices = [line.split("\t")[0] for line in text.splitlines()[1:]]
  assert indices == [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
