"""JSON files of the tasks with one value after another put in place of each of theirs: one line, or examples."""

import copy
import json

import pytest

from data.tasks import registry
from data.tasks.rows import TaskError
from tests.task_files import write
from tests.task_rows import LETTERS

VALUES = (3, -1, 1.5, True, None, "x", "", " ", "a\nb", [], {}, [3], [""], {"x": 3})
MENTIONS = [
  [{"sent_id": 0, "pos": [0, 2], "type": "PER"}],
  [{"sent_id": 0, "pos": [3, 4], "type": "LOC"}],
]
FILES = {
  "open_entity": [{"sent": "a b c", "start": 2, "end": 3, "labels": ["x", "y"]}],
  "tacred": [
    {"id": "1", "token": ["a", "b", "c"], "subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2, "relation": "r"}
  ],
  **dict.fromkeys(
    ("redocred_types", "redocred_relations", "redocred_mentions"),
    [{"sents": [["a", "b", "c", "d"]], "vertexSet": MENTIONS, "labels": [{"h": 0, "t": 1, "r": "r"}]}],
  ),
  "record": {
    "data": [
      {
        "passage": {"text": "a b c", "entities": [{"start": 0, "end": 0}, {"start": 4, "end": 4}]},
        "qas": [{"id": "q", "query": "d @placeholder", "answers": [{"start": 0, "end": 0, "text": "a"}]}],
      }
    ]
  },
  **dict.fromkeys(
    ("squad", "squad2"),
    {
      "data": [
        {
          "title": "t",
          "paragraphs": [
            {
              "context": "a b c",
              "qas": [
                {"id": "q", "question": "d ?", "answers": [{"text": "b", "answer_start": 2}], "is_impossible": False},
                {"id": "p", "question": "d ?", "answers": [], "is_impossible": True},
              ],
            }
          ],
        }
      ]
    },
  ),
  "race": {"article": "a b", "questions": ["c _ ?"], "answers": ["A"], "options": [["d", "e"]], "id": "high1.txt"},
  "sst2": [{"idx": 0, "text_a": "a b", "label": "1"}],
  "mnli": [{"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}],
  "stsb": [{"text_a": "a", "text_b": "b", "label": 2.5}],
  "embed": [{"first": "a", "second": "b", "negative": "c"}],
}


def places(value, before=()):
  """The path of each value in another, that of the whole first."""
  yield before
  inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for key, each in inside:
    yield from places(each, (*before, key))


def replaced(content, place, value):
  if not place:
    return value
  content = copy.deepcopy(content)
  inside = content
  for key in place[:-1]:
    inside = inside[key]
  inside[place[-1]] = value
  return content


def in_rows(task, path):
  """Reads a file as a training file and makes its rows."""
  examples = task.read(path)
  return task.rows(examples, LETTERS, task.label_list(examples))


@pytest.mark.parametrize("name", FILES)
def test_any_other_value_in_a_file_is_one_line_or_examples(name, tmp_path):
  task, content = registry.find(name), FILES[name]
  assert in_rows(task, write(tmp_path, content))
  for place in places(content):
    for value in VALUES:
      path = write(tmp_path, replaced(content, place, value))
      try:
        in_rows(task, path)
      except TaskError as error:
        assert "\n" not in str(error) and str(path) in str(error), (place, value)
      except Exception as error:
        raise AssertionError(f"{place} = {json.dumps(value)}") from error
