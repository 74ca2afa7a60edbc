"""Name table of LUKE: RoBERTa's names, entity tables, queries between words and entities, heads of tasks."""

from __future__ import annotations

import dataclasses

from models.luke import LukeConfig
from models.published.names import ENTITIES, VECTOR, VOCAB, Entry, Table, leaf, stacked
from models.published.tables import (
  BERT_LAYER,
  TORCH,
  TRANSFORM,
  Spelling,
  dense,
  embeddings,
  layers,
  norm,
  table,
  task_head,
  token_head,
)

# The three queries beside a word's to words: our name -> Hugging Face's.
QUERIES = {"word_to_entity": "w2e_query", "entity_to_word": "e2w_query", "entity_to_entity": "e2e_query"}
LAYER = "luke/encoder/layer_{}"


def luke(c: LukeConfig, s: Spelling = TORCH) -> Table:
  """LUKE as Hugging Face stores it.

  The word table is written a second time as `lm_head.decoder.weight`: transformers' LukeForMaskedLM does not tie them
  (version 5), and a file without that name would get random word logits there.

  Raises:
    WeightsError: two heads would have one name.
  """
  mlm, entity = "mlm" in c.heads_on_top, "entity" in c.heads_on_top
  entries = embeddings(s, c, "embeddings", "luke/embeddings")
  if mlm:
    entries[0] = dataclasses.replace(entries[0], repeats=("lm_head.decoder.weight",))
  entries += _entity_embeddings(s, c, ("entity_predictions.decoder.weight",) if entity else ())
  entries += layers(s, "layers", LAYER, BERT_LAYER, range(c.layers))
  if c.query_kinds == 4:
    entries += _queries(s, c)
  if c.pooler:
    entries += dense(s, "pooler/dense", "luke/pooler/dense")
  if mlm:
    inner = {"dense": "dense", "norm": "layer_norm"}
    entries += token_head(s, "lm_head", "lm_head.bias", inner, ("lm_head.decoder.bias",))
  if entity:
    entries += _entity_head(s)
  return table(s, c, "luke", entries + task_head(s, "luke", c))


def _entity_embeddings(s: Spelling, c: LukeConfig, tied: tuple[str, ...]) -> list[Entry]:
  path, name = "entity_embeddings", "luke/entity_embeddings"
  entries = [leaf(f"{path}/entity/embedding", s.join(f"{name}/entity_embeddings", s.table), ENTITIES, tied)]
  if c.entity_embedding != c.hidden:
    entries.append(leaf(f"{path}/dense/kernel", s.join(f"{name}/entity_embedding_dense", s.kernel), s.dense))
  for ours, theirs in (("position", "position_embeddings"), ("type", "token_type_embeddings")):
    entries.append(leaf(f"{path}/{ours}/embedding", s.join(f"{name}/{theirs}", s.table)))
  return entries + norm(s, f"{path}/norm", f"{name}/LayerNorm")


def _queries(s: Spelling, c: LukeConfig) -> list[Entry]:
  entries = []
  for ours, theirs in QUERIES.items():
    path, name = f"layers/attention/{ours}", f"{LAYER}/attention/self/{theirs}"
    entries.append(stacked(f"{path}/kernel", s.join(name, s.kernel), s.dense, range(c.layers)))
    entries.append(stacked(f"{path}/bias", s.join(name, "bias"), VECTOR, range(c.layers)))
  return entries


def _entity_head(s: Spelling) -> list[Entry]:
  entries = token_head(s, "entity_predictions", "entity_predictions.bias", TRANSFORM, path="heads/entity")
  return [dataclasses.replace(e, layout=ENTITIES) if e.layout == VOCAB else e for e in entries]
