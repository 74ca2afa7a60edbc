"""TensorFlow checkpoints as the original BERT, ALBERT and ELECTRA code releases them, to a module with parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.bert import Bert, BertConfig
from models.electra import Electra, ElectraConfig
from models.encoder import EncoderConfig
from models.published import electra_tables, tables, tf_checkpoints
from models.published.configs import config_of_shapes, encoder_fields, released_config
from models.published.errors import WeightsError, listed
from models.published.parts import TABLES, Published, Stored, lacks, params_of, stored


def load_tensorflow(path: str | os.PathLike[str], dtype: Any = jnp.float32, drop: Sequence[str] = ()) -> Published:
  """The model of a checkpoint as the original BERT, ALBERT and ELECTRA code releases it; slots are left out unread.

  Args:
    path: a folder with one checkpoint, or a checkpoint's prefix (`.../bert_model.ckpt`). Beside it stands
      `bert_config.json` or `albert_config.json`; without one, and for ELECTRA, sizes are those of the tensors, and
      heads are 64 columns wide.
    dtype, drop: as in `load`.
  Raises:
    WeightsError: as `tf_checkpoints.read`, and where tensors or config are not those of a model here.
  """
  prefix = _prefix(Path(path))
  return from_tensorflow(tf_checkpoints.read(prefix, skip=tables.SLOTS), prefix.parent, str(prefix), dtype, drop)


def _prefix(path: Path) -> Path:
  if not path.is_dir():
    return path
  found = sorted(path.glob("*.index"))
  if len(found) != 1:
    names = listed([file.name for file in found]) or "none"
    raise WeightsError(f"weights {path}: got {names}, want one checkpoint (X.index); name its prefix X")
  return found[0].with_suffix("")


def from_tensorflow(
  tensors: Mapping[str, np.ndarray], folder: Path, source: str, dtype: Any = jnp.float32, drop: Sequence[str] = ()
) -> Published:
  """The model of a checkpoint's tensors; config files are looked for in `folder`."""
  tensors = {name.removeprefix("module/"): array for name, array in tensors.items()}  # hub modules' scope
  found = stored(tensors, {}, source, drop)
  if any(name.startswith("electra/") for name in tensors):
    return _electra(found, dtype)
  family = "albert" if any("/group_0/inner_group_0/" in name for name in tensors) else "bert"
  notes, config = (), released_config(folder, family)
  if config is None and family == "albert":
    raise WeightsError(f"weights {source}: has no albert_config.json beside it, want it: no tensor tells the layers")
  if config is None:
    config = config_of_shapes(tensors, family, "bert", "bert", source)
    notes = (f"no {family}_config.json: {_guess(config)}",)
  has, fields = found.has(family), encoder_fields(config, family, source, dtype)
  fields["projection"] = fields["embedding"] != fields["hidden"]
  on_top = tuple(part for part in ("mlm", "pair") if part in has)
  model = Bert(BertConfig(**fields, pooler="pooler" in has, heads_on_top=on_top))
  params, own = params_of(model, TABLES[family](model.config, tables.TENSORFLOW), found)
  return Published(family, model, params, config, (*own, *notes, *lacks(model, family)))


def _guess(config: Mapping[str, Any]) -> str:
  return f"sizes are the tensors', {config['num_attention_heads']} heads by the width of released ones"


def _electra(found: Stored, dtype: Any) -> Published:
  """Both networks, or the discriminator where nothing else is there."""
  has, names = found.has("electra"), found.tensors
  own = {part for part in ("encoder", "embeddings") if any(name.startswith(f"generator/{part}/") for name in names)}
  tie = "none" if "embeddings" in own else "all" if "mlm" in has and "encoder" not in own else "embeddings"
  scopes = {"discriminator": ("electra", "electra")}
  if "mlm" in has:
    scopes["generator"] = electra_tables.generator_scopes(tables.TENSORFLOW, tie)
  configs = {name: config_of_shapes(names, "electra", *scope, found.source) for name, scope in scopes.items()}
  encoders = {}
  for name, config in configs.items():
    fields = encoder_fields(config, "electra", found.source, dtype)
    encoders[name] = fields | {"projection": fields["embedding"] != fields["hidden"]}
  generator = EncoderConfig(**encoders["generator"]) if "mlm" in has else None
  heads = tuple(part for part in ("mlm", "rtd") if part in has)
  model = Electra(ElectraConfig(**encoders["discriminator"], generator=generator, tie=tie, heads_on_top=heads))
  params, notes = params_of(model, electra_tables.checkpoint(model.config), found)
  guesses = tuple(f"{name}: {_guess(config)}" for name, config in configs.items())
  config = configs if generator is not None else configs["discriminator"]
  return Published("electra", model, params, config, (*notes, *guesses))
