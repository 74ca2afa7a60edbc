"""One example of a task, or one window of it, on its way into a batch."""

from __future__ import annotations

import dataclasses

import numpy as np

# Rows of the entity table of every task with mentions: LUKE's tables are cut to these before fine-tuning. The second
# mask is that of the second mention of a relation.
ENTITIES = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3}


class TaskError(ValueError):
  """A task's file or example that cannot be used; one line with file and line where there are any."""


@dataclasses.dataclass(frozen=True, eq=False)
class TaskRow:
  """Tokens with their labels, unpadded; columns count from the row's first special token.

  Attributes:
    ids: int32[n], special tokens included.
    types: int32[n].
    labels: int32[k], weights: float32[k]: as in `data.batch.Labelled`; a label of weight 0 is not trained on.
    cls, spans, slots, several: as in `Labelled`, of the k labels; None where the task has none.
    entities: int32[e], of the row's mentions, rows of ENTITIES; None for tasks without.
    mentions: for each mention the columns of its pieces, int32 arrays.
    parts: int32[t], columns at which texts begin that do not see each other, the first at 0; None for one text. Such a
      row is nobody's neighbour in a batch, as its texts have all its segments.
    example: number of the example among those that were read.
    window: what turns this row's predictions back into the example's answer: column -> character, or which of the
      example's candidates each label is; the task's decoder knows it.
  """

  ids: np.ndarray
  types: np.ndarray
  labels: np.ndarray
  weights: np.ndarray
  cls: np.ndarray | None = None
  spans: np.ndarray | None = None
  slots: np.ndarray | None = None
  several: np.ndarray | None = None
  entities: np.ndarray | None = None
  mentions: tuple[np.ndarray, ...] = ()
  parts: np.ndarray | None = None
  example: int = 0
  window: object = None

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def longest(self) -> int:
    """Tokens of its longest text."""
    return len(self) if self.parts is None else int(np.diff(self.parts, append=len(self)).max())


@dataclasses.dataclass(frozen=True, eq=False)
class WordRow:
  """Sentences of an example, or one window of it, with their labels.

  Attributes:
    sentences: words of each, at least one; its boundaries are not among them.
    labels: int32[k], weights: float32[k], several: float32[k, 1]: as in `data.batch.LabelledWords`.
    example: number of the example among those that were read.
    window: of tags int32 [m, 2], as `tagging.decode` wants it; of a passage an `answers.Window`; else None.
  """

  sentences: tuple[tuple[str, ...], ...]
  labels: np.ndarray
  weights: np.ndarray
  example: int = 0
  window: object = None
  several: np.ndarray | None = None

  def __len__(self) -> int:
    """Columns of the longest sentence, its boundaries counted."""
    return max(map(len, self.sentences)) + 2
