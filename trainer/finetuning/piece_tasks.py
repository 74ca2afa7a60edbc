"""Rows of tasks in pieces of words, for encoders, and what their tokens and entities follow from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.entity_vocabulary import EntityVocabulary
from data.tasks import links, registry
from data.tasks.batches import Shape
from data.tasks.files import read_text
from data.tasks.glue import TextReader
from data.tasks.task import MENTIONS
from data.tasks.text_pairs import PairShape
from data.tokenizers import Tokenizer
from objectives.tasks import KINDS
from trainer.finetuning.data import Builder, with_offsets
from trainer.rules import ConfigError

EMBED = "embed"  # the kind of a task without a head


@dataclasses.dataclass(frozen=True, eq=False)
class PieceForm:
  """A `trainer.task_data.Form` of tokens.

  task: put to the model's head; its rows are cut to the length of the config. entities: of the model's table, which
  `links` leads to; None where it has none. links: file of the links of SQuAD's articles; None where a question has no
  entities.
  """

  task: registry.Task
  tokenizer: Tokenizer
  entities: EntityVocabulary | None
  links: Path | None
  length: int
  pack: int
  offsets: str

  @property
  def by_column(self) -> bool:
    return self.task.head != EMBED and KINDS[self.task.head].by_column

  @functools.cached_property
  def digest(self) -> str:
    own = [self.task.head, self.length, self.offsets, self.tokenizer.digest]
    own += ["markers"] if self.task.head in MENTIONS and not self.task.rows.entities else []
    own += [] if self.links is None else [self.entities.digest, read_text(self.links)]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()

  def builder(self, examples: Sequence) -> Builder:
    rows = self.task.rows
    if self.links is not None:
      found = links.read_links(self.links, {e.title for e in examples}, _id_of(self.entities))
      rows = dataclasses.replace(rows, links=found)
    return lambda part, labels: rows(part, self.tokenizer, labels)

  def shape(self, rows: list, multiple: int) -> Shape | PairShape:
    pad = self.tokenizer.special.pad
    if self.task.head == EMBED:
      return PairShape(self.length, self.pack, multiple, pad)
    pieces = max((len(columns) for row in rows for columns in row.mentions), default=1)
    return Shape(self.length, self.pack, multiple, pad, pieces, columns=self.task.head == "answer")

  def save(self, folder: Path) -> None:
    self.tokenizer.save(folder)
    if self.entities is not None:
      self.entities.save(folder)


def piece_form(config: Any, tokenizer: Tokenizer, entities: EntityVocabulary | None) -> PieceForm:
  """The form of a config that says its kind of head; ConfigError for keys that the task cannot use."""
  t, reads_entities = config.task, config.model.name == "luke"
  task = registry.find(t.name).put(config.objective.kind, reads_entities)
  if task.head == EMBED and config.micro_batches > 1:
    raise ConfigError(
      f"config key micro_batches: got {config.micro_batches}, want 1: {t.name} ranks all second texts of a batch"
    )
  if t.links and task.head != "answer":
    raise ConfigError(f"config key task.links: got {t.links!r}, want '': {t.name} has no answers in passages")
  if t.both_orders and not (isinstance(task.read, TextReader) and len(task.read.texts) == 2):
    raise ConfigError(f"config key task.both_orders: got True, want False: {t.name} has no labelled pairs of texts")
  task = dataclasses.replace(task, rows=dataclasses.replace(task.rows, max_length=config.data.length))
  task = with_offsets(task, t.offsets, answers=task.head == "answer")
  links_file = Path(t.dir) / t.links if t.links else None
  return PieceForm(task, tokenizer, entities, links_file, config.data.length, config.data.pack, t.offsets)


def _id_of(entities: EntityVocabulary) -> Callable[[str], int | None]:
  """Title -> entity; of a vocabulary of several languages the English titles need no language before them."""
  return lambda title: entities.id_of(title, "en")
