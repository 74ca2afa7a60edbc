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
REPEATED = 2  # times that a word stands in a batch


def labelled_words(config: Any, stage: Any, rng: np.random.Generator, full_rows: bool) -> LabelledWords:
  """`batch_size` examples of a task on whole words; rows are a multiple of micro_batches and of a named mesh.data."""
  spread, size = statistics.NormalDist(np.log(MEDIAN), SIGMA), stage.batch_size
  lengths = [int(np.exp(spread.inv_cdf((i + 0.5) / size))) for i in range(size)]  # quantiles: batches differ in none
  lengths = [stage.length if full_rows else min(max(length, 1), stage.length) for length in lengths]
  kind = config.objective.kind
  pair, tags = kind in ("pair", "regress", "answer"), kind in ("tag", "crf")
  total = sum(lengths) * (1 + pair)
  words = iter(rng.permutation(np.arange(total) % -(-total // REPEATED)).tolist())
  rows = []
  for length in lengths:
    sentences = tuple(tuple(f"w{next(words)}" for _ in range(length)) for _ in range(1 + pair))
    count = length if tags else 2 if kind == "answer" else 1
    classes = length + 1 if kind == "answer" else len(config.objective.labels)
    labels = rng.integers(0, classes, count).astype(np.int32)
    window = np.zeros((count, 2), np.int32) if tags else None
    several = rng.random((1, 1), np.float32) if kind == "regress" else None
    rows.append(WordRow(sentences, labels, np.ones(count, np.float32), window=window, several=several))
  vocabulary = WordVocabulary([f"w{i}" for i in range(max(config.model.vectors - FIRST, 0))])
  spelled = config.model.bilm.characters if config.model.bilm else LENGTH
  return WordShape(vocabulary, config.micro_batches * max(config.mesh.data, 1), spelled).collate(rows).batch
