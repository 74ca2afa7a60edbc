"""config.json of Hugging Face's layout, and what TensorFlow releases have instead, <-> the configs of our encoders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.encoder import EncoderConfig
from models.layers import Init
from models.published.errors import WeightsError
from models.published.tasks import TASKS
from models.stack import Sharing

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
THEIR_ACTIVATION = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
# Keys whose other values change what the model computes, and the one value that is ours.
FIXED = {
  "position_embedding_type": "absolute",
  "is_decoder": False,
  "add_cross_attention": False,
  "tie_word_embeddings": True,
}
# config.json's key -> the value where the file does not say, as transformers has it
COMMON = {
  "type_vocab_size": 2,
  "layer_norm_eps": 1e-12,
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.1,
  "attention_probs_dropout_prob": 0.1,
  "initializer_range": 0.02,
  "pad_token_id": 0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DEFAULTS = {
  "bert": COMMON,
  "roberta": COMMON | {"pad_token_id": 1},
  "albert": COMMON
  | NO_DROPOUT
  | {"hidden_act": "gelu_new", "embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1},
  "electra": COMMON | {"embedding_size": 128},
  "luke": COMMON | {"pad_token_id": 1},
}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# ALBERT's sublayers may be shared each in its own way, for which config.json has one key; these are ours.
OWN_GROUPS = ("num_attention_groups", "num_ffn_groups")
OFFSET = ("roberta", "luke")  # families whose positions begin behind the padding's row
HEAD_SIZE = 64  # of every released BERT, ALBERT and ELECTRA but ALBERT's xlarge


def family_of(config: Mapping[str, Any], source: str) -> str:
  """The model family of a config.json. SpanBERT's released ones say bert, as their layout is BERT's."""
  family = config.get("model_type")
  if family not in DEFAULTS:
    raise WeightsError(f"weights {source}: config.json: got model_type {family!r}, want one of {', '.join(DEFAULTS)}")
  return family


def encoder_fields(config: Mapping[str, Any], family: str, source: str, dtype: Any) -> dict[str, Any]:
  """EncoderConfig fields of a config.json, but for what depends on the tensors.

  Raises:
    WeightsError: a key is missing, or has a value that our models do not compute.
  """
  for key, value in FIXED.items():
    if key in config and config[key] not in (value, None):
      raise WeightsError(
        f"weights {source}: config.json: {key} is {config[key]!r}, want {value!r}; no model here has it"
      )
  stated = DEFAULTS[family] | {key: value for key, value in config.items() if value is not None}
  if stated["hidden_act"] not in ACTIVATIONS:
    known = ", ".join(ACTIVATIONS)
    raise WeightsError(f"weights {source}: config.json: hidden_act is {stated['hidden_act']!r}, want one of {known}")

  def count(key: str, least: int = 1) -> int:
    return whole_number(stated, key, source, least)

  def number(key: str) -> float:
    if not isinstance(stated[key], int | float) or stated[key] < 0:
      raise WeightsError(f"weights {source}: config.json: {key} is {stated[key]!r}, want a number from 0")
    return float(stated[key])

  vocab, hidden, layers, heads, ffn = map(count, SIZES)
  if hidden % heads:
    raise WeightsError(f"weights {source}: config.json: hidden_size {hidden} is no multiple of {heads} heads, want one")
  offset = count("pad_token_id", 0) + 1 if family in OFFSET else 0
  groups, inner = (count("num_hidden_groups"), count("inner_group_num")) if family == "albert" else (layers, 1)
  own = [count(key) if key in stated else groups for key in OWN_GROUPS]
  return {
    "vocab_size": vocab,
    "embedding": count("embedding_size") if family in ("albert", "electra") else hidden,
    "hidden": hidden,
    "layers": layers,
    "heads": heads,
    "ffn": ffn,
    "max_positions": count("max_position_embeddings", offset + 1) - offset,
    "types": count("type_vocab_size"),
    "dropout": number("hidden_dropout_prob"),
    "attention_dropout": number("attention_probs_dropout_prob"),
    "activation": ACTIVATIONS[stated["hidden_act"]],
    "norm_eps": number("layer_norm_eps"),
    "init": Init(number("initializer_range"), truncated=False),
    "sharing": Sharing(*own, inner),
    "position_offset": offset,
    "zero_padding": offset - 1 if offset else None,
    "dtype": dtype,
  }


def whole_number(stated: Mapping[str, Any], key: str, source: str, least: int = 1) -> int:
  """A key of a config.json; WeightsError where it is missing or no whole number from `least`."""
  if key not in stated:
    raise WeightsError(f"weights {source}: config.json: has no {key}, want the whole file")
  if not isinstance(stated[key], int) or isinstance(stated[key], bool) or stated[key] < least:
    raise WeightsError(f"weights {source}: config.json: {key} is {stated[key]!r}, want a whole number from {least}")
  return stated[key]


def published_config(c: EncoderConfig, family: str, heads: Sequence[str], special: Mapping[str, int]) -> dict[str, Any]:
  """config.json of a model. special: ids of the tokenizer's special pieces; pad, cls and sep are written.

  Raises:
    WeightsError: no published model computes what this one does.
  """
  _refuse_inexpressible(c, family, heads, special)
  config: dict[str, Any] = {
    "architectures": [architecture(family, heads)],
    "model_type": "bert" if family == "spanbert" else family,
    "vocab_size": c.vocab_size,
    "hidden_size": c.hidden,
    "num_hidden_layers": c.layers,
    "num_attention_heads": c.heads,
    "intermediate_size": c.ffn,
    "hidden_act": THEIR_ACTIVATION[c.activation],
    "hidden_dropout_prob": c.dropout,
    "attention_probs_dropout_prob": c.attention_dropout,
    "max_position_embeddings": c.max_positions + c.position_offset,
    "type_vocab_size": max(c.types, 1),
    "initializer_range": c.init.std,
    "layer_norm_eps": c.norm_eps,
    "pad_token_id": special["pad"],
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
  }
  if family in ("roberta", "albert", "luke"):
    config |= {"bos_token_id": special["cls"], "eos_token_id": special["sep"]}
  if family in ("albert", "electra"):
    config["embedding_size"] = c.embedding
  if family == "albert":
    own = (c.sharing.attention_groups, c.sharing.ffn_groups)
    config |= {"num_hidden_groups": max(own), "inner_group_num": c.sharing.inner}
    config["classifier_dropout_prob"] = 0.1  # the released models', at fine-tuning
    config |= dict(zip(OWN_GROUPS, own)) if own[0] != own[1] else {}
  return config


def _refuse_inexpressible(c: EncoderConfig, family: str, heads: Sequence[str], special: Mapping[str, int]) -> None:
  offset = special["pad"] + 1 if family in OFFSET else 0
  shared = c.sharing != Sharing(c.layers, c.layers)
  problems = {
    f"positions begin at row {c.position_offset}, want {offset}": c.position_offset != offset,
    "layers share parameters": shared and family != "albert",
    "a projection, or tables narrower than the layers": c.projection and family not in ("albert", "electra"),
    f"activation {c.activation}, want gelu in the head": refuses_activation(family, heads, c.activation),
  }
  found = [problem for problem, is_there in problems.items() if is_there]
  if found:
    raise WeightsError(f"export: {'; '.join(found)}: no published {family} computes this; export another model")


def refuses_activation(family: str, heads: Sequence[str], activation: str) -> bool:
  """Whether transformers' head is another: RoBERTa's, LUKE's and ELECTRA's generator's always have the erf GELU."""
  return family in ("roberta", "electra", "luke") and "mlm" in heads and activation != "gelu"


def refuse_activation(family: str, has: Sequence[str], activation: str, source: str) -> None:
  """WeightsError where `refuses_activation`."""
  if refuses_activation(family, has, activation):
    raise WeightsError(
      f"weights {source}: config.json: hidden_act is {activation}, want gelu: transformers gives this head no other"
    )


# Family -> what a model's heads of pretraining make it, the first that it has all of
PRETRAINED: dict[str, tuple[tuple[frozenset[str], str], ...]] = {
  "bert": (
    (frozenset(("mlm", "pair")), "BertForPreTraining"),
    (frozenset(("mlm",)), "BertForMaskedLM"),
    (frozenset(("pair",)), "BertForNextSentencePrediction"),
    (frozenset(), "BertModel"),
  ),
  "roberta": ((frozenset(("mlm",)), "RobertaForMaskedLM"), (frozenset(), "RobertaModel")),
  "albert": (
    (frozenset(("mlm", "pair")), "AlbertForPreTraining"),
    (frozenset(("mlm",)), "AlbertForMaskedLM"),
    (frozenset(), "AlbertModel"),
  ),
  "electra": (
    (frozenset(("rtd",)), "ElectraForPreTraining"),
    (frozenset(("mlm",)), "ElectraForMaskedLM"),
    (frozenset(), "ElectraModel"),
  ),
  "luke": (
    (frozenset(("mlm",)), "LukeForMaskedLM"),
    (frozenset(("entity",)), "LukeForMaskedLM"),
    (frozenset(), "LukeModel"),
  ),
}


def architecture(family: str, heads: Sequence[str]) -> str:
  """transformers' class for these heads: that of a task before those of pretraining."""
  family = "bert" if family == "spanbert" else family
  tasks = [task.architecture for head, task in TASKS[family].items() if head in heads]
  return tasks[0] if tasks else next(name for need, name in PRETRAINED[family] if need <= set(heads))


# --- TensorFlow releases ----------------------------------------------------------------------------------------------

# ALBERT's code calls the tanh form gelu. So does BERT's since 2019; its first releases are of the exact form, and all
# are read so here, as everywhere else (they differ by 5e-4 at most).
ALBERT_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu"}


def released_config(folder: Path, family: str) -> dict[str, Any] | None:
  """What config.json would say, from `bert_config.json` or `albert_config.json`; None where there is none."""
  path = folder / f"{family}_config.json"
  if not path.is_file():
    return None
  try:
    stated = json.loads(path.read_bytes())
  except ValueError as error:
    raise WeightsError(f"weights {path}: cannot be read ({error}), want a JSON object; download it again") from error
  if not isinstance(stated, dict):
    raise WeightsError(f"weights {path}: got a {type(stated).__name__}, want a JSON object; download it again")
  if family == "albert":
    activation = stated.get("hidden_act")
    if activation not in ALBERT_ACTIVATIONS:
      known = ", ".join(ALBERT_ACTIVATIONS)
      raise WeightsError(f"weights {path}: hidden_act is {activation!r}, want one of {known}; download it again")
    stated["hidden_act"] = ALBERT_ACTIVATIONS[activation]
  return stated | {"model_type": family}


def config_of_shapes(
  tensors: Mapping[str, np.ndarray], family: str, tables: str, body: str, source: str
) -> dict[str, Any]:
  """What config.json would say of a network whose tables and layers stand at the scopes `tables` and `body`.

  No tensor tells the number of heads; it is that of heads of HEAD_SIZE columns.
  """
  numbers = (re.match(rf"{body}/encoder/layer_(\d+)/", name) for name in tensors)
  try:
    vocab, embedding = tensors[f"{tables}/embeddings/word_embeddings"].shape
    hidden, ffn = tensors[f"{body}/encoder/layer_0/intermediate/dense/kernel"].shape
    positions = len(tensors[f"{tables}/embeddings/position_embeddings"])
    types = len(tensors[f"{tables}/embeddings/token_type_embeddings"])
  except KeyError as error:
    raise WeightsError(f"weights {source}: has no {error.args[0]}, want a whole checkpoint") from error
  return {
    "model_type": family, "vocab_size": vocab, "embedding_size": embedding, "hidden_size": hidden,
    "num_hidden_layers": len({match[1] for match in numbers if match}), "intermediate_size": ffn,
    "num_attention_heads": max(1, hidden // HEAD_SIZE), "max_position_embeddings": positions, "type_vocab_size": types,
  }  # fmt: skip
