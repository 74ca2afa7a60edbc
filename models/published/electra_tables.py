"""Name tables of ELECTRA: two networks that share tables, one folder each in Hugging Face's layout.

TensorFlow releases hold both in one checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from models.bert import BertConfig
from models.electra import ElectraConfig
from models.encoder import EncoderConfig
from models.published.errors import WeightsError
from models.published.names import Entry, Table
from models.published.tables import (
  BERT_LAYER,
  TENSORFLOW,
  TORCH,
  Spelling,
  dense,
  embeddings,
  layers,
  table,
  task_head,
  token_head,
)

HEAD = {"dense": "dense", "norm": "LayerNorm"}


def both(c: ElectraConfig, s: Spelling = TORCH) -> dict[str, Table]:
  """ELECTRA's networks, which Hugging Face keeps apart: tables of `discriminator` and, if there is one, `generator`.

  Their tables name the same leaves where the networks share them. `restore`, `gate` and `baseline` are heads that no
  published model has; they go under names of our own.
  """
  found = {"discriminator": table(s, c, "electra", _discriminator(s, c))}
  if c.generator is not None:
    if c.two_towers:
      raise WeightsError("name table: a generator of two towers (Electric) has no published layout; want another model")
    body = "discriminator/" if c.tie == "all" else "generator/"
    tables = "generator/embeddings" if c.tie == "none" else "embeddings"
    entries = _network(s, c.generator, body, tables, generator_scopes(s, c.tie), _tied(s))
    found["generator"] = table(s, c.generator, "electra", entries + _generator_heads(s, c.heads_on_top))
  return found


def checkpoint(c: ElectraConfig) -> Table:
  """Both networks as a TensorFlow checkpoint has them."""
  parts = list(both(c, TENSORFLOW).values())
  entries = {entry.path: entry for part in parts for entry in part.entries}
  return Table(tuple(entries.values()), parts[0].fixed, parts[0].ignored, parts[0].renames)


def generator(c: BertConfig) -> Table:
  """A generator in a folder of its own, which is a Bert with a projection."""
  entries = _network(TORCH, c, "", "embeddings", ("electra", "electra"), _tied(TORCH))
  own = table(TORCH, c, "electra", entries + _generator_heads(TORCH, c.heads_on_top))
  return dataclasses.replace(own, ignored=(*own.ignored, r"^generator_baseline\."))  # of use in training alone


def _network(
  s: Spelling, c: EncoderConfig, body: str, tables: str, scopes: tuple[str, str], tied: Sequence[str] = ()
) -> list[Entry]:
  """Tables at `tables` and a body at the prefix `body`; scopes: of the names of both."""
  entries = embeddings(s, c, tables, f"{scopes[0]}/embeddings", tied)
  if c.projection:
    entries += dense(s, f"{body}projection", f"{scopes[1]}/embeddings_project")
  return entries + layers(s, f"{body}layers", f"{scopes[1]}/encoder/layer_{{}}", BERT_LAYER, range(c.layers))


def _tied(s: Spelling) -> tuple[str, ...]:
  return ("generator_lm_head.weight",) if s is TORCH else ()


def generator_scopes(s: Spelling, tie: str) -> tuple[str, str]:
  """In TensorFlow checkpoints the generator's own parts are its own; Hugging Face's folders call all of it electra."""
  if s is TORCH:
    return "electra", "electra"
  return "generator" if tie == "none" else "electra", "electra" if tie == "all" else "generator"


def _generator_heads(s: Spelling, heads: Sequence[str]) -> list[Entry]:
  entries: list[Entry] = []
  if "mlm" in heads:
    bias = "generator_lm_head.bias" if s is TORCH else "generator_predictions/output_bias"
    entries += token_head(s, "generator_predictions", bias, HEAD)
  if "baseline" in heads:
    entries += dense(s, "heads/baseline", "generator_baseline")
  return entries


def _discriminator(s: Spelling, c: ElectraConfig) -> list[Entry]:
  entries = _network(s, c, "discriminator/", "embeddings", ("electra", "electra"))
  if "rtd" in c.heads_on_top:
    entries += dense(s, "heads/rtd/dense", "discriminator_predictions/dense")
    output = "dense_prediction" if s is TORCH else "dense_1"
    entries += dense(s, "heads/rtd/output", f"discriminator_predictions/{output}")
  if "restore" in c.heads_on_top:
    name = "discriminator_restoration"
    entries += token_head(s, name, s.join(name, "bias"), HEAD, path="heads/restore")
  if "gate" in c.heads_on_top:
    entries += dense(s, "heads/gate", "discriminator_gate")
  return entries + task_head(s, "electra", c)
