"""What predict.py decides about mentions: relate and type. Each takes flags and returns a summary."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

from trainer.mention_lines import MentionLine, Span, given_line, read_mention_lines
from trainer.texts import InputError
from trainer.verbs.display import metered, show, warn

if TYPE_CHECKING:  # it imports jax, which wrong input does not wait for
  from trainer.inference.entity_answers import Decision


def relate(flags: argparse.Namespace) -> dict[str, Any]:
  lines = _lines(flags, "relate", head=flags.head, tail=flags.tail)
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  texts, spans = [line.text for line in lines], [line.spans for line in lines]
  with metered(len(texts)) as meter:
    decided = inference.relate(model, texts, spans, flags.top, flags.batch_size, flags.max_length, meter)
  summary = meter.summary()
  records = [
    {
      "text": text,
      **{name: _mention(text, span) for name, span in zip(("head", "tail"), own)},
      **dataclasses.asdict(decision.labels[0]),
      **_rest(decision, "candidates"),
    }
    for text, own, decision in zip(texts, spans, decided, strict=True)
  ]
  show(
    records,
    lambda record: record["text"],
    lambda record: [
      {"head": record["head"]["mention"], "tail": record["tail"]["mention"], **candidate}
      for candidate in record["candidates"]
    ],
  )
  labels = Counter(record["label"] for record in records)
  return {"model": model.source, **summary, "labels": dict(labels.most_common()), "warnings": _warned(decided)}


def type_mentions(flags: argparse.Namespace) -> dict[str, Any]:
  """One record a mention."""
  lines = _lines(flags, "type")
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  texts, spans = [line.text for line in lines], [line.spans for line in lines]
  with metered(sum(map(len, spans)), "mentions") as meter:
    decided = inference.types(model, texts, spans, flags.top, flags.batch_size, flags.max_length, meter)
  summary = meter.summary()
  records = [
    {"text": text, **_mention(text, span), **_rest(decision, "labels")}
    for text, own, decisions in zip(texts, spans, decided, strict=True)
    for span, decision in zip(own, decisions, strict=True)
  ]
  nothing = [{"label": "none above 0.5", "probability": ""}]
  show(
    records,
    lambda record: record["text"],
    lambda record: [{"mention": record["mention"], **label} for label in record["labels"] or nothing],
  )
  labels = Counter(label["label"] for record in records for label in record["labels"])
  warnings = _warned([decision for own in decided for decision in own])
  return {"model": model.source, **summary, "labels": dict(labels.most_common()), "warnings": warnings}


def _lines(flags: argparse.Namespace, task: str, **sides: str | None) -> list[MentionLine]:
  if flags.text is not None:
    return [given_line(flags.text, flags.spans, task=task, **sides)]
  if flags.spans is not None or any(sides.values()):
    raise InputError("spans on the command line are those of --text; lines of --input say their own")
  return read_mention_lines(flags.input, task)


def _mention(text: str, span: Span) -> dict[str, Any]:
  return {"start": span[0], "end": span[1], "mention": text[slice(*span)]}


def _rest(decision: Decision, name: str) -> dict[str, Any]:
  labels = [dataclasses.asdict(label) for label in decision.labels]
  return {name: labels, "warnings": [str(remark) for remark in decision.remarks]}


def _warned(decided: list[Decision]) -> int:
  """How many warnings there are; the first ones on stderr."""
  odd = [f"text {remark.text + 1}: {remark}" for decision in decided for remark in decision.remarks]
  warn(odd)
  return len(odd)
