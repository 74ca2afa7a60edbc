"""Files of questions over passages: what each says, and the one line about each that is wrong."""

from data.tasks import cloze, questions, registry
from tests.task_files import refused, write

# ReCoRD


PASSAGE = "Ann Lee left Rome.\n@highlight\n\nLee left in May"
RECORD = {
  "passage": {
    "text": PASSAGE,
    "entities": [{"start": 31, "end": 33}, {"start": 0, "end": 6}, {"start": 13, "end": 16}, {"start": 13, "end": 16}],
  },
  "qas": [
    {
      "id": "q1",
      "query": "Where did @placeholder go?",
      "answers": [{"start": 0, "end": 6, "text": "Ann Lee"}, {"start": 31, "end": 33, "text": "Lee"}],
    }
  ],
}


def test_record(tmp_path):
  (example,) = cloze.read_record(write(tmp_path, {"version": "1.0", "data": [RECORD]}))
  assert [PASSAGE[slice(*span)] for span in example.candidates] == ["Ann Lee", "Rome", "Lee"]
  assert example.answers == {(0, 7), (31, 34)} and example.texts == ("Ann Lee", "Lee") and example.name == "q1"


def test_a_record_file_without_answers_is_read(tmp_path):
  asked = {"id": "q", "query": "x @placeholder"}
  (example,) = cloze.read_record(write(tmp_path, {"data": [RECORD | {"qas": [asked]}]}))
  assert example.answers is None and registry.TASKS["record"].gold(example) is None


def test_a_wrong_record_is_named(tmp_path):
  def at(**changes):
    return write(tmp_path, {"data": [RECORD | changes]})

  read, entities = cloze.read_record, RECORD["passage"]["entities"]
  refused(read, at(passage={"text": PASSAGE, "entities": [{"start": 40, "end": 50}]}), "passage 0", "40 to 51")
  over = [*entities, {"start": 4, "end": 9}]
  refused(read, at(passage={"text": PASSAGE, "entities": over}), "over one another at character 4")
  refused(read, at(qas=[{"id": "q7", "query": "no\nmark"}]), "query q7: got 'no\\nmark'", "@placeholder")


# SQuAD


def squad(**changes):
  asked = {"id": "q1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 4}]}
  paragraph = {"context": "Ann Ann Lee", "qas": [asked | changes]}
  return {"version": "1.1", "data": [{"title": "A_%C3%A9", "paragraphs": [paragraph]}]}


def test_squad(tmp_path):
  (example,) = questions.read_squad(write(tmp_path, squad()))
  assert (example.name, example.title, example.question, example.passage) == ("q1", "A é", "Who?", "Ann Ann Lee")
  assert example.answers == (questions.Answer("Ann", 4),) and not example.impossible


def test_squad_2(tmp_path):
  path = write(tmp_path, squad(is_impossible=True, answers=[], plausible_answers=[{"text": "x", "answer_start": 99}]))
  assert questions.read_squad(path) == []
  (example,) = questions.read_squad(path, unanswerable="keep")
  assert example.impossible and example.answers == ()


def test_a_wrong_article_is_named(tmp_path):
  refused(questions.read_squad, write(tmp_path, {"data": [3]}), "article 0: got 3, want an object with 'paragraphs'")
  path = write(tmp_path, squad(is_impossible="true"))
  refused(questions.read_squad, path, "question q1: 'is_impossible': got 'true', want true or false")


def test_an_answer_must_stand_where_the_file_says(tmp_path):
  path = write(tmp_path, squad(answers=[{"text": "Ann", "answer_start": 5}]))
  refused(questions.read_squad, path, "question q1", "answer at 5", "'nn '", "'Ann'", "offsets=nearest")
  (example,) = questions.read_squad(path, offsets="nearest")
  assert example.answers == (questions.Answer("Ann", 4),)
  path = write(tmp_path, squad(answers=[{"text": "Bob", "answer_start": 5}]))
  refused(lambda path: questions.read_squad(path, offsets="nearest"), path, "'Bob'")
  refused(lambda path: questions.read_squad(path, offsets="any"), path, "'any'")
