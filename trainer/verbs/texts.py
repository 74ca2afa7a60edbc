"""What predict.py does on words: encode, fill, pair, detect, tokenize, neighbors. Each takes flags, returns a summary.

Models are imported where one runs: reading, and tokenizing, need no jax.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data import word_vectors
from data.sources import open_source
from trainer.mention_lines import MentionLine, given_line, is_json_lines, read_mention_lines
from trainer.texts import InputError, load_tokenizer, read_lines, read_pairs
from trainer.verbs.display import metered, show, warn


def _texts(flags: argparse.Namespace) -> list[str]:
  return [flags.text] if flags.text is not None else read_lines(flags.input)


def _lines(flags: argparse.Namespace) -> list[MentionLine]:
  """Texts, with spans where the lines are JSON."""
  if flags.jsonl or is_json_lines(flags.input):
    return read_mention_lines(flags.input)
  return [MentionLine(text, None) for text in read_lines(flags.input)]


def _mentions(lines: list[MentionLine]) -> dict[str, Any]:
  """`spans` and `titles` of lines, of which one at least says something of spans; else nothing."""
  if all(line.spans is None for line in lines):
    return {}
  return {"spans": [line.spans or [] for line in lines], "titles": [line.titles for line in lines]}


def encode(flags: argparse.Namespace) -> dict[str, Any]:
  lines, output = _lines(flags), Path(flags.output)
  if not output.parent.is_dir() or output.is_dir():
    raise InputError(f"output {output}: is a directory or in one that does not exist, want a file such as out.npz")
  from trainer import inference

  model, mentions = inference.load_model(flags.model, flags.dtype), _mentions(lines)
  names = ("pool", "layers", "batch_size", "max_length", "split", "stateful")
  options = {name: getattr(flags, name) for name in names}
  with metered(len(lines)) as meter:
    encodings = inference.encode(model, [line.text for line in lines], **options, report=meter, **mentions)
  summary = meter.summary()
  arrays = encodings.arrays()
  _write(output, arrays)
  shapes = {name: list(array.shape) for name, array in arrays.items()}
  if isinstance(encodings, inference.WordEncodings):  # whole words, and all of them
    return {"model": model.source, "output": str(output), **summary, "stateful": flags.stateful, "arrays": shapes}
  if encodings.truncated:
    print(f"warning: {encodings.truncated} of {len(lines)} texts are cut; --max_length sets where", file=sys.stderr)
  warn([f"text {remark.text + 1}: {remark}" for remark in encodings.remarks])
  summary |= {"truncated": encodings.truncated}
  if mentions:
    lost = sum(remark.lost for remark in encodings.remarks)
    summary |= {"spans": int(encodings.entity_counts.sum()), "lost": lost, "warnings": len(encodings.remarks) - lost}
  return {"model": model.source, "output": str(output), **summary, "arrays": shapes}


def _write(output: Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes an npz file whole or not at all."""
  partial = output.with_name(f".{output.name}.{os.getpid()}")
  try:
    with partial.open("wb") as file:
      np.savez(file, **arrays)
    partial.replace(output)
  except OSError as error:
    raise InputError(f"output {output}: cannot be written: {error.strerror}") from error
  finally:
    partial.unlink(missing_ok=True)


def fill(flags: argparse.Namespace) -> dict[str, Any]:
  """Words, and entities where there are spans."""
  if flags.text is None and (flags.spans is not None or flags.titles is not None):
    raise InputError("--spans and --titles are those of --text; lines of --input=FILE.jsonl say their own")
  lines = _lines(flags) if flags.text is None else [given_line(flags.text, flags.spans, flags.titles)]
  texts, mentions = [line.text for line in lines], _mentions(lines)
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  options = (flags.top, flags.batch_size, flags.max_length)
  with metered(len(texts)) as meter:
    if mentions:
      filled = inference.fill_entities(model, texts, *mentions.values(), *options, meter)
    else:
      blanks = inference.fill(model, texts, *options, meter)
  summary = meter.summary()
  if not mentions:
    records = [
      {"text": text, "masks": [dataclasses.asdict(blank) for blank in own]}
      for text, own in zip(texts, blanks, strict=True)
    ]
    show(records, lambda record: record["text"], _candidates)
    return {"model": model.source, **summary, "masks": sum(map(len, blanks))}
  records = [
    {
      "text": text,
      "masks": [dataclasses.asdict(blank) for blank in own.words],
      "entities": [dataclasses.asdict(masked) for masked in own.entities],
      "warnings": [str(remark) for remark in own.remarks],
    }
    for text, own in zip(texts, filled, strict=True)
  ]
  show(records, lambda record: record["text"], _candidates)
  odd = [remark for own in filled for remark in own.remarks]
  warn([f"text {remark.text + 1}: {remark}" for remark in odd])
  counts = {"masks": sum(len(own.words) for own in filled), "entities": sum(len(own.entities) for own in filled)}
  return {"model": model.source, **summary, **counts, "warnings": len(odd)}


def _candidates(record: dict) -> list[dict]:
  """Rows of a table: pieces for masks by number, titles for masked spans by their characters."""
  rows = [
    {"mask": number, "piece": candidate["piece"], "probability": candidate["probability"]}
    for number, mask in enumerate(record["masks"], 1)
    for candidate in mask["candidates"]
  ]
  return rows + [
    {"mask": f"{entity['start']}:{entity['end']}", "piece": candidate["title"], "probability": candidate["probability"]}
    for entity in record.get("entities", ())
    for candidate in entity["candidates"]
  ]


def pair(flags: argparse.Namespace) -> dict[str, Any]:
  sides = (flags.first, flags.second)
  if (flags.input is None) == (sides == (None, None)) or (flags.input is None and None in sides):
    raise InputError("want --first and --second, or --input with FIRST<tab>SECOND lines")
  pairs = [sides] if flags.input is None else read_pairs(flags.input)
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  with metered(len(pairs)) as meter:
    follows = inference.pair(model, pairs, flags.batch_size, flags.max_length, meter).tolist()
  summary = meter.summary()
  records = [
    {"first": first, "second": second, "probability": p, "label": int(p < 0.5)}  # 0 = IsNext, as BERT counts
    for (first, second), p in zip(pairs, follows, strict=True)
  ]
  show(records, lambda record: "second text follows the first (label 0) or not (1)", lambda record: [record])
  return {"model": model.source, **summary, "follows": sum(record["label"] == 0 for record in records)}


def detect(flags: argparse.Namespace) -> dict[str, Any]:
  texts = _texts(flags)
  from trainer import inference

  model = inference.load_model(flags.model, flags.dtype)
  with metered(len(texts)) as meter:
    found = inference.detect(model, texts, flags.batch_size, flags.max_length, meter)
  summary = meter.summary()
  records = []
  for text, encoding, probabilities in zip(texts, model.tokenizer.encode(texts, specials=True), found, strict=True):
    columns = zip(model.tokenizer.pieces(encoding.ids), encoding.offsets.tolist(), probabilities.tolist(), strict=True)
    tokens = [{"piece": piece, "start": at, "end": end, "replaced": p} for piece, (at, end), p in columns]
    records.append({"text": text, "tokens": tokens})
  show(records, lambda record: record["text"], lambda record: record["tokens"])
  replaced = sum(int((probabilities > 0.5).sum()) for probabilities in found)
  return {"model": model.source, **summary, "replaced": replaced}


def tokenize(flags: argparse.Namespace) -> dict[str, Any]:
  texts, tokenizer = _texts(flags), load_tokenizer(flags.model)
  encodings = tokenizer.encode(texts, specials=True)
  records = [
    {"text": text, "pieces": tokenizer.pieces(e.ids), "ids": e.ids.tolist(), "offsets": e.offsets.tolist()}
    for text, e in zip(texts, encodings, strict=True)
  ]
  show(
    records,
    lambda record: record["text"],
    lambda record: [
      {"piece": piece, "id": i, "characters": f"{start}-{end}"}
      for piece, i, (start, end) in zip(record["pieces"], record["ids"], record["offsets"], strict=True)
    ],
  )
  unknown = sum(int((e.ids == tokenizer.special.unk).sum()) for e in encodings)
  return {"model": flags.model, "texts": len(texts), "tokens": sum(map(len, encodings)), "unknown": unknown}


def neighbors(flags: argparse.Namespace) -> dict[str, Any]:
  source = open_source(flags.corpus)
  vectors = None if flags.vectors is None else word_vectors.read(flags.vectors, lowercase=False)
  from trainer import inference
  from trainer.inference.neighbors import find
  from trainer.inference.neighbors import neighbors as nearest

  model = inference.load_model(flags.model, flags.dtype)
  texts = (text for document in source for text in document.text)
  inference.refuse_network(model, "neighbors")
  found = find(model, flags.word, texts, flags.sentence, flags.any_word, flags.split)
  with metered(len({one.text for one in found.others})) as meter:
    spaces = nearest(model, found, flags.top, flags.layers, vectors, flags.batch_size, meter)
  summary = meter.summary()
  records = [
    {
      "space": space.name,
      "neighbors": [
        {name: value for name, value in dataclasses.asdict(near).items() if value is not None}
        for near in space.neighbors
      ],
    }
    for space in spaces
  ]
  query = {"word": found.word, "sentence": found.query.text, "start": found.query.start, "end": found.query.end}
  asked = _marked(found.query.text, found.query.start, found.query.end)
  in_context = lambda record: any("text" in near for near in record["neighbors"])
  show(records, lambda record: record["space"] + (f": {asked}" if in_context(record) else ""), _near)
  return {"model": model.source, **query, "corpus": found.texts, "occurrences": len(found.others), **summary}


def _near(record: dict) -> list[dict]:
  """Rows of a table: words, or what stands around them."""
  return [
    {"cosine": near["cosine"], "neighbor": _marked(near["text"], near["start"], near["end"])}
    if "text" in near
    else {"cosine": near["cosine"], "neighbor": near["word"]}
    for near in record["neighbors"]
  ]


def _marked(text: str, start: int, end: int, around: int = 50) -> str:
  """A word between square brackets, and at most so many characters before and behind it."""
  before, behind = text[:start], text[end:]
  before = before if len(before) <= around else "…" + before[-around:]
  behind = behind if len(behind) <= around else behind[:around] + "…"
  return f"{before}[{text[start:end]}]{behind}"
