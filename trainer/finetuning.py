"""What a recipe for fine-tuning leaves open, from what it starts from and from its task.

Such a recipe says no model: its sizes, its vocabulary and its weights are those of `init_from`, a run or a folder of
published weights. `complete` puts the sizes into the config, with the labels of the task's files and the number of
steps, so that the saved config.json stands alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data import entity_vocabulary
from data.entity_vocabulary import EntityError, EntityVocabulary
from data.tasks import registry
from data.tasks.rows import ENTITIES, TaskError
from data.tokenizers import Tokenizer, TokenizerError
from models.paths import named_leaves
from models.published import weights
from models.published.errors import WeightsError
from trainer.adaptation import adapted
from trainer.loading import is_published, published_tokenizer, read_config
from trainer.recipes import model_of
from trainer.rules import ConfigError
from trainer.task_data import task_data
from trainer.texts import TOKENIZER, InputError, load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
  """What a fine-tuning run takes over besides weights. entities: None for encoders without them."""

  model: ConfigDict
  dtype: str | None
  tokenizer: Tokenizer
  entities: EntityVocabulary | None


def pretrained(source: str) -> Pretrained:
  """Of a workdir, or a folder of published weights.

  Raises:
    ConfigError: there is no such folder.
  """
  folder = Path(source)
  if not source or not folder.is_dir():
    raise ConfigError(f"config key init_from: got {source!r}, want a run or published weights: fine-tuning needs them")
  if is_published(folder):
    model, dtype, tokenizer = model_of(weights.load(folder)), None, published_tokenizer(folder)
  else:
    config = read_config(folder)
    model, dtype, tokenizer = config.model, config.dtype, load_tokenizer(folder)
  own = folder / TOKENIZER if (folder / TOKENIZER).is_dir() else folder
  listed = any((own / name).is_file() for name in entity_vocabulary.FILES)
  return Pretrained(model, dtype, tokenizer, entity_vocabulary.load(own) if listed else None)


def complete(config: ConfigDict) -> None:
  """Fills `model`, `objective`, `steps` and what follows from them, in place.

  Raises:
    ConfigError: no weights to start from, or files that cannot be used.
  """
  try:
    _complete(config)
  except (EntityError, InputError, OSError, TaskError, TokenizerError, WeightsError) as error:
    raise ConfigError(str(error)) from error


def _complete(config: ConfigDict) -> None:
  start, task = pretrained(config.init_from), registry.find(config.task.name)
  tokenizer = with_markers(start.tokenizer, task)
  data = task_data(config, tokenizer)
  with config.unlocked():
    config.model = ConfigDict(start.model.to_dict())
    config.model.vocab_size = tokenizer.vocab_size
    if config.model.name == "luke":
      config.model.entity_vocab_size, config.model.query_kinds = len(ENTITIES), config.task.queries
    config.objective.kind, config.objective.labels = task.head, data.labels
    config.dtype = start.dtype or config.dtype
    epoch = data.epoch_size(config.batch_size)
    config.steps = config.steps or epoch * config.task.epochs
    config.eval_every, config.save_every = config.eval_every or epoch, config.save_every or epoch
    config.optimizer.warmup_steps = config.optimizer.warmup_steps or int(config.task.warmup * config.steps)
    config.data.length = min(config.data.length, config.model.max_positions)


def with_markers(tokenizer: Tokenizer, task: registry.Task) -> Tokenizer:
  """The tokenizer with the pieces that mark a task's mentions behind its vocabulary, those that it lacks."""
  missing = tuple(piece for piece in task.markers if piece not in tokenizer.vocabulary)
  return tokenizer.with_added(missing) if missing else tokenizer


def task_tokenizer(config: ConfigDict, workdir: Path) -> tuple[Tokenizer, EntityVocabulary | None]:
  """The tokenizer of a run, and the entities of its table: its own once it has begun, else those it starts with."""
  entities = EntityVocabulary(ENTITIES) if config.model.name == "luke" else None
  if (workdir / TOKENIZER).is_dir():
    return load_tokenizer(workdir), entities
  return with_markers(pretrained(config.init_from).tokenizer, registry.find(config.task.name)), entities


def initial_leaves(config: ConfigDict, found: dict[str, Any], fresh: Any) -> dict[str, Any]:
  """Leaves that a run starts from, of those `found` in its `init_from`. fresh: parameters from the seed."""
  leaves = named_leaves(fresh)
  if config.task.fresh:
    return leaves
  start, task = pretrained(config.init_from), registry.find(config.task.name)
  tokenizer = with_markers(start.tokenizer, task)
  markers = {
    tokenizer.id_of(piece): start.tokenizer.id_of(source)
    for piece, source in task.markers.items()
    if piece not in start.tokenizer.vocabulary
  }
  rows = []
  if start.entities is not None:
    special = start.entities.special
    rows = [special.pad, special.unk, special.mask, special.mask if special.mask2 is None else special.mask2]
  return adapted(found, leaves, start.tokenizer.vocab_size, markers, rows)
