"""What a recipe for fine-tuning leaves open, from what it starts from and from its task.

Such a recipe says no sizes of what was pretrained: these, its vocabulary and its weights are those of `init_from`, a
run or a folder of published weights. `complete` puts the sizes into the config, with the labels of the task's files and
the number of steps, so that the saved config.json stands alone. Encoders of pieces are fine-tuned here, networks of
words on ELMo in `trainer/finetuning/word_tasks.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import models
from data import entity_vocabulary
from data.entity_vocabulary import EntityError, EntityVocabulary
from data.tasks import registry
from data.tasks.answers import NULL_THRESHOLD
from data.tasks.rows import ENTITIES, TaskError
from data.tasks.task import MENTIONS, named
from data.tokenizers import Tokenizer, TokenizerError
from data.tokenizers.added import copied_row
from models.electra import ElectraConfig
from models.paths import named_leaves
from models.published import luke_files, weights
from models.published.errors import WeightsError
from models.published.tasks import labels_of
from models.task_heads import TASK_HEADS, scaled_numbers, target_scale
from objectives.optimizers import layer_factors
from trainer.config import flatten
from trainer.finetuning import word_tasks
from trainer.finetuning.adaptation import adapted
from trainer.finetuning.data import Form, TaskData, task_data
from trainer.finetuning.piece_tasks import EMBED, PieceForm, piece_form
from trainer.loading import is_published, published_tokenizer, read_config
from trainer.programs import frozen_layers
from trainer.recipes import family_of, model_of
from trainer.rules import ConfigError, check_value
from trainer.texts import TOKENIZER, InputError, load_tokenizer

LENGTH = 512  # of the longest example where data.length is 0
WORDS = "word_task"  # objective.name of tasks on ELMo
FAMILIES = ("albert", "bert", "electra", "luke", "roberta", "spanbert")
ALIKE = {"spanbert": "bert"}  # whose files say that they are the other's
# task.freeze -> patterns of the parameters that stay as they are; the pooler trains with the head
TABLES = ("^embeddings/", "^entity_embeddings/", "^(discriminator/)?projection/")
FREEZE = {"": (), "embeddings": TABLES, "encoder": (*TABLES, "^(discriminator/)?layers/")}
# Keys that `complete` fills where they stand at their recipe's 0 or "".
OPEN = ("dtype", "eval_every", "log_every", "save_every", "steps")
LOG_EVERY = 50
SIZES = tuple(f"model.{name}" for name in ("layers", "hidden", "heads", "ffn", "embedding"))


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
  """What a fine-tuning run takes over besides weights.

  Attributes:
    dtype: of a run; None for published weights.
    entities: None for encoders without them.
    head: kind and labels of the head of a task, if it has one.
    target_scale: of its numbers.
    queries: 4 or 1, whether it is fine-tuned with entity-aware attention where nobody says otherwise.
  """

  model: ConfigDict
  dtype: str | None
  tokenizer: Tokenizer
  entities: EntityVocabulary | None
  head: tuple[str, tuple[str, ...]] | None
  target_scale: float
  queries: int


def pretrained(source: str) -> Pretrained:
  """Of a workdir, or a folder of published weights; read once while its files stay the same.

  Raises:
    ConfigError: there is no such folder.
  """
  folder = Path(source)
  if not source or not folder.is_dir():
    raise ConfigError(f"config key init_from: got {source!r}, want a run or published weights: fine-tuning needs them")
  parts = [path.stat() for place in (folder, folder / TOKENIZER) for path in sorted(place.glob("*")) if path.is_file()]
  return _pretrained(folder.resolve(), tuple((part.st_mtime_ns, part.st_size) for part in parts))


@functools.lru_cache(maxsize=2)
def _pretrained(folder: Path, stamp: tuple) -> Pretrained:
  if is_published(folder):
    found = weights.load(folder)
    _check_kind("elmo" if found.family == "elmo" else _network(found), folder)
    model, dtype, tokenizer, head = model_of(found), None, published_tokenizer(folder), _published_head(found)
    scale = 1.0
    plain = found.family == "luke" and model.query_kinds == 1 and not luke_files.is_archive(folder)
  else:
    config = read_config(folder)
    _check_kind(config.model.name, folder)
    model, dtype, tokenizer, plain = config.model, config.dtype, load_tokenizer(folder), False
    scale = target_scale(config)
    head = (config.objective.kind, tuple(config.objective.labels)) if config.objective.name == "task" else None
  if tokenizer.vocab_size > model.vocab_size:
    raise InputError(
      f"model {folder}: got a tokenizer of {tokenizer.vocab_size} pieces, want at most {model.vocab_size}, the rows of "
      "the table of words; use the tokenizer that belongs to the model"
    )
  entities = _entities(folder / TOKENIZER if (folder / TOKENIZER).is_dir() else folder)
  # mLUKE is published without entity-aware attention, and fine-tuned without
  return Pretrained(model, dtype, tokenizer, entities, head, scale, 1 if plain or tokenizer.kind == "xlmr" else 4)


def _network(found: weights.Published) -> str:
  """The family of published weights; of the two networks of an ELECTRA, which one stands alone."""
  alone = found.family == "electra" and not isinstance(found.model.config, ElectraConfig)
  return "electra's generator" if alone else family_of(found)


def _check_kind(name: str, folder: Path) -> None:
  """Refuses what is no encoder of pieces."""
  if name in FAMILIES:
    return
  want = "model=elmo in the variant, or configs/elmo_tasks.py" if name.startswith("elmo") else "its discriminator"
  raise ConfigError(f"config key init_from: {folder} holds an {name}, want {want}")


def _entities(folder: Path) -> EntityVocabulary | None:
  """The entity vocabulary of a folder, if it has one."""
  listed = any((folder / name).is_file() for name in entity_vocabulary.FILES)
  return entity_vocabulary.load(folder) if listed else None


def _published_head(found: weights.Published) -> tuple[str, tuple[str, ...]] | None:
  kind = next((name for name in found.model.config.heads_on_top if name in TASK_HEADS), None)
  return None if kind is None else (kind, labels_of(found.config))


def complete(config: ConfigDict, said: Collection[str] = ()) -> None:
  """Fills `model`, `objective`, `steps` and what follows from them, in place.

  Args:
    said: keys that the user set. The recipe's own length comes down to the positions that there are; a user's does not.
  Raises:
    ConfigError: no weights to start from, a key that is not the user's to set, or files that cannot be used.
  """
  words = config.objective.name == WORDS
  for key, value in flatten(config).items():
    if key not in (*OPEN, *(() if words else ("data.length",))) or value:
      check_value(key, value)
  if "task.name" in said:
    raise ConfigError(
      f"config key task.name: is set, want it left out: say {config.task.name} in the variant, which has its numbers"
    )
  for key in ("labels",) if words else ("kind", "labels"):
    if config.objective[key]:
      raise ConfigError(
        f"config key objective.{key}: is set, want it left out: it follows from task.name and its files"
      )
  try:
    with config.unlocked():
      _finish(config, word_tasks.complete(config) if words else _complete(config, said))
  except (EntityError, InputError, OSError, TaskError, TokenizerError, WeightsError) as error:
    raise ConfigError(str(error)) from error


def _complete(config: ConfigDict, said: Collection[str]) -> TaskData:
  """Fills what follows from an encoder of pieces."""
  start, task = pretrained(config.init_from), registry.find(config.task.name)
  if own := [key for key in SIZES if key in said and not config.task.fresh]:
    raise ConfigError(f"config key {own[0]}: is set, want it left out: the sizes are those of init_from")
  config.objective.kind = _head(config, start, task)
  _check_start(config, start)
  if target_scale(config) != 1.0 and config.objective.kind != "regress":
    got = f"config key objective.target_scale: got {config.objective.target_scale:g}"
    raise ConfigError(f"{got}, want 1: the targets of {task.name} are no numbers")
  tokenizer, entities = with_markers(start.tokenizer, task), _task_entities(config, start)
  config.data.length = _length(config, start.model.max_positions, "data.length" in said)
  config.dtype = config.dtype or start.dtype or "bfloat16"
  own = {key: value for key, value in config.model.items() if key != "name"}
  config.model = ConfigDict(start.model.to_dict() | own)
  config.model.vocab_size = tokenizer.vocab_size
  if config.model.name == "luke":
    config.task.queries = config.model.query_kinds = config.task.queries or start.queries
    config.model.entity_vocab_size = start.model.entity_vocab_size if config.task.links else len(ENTITIES)
  return task_data(config, piece_form(config, tokenizer, entities))


def _head(config: ConfigDict, start: Pretrained, task: registry.Task) -> str:
  """The kind of head that the task is put to: its own, or a tag a word for encoders without entities."""
  plain = "tag" if start.model.name != "luke" and "tag" in task.others else task.head
  return task.put(config.task.head or plain).head


def _task_entities(config: ConfigDict, start: Pretrained) -> EntityVocabulary | None:
  """Those of the model's table: all of the start's for the links of articles, else the special ones."""
  if start.entities is None or config.task.links:
    return start.entities
  return EntityVocabulary(ENTITIES)


def _finish(config: ConfigDict, data: TaskData) -> None:
  """Fills what follows from the number of examples and their labels."""
  chosen, known = config.select_by, _selectable(config, data)
  if chosen and chosen not in known:
    raise ConfigError(f"config key select_by: got {chosen!r}, want a held-out figure: {', '.join(known)}")
  config.objective.labels = data.labels
  epoch = data.epoch_size(config.batch_size)
  config.steps = config.steps or epoch * config.task.epochs
  config.eval_every, config.save_every = config.eval_every or epoch, config.save_every or epoch
  config.log_every = config.log_every or min(LOG_EVERY, max(1, config.steps // 10))
  config.optimizer.warmup_steps = config.optimizer.warmup_steps or int(config.task.warmup * config.steps)
  if (frozen := _frozen(config)) and not config.stages:
    config.stages = ({"steps": config.steps, "freeze": frozen},)


def _selectable(config: ConfigDict, data: TaskData) -> list[str]:
  """Names of what a run reports of its held-out files, without thresholds: official figures, then what is computed of
  each batch. Compared texts and numbers are neither right nor wrong, and compared texts have no loss."""
  kind = config.objective.kind
  reported = () if kind == EMBED else ("loss", "task_loss") if kind == "regress" else ("loss", "task_loss", "accuracy")
  official = [name for name in data.figure_names() if not name.endswith(("thresh", NULL_THRESHOLD))]
  own = [figure for name in ("", *data.further) for figure in named(name, dict.fromkeys(reported, 0.0))]
  return list(dict.fromkeys([*official, *own]))


def _frozen(config: ConfigDict) -> tuple[str, ...]:
  """Patterns of the parameters that stay as they are."""
  if config.objective.name == WORDS:
    return word_tasks.frozen(config)
  if config.task.freeze:
    _check_frozen(config)
  linked = ("^entity_embeddings/entity/",) if config.task.links else ()  # the table of all entities
  return FREEZE["embeddings" if frozen_layers(config) else config.task.freeze] or linked


def _check_frozen(config: ConfigDict) -> None:
  key, layers = f"config key task.freeze: got {config.task.freeze!r}", frozen_layers(config)
  if config.stages:
    raise ConfigError(f"{key} beside stages, want one of them: stages.0.freeze says what does not train")
  if config.task.freeze == "encoder" and config.objective.kind == EMBED:
    raise ConfigError(f"{key}, want less: {config.task.name} has no head that could train")
  if layers > config.model.layers:
    raise ConfigError(f"{key}, want at most {config.model.layers}, the layers of init_from")
  try:
    layer_factors(models.build(config).config, 1.0, layers)
  except ValueError as error:
    raise ConfigError(f"config key task.freeze: {error}; want embeddings or encoder") from error


def _check_start(config: ConfigDict, start: Pretrained) -> None:
  """Refuses what cannot be fine-tuned on the task, or is none of the family whose numbers the recipe has."""
  task, kind, wanted, got = config.task, config.objective.kind, config.model.name, start.model.name
  key = "config key init_from: "
  if wanted and got not in (wanted, *((ALIKE[wanted],) if wanted in ALIKE else ())):
    raise ConfigError(
      f"{key}{config.init_from} holds a model of the family {got}, want {wanted}, whose numbers the recipe has; say "
      f"model={got}, or leave model= out"
    )
  if got != "luke":
    for name, plain in (("links", ""), ("queries", 0)):
      if task[name] != plain:
        raise ConfigError(f"config key task.{name}: got {task[name]!r}, want {plain!r}: {got} has no entities")
  elif start.entities is None and (kind in (*MENTIONS, "spans") or task.links):
    raise ConfigError(f"{key}{config.init_from} has no entity vocabulary, want entity_vocab.json there")


def _length(config: ConfigDict, positions: int, said: bool) -> int:
  if said and config.data.length > positions:
    raise ConfigError(
      f"config key data.length: got {config.data.length}, want at most {positions}, the positions of init_from"
    )
  return min(config.data.length or LENGTH, positions)


def with_markers(tokenizer: Tokenizer, task: registry.Task) -> Tokenizer:
  """The tokenizer with the pieces that mark a task's mentions behind its vocabulary, those that it lacks."""
  missing = tuple(piece for piece in task.markers if piece not in tokenizer.vocabulary)
  return tokenizer.with_added(missing) if missing else tokenizer


def task_form(config: ConfigDict, workdir: Path) -> Form:
  """How a run makes batches of its task; with what its workdir holds once it has begun, else what it starts with."""
  if config.objective.name == WORDS:
    return word_tasks.word_form(config, workdir)
  return _piece_form(config, workdir)


def _piece_form(config: ConfigDict, workdir: Path) -> PieceForm:
  if (workdir / TOKENIZER).is_dir():
    return piece_form(config, load_tokenizer(workdir), _entities(workdir / TOKENIZER))
  start = pretrained(config.init_from)
  tokenizer = with_markers(start.tokenizer, registry.find(config.task.name))
  return piece_form(config, tokenizer, _task_entities(config, start))


def source_of(config: ConfigDict) -> str:
  """The folder whose parameters a run starts from; "" where all start from the seed."""
  if config.objective.name == WORDS:
    return word_tasks.source_of(config)
  return "" if "task" in config and config.task.fresh else config.init_from


def initial_leaves(config: ConfigDict, found: dict[str, Any], fresh: Any) -> dict[str, Any]:
  """Leaves that a run starts from, of those `found` in its source. fresh: parameters from the seed."""
  leaves = named_leaves(fresh)
  if config.objective.name == WORDS:
    return word_tasks.initial_leaves(config, found, leaves)
  if config.task.fresh:
    logging.info("fine-tuning: sizes and vocabulary of %s, every parameter from the seed", config.init_from)
    return leaves
  start, task = pretrained(config.init_from), registry.find(config.task.name)
  if "model=" not in config.recipe:
    logging.info(
      "fine-tuning: a model of the family %s; model=%s in the variant has the numbers published with it",
      start.model.name, start.model.name,
    )  # fmt: skip
  tokenizer = with_markers(start.tokenizer, task)
  markers = {
    tokenizer.id_of(piece): copied_row(start.tokenizer, source)
    for piece, source in task.markers.items()
    if piece not in start.tokenizer.vocabulary
  }
  entities = None if config.task.links else _special_rows(start.entities)
  found = scaled_numbers(found, start.target_scale / target_scale(config))
  return adapted(found, leaves, start.tokenizer.vocab_size, markers, entities, _same_head(config, start))


def _special_rows(entities: EntityVocabulary | None) -> list[int]:
  """The rows of ENTITIES in the table of `entities`; none where nobody knows them."""
  if entities is None:
    return []
  special = entities.special
  return [special.pad, special.unk, special.mask, special.mask if special.mask2 is None else special.mask2]


def _same_head(config: ConfigDict, start: Pretrained) -> bool:
  """Whether what the run starts from has a head of this kind, for these labels."""
  if start.head is None or start.head[0] != config.objective.kind:
    return False
  return TASK_HEADS[start.head[0]].outputs is not None or start.head[1] == tuple(config.objective.labels)
