"""Batches of labelled sentences of whole words without a corpus, of one shape whatever their number."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from data.batch import LabelledWords
from data.characters import LENGTH
from data.tasks.rows import WordRow
from data.tasks.word_batches import WordShape
from data.word_vectors import FIRST, WordVocabulary

MEDIAN, SIGMA = 20.0, 0.6  # words of a sentence, and the standard deviation of their logarithm
CHOICES = 4  # of a question
REPEATED = 2  # times that a word stands in a batch


def labelled_words(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> LabelledWords:
  """`batch_size` examples of a task on whole words; rows are a multiple of micro_batches and of a named mesh.data."""
  spread, size = statistics.NormalDist(np.log(MEDIAN), SIGMA), stage.batch_size
  lengths = [int(np.exp(spread.inv_cdf((i + 0.5) / size))) for i in range(size)]  # quantiles: batches differ in none
  lengths = [stage.length if full_rows else min(max(length, 1), stage.length) for length in lengths]
  kind = config.objective.kind
  texts = {"pair": 2, "regress": 2, "answer": 2, "choose": 1 + CHOICES}.get(kind, 1)  # of an example
  total = sum(lengths) * texts
  words = iter(rng.permutation(np.arange(total) % -(-total // REPEATED)).tolist())
  rows = []
  for length in lengths:
    sentences = tuple(tuple(f"w{next(words)}" for _ in range(length)) for _ in range(texts))
    labels = _labels(kind, length, len(config.objective.labels), rng)
    window = np.zeros((len(labels), 2), np.int32) if kind in ("tag", "crf") else None
    several = rng.random((1, 1), np.float32) if kind == "regress" else None
    rows.append(WordRow(sentences, labels, np.ones(len(labels), np.float32), window=window, several=several))
  vocabulary = WordVocabulary([f"w{i}" for i in range(max(config.model.vectors - FIRST, 0))])
  spelled = config.model.bilm.characters if config.model.bilm else LENGTH
  return WordShape(vocabulary, config.micro_batches * max(config.mesh.data, 1), spelled).collate(rows).batch


def _labels(kind: str, length: int, classes: int, rng: np.random.Generator) -> np.ndarray:
  """int32: a class a word or one of all, both columns of an answer, the right one of the choices."""
  if kind == "choose":
    return rng.permutation(np.arange(CHOICES) == 0).astype(np.int32)
  if kind == "answer":
    return rng.integers(0, length + 1, 2).astype(np.int32)
  count = length if kind in ("tag", "crf") else 1
  return np.zeros(1, np.int32) if kind == "regress" else rng.integers(0, classes, count).astype(np.int32)
