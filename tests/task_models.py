"""Random encoders with the head of a task, and what transformers makes of them.

torch is imported by the functions that need it. LUKE's are in `tests/luke_models.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from data.batch import Labelled
from models.task_heads import TASK_HEADS, reads_pooler, summary_of
from tests.parity_models import CASES as PRETRAINED
from tests.parity_models import SIZES, Case, Example, cotangents, with_gradient

CLASSES, D = 4, SIZES["hidden"]
HEADS = ("classify", "regress", "tag", "answer", "choose")
BODIES = {
  "bert": "bert_body", "roberta": "roberta_body", "albert": "albert", "spanbert": "spanbert",
  "electra": "electra_body",
}  # fmt: skip


def case(family: str, head: str, **choices) -> Case:
  """A family's model with the head of a task."""
  model, summary = PRETRAINED[BODIES[family]].model, summary_of(family, head)
  fields = {"heads_on_top": (head,), "summary": summary, "classes": 0 if TASK_HEADS[head].outputs else CLASSES}
  if family != "electra":
    fields["pooler"] = reads_pooler([head], summary)
  if family == "albert" or (family, head) == ("electra", "choose"):
    fields["head_dropout"] = 0.1  # what files say where they say nothing
  return Case(family, type(model)(dataclasses.replace(model.config, **fields | choices)))


CASES = {f"{family}_{head}": case(family, head) for family in BODIES for head in HEADS}


# --- ours -------------------------------------------------------------------------------------------------------------


def outputs(model: Any, params: Any, given: Example) -> dict[str, jax.Array]:
  """States (zeros in padding), pooled ones, and what the head says."""
  config, cls = model.config, np.zeros((len(given.columns), 1), np.int32)
  apply = lambda *args, method=None: model.apply({"params": params}, *args, method=method)
  hidden = apply(given.tokens.ids, given.tokens).hidden
  found = {"hidden": hidden * given.real[..., None]}
  if config.pooler:
    found["pooled"] = apply(hidden, cls, method="pool")[:, 0]
  (head,) = config.heads_on_top
  if TASK_HEADS[head].text:
    logits = apply(hidden, cls, method=f"{head}_logits")
    found[head] = logits if head == "choose" else logits[:, 0]
  else:
    found[head] = apply(hidden, method=f"{head}_logits") * given.real[..., None]
  return found


def ours(given: Case, params: Any, rows: Example) -> tuple[dict, dict]:
  """Outputs, and the gradient of their weighted sum."""
  return with_gradient(outputs, given.model, params, rows)


def labelled(given, rows):
  """(a batch of one label a row or, of tags, a word, or of one question; the labels as transformers takes them)."""
  (head,), rng = given.model.config.heads_on_top, np.random.default_rng(5)
  count = len(rows.columns)
  shape = {"tag": rows.columns.shape, "choose": (1, count)}.get(head, (count, 1))
  labels, several = rng.integers(0, CLASSES, shape).astype(np.int32), None
  theirs = labels[:, 0].astype(np.int64)
  if head == "regress":
    several = rng.normal(size=(count, 1, 1)).astype(np.float32)
    labels, theirs = labels * 0, several[:, 0, 0]
  elif head == "choose":
    labels, theirs = np.int32([[0, 0, 1, 0, 0]]), np.array([2])
  elif head == "tag":
    theirs = np.full(rows.tokens.ids.shape, -100)
    np.put_along_axis(theirs, rows.columns, labels, axis=1)
  cls = rows.columns if head == "tag" else np.zeros(shape, np.int32)
  return Labelled(rows.tokens, labels, np.ones(shape, np.float32), cls=cls, several=several), theirs


# --- theirs -----------------------------------------------------------------------------------------------------------


def theirs(model: Any, head: str, given: Example) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Outputs under our names, and the gradients of the same weighted sum by transformers' names of parameters."""
  import torch

  as_long = lambda x: torch.from_numpy(np.asarray(x, np.int64))
  tokens, real = given.tokens, torch.from_numpy(given.real)[..., None]
  inputs = {"input_ids": as_long(tokens.ids), "attention_mask": as_long(given.real)}
  inputs["token_type_ids"] = as_long(tokens.types)
  body = model.base_model(**inputs)
  found = {"hidden": body.last_hidden_state * real}
  if getattr(body, "pooler_output", None) is not None:
    found["pooled"] = body.pooler_output
  if head == "choose":
    found[head] = model(**{name: x[None] for name, x in inputs.items()}).logits.reshape(-1, 1)
  elif head == "answer":
    said = model(**inputs)
    found[head] = torch.stack([said.start_logits, said.end_logits], -1) * real
  else:
    found[head] = model(**inputs).logits * (real if head == "tag" else 1)
  outputs = {name: x.detach().numpy() for name, x in found.items()}
  sum((found[name] * torch.from_numpy(weight)).sum() for name, weight in cotangents(outputs).items()).backward()
  return outputs, {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
