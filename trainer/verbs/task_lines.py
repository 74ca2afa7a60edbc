"""Texts, pairs and questions from files and standard input, checked where they are read.

Nothing here imports jax.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from trainer.texts import InputError, read_lines

Texts = tuple[str, ...]  # one, or two


def read_texts(path: str, as_json: bool, pairs: bool) -> list[Texts]:
  """The texts of each line of a file, or of stdin for `-`: {"text": ..., "second": ...}, or as they are.

  Args:
    as_json: whether lines are JSON; else FIRST<tab>SECOND where there may be pairs, and a text a line.
    pairs: whether a line may have two texts; then all have two or none.
  Raises:
    InputError: says the line: it is empty, no JSON, or of another form than the first one.
  """
  found: list[Texts] = []
  for i, line in enumerate(read_lines(path), 1):
    where = f"input {path}: line {i}"
    if as_json:
      own = _strings(where, line, ("text",), ("second",) if pairs else ())
    else:
      own = tuple(line.split("\t")) if pairs else (line,)
    if len(own) > 2:
      raise InputError(f"{where}: got {len(own)} columns, want a text, or FIRST<tab>SECOND")
    if not all(text.strip() for text in own):
      raise InputError(f"{where}: got an empty text, want one with words; remove the line")
    if found and len(own) != len(found[0]):
      kinds = ("", "one text", "a pair")
      raise InputError(f"{where}: got {kinds[len(own)]}, want {kinds[len(found[0])]} as in line 1; correct the line")
    found.append(own)
  return found


def read_questions(path: str) -> list[tuple[str, str]]:
  """(question, context) of each line {"question": ..., "context": ...} of a file, or of stdin for `-`.

  Raises:
    InputError: says the line.
  """
  found = []
  for i, line in enumerate(read_lines(path), 1):
    where = f"input {path}: line {i}"
    question, context = _strings(where, line, ("question", "context"))
    if not question.strip() or not context.strip():
      empty = "context" if question.strip() else "question"
      raise InputError(f"{where}: got an empty {empty}, want some text; correct the line")
    found.append((question, context))
  return found


def read_choices(path: str) -> list[tuple[str, list[str]]]:
  """(text, choices) of each line {"text": ..., "choices": [...]} of a file, or of stdin for `-`.

  Raises:
    InputError: says the line.
  """
  found = []
  for i, line in enumerate(read_lines(path), 1):
    where = f"input {path}: line {i}"
    (text,) = _strings(where, line, ("text",))
    if not text.strip():
      raise InputError(f"{where}: got an empty text, want one with words; correct the line")
    choices = json.loads(line).get("choices")
    texts = isinstance(choices, list) and all(isinstance(each, str) and each.strip() for each in choices)
    if not texts or len(choices) < 2:
      raise InputError(f"{where}: got choices {choices!r:.60}, want a list of two texts or more with words")
    found.append((text, choices))
  return found


def _strings(where: str, line: str, wanted: Sequence[str], may: Sequence[str] = ()) -> tuple[str, ...]:
  """The strings of a JSON object under the names of `wanted` and, where it has them, of `may`."""
  try:
    values = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise InputError(f"{where}: got {line!r:.60}, want a JSON object: {error}") from None
  names = (*wanted, *(name for name in may if isinstance(values, dict) and name in values))
  if not isinstance(values, dict) or not all(isinstance(values.get(name), str) for name in names):
    raise InputError(f"{where}: got {line!r:.60}, want an object with the texts {', '.join(map(repr, names))}")
  return tuple(values[name] for name in names)
