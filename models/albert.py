"""ALBERT (Lan et al. 2020): BERT with factorised embeddings and parameters shared across layers.

Which sublayers are shared is a choice of its own (table 4), and so is the number of groups that share (appendix); each
sublayer's layer norm follows it.
"""

from __future__ import annotations

from typing import Any

from models.bert import Bert, BertConfig, on_top
from models.encoder import common_fields
from models.stack import Sharing
from models.task_heads import fine_tunes

HEAD_DROPOUT = 0.1  # of task heads, whatever the encoder's, which is 0 in version 2 (the released code)
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
      **on_top(config),
      embedding=model.embedding,
      projection=model.embedding != model.hidden,
      head_dropout=HEAD_DROPOUT if fine_tunes(config) else None,
      sharing=sharing(model.share, model.layers, model.groups, model.inner),
    )
  )
