"""Random LUKEs of odd sizes, padded rows with mentions, and what transformers makes of them.

Material of the tests of published weights and of parity. torch and transformers are imported by the functions that need
them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from data.batch import Entities
from models.luke import Luke, LukeConfig
from models.paths import named_leaves
from models.published.tasks import TASKS
from models.stack import Sharing
from models.task_heads import TASK_HEADS
from tests import parity_models
from tests.parity_models import LENGTHS, SIZES, Case, cotangents, with_gradient

ENTITIES, MOST, MENTION, CLASSES = 61, 4, 5, 6
COUNTS = (4, 2, 3, 0, 2)  # mentions of each row
PRETRAINING = ("mlm", "entity")


def case(**choices) -> Case:
  own = SIZES | {
    "embedding": SIZES["hidden"], "activation": "gelu", "sharing": Sharing(3, 3), "types": 1, "position_offset": 2,
    "zero_padding": 1, "norm_eps": 1e-5, "pooler": True, "heads_on_top": PRETRAINING, "entity_vocab_size": ENTITIES,
    "entity_embedding": 17, "query_kinds": 4, "classes": 0,
  }  # fmt: skip
  return Case("luke", Luke(LukeConfig(**own | choices)))


def _task(name: str, **choices) -> Case:
  classes = 0 if TASK_HEADS[name].outputs else CLASSES
  own = {"heads_on_top": (name,), "classes": classes, "pooler": name not in ("answer", "tag")}
  return case(**own | choices)


CASES = {
  "luke": case(),
  "luke_one_query": case(query_kinds=1),
  "luke_equal_widths": case(entity_embedding=SIZES["hidden"]),
  "luke_body": case(heads_on_top=()),
} | {f"luke_{name}": _task(name) for name in TASKS["luke"] if name != "cloze"}
# What transformers has no class for, or starts itself
OWN_CASES = {
  "luke_without_pooler": case(pooler=False),
  "luke_words_alone": case(heads_on_top=("mlm",)),
  "luke_entities_alone": case(heads_on_top=("entity",)),
  "luke_cloze": _task("cloze"),
  "luke_relate_beside_mlm": _task("relate", heads_on_top=(*PRETRAINING, "relate")),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LukeExample(parity_models.Example):
  """Padded rows with mentions; no real entity has id 0, whose row PyTorch does not train."""

  entities: Entities
  spans: np.ndarray  # int32[B, E, 2]: first and last column of each mention

  @property
  def mentions(self) -> np.ndarray:
    return self.entities.segments > 0

  @property
  def slots(self) -> np.ndarray:
    """int32[B, E, 1]: each mention by itself."""
    return np.broadcast_to(np.arange(MOST, dtype=np.int32)[None, :, None], (len(COUNTS), MOST, 1))


def example(given: Case, most_words: int = MENTION) -> LukeExample:
  """Rows of padded words with padded mentions; one has none, and words of some mentions are cut off."""
  plain, rng = parity_models.example(given), np.random.default_rng(2)
  real = np.arange(MOST)[None] < np.array(COUNTS)[:, None]
  ids = np.where(real, rng.integers(1, given.model.config.entity_vocab_size, real.shape), 0)
  first = rng.integers(1, np.array(LENGTHS)[:, None] - 1, real.shape)
  last = np.minimum(first + rng.integers(0, most_words + 2, real.shape), np.array(LENGTHS)[:, None] - 1)
  columns = first[..., None] + np.arange(most_words)
  columns = np.where((columns <= last[..., None]) & real[..., None], columns, -1)
  mentions = Entities(*(np.asarray(x, np.int32) for x in (ids, columns, real)))
  spans = np.asarray(np.stack([first, last], -1) * real[..., None], np.int32)
  return LukeExample(plain.tokens, plain.columns, mentions, spans)


# --- ours -------------------------------------------------------------------------------------------------------------


def outputs(model: Luke, params: Any, given: LukeExample, with_entities: bool = True) -> dict[str, jax.Array]:
  """States (zeros in padding) and what each head says."""
  config, cls = model.config, np.zeros((len(given.columns), 1), np.int32)
  apply = lambda *args, method=None, **more: model.apply({"params": params}, *args, method=method, **more)
  entities = given.entities if with_entities else None
  encoded = apply(given.tokens.ids, given.tokens, entities=entities)
  found = {"hidden": encoded.hidden * given.real[..., None]}
  if with_entities:
    found["entities"] = encoded.entities * given.mentions[..., None]
  heads, states = config.heads_on_top, encoded.entities
  if config.pooler:
    found["pooled"] = apply(encoded.hidden, cls, method="pool")[:, 0]
  if "mlm" in heads:
    words = apply(encoded.hidden, given.columns, method="token_logits")
    found["words"] = words[..., : config.vocab_size]
  if "entity" in heads and with_entities:
    titles = apply(states, given.slots[..., 0], method="entity_logits")
    found["titles"] = titles[..., : config.entity_vocab_size] * given.mentions[..., None]
  one, two = ((np.array(COUNTS) >= n)[:, None] for n in (1, 2))
  if "type" in heads:
    found["type"] = apply(states, given.slots[:, :1], method="type_logits")[:, 0] * one
  if "relate" in heads:
    pair = np.broadcast_to(np.array([[[0, 1]]], np.int32), (len(COUNTS), 1, 2))
    found["relate"] = apply(states, pair, method="relate_logits")[:, 0] * two
  if "spans" in heads:
    logits = apply(encoded.hidden, states, given.spans, given.slots, method="span_logits")
    found["spans"] = logits * given.mentions[..., None]
  if "answer" in heads:
    found["answer"] = apply(encoded.hidden, method="answer_logits") * given.real[..., None]
  if "classify" in heads:
    found["classify"] = apply(encoded.hidden, cls, method="classify_logits")[:, 0]
  if "regress" in heads:
    found["regress"] = apply(encoded.hidden, cls, method="regress_logits")[:, 0]
  if "tag" in heads:
    found["tag"] = apply(encoded.hidden, method="tag_logits") * given.real[..., None]
  if "choose" in heads:
    found["choose"] = apply(encoded.hidden, cls, method="choose_logits")
  return found


def ours(given: Case, params: Any, rows: LukeExample, with_entities: bool = True) -> tuple[dict, dict]:
  """Outputs, and the gradient of their weighted sum."""
  return with_gradient(outputs, given.model, params, rows, with_entities)


# --- theirs -----------------------------------------------------------------------------------------------------------


def theirs(model: Any, given: LukeExample, with_entities: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Outputs under our names, and the gradients of the same weighted sum by transformers' names of parameters.

  Zeros where nothing depends on a parameter; copies that transformers does not tie add up.
  """
  import torch

  as_long = lambda x: torch.from_numpy(np.asarray(x, np.int64))
  real, mentions = torch.from_numpy(given.real)[..., None], torch.from_numpy(given.mentions)[..., None]
  inputs = {"input_ids": as_long(given.tokens.ids), "attention_mask": as_long(given.real)}
  if with_entities:
    inputs |= {
      "entity_ids": as_long(given.entities.ids),
      "entity_position_ids": as_long(given.entities.positions),
      "entity_attention_mask": as_long(given.mentions),
    }
  body = model.base_model(**inputs)
  found = {"hidden": body.last_hidden_state * real}
  if with_entities:
    found["entities"] = body.entity_last_hidden_state * mentions
  if body.pooler_output is not None:
    found["pooled"] = body.pooler_output
  kind = type(model).__name__
  if kind == "LukeForEntitySpanClassification":
    spans = as_long(given.spans)
    inputs |= {"entity_start_positions": spans[..., 0], "entity_end_positions": spans[..., 1]}
  if kind == "LukeForMultipleChoice":
    inputs = {name: value[None] for name, value in inputs.items()}
  found |= _said(kind, model(**inputs), given)
  if model.config.problem_type == "regression":  # the class is that of classification
    found["regress"] = found.pop("classify")
  outputs = {name: x.detach().numpy() for name, x in found.items()}
  sum((found[name] * torch.from_numpy(weight)).sum() for name, weight in cotangents(outputs).items()).backward()
  gradients = {
    name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy() for name, p in model.named_parameters()
  }
  for copy, name in (
    ("lm_head.decoder.weight", "luke.embeddings.word_embeddings.weight"), ("lm_head.decoder.bias", "lm_head.bias"),
  ):  # fmt: skip
    if copy in gradients:
      gradients[name] = gradients.pop(copy) + gradients.get(name, 0)
  return outputs, gradients


def _said(kind: str, said: Any, given: LukeExample) -> dict[str, Any]:
  """What the heads of a class say, under our names."""
  import torch

  real, mentions = torch.from_numpy(given.real)[..., None], torch.from_numpy(given.mentions)[..., None]
  one, two = (torch.from_numpy(np.array(COUNTS) >= n)[:, None] for n in (1, 2))
  if kind == "LukeForMaskedLM":
    found = {"words": torch.take_along_dim(said.logits, torch.from_numpy(given.columns).long()[..., None], 1)}
    return found if said.entity_logits is None else found | {"titles": said.entity_logits * mentions}
  if kind == "LukeForQuestionAnswering":
    return {"answer": torch.stack([said.start_logits, said.end_logits], -1) * real}
  task = next((name for name, own in TASKS["luke"].items() if own.architecture == kind and name != "cloze"), None)
  if task is None:
    return {}
  masks = {"type": one, "relate": two, "spans": mentions, "tag": real}
  logits = said.logits.reshape(-1, 1) if task == "choose" else said.logits
  return {task: logits * masks[task] if task in masks else logits}


def assert_same(own: Any, found: Any, config: LukeConfig) -> None:
  """Bit for bit, but for rows that only pad a table: those become zeros."""
  own, found = named_leaves(own), named_leaves(found)
  assert own.keys() == found.keys()
  real = {256: config.vocab_size, 128: config.entity_vocab_size}
  for path, x in own.items():
    y = found[path]
    assert (x.shape, x.dtype) == (y.shape, y.dtype), path
    rows = real.get(x.shape[0], len(x))
    assert x[:rows].tobytes() == y[:rows].tobytes() and not y[rows:].any(), path
