"""Runs to published weights and back: what `python -m models.hf` does."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data.synthetic import synthetic_batch
from data.tokenizers import Tokenizer
from models.electra import ElectraConfig
from models.elmo import Elmo, ElmoConfig
from models.luke import Luke, LukeConfig
from models.paths import named_leaves
from models.published import allennlp, weights
from models.published.tasks import task_of
from models.task_heads import scaled_numbers, target_scale
from models.task_networks import TaskNetwork
from objectives.state import State
from trainer.checkpoints import Checkpoints
from trainer.config import load, to_json
from trainer.entity_export import marked
from trainer.loading import check_vocabulary, entities_of, load_model, published_tokenizer, read_config
from trainer.programs import Program, Setup
from trainer.recipes import ELMO_SIZE, family_of, model_keys
from trainer.start import CHECKPOINTS, adopt, write_config
from trainer.texts import TOKENIZER, InputError, has_vocabulary, load_tokenizer

# What published weights may lack
PARTS = ("heads/mlm/", "heads/pair/", "heads/sbo/", "heads/rtd/", "heads/entity/", "heads/softmax/", "pooler/")


def export_run(source: Path, target: Path) -> dict[str, Any]:
  """Writes the newest good checkpoint of a workdir, its config and its tokenizer in Hugging Face's layout.

  An ELMo goes out as AllenNLP reads it, which has no place for its softmax.

  Returns:
    What was written, for the summary.
  Raises:
    InputError, WeightsError: there is no such run, or `target` holds other things.
  """
  loaded, config = load_model(source, "float32"), read_config(source)
  if isinstance(loaded.model, TaskNetwork):
    raise InputError(
      f"model {source}: is a task's network on an ELMo, which no published layout has; predict.py takes the run, and "
      "the ELMo itself is that of its init_from"
    )
  family, labels = config.model.name, tuple(config.objective.labels) if "labels" in config.objective else ()
  model, special = loaded.model, dataclasses.asdict(loaded.tokenizer.special)
  longest = None if isinstance(model, Elmo) else model.config.max_positions
  save = lambda folder: loaded.tokenizer.save(folder, longest)
  params = scaled_numbers(jax.tree.map(np.asarray, jax.device_get(loaded.params)), target_scale(config))
  if isinstance(model, Luke):
    out = marked(model, params, loaded.tokenizer, loaded.entities, str(source))
    model, params, save = out.model, out.params, out.save
  if isinstance(model, Elmo):
    del params["heads"]
  weights.save(target, family, model, params, special, save, labels)
  if isinstance(model, Elmo):
    logging.info("export %s: left out: the softmax, which %s has no place for", target, allennlp.WEIGHTS)
  return {"family": family, "source": loaded.source, "target": str(target), "parameters": _count(params)}


def import_weights(
  source: Path, target: Path, fresh_heads: bool = False, pytorch_bin: bool = False, tensorflow: bool = False
) -> dict[str, Any]:
  """Makes a workdir at step 0 of published weights: `init_from`, `predict.py` and `export` take it like any run.

  Args:
    source: a folder in Hugging Face's layout, or AllenNLP's of an ELMo, whose softmax starts from the seed; with
      `tensorflow` a folder with one checkpoint, or its prefix.
    fresh_heads: heads and pooler that the weights lack start from the seed; else they are an error.
    pytorch_bin: read pytorch_model.bin where there is no safetensors file.
    tensorflow: read a checkpoint of the original BERT, ALBERT or ELECTRA code.
  Raises:
    InputError, WeightsError, ConfigError: the folder, its config or its tensors do not fit, or `target` is in use.
  """
  if target.exists() and any(target.iterdir()):
    raise InputError(f"target {target}: is not empty, want a new folder")
  if tensorflow:
    found = weights.load_tensorflow(source)
    tokenizer = load_tokenizer(source if source.is_dir() else source.parent)
  else:
    found = weights.load(source, pytorch_bin=pytorch_bin)
    tokenizer = published_tokenizer(source)
  family, model = family_of(found), found.model.config
  _refuse_task(model, source)
  entities = entities_of(source, found.model)
  if family == "electra" and not (isinstance(model, ElectraConfig) and model.generator):
    raise InputError(f"weights {source}: are one network of an ELECTRA, want both, in discriminator/ and generator/")
  if isinstance(model, LukeConfig):
    found = _pretraining(found, entities is not None, source)
  check_vocabulary(tokenizer, found.model)
  if isinstance(found.model, Elmo):
    config = _elmo_config(model, tokenizer, source)
  else:
    size = "mluke_base" if family == "luke" and tokenizer.kind == "xlmr" else "base"
    config = load(f"configs/{family}.py:{size}", _overrides(family, model))
  own = {path: np.asarray(leaf) for path, leaf in named_leaves(found.params).items()}
  state = _state(config, own, source, fresh_heads)
  with Checkpoints(target / CHECKPOINTS, keep=1) as checkpoints:
    meta = {"config": json.loads(to_json(config)), "data": "", "imported": str(source)}
    checkpoints.save(state, meta, scheduled=True, permanent=True, wait=True)
  write_config(target, config)
  tokenizer.save(target / TOKENIZER)
  if entities is not None:
    entities.save(target / TOKENIZER)
  for note in found.notes:
    logging.info("weights %s: %s", source, note)
  return {"family": family, "source": str(source), "target": str(target), "parameters": _count(own)}


def _refuse_task(model: Any, source: Path) -> None:
  """Refuses what was fine-tuned: a run at step 0 goes on with pretraining."""
  task = task_of(model)
  if task is not None:
    raise InputError(
      f"weights {source}: hold a head for {task}, which pretraining has not; give the folder to predict.py or --config."
      "init_from"
    )


def _pretraining(found: weights.Published, has_titles: bool, source: Path) -> weights.Published:
  """A LUKE as its pretraining has it: without the pooler, which it never trains."""
  if not has_titles:
    raise InputError(f"weights {source}: have no entity_vocab.json beside them, want the titles; copy it there")
  if "pooler" not in found.params:
    return found
  params = {name: part for name, part in found.params.items() if name != "pooler"}
  note = "left out: pooler, which pretraining does not train; the folder itself still has it"
  return dataclasses.replace(found, params=params, notes=(*found.notes, note))


def _elmo_config(model: ElmoConfig, tokenizer: Tokenizer, source: Path) -> ConfigDict:
  """The recipe that a released ELMo goes on with; its softmax is to predict all words of the vocabulary."""
  if not has_vocabulary(source):
    raise InputError(
      f"weights {source}: have no vocab.txt beside them, want the words that the softmax predicts, a word a line: <S>, "
      "</S>, <UNK>, then by descending count; put it there"
    )
  recipe = f"configs/elmo.py:{ELMO_SIZE}"
  own = {"model.vocab_size": tokenizer.vocab_size, "data.words": tokenizer.split}
  if tokenizer.vocab_size <= load(recipe).objective.negatives:  # too few words to sample from
    own["objective.softmax"] = "full"
  return load(recipe, model_keys("elmo", model) | own)


def _state(config: Any, own: dict[str, np.ndarray], source: Path, fresh_heads: bool) -> State:
  """A fresh state of the config with the leaves of `own`."""
  setup = Setup.of(config, jax.devices()[:1])
  stage, elmo = setup.stages[0], config.model.name == "elmo"
  if not elmo:  # whose state has a row for each of a batch's
    stage = dataclasses.replace(stage, batch_size=config.micro_batches)
  state = Program(setup, stage, synthetic_batch(config, stage, 0)).fresh_state()
  has = lambda part, paths: any(path.startswith(part) for path in paths)
  absent = [part for part in PARTS if has(part, named_leaves(state.params)) and not has(part, own)]
  if absent and not (fresh_heads or elmo):
    raise InputError(f"weights {source}: have no {', '.join(absent)}; --fresh_heads starts them from the seed")
  return dataclasses.replace(state, params=adopt(own, state.params, tuple(("", part) for part in absent)))


def _overrides(family: str, c: Any) -> dict[str, Any]:
  """Keys of the family's recipe that say what the weights are."""
  overrides = model_keys(family, c)
  if family not in ("electra", "luke"):
    # BERT's and ALBERT's recipes keep a pooler for a pair decision; the others have pairs where there is a head
    pair = c.pooler if family in ("albert", "bert") else "pair" in c.heads_on_top
    overrides["objective.pair"] = ("sop" if family == "albert" else "nsp") if pair else "none"
    overrides |= {"data.format": "segment_pairs"} if pair else {}
  if c.max_positions < 512:  # the recipes' rows
    shorter = {"data.length": c.max_positions, "data.max_predictions": max(1, round(0.15 * c.max_positions))}
    overrides |= {"stages": (), **shorter}
  return overrides


def _count(params: Any) -> int:
  return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
