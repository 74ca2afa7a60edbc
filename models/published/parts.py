"""What published files hold, and how it becomes a model's parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.batch import Entities, Tokens
from models.luke import Luke
from models.paths import matches, merge, named_leaves
from models.published import luke_tables, tables
from models.published.errors import listed
from models.published.names import Table, from_published, widened
from models.published.tasks import task_of

# Family -> part of a model -> what finds it among the names of tensors, in Hugging Face's spelling or TensorFlow's
MARKS = {
  "bert": {
    "mlm": r"^cls[./]predictions[./]transform[./]",
    "pair": r"^cls[./]seq_relationship[./]",
    "sbo": r"^cls\.span_boundary\.",
    "pooler": r"^(bert[./])?pooler[./]dense[./]",
  },
  "roberta": {
    "mlm": r"^lm_head\.dense\.",
    "pair": r"^seq_relationship\.",
    "pooler": r"^(roberta\.)?pooler\.dense\.",
  },
  "albert": {
    "mlm": r"^(predictions\.dense\.|cls/predictions/transform/)",
    "pair": r"^(sop_classifier\.|cls/seq_relationship/)",
    "pooler": r"^((albert\.)?pooler\.(weight|bias)$|bert/pooler/dense/)",
  },
  "electra": {
    "mlm": r"^generator_predictions[./]dense[./]",
    "baseline": r"^generator_baseline\.",
    "rtd": r"^discriminator_predictions[./]",
    "restore": r"^discriminator_restoration\.",
    "gate": r"^discriminator_gate\.",
  },
  "luke": {
    "mlm": r"^lm_head\.dense\.",
    "entity": r"^entity_predictions\.transform\.",
    "pooler": r"^(luke\.)?pooler\.dense\.",
  },
}
# Family -> heads of pretraining
PUBLISHED_HEADS = {
  "bert": ("mlm", "pair"), "roberta": ("mlm",), "albert": ("mlm", "pair"), "luke": ("mlm", "entity"),
}  # fmt: skip
TABLES = {"bert": tables.bert, "roberta": tables.roberta, "albert": tables.albert, "luke": luke_tables.luke}


@dataclasses.dataclass(frozen=True)
class Published:
  """A model as it was published.

  config: config.json; of two networks, that of each by its name.
  notes: what a reader should know: tensors that were cast or left out, parts that the file lacks, guesses.
  """

  family: str
  model: Any
  params: dict
  config: dict[str, Any]
  notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Stored:
  """What a folder or checkpoint holds, before it is a model."""

  config: dict[str, Any]
  tensors: dict[str, np.ndarray]
  source: str
  notes: tuple[str, ...]

  def has(self, family: str) -> tuple[str, ...]:
    """The parts that are there."""
    marks = MARKS[family].items()
    return tuple(part for part, mark in marks if any(re.search(mark, name) for name in self.tensors))


def stored(tensors: Mapping[str, np.ndarray], config: dict[str, Any], source: str, drop: Sequence[str] = ()) -> Stored:
  """`tensors` widened to float32, without those whose name one of the regular expressions `drop` finds."""
  dropped = sorted(name for name in tensors if matches(name, drop))
  cast, count = widened({name: x for name, x in tensors.items() if name not in dropped}, source)
  notes = [f"{number} {kind} tensors widened to float32" for kind, number in count.items()]
  return Stored(config, cast, source, (*notes, *([f"dropped: {listed(dropped)}"] if dropped else ())))


def params_of(model: Any, table: Table, part: Stored, shapes: Any = None) -> tuple[dict, tuple[str, ...]]:
  """Parameters, and notes. shapes: of the leaves that the table has; all of the model's by default."""
  shapes = shapes_of(model) if shapes is None else shapes
  found = from_published(part.tensors, table, shapes, model.table_sizes(), source=part.source)
  return found.params, (*part.notes, *([f"left out: {listed(found.dropped)}"] if found.dropped else ()))


def chosen(params: Mapping[str, Any], table: Table) -> dict:
  """The leaves that the table has."""
  leaves = named_leaves(params)
  return merge(*({entry.path: leaves[entry.path]} for entry in table.entries if entry.path in leaves))


def lacks(model: Any, family: str) -> tuple[str, ...]:
  """Notes on heads that pretraining has and the file has not, unless it has the head of a task. Each network of an
  ELECTRA has a head of its own.
  """
  heads = model.config.heads_on_top
  if task_of(model.config) is not None:
    return ()
  wanted = PUBLISHED_HEADS[family] if family != "electra" else heads or ("rtd",)
  return tuple(f"the file has no {head} head" for head in wanted if head not in heads)


def shapes_of(model: Any) -> dict:
  """Shapes of a model's parameters."""
  zeros = np.zeros((1, 2), np.int32)
  given = (Tokens(ids=zeros, types=zeros, segments=zeros, positions=zeros),)
  if isinstance(model, Luke):
    given += (Entities(ids=zeros, positions=zeros[..., None], segments=zeros),)
  return jax.eval_shape(lambda: model.init(jax.random.key(0), *given, method="everything")["params"])
