"""LUKE's runs as its released models are: with rows and pieces for markers, and files for transformers' tokenizers.

A run has neither. As in the original conversion `<ent>` and `<ent2>` stand behind the words, as copies of '@' and '#',
and the second masked entity of a pair gets a row of its own, [MASK2], a copy of [MASK]'s: in LUKE it takes the last
row, that of the rarest entity, so that the table keeps its size; in mLUKE, and where all entities are special, it is a
further one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from data.entity_vocabulary import EntityVocabulary
from data.tokenizers import Tokenizer
from data.tokenizers.added import copied_row
from models.luke import Luke
from models.published.luke_files import with_rows
from models.published.tasks import TASKS, task_of
from trainer.texts import InputError

MARKERS = {"<ent>": "@", "<ent2>": "#"}  # piece -> the piece that its rows copy
MASK2 = "[MASK2]"
CLASSES = {"bytebpe": "LukeTokenizer", "xlmr": "MLukeTokenizer"}  # kind of tokenizer -> transformers'
MAX_ENTITIES, MAX_MENTION = 32, 30  # of a text, and pieces of one mention: the released tokenizers'
CONFIG = "tokenizer_config.json"
# A marker as an object: of a bare name MLukeTokenizer would make another piece, "▁<ent>".
ADDED = {
  "__type": "AddedToken", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
  """What goes out: a LUKE with rows for the markers, and the vocabularies that name them."""

  model: Luke
  params: dict
  tokenizer: Tokenizer
  entities: EntityVocabulary

  def save(self, folder: Path) -> None:
    """Writes the files of transformers' LukeTokenizer or MLukeTokenizer, entity_vocab.json among them."""
    self.tokenizer.save(folder, self.model.config.max_positions)
    self.entities.save(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    task = task_of(self.model.config)
    config |= {
      "tokenizer_class": CLASSES[self.tokenizer.kind],
      "task": None if task is None else TASKS["luke"][task].marks,
      "max_entity_length": MAX_ENTITIES,
      "max_mention_length": MAX_MENTION,
      **{f"entity_token_{n}": ADDED | {"content": piece} for n, piece in enumerate(MARKERS, 1)},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def marked(
  model: Luke, params: dict[str, Any], tokenizer: Tokenizer, entities: EntityVocabulary | None, source: str
) -> Marked:
  """A run's model with what it lacks of the markers; one that has them all goes out as it is.

  Args:
    params: NumPy arrays.
    source: where they come from, for messages.
  Raises:
    InputError: transformers has no LUKE with this kind of tokenizer, or there is no entity vocabulary.
  """
  if tokenizer.kind not in CLASSES:
    raise InputError(f"model {source}: has a {tokenizer.kind} tokenizer, want one of {', '.join(CLASSES)} for a LUKE")
  if entities is None:
    raise InputError(f"model {source}: has no entity_vocab.json beside its tokenizer, want it; copy it there")
  new = [piece for piece in MARKERS if piece not in tokenizer.vocabulary]
  words = [copied_row(tokenizer, MARKERS[piece]) for piece in new]
  wider, row = with_mask2(entities, model.config.entity_vocab_size, tokenizer.kind == "bytebpe")
  if row is not None and row < model.config.entity_vocab_size:
    logging.info("export: %s takes the row of %s, the rarest entity", MASK2, ", ".join(entities.titles([row])))
  if new:
    logging.info("export: %s are new pieces, copies of %s", ", ".join(new), ", ".join(MARKERS[piece] for piece in new))
  if not model.config.pooler:
    logging.info("export: has no pooler; transformers starts one, untrained, which no logits of words or entities use")
  own, grown = with_rows(model, params, words, None if row is None else (row, entities.special.mask))
  return Marked(own, grown, tokenizer.with_added(new) if new else tokenizer, wider)


def with_mask2(entities: EntityVocabulary, rows: int, replace: bool) -> tuple[EntityVocabulary, int | None]:
  """The vocabulary with [MASK2], and the row that it takes; None where it has one already.

  Args:
    rows: of the model's entity table.
    replace: it takes the last row, unless a special entity stands there; else one more.
  """
  special = entities.special
  if special.mask2 is not None:
    return entities, None
  row = rows - 1 if replace and rows - 1 not in (special.pad, special.unk, special.mask) else rows
  ids = {title: i for title, i in entities.ids.items() if i != row} | {MASK2: row}
  counts = None
  if entities.counts is not None:
    counts = np.zeros(max(row + 1, entities.size), entities.counts.dtype)
    counts[: entities.size] = entities.counts
    counts[row] = 0
  return EntityVocabulary(ids, counts), row
