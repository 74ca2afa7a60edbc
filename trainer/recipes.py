"""The recipe that published weights belong to, and its keys that say what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from models.published.weights import Published
from models.spanbert import SpanBertConfig
from trainer.config import load

ENCODER_KEYS = (
  "vocab_size", "layers", "hidden", "heads", "ffn", "max_positions", "types", "dropout", "attention_dropout",
  "activation", "norm_eps",
)  # fmt: skip
ELMO_KEYS = (
  "vocab_size", "input", "characters", "char_embedding", "filters", "activation", "highway", "layers", "cell",
  "projection", "cell_clip", "projection_clip", "skip", "dropout",
)  # fmt: skip
ELMO_SIZE = "original"  # whose recipe a released ELMo goes on with


def family_of(found: Published) -> str:
  """The recipe's name. SpanBERT's files say bert, and its boundary head tells."""
  return "spanbert" if isinstance(found.model.config, SpanBertConfig) else found.family


def model_of(found: Published) -> ConfigDict:
  """The `model` group of a recipe for weights that were published."""
  family, config = family_of(found), found.model.config
  if family == "elmo":
    return load(f"configs/elmo.py:{ELMO_SIZE}", model_keys(family, config)).model
  rows = {"data.length": min(512, config.max_positions), "data.max_predictions": 1, "stages": ()}
  return load(f"configs/{family}.py:base", model_keys(family, config) | rows).model


def model_keys(family: str, c: Any) -> dict[str, Any]:
  """{dotted key: value} of a recipe's `model` group; without the number of words of an ELMo that has no softmax."""
  names = ELMO_KEYS if family == "elmo" else ENCODER_KEYS
  keys = {name: getattr(c, name) for name in names if name != "vocab_size" or c.vocab_size}
  keys |= _OWN[family](c) if family in _OWN else {}
  return {f"model.{key}": value for key, value in keys.items()}


def _albert(c: Any) -> dict[str, Any]:
  attention, ffn = c.sharing.attention_groups, c.sharing.ffn_groups
  share = "all" if attention == ffn else "attention" if ffn == c.layers else "ffn"
  return {"embedding": c.embedding, "share": share, "groups": min(attention, ffn), "inner": c.sharing.inner}


def _spanbert(c: Any) -> dict[str, Any]:
  return {"span_positions": c.span_positions}


def _electra(c: Any) -> dict[str, Any]:
  """A discriminator alone leaves the recipe's generator, which no fine-tuned model has."""
  names = () if c.generator is None else ("layers", "hidden", "heads", "ffn")
  generator = {f"generator_{name}": getattr(c.generator, name) for name in names}
  return {"embedding": c.embedding, "tie": c.tie, **generator}


def _luke(c: Any) -> dict[str, Any]:
  return {name: getattr(c, name) for name in ("entity_vocab_size", "entity_embedding", "query_kinds")}


_OWN: dict[str, Callable[[Any], dict[str, Any]]] = {
  "albert": _albert,
  "electra": _electra,
  "luke": _luke,
  "spanbert": _spanbert,
}
