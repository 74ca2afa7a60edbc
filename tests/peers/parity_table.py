"""Parameters and parity of every model and published size, as a table in Markdown; the last line is JSON.

    python -m tests.peers.parity_table [--models=bert,albert] [--layers=0] [--output=FILE.json]

Counts are those of the whole model as it is pretrained, padding of the vocabulary aside, without making it; `published`
is what the papers say. Errors are the largest against transformers in float32 on padded rows, at the published widths
with --layers of the layers (2; 0 = all of them): of hidden states and logits, and of gradients, relative to each
parameter's largest. Random weights, exported and loaded by transformers. LUKE's are measured with a pooler, and with
ROWS of its tables at most; what is published of it counts the pooler and no heads. Needs the extra [parity].
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
from configs import albert, bert, electra, luke, roberta, spanbert
from models.electra import Electra
from models.encoder import EncoderConfig
from models.luke import Luke
from models.paths import named_leaves
from models.published import weights
from models.published.parts import shapes_of
from models.sharding import count_parameters
from models.spanbert import SpanBert
from tests import luke_models, parity_models
from tests.parity_models import (
  Case,
  errors,
  from_pretrained,
  in_our_layout,
  random_params,
  relative_errors,
  table_of,
)  # fmt: skip

RECIPES = {"albert": albert, "bert": bert, "electra": electra, "luke": luke, "roberta": roberta, "spanbert": spanbert}
ROWS = {"vocab_size": 50_265, "entity_vocab_size": 10_000}
# Recipe -> variant -> parameters as published, in millions: the papers' tables, and README files of the code
PUBLISHED = {
  "bert": {
    "l2_h128": "4.4", "mini": "11.3", "small": "29.1", "medium": "41.7", "base": "110", "large": "340",
    "base_cased": "110", "large_cased": "340",
  },
  "roberta": {"base": "125", "large": "355"},
  "albert": {"base": "12", "large": "18", "xlarge": "60", "xxlarge": "235"},
  "electra": {"small_plus": "14", "base": "110", "large": "335"},
  "spanbert": {"base": "110", "large": "340"},
  "luke": {
    "base": "253", "large": "484", "base,queries=4": "274", "large,queries=4": "560", "mluke_base": "586",
    "mluke_large": "868",
  },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
  """One network of one size."""

  model: str
  parameters: int
  published_millions: str
  layers: int
  output_error: float
  gradient_error: float


def rows(recipe: str, variant: str, millions: str, most: int) -> Iterator[Row]:
  """The networks of a variant; errors with at most `most` layers, 0 = all."""
  config = RECIPES[recipe].get_config(variant)
  whole = models.build(config)
  own = shapes_of(whole)
  counts = count_parameters(own, whole.axes(), whole.table_sizes())
  cut = _with_layers(whole, most)
  with tempfile.TemporaryDirectory() as scratch:
    case = Case(recipe, cut)
    weights.save(Path(scratch, "x"), recipe, cut, random_params(cut, std=0.02), case.special)
    for name in ("discriminator", "generator") if isinstance(whole, Electra) else ("",):
      outputs, gradients, layers = measure(recipe, Path(scratch, "x", name))
      mine = [path for path in counts if _belongs(path, name)]
      said = "" if name == "generator" else millions
      label = f"{recipe} {variant} {name}".strip()
      yield Row(label, sum(counts[path] for path in mine), said, layers, outputs, gradients)


def _with_layers(model: Any, most: int) -> Any:
  """The model with at most so many layers, without dropout and the heads that transformers lacks."""

  def cut(c: EncoderConfig) -> EncoderConfig:
    layers = min(c.layers, most or c.layers)
    groups = {name: min(getattr(c.sharing, name), layers) for name in ("attention_groups", "ffn_groups")}
    sharing = dataclasses.replace(c.sharing, **groups)
    return dataclasses.replace(c, layers=layers, sharing=sharing, dropout=0.0, attention_dropout=0.0)

  config = cut(model.config)
  if isinstance(model, Electra):
    config = dataclasses.replace(config, generator=cut(config.generator))
  if isinstance(model, SpanBert):
    config = dataclasses.replace(config, heads_on_top=tuple(head for head in config.heads_on_top if head != "sbo"))
  if isinstance(model, Luke):
    config = dataclasses.replace(config, pooler=True, **{key: min(getattr(config, key), n) for key, n in ROWS.items()})
  return type(model)(config)


def _belongs(path: str, network: str) -> bool:
  """Whether a parameter is one of the network's, shared tables included."""
  other = {"discriminator": ("generator/", "heads/mlm/"), "generator": ("discriminator/", "heads/rtd/"), "": ()}
  return not path.startswith(other[network])


def measure(family: str, folder: Path) -> tuple[float, float, int]:
  """Largest error of outputs, largest relative error of gradients, and layers, of a network in a folder."""
  found = weights.load(folder)
  case, peer = Case(family, found.model), luke_models if family == "luke" else parity_models
  given = peer.example(case)
  own, gradients = peer.ours(case, found.params, given)
  other, their_gradients = peer.theirs(from_pretrained(folder), given)
  wanted = in_our_layout(their_gradients, table_of(case), case.model)
  relative = relative_errors(named_leaves(gradients), wanted)
  return max(errors(own, other).values()), max(relative.values()), found.model.config.layers


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--models", default=",".join(PUBLISHED), help="(%(default)s)")
  parser.add_argument("--layers", type=int, default=2, help="that errors are measured with; 0 = all (%(default)s)")
  parser.add_argument("--output", help="file for the rows as JSON, beside the last line on stdout")
  flags = parser.parse_args()
  chosen = flags.models.split(",")
  if unknown := [name for name in chosen if name not in PUBLISHED]:
    parser.exit(2, f"parity_table.py: --models: got {', '.join(unknown)}, want some of {', '.join(PUBLISHED)}\n")
  print(
    "| model | parameters | published, millions | layers | output error | gradient error |", "|---" * 6 + "|", sep="\n"
  )
  found = []
  for recipe in chosen:
    for variant, millions in PUBLISHED[recipe].items():
      for row in rows(recipe, variant, millions, flags.layers):
        found.append(dataclasses.asdict(row))
        print(
          f"| {row.model} | {row.parameters:,} | {row.published_millions} | {row.layers} | {row.output_error:.1e} "
          f"| {row.gradient_error:.1e} |", flush=True,
        )  # fmt: skip
  if flags.output:
    Path(flags.output).write_text(json.dumps(found, indent=2) + "\n")
  print(json.dumps({"command": "parity_table", "rows": found}))


if __name__ == "__main__":
  main()
