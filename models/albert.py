"""ALBERT (Lan et al. 2020): BERT with factorised embeddings and parameters shared across layers.

Which sublayers are shared is a choice of its own (table 4), and so is the number of groups that share (appendix); each
sublayer's layer norm follows it.
"""

from __future__ import annotations

from typing import Any

from models.bert import Bert, BertConfig, pretraining_parts
from models.encoder import common_fields
from models.stack import Sharing

SHARED = {"all": ("attention", "ffn"), "attention": ("attention",), "ffn": ("ffn",), "none": ()}


def sharing(share: str, layers: int, groups: int, inner: int) -> Sharing:
  """Which layers share what.

  Args:
    share: a key of SHARED.
    groups: groups of layers that share (num_hidden_groups); 1 = all do.
    inner: blocks that every layer runs in order (inner_group_num).
  """
  attention, ffn = (groups if sublayer in SHARED[share] else layers for sublayer in ("attention", "ffn"))
  return Sharing(attention, ffn, inner)


def build(config: Any, dtype: Any) -> Bert:
  """The ALBERT of a resolved config; the projection exists only where the widths differ, as in the released code."""
  model = config.model
  return Bert(
    BertConfig(
      **common_fields(model, dtype),
      **pretraining_parts(config),
      embedding=model.embedding,
      projection=model.embedding != model.hidden,
      sharing=sharing(model.share, model.layers, model.groups, model.inner),
    )
  )
