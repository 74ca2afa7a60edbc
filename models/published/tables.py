"""Name tables of the masked family: our parameter paths, Hugging Face's names and those of TensorFlow releases.

Names stand once, in the spelling of the TensorFlow code (bert/encoder/layer_0/output/dense), which Hugging Face's
layout follows with dots; where the two part, both stand. ALBERT's layers have names of their own in each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from models.bert import BertConfig
from models.encoder import EncoderConfig
from models.published.errors import WeightsError
from models.published.names import (
  KERNEL,
  KERNEL_FROM_HEADS,
  LINEAR,
  LINEAR_FROM_HEADS,
  SAME,
  VECTOR,
  VOCAB,
  Entry,
  Layout,
  Table,
  leaf,
  stacked,
)  # fmt: skip
from models.published.tasks import TASKS, task_of
from models.stack import copy_rows
from models.task_heads import TASK_HEADS, HeadedConfig, summarizes


@dataclasses.dataclass(frozen=True)
class Spelling:
  """How one kind of file names and lays out what a layer has."""

  kernel: str
  scale: str
  shift: str
  table: str
  dense: Layout
  from_heads: Layout
  dots: bool

  def name(self, path: str) -> str:
    """A name without its last part: `bert/encoder/layer_{}/output/dense`, or with dots `bert.encoder.layer.{}...`."""
    return re.sub(r"_(?=\{)", ".", path).replace("/", ".") if self.dots else path

  def join(self, path: str, last: str) -> str:
    return f"{self.name(path)}{'.' if self.dots else '/'}{last}" if last else self.name(path)


TORCH = Spelling("weight", "weight", "bias", "weight", LINEAR, LINEAR_FROM_HEADS, dots=True)
TENSORFLOW = Spelling("kernel", "gamma", "beta", "", KERNEL, KERNEL_FROM_HEADS, dots=False)

BERT_LAYER = {
  "query": "attention/self/query",
  "key": "attention/self/key",
  "value": "attention/self/value",
  "output": "attention/output/dense",
  "attention_norm": "attention/output/LayerNorm",
  "up": "intermediate/dense",
  "down": "output/dense",
  "ffn_norm": "output/LayerNorm",
}
ALBERT_LAYER = {
  TORCH: {
    "query": "attention/query",
    "key": "attention/key",
    "value": "attention/value",
    "output": "attention/dense",
    "attention_norm": "attention/LayerNorm",
    "up": "ffn",
    "down": "ffn_output",
    "ffn_norm": "full_layer_layer_norm",
  },
  TENSORFLOW: {
    "query": "attention_1/self/query",
    "key": "attention_1/self/key",
    "value": "attention_1/self/value",
    "output": "attention_1/output/dense",
    "attention_norm": "LayerNorm",
    "up": "ffn_1/intermediate/dense",
    "down": "ffn_1/intermediate/output/dense",
    "ffn_norm": "LayerNorm_1",
  },
}
# What TensorFlow checkpoints hold besides weights: the optimiser, and a sampling temperature (ELECTRA).
SLOTS = (r"/adam_[mv]$", r"/lamb_[mv]$", r"^global_step$", r"(^|/)temperature$")
IGNORED = (r"position_ids$", r"token_type_ids$", *SLOTS)  # the first two are buffers of PyTorch modules
OLDER = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


def dense(s: Spelling, path: str, name: str, layout: Layout | None = None) -> list[Entry]:
  """An affine map."""
  return [leaf(f"{path}/kernel", s.join(name, s.kernel), layout or s.dense), leaf(f"{path}/bias", s.join(name, "bias"))]


def norm(s: Spelling, path: str, name: str) -> list[Entry]:
  """A layer norm."""
  return [leaf(f"{path}/scale", s.join(name, s.scale)), leaf(f"{path}/bias", s.join(name, s.shift))]


def embeddings(s: Spelling, c: EncoderConfig, path: str, name: str, tied: Sequence[str] = ()) -> list[Entry]:
  """Tables and their norm. tied: further names of the word table."""
  tables = {"word": "word_embeddings", "position": "position_embeddings"} | (
    {"type": "token_type_embeddings"} if c.types else {}
  )
  entries = [
    leaf(
      f"{path}/{ours}/embedding", s.join(f"{name}/{theirs}", s.table), VOCAB if ours == "word" else SAME,
      tied if ours == "word" else (),
    )
    for ours, theirs in tables.items()
  ]  # fmt: skip
  return entries + norm(s, f"{path}/norm", f"{name}/LayerNorm")


def layers(
  s: Spelling,
  path: str,
  name: str,
  parts: Mapping[str, str],
  indices: Iterable[int | tuple[int, ...]],
  rows: Mapping[str, Sequence[int]] | None = None,
) -> list[Entry]:
  """A stack whose blocks are published under `name` filled with each of `indices`; rows: of copies, per sublayer."""
  indices, entries = list(indices), []
  own = rows or {"attention": range(len(indices)), "ffn": range(len(indices))}

  def add(sublayer: str, ours: str, part: str, last: str, layout: Layout) -> None:
    full = s.join(f"{name}/{parts[part]}", last)
    entries.append(stacked(f"{path}/{sublayer}/{ours}", full, layout, indices, own[sublayer]))

  for part in ("query", "key", "value"):
    add("attention", f"{part}/kernel", part, s.kernel, s.dense)
    add("attention", f"{part}/bias", part, "bias", VECTOR)
  add("attention", "output/kernel", "output", s.kernel, s.from_heads)
  add("attention", "output/bias", "output", "bias", SAME)
  for part in ("up", "down"):
    add("ffn", f"{part}/kernel", part, s.kernel, s.dense)
    add("ffn", f"{part}/bias", part, "bias", SAME)
  for sublayer in ("attention", "ffn"):
    add(sublayer, "norm/scale", f"{sublayer}_norm", s.scale, SAME)
    add(sublayer, "norm/bias", f"{sublayer}_norm", s.shift, SAME)
  return entries


def token_head(
  s: Spelling, name: str, bias: str, inner: Mapping[str, str], aliases: Sequence[str] = (), path: str = "heads/mlm"
) -> list[Entry]:
  """A head that predicts words; inner: names of its `dense` and `norm` below `name`."""
  return [
    *dense(s, f"{path}/dense", f"{name}/{inner['dense']}"),
    *norm(s, f"{path}/norm", f"{name}/{inner['norm']}"),
    leaf(f"{path}/bias", bias, VOCAB, aliases),
  ]


def pair_head(s: Spelling, name: str) -> list[Entry]:
  """The pair decision; TensorFlow's code multiplies by the transpose, [2, D], under names of its own."""
  if s is TORCH:
    return dense(s, "heads/pair", name)
  return [
    leaf("heads/pair/kernel", "cls/seq_relationship/output_weights", LINEAR),
    leaf("heads/pair/bias", "cls/seq_relationship/output_bias"),
  ]


def task_head(s: Spelling, family: str, c: HeadedConfig) -> list[Entry]:
  """The head of a task, if the model has one."""
  name = task_of(c)
  if name is None:
    return []
  task = TASKS[family][name]
  if summarizes(c, name):
    return dense(s, f"heads/{name}/dense", task.dense) + dense(s, f"heads/{name}/output", task.module)
  entries = dense(s, f"heads/{name}", task.module)
  return entries if TASK_HEADS[name].bias else entries[:1]


def table(
  s: Spelling, c: EncoderConfig, model: str, entries: Sequence[Entry], fixed: Mapping[str, np.ndarray] | None = None
) -> Table:
  """The Table of `model` (bert, roberta...): a type table of zeros where ours has none, and what files may leave out.

  fixed: further tensors of one value.
  """
  values = dict(fixed or {})
  if not c.types:
    values[s.join(f"{model}/{TYPE_TABLE}", s.table)] = np.zeros((1, c.embedding), np.float32)
  # files of a model without heads
  bare = (r"^(embeddings|embeddings_project|entity_embeddings|encoder|pooler)\.", rf"{model}.\1.")
  return Table(tuple(entries), values, IGNORED, (*OLDER, bare) if s is TORCH else ((r"^module/", ""),))


TYPE_TABLE = "embeddings/token_type_embeddings"


def bert(c: BertConfig, s: Spelling = TORCH) -> Table:
  """BERT, and what SpanBERT shares with it."""
  torch, mlm = s is TORCH, "mlm" in c.heads_on_top
  tied = ("cls.predictions.decoder.weight",) if torch and mlm else ()
  entries = embeddings(s, c, "embeddings", "bert/embeddings", tied)
  entries += layers(s, "layers", "bert/encoder/layer_{}", BERT_LAYER, range(c.layers))
  if c.pooler:
    entries += dense(s, "pooler/dense", "bert/pooler/dense")
  if mlm:
    bias = "cls.predictions.bias" if torch else "cls/predictions/output_bias"
    entries += token_head(s, "cls/predictions", bias, TRANSFORM, ("cls.predictions.decoder.bias",) if torch else ())
  if "pair" in c.heads_on_top:
    entries += pair_head(s, "cls/seq_relationship")
  if "sbo" in c.heads_on_top:
    entries += _boundary_head(s)
  return table(s, c, "bert", entries + task_head(s, "bert", c))


TRANSFORM = {"dense": "transform/dense", "norm": "transform/LayerNorm"}


def _boundary_head(s: Spelling) -> list[Entry]:
  """SpanBERT's head, under names of our own: the released weights come without it."""
  entries = [leaf("heads/sbo/place/embedding", s.join(PLACES, s.table))]
  for number in (0, 1):
    entries += dense(s, f"heads/sbo/dense_{number}", f"cls/span_boundary/dense_{number}")
    entries += norm(s, f"heads/sbo/norm_{number}", f"cls/span_boundary/LayerNorm_{number}")
  return [*entries, leaf("heads/sbo/bias", s.join("cls/span_boundary", "bias"), VOCAB)]


PLACES = "cls/span_boundary/position_embeddings"


def roberta(c: BertConfig, s: Spelling = TORCH) -> Table:
  """RoBERTa as Hugging Face stores it; TensorFlow never had one."""
  tied = ("lm_head.decoder.weight",) if "mlm" in c.heads_on_top else ()
  entries = embeddings(s, c, "embeddings", "roberta/embeddings", tied)
  entries += layers(s, "layers", "roberta/encoder/layer_{}", BERT_LAYER, range(c.layers))
  if c.pooler:
    entries += dense(s, "pooler/dense", "roberta/pooler/dense")
  if "mlm" in c.heads_on_top:
    inner = {"dense": "dense", "norm": "layer_norm"}
    entries += token_head(s, "lm_head", "lm_head.bias", inner, ("lm_head.decoder.bias",))
  if "pair" in c.heads_on_top:  # no published model has one
    entries += pair_head(s, "seq_relationship")
  return table(s, c, "roberta", entries + task_head(s, "roberta", c))


def albert(c: BertConfig, s: Spelling = TORCH) -> Table:
  """ALBERT. Sublayers that are shared beyond their group are written once a group, alike.

  Raises:
    WeightsError: published files cannot hold the way the layers share.
  """
  torch, model, mlm = s is TORCH, "albert" if s is TORCH else "bert", "mlm" in c.heads_on_top
  tied = ("predictions.decoder.weight",) if torch and mlm else ()
  entries = embeddings(s, c, "embeddings", f"{model}/embeddings", tied)
  mapping = f"{model}/encoder/embedding_hidden_mapping_in"
  if c.projection:
    entries += dense(s, "projection", mapping)
  groups, rows = albert_groups(c, s)
  block = "encoder/albert_layer_groups_{}/albert_layers_{}" if torch else "encoder/transformer/group_{}/inner_group_{}"
  indices = [(group, inner) for group in range(groups) for inner in range(c.sharing.inner)]
  entries += layers(s, "layers", f"{model}/{block}", ALBERT_LAYER[s], indices, rows)
  if c.pooler:
    entries += dense(s, "pooler/dense", "albert/pooler" if torch else "bert/pooler/dense")
  if mlm and torch:
    inner = {"dense": "dense", "norm": "LayerNorm"}
    entries += token_head(s, "predictions", "predictions.bias", inner, ("predictions.decoder.bias",))
  elif mlm:
    entries += token_head(s, "cls/predictions", "cls/predictions/output_bias", TRANSFORM)
  if "pair" in c.heads_on_top:
    entries += pair_head(s, "sop_classifier/classifier")
  fixed = {}
  if torch and not c.projection:  # Hugging Face's always has the map; TensorFlow's only where widths differ
    fixed[s.join(mapping, "weight")] = np.eye(c.hidden, dtype=np.float32)
    fixed[s.join(mapping, "bias")] = np.zeros(c.hidden, np.float32)
  return table(s, c, model, entries + task_head(s, "albert", c), fixed)


def albert_groups(c: BertConfig, s: Spelling) -> tuple[int, dict[str, list[int]]]:
  """Groups that a file must have to hold this sharing, and the row of copies of each of its blocks, per sublayer."""
  shared, inner = c.sharing, c.sharing.inner
  groups = max(shared.attention_groups, shared.ffn_groups)
  own = [i * groups // c.layers for i in range(c.layers)]
  # the reference codes divide in floating point, which for a few odd sizes (18 layers, 14 groups) rounds down
  theirs = [int(i / (c.layers / groups)) if s is TORCH else int(i / c.layers * groups) for i in range(c.layers)]
  blocks = [own.index(group) * inner + j for group in range(groups) for j in range(inner)]
  depth = [group * inner + j for group in own for j in range(inner)]
  rows = {}
  for sublayer, count in (("attention", shared.attention_groups), ("ffn", shared.ffn_groups)):
    wanted = copy_rows(c.layers, count, inner)
    rows[sublayer] = wanted[blocks].tolist()
    if own != theirs or [rows[sublayer][block] for block in depth] != wanted.tolist():
      raise WeightsError(
        f"name table: {c.layers} layers in {shared.attention_groups} groups of attention and {shared.ffn_groups} of "
        "feed-forward have no published layout; want groups that divide the layers"
      )
  return groups, rows
