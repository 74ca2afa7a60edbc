"""Corpus preparation: text of any source -> tokenised documents, a data card, and the memory maps training reads.

The output is DIR/documents (ArrayRecord, readable with TFDS), DIR/tokenizer, DIR/card.json and DIR/store-*, and of a
corpus with entities DIR/entities. The same call after an interruption goes on where it stopped, from the chunks under
DIR/work; the result depends neither on interruptions nor on the number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from data import chunks, corpus_entities, draws, stamps
from data.corpus_entities import Entities, Linked
from data.documents import BAD, EncodedDocument
from data.sources import Source, open_source
from data.store import FORMAT, Tally, open_store, read_card
from data.tokenizers import Tokenizer, load

_LIBRARIES = ("numpy", "tensorflow-datasets", "array-record", "sentencex", "tokenizers", "sentencepiece")
_CHECK_BAD_FROM = 1000  # documents; earlier, one bad document could end a healthy corpus

Report = Callable[[str, int], None]  # stage, documents since the last call


class CorpusError(ValueError):
  """A preparation that cannot start or go on; one line."""


@dataclasses.dataclass(frozen=True)
class Training:
  """A tokenizer to learn from the corpus itself.

  `train(sentences)` is called once, with every sentence in corpus order; `settings` is all that decides its result.
  """

  train: Callable[[Iterator[str]], Tokenizer]
  settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Plan:
  source: Source
  settings: dict[str, Any]
  output: Path
  workers: int
  chunk_chars: int
  max_bad_share: float
  load: Callable[[str], Tokenizer]
  report: Report
  entities: Entities | None

  @property
  def work(self) -> Path:
    return self.output / "work"

  def key(self, *names: str) -> str:
    """Digest of some of the settings, for the name of a file of work."""
    return chunks.digest({name: self.settings[name] for name in names})[:16]


def prepare(
  input: str,
  tokenizer: str | Path | Tokenizer | Training,
  output: str | Path,
  *,
  language: str = "en",
  seed: int = 0,
  holdout: float = 0.05,
  min_tokens: int = 1,
  max_bad_share: float = 0.01,
  workers: int = 0,
  entities: Entities | None = None,
  chunk_chars: int = chunks.CHUNK_CHARS,
  load: Callable[[str], Tokenizer] = load,
  report: Report = lambda stage, documents: None,
) -> dict:
  """Prepares a corpus, or finds it prepared with the same settings, and returns its data card.

  Args:
    input: a corpus of `data.sources`.
    tokenizer: the path of one, one, or how to learn one from the corpus.
    output: a folder that is empty, missing, or holds this corpus, finished or not.
    language: of the text, an ISO 639 code.
    seed: of the held-out documents and of a mixture.
    holdout: share of documents held out as the split "validation", by a hash of the document's id; 0 = no such split.
    min_tokens: shorter documents are left out.
    max_bad_share: stop where more of the documents than this share are damaged.
    workers: processes; 0 = none beside this one. Does not change the result.
    entities: what becomes of the links of the corpus; None = they are text.
    chunk_chars: characters a worker is handed at once. Does not change the result.
    load: reads the tokenizer in worker processes; must be importable there.
    report: called with a stage and the number of documents that passed it since the last call.
  Raises:
    CorpusError, SourceError, LanguageError, TokenizerError, StoreError, EntityError: with one line.
  """
  _check(holdout, min_tokens, max_bad_share, workers)
  source, output = open_source(input, language, seed), Path(output)
  if isinstance(tokenizer, (str, Path)):
    tokenizer = load(str(tokenizer))
  settings = {
    "input": input,
    "files": stamps.described(source.files, output),
    "source": source.identity,
    "tokenizer": {"train": tokenizer.settings} if isinstance(tokenizer, Training) else {"digest": tokenizer.digest},
    "language": language,
    "seed": seed,
    "holdout": holdout,
    "min_tokens": min_tokens,
  }
  if entities is not None:
    settings["entities"] = entities.settings()
  plan = _Plan(source, settings, output, workers, chunk_chars, max_bad_share, load, report, entities)
  if (finished := _finished(plan)) is None:
    with _claimed(plan):
      finished = _finished(plan) or _prepare(plan, tokenizer)
  for split in finished["splits"]:
    open_store(output, split)  # decodes what was written and holds it against the card
  shutil.rmtree(plan.work, ignore_errors=True)
  return finished


def _check(holdout: float, min_tokens: int, max_bad_share: float, workers: int) -> None:
  wanted = {
    "holdout": (holdout, "a share of at least 0 and below 1", 0 <= holdout < 1),
    "min_tokens": (min_tokens, "at least 1", min_tokens >= 1),
    "max_bad_share": (max_bad_share, "a share between 0 and 1", 0 <= max_bad_share <= 1),
    "workers": (workers, "at least 0", workers >= 0),
  }
  for name, (got, want, fine) in wanted.items():
    if not fine:
      raise CorpusError(f"{name}: got {got}, want {want}")


def _finished(plan: _Plan) -> dict | None:
  """The card of a corpus that stands in the output already; refuses one made with other settings."""
  if not (plan.output / "card.json").exists():
    return None
  card = read_card(plan.output)
  was, now = ({"entities": None, **settings} for settings in (card["settings"], json.loads(json.dumps(plan.settings))))
  # What a corpus learned from itself may be handed back to it, by a run that starts from a model of the same corpus.
  if now["tokenizer"] == {"digest": card["tokenizer"]["digest"]}:
    now["tokenizer"] = was["tokenizer"]
  learned = {"digest": card["entities"]["vocabulary"]["digest"]} if was["entities"] else None
  if now["entities"] and now["entities"]["vocabulary"] == learned:
    now["entities"]["vocabulary"] = was["entities"]["vocabulary"]
  changed = [f"{name} was {_short(was[name])}, now {_short(now[name])}" for name in now if was[name] != now[name]]
  if changed:
    raise CorpusError(
      f"corpus {plan.output}: was prepared with other settings: {'; '.join(changed)}: name another output or delete it"
    )
  return card


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 160 else f"{text[:100]}... (digest {chunks.digest(value)[:8]})"


@contextlib.contextmanager
def _claimed(plan: _Plan) -> Iterator[None]:
  """Holds the output alone; a second preparation of it waits, and then finds the first one's result."""
  output, work = plan.output, plan.work
  if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not work.exists())):
    raise CorpusError(f"output {output}: is no empty folder and holds no corpus: name another, or empty it")
  work.mkdir(parents=True, exist_ok=True)
  with (work / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    work.mkdir(exist_ok=True)  # whoever held the lock before may have finished and cleaned up
    yield


def _prepare(plan: _Plan, tokenizer: Tokenizer | Training) -> dict:
  try:
    texts, skipped = _write_texts(plan)
    folder = _write_tokenizer(plan, tokenizer, texts)
    linked = _link(plan, texts)
    tokens = _write_tokens(plan, texts, folder, linked)
  except BrokenProcessPool as error:
    raise CorpusError(
      "a worker process died (most often: out of memory): use fewer workers; finished chunks are kept"
    ) from error
  keys = []  # eight bytes a document, all that is kept of each: names of millions would be most of the memory
  for path in tokens:
    names, counts = chunks.read_names(path)
    keys.append(np.asarray([draws.key(plan.settings["seed"], "holdout", name) for name in names], np.uint64))
    skipped += counts
  keys = np.concatenate([np.zeros(0, np.uint64), *keys])
  _check_bad(plan, skipped, len(keys))
  tallies = _write_documents(plan, tokens, _held_out(plan, keys))
  shutil.rmtree(plan.output / "tokenizer", ignore_errors=True)
  shutil.copytree(folder, plan.output / "tokenizer")
  if linked is not None:
    shutil.rmtree(plan.output / "entities", ignore_errors=True)
    shutil.copytree(linked.folder, plan.output / "entities")
  card = _card(plan, plan.load(str(folder)), tallies, skipped, linked)
  chunks.write_atomically(plan.output / "card.json", json.dumps(card, indent=2, ensure_ascii=False).encode())
  return card


def _write_texts(plan: _Plan) -> tuple[list[Path], Counter]:
  """First pass: every document divided into sentences; also what the source left out."""
  linked = plan.entities is not None
  kind, write = ("linked", chunks.write_linked_texts) if linked else ("texts", chunks.write_texts)
  manifest = plan.work / f"{kind}-{plan.key('input', 'files', 'source', 'language', 'seed')}-{plan.chunk_chars}.json"
  if manifest.exists():
    value = json.loads(manifest.read_bytes())
    return [plan.work / name for name in value["chunks"]], Counter(value["skipped"])
  language, sizes = plan.settings["language"], {}

  def jobs() -> Iterator[chunks.Job]:
    read = 0
    for index, group in enumerate(chunks.grouped(plan.source.raw(linked), plan.chunk_chars)):
      key = chunks.digest(language, [dataclasses.astuple(document) for document in group])[:16]
      path = plan.work / f"{kind}-{index:06d}-{key}.json"
      sizes[path] = len(group)
      if (read := read + len(group)) >= _CHECK_BAD_FROM:
        _check_bad(plan, plan.source.skipped, read)
      yield path, (group, language)

  chunks.run(write, jobs(), plan.workers, lambda path: plan.report("sentences", sizes[path]))
  value = {"chunks": [path.name for path in sizes], "skipped": plan.source.skipped}
  chunks.write_atomically(manifest, json.dumps(value).encode())
  return list(sizes), Counter(plan.source.skipped)


def _write_tokenizer(plan: _Plan, tokenizer: Tokenizer | Training, texts: list[Path]) -> Path:
  trained = ("input", "files", "source", "language", "seed") if isinstance(tokenizer, Training) else ()
  folder = plan.work / f"tokenizer-{plan.key('tokenizer', *trained)}"
  if not folder.exists():
    if isinstance(tokenizer, Training):
      tokenizer = tokenizer.train(_sentences(plan, texts))
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tokenizer.save(temporary)
    temporary.rename(folder)
  return folder


def _sentences(plan: _Plan, texts: list[Path]) -> Iterator[str]:
  for path in texts:
    documents, _ = chunks.read_texts(path)
    for document in documents:
      yield from document.text
    plan.report("tokenizer", len(documents))


def _link(plan: _Plan, texts: list[Path]) -> Linked | None:
  """Between the passes: the entities of the corpus, None where it has none."""
  if plan.entities is None:
    return None
  key = chunks.digest([path.name for path in texts], plan.settings["entities"], plan.settings["language"])[:16]
  return corpus_entities.link(plan.entities, texts, plan.work, key, plan.settings["language"], plan.report)


def _write_tokens(plan: _Plan, texts: list[Path], folder: Path, linked: Linked | None) -> list[Path]:
  """Second pass: every sentence in tokens, every link a mention."""
  min_tokens = plan.settings["min_tokens"]
  names = (folder.name, min_tokens) if linked is None else (folder.name, min_tokens, linked.table.name)
  paths: dict[Path, Path] = {}
  for index, text in enumerate(texts):
    key = chunks.digest(text.name, *names)[:16]
    paths[plan.work / f"tokens-{index:06d}-{key}.npz"] = text
  write = chunks.write_tokens if linked is None else chunks.write_linked_tokens
  more = () if linked is None else (linked.table, linked.unknown)
  jobs = ((path, (text, plan.load, str(folder), min_tokens, *more)) for path, text in paths.items())
  chunks.run(write, jobs, plan.workers, lambda path: plan.report("tokens", len(chunks.read_names(path)[0])))
  return list(paths)


def _check_bad(plan: _Plan, skipped: Counter, kept: int) -> None:
  bad = {reason: skipped[reason] for reason in sorted(BAD) if skipped[reason]}
  count = sum(bad.values())
  if count > plan.max_bad_share * (kept + count):
    listed = ", ".join(f"{reason}: {number}" for reason, number in bad.items())
    raise CorpusError(
      f"corpus {plan.source.spec}: {count} of {kept + count} documents are damaged ({listed}), want at most a share of "
      f"{plan.max_bad_share:g}: mend the text, or allow it with --max_bad_share"
    )


def _held_out(plan: _Plan, keys: np.ndarray) -> np.ndarray | None:
  """bool [documents]: by a hash of the id, and at least one document on each side; None without a held-out split.

  Args:
    keys: uint64 [documents]: of the draw of each.
  """
  if not len(keys):
    raise CorpusError(f"corpus {plan.source.spec}: no document is left, want at least 1; is it text, and in this form?")
  holdout = plan.settings["holdout"]
  if holdout == 0:
    return None
  if len(keys) < 2:
    raise CorpusError(
      f"corpus {plan.source.spec}: got 1 document, want at least 2 to hold one out: say --holdout=0, or divide the "
      "text (a blank line in the form lines:, two in the form text:)"
    )
  drawn = draws.uniform(keys, 0)
  held = drawn < holdout
  held[np.argmin(drawn)] = True
  held[np.argmax(drawn)] = False
  return held


def _write_documents(plan: _Plan, tokens: list[Path], held: np.ndarray | None) -> dict[str, Tally]:
  from data import records  # TFDS is slow to import, and worker processes never need it

  def members(split: str) -> Iterator[EncodedDocument]:
    documents = (document for path in tokens for document in chunks.read_tokens(path))
    for number, document in enumerate(documents):
      if held is None or held[number] == (split == "validation"):
        plan.report("records", 1)
        yield document

  folder = plan.output / "documents"
  shutil.rmtree(folder, ignore_errors=True)
  annotated, linked = any(map(chunks.annotated, tokens)), plan.entities is not None
  tallies = {split: Tally(annotated, linked) for split in ("train", "validation")[: 1 if held is None else 2]}
  splits = {split: lambda split=split: tallies[split].counted(members(split)) for split in tallies}
  records.write(folder, splits, annotated, linked)
  return tallies


def _card(
  plan: _Plan, tokenizer: Tokenizer, tallies: dict[str, Tally], skipped: Counter, linked: Linked | None
) -> dict:
  splits = {split: tally.card() for split, tally in tallies.items()}
  digests = {name: split["digest"] for name, split in splits.items()}
  entities = {} if linked is None else {"entities": linked.card}
  if linked is not None:
    digests["entities"] = linked.card["vocabulary"]["digest"]
  return {
    "format": FORMAT,
    "fingerprint": chunks.digest(FORMAT, tokenizer.digest, digests),
    "splits": splits,
    "skipped": dict(sorted(skipped.items())),
    "tokenizer": {"kind": tokenizer.kind, "digest": tokenizer.digest, "vocab_size": tokenizer.vocab_size},
    **entities,
    "settings": json.loads(json.dumps(plan.settings)),
    "stamps": [stamps.stamp(path) for path in plan.source.files],
    "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
  }
