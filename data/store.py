"""The token store: a read-only view of one split of a prepared corpus, in memory maps.

The first opening decodes the split's ArrayRecord files into `store-<fingerprint>/<split>/*.npy` and holds the result
against the digest in the data card; every later one only maps the files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.annotations import ANNOTATIONS
from data.digests import BLOCK, Digest

if TYPE_CHECKING:
  from data.documents import EncodedDocument

FORMAT = 1


class StoreError(ValueError):
  """A prepared corpus that is missing, unfinished or damaged."""


@dataclasses.dataclass(frozen=True)
class Store:
  """One split.

  tokens [n_tokens] uint16 or int32, no special tokens; word_starts [n_tokens] bool; sentences [n_sentences + 1] int64,
  offsets into tokens; documents [n_documents + 1] int64, offsets into sentences. Every sentence has a token and every
  document a sentence. `fingerprint` names the content of the whole corpus. annotations [n_tokens] uint8, flags of each
  token: 1 begins an entity, 2 continues it, 4 begins a noun phrase, 8 continues it; None = not annotated. mentions
  [n_mentions, 3] int64, of each linked mention its first token, one past its last, and the id of its entity; in order,
  apart from one another, each inside one sentence; None = a corpus without entities.
  """

  tokens: np.ndarray
  word_starts: np.ndarray
  sentences: np.ndarray
  documents: np.ndarray
  fingerprint: str
  directory: Path | None = None  # of the memory maps; None = in memory
  annotations: np.ndarray | None = None
  mentions: np.ndarray | None = None

  @property
  def n_tokens(self) -> int:
    return len(self.tokens)

  @property
  def n_sentences(self) -> int:
    return len(self.sentences) - 1

  @property
  def n_documents(self) -> int:
    return len(self.documents) - 1

  @classmethod
  def from_documents(
    cls,
    docs: Sequence[Sequence[Sequence[int]]],
    word_starts: Sequence | None = None,
    vocab_size: int = 1 << 16,
    annotations: Sequence | None = None,
    mentions: Sequence[Sequence[tuple[int, int, int]]] | None = None,
  ) -> Store:
    """A store in memory from documents of sentences of token ids.

    Args:
      docs: documents; each a list of sentences; each a list of ids.
      word_starts: the same nesting of booleans; None = every token starts a word.
      vocab_size: decides the dtype of the tokens.
      annotations: the same nesting of flags (see the class); None = not annotated.
      mentions: of each document (first token, one past the last, entity) in tokens of the document; None = none at all.
    """
    lengths = [len(sentence) for document in docs for sentence in document]
    if not docs or not all(docs) or not all(lengths):
      raise StoreError("documents: got an empty document or sentence, want at least one of each, and a token in each")
    tokens = _flat(docs, token_dtype(vocab_size))
    starts = np.ones(len(tokens), bool) if word_starts is None else _flat(word_starts, bool)
    flags = None if annotations is None else _flat(annotations, np.uint8)
    for name, values in (("word_starts", starts), ("annotations", flags)):
      if values is not None and len(values) != len(tokens):
        raise StoreError(f"{name}: got {len(values)} values, want {len(tokens)}, one a token")
    sentences, documents = offsets(lengths), offsets([len(document) for document in docs])
    arrays, linked = [] if flags is None else [flags], None
    if mentions is not None:
      own = [np.asarray(document, np.int64).reshape(-1, 3) for document in mentions]
      arrays += [np.concatenate(own), np.array([*map(len, own)])]
      linked = in_store(*arrays[-2:], np.diff(sentences[documents]), 0)
      _check_mentions(linked, sentences)
    digest = Digest(annotated=flags is not None, linked=linked is not None)
    digest.add(tokens, starts, np.diff(sentences), np.diff(documents), *arrays)
    return cls(tokens, starts, sentences, documents, digest.hexdigest(), annotations=flags, mentions=linked)


def _flat(nested: Sequence, dtype: Any) -> np.ndarray:
  return np.concatenate([np.asarray(sentence, dtype) for document in nested for sentence in document])


def in_store(mentions: np.ndarray, counts: np.ndarray, tokens: np.ndarray, before: int) -> np.ndarray:
  """int64 [m, 3]: mentions in tokens of the store, from such in tokens of their documents.

  Args:
    mentions: int [m, 3], of neighbouring documents one after the other.
    counts, tokens: of each document its mentions and its tokens.
    before: tokens of the store before the first of the documents.
  """
  begins = before + np.cumsum(tokens, dtype=np.int64) - tokens
  return mentions.astype(np.int64) + np.repeat(begins, counts)[:, None] * np.array([1, 1, 0])


def _check_mentions(mentions: np.ndarray, sentences: np.ndarray) -> None:
  first, end = mentions[:, 0], mentions[:, 1]
  sentence = np.searchsorted(sentences, first, side="right")
  inside = (sentence > 0) & (sentence < len(sentences)) & (end <= sentences[np.minimum(sentence, len(sentences) - 1)])
  wrong = np.flatnonzero(~inside | (first >= end) | (first < np.append(0, end[:-1])) | (mentions[:, 2] < 0))
  if wrong.size:
    raise StoreError(
      f"mentions: got {mentions[wrong[0]].tolist()} as number {wrong[0]}, want tokens of one sentence, behind the "
      "mention before, and an entity's id"
    )


def offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
  """int64 [n + 1]: 0 and the running sum."""
  return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64))])


def token_dtype(vocab_size: int) -> type:
  return np.uint16 if vocab_size < 1 << 16 else np.int32


class Tally:
  """Counts and digest of the documents of a split that passed."""

  def __init__(self, annotated: bool, linked: bool = False):
    """`annotated`, `linked`: whether the corpus has annotations and mentions; then they are part of both."""
    self._annotated, self._linked, self._digest = annotated, linked, Digest(annotated, linked)
    names = ("documents", "sentences", "tokens", "words", *(ANNOTATIONS if annotated else ()), *("mentions",) * linked)
    self._counts = dict.fromkeys(names, 0)

  def counted(self, documents: Iterable[EncodedDocument]) -> Iterator[EncodedDocument]:
    for document in documents:
      arrays = [document.ids, document.word_starts, document.sentences, np.asarray([len(document.sentences)])]
      found = {"documents": 1, "sentences": len(document.sentences), "tokens": len(document.ids)}
      found["words"] = np.count_nonzero(document.word_starts)
      if self._annotated:
        arrays.append(document.flags)
        found |= {kind: np.count_nonzero(document.flags & flag) for kind, flag in ANNOTATIONS.items()}
      if self._linked:
        arrays += [document.mentions, np.asarray([len(document.mentions)])]
        found["mentions"] = len(document.mentions)
      for name, count in found.items():
        self._counts[name] += int(count)
      self._digest.add(*arrays)
      yield document

  def card(self) -> dict:
    return {**self._counts, "digest": self._digest.hexdigest()}


def read_card(directory: str | Path) -> dict:
  """The data card of a prepared corpus.

  Raises:
    StoreError: there is none, or it is not readable.
  """
  path = Path(directory) / "card.json"
  try:
    card = json.loads(path.read_bytes())
    found = card["format"]
  except FileNotFoundError as error:
    raise StoreError(
      f"corpus {directory}: has no card.json, so it was not prepared to the end: "
      f"run python -m data.corpus --input=SPEC --tokenizer=PATH --output={directory}"
    ) from error
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise StoreError(f"corpus {directory}: card.json is damaged ({error}): prepare the corpus again") from error
  if found != FORMAT:
    raise StoreError(f"corpus {directory}: got format {found}, want {FORMAT}: prepare the corpus again")
  return card


def open_store(directory: str | Path, split: str) -> Store:
  """The store of a split ("train" or "validation") of the corpus prepared in `directory`.

  Raises:
    StoreError: no such split, or records, memory maps and card do not agree.
  """
  card = read_card(directory)
  if split not in card["splits"]:
    raise StoreError(f"corpus {directory}: got split {split!r}, want one of {', '.join(card['splits'])}")
  folder = Path(directory) / f"store-{card['fingerprint'][:16]}" / split
  if not folder.exists():
    _build(folder, lambda temporary: _decode(Path(directory), split, card, temporary))
  return _mapped(folder, card, split)


def _shapes(card: dict, split: str) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Shape and dtype of each array of a split, in the order of its digest."""
  counts = card["splits"][split]
  annotations = {"annotations": ((counts["tokens"],), np.uint8)} if ANNOTATIONS.keys() <= counts.keys() else {}
  mentions = {"mentions": ((counts["mentions"], 3), np.int64)} if "mentions" in counts else {}
  return {
    "tokens": ((counts["tokens"],), token_dtype(card["tokenizer"]["vocab_size"])),
    "word_starts": ((counts["tokens"],), np.bool_),
    "sentences": ((counts["sentences"] + 1,), np.int64),
    "documents": ((counts["documents"] + 1,), np.int64),
    **annotations,
    **mentions,
  }


def _mapped(folder: Path, card: dict, split: str) -> Store:
  arrays = {}
  for name, (shape, dtype) in _shapes(card, split).items():
    path = folder / f"{name}.npy"
    try:
      arrays[name] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
      raise StoreError(f"store {path}: is missing or damaged ({error}): {_advice(folder)}") from error
    if arrays[name].shape != shape or arrays[name].dtype != dtype:
      got = f"{arrays[name].dtype}{list(arrays[name].shape)}"
      raise StoreError(f"store {path}: got {got}, want {np.dtype(dtype)}{list(shape)}: {_advice(folder)}")
  return Store(**arrays, fingerprint=card["fingerprint"], directory=folder)


def _advice(folder: Path) -> str:
  return f"delete {folder} and it is decoded again from the records"


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
  """Makes a folder appear whole; of two processes that race, one's folder stays and both go on."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
  try:
    fill(temporary)
    for path in (*temporary.iterdir(), temporary):
      handle = os.open(path, os.O_RDONLY)
      os.fsync(handle)
      os.close(handle)
    temporary.chmod(0o755)
    temporary.rename(folder)
  except OSError:
    if not folder.exists():
      raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _decode(directory: Path, split: str, card: dict, target: Path) -> None:
  where = f"corpus {directory / 'documents'}, split {split}"
  try:
    digest = _fill(directory / "documents", split, _shapes(card, split), target)
  except ImportError as error:
    raise StoreError(f"{where}: decoding it needs the package {error.name}: pip install tensorflow-datasets") from error
  except Exception as error:  # noqa: BLE001  the record readers raise many types; all of them mean damaged records
    reason = str(error).strip().split("\n")[0]
    raise StoreError(f"{where}: the records cannot be read ({reason}): prepare the corpus again") from error
  if digest != card["splits"][split]["digest"]:
    raise StoreError(f"{where}: the records do not have the digest in card.json: prepare the corpus again")


def _fill(documents: Path, split: str, shapes: dict[str, tuple[tuple[int, ...], Any]], target: Path) -> str:
  """Writes the arrays of a split and returns the digest of what was read."""
  from data import records

  arrays = {
    name: np.lib.format.open_memmap(target / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    for name, (shape, dtype) in shapes.items()
  }
  linked = "mentions" in shapes
  digest = Digest("annotations" in shapes, linked)
  ends = dict.fromkeys(arrays, 0) | {"sentences": 1, "documents": 1}
  totals = {"sentences": 0, "documents": 0}
  for block in records.read(documents, split):
    parts = {name: np.concatenate([record[name] for record in block]) for name in shapes if name != "documents"}
    parts["documents"] = np.asarray([len(record["sentences"]) for record in block], np.int64)
    mentions_of = np.asarray([len(record["mentions"]) for record in block]) if linked else None
    digest.add(*(parts[name] for name in shapes), *([mentions_of] if linked else []))
    if linked:
      tokens_of = np.asarray([len(record["tokens"]) for record in block])
      parts["mentions"] = in_store(parts["mentions"], mentions_of, tokens_of, ends["tokens"])
    for name, total in totals.items():
      parts[name] = total + np.cumsum(parts[name], dtype=np.int64)
      totals[name] = int(parts[name][-1])
    for name, values in parts.items():
      arrays[name][ends[name] : ends[name] + len(values)] = values
      ends[name] += len(values)
  for array in arrays.values():
    array.flush()
  return digest.hexdigest()


def unigram_counts(store: Store, vocab_size: int) -> np.ndarray:
  """How often each id occurs in the store: int64 [vocab_size]; kept beside the memory maps.

  Raises:
    StoreError: the store holds an id outside the vocabulary.
  """
  if store.directory is None:
    counts = _counted(store.tokens)
  else:
    counts = _counted_once(store, store.directory.with_name(f"{store.directory.name}-unigrams.npy"))
  if len(counts) > vocab_size:
    raise StoreError(f"store {store.directory}: got token id {len(counts) - 1}, want ids below {vocab_size}")
  return np.concatenate([counts, np.zeros(vocab_size - len(counts), np.int64)])


def _counted(tokens: np.ndarray) -> np.ndarray:
  counts = np.zeros(1, np.int64)
  for start in range(0, len(tokens), BLOCK):
    block = np.bincount(tokens[start : start + BLOCK], minlength=len(counts)).astype(np.int64)
    block[: len(counts)] += counts
    counts = block
  return counts


def _counted_once(store: Store, path: Path) -> np.ndarray:
  if not path.exists():
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    np.save(temporary, _counted(store.tokens))
    temporary.replace(path)
  try:
    return np.load(path)
  except (OSError, ValueError, EOFError) as error:
    reason = str(error).split("\n")[0]
    raise StoreError(f"store {path}: is damaged ({reason}): delete it and it is counted again") from error
