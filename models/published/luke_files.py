"""What is LUKE's own in published files: its config, queries that a file lacks, the original archives, marker rows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.encoder import TABLE_MULTIPLE
from models.luke import Luke, LukeConfig
from models.paths import merge, named_leaves
from models.published import files
from models.published.configs import encoder_fields, refuse_activation, whole_number
from models.published.errors import WeightsError
from models.published.luke_tables import QUERIES
from models.published.parts import Stored
from models.published.tasks import stored_fields, task_keys

METADATA = "metadata.json"  # of the original code's archives
LENGTHS = ("max_seq_length", "max_entity_length", "max_mention_length")
AWARE = "use_entity_aware_attention"
FIXED = {"cls_entity_prediction": False, "type_vocab_size": 1}  # what every released LUKE has, and we alone
_QUERY = re.compile(r"(attention\.self\.)query\.(weight|bias)$")
_OTHER_QUERY = re.compile(rf"attention\.self\.({'|'.join(QUERIES.values())})\.(weight|bias)$")


# --- reading ----------------------------------------------------------------------------------------------------------


def is_archive(folder: Path) -> bool:
  """Whether a folder is an unpacked archive of the original code: metadata.json with the model's config."""
  return (folder / METADATA).is_file() and not (folder / files.CONFIG).is_file()


def archive_config(folder: Path) -> dict[str, Any]:
  """What config.json would say of an archive, with its longest inputs (LENGTHS).

  Pretraining has one kind of query, whose copies compute the same.
  """
  metadata = files.read_object(folder / METADATA)
  config = metadata.get("model_config")
  if not isinstance(config, dict):
    raise WeightsError(f"weights {folder / METADATA}: has no model_config, want the file of a LUKE archive")
  lengths = {name: metadata[name] for name in LENGTHS if name in metadata}
  return {AWARE: False, "architectures": ["LukeForMaskedLM"], **config, **lengths, "model_type": "luke"}


def completed(found: Stored) -> Stored:
  """A file's tensors with the queries that its config asks for, and no others.

  Files from before fine-tuning may lack those between words and entities: they start as the words' query, weight and
  bias. mLUKE's files hold them although the model, by its config, does not use them.
  """
  aware = bool(_stated(found.config)[AWARE])
  others = [name for name in found.tensors if _OTHER_QUERY.search(name)]
  if aware and not others:
    added = {
      _QUERY.sub(rf"\g<1>{other}.\2", name): tensor
      for name, tensor in found.tensors.items() if _QUERY.search(name)
      for other in QUERIES.values()
    }  # fmt: skip
    note = f"the file has one query a layer: {', '.join(QUERIES.values())} are copies of it"
    return dataclasses.replace(found, tensors=found.tensors | added, notes=(*found.notes, note))
  if others and not aware:
    kept = {name: tensor for name, tensor in found.tensors.items() if name not in others}
    note = f"{AWARE} is false: left out {len(others)} tensors of {', '.join(QUERIES.values())}"
    return dataclasses.replace(found, tensors=kept, notes=(*found.notes, note))
  return found


def config_of(found: Stored, dtype: Any) -> LukeConfig:
  """The config of a file's model, with the heads that the file has.

  Raises:
    WeightsError: the model is none of ours, or nothing says which task its head is of.
  """
  stated = _stated(found.config)
  for key, value in FIXED.items():
    if stated[key] != value:
      got = f"{key} is {stated[key]!r}, want {value!r}"
      raise WeightsError(f"weights {found.source}: config.json: {got}; no model here has it")
  fields, has = encoder_fields(found.config, "luke", found.source, dtype), found.has("luke")
  refuse_activation("luke", has, fields["activation"], found.source)
  on_top = [part for part in ("mlm", "entity") if part in has]
  sizes = {
    ours: whole_number(stated, theirs, found.source)
    for ours, theirs in (("entity_vocab_size", "entity_vocab_size"), ("entity_embedding", "entity_emb_size"))
  }
  return LukeConfig(
    **fields, **sizes, **stored_fields(found, "luke", on_top), query_kinds=4 if stated[AWARE] else 1,
    pooler="pooler" in has,
  )  # fmt: skip


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
  """config.json with transformers' values for keys of LUKE's that it leaves out."""
  defaults = {"entity_emb_size": 256, AWARE: True, "cls_entity_prediction": False, "type_vocab_size": 2}
  return defaults | {key: value for key, value in config.items() if value is not None}


# --- writing ----------------------------------------------------------------------------------------------------------


def config_keys(c: LukeConfig, labels: Sequence[str] = ()) -> dict[str, Any]:
  """What LUKE's config.json says beside an encoder's; labels as in `task_keys`."""
  keys = {
    "entity_vocab_size": c.entity_vocab_size,
    "entity_emb_size": c.entity_embedding,
    AWARE: c.query_kinds == 4,
  }
  return keys | task_keys(c, "luke", labels)


def with_rows(
  model: Luke, params: Mapping[str, Any], words: Sequence[int] = (), entity: tuple[int, int] | None = None
) -> tuple[Luke, dict]:
  """A LUKE with rows for markers, as the released models have them: copies, in the tables and in the heads' biases.

  Args:
    params: NumPy arrays.
    words: ids whose rows are copied to new ones behind the last word.
    entity: (row, id): that row of the entity table becomes a copy of id's; it may be the first behind the last.
  """
  c, leaves = model.config, dict(named_leaves(params))
  for path in ("embeddings/word/embedding", "heads/mlm/bias"):
    if path in leaves:
      leaves[path] = _copied(leaves[path], c.vocab_size, {c.vocab_size + i: word for i, word in enumerate(words)})
  for path in ("entity_embeddings/entity/embedding", "heads/entity/bias"):
    if path in leaves and entity is not None:
      leaves[path] = _copied(leaves[path], c.entity_vocab_size, dict([entity]))
  entities = c.entity_vocab_size if entity is None else max(c.entity_vocab_size, entity[0] + 1)
  config = dataclasses.replace(c, vocab_size=c.vocab_size + len(words), entity_vocab_size=entities)
  return type(model)(config), merge(leaves)


def _copied(table: np.ndarray, size: int, rows: Mapping[int, int]) -> np.ndarray:
  """`table`, of `size` real rows, with copies {row: source}; padded again."""
  real = max(size, *(row + 1 for row in rows)) if rows else size
  grown = np.zeros((-(-real // TABLE_MULTIPLE) * TABLE_MULTIPLE, *table.shape[1:]), table.dtype)
  grown[:size] = table[:size]
  for row, source in rows.items():
    grown[row] = table[source]
  return grown
