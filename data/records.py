"""Tokenised documents as ArrayRecord, through TFDS and without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.documents import EncodedDocument

Splits = dict[str, Callable[[], Iterator[EncodedDocument]]]

_AT_ONCE = 1024  # documents
_SHARD = 1 << 17  # documents of a file at most
_NAME, _VERSION = "corpus", "1.0.0"


def _features(annotated: bool, linked: bool) -> tfds.features.FeaturesDict:
  """Documents in corpus order: id, title, tokens int32 [n], word_starts bool [n], sentences int32 [s] (lengths).

  Where the corpus is annotated they also have annotations uint8 [n], flags as in `data.store.Store`; where its links
  are entities, mentions int32 [m, 3], as in `data.documents.EncodedDocument`.
  """
  arrays = {"tokens": np.int32, "word_starts": np.bool_, "sentences": np.int32}
  if annotated:
    arrays["annotations"] = np.uint8
  features = {name: tfds.features.Tensor(shape=(None,), dtype=dtype) for name, dtype in arrays.items()}
  if linked:
    features["mentions"] = tfds.features.Tensor(shape=(None, 3), dtype=np.int32)
  return tfds.features.FeaturesDict(features | {"id": tfds.features.Text(), "title": tfds.features.Text()})


def _record(document: EncodedDocument, annotated: bool, linked: bool) -> dict[str, Any]:
  record = {"id": document.id, "title": document.title or "", "tokens": document.ids}
  record |= {"word_starts": document.word_starts, "sentences": document.sentences}
  if annotated:
    record["annotations"] = document.flags
  if linked:
    record["mentions"] = document.mentions
  return record


def write(folder: Path, splits: Splits, annotated: bool, linked: bool = False) -> None:
  """Writes every split under `folder`, which must not hold a corpus yet, a block of documents at a time.

  TFDS's builders would hold a split in memory, and need TensorFlow for one of over 1 GB. Standard output stays clean.

  Args:
    annotated, linked: write the annotations, and the mentions, of all documents or of none.
  """
  target = folder / _NAME / _VERSION
  target.mkdir(parents=True)
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=_NAME, version=tfds.core.Version(_VERSION), data_dir=str(target), module_name=__name__
  )
  info = tfds.core.DatasetInfo(builder=identity, features=_features(annotated, linked), disable_shuffling=True)
  with contextlib.redirect_stdout(io.StringIO()):
    writer = tfds.core.SequentialWriter(info, _SHARD, file_format="array_record")
    writer.initialize_splits(list(splits))
    for split, documents in splits.items():
      rest = documents()
      while block := list(itertools.islice(rest, _AT_ONCE)):
        writer.add_examples({split: [_record(document, annotated, linked) for document in block]})
    writer.close_all()


def read(folder: Path, split: str) -> Iterator[list[dict]]:
  """Blocks of the documents of a split, in corpus order."""
  builder = tfds.builder_from_directory(str(folder / _NAME / _VERSION))
  source = builder.as_data_source(split)
  for start in range(0, len(source), _AT_ONCE):
    yield source.__getitems__(list(range(start, min(start + _AT_ONCE, len(source)))))
