"""ELMo's published files: options.json and weights.hdf5, as bilm-tf writes and AllenNLP reads them.

Tensors are float32, [inputs, outputs]. A layer's W_0 is one matrix of input and recurrent rows, its columns are the
gates i, j, f, o in the order of ours, and its bias lacks the forget gate's 1 as ours does; a filter has an axis of 1 in
front; the character table lacks the row of no character, which is zeros here. So tensors are cut and put together and
nothing is computed: what was read is written again bit for bit. The files hold no softmax.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from models.elmo import ACTIVATIONS, CHARACTERS, Elmo, ElmoConfig
from models.paths import merge, named_leaves
from models.published.errors import WeightsError, listed
from models.published.files import exporting, read_object, verify

OPTIONS, WEIGHTS = "options.json", "weights.hdf5"
DROPOUT = 0.1  # of training, where options.json does not say
DIRECTIONS = 2
# options.json: (object, key) -> the types it may have
WANTED = {
  ("lstm", "dim"): int,
  ("lstm", "projection_dim"): int,
  ("lstm", "n_layers"): int,
  ("lstm", "cell_clip"): (int, float),
  ("lstm", "proj_clip"): (int, float),
  ("lstm", "use_skip_connections"): bool,
  ("char_cnn", "embedding"): dict,
  ("char_cnn", "filters"): list,
  ("char_cnn", "n_highway"): int,
  ("char_cnn", "n_characters"): int,
  ("char_cnn", "max_characters_per_token"): int,
  ("char_cnn", "activation"): str,
}


def is_folder(folder: str | os.PathLike[str]) -> bool:
  """Whether a folder has files whose names end in options.json and in weights.hdf5."""
  names = [path.name for path in Path(folder).iterdir()] if Path(folder).is_dir() else []
  return all(any(name.endswith(ending) for name in names) for ending in (OPTIONS, WEIGHTS))


def find(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
  """The files of a folder whose names end in options.json and in weights.hdf5.

  Raises WeightsError unless there is one of each.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise WeightsError(f"weights {folder}: no such directory, want a folder with {OPTIONS} and {WEIGHTS}")
  found = []
  for ending in (OPTIONS, WEIGHTS):
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))
    if len(names) != 1:
      raise WeightsError(f"weights {folder}: has {listed(names) or 'no file'} of names in {ending}, want one of them")
    found.append(folder / names[0])
  return found[0], found[1]


def load(folder: str | os.PathLike[str], dtype: Any = jnp.float32) -> tuple[Elmo, dict]:
  """(model without softmax, parameters as NumPy arrays) of the files in a folder; errors as of `find` and `read`."""
  return read(*find(folder), dtype)


def read(
  options: str | os.PathLike[str], weights: str | os.PathLike[str], dtype: Any = jnp.float32
) -> tuple[Elmo, dict]:
  """(model without softmax, its parameters as NumPy arrays) of two files.

  Args:
    dtype: of the model's matrix products.
  Raises:
    WeightsError: a file that cannot be read or is not what SHA256SUMS beside it says, options that are missing or that
      this model does not have, tensors that are missing, extra, or of another shape or dtype than the options say.
  """
  for path in map(Path, (options, weights)):
    verify(path.parent, [path.name])
  options, weights = Path(options), Path(weights)
  model = Elmo(config_of(read_object(options), str(options), dtype))
  tensors = _tensors(weights)
  leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in named_leaves(shapes_of(model)).items()}
  layout = _layout(model.config, leaves)
  _compare(tensors, layout, weights)
  for name, (_, parts) in layout.items():
    rest = tensors[name].reshape(-1)
    for part in parts:
      part[...] = rest[: part.size].reshape(part.shape)
      rest = rest[part.size :]
  return model, merge(*({path: leaf} for path, leaf in leaves.items()))


def write(
  folder: str | os.PathLike[str],
  model: Elmo,
  params: Mapping[str, Any],
  extra: Callable[[Path], None] = lambda folder: None,
) -> None:
  """Writes options.json, weights.hdf5 and SHA256SUMS into a new folder, whole or not at all.

  Args:
    extra: called with the unfinished folder, to put other files there.
  Raises:
    WeightsError: a model that reads words by their ids, whose format this is not; or a folder with other files in it.
  """
  c = model.config
  if c.input != "characters":
    raise WeightsError(f"export {folder}: the input is {c.input}, want characters: {WEIGHTS} holds no word table")
  leaves = {path: np.asarray(leaf, np.float32) for path, leaf in named_leaves(params).items()}
  if np.any(leaves["char/embedding"][0]):
    raise WeightsError(f"export {folder}: row 0 of char/embedding is not zeros, want zeros: {WEIGHTS} has no such row")
  with exporting(folder) as target:
    (target / OPTIONS).write_text(json.dumps(options_of(c), indent=2) + "\n", encoding="utf-8")
    with h5py.File(target / WEIGHTS, "w") as file:
      for name, (shape, parts) in _layout(c, leaves).items():
        data = np.concatenate([part.reshape(-1) for part in parts]).reshape(shape)
        file.create_dataset(name, data=data, track_times=False)
    extra(target)


# --- options --------------------------------------------------------------------------------------------------------


def config_of(options: Mapping[str, Any], source: str, dtype: Any = jnp.float32) -> ElmoConfig:
  """The ElmoConfig of an options.json; WeightsError names the key that is missing or not of this model.

  The vocabulary has no words: there is no softmax.
  """
  for (part, key), kind in WANTED.items():
    value = options.get(part)
    if not isinstance(value, dict) or key not in value:
      raise WeightsError(f"weights {source}: has no {part}.{key}; want the options.json of a character model")
    if not isinstance(value[key], kind) or (isinstance(value[key], bool) and kind is not bool):
      raise WeightsError(f"weights {source}: {part}.{key} is {value[key]!r}, want {_named(kind)}")
  lstm, characters = options["lstm"], options["char_cnn"]
  filters = tuple(tuple(pair) for pair in characters["filters"] if isinstance(pair, list))
  problems = {
    "n_characters": characters["n_characters"] not in (CHARACTERS - 1, CHARACTERS) and "261 (training) or 262",
    "activation": characters["activation"] not in ACTIVATIONS and " or ".join(ACTIVATIONS),
    "embedding": not isinstance(characters["embedding"].get("dim"), int) and "{'dim': a number}",
    "filters": (len(filters) != len(characters["filters"]) or any(not _is_filter(f) for f in filters) or not filters)
    and "[[width, number], ...]",
  }
  for key, want in problems.items():
    if want:
      raise WeightsError(f"weights {source}: char_cnn.{key} is {characters[key]!r}, want {want}")
  dropout = options.get("dropout", DROPOUT)
  return ElmoConfig(
    vocab_size=0, input="characters", characters=characters["max_characters_per_token"], filters=filters,
    char_embedding=characters["embedding"]["dim"], activation=characters["activation"], dropout=dropout,
    highway=characters["n_highway"], layers=lstm["n_layers"], cell=lstm["dim"], projection=lstm["projection_dim"],
    cell_clip=float(lstm["cell_clip"]), projection_clip=float(lstm["proj_clip"]), skip=lstm["use_skip_connections"],
    recompute_gates=False, unroll=1, dtype=dtype, heads_on_top=(),
  )  # fmt: skip


def options_of(c: ElmoConfig) -> dict[str, Any]:
  """What options.json says of a model."""
  return {
    "lstm": {
      "use_skip_connections": c.skip,
      "projection_dim": c.projection,
      "cell_clip": c.cell_clip,
      "proj_clip": c.projection_clip,
      "dim": c.cell,
      "n_layers": c.layers,
    },
    "char_cnn": {
      "activation": c.activation,
      "filters": [list(pair) for pair in c.filters],
      "n_highway": c.highway,
      "embedding": {"dim": c.char_embedding},
      "n_characters": CHARACTERS,
      "max_characters_per_token": c.characters,
    },
    "dropout": c.dropout,
  }


def _named(kind: Any) -> str:
  return " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__


def _is_filter(pair: tuple) -> bool:
  return len(pair) == 2 and all(isinstance(size, int) and size > 0 for size in pair)


# --- tensors --------------------------------------------------------------------------------------------------------

# Stored tensor -> its shape and the parts of parameters whose numbers it holds one after the other
Layout = dict[str, tuple[tuple[int, ...], list[np.ndarray]]]


def _layout(c: ElmoConfig, leaves: Mapping[str, np.ndarray]) -> Layout:
  """The stored tensors as views into parameters by path."""
  table = leaves["char/embedding"][1:]
  layout: Layout = {"char_embed": (table.shape, [table])}
  whole = {}
  for i in range(len(c.filters)):
    whole[f"CNN/W_cnn_{i}"], whole[f"CNN/b_cnn_{i}"] = f"char/conv_{i}/kernel", f"char/conv_{i}/bias"
  for i in range(c.highway):
    for gate in ("carry", "transform"):
      whole[f"CNN_high_{i}/W_{gate}"] = f"char/highway_{i}/{gate}/kernel"
      whole[f"CNN_high_{i}/b_{gate}"] = f"char/highway_{i}/{gate}/bias"
  whole["CNN_proj/W_proj"], whole["CNN_proj/b_proj"] = "char/projection/kernel", "char/projection/bias"
  for name, path in whole.items():
    leaf = leaves[path]
    layout[name] = ((1, *leaf.shape) if leaf.ndim == 3 else leaf.shape, [leaf])
  for direction in range(DIRECTIONS):
    for layer in range(c.layers):
      cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
      part = lambda name, at=(layer, direction): leaves[f"layers/{name}"][at]
      joined = [part("input/kernel"), part("recurrent/kernel")]
      layout[f"{cell}/W_0"] = ((2 * c.projection, 4 * c.cell), joined)
      layout[f"{cell}/B"] = ((4 * c.cell,), [part("bias")])
      layout[f"{cell}/W_P_0"] = ((c.cell, c.projection), [part("projection/kernel")])
  return layout


def shapes_of(model: Elmo) -> dict:
  """Shapes of a model's parameters."""
  c = model.config
  words = np.zeros((1, 1, c.characters if c.input == "characters" else 1), np.int32)
  index = np.zeros((1, DIRECTIONS, 1), np.int32)
  init = lambda: model.init(jax.random.key(0), words, index, model.empty_carry(1), method="everything")["params"]
  return jax.eval_shape(init)


def _tensors(path: Path) -> dict[str, np.ndarray]:
  """{name: array} of an HDF5 file, groups as parts of names."""
  tensors = {}

  def collect(name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
      tensors[name] = item[()]

  try:
    with h5py.File(path, "r") as file:
      file.visititems(collect)
  except (OSError, RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise WeightsError(f"weights {path}: cannot be read as HDF5 ({reason}); download it again") from error
  return tensors


def _compare(tensors: Mapping[str, np.ndarray], layout: Layout, path: Path) -> None:
  problems = [f"missing {name}" for name in layout if name not in tensors]
  problems += [f"extra {name}" for name in tensors if name not in layout]
  for name, (shape, _) in layout.items():
    tensor = tensors.get(name)
    if tensor is not None and (tensor.shape != shape or tensor.dtype != np.float32):
      problems.append(f"{name} {tensor.shape} {tensor.dtype}, want {shape} float32")
  if problems:
    raise WeightsError(f"weights {path}: {listed(problems)}; want what its {OPTIONS} says")
