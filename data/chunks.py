"""Work that is done once: chunks of documents, worker processes, and one atomically written file for each chunk.

A chunk's file name carries the digest of everything it follows from, so a file that exists is a chunk that is done,
whoever wrote it. Chunks follow from the documents alone: the number of workers changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from data import link_table, titles
from data.documents import Document, EncodedDocument, Skipped, encode, sentences, with_links
from data.mentions import encode_linked
from data.stripper import Stripper

CHUNK_CHARS = 1 << 20
Job = tuple[Path, tuple]  # the file, and the arguments of the function that writes it


def digest(*parts: Any) -> str:
  """SHA-256 of values as JSON."""
  return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
  """After this returns the file stands whole, even after a power cut; before, it does not exist."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with temporary.open("wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def grouped(documents: Iterable[Document], chars: int) -> Iterator[list[Document]]:
  """Lists of neighbouring documents of about `chars` characters."""
  group: list[Document] = []
  size = 0
  for document in documents:
    group.append(document)
    size += len(document.text) if isinstance(document.text, str) else sum(map(len, document.text))
    if size >= chars or len(group) >= 4096:
      yield group
      group, size = [], 0
  if group:
    yield group


def run(function: Callable, jobs: Iterable[Job], workers: int, done: Callable[[Path], None]) -> None:
  """Calls `function(path, *arguments)` for each job whose file is missing; `done` after each job, in any order.

  Args:
    workers: processes; 0 runs everything in this one.
  """
  if workers == 0:
    try:
      for path, arguments in jobs:
        if not path.exists():
          function(path, *arguments)
        done(path)
    finally:
      _stripper().close()
    return
  pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
  pending: dict[Future, Path] = {}
  try:
    for path, arguments in jobs:
      if path.exists():
        done(path)
        continue
      pending[pool.submit(function, path, *arguments)] = path
      if len(pending) > 2 * workers:
        _finish_some(pending, done)
    while pending:
      _finish_some(pending, done)
  finally:
    pool.shutdown(cancel_futures=True)


def _finish_some(pending: dict[Future, Path], done: Callable[[Path], None]) -> None:
  for future in wait(pending, return_when=FIRST_COMPLETED).done:
    future.result()
    done(pending.pop(future))


def _start_worker() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and stops handing out chunks
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


# First pass: documents -> documents of sentences, one JSON file a chunk.


@functools.cache
def _stripper() -> Stripper:
  return Stripper()


def write_texts(path: Path, documents: list[Document], language: str) -> None:
  """Writes the documents of a chunk, divided into sentences, and the counts of those left out."""
  kept, skipped = [], Counter()
  for document in documents:
    try:
      split = sentences(document, language, _stripper().prose)
      kept.append([split.id, split.title, split.text, split.namespaces, split.annotations])
    except Skipped as reason:
      skipped[str(reason)] += 1
  write_atomically(path, json.dumps({"documents": kept, "skipped": skipped}).encode())


def write_linked_texts(path: Path, documents: list[Document], language: str) -> None:
  """As `write_texts`, of documents with links; what the chunk says of pages and links stands on a first line.

  Pages are there whose text is left out. Links are counted before sentences are divided, which loses a few. Where a
  document came with its links marked, what they speak of counts as a page.
  """
  kept, skipped, pages, redirects, links, namespaces = [], Counter(), [], [], Counter(), set()
  for document in documents:
    title = titles.normalise(document.title or "")
    namespaces.update(document.namespaces or ())
    if document.redirect is not None:
      skipped["redirect"] += 1
      redirects.append((title, titles.normalise(document.redirect)))
      continue
    if title:
      pages.append((title, document.namespaces is not None and titles.is_disambiguation(document.text)))
    try:
      marked = with_links(document, _stripper().linked)
      found = [link for row in marked.links or () for *_, link in row]
      links.update(found)
      if document.namespaces is None:
        pages += [(link, False) for link in found]
      split = sentences(marked, language, _stripper().prose)
      kept.append([split.id, split.title, split.text, None, split.annotations, split.links])
    except Skipped as reason:
      skipped[str(reason)] += 1
  about = {"pages": pages, "redirects": [pair for pair in redirects if all(pair)], "links": links}
  about["namespaces"] = sorted(namespaces)
  texts = {"documents": kept, "skipped": skipped}
  write_atomically(path, json.dumps(about).encode() + b"\n" + json.dumps(texts).encode())


def read_texts(path: Path) -> tuple[list[Document], Counter]:
  value = json.loads(path.read_bytes().rpartition(b"\n")[2])
  return [Document(*fields) for fields in value["documents"]], Counter(value["skipped"])


def read_links(path: Path) -> dict:
  """What a chunk of texts with links says of pages, redirects, links and namespaces, as `LinkTable.add` takes them."""
  with path.open("rb") as file:
    return json.loads(file.readline())


# Second pass: documents of sentences -> tokens, one file of arrays a chunk.


@functools.lru_cache(maxsize=1)
def _loaded(load: Callable[[str], Any], folder: str) -> Any:
  return load(folder)


def write_tokens(path: Path, texts: Path, load: Callable[[str], Any], folder: str, min_tokens: int) -> None:
  """Encodes the documents of the chunk `texts` with the tokenizer that `load(folder)` gives."""
  documents, skipped = read_texts(texts)
  _write_encoded(path, documents, skipped, lambda document: encode(document, _loaded(load, folder), min_tokens))


def write_linked_tokens(
  path: Path, texts: Path, load: Callable[[str], Any], folder: str, min_tokens: int, table: Path, unknown: int | None
) -> None:
  """As `write_tokens`, with the mentions that the links are.

  Args:
    table: file of the `LinkTable` that knows their entities.
    unknown: the entity of a link that the vocabulary does not have; None leaves such links out.
  """
  documents, skipped = read_texts(texts)
  known = link_table.entities(table, (title for d in documents for row in d.links or () for *_, title in row))

  def lookup(title: str) -> int | None:
    return unknown if known[title] is None else known[title]

  _write_encoded(
    path, documents, skipped, lambda document: encode_linked(document, _loaded(load, folder), lookup, min_tokens)
  )


def _write_encoded(
  path: Path, documents: list[Document], skipped: Counter, encoder: Callable[[Document], EncodedDocument]
) -> None:
  encoded: list[EncodedDocument] = []
  for document in documents:
    try:
      encoded.append(encoder(document))
    except Skipped as reason:
      skipped[str(reason)] += 1
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with temporary.open("wb") as file:
    np.savez(file, **_arrays(encoded), names=_as_bytes([[d.id, d.title] for d in encoded]), skipped=_as_bytes(skipped))
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def _arrays(encoded: list[EncodedDocument]) -> dict[str, np.ndarray]:
  arrays = {
    "ids": np.concatenate([np.zeros(0, np.int32), *(document.ids for document in encoded)]),
    "word_starts": np.concatenate([np.zeros(0, bool), *(document.word_starts for document in encoded)]),
    "sentences": np.concatenate([np.zeros(0, np.int32), *(document.sentences for document in encoded)]),
    "tokens_of": np.asarray([len(document.ids) for document in encoded], np.int64),
    "sentences_of": np.asarray([len(document.sentences) for document in encoded], np.int64),
  }
  if any(document.annotations is not None for document in encoded):
    arrays["annotations"] = np.concatenate([document.flags for document in encoded])
  if any(document.mentions is not None for document in encoded):
    arrays["mentions"] = np.concatenate([document.mentions for document in encoded])
    arrays["mentions_of"] = np.asarray([len(document.mentions) for document in encoded], np.int64)
  return arrays


def _as_bytes(value: Any) -> np.ndarray:
  return np.frombuffer(json.dumps(value).encode(), np.uint8)


def read_names(path: Path) -> tuple[list[str], Counter]:
  """Ids of the documents of a chunk of tokens, and the counts of those left out."""
  with np.load(path) as arrays:
    names, skipped = json.loads(arrays["names"].tobytes()), json.loads(arrays["skipped"].tobytes())
  return [identity for identity, _ in names], Counter(skipped)


def annotated(path: Path) -> bool:
  """Whether a token of a chunk of tokens is annotated."""
  with np.load(path) as arrays:
    return "annotations" in arrays.files


def read_tokens(path: Path) -> Iterator[EncodedDocument]:
  with np.load(path) as archive:
    arrays = {name: archive[name] for name in archive.files}
  names = json.loads(arrays["names"].tobytes())
  tokens, none = np.cumsum(arrays["tokens_of"])[:-1], [None] * len(names)
  parts = (
    np.split(arrays["ids"], tokens),
    np.split(arrays["word_starts"], tokens),
    np.split(arrays["sentences"], np.cumsum(arrays["sentences_of"])[:-1]),
    np.split(arrays["annotations"], tokens) if "annotations" in arrays else none,
    np.split(arrays["mentions"], np.cumsum(arrays["mentions_of"])[:-1]) if "mentions" in arrays else none,
  )
  for (identity, title), *values in zip(names, *parts):  # noqa: B905  an empty chunk splits into one part
    yield EncodedDocument(identity, title, *values)
