"""Predictions as files: a JSON record a line, and what each benchmark wants to be handed in.

Every function gives the text of a file; who calls it writes the file whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from data.tasks import tags
from data.tasks.certainty import Beside
from data.tasks.files import check_unicode
from data.tasks.glue import TextReader
from data.tasks.named_entities import TaggedDocument
from data.tasks.rows import TaskError
from data.tasks.task import Task

Files = dict[str, str]  # name of a file -> its text


def json_lines(task: Task, examples: Sequence, found: Sequence, beside: Sequence[Beside]) -> str:
  """One object an example, in order: `id`, `prediction`, what stands beside it, and `gold` where it is known.

  `id` is the example's own name, else its place in its file. Entities are [first word, one past the last, type].

  Args:
    beside: as `certainty.beside` gives it.
  """
  return "".join(
    _dumped({"id": task.identity(example), "prediction": answer, **own, **_gold(task, example)}) + "\n"
    for example, answer, own in zip(examples, found, beside, strict=True)
  )


def _gold(task: Task, example: Any) -> dict[str, Any]:
  gold = task.gold(example)
  return {} if gold is None else {"gold": gold}


def _dumped(value: Any) -> str:
  return json.dumps(value, ensure_ascii=False, allow_nan=False)


def submission(task: Task, examples: Sequence, found: Sequence, beside: Sequence[Beside], file: str = "") -> Files:
  """The files to hand in.

  - GLUE: `index<tab>prediction`, labels as the task's files have them, in the file CoLA.tsv and so on;
  - SQuAD and ReCoRD: predictions.json, {id: text}, and of SQuAD 2.0 null_odds.json, {id: odds of no answer}, which the
    scorer takes as probabilities of no answer; the threshold that it finds is one of them, but none above that by which
    questions were left open;
  - CoNLL-2003 and WNUT-17: predictions.conll, a word a line with its true tag, if it is known, and the predicted one,
    both by IOB2, as conlleval and wnuteval read it;
  - TACRED: predictions.txt, a relation a line; SemEval: predictions.txt, `number<tab>relation`.

  Args:
    file: which of `task.blind`'s files the examples are from; "" where there is at most one.
  Raises:
    TaskError: the task has no such file, or nothing is handed in for it.
  """
  if task.blind:
    return _glue(task, examples, found, file)
  if task.name not in _FORMATS:
    raise TaskError(
      f"task {task.name}: has no form to hand predictions in, want one of {', '.join(_FORMATS)} or GLUE's"
    )
  return _FORMATS[task.name](task, examples, found, beside)


def has_form(task: Task) -> bool:
  """Whether answers to the task's own dev and test files can be handed in; GLUE's are for its `blind` files."""
  return task.name in _FORMATS


def check_names(task: Task, examples: Sequence) -> None:
  """Raises TaskError for a name that cannot be written, and for two that are the same where they are handed in."""
  for example in examples:
    check_unicode(task.identity(example), "id", example.where)
  if _FORMATS.get(task.name) not in (_texts, _texts_and_odds):
    return
  counts = Counter(map(task.identity, examples))
  twice = next((example for example in examples if counts[task.identity(example)] > 1), None)
  if twice is not None:
    raise TaskError(f"{twice.where}: got two questions of the id {task.identity(twice)!r}, want one; correct the file")


def _glue(task: Task, examples: Sequence, found: Sequence, file: str) -> Files:
  names = list(task.blind)
  file = names[0] if len(names) == 1 and not file else file
  if file not in names:
    raise TaskError(f"task {task.name}: got predictions of {file!r}, want one of {', '.join(names)}")
  reader: TextReader = task.read
  if reader.classes is None:
    said = [f"{min(max(value, 0.0), 5.0):.6f}" for value in found]
  else:
    written = {name: label for label, name in reader.classes.items()}
    said = [written[label] for label in found]
  lines = [f"{task.identity(example)}\t{label}\n" for example, label in zip(examples, said, strict=True)]
  return {f"{file}.tsv": "".join(["index\tprediction\n", *lines])}


def _by_name(task: Task, examples: Sequence, values: Sequence) -> str:
  check_names(task, examples)
  return _dumped(dict(zip(map(task.identity, examples), values, strict=True))) + "\n"


def _texts(task: Task, examples: Sequence, found: Sequence, beside: Sequence[Beside]) -> Files:
  return {"predictions.json": _by_name(task, examples, found)}


def _texts_and_odds(task: Task, examples: Sequence, found: Sequence, beside: Sequence[Beside]) -> Files:
  odds = _by_name(task, examples, [own["null_odds"] for own in beside])
  return _texts(task, examples, found, beside) | {"null_odds.json": odds}


def _columns(separator: str) -> Callable[..., Files]:
  def text(task: Task, examples: Sequence[TaggedDocument], found: Sequence, beside: Sequence[Beside]) -> Files:
    sentences = [s for example, spans in zip(examples, found, strict=True) for s in _tagged(example, spans)]
    return {"predictions.conll": "\n".join("".join(separator.join(word) + "\n" for word in s) for s in sentences)}

  return text


def _tagged(document: TaggedDocument, found: Sequence[tags.Span]) -> list[list[tuple[str, ...]]]:
  """(word, true tag if it is known, predicted tag) of each sentence's words."""
  sentences = []
  for first, end in zip(document.sentences, document.sentences[1:]):
    known = [found] if document.spans is None else [document.spans, found]
    own = [[(a - first, b - first, kind) for a, b, kind in spans if first <= a < end] for spans in known]
    columns = [tags.tags_of(spans, end - first) for spans in own]
    sentences.append(list(zip(document.words[first:end], *columns, strict=True)))
  return sentences


def _relations(task: Task, examples: Sequence, found: Sequence, beside: Sequence[Beside]) -> Files:
  return {"predictions.txt": "".join(f"{relation}\n" for relation in found)}


def _numbered(task: Task, examples: Sequence, found: Sequence, beside: Sequence[Beside]) -> Files:
  pairs = zip(examples, found, strict=True)
  return {"predictions.txt": "".join(f"{task.identity(example)}\t{relation}\n" for example, relation in pairs)}


_FORMATS: dict[str, Callable[..., Files]] = {
  "conll2003": _columns(" "),
  "record": _texts,
  "semeval": _numbered,
  "squad": _texts,
  "squad2": _texts_and_odds,
  "tacred": _relations,
  "wnut17": _columns("\t"),
}
