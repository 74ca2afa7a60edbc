"""Texts with spans from JSON lines and command lines, checked where they are read.

Nothing here imports jax.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from data.entity_spans import EntityTextError, sides
from trainer.texts import InputError, read_lines

Span = tuple[int, int]

_SPAN = re.compile(r"\s*(\d+):(\d+)\s*")


@dataclasses.dataclass(frozen=True)
class MentionLine:
  """A text, the spans of mentions in it ([first, end) characters; None = it says nothing of spans), and their titles.

  titles: None = all masked; in the list None = this one is.
  """

  text: str
  spans: list[Span] | None
  titles: list[str | None] | None = None


def is_json_lines(path: str) -> bool:
  """Whether an input is JSON lines by its name."""
  return path.endswith(".jsonl")


def read_mention_lines(path: str, task: str | None = None) -> list[MentionLine]:
  """The lines of a file of JSON objects, or of stdin for `-`.

  {"text": "...", "spans": [[0, 7], [17, 28]], "entities": ["Title", null]}: `spans` and `entities` may be left out, but
  a task has spans; that of a relation may say {"head": [0, 7], "tail": [17, 28]} instead.

  Args:
    task: None, relate (two spans) or type (one or more).
  Raises:
    InputError: says the line.
  """
  return [_mention_line(f"input {path}: line {i}", line, task) for i, line in enumerate(read_lines(path), 1)]


def given_line(
  text: str,
  spans: str | None,
  titles: str | None = None,
  task: str | None = None,
  head: str | None = None,
  tail: str | None = None,
) -> MentionLine:
  """A text with spans as a command line spells them: `0:7,17:28`; titles between commas, [MASK] or nothing = masked.

  Raises:
    InputError: they do not fit the text or the task.
  """
  if (head is None) != (tail is None) or (head is not None and spans is not None):
    raise InputError("want --head and --tail together, or --spans with both")
  if head is not None:
    found = [*_spans("--head", head), *_spans("--tail", tail)]
  else:
    found = None if spans is None else _spans("--spans", spans)
  names = None if titles is None else [title.strip() or None for title in titles.split(",")]
  if names is not None and found is not None and len(names) != len(found):
    raise InputError(
      f"--titles: got {len(names)} titles between commas, want {len(found)}, one for each span; a title that has a "
      'comma in it needs --input=FILE.jsonl with "entities": ["A, B"]'
    )
  return _checked("--text", MentionLine(text, found, names), task)


def _spans(flag: str, value: str | None) -> list[Span]:
  found = [_SPAN.fullmatch(part) for part in (value or "").split(",")]
  if None in found:
    raise InputError(f"{flag}: got {value!r:.60}, want FIRST:END in characters, without the end, such as 0:7,17:28")
  return [(int(match[1]), int(match[2])) for match in found if match]


def _mention_line(where: str, line: str, task: str | None) -> MentionLine:
  try:
    values = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise InputError(f"{where}: got {line!r:.60}, want a JSON object: {error}") from None
  if not isinstance(values, dict) or not isinstance(values.get("text"), str):
    raise InputError(f'{where}: got {line!r:.60}, want an object with "text"')
  if task == "relate" and "spans" not in values and {"head", "tail"} <= values.keys():
    values |= {"spans": [values["head"], values["tail"]]}
  spans = _list(where, values, "spans")
  titles = _list(where, values, "entities") if task is None else None  # a task's own are all masked
  if titles is not None and not all(title is None or isinstance(title, str) for title in titles):
    raise InputError(f"{where}: got entities {titles!r:.60}, want titles, or null for one that is masked")
  return _checked(where, MentionLine(values["text"], spans, titles), task)


def _list(where: str, values: dict[str, Any], name: str) -> list | None:
  value = values.get(name)
  if value is not None and not isinstance(value, list):
    raise InputError(f"{where}: got {name} {value!r:.60}, want a list")
  return value


def _checked(where: str, line: MentionLine, task: str | None) -> MentionLine:
  if line.spans is None and (task is not None or line.titles is not None):
    raise InputError(f"{where}: got no spans, want those of the mentions; give [first, end) characters of each")
  if task == "type" and not line.spans:
    raise InputError(f"{where}: got an empty list of spans, want one at least")
  if line.spans is None:
    return line
  check(where, line.text, line.spans, line.titles, task if task == "relate" else None)
  return dataclasses.replace(line, spans=[(first, end) for first, end in line.spans])


def check(where: str, text: str, spans: Sequence, titles: Sequence | None, task: str | None) -> None:
  """Raises InputError, which begins with `where`, for spans or titles that do not fit the text or the task."""
  try:
    sides(where, text, spans, titles, None, task)
  except EntityTextError as error:
    raise InputError(str(error)) from None
