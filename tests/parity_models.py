"""Random models of odd sizes, padded batches, and what transformers makes of them: material of the parity tests.

torch and transformers are imported by the functions that need them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Tokens
from models.bert import Bert, BertConfig
from models.electra import Electra, ElectraConfig
from models.encoder import EncoderConfig
from models.layers import Init
from models.paths import map_named, named_leaves
from models.published import electra_tables, files
from models.published.configs import OFFSET, published_config
from models.published.luke_files import config_keys
from models.published.names import Table
from models.published.parts import TABLES, shapes_of
from models.published.tables import TORCH
from models.published.tasks import task_keys
from models.spanbert import SpanBert, SpanBertConfig
from models.stack import Sharing

VOCAB, LENGTHS, PREDICTIONS = 131, (23, 17, 9, 23, 5), 4
SPECIAL = {"bert": {"pad": 0, "cls": 2, "sep": 3}, "roberta": {"pad": 1, "cls": 0, "sep": 2}}
SIZES = dict(
  vocab_size=VOCAB, hidden=42, layers=3, heads=3, ffn=67, max_positions=37, types=2, dropout=0.0, attention_dropout=0.0,
  norm_eps=1e-12, init=Init(0.02, truncated=False),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
  """A model and the family it is published as."""

  family: str
  model: Any

  @property
  def special(self) -> dict[str, int]:
    return SPECIAL["roberta" if self.family in OFFSET else "bert"]


def _bert(family: str = "bert", kind: type = Bert, config: type = BertConfig, **choices) -> Case:
  sizes = SIZES | {"embedding": SIZES["hidden"], "activation": "gelu", "sharing": Sharing(3, 3), "pooler": True}
  return Case(family, kind(config(**sizes | choices)))


def _roberta(**choices) -> Case:
  own = {"types": 0, "position_offset": 2, "zero_padding": 1, "norm_eps": 1e-5, "pooler": False}
  return _bert("roberta", **own | {"heads_on_top": ("mlm",)} | choices)


def _albert(**choices) -> Case:
  own = {"embedding": 18, "projection": True, "sharing": Sharing(1, 1), "activation": "gelu_tanh"}
  return _bert("albert", **own | choices)


def _electra(heads: tuple, embedding: int = 18, generator: int | None = None, tie: str = "embeddings") -> Case:
  own = SIZES | {"embedding": embedding, "activation": "gelu", "sharing": Sharing(3, 3)}
  own["projection"] = embedding != own["hidden"]
  small = own if tie == "all" else own | {"hidden": 20, "heads": 2, "ffn": 31, "layers": 2, "sharing": Sharing(2, 2)}
  beside = None
  if generator is not None:
    beside = EncoderConfig(**small | {"hidden": generator, "projection": embedding != generator})
  return Case("electra", Electra(ElectraConfig(**own, generator=beside, tie=tie, heads_on_top=heads)))


SPAN = {"kind": SpanBert, "config": SpanBertConfig, "span_positions": 7, "span_width": 11}
CASES = {
  "bert": _bert(),
  "bert_words": _bert(heads_on_top=("mlm",), pooler=False),
  "bert_pairs": _bert(heads_on_top=("pair",)),
  "bert_tanh_gelu": _bert(activation="gelu_tanh"),
  "bert_body": _bert(heads_on_top=()),
  "roberta": _roberta(),
  "roberta_body": _roberta(heads_on_top=(), pooler=True),
  "roberta_typed": _roberta(types=1),
  "albert": _albert(),
  "albert_words": _albert(heads_on_top=("mlm",), pooler=False),
  "albert_groups": _albert(layers=4, sharing=Sharing(2, 2, 2)),
  "albert_unshared": _albert(sharing=Sharing(3, 3), activation="relu"),
  "albert_shared_attention": _albert(sharing=Sharing(1, 3)),
  "albert_shared_ffn": _albert(layers=4, sharing=Sharing(4, 1, 2)),
  "albert_equal_widths": _albert(embedding=42, projection=False),
  "albert_equal_widths_mapped": _albert(embedding=42),
  "spanbert": _bert("spanbert", heads_on_top=("mlm",), pooler=False),
  "electra_discriminator": _electra(("rtd",)),
  "electra_equal_widths": _electra(("rtd",), embedding=42),
  "electra_body": _electra(()),
  "electra_generator": _bert("electra", embedding=18, projection=True, heads_on_top=("mlm",), pooler=False),
}
# What transformers has no head for, or keeps in two folders
OWN_CASES = {
  "bert_typeless": _bert(types=0),
  "roberta_pairs": _roberta(heads_on_top=("mlm", "pair"), pooler=True),
  "spanbert_boundary": _bert("spanbert", heads_on_top=("mlm", "sbo"), pooler=False, **SPAN),
  "spanbert_pairs": _bert("spanbert", heads_on_top=("mlm", "pair", "sbo"), **SPAN),
  "electra_restoring": _electra(("restore", "gate")),
}
PAIRS = {
  "electra": _electra(("mlm", "rtd"), generator=20),
  "electra_tied": _electra(("mlm", "rtd"), generator=42, tie="all"),
  "electra_untied": _electra(("mlm", "rtd"), generator=20, tie="none"),
  "electra_narrow": _electra(("mlm", "rtd"), generator=18),
  "electra_adversarial": _electra(("mlm", "baseline", "rtd"), generator=20),
  "electra_restoring": _electra(("mlm", "restore", "gate"), generator=20),
}


PADDED = 256  # rows of a table of VOCAB words


def assert_same(own, found):
  """Bit for bit, but for rows that only pad the vocabulary: those become zeros."""
  own, found = named_leaves(own), named_leaves(found)
  assert own.keys() == found.keys()
  for path, x in own.items():
    y = found[path]
    assert (x.shape, x.dtype) == (y.shape, y.dtype), path
    if x.shape[0] == PADDED:
      assert not y[VOCAB:].any(), path
      x, y = x[:VOCAB], y[:VOCAB]
    assert x.tobytes() == y.tobytes(), path


# --- ours -------------------------------------------------------------------------------------------------------------


def random_params(model: Any, seed: int = 0, std: float = 0.1) -> dict:
  """NumPy parameters without zeros and ones, so that every bias and scale shows; logits stay of the order of 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    values = rng.standard_normal(leaf.shape, np.float32)
    return values * np.float32(std) + np.float32(path.endswith("scale"))

  return map_named(draw, shapes(model))


shapes = functools.cache(shapes_of)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Example:
  """Padded rows of odd lengths in two halves, and columns [B, P] to predict. No real token is the padding's id."""

  tokens: Tokens
  columns: np.ndarray

  @property
  def real(self) -> np.ndarray:
    return self.tokens.segments > 0


def example(case: Case) -> Example:
  rng, config = np.random.default_rng(0), case.model.config
  lengths, columns = np.array(LENGTHS)[:, None], np.arange(max(LENGTHS))[None]
  real = columns < lengths
  words = rng.integers(5, config.vocab_size, real.shape)
  types = ((columns >= lengths // 2) & real) * (config.types > 1)
  arrays = np.where(real, words, case.special["pad"]), types, real, columns * real
  picked = np.stack([rng.permutation(n)[:PREDICTIONS] for n in lengths[:, 0]])
  return Example(Tokens(*(np.asarray(x, np.int32) for x in arrays)), np.asarray(picked, np.int32))


def outputs(model: Any, params: Any, given: Example) -> dict[str, jax.Array]:
  """What every head that transformers has says: `hidden` (zeros in padding), `pooled`, `words`, `pair`, `replaced`."""
  config, tokens, cls = model.config, given.tokens, np.zeros((len(given.columns), 1), np.int32)
  apply = lambda *args, method=None: model.apply({"params": params}, *args, method=method)
  hidden = apply(tokens.ids, tokens).hidden
  found = {"hidden": hidden * given.real[..., None]}
  if config.pooler:
    found["pooled"] = apply(hidden, cls, method="pool")[:, 0]
  if "pair" in config.heads_on_top:
    found["pair"] = apply(hidden, cls, method="pair_logits")[:, 0]
  if "rtd" in config.heads_on_top:
    found["replaced"] = apply(hidden, method="replaced_logits") * given.real
  if "mlm" in config.heads_on_top:
    if isinstance(model, Electra):
      words = apply(tokens.ids, tokens, given.columns, method="fill_logits")
    else:
      words = apply(hidden, given.columns, method="token_logits")
    found["words"] = words[..., : config.vocab_size]
  return found


def cotangents(found: dict[str, Any]) -> dict[str, np.ndarray]:
  """Random weights for a scalar of all outputs, whose gradient reaches every parameter that they depend on."""
  rng = np.random.default_rng(1)
  return {name: np.float32(rng.standard_normal(np.shape(found[name]))) for name in sorted(found)}


said = jax.jit(outputs, static_argnums=0)


def ours(case: Case, params: Any, given: Example) -> tuple[dict[str, np.ndarray], dict]:
  """Outputs, and the gradient of their weighted sum."""
  return with_gradient(outputs, case.model, params, given)


def with_gradient(outputs: Callable, *arguments: Any) -> tuple[dict[str, np.ndarray], dict]:
  """(found, gradient) of `outputs(model, params, given, ...) -> found`: of the weighted sum of all that it finds."""
  gradients, found = jax.device_get(_with_gradient(outputs, *arguments))
  return found, gradients


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _with_gradient(outputs, model, params, given, *more):
  def scalar(params):
    found = outputs(model, params, given, *more)
    return sum(jnp.sum(found[name] * weight) for name, weight in cotangents(found).items()), found

  return jax.grad(scalar, has_aux=True)(params)


def table_of(case: Case) -> Table:
  """The name table of a case of one network."""
  config = case.model.config
  if isinstance(config, ElectraConfig):
    return electra_tables.both(config)["discriminator"]
  if case.family == "electra":
    return electra_tables.generator(config)
  return TABLES["bert" if case.family == "spanbert" else case.family](config, TORCH)


# --- theirs -----------------------------------------------------------------------------------------------------------

# transformers' class -> our name of an output -> its name there
LOGITS = {
  "BertForPreTraining": {"words": "prediction_logits", "pair": "seq_relationship_logits"},
  "BertForMaskedLM": {"words": "logits"},
  "BertForNextSentencePrediction": {"pair": "logits"},
  "RobertaForMaskedLM": {"words": "logits"},
  "AlbertForPreTraining": {"words": "prediction_logits", "pair": "sop_logits"},
  "AlbertForMaskedLM": {"words": "logits"},
  "ElectraForPreTraining": {"replaced": "logits"},
  "ElectraForMaskedLM": {"words": "logits"},
}


def class_of(folder: Path) -> type:
  """The class that a folder's config.json names."""
  import transformers

  return getattr(transformers, json.loads((folder / files.CONFIG).read_text())["architectures"][0])


def their_random(case: Case) -> Any:
  """A model of transformers with random weights, biases and scales, of the case's config and heads."""
  import torch
  import transformers

  config, heads = case.model.config, case.model.config.heads_on_top
  settings = published_config(config, case.family, heads, case.special)
  settings |= config_keys(config) if case.family == "luke" else task_keys(config, case.family)
  theirs = transformers.AutoConfig.for_model(**settings | {"attn_implementation": "eager"})
  kind, options = getattr(transformers, settings["architectures"][0]), {}
  if not heads and case.family != "electra":
    options = {"add_pooling_layer": config.pooler}
  model = kind(theirs, **options)
  torch.manual_seed(0)
  with torch.no_grad():
    for name, p in model.named_parameters():
      scale = p.ndim == 1 and name.endswith("weight")
      p.copy_(torch.randn_like(p) * 0.1 + float(scale))
  return model.eval()


def from_pretrained(folder: Path, attention: str = "eager") -> Any:
  """The model as transformers loads it, every tensor of the file used and none made up."""
  model, info = class_of(folder).from_pretrained(folder, output_loading_info=True, attn_implementation=attention)
  problems = {name: found for name, found in info.items() if found}
  assert not problems, problems
  return model.eval()


def theirs(model: Any, given: Example) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Outputs under our names, and the gradients of the same weighted sum by transformers' names of parameters."""
  import torch

  as_long = lambda x: torch.from_numpy(np.asarray(x, np.int64))
  tokens, real = given.tokens, torch.from_numpy(given.real)
  inputs = {"attention_mask": real.long(), "token_type_ids": as_long(tokens.types)}
  body = model.base_model(as_long(tokens.ids), **inputs)
  found = {"hidden": body.last_hidden_state * real[..., None]}
  if getattr(body, "pooler_output", None) is not None:
    found["pooled"] = body.pooler_output
  said = model(as_long(tokens.ids), **inputs)
  names = LOGITS.get(type(model).__name__, {})
  found |= {name: said[theirs] for name, theirs in names.items()}
  if "words" in found:
    found["words"] = torch.take_along_dim(found["words"], as_long(given.columns)[..., None], 1)
  if "replaced" in found:
    found["replaced"] = found["replaced"] * real
  sum((found[name] * torch.from_numpy(weight)).sum() for name, weight in cotangents(found).items()).backward()
  gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
  return {name: x.detach().numpy() for name, x in found.items()}, gradients


def in_our_layout(tensors: dict[str, np.ndarray], table: Table, model: Any) -> dict[str, np.ndarray]:
  """Gradients by transformers' names -> {path of ours: gradient}; copies of one row add up."""
  leaves, sizes, found = named_leaves(shapes(model)), model.table_sizes(), {}
  renamed = {}
  for name, tensor in tensors.items():
    for pattern, replacement in table.renames:
      name = re.sub(pattern, replacement, name)
    renamed[name] = tensor
  for entry in table.entries:
    shape = leaves[entry.path].shape
    own = shape if entry.rows is None else shape[1:]
    rows = np.zeros((1 if entry.rows is None else shape[0], *own), np.float32)
    for name, row in zip(entry.names, entry.rows or (0,)):
      rows[row] += entry.layout.load(renamed[name], own, sizes)
    found[entry.path] = rows[0] if entry.rows is None else rows
  return found


def errors(own: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
  """The largest difference of each output."""
  assert own.keys() == other.keys()
  return {name: float(np.abs(own[name] - other[name]).max()) for name in own}


def relative_errors(own: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
  """The largest difference of each gradient over its largest value, or over a thousandth of the largest of all.

  Gradients of key biases are 0 but for round-off: softmax does not see them.
  """
  assert own.keys() == other.keys()
  least = 1e-3 * max(np.abs(x).max() for x in other.values())
  return {path: float(np.abs(own[path] - other[path]).max() / max(np.abs(other[path]).max(), least)) for path in own}
