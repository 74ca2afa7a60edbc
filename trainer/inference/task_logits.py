"""Examples of tasks, which nobody labelled, to what a model's head says of them.

Examples become rows, and logits answers, by the task's own code, so that they are those of its evaluation. Rows of like
length run together and every row stands alone in its place, so answers do not depend on the batches; only a network on
an ELMo whose layers are normalised (`model.layer_norm`) takes the statistics of a whole batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from data.tasks.batches import Shape
from data.tasks.pieces import LONGER
from data.tasks.rows import TaskError
from models.task_networks import TaskNetwork
from objectives.tasks import KINDS, TaskObjective
from objectives.word_tasks import WordTaskObjective
from trainer.inference.running import Report, ahead, checked, longest_of
from trainer.inference.tuned import Tuned
from trainer.loading import Loaded
from trainer.texts import InputError, chunks

# Heads that answer a question, and what to call them.
NUMBERS = "regress", "words_regress"
TEXTS = ("classify", "words_classify", "words_pair", *NUMBERS), "a head that decides about texts, as sst2 trains it"
WORDS = ("tag", "spans", "words_tag"), "a head that finds entities, as conll2003 trains it"
ANSWERS = ("answer", "words_answer"), "a head that answers questions, as squad trains it"
CHOICES = ("choose", "words_choose"), "a head that chooses, as swag trains it"
_UNSAID = ("O",)  # all the labels of examples that nobody labelled
WHOLE = 1 << 30  # tokens; no text has so many


def with_head(loaded: Loaded, heads: tuple[str, ...], what: str) -> Tuned:
  """The model, which has one of `heads`; raises InputError where it has not."""
  if isinstance(loaded, Tuned) and loaded.task is not None and loaded.task.head in heads:
    return loaded
  config = loaded.model.config
  got = config.head if isinstance(loaded.model, TaskNetwork) else ", ".join(config.heads_on_top) or "none"
  raise InputError(f"model {loaded.source}: want a model with {what}, and this one has none (its heads: {got})")


def longest_row(own: Tuned, max_length: int | None) -> int:
  """Tokens of a row, or words of one."""
  if own.words is None:
    return longest_of(own, max_length)
  if max_length is not None and max_length < 1:
    raise InputError(f"max_length: got {max_length}, want 1 word or more")
  return own.max_length if max_length is None else max_length


def rows_of(own: Tuned, examples: Sequence, longest: int) -> list:
  """Rows of examples that nobody labelled, of at most `longest` tokens or words; raises InputError."""
  name = "max_length" if own.words is None else "max_words"
  rows = dataclasses.replace(own.task.rows, **{name: longest})
  try:
    return rows(examples, *([own.tokenizer] if own.words is None else []), _UNSAID)
  except TaskError as error:
    raise InputError(str(error).replace(LONGER, "shorten the text, or raise max_length")) from None


def fitting_rows(own: Tuned, examples: Sequence, longest: int, cut: bool) -> tuple[list, set[int]]:
  """(rows of examples that have one each, numbers of those that are cut); raises InputError where none may be."""
  rows = rows_of(own, examples, WHOLE)
  sizes = [row.longest if own.words is None else len(row) - 2 for row in rows]
  long = [i for i, size in enumerate(sizes) if size > longest]
  if long and not cut:
    unit = "tokens" if own.words is None else "words"
    raise InputError(
      f"text {long[0] + 1}: got {sizes[long[0]]} {unit}, want at most {longest}; shorten it, raise max_length, or have "
      "it cut"
    )
  return (rows_of(own, examples, longest) if long else rows), set(long)


def logits_of(own: Tuned, rows: list, batch_size: int, report: Report | None) -> list[np.ndarray]:
  """What the head says of each row, as the task's decoder takes it."""
  by_column = KINDS[own.task.head].by_column if own.words is None else own.words.by_column
  if own.words is None:
    pieces = max((len(columns) for row in rows for columns in row.mentions), default=1)
    pad = own.tokenizer.special.pad
    shape: Any = Shape(own.model.config.max_positions, 1, 1, pad, pieces, columns=by_column)
  else:
    shape = own.words.shape(rows, 1)
  lengths = [len(row) for row in rows]
  parts = chunks(lengths, checked(batch_size), max(lengths, default=1))
  placed = ((part.rows, shape.collate([rows[i] for i in part.rows])) for part in parts)
  function = functools.partial(_outputs, own.model, own.task.head, own.params)
  logits: list[np.ndarray] = [np.zeros(0)] * len(rows)
  left = Counter(row.example for row in rows)
  for (numbers, each), values in ahead(own, (((ns, p), (p.batch,)) for ns, p in placed), function, batch_size):
    for i, mine in zip(numbers, each.parts(values, by_column), strict=True):
      logits[i] = mine
    examples = [rows[i].example for i in numbers]
    left.subtract(examples)
    if report is not None:
      report(sum(not left[example] for example in set(examples)), sum(lengths[i] for i in numbers))
  return logits


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(model, head, params, batch) -> jax.Array:
  """Logits, or the classes that a CRF decides, as held-out batches of training have them."""
  if isinstance(model, TaskNetwork):
    return WordTaskObjective(model, 0.0).sums(params, None, batch, None, False)[1]["outputs"]
  return TaskObjective(model, head).logits(params, batch, None)
