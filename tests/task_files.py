"""Files of the tasks on disk, and the one line about each that is wrong."""

import json

import pytest

from data.tasks.rows import TaskError


def write(tmp_path, content, name="train.json"):
  path = tmp_path / name
  path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
  return path


def refused(read, path, *parts):
  """The one line of the error, which must hold `parts`."""
  with pytest.raises(TaskError) as error:
    read(path)
  line = str(error.value)
  assert "\n" not in line and str(path) in line, line
  for part in parts:
    assert part in line, line
