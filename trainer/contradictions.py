"""Which values of a config contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from trainer.rules import ACTIVATIONS


def contradictions(config: ConfigDict, stages: tuple) -> Iterator[str]:
  """One line for each pair of keys that cannot both stand. Keys that a recipe does not have contradict nothing."""
  yield from _model_contradictions(config)
  yield from _electra_contradictions(config)
  yield from _data_contradictions(config)
  yield from _stream_contradictions(config, stages)
  yield from _word_task_contradictions(config)
  for number, stage in enumerate(stages):
    where = f"stages.{number}." if config.stages else ""
    yield from _stage_contradictions(config, stage, where)
  total = sum(stage.steps for stage in stages)
  if total != config.steps:
    yield (
      f"steps is {config.steps}, but stages add up to {total}; set --config.steps={total}, "
      "--config.stages.0.steps=N or --config.stages='()'"
    )
  if config.optimizer.warmup_steps > config.steps:
    yield (
      f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, want at most steps = {config.steps}; "
      "set --config.optimizer.warmup_steps=N"
    )


def _model_contradictions(config: ConfigDict) -> Iterator[str]:
  model = config.model
  if "activation" in model and model.activation not in (known := ACTIVATIONS[model.name == "elmo"]):
    yield f"model.activation is {model.activation}, want {' or '.join(known)} of model.name {model.name}"
  for prefix in ("", "generator_"):
    heads, hidden = f"{prefix}heads", f"{prefix}hidden"
    if heads in model and model[hidden] % model[heads]:
      yield f"model.{hidden} is {model[hidden]}, want a multiple of model.{heads} = {model[heads]}"
  if "groups" in model and model.groups > model.layers:
    yield f"model.groups is {model.groups}, want at most model.layers = {model.layers}"


def _electra_contradictions(config: ConfigDict) -> Iterator[str]:
  model, objective = config.model, config.objective
  if "tie" not in model or "generator" not in objective:  # a discriminator alone is fine-tuned
    return
  kind = objective.generator
  towers, learns = kind == "electric", kind in ("mlm", "electric")
  sizes = [name for name in ("layers", "hidden", "heads", "ffn") if model[f"generator_{name}"] != model[name]]
  if learns and model.tie == "all" and sizes:
    name = sizes[0]
    yield (
      f"model.generator_{name} is {model[f'generator_{name}']}, want model.{name} = {model[name]} with model.tie=all: "
      "one network has one size"
    )
  problems = (
    (towers and model.tie == "all", "model.tie is all, want embeddings or none"),
    (towers and objective.target != "all_tokens", f"objective.target is {objective.target}, want all_tokens"),
    (objective.adversarial and kind != "mlm", "objective.adversarial is True, want False"),
    (objective.sample == "argmax" and not learns, "objective.sample is argmax, want softmax"),
  )
  for wrong, text in problems:
    if wrong:
      yield f"{text} with objective.generator={kind}"
  if objective.adversarial and objective.target not in ("all_tokens", "masked"):
    yield f"objective.target is {objective.target}, want all_tokens or masked with objective.adversarial=True"


def _data_contradictions(config: ConfigDict) -> Iterator[str]:
  data = config.data
  if "tokenizer_type" in data and data.tokenizer_type in ("bytebpe", "words") and data.lowercase:
    yield f"data.lowercase is True, but data.tokenizer_type is {data.tokenizer_type}; set --config.data.lowercase=False"
  if config.objective.name == "entities" and data.format != "entity_sentences":
    yield f"data.format is {data.format}, want entity_sentences: others have no entities to predict"
  if "entity_mask_rate" not in data and "format" in data and data.format == "entity_sentences":
    yield f"data.format is entity_sentences, but objective.name {config.objective.name} predicts no entities"
  if "mask_share" in data and data.mask_share + data.random_share > 1 + 1e-9:
    yield f"data.mask_share + data.random_share is {data.mask_share + data.random_share:g}, want at most 1"
  if "sbo" in config.objective and config.objective.sbo > 0 and data.masking in ("token", "whole_word", "ngram"):
    yield (
      f"objective.sbo is {config.objective.sbo:g}, but data.masking {data.masking} has no spans; "
      "set --config.objective.sbo=0 or --config.data.masking=span"
    )
  if "pair" in config.objective and config.objective.pair != "none":
    if not data.format.endswith("_pairs"):
      yield (
        f"objective.pair is {config.objective.pair}, but data.format {data.format} has no pairs; "
        "set --config.objective.pair=none"
      )
    if config.objective.pair == "sop" and data.format != "segment_pairs":
      yield f"objective.pair is sop, but data.format is {data.format}; set --config.data.format=segment_pairs"
    if config.model.types < 2:
      yield f"model.types is {config.model.types}, want at least 2 with objective.pair = {config.objective.pair}"


def _stream_contradictions(config: ConfigDict, stages: tuple) -> Iterator[str]:
  data, model, objective = config.data, config.model, config.objective
  if objective.name != "language":
    return
  if data.tokenizer_type != "words" or data.words not in ("marks", "space"):
    yield (
      f"data.tokenizer_type is {data.tokenizer_type} and data.words {data.words}, want words, and marks or space: "
      "streams are of whole words"
    )
  if objective.softmax == "sampled" and objective.negatives >= model.vocab_size:
    yield (
      f"objective.negatives is {objective.negatives}, want below model.vocab_size = {model.vocab_size}; "
      "or set --config.objective.softmax=full"
    )
  if model.input == "characters" and max(width for width, _ in model.filters) > model.characters:
    yield f"model.filters is {model.filters}, want widths of at most model.characters = {model.characters}"
  shapes = {(stage.batch_size, stage.length) for stage in stages}
  if len(shapes) > 1:
    yield "stages: want one batch_size and one length: each row goes on from batch to batch"
  for rows, _ in shapes:
    if rows % (data.groups * config.micro_batches):
      yield (
        f"batch_size is {rows}, want a multiple of data.groups x micro_batches = {data.groups} x {config.micro_batches}"
      )


def _word_task_contradictions(config: ConfigDict) -> Iterator[str]:
  model, unnamed = config.model, ("regress", "choose", "answer")  # kinds without classes
  kinds = ("crf", "tag", "classify", "pair", *unnamed)
  if config.objective.name != "word_task":
    return
  if config.objective.kind not in kinds:
    yield f"objective.kind is {config.objective.kind}, want one of {', '.join(kinds)}"
  if not model.vectors and model.place not in ("input", "both"):
    yield f"model.place is {model.place} and there are no word vectors, want place=input or both, or vectors=tuned"
  if model.mixture.isdecimal() and model.bilm and int(model.mixture) > model.bilm.layers:
    yield f"model.mixture is {model.mixture}, want a layer from 0 to {model.bilm.layers}, those of init_from"
  if model.layer_norm and model.place != "none" and config.micro_batches > 1:
    yield f"micro_batches is {config.micro_batches}, want 1 with model.layer_norm, which reads the whole batch"
  if config.objective.kind == "answer" and model.encoder == "none":
    yield "model.encoder is none, want lstm with objective.kind = answer: a passage has to be read"
  if config.objective.kind not in unnamed and len(config.objective.labels) < 2:
    yield f"objective.labels are {config.objective.labels}, want two classes or more in the training file"


def _stage_contradictions(config: ConfigDict, stage: Any, where: str) -> Iterator[str]:
  parts = config.micro_batches
  rows = 0 if "task" in config else stage.batch_size  # batches of tasks are filled up with rows of padding
  if stage.lr and stage.warmup_steps > stage.steps:
    yield f"{where}warmup_steps is {stage.warmup_steps}, want at most {where}steps = {stage.steps}"
  length = f"{where}length" if where else "data.length"
  if rows % parts:
    yield f"{where}batch_size is {rows}, want a multiple of micro_batches = {parts}"
  elif config.mesh.data > 1 and rows // parts % config.mesh.data:
    yield f"{where}batch_size is {rows}, want a multiple of micro_batches x mesh.data = {parts} x {config.mesh.data}"
  if "max_positions" in config.model and stage.length > config.model.max_positions:
    yield f"{length} is {stage.length}, want at most model.max_positions = {config.model.max_positions}"
  if stage.max_predictions > stage.length:
    key = f"{where}max_predictions" if where else "data.max_predictions"
    yield f"{key} is {stage.max_predictions}, want at most {length} = {stage.length}"
