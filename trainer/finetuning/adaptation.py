"""Parameters of a pretrained encoder as a fine-tuning run starts from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.rules import ConfigError

QUERIES = ("word_to_entity", "entity_to_word", "entity_to_entity")
# Of an ELECTRA the discriminator, whose layers stand below a name of their own.
_ENCODER = ("embeddings/", "entity_embeddings/", "layers/", "projection/", "pooler/", "discriminator/")


def adapted(
  found: dict[str, Any],
  fresh: dict[str, Any],
  words: int,
  markers: dict[int, int],
  entities: Sequence[int] | None,
  same_head: bool,
) -> dict[str, Any]:
  """Leaves of a pretrained encoder as a task's model has them.

  Heads of pretraining go; the task's head is fresh unless `found` has the same one. Queries that pretraining did not
  have are copies of the words' query (weight and bias), a pooler that it did not have is fresh.

  Args:
    found, fresh: {path: leaf}.
    words: pieces of the vocabulary of `found`; its table may have more rows, which go.
    markers: {id of a piece that the task adds: id of the piece whose row it copies}.
    entities: for each row of the task's entity table the row of the one in `found`; None = the whole table, () =
      zeros, where nobody knows which rows are which.
    same_head: whether the head of `found`, if it has one, is for this kind of task and for these labels.
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
  if word in found:
    leaves[word] = _grown(np.asarray(found[word]), len(fresh[word]), words, markers)
  if entities is not None and entity in fresh and entity in found:
    table = np.zeros(fresh[entity].shape, np.float32)
    table[: len(entities)] = np.asarray(found[entity])[list(entities)]
    leaves[entity] = table
  leaves |= _heads(found, {path: leaf for path, leaf in fresh.items() if path not in leaves}, same_head)
  missing = sorted(fresh.keys() - leaves.keys())
  lost = sorted(path for path in found.keys() - fresh.keys() if path.startswith("projection/"))
  if lost:
    raise ConfigError(f"init_from: has {lost[0]}, want tables that stand in the layers' width without a map")
  if missing:
    raise ConfigError(
      f"init_from: has no {', '.join(missing[:4])}, want an encoder of the kind that the task is run on"
    )
  return leaves


def _heads(found: dict[str, Any], wanted: dict[str, Any], same_head: bool) -> dict[str, Any]:
  """Head and pooler of `wanted`: that of `found` if it is the same, else from the seed, which the log says."""
  wanted = {path: leaf for path, leaf in wanted.items() if path.startswith(("heads/", "pooler/"))}
  heads = [path for path in wanted if path.startswith("heads/")]
  if same_head and all(path in found and found[path].shape == wanted[path].shape for path in heads):
    wanted |= {path: found[path] for path in heads}
    logging.info("fine-tuning: goes on with the head of init_from")
    heads = []
  new = sorted({path.rsplit("/", 1)[0] for path in wanted if path in heads or path.startswith("pooler/")})
  other = " (init_from has one for other labels)" if any(path in found for path in heads) else ""
  logging.info("fine-tuning: from the seed: %s%s", ", ".join(new) if new else "nothing", other)
  return wanted


def _grown(table: np.ndarray, rows: int, words: int, markers: dict[int, int]) -> np.ndarray:
  """The first `words` rows of a table, and a copy of a row for each marker; zeros up to `rows`."""
  grown = np.zeros((rows, table.shape[1]), table.dtype)
  grown[:words] = table[:words]
  for new, source in markers.items():
    grown[new] = table[source]
  return grown
