"""Tokenised documents as ArrayRecord, through TFDS and without TensorFlow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data.documents import EncodedDocument

Splits = dict[str, Callable[[], Iterator[EncodedDocument]]]

_READ_AT_ONCE = 1024


class Corpus(tfds.core.GeneratorBasedBuilder):
  """Documents in corpus order: id, title, tokens int32 [n], word_starts bool [n], sentences int32 [s] (lengths).

  Where the corpus is annotated they also have annotations uint8 [n], flags as in `data.store.Store`; where its links
  are entities, mentions int32 [m, 3], as in `data.documents.EncodedDocument`.
  """

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, splits: Splits, annotated: bool, linked: bool, **settings: Any):
    self._documents, self._annotated, self._linked = splits, annotated, linked
    super().__init__(**settings)

  def _info(self) -> tfds.core.DatasetInfo:
    arrays = {"tokens": np.int32, "word_starts": np.bool_, "sentences": np.int32}
    if self._annotated:
      arrays["annotations"] = np.uint8
    features = {name: tfds.features.Tensor(shape=(None,), dtype=dtype) for name, dtype in arrays.items()}
    if self._linked:
      features["mentions"] = tfds.features.Tensor(shape=(None, 3), dtype=np.int32)
    features |= {"id": tfds.features.Text(), "title": tfds.features.Text()}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in self._documents}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
    for number, document in enumerate(self._documents[split]()):
      record = {"id": document.id, "title": document.title or "", "tokens": document.ids}
      record |= {"word_starts": document.word_starts, "sentences": document.sentences}
      if self._annotated:
        record["annotations"] = document.flags
      if self._linked:
        record["mentions"] = document.mentions
      yield number, record


def write(folder: Path, splits: Splits, annotated: bool, linked: bool = False) -> None:
  """Writes every split under `folder`, which must not hold a corpus yet. Standard output stays clean.

  Args:
    annotated, linked: write the annotations, and the mentions, of all documents or of none.
  """
  shown = tfds.core.utils.tqdm_utils._active  # noqa: SLF001  TFDS can set this and cannot say what it was
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder = Corpus(
        splits=splits, annotated=annotated, linked=linked, data_dir=str(folder), file_format="array_record"
      )
      builder.download_and_prepare()
  finally:
    if shown:
      tfds.enable_progress_bar()


def read(folder: Path, split: str) -> Iterator[list[dict]]:
  """Blocks of the documents of a split, in corpus order."""
  builder = tfds.builder_from_directory(str(folder / "corpus" / str(Corpus.VERSION)))
  source = builder.as_data_source(split)
  for start in range(0, len(source), _READ_AT_ONCE):
    yield source.__getitems__(list(range(start, min(start + _READ_AT_ONCE, len(source)))))
