"""Reading the files of a task: every complaint names the file and the record or line."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.tasks.rows import TaskError

_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}

Line = tuple[str, str]  # where it stands, as a message says it, and its text


class RecordFile(abc.ABC):
  """What is read like a file of a task and stands in none: lines that are made of records. Its `str` names it."""

  @property
  @abc.abstractmethod
  def lines(self) -> tuple[Line, ...]:
    """All lines."""

  @property
  @abc.abstractmethod
  def digest(self) -> str:
    """Of what the lines are made of."""

  @abc.abstractmethod
  def exists(self) -> bool:
    """Whether there are such records."""

  def is_file(self) -> bool:
    return self.exists()


def read_text(path: Path | RecordFile) -> str:
  """The content of a UTF-8 file, its byte order mark dropped and its line ends "\\n"; raises TaskError."""
  if isinstance(path, RecordFile):
    return "\n".join(line for _, line in path.lines)
  try:
    return path.read_text(encoding="utf-8-sig")
  except FileNotFoundError:
    raise TaskError(f"{path}: no such file, want a file of the task; see which files its folder must have") from None
  except OSError as error:
    raise TaskError(f"{path}: cannot be read ({error.strerror}), want a file of the task that you may read") from None
  except UnicodeDecodeError as error:
    line = error.object.count(b"\n", 0, error.start) + 1
    raise TaskError(f"{path}, line {line}: got {error.reason}, want UTF-8 text; fetch it again") from None


def read_lines(path: Path | RecordFile) -> Iterator[Line]:
  """(file and line number as a message says them, line) of every line; only "\\n" and "\\r\\n" end a line."""
  if isinstance(path, RecordFile):
    yield from path.lines
    return
  for number, line in enumerate(read_text(path).split("\n"), 1):
    yield f"{path}, line {number}", line


def is_json(path: Path | RecordFile) -> bool:
  """Whether a file is JSON, or a JSON value a line: its name ends so, or all of it or its first line can be parsed.

  A bracket alone says nothing, as columns may begin with one too.
  """
  if Path(str(path)).suffix in (".json", ".jsonl"):
    return True
  text = read_text(path).lstrip()
  return text[:1] in ("{", "[") and any(map(_can_be_parsed, (text.partition("\n")[0], text)))


def _can_be_parsed(text: str) -> bool:
  try:
    json.loads(text)
  except (ValueError, RecursionError):
    return False
  return True


def read_json(path: Path | RecordFile, kind: type) -> Any:
  """The content of a JSON file, which is of `kind` at the top; raises TaskError with the line where it is broken."""
  try:
    content = json.loads(read_text(path))
  except json.JSONDecodeError as error:
    raise TaskError(f"{path}, line {error.lineno}: got {error.msg}, want a JSON file; fetch it again") from None
  except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists within thousands of lists
    raise TaskError(f"{path}: got {error}, want a JSON file; fetch it again") from None
  if not isinstance(content, kind):
    raise TaskError(f"{path}: got JSON that is no {_KINDS[kind].split()[-1]}, want {_KINDS[kind]} of examples")
  return content


def field(record: Any, name: str, kind: type, where: str) -> Any:
  """`record[name]`, which must be of `kind`; raises TaskError that says `where`."""
  if not isinstance(record, dict):
    raise TaskError(f"{where}: got {record!r:.60}, want an object with {name!r}; check that the file is the task's")
  if name not in record:
    raise TaskError(f"{where}: got no {name!r} among {sorted(record)[:8]}, want one; check that the file is the task's")
  value = record[name]
  if not _is(value, kind):
    raise TaskError(f"{where}: {name!r}: got {value!r:.60}, want {_KINDS[kind]}; correct the file")
  return value


def check_unicode(text: str, name: str, where: str) -> None:
  """Raises TaskError where a text, as JSON can write it, has half of a surrogate pair, which no file can hold."""
  if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
    raise TaskError(f"{where}: {name}: got {text!a:.60}, want Unicode without lone surrogates; correct the file")


def optional(record: Any, name: str, kind: type, where: str) -> Any:
  """`field`, or None where the record does not have it, as files without answers do not."""
  return None if isinstance(record, dict) and name not in record else field(record, name, kind, where)


def listed(record: Any, name: str, kind: type, where: str) -> list:
  """`record[name]`, which must be a list of values that are all of `kind`; raises TaskError that says `where`."""
  values = field(record, name, list, where)
  for value in values:
    if not _is(value, kind):
      raise TaskError(f"{where}: {name!r}: got {value!r:.60} in the list, want {_KINDS[kind]} each; correct the file")
  return values


def strings(record: Any, name: str, where: str) -> list[str]:
  """`record[name]`, which must be a list of strings."""
  return listed(record, name, str, where)


def _is(value: Any, kind: type) -> bool:
  return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_span(first: int, end: int, size: int, name: str, where: str) -> tuple[int, int]:
  """(first, end), a span that is not empty of something of `size`; raises TaskError."""
  if not 0 <= first < end <= size:
    raise TaskError(f"{where}: {name}: got {first} to {end}, want a span within 0 to {size}; correct the file")
  return first, end


def label_ids(labels: tuple[str, ...], wanted: tuple[str, ...], where: str) -> list[int]:
  """Places of the labels `wanted` in the task's list; raises TaskError for one that it does not have."""
  for label in wanted:
    if label not in labels:
      some = ", ".join(labels[:6]) + (" ..." if len(labels) > 6 else "")
      raise TaskError(f"{where}: got label {label!r}, want one of the {len(labels)} of the training file ({some})")
  return [labels.index(label) for label in wanted]


def digest(path: Path | RecordFile) -> str:
  """SHA-256 of a file, or of all files below a folder (RACE) with their names."""
  if isinstance(path, RecordFile):
    return path.digest
  if not path.is_dir():
    return hashlib.sha256(path.read_bytes()).hexdigest()
  files = sorted(file for file in path.rglob("*") if file.is_file())
  whole = "".join(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n" for file in files)
  return hashlib.sha256(whole.encode()).hexdigest()
