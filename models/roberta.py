"""RoBERTa (Liu et al. 2019): BERT without token types, with positions that begin behind the padding's row.

No pooler in pretraining unless a pair decision is trained (table 2's SEGMENT-PAIR and SENTENCE-PAIR). The head that
classifies has a tanh layer of its own on <s>; the one that chooses reads a pooler, as in transformers.
"""

from __future__ import annotations

from typing import Any

from models.bert import Bert, BertConfig, on_top, unshared
from models.task_heads import TASK_HEADS

PADDING = 1  # id of <pad>, and row of its position
HEAD_DROPOUT = 0.0  # of heads of texts, which fairseq's configurations of GLUE and RACE leave at its default


def build(config: Any, dtype: Any) -> Bert:
  """The RoBERTa of a resolved config."""
  fields = on_top(config)
  if any(name in TASK_HEADS and TASK_HEADS[name].text for name in fields["heads_on_top"]):
    fields["head_dropout"] = HEAD_DROPOUT
  return Bert(
    BertConfig(
      **unshared(config, dtype),
      **fields,
      position_offset=PADDING + 1,
      zero_padding=PADDING,
    )
  )
