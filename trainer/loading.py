"""Trained models from the folders that hold them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

import models
from data import entity_vocabulary
from data.entity_vocabulary import EntityError, EntityVocabulary
from data.tokenizers import Tokenizer, validate
from models.elmo import Elmo
from models.luke import LukeConfig
from models.published import allennlp, weights
from models.published.errors import WeightsError
from models.published.luke_files import is_archive
from models.published.parts import shapes_of
from models.task_networks import TaskNetwork
from trainer.config import flatten, from_json, stages
from trainer.logs import MetricLog
from trainer.manifest import CheckpointError
from trainer.restore import Reader
from trainer.rules import check_value
from trainer.texts import CONFIG, TOKENIZER, InputError, load_tokenizer, seeds_of

WINDOW = 128  # words


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A model that is ready to run.

  max_length: tokens of the longest texts that it was trained on; later positions, if it has any, never learned. Of an
    ELMo, which reads texts of any length, words that run at once; of a network on one, words of a text.
  source: where it came from, for messages.
  entities: titles of a LUKE's entities, where the folder has them.
  step: of a run, that of the parameters.
  """

  model: Any
  params: dict
  tokenizer: Tokenizer
  max_length: int
  source: str
  entities: EntityVocabulary | None = None
  step: int | None = None


def load_model(path: str | os.PathLike[str], dtype: str | None = None) -> Loaded:
  """A trained model.

  Args:
    path: the workdir of a run: `config.json`, `tokenizer/` and `checkpoints/`, of which the newest good one is taken;
      or a folder of published weights in Hugging Face's layout, or AllenNLP's of an ELMo.
    dtype: of matrix products, float32 or bfloat16; by default float32 on CPUs and the run's own elsewhere.
  Raises:
    InputError, ConfigError, TokenizerError: the folder or a part of it is missing or damaged, or they do not fit.
  """
  folder = Path(path)
  if not folder.is_dir():
    raise InputError(f"model {folder}: no such directory, want a workdir of train.py or published weights")
  if is_published(folder):
    return load_published(folder, dtype)
  if not (folder / CONFIG).is_file():
    want = seeds_of(folder) or "a workdir of train.py or published weights"
    raise InputError(f"model {folder}: has no {CONFIG}, want {want}")
  return load_workdir(folder, dtype)


def is_published(folder: Path) -> bool:
  """Whether the folder is of Hugging Face's layout; a damaged config.json is left to the reader of workdirs.

  Both networks of an ELECTRA stand in folders of their own in it. Unpacked archives of LUKE's original code count too,
  and options and weights of an ELMo.
  """
  if weights.is_pair(folder) or is_archive(folder) or allennlp.is_folder(folder):
    return True
  try:
    values = json.loads((folder / CONFIG).read_bytes())
  except (OSError, ValueError):
    return False
  return isinstance(values, dict) and "schema" not in values and bool(values.keys() & {"model_type", "architectures"})


def read_config(folder: Path) -> Any:
  """The config of a workdir. Its recipe need not exist any more."""
  if not (folder / CONFIG).is_file() or is_published(folder):
    want = seeds_of(folder) or "a workdir of train.py"
    raise InputError(f"model {folder}: has no {CONFIG} of a run, want {want}")
  return from_json((folder / CONFIG).read_text(encoding="utf-8", errors="replace"), str(folder / CONFIG))


def load_workdir(folder: Path, dtype: str | None) -> Loaded:
  """`load_model` of a workdir. Its recipe need not exist any more."""
  config = read_config(folder)
  try:
    config.dtype = dtype or ("float32" if jax.default_backend() == "cpu" else config.dtype)
    for key, value in flatten(config).items():
      check_value(key, value)
    model = models.build(config)
    longest = _longest(config)
    tokenizer, select_by = load_tokenizer(folder), config.select_by
    check_vocabulary(tokenizer, model)
  except (AttributeError, KeyError, TypeError) as error:
    reason = " ".join(str(error).split())
    raise InputError(f"model {folder}: {CONFIG} does not describe a model of this version: {reason}") from error
  params, step = newest_params(folder, model, best_step(folder, select_by))
  source, entities = f"{folder} step {step}", entities_of(folder, model)
  return Loaded(model, params, tokenizer, longest, source, entities, step)


def _longest(config: Any) -> int:
  if config.model.name == "elmo":
    return WINDOW
  if config.model.name == "elmo_task":
    return config.data.length
  return min(max(stage.length for stage in stages(config)), config.model.max_positions)


def check_vocabulary(tokenizer: Tokenizer, model: Any) -> None:
  """Holds a tokenizer against a model; an ELMo has no rows for most words. Raises TokenizerError, or InputError.

  A network on an ELMo has no rows for words of the tokenizer at all.
  """
  if isinstance(model, TaskNetwork):
    return
  size = model.config.vocab_size
  if not isinstance(model, Elmo):
    validate(tokenizer, size)
  elif tokenizer.kind != "words" or tokenizer.vocab_size < size:
    raise InputError(
      f"tokenizer {tokenizer.source}: got {tokenizer.vocab_size} pieces of a {tokenizer.kind} tokenizer, want {size} "
      "or more of one of whole words, as the model has; use the tokenizer that belongs to it"
    )


def best_step(folder: Path, name: str) -> int | None:
  """The step with the best held-out figure `name`, if the run has one and its checkpoint is good."""
  best = MetricLog.best(folder, name) if name else None
  return best[0] if best and best[0] in Reader(folder / "checkpoints").good_steps() else None


def newest_params(folder: Path, model: Any, step: int | None = None) -> tuple[dict, int]:
  """Parameters of the newest good checkpoint of a workdir, on the default device, and its step; raises InputError.

  step: take that one where it is good.
  """
  try:
    found = Reader(folder / "checkpoints").restore_params(_shapes(model), step)
  except CheckpointError as error:
    raise InputError(f"model {folder}: {error}") from error
  if found is None:
    raise InputError(f"model {folder}: has no good checkpoint, want one in checkpoints/; train it, or wait for a save")
  return found[0], found[1]["step"]


def _shapes(model: Any) -> dict:
  """Shapes of a model's parameters."""
  if isinstance(model, Elmo):
    return allennlp.shapes_of(model)
  if not isinstance(model, TaskNetwork):
    return shapes_of(model)
  c, sentences = model.config, model.config.sentences
  words = np.zeros((1, 1, c.bilm.characters if c.places else 1), np.int32)
  lengths = np.full((1, sentences), 3, np.int32)
  index = np.zeros((1, sentences, 3), np.int32)
  init = lambda: model.init(jax.random.key(0), words, index, lengths, index, method="everything")["params"]
  return jax.eval_shape(init)


def published_tokenizer(folder: Path) -> Tokenizer:
  """The tokenizer of published weights."""
  return load_tokenizer(with_tokenizer(folder))


def with_tokenizer(folder: Path) -> Path:
  """The folder itself, or the one of the two networks of an ELECTRA whose tokenizer is taken."""
  return folder / "discriminator" if weights.is_pair(folder) else folder


def entities_of(folder: Path, model: Any) -> EntityVocabulary | None:
  """The entity vocabulary of a LUKE's folder, beside its tokenizer; None where there is none, or for other models.

  Raises:
    InputError: it is damaged, or names rows that the model does not have.
  """
  if not isinstance(model.config, LukeConfig):
    return None
  own = folder / TOKENIZER if (folder / TOKENIZER).is_dir() else folder
  if not any((own / name).is_file() for name in entity_vocabulary.FILES):
    return None
  try:
    entities = entity_vocabulary.load(own)
  except EntityError as error:
    raise InputError(f"model {folder}: {error}") from error
  rows = model.config.entity_vocab_size
  if entities.size > rows:
    raise InputError(
      f"model {folder}: entity vocabulary: got id {entities.size - 1}, want ids below {rows}, the rows of the entity "
      "table; use the vocabulary that the model was trained with"
    )
  return entities


def load_published(folder: Path, dtype: str | None) -> Loaded:
  """`load_model` of published weights and the tokenizer's files beside them."""
  dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  try:
    found = weights.load(folder, models.DTYPES[dtype])
  except WeightsError as error:
    raise InputError(f"model {folder}: {error}") from error
  for note in found.notes:
    logging.info("model %s: %s", folder, note)
  tokenizer = published_tokenizer(folder)
  check_vocabulary(tokenizer, found.model)
  params = jax.tree.map(jax.numpy.asarray, found.params)
  entities = entities_of(folder, found.model)
  longest = WINDOW if isinstance(found.model, Elmo) else found.model.config.max_positions
  return Loaded(found.model, params, tokenizer, longest, str(folder), entities)
