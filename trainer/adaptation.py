"""Parameters of a pretrained encoder as a fine-tuning run starts from them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from trainer.rules import ConfigError

QUERIES = ("word_to_entity", "entity_to_word", "entity_to_entity")
_ENCODER = ("embeddings/", "entity_embeddings/", "layers/", "projection/", "pooler/")


def adapted(
  found: dict[str, Any], fresh: dict[str, Any], words: int, markers: dict[int, int], entities: list[int]
) -> dict:
  """Leaves of a pretrained encoder as a task's model has them.

  Heads of pretraining go; the task's head is fresh unless `found` has the same one. Queries that pretraining did not
  have are copies of the words' query (weight and bias), a pooler that it did not have is fresh.

  Args:
    found, fresh: {path: leaf}.
    words: pieces of the vocabulary of `found`.
    markers: {id of a piece that the task adds: id of the piece whose row it copies}.
    entities: for each row of the task's entity table the row of the one in `found`.
  Raises:
    ConfigError: `found` is no encoder of this kind.
  """
  leaves = {path: leaf for path, leaf in found.items() if path.startswith(_ENCODER) and path in fresh}
  for name in QUERIES:
    for part in ("kernel", "bias"):
      path = f"layers/attention/{name}/{part}"
      if path in fresh and path not in leaves:
        leaves[path] = np.array(found[f"layers/attention/query/{part}"])  # an array of its own: steps donate theirs
  word, entity = "embeddings/word/embedding", "entity_embeddings/entity/embedding"
  if markers:
    leaves[word] = _grown(np.asarray(found[word]), len(fresh[word]), words, markers)
  if entity in fresh and entity in found:
    table = np.zeros(fresh[entity].shape, np.float32)
    table[: len(entities)] = np.asarray(found[entity])[entities]
    leaves[entity] = table
  kept = [path for path in fresh if path not in leaves and path.startswith(("heads/", "pooler/"))]
  for path in kept:
    leaves[path] = found[path] if path in found and found[path].shape == fresh[path].shape else fresh[path]
  missing = sorted(fresh.keys() - leaves.keys())
  if missing:
    raise ConfigError(
      f"init_from: has no {', '.join(missing[:4])}, want an encoder of the kind that the task is run on"
    )
  new = sorted({path.rsplit("/", 1)[0] for path in kept if path not in found})
  logging.info("fine-tuning: %s from the seed", ", ".join(new) if new else "nothing")
  return leaves


def _grown(table: np.ndarray, rows: int, words: int, markers: dict[int, int]) -> np.ndarray:
  grown = np.zeros((rows, table.shape[1]), table.dtype)
  grown[:words] = table[:words]
  for new, source in markers.items():
    grown[new] = table[source]
  return grown
