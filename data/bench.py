"""Tokens per second on one core: building example tables, reading rows, masking, and all of it end to end; and words
per second of streams, spelled. Before that, articles and links per second of a wiki dump on its way to a corpus with
entities, by two worker processes.

    python -m data.bench [--store=DIR] [--format=segment_pairs] [--length=128] [--packed=1] [--batch_size=256]

Without --store it reads a synthetic store that resembles English text. Only real tokens count, never padding.
`end_to_end` is one epoch from nothing: the table built, its order drawn, every batch assembled, masked and held against
its contract. --articles=0 leaves the dump out. Streams are ELMo's: windows of 20 words in both directions, of a text
with as many different words as the 1 Billion Word Benchmark, in 4 groups of rows. The last line of stdout is one JSON
object.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data import draws, masking
from data.characters import Spellings
from data.corpus import Entities, Training, prepare
from data.examples import FORMATS, Options, Table, build_table
from data.loader import Pipeline, Settings
from data.rows import assemble
from data.store import Store, open_store, unigram_counts
from data.streams import Settings as StreamSettings
from data.streams import Streams
from data.tokenizers import Special
from data.tokenizers.training import training
from data.tokenizers.words import SPECIALS

_WORKERS = 2
_STREAM_WORDS, _STREAM_LENGTH, _STREAM_GROUPS = 793_471, 20, 4
_ARTICLE = """{{{{Infobox thing|name={title}|image=[[File:{title}.jpg|thumb]]|area={{{{convert|{number}|km2}}}}}}}}
{lead}<ref name="a{number}">{{{{cite web|url=http://example.org/{number}|title={title}|year=2020}}}}</ref>

== History ==
{body}

{{| class="wikitable"
|-
| {title} || [[{title}]]
|}}

== See also ==
* [[{title} (disambiguation)]]
[[Category:Things]]
"""


def synthetic_store(tokens: int, vocab_size: int, seed: int) -> Store:
  """About `tokens` random tokens: log-normal documents (20 sentences) and sentences (25 tokens), 20 % continuations,
  and annotated spans of two tokens, every tenth token one of an entity and every fifth one of a noun phrase."""
  draw = np.random.default_rng(seed)
  counts = np.clip(draw.lognormal(2.5, 1.0, max(tokens // 450, 3)), 1, 1000).astype(np.int64)
  sizes = np.clip(draw.lognormal(3.05, 0.6, counts.sum()), 1, 300).astype(np.int64)
  sentences, documents = (np.concatenate([[0], np.cumsum(x)]) for x in (sizes, counts))
  word_starts = draw.random(sentences[-1]) >= 0.2
  word_starts[sentences[:-1]] = True
  ids = draw.integers(999, vocab_size, sentences[-1]).astype(np.uint16)
  entity, phrase = (draw.random(sentences[-1]) < share for share in (0.05, 0.1))
  flags = entity + 2 * np.roll(entity, 1) + 4 * phrase + 8 * np.roll(phrase, 1)
  return Store(ids, word_starts, sentences, documents, f"synthetic-{seed}", annotations=flags.astype(np.uint8))


def measure(store: Any, options: Options, batch_size: int, vocab_size: int, batches: int, seed: int) -> dict[str, Any]:
  """Tokens per second by stage; the median over batches, so that a neighbour's burst on the machine does not count."""
  special = Special(pad=0, unk=100, cls=101, sep=102, mask=103)
  table, build = _timed(lambda: build_table(store, options, seed, 0))
  batch_size = min(batch_size, len(table.rows))
  order = draws.permutation(seed, "order", 0, len(table.rows))  # as in training: rows from all over the store
  chosen = [np.take(order, np.arange(i * batch_size, (i + 1) * batch_size), mode="wrap") for i in range(batches)]
  read = [_timed(lambda rows=rows: assemble(table, store, special, rows)) for rows in chosen]
  counts = [int((rows.tokens.segments > 0).sum()) for rows, _ in read]
  speeds = {"building": table.card["tokens"] / build, "reading": _median(counts, [seconds for _, seconds in read])}
  whole, unigram = {}, masking.Unigram.of(unigram_counts(store, vocab_size))
  for strategy in masking.STRATEGIES:
    if strategy in ("entity", "noun_phrase") and store.annotations is None:
      continue
    settings = Settings(batch_size, special, vocab_size, _masking(strategy, options.length), unigram)
    times = [_timed(lambda rows=rows, s=settings: _mask(rows, s, seed))[1] for rows, _ in read]
    speeds[f"masking_{strategy}"] = _median(counts, times)
    whole[strategy], speeds[f"end_to_end_{strategy}"] = _epoch(table, store, settings, seed, build)
  return {
    "tokens_per_second": {name: round(speed) for name, speed in speeds.items()},
    "epoch_seconds": whole,
    "card": {name: table.card[name] for name in table.card if name != "options"},
  }


def stream_words_per_second(tokens: int, batch_size: int, batches: int, seed: int) -> dict[str, float]:
  """Words of both directions a second, chosen, made distinct and spelled, and seconds to shuffle an epoch's sentences.

  The text has about `tokens` words, log-uniform over a vocabulary of a tenth as many at most.
  """
  store, words = synthetic_store(tokens, 1 << 16, seed), min(_STREAM_WORDS, max(tokens // 10, 8))
  draw = np.random.default_rng(seed)
  ids = np.exp(draw.random(store.n_tokens) * np.log(words)).astype(np.int32)
  store = dataclasses.replace(store, tokens=ids + len(SPECIALS) - 1, annotations=None)
  vocabulary = (*SPECIALS, *(f"word{i}" for i in range(words)))
  rows = max(batch_size - batch_size % _STREAM_GROUPS, _STREAM_GROUPS)
  room = 2 * _STREAM_LENGTH * rows // _STREAM_GROUPS
  spellings, shape = Spellings(vocabulary, boundaries=True), (rows, _STREAM_LENGTH, words, _STREAM_GROUPS)
  room = Streams(store, spellings, StreamSettings(*shape, room), seed).most_distinct_words(range(batches + 1))
  streams = Streams(store, spellings, StreamSettings(*shape, room), seed)
  _, shuffling = _timed(lambda: streams.batch(0))
  times = [_timed(lambda cursor=cursor: streams.batch(cursor))[1] for cursor in range(1, batches + 1)]
  pairs = 2 * rows * _STREAM_LENGTH
  return {"words": pairs / float(np.median(times)), "shuffling_seconds": shuffling, "distinct_words": room}


def articles_per_second(count: int, seed: int) -> dict[str, float]:
  """Rates of the two passes over a synthetic dump of short articles (1,700 characters, 15 links), and of both together.

  First pass: markup to sentences with links; second: sentences to tokens with mentions. Starting processes and learning
  the tokenizer are not part of it: a pass counts from its first finished chunk.
  """
  seen: dict[str, list[tuple[float, int]]] = {}
  with tempfile.TemporaryDirectory() as folder:
    dump = Path(folder) / "dump.xml"
    dump.write_text(_dump(count, seed))
    card = prepare(
      str(dump), Training(*training("wordpiece", 2000, True, "pieces")), f"{folder}/corpus", workers=_WORKERS,
      chunk_chars=1 << 17, entities=Entities(size=1000),
      report=lambda stage, documents: seen.setdefault(stage, []).append((time.perf_counter(), documents)),
    )  # fmt: skip
  passes = {}
  for name, stage in (("first_pass", "sentences"), ("second_pass", "tokens")):
    times, documents = zip(*seen[stage], strict=True)
    passes[name] = sum(documents[1:]) / (times[-1] - times[0])
  both = 1 / sum(1 / rate for rate in passes.values())
  return {**passes, "articles": both, "links": both * card["entities"]["links"] / card["entities"]["pages"]}


def _dump(count: int, seed: int) -> str:
  """A dump of articles of two paragraphs whose words are Zipf's, one in 20 a link."""
  draw = np.random.default_rng(seed)
  pages = []
  for number in range(count):
    words = [f"w{rank}" for rank in np.minimum(draw.zipf(1.3, 280), 20_000)]
    for place in np.flatnonzero(draw.random(280) < 0.05):
      words[place] = f"[[Thing {draw.integers(count)}|{words[place]}]]"
    sentences = [" ".join(words[first : first + 20]).capitalize() + "." for first in range(0, 280, 20)]
    text = _ARTICLE.format(
      title=f"Thing {number}", number=number, lead=" ".join(sentences[:6]), body=" ".join(sentences[6:])
    )
    page = f"<title>Thing {number}</title><ns>0</ns><id>{number}</id>"
    pages.append(f"<page>{page}<revision><id>1</id><text>{html.escape(text)}</text></revision></page>")
  return f"<mediawiki>{''.join(pages)}</mediawiki>"


def _masking(strategy: str, length: int) -> masking.Masking:
  """BERT's and ALBERT's settings, or SpanBERT's where spans are masked."""
  most = 20 if length <= 128 else int(0.15 * length + 0.5)
  if strategy in ("token", "whole_word", "ngram"):
    return masking.Masking(strategy, max_predictions=most)
  spans = {"budget": "ceil", "replace_by": "span", "random_tokens": "unigram", "max_offset": 15}
  return masking.Masking(strategy, max_predictions=most, **spans)


def _mask(rows: Any, settings: Settings, seed: int) -> Any:
  keys = masking.mask_keys(seed, 0, rows.examples, 0)
  return masking.mask(rows, settings.masking, keys, settings.special.mask, settings.vocab_size, settings.unigram)


def _epoch(table: Table, store: Any, settings: Settings, seed: int, build: float) -> tuple[float, float]:
  """Seconds and tokens per second of a whole epoch, the table's building included."""
  started, tokens = time.perf_counter(), 0
  pipeline = Pipeline([table], store, settings, seed)
  for cursor in range(pipeline.epoch_size(0)):
    tokens += int(np.count_nonzero(pipeline.batch(cursor).tokens.segments))
  seconds = time.perf_counter() - started + build
  return round(seconds, 3), tokens / seconds


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
  started = time.perf_counter()
  result = work()
  return result, time.perf_counter() - started


def _median(counts: list[int], seconds: list[float]) -> float:
  return float(np.median(np.array(counts) / np.array(seconds)))


def main(arguments: list[str]) -> int:
  parser = argparse.ArgumentParser(prog="python -m data.bench", description=__doc__.split("\n")[0])
  parser.add_argument("--store", help="a prepared corpus; without it a synthetic one")
  parser.add_argument("--split", default="train")
  parser.add_argument("--tokens", type=int, default=8_000_000, help="size of the synthetic store")
  parser.add_argument("--vocab_size", type=int, default=30522)
  parser.add_argument("--format", default="segment_pairs", choices=FORMATS)
  parser.add_argument("--length", type=int, default=128)
  parser.add_argument("--packed", type=int, default=1)
  parser.add_argument("--batch_size", type=int, default=256)
  parser.add_argument("--batches", type=int, default=40, help="batches that the medians are taken over")
  parser.add_argument("--articles", type=int, default=4000, help="of the synthetic dump")
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args(arguments)
  try:
    options = Options(flags.format, flags.length, flags.packed)
    print("data.bench: reading the store", file=sys.stderr)
    synthetic = (flags.tokens, flags.vocab_size, flags.seed)
    store = open_store(flags.store, flags.split) if flags.store else synthetic_store(*synthetic)
    wiki = articles_per_second(flags.articles, flags.seed) if flags.articles else {}
    for name, rate in wiki.items():
      print(f"{name:>24} {rate:8.0f} {'links' if name == 'links' else 'articles'}/s", file=sys.stderr)
    print(f"data.bench: measuring on {len(store.tokens)} tokens, one core", file=sys.stderr)
    if hasattr(os, "sched_setaffinity"):  # Linux; elsewhere NumPy's element-wise work is on one core as it is
      os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    spelled = stream_words_per_second(flags.tokens, flags.batch_size, flags.batches, flags.seed)
    result = measure(store, options, flags.batch_size, flags.vocab_size, flags.batches, flags.seed)
  except ValueError as error:
    print(f"data.bench: {error}", file=sys.stderr)
    return 2
  print(f"{'streams':>24} {spelled['words'] / 1e6:8.2f} million words/s", file=sys.stderr)
  for name, speed in result["tokens_per_second"].items():
    print(f"{name:>24} {speed / 1e6:8.2f} million tokens/s", file=sys.stderr)
  rates = {name: round(rate) for name, rate in wiki.items()}
  report = {"command": "data.bench", "flags": vars(flags), "numpy": np.__version__, "wiki_per_second": rates, **result}
  print(json.dumps(report | {"streams": spelled}))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
