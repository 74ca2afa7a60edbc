"""Published models: folders in Hugging Face's layout, or AllenNLP's of an ELMo, to a module with parameters, and back.

What was written comes back bit for bit (rows that only pad a vocabulary as zeros), under the same config.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from models.bert import Bert, BertConfig
from models.electra import Electra, ElectraConfig
from models.elmo import Elmo
from models.encoder import EncoderConfig
from models.luke import Luke, LukeConfig
from models.paths import merge, named_leaves
from models.published import allennlp, electra_tables, files, luke_files, luke_tables, tables
from models.published.configs import encoder_fields, family_of, published_config, refuse_activation
from models.published.errors import WeightsError, listed
from models.published.names import Table, to_published
from models.published.parts import MARKS, TABLES, Published, Stored, chosen, lacks, params_of, shapes_of, stored
from models.published.releases import load_tensorflow
from models.published.tasks import notes_of, stored_fields, task_keys
from models.spanbert import SpanBert, SpanBertConfig

__all__ = ("Published", "is_pair", "load", "load_tensorflow", "save")

NETWORKS = ("discriminator", "generator")  # of ELECTRA, one folder each
TIE = "electra_tie"  # key of ours in config.json: what the two networks share


# --- reading ----------------------------------------------------------------------------------------------------------


def is_pair(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder holds both networks of an ELECTRA, each in a folder of its own."""
  return all(Path(folder, name, files.CONFIG).is_file() for name in NETWORKS)


def load(
  folder: str | os.PathLike[str], dtype: Any = jnp.float32, pytorch_bin: bool = False, drop: Sequence[str] = ()
) -> Published:
  """The model of a folder with config.json and weights, with the heads that the file has; or with options and weights.

  An ELECTRA generator is a `Bert`, a discriminator an `Electra` without generator; a folder that holds both, in
  `discriminator` and `generator`, is one `Electra`.

  Args:
    dtype: of the model's matrix products. Parameters are float32: narrower tensors are widened, which `notes` says.
    pytorch_bin: see `files.read_tensors`.
    drop: regular expressions of names of tensors that are not wanted, such as another task's head.
  Raises:
    WeightsError: the folder, its config or its tensors are not those of a model here.
  """
  if is_pair(folder):
    return _load_pair(Path(folder), dtype, pytorch_bin, drop)
  if allennlp.is_folder(folder):
    model, params = allennlp.load(folder, dtype)
    note = "the files have no softmax; one that trains starts from the seed"
    return Published("elmo", model, params, allennlp.options_of(model.config), (note,))
  found = _read(Path(folder), pytorch_bin, drop)
  family = family_of(found.config, found.source)
  model, table = _single(found, family, dtype)
  params, notes = params_of(model, table, found)
  return Published(family, model, params, found.config, (*notes, *lacks(model, family), *notes_of(found.config)))


def _read(folder: Path, pytorch_bin: bool, drop: Sequence[str]) -> Stored:
  config = luke_files.archive_config(folder) if luke_files.is_archive(folder) else files.read_config(folder)
  found = stored(files.read_tensors(folder, pytorch_bin), config, str(folder), drop)
  return luke_files.completed(found) if config.get("model_type") == "luke" else found


def _single(found: Stored, family: str, dtype: Any) -> tuple[Any, Table]:
  """The model of one folder, and its table."""
  if family == "luke":
    luke = luke_files.config_of(found, dtype)
    return Luke(luke), luke_tables.luke(luke)
  has, fields = found.has(family), encoder_fields(found.config, family, found.source, dtype)
  refuse_activation(family, has, fields["activation"], found.source)
  fields["types"] = 0 if _typeless(found.tensors) else fields["types"]
  fields["projection"] = fields["embedding"] != fields["hidden"] or _maps(found.tensors)
  if family == "electra" and "mlm" not in has:
    heads = [part for part in ("rtd", "restore", "gate") if part in has]
    electra = ElectraConfig(**fields, **stored_fields(found, family, heads), generator=None, tie="embeddings")
    return Electra(electra), electra_tables.both(electra)["discriminator"]
  on_top = [part for part in ("mlm", "pair", "sbo") if part in has]
  fields |= {"pooler": "pooler" in has, **stored_fields(found, family, on_top)}
  if family == "electra":
    config = BertConfig(**fields)
    return Bert(config), electra_tables.generator(config)
  if "sbo" in has:
    rows, width = found.tensors[tables.TORCH.join(tables.PLACES, "weight")].shape
    config = SpanBertConfig(**fields, span_positions=rows, span_width=width)
    return SpanBert(config), tables.bert(config)
  config = BertConfig(**fields)
  return Bert(config), TABLES[family](config, tables.TORCH)


def _typeless(tensors: Mapping[str, np.ndarray]) -> bool:
  """Whether the table of types is one row of zeros, which stands for none."""
  table = next((x for name, x in tensors.items() if name.endswith("embeddings.token_type_embeddings.weight")), None)
  return table is not None and len(table) == 1 and not np.any(table)


def _maps(tensors: Mapping[str, np.ndarray]) -> bool:
  """Whether ALBERT's map from tables to layers, which its files always have, is another than the identity."""
  name = next((name for name in tensors if name.endswith("embedding_hidden_mapping_in.weight")), None)
  bias = None if name is None else name.removesuffix("weight") + "bias"
  if name is None or bias not in tensors:
    return False
  return not np.array_equal(tensors[name], np.eye(*tensors[name].shape)) or bool(np.any(tensors[bias]))


# --- ELECTRA's two networks -------------------------------------------------------------------------------------------


def _load_pair(folder: Path, dtype: Any, pytorch_bin: bool, drop: Sequence[str]) -> Published:
  parts = {name: _read(folder / name, pytorch_bin, drop) for name in NETWORKS}
  fields = {}
  for name, part in parts.items():
    if family_of(part.config, part.source) != "electra":
      raise WeightsError(f"weights {part.source}: config.json: model_type is not electra, want the {name} of one")
    fields[name] = encoder_fields(part.config, "electra", part.source, dtype)
    fields[name]["types"] = 0 if _typeless(part.tensors) else fields[name]["types"]
    fields[name]["projection"] = fields[name]["embedding"] != fields[name]["hidden"]
  ties = {part.config.get(TIE, "embeddings") for part in parts.values()}
  if len(ties) > 1 or not ties <= {"embeddings", "all", "none"}:
    got = ", ".join(sorted(map(str, ties)))
    raise WeightsError(f"weights {folder}: config.json: {TIE} is {got}, want embeddings, all or none in both")
  refuse_activation("electra", parts["generator"].has("electra"), fields["generator"]["activation"], str(folder))
  has = {part for own in parts.values() for part in own.has("electra")}
  heads = tuple(part for part in MARKS["electra"] if part in has)
  generator = EncoderConfig(**fields["generator"])
  model = Electra(ElectraConfig(**fields["discriminator"], generator=generator, tie=ties.pop(), heads_on_top=heads))
  shapes, found = shapes_of(model), {}
  for name, table in electra_tables.both(model.config).items():
    found[name] = params_of(model, table, parts[name], chosen(shapes, table))
  leaves = {name: named_leaves(params) for name, (params, _) in found.items()}
  shared = leaves["discriminator"].keys() & leaves["generator"].keys()
  apart = sorted(path for path in shared if len({own[path].tobytes() for own in leaves.values()}) > 1)
  if apart:
    raise WeightsError(
      f"weights {folder}: generator and discriminator differ in {listed(apart)}, which they share; want two networks "
      "of one training, or one of the folders alone"
    )
  params = merge({path: leaf for own in leaves.values() for path, leaf in own.items()})
  notes = tuple(f"{name}: {note}" for name, (_, own) in found.items() for note in own)
  return Published("electra", model, params, {name: part.config for name, part in parts.items()}, notes)


# --- writing ----------------------------------------------------------------------------------------------------------


def save(
  folder: str | os.PathLike[str],
  family: str,
  model: Any,
  params: Mapping[str, Any],
  special: Mapping[str, int],
  extra: Callable[[Path], None] = lambda folder: None,
  labels: Sequence[str] = (),
) -> None:
  """Writes a folder that transformers loads, or AllenNLP an ELMo, whole or not at all, with SHA256SUMS.

  Both networks of an ELECTRA go to folders of their own in it, `discriminator` and `generator`. An ELMo's softmax is
  left out: its files have no place for it.

  Args:
    special: ids of the tokenizer's pad, cls and sep.
    labels: names of the outputs of a task's head.
    extra: called with each unfinished folder that has a model, to put the tokenizer's files there.
  Raises:
    WeightsError: the folder holds other things, the parameters are not the model's, or no published layout holds it.
  """
  if isinstance(model, Elmo):
    return allennlp.write(folder, model, params, extra)
  written = {}
  parts = _parts(family, model.config, labels)
  for name, (config, heads, table, own) in parts.items():
    stated = published_config(config, family, heads, special) | own
    written[name] = (stated, to_published(chosen(params, table), table, model.table_sizes()))
  _refuse_left(params, [table for _, _, table, _ in parts.values()])
  with files.exporting(folder) as partial:
    for name, (config, tensors) in written.items():
      place = partial / name
      place.mkdir(exist_ok=True)
      files.write_tensors(place, tensors)
      files.write_config(place, config)
      extra(place)


def _parts(
  family: str, config: Any, labels: Sequence[str]
) -> dict[str, tuple[EncoderConfig, tuple[str, ...], Table, dict[str, Any]]]:
  """Folder below the export's -> config, heads, table, and further keys of its config.json."""
  if isinstance(config, LukeConfig):
    return {"": (config, config.heads_on_top, luke_tables.luke(config), luke_files.config_keys(config, labels))}
  if not isinstance(config, ElectraConfig):
    if family == "electra":
      return {"": (config, config.heads_on_top, electra_tables.generator(config), {})}
    table = TABLES["bert" if family == "spanbert" else family](config, tables.TORCH)
    return {"": (config, config.heads_on_top, table, task_keys(config, family, labels))}
  both = electra_tables.both(config)
  heads = tuple(head for head in config.heads_on_top if head not in ("mlm", "baseline"))
  if config.generator is None:
    return {"": (config, heads, both["discriminator"], task_keys(config, family, labels))}
  tie = {TIE: config.tie}
  return {
    "discriminator": (config, heads, both["discriminator"], tie),
    "generator": (config.generator, ("mlm",), both["generator"], tie),
  }


def _refuse_left(params: Mapping[str, Any], used: Sequence[Table]) -> None:
  left = sorted(named_leaves(params).keys() - {entry.path for table in used for entry in table.entries})
  if left:
    raise WeightsError(f"export: no entry for parameter {listed(left)}; want the parameters of the model alone")
