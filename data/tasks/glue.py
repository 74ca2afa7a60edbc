"""Files of tasks on one text or two: GLUE's and SNLI's columns, JSON records, the sentiment tree-bank.

GLUE's files are columns between tabs under a line of names, without quotation marks of their own; CoLA's have no such
line, but for the test file's.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.tasks.files import is_json, read_json, read_lines
from data.tasks.rows import TaskError
from data.tasks.texts import TextExample

_JSON_NAMES = (("text_a", "text_b"), "label")  # of texts and label in files that are no official ones
_NAMES = ("index", "id", "idx")  # columns or fields of an example's own identity
_UNDECIDED = "-"  # the label of pairs that the annotators did not agree on
_TREE = re.compile(r"\(|\)|[^\s()]+")
_ESCAPES = {"-LRB-": "(", "-RRB-": ")", "\\/": "/", "\\*": "*"}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _LeftOut:
  """A line or record that is no example."""

  where: str
  why: str


@dataclasses.dataclass(frozen=True)
class TextReader:
  """Reads examples out of columns, or out of JSON: a list or an object of records, or a record a line.

  Pairs that the annotators did not agree on (label -) are left out, as everybody leaves them out.

  Attributes:
    texts: names of the columns or fields of the texts.
    label: name of that of the label. A file without it, as official test files are, has unknown labels.
    classes: label as the file has it -> name of the class; None where labels are numbers from 0 to 5.
    bare: names of the columns of a file without a line of names; () where files have one.
    damaged: whether lines of other than the file's columns are left out, not refused: QQP's training file has some. A
      held-out file is whole, or its figures and what is handed in for it are of another file.
  """

  texts: tuple[str, ...]
  label: str
  classes: Mapping[str, str] | None
  bare: tuple[str, ...] = ()
  damaged: bool = False

  @property
  def labels(self) -> tuple[str, ...]:
    """Names of the classes, in the order of a head's outputs; of a number one."""
    return (self.label,) if self.classes is None else tuple(self.classes.values())

  def __call__(self, path: Path) -> list[TextExample]:
    """The examples of a file; how many were left out, and the first, stands in the log.

    Raises:
      TaskError: with file and line (of JSON: record): columns or fields that lack, a label that is none of the task's.
    """
    found = list(self._json(path) if is_json(path) else self._columns(path))
    examples = [each for each in found if isinstance(each, TextExample)]
    if not examples:
      raise TaskError(f"{path}: got no example, want some; fetch the file again")
    places: dict[str, list[str]] = {}
    for each in found:
      if isinstance(each, _LeftOut):
        places.setdefault(each.why, []).append(each.where)
    for why, wheres in places.items():
      _log.warning("%s: the first of %d of %d examples that are left out: %s", wheres[0], len(wheres), len(found), why)
    return examples

  def _columns(self, path: Path) -> Iterator[TextExample | _LeftOut]:
    lines = ((where, line.split("\t")) for where, line in read_lines(path) if line)
    where, first = next(lines, (f"{path}, line 1", []))
    names: Sequence[str] = first
    if not first:
      raise TaskError(f"{path}: is empty, want {list(self.texts)} in columns; fetch the file again")
    if not set(self.texts) <= set(first):
      names = self.bare
      if not names or len(first) != len(names):
        raise TaskError(
          f"{where}: got the columns {_some(first)}, want {list(self.texts)} among their names"
          + (f", or {len(names)} columns without names" if names else "") + "; check that the file is the task's"
        )  # fmt: skip
      lines = itertools.chain([(where, first)], lines)
    for number, (where, cells) in enumerate(lines):
      yield self._row(where, cells, names, number)

  def _row(self, where: str, cells: list[str], names: Sequence[str], number: int) -> TextExample | _LeftOut:
    wanted = [names.index(name) for name in (*self.texts, self.label) if name in names]
    if len(cells) > len(names) or max(wanted) >= len(cells):
      if self.damaged:
        return _LeftOut(where, "damaged, with other columns than the file's")
      raise TaskError(
        f"{where}: got {len(cells)} columns, want {len(names)} ({_some(names)}); correct the file, or fetch it again"
      )
    label = cells[names.index(self.label)].strip() if self.label in names else None
    own = next((cells[names.index(name)] for name in _NAMES if name in names), str(number))
    return self._example(where, own, [cells[names.index(name)] for name in self.texts], label)

  def _json(self, path: Path) -> Iterator[TextExample | _LeftOut]:
    for where, name, record in records(path):
      if not isinstance(record, dict):
        raise TaskError(f"{where}: got {record!r:.60}, want an object; check that the file is the task's")
      texts, label = self.texts, self.label
      if texts[0] not in record:
        texts, label = _JSON_NAMES[0][: len(texts)], _JSON_NAMES[1]
      values = [record.get(name) for name in texts]
      if not all(isinstance(value, str) for value in values):
        raise TaskError(
          f"{where}: got the fields {_some(sorted(record))}, want strings {list(self.texts)} or {list(texts)} among "
          "them; check that the file is the task's"
        )
      said = record.get(label)
      own = str(next((record[field] for field in _NAMES if field in record), name))
      yield self._example(where, own, values, None if said is None else str(said))

  def _example(self, where: str, name: str, texts: Sequence[str], label: str | None) -> TextExample | _LeftOut:
    texts = tuple(text.strip() for text in texts)
    if label is None:
      return TextExample(texts, None, where, name)
    if self.classes is None:
      return TextExample(texts, _number(label, where), where, name)
    if label == _UNDECIDED and label not in self.classes:
      return _LeftOut(where, "without a label that the annotators agreed on")
    return TextExample(texts, checked(label, self.classes, where), where, name)


def checked(label: str, classes: Mapping[str, str], where: str) -> str:
  """The class that a file's label names; TaskError where it is none."""
  if label not in classes:
    raise TaskError(f"{where}: got label {label!r:.60}, want one of {list(classes)}; check that the file is the task's")
  return classes[label]


def _number(label: str, where: str) -> float:
  try:
    value = float(label)
  except ValueError:
    value = math.nan
  if not 0 <= value <= 5:
    raise TaskError(f"{where}: got {label!r:.60}, want a number from 0 to 5; check that the file is the task's")
  return value


def records(path: Path) -> Iterator[tuple[str, str, Any]]:
  """(where, key or number, record) of a JSON file, or of one record a line."""
  lines = [(where, line) for where, line in read_lines(path) if line.strip()]
  if not lines:
    return
  try:
    first = json.loads(lines[0][1])
  except (ValueError, RecursionError):  # the beginning of a value of several lines
    first = None
  if not isinstance(first, dict) or all(isinstance(value, dict) for value in first.values()):
    content = read_json(path, dict if lines[0][1].lstrip()[0] == "{" else list)
    for name, record in content.items() if isinstance(content, dict) else enumerate(content):
      yield f"{path}, record {name}", str(name), record
    return
  for number, (where, line) in enumerate(lines):
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise TaskError(f"{where}: got {error.msg}, want a JSON object a line; fetch the file again") from None
    except (ValueError, RecursionError) as error:
      raise TaskError(f"{where}: got {error}, want a JSON object a line; fetch the file again") from None
    yield where, str(number), record


def _some(names: Sequence[str]) -> str:
  return ", ".join(repr(name)[:24] for name in names[:8]) + (", ..." if len(names) > 8 else "")


SENTIMENTS = {"0": "very negative", "1": "negative", "2": "neutral", "3": "positive", "4": "very positive"}
SST5 = TextReader(("sentence",), "label", SENTIMENTS)


def read_sst5(path: Path, phrases: bool = False) -> list[TextExample]:
  """Sentences of the sentiment tree-bank (Socher et al. 2013): a tree like (3 (2 Good) (2 film)) a line, or columns.

  Args:
    phrases: of trees every phrase is an example, single words too, as training on it usually has them.
  Raises:
    TaskError: with file and line, for what is no tree or has a class that is none of 0 to 4.
  """
  lines = [(where, line) for where, line in read_lines(path) if line.strip()]
  if not lines or not lines[0][1].startswith("("):
    return SST5(path)
  examples = []
  for where, line in lines:
    found = _phrases(line, where)
    examples += [
      TextExample((" ".join(words),), checked(label, SENTIMENTS, where), where, str(len(examples) + i))
      for i, (words, label) in enumerate(found if phrases else found[-1:])
    ]
  return examples


def _phrases(line: str, where: str) -> list[tuple[list[str], str]]:
  """(words, label) of each node of a tree, children before their parent."""
  wrong = TaskError(f"{where}: got {line:.60}, want one tree like (3 (2 Good) (2 film)); fetch the file again")
  words: list[str] = []
  open_nodes: list[tuple[str, int]] = []  # label, and the words before
  found: list[tuple[list[str], str]] = []
  tokens = iter(_TREE.findall(line))
  for token in tokens:
    if token == "(" and (open_nodes or not found):
      open_nodes.append((next(tokens, ""), len(words)))
    elif token == ")" and open_nodes and open_nodes[-1][1] < len(words):
      label, first = open_nodes.pop()
      found.append((words[first:], label))
    elif token not in "()" and open_nodes:
      words.append(_ESCAPES.get(token, token))
    else:
      raise wrong
  if open_nodes or not found:
    raise wrong
  return found
