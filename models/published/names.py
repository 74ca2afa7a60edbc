"""One name table per model, for both directions between our parameters and published tensors.

An entry ties one leaf to the names it is published under, one name for every row of `copies` where it is stacked, and
to the layout in which a row is stored. Layouts permute, merge and cut axes and never compute, so what is exported and
imported again is the same bit for bit. Rows that only pad a vocabulary are not published: an import makes them zeros
(their logits are -1e9 whatever they hold), an export drops them whatever they hold.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from models.paths import matches, merge, named_leaves
from models.published.errors import WeightsError, listed


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a leaf, or one row of a stacked leaf, is stored.

  split: None keeps the axes, 0 merges them into one, k makes a matrix [first k axes merged, the others merged].
  transpose: the matrix is stored the other way round, [outputs, inputs].
  padded: name of the axis whose real size cuts axis 0, as in `table_sizes()`.
  """

  split: int | None = None
  transpose: bool = False
  padded: str | None = None

  def shape(self, leaf: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of the stored tensor of a leaf (or row) of shape `leaf`."""
    shape = self._unpadded(leaf, sizes)
    if self.split is not None:
      split = self.split
      shape = (math.prod(shape[:split]), math.prod(shape[split:])) if split else (math.prod(shape),)
    return shape[::-1] if self.transpose else shape

  def store(self, leaf: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """The stored tensor of a leaf (or row), as an array of its own in C order."""
    x = leaf[: sizes[self.padded]] if self.padded else leaf
    shape = self.shape(leaf.shape, sizes)
    return np.array(x.reshape(shape[::-1]).T if self.transpose else x.reshape(shape), order="C")

  def load(self, tensor: np.ndarray, leaf: tuple[int, ...], sizes: Mapping[str, int]) -> np.ndarray:
    """The leaf (or row) of shape `leaf` that `tensor` stores; padding rows are zeros."""
    x = (tensor.T if self.transpose else tensor).reshape(self._unpadded(leaf, sizes))
    return x if x.shape == leaf else np.concatenate([x, np.zeros((leaf[0] - len(x), *leaf[1:]), x.dtype)])

  def _unpadded(self, leaf: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return (sizes[self.padded], *leaf[1:]) if self.padded else tuple(leaf)


SAME = Layout()
VECTOR = Layout(split=0)  # biases [N, H] as [N*H]
LINEAR = Layout(split=1, transpose=True)  # kernels [D, ...outputs] as PyTorch's [outputs, D]
LINEAR_FROM_HEADS = Layout(split=2, transpose=True)  # kernels [N, H, D] as PyTorch's [D, N*H]
KERNEL = Layout(split=1)  # kernels [D, ...outputs] as TensorFlow's [D, outputs]
KERNEL_FROM_HEADS = Layout(split=2)  # kernels [N, H, D] as TensorFlow's [N*H, D]
VOCAB = Layout(padded="vocab")  # [V', ...] as [V, ...]
ENTITIES = Layout(padded="entities")  # the same of a table of entities


@dataclasses.dataclass(frozen=True)
class Entry:
  """One leaf and its published names.

  names: the name of the leaf, or of each of its published copies.
  rows: row of `copies` that each name stores, None for a leaf that is not stacked. Names of one row are written
    alike and must hold the same bits when read.
  aliases: further names that files may have for an unstacked leaf (tied tables). They are never written; when read,
    any of the names suffices and all that are there must hold the same bits.
  repeats: aliases that are written as well, for readers that do not tie them by themselves.
  """

  path: str
  names: tuple[str, ...]
  layout: Layout = SAME
  rows: tuple[int, ...] | None = None
  aliases: tuple[str, ...] = ()
  repeats: tuple[str, ...] = ()

  def __post_init__(self):
    if self.rows is None and len(self.names) != 1 or self.rows is not None and len(self.rows) != len(self.names):
      raise ValueError(f"entry {self.path}: got {len(self.names)} names, want one a row, or one and no rows")
    if (self.aliases or self.repeats) and self.rows is not None:
      raise ValueError(f"entry {self.path}: got aliases of a stacked leaf, want none")
    if self.rows is not None and set(self.rows) != set(range(len(set(self.rows)))):
      raise ValueError(f"entry {self.path}: got rows {self.rows}, want every row from 0 on")

  @property
  def spellings(self) -> tuple[str, ...]:
    """Every name under which the leaf may stand in a file."""
    return (*self.names, *self.repeats, *self.aliases)

  def shape(self, leaf: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of each published tensor."""
    return self.layout.shape(leaf if self.rows is None else leaf[1:], sizes)


def leaf(
  path: str, name: str, layout: Layout = SAME, aliases: Sequence[str] = (), repeats: Sequence[str] = ()
) -> Entry:
  """The entry of a leaf that is published as one tensor."""
  return Entry(path, (name,), layout, aliases=tuple(aliases), repeats=tuple(repeats))


def stacked(
  path: str, name: str, layout: Layout, indices: Iterable[int | tuple[int, ...]], rows: Iterable[int] | None = None
) -> Entry:
  """The entry of a leaf [copies, ...]: `name` is a format string, filled with each of `indices` in turn.

  Args:
    indices: of the published copies: layers, or tuples such as (group, inner block).
    rows: row of `copies` behind each index; 0, 1, 2... by default.
  """
  names = tuple(name.format(*(i if isinstance(i, tuple) else (i,))) for i in indices)
  return Entry(path, names, layout, tuple(range(len(names)) if rows is None else rows))


@dataclasses.dataclass(frozen=True)
class Table:
  """The names of one model.

  fixed: tensors that the published layout has and we do not, with the one value under which both compute the same
    (a table of zeros, an identity): written on export, held against that value on import.
  ignored: regular expressions of published names without information, such as position_ids; never written.
  renames: (regular expression, replacement) applied to the names of files, in order, before anything else: older
    spellings, and prefixes that some files lack.
  """

  entries: tuple[Entry, ...]
  fixed: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  ignored: tuple[str, ...] = ()
  renames: tuple[tuple[str, str], ...] = ()

  def __post_init__(self):
    paths = [entry.path for entry in self.entries]
    names = [name for entry in self.entries for name in entry.spellings] + list(self.fixed)
    for what, items in (("path", paths), ("name", names)):
      twice = sorted(item for item, times in Counter(items).items() if times > 1)
      if twice:
        raise ValueError(f"name table: {what} {listed(twice)} stands twice, want it once")


@dataclasses.dataclass(frozen=True)
class Imported:
  """What an import gave.

  params: nested dicts of NumPy arrays, which may be read-only views of the tensors they came from.
  absent: paths left out because they were optional and not there.
  dropped: names in the file that the table ignores or the caller dropped.
  """

  params: dict[str, Any]
  absent: tuple[str, ...]
  dropped: tuple[str, ...]


def to_published(params: Mapping[str, Any], table: Table, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
  """The published tensors of `params`, in the dtypes they have, in the table's order.

  Args:
    params: nested dicts whose leaves are exactly the table's paths (`models.paths.split` cuts a larger tree).
    sizes: real sizes of padded axes, the model's `table_sizes()`.
  Raises:
    WeightsError: leaves and entries do not match.
  """
  leaves = named_leaves(params)
  _refuse_unmatched(leaves, table)
  tensors: dict[str, np.ndarray] = {}
  for entry in table.entries:
    array = np.asarray(leaves[entry.path])
    _refuse_unfit(entry, array.shape, sizes)
    for name, row in zip(entry.names, entry.rows or (None,)):
      tensors[name] = entry.layout.store(array if row is None else array[row], sizes)
    tensors |= {name: tensors[entry.names[0]] for name in entry.repeats}
  return tensors | {name: np.array(value, order="C") for name, value in table.fixed.items()}


def from_published(
  tensors: Mapping[str, np.ndarray],
  table: Table,
  shapes: Any,
  sizes: Mapping[str, int],
  *,
  source: str,
  optional: Sequence[str] = (),
  drop: Sequence[str] = (),
) -> Imported:
  """Parameters from published tensors. Nothing is cast: dtypes are those of `shapes`, or an error (see `widened`).

  Args:
    shapes: nested dicts of arrays or ShapeDtypeStructs whose leaves are exactly the table's paths.
    sizes: real sizes of padded axes, the model's `table_sizes()`.
    source: of the tensors, for messages.
    optional: regular expressions over our paths. Of the leaves that one of them finds either all tensors must be
      there, or none is: then they are left out of the parameters.
    drop: regular expressions over published names (in the table's spelling) that are treated as not there.
  Raises:
    WeightsError: tensors are missing, extra, of another shape or dtype, or differ where they must be the same; all
      are listed by name.
  """
  leaves = named_leaves(shapes)
  _refuse_unmatched(leaves, table)
  problems: list[str] = []
  stored = _renamed(tensors, table, problems)
  dropped = tuple(sorted(old for new, old in stored.items() if matches(new, (*table.ignored, *drop))))
  stored = {new: old for new, old in stored.items() if old not in dropped}
  absent = _absent(table, stored, optional)
  loaded = {}
  for entry in table.entries:
    if entry.path not in absent:
      want = leaves[entry.path]
      _refuse_unfit(entry, want.shape, sizes)
      rows = _rows(entry, want, sizes, tensors, stored, problems)
      if rows is not None:
        loaded[entry.path] = rows[0] if entry.rows is None else np.stack([rows[i] for i in range(len(rows))])
  _check_fixed(table, tensors, stored, problems)
  known = {name for entry in table.entries for name in entry.spellings} | set(table.fixed)
  for name in sorted(stored.keys() - known):
    problems.append(f"extra {_described(stored[name], tensors[stored[name]])}")
  if problems:
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    advice = "take the weights' own config, or name what is not wanted"
    raise WeightsError(f"weights {source}: do not fit the model ({count}): {listed(problems, '; ')}: {advice}")
  params = merge(*({path: array} for path, array in loaded.items()))
  return Imported(params, tuple(sorted(absent)), dropped)


def widened(tensors: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """float16 and bfloat16 tensors as float32, which is exact, and the number of tensors of each dtype that was cast.

  Raises:
    WeightsError: float64 tensors, which float32 cannot hold.
  """
  wide = [f"{name} {array.dtype}" for name, array in tensors.items() if array.dtype == np.float64]
  if wide:
    raise WeightsError(f"weights {source}: got {listed(wide)}, want at most float32; save them in float32")
  narrow = {name: str(a.dtype) for name, a in tensors.items() if a.dtype in (np.float16, ml_dtypes.bfloat16)}
  cast = {name: array.astype(np.float32) if name in narrow else array for name, array in tensors.items()}
  return cast, dict(sorted(Counter(narrow.values()).items()))


def _refuse_unmatched(leaves: Mapping[str, Any], table: Table) -> None:
  """A leaf without an entry, or an entry without a leaf, is a mistake in the table or in the call."""
  paths = {entry.path for entry in table.entries}
  problems = [f"no entry for parameter {path}" for path in sorted(leaves.keys() - paths)]
  problems += [f"no parameter for entry {path}" for path in sorted(paths - leaves.keys())]
  if problems:
    raise WeightsError(f"name table: {listed(problems, '; ')}; want one entry for every parameter")


def _refuse_unfit(entry: Entry, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
  copies = None if entry.rows is None else max(entry.rows) + 1
  if copies is not None and shape[:1] != (copies,):
    raise WeightsError(f"name table: parameter {entry.path} has shape {list(shape)}, its entry wants {copies} copies")
  size = sizes[entry.layout.padded] if entry.layout.padded else 0
  own = shape if copies is None else shape[1:]
  if size and own[0] < size:
    raise WeightsError(f"name table: parameter {entry.path} has shape {list(shape)}, its entry wants {size} rows")


def _renamed(tensors: Mapping[str, Any], table: Table, problems: list[str]) -> dict[str, str]:
  """{name in the table's spelling: name in the file}."""
  stored: dict[str, str] = {}
  for old in tensors:
    new = old
    for pattern, replacement in table.renames:
      new = re.sub(pattern, replacement, new)
    if new in stored:
      problems.append(f"{stored[new]} and {old} both stand for {new}")
    stored[new] = old
  return stored


def _absent(table: Table, present: Mapping[str, str], optional: Sequence[str]) -> set[str]:
  """Paths of the optional groups that have no tensor at all."""
  absent: set[str] = set()
  for pattern in optional:
    group = [entry for entry in table.entries if re.search(pattern, entry.path)]
    if not any(name in present for entry in group for name in entry.spellings):
      absent |= {entry.path for entry in group}
  return absent


def _rows(
  entry: Entry,
  want: Any,
  sizes: Mapping[str, int],
  tensors: Mapping[str, np.ndarray],
  stored: Mapping[str, str],
  problems: list[str],
) -> dict[int, np.ndarray] | None:
  """{row: array in our layout}, row 0 for an unstacked leaf; None, and the problems, if a row cannot be had."""
  shape = entry.shape(want.shape, sizes)
  names = dict(zip(entry.names, entry.rows)) if entry.rows else dict.fromkeys(entry.spellings, 0)
  any_suffices = entry.rows is None and any(name in stored for name in names)
  found: dict[int, tuple[str, np.ndarray]] = {}
  known = len(problems)
  for name, row in names.items():
    if name not in stored:
      if not any_suffices and name in entry.names:
        problems.append(f"missing {name} {np.dtype(want.dtype)}{list(shape)}")
      continue
    tensor = tensors[stored[name]]
    if tensor.shape != shape or tensor.dtype != want.dtype:
      problems.append(f"{_described(stored[name], tensor)}, want {np.dtype(want.dtype)}{list(shape)}")
    elif row not in found:
      found[row] = (stored[name], tensor)
    elif not _same_bits(found[row][1], tensor):
      problems.append(f"{stored[name]} differs from {found[row][0]}, want the same values")
  if len(problems) > known:
    return None
  own = want.shape if entry.rows is None else want.shape[1:]
  return {row: entry.layout.load(tensor, own, sizes) for row, (_, tensor) in found.items()}


def _check_fixed(table: Table, tensors: Mapping[str, Any], stored: Mapping[str, str], problems: list[str]) -> None:
  for name, value in table.fixed.items():
    if name not in stored:
      problems.append(f"missing {name} {value.dtype}{list(value.shape)}")
    elif not np.array_equal(tensors[stored[name]], value):
      problems.append(f"{_described(stored[name], tensors[stored[name]])} is not the value this model implies")


def _described(name: str, tensor: np.ndarray) -> str:
  return f"{name} {tensor.dtype}{list(tensor.shape)}"


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
  return np.array_equal(np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8))
