"""What predict.py does with models that are fine-tuned on a task: classify, tag, answer, choose."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from typing import Any

from trainer.mention_lines import is_json_lines
from trainer.texts import InputError, read_text
from trainer.verbs.display import metered, show, warn
from trainer.verbs.task_lines import read_choices, read_questions, read_texts


def classify(flags: argparse.Namespace) -> dict[str, Any]:
  """Classes or numbers of texts and pairs."""
  texts = _texts(flags, pairs=True)
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  options = (flags.top, flags.batch_size, flags.max_length, flags.cut, flags.split)
  with metered(len(texts)) as meter:
    found = inference.classify(model, texts, *options, meter)
  summary = meter.summary()
  records = [
    dict(zip(("text", "second"), text)) | _classes(each) | {"cut": each.cut}
    for text, each in zip(texts, found, strict=True)
  ]
  show(records, _title, lambda record: record["candidates"] if "candidates" in record else [_only(record, "number")])
  warn([f"text {i} is cut; --max_length sets where" for i, each in enumerate(found, 1) if each.cut])
  labels = Counter(record["label"] for record in records if "label" in record)
  numbers = [each.number for each in found if each.number is not None]
  told = {"mean": sum(numbers) / len(numbers)} if numbers else {"labels": dict(labels.most_common())}
  return {"model": model.source, **summary, **told, "cut": sum(each.cut for each in found)}


def _classes(found: Any) -> dict[str, Any]:
  if found.number is not None:
    return {"number": found.number}
  candidates = [dataclasses.asdict(label) for label in found.labels]
  return candidates[0] | {"candidates": candidates}


def _title(record: dict) -> str:
  return " | ".join(record[name] for name in ("text", "second") if name in record)


def _only(record: dict, *names: str) -> dict:
  return {name: record[name] for name in names}


def _texts(flags: argparse.Namespace, pairs: bool) -> list[tuple[str, ...]]:
  second = flags.second if pairs else None
  if flags.text is None:
    if second is not None:
      raise InputError("--second is that of --text; lines of --input say their own")
    return read_texts(flags.input, flags.jsonl or is_json_lines(flags.input), pairs)
  texts = (flags.text,) if second is None else (flags.text, second)
  if not all(text.strip() for text in texts):
    raise InputError(f"--text: got {texts[0]!r:.60}, want a text with words" + (" on both sides" if second else ""))
  return [texts]


def tag(flags: argparse.Namespace) -> dict[str, Any]:
  """Words of texts with their classes, and the entities that they say."""
  texts = [text for (text,) in _texts(flags, pairs=False)]
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  with metered(len(texts)) as meter:
    found = inference.tag(model, texts, flags.split, flags.batch_size, flags.max_length, meter)
  summary = meter.summary()
  records = [{"text": text, **dataclasses.asdict(each)} for text, each in zip(texts, found, strict=True)]
  show(records, lambda record: record["text"], _entities)
  types = Counter(span["type"] for record in records for span in record["spans"])
  words = sum(len(each.words) for each in found)
  return {"model": model.source, **summary, "words": words, "types": dict(types.most_common())}


def _entities(record: dict) -> list[dict]:
  """Rows of a table: entities, or words where their classes say none."""
  if all(tag == "O" for tag in record["tags"]):
    return [{"entity": "none"}]
  if not record["spans"]:
    return [{"word": word, "class": tag} for word, tag in zip(record["words"], record["tags"], strict=True)]
  return [
    {
      "characters": f"{span['start']}:{span['end']}",
      "entity": span["text"],
      "type": span["type"],
      "probability": "" if span["probability"] is None else span["probability"],
    }
    for span in record["spans"]
  ]


def answer(flags: argparse.Namespace) -> dict[str, Any]:
  """Answers to questions in contexts."""
  pairs = _questions(flags)
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  options = (flags.top, flags.null_threshold, flags.batch_size, flags.max_length)
  questions, contexts = map(list, zip(*pairs))
  with metered(len(pairs), "questions") as meter:
    found = inference.answer(model, questions, contexts, *options, meter, flags.cut)
  summary = meter.summary()
  records = []
  for question, each in zip(questions, found, strict=True):
    odds = {} if each.null_odds is None else {"null_odds": each.null_odds}
    answers = [dataclasses.asdict(one) for one in each.answers]
    records.append({"question": question, "answer": each.text, "answers": answers, **odds, "cut": each.cut})
  show(records, lambda record: f"{record['question']} {record['answer'] or 'no answer'}", _answers)
  warn([f"question {i} is cut" for i, each in enumerate(found, 1) if each.cut])
  return {"model": model.source, **summary, "unanswered": sum(not each.text for each in found)}


def _answers(record: dict) -> list[dict]:
  return [
    {
      "answer": each["text"] or "none",
      "characters": "" if each["start"] is None else f"{each['start']}:{each['end']}",
      "probability": each["probability"],
      "score": each["score"],
    }
    for each in record["answers"]
  ]


def _questions(flags: argparse.Namespace) -> list[tuple[str, str]]:
  """(question, context)."""
  own = (flags.question, flags.context, flags.passage)
  if (flags.input is None) == (own == (None, None, None)):
    raise InputError('want --question with --context or --passage, or --input with {"question", "context"} lines')
  if flags.input is not None:
    return read_questions(flags.input)
  if flags.question is None or (flags.context is None) == (flags.passage is None):
    raise InputError("want --question, and one of --context=FILE and --passage=TEXT")
  context = read_text(flags.context, "to answer from") if flags.passage is None else flags.passage
  if not flags.question.strip() or not context.strip():
    raise InputError("want a question and a context with words; one of them is empty")
  return [(flags.question, context)]


def choose(flags: argparse.Namespace) -> dict[str, Any]:
  """Which of several texts goes with a text."""
  if flags.text is not None and len(flags.choice or ()) < 2:
    raise InputError("want --choice=TEXT twice or more with --text")
  if flags.text is None and flags.choice:
    raise InputError("--choice is that of --text; lines of --input say their own")
  given = [] if flags.text is None else [("--text", flags.text), *(("--choice", choice) for choice in flags.choice)]
  for flag, text in given:
    if not text.strip():
      raise InputError(f"{flag}: got {text!r:.60}, want a text with words")
  lines = read_choices(flags.input) if flags.text is None else [(flags.text, flags.choice)]
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  texts, choices = map(list, zip(*lines))
  with metered(len(texts)) as meter:
    found = inference.choose(model, texts, choices, flags.batch_size, flags.max_length, flags.cut, meter)
  summary = meter.summary()
  records = [
    {"text": text, "choice": own[each.number], "choices": own, **dataclasses.asdict(each)}
    for text, own, each in zip(texts, choices, found, strict=True)
  ]
  show(
    records,
    lambda record: record["text"],
    lambda record: [
      {"choice": choice, "probability": share}
      for choice, share in zip(record["choices"], record["probabilities"], strict=True)
    ],
  )
  return {"model": model.source, **summary}
