"""Folders in Hugging Face's layout: config.json, safetensors files (one, or parts with an index), SHA-256 sums.

Tensors come and go as {name: NumPy array} in the dtypes they are stored in. An export appears whole or not at all and
carries SHA256SUMS, which `sha256sum -c SHA256SUMS` checks and every read here verifies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.published.errors import WeightsError, listed

CONFIG, SUMS = "config.json", "SHA256SUMS"
SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
PART_BYTES = 5_000_000_000
# dtypes that both safetensors and NumPy (with ml_dtypes) know
DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """The object in config.json. Raises WeightsError where there is none, or SHA256SUMS says otherwise."""
  verify(folder, [CONFIG])
  return read_object(Path(folder, CONFIG))


def read_tensors(folder: str | os.PathLike[str], pytorch_bin: bool = False) -> dict[str, np.ndarray]:
  """The tensors of a folder by name, in name order and in their stored dtypes.

  Args:
    folder: holds model.safetensors or model.safetensors.index.json with its parts.
    pytorch_bin: where there are none, read pytorch_model.bin (or its index and parts) through PyTorch's loader for
      weights alone, which runs no code from the file.
  Raises:
    WeightsError: files are missing, damaged, ambiguous, or not what SHA256SUMS in the folder says.
  """
  folder = Path(folder)
  name = _weights_file(folder, pytorch_bin)
  verify(folder, [name])
  load = _load_pytorch if name.startswith(PYTORCH) else _load_safetensors
  tensors = _read_parts(folder / name, load) if name.endswith(".json") else load(folder / name)
  return dict(sorted(tensors.items()))


def write_config(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
  """Writes config.json as transformers does: sorted keys, two spaces."""
  Path(folder, CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_tensors(
  folder: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], part_bytes: int = PART_BYTES
) -> None:
  """Writes model.safetensors, or parts of at most `part_bytes` of values (or one tensor) and their index.

  The bytes depend on names and values alone. Raises WeightsError for dtypes that safetensors lacks.
  """
  folder = Path(folder)
  parts = _parts(tensors, part_bytes)
  if len(parts) == 1:
    return _save(folder / SAFETENSORS, parts[0])
  stem, where = Path(SAFETENSORS).stem, {}
  for number, part in enumerate(parts, 1):
    name = f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors"
    _save(folder / name, part)
    where |= dict.fromkeys(part, name)
  total = sum(np.asarray(tensor).nbytes for tensor in tensors.values())
  index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
  (folder / f"{SAFETENSORS}.index.json").write_text(json.dumps(index, indent=2) + "\n")


@contextlib.contextmanager
def exporting(folder: str | os.PathLike[str]) -> Iterator[Path]:
  """A folder to write an export into; it becomes `folder`, with sums in every directory, when the block ends well.

  Nothing is left of a block that raises; a kill leaves at most FOLDER.partial-*, and, in the moment between the two
  renames that replace an earlier export, that export as FOLDER.replaced, which the next export puts back first.
  Raises WeightsError, before anything is written, where `folder` is neither absent, nor empty, nor an earlier export.
  """
  target = Path(folder).resolve()
  replaced = target.with_name(f"{target.name}.replaced")
  for path in (target, replaced):
    _refuse_occupied(path)
  if _is_export(replaced) and not target.exists():
    replaced.rename(target)
  target.parent.mkdir(parents=True, exist_ok=True)
  temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
  try:
    yield temporary
    _write_sums(temporary)
    temporary.chmod(0o755)
    _refuse_occupied(target)
    _replace(temporary, target, replaced)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)  # gone under this name unless something above failed


def verify(folder: str | os.PathLike[str], names: Sequence[str] | None = None) -> None:
  """Holds files against SHA256SUMS, where the folder has one: those of `names`, or all that stand in it.

  Raises WeightsError for a file that is missing, does not stand there, or has another SHA-256.
  """
  folder = Path(folder)
  path = folder / SUMS
  if not path.is_file():
    return
  sums = _read_sums(path)
  for name in sums if names is None else names:
    if name not in sums:
      raise WeightsError(f"weights {folder / name}: does not stand in {SUMS}; remove {SUMS} if it is of other files")
    if not (folder / name).is_file():
      raise WeightsError(f"weights {folder / name}: no such file, yet it stands in {SUMS}; copy the folder again")
    if _digest(folder / name) != sums[name]:
      raise WeightsError(f"weights {folder / name}: does not have its SHA-256 of {SUMS}; copy the folder again")


# --- reading --------------------------------------------------------------------------------------------------------


def _weights_file(folder: Path, pytorch_bin: bool) -> str:
  """Name of the file, or of the index, that holds the weights."""
  if not folder.is_dir():
    raise WeightsError(f"weights {folder}: no such directory, want a folder in Hugging Face's layout")
  there = {
    kind: [name for name in (kind, f"{kind}.index.json") if (folder / name).is_file()]
    for kind in (SAFETENSORS, PYTORCH)
  }
  found = there[SAFETENSORS] or (there[PYTORCH] if pytorch_bin else [])
  if len(found) == 1:
    return found[0]
  if found:
    raise WeightsError(f"weights {folder}: has both {' and '.join(found)}, want one; remove what is out of date")
  if there[PYTORCH]:
    advice = "convert it to safetensors, or allow it with pytorch_bin"
    raise WeightsError(f"weights {folder}: has only {there[PYTORCH][0]}, a pickle, want {SAFETENSORS}; {advice}")
  have = listed(sorted(path.name for path in folder.iterdir())) or "nothing"
  raise WeightsError(f"weights {folder}: has {have}, want {SAFETENSORS} or {SAFETENSORS}.index.json")


def _read_parts(index: Path, load: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The tensors of all parts; the index and the parts must agree on which file holds which."""
  where = read_object(index).get("weight_map")
  if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
    raise WeightsError(f"weights {index}: has no weight_map from tensors to files; download it again")
  parts = sorted(set(where.values()))
  outside = [name for name in parts if Path(name).name != name]
  if outside:
    raise WeightsError(f"weights {index}: names files outside its folder: {listed(outside)}; do not use it")
  verify(index.parent, parts)
  tensors: dict[str, np.ndarray] = {}
  for name in parts:
    path = index.parent / name
    part, want = load(path), {tensor for tensor, file in where.items() if file == name}
    problems = [f"missing {tensor}" for tensor in sorted(want - part.keys())]
    problems += [f"extra {tensor}" for tensor in sorted(part.keys() - want)]
    if problems:
      raise WeightsError(f"weights {path}: {listed(problems)}, want what {index.name} says; download all files again")
    tensors |= part
  return tensors


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
  try:
    with safe_open(path, framework="np") as file:
      dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, not a dict
      unknown = [f"{name} {dtype}" for name, dtype in dtypes.items() if dtype not in DTYPES]
      if unknown:
        raise WeightsError(f"weights {path}: {listed(unknown)}: want dtypes {', '.join(sorted(DTYPES))}; convert them")
      return {name: file.get_tensor(name) for name in dtypes}
  except (OSError, SafetensorError) as error:
    raise WeightsError(f"weights {path}: cannot be read ({error}); download it again") from error


def _load_pytorch(path: Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise WeightsError(f"weights {path}: is PyTorch's, which is not installed; pip install -e '.[parity]'") from error
  try:
    state = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # unpickling damaged or hostile bytes raises errors of many kinds
    reason = str(error).split("\n")[0]
    raise WeightsError(f"weights {path}: cannot be read as weights alone ({reason}); want {SAFETENSORS}") from error
  if isinstance(state, dict) and isinstance(state.get("module"), dict):  # DeepSpeed's files nest the weights
    state = state["module"]
  if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
    raise WeightsError(f"weights {path}: holds more than tensors by name, want a state dict; save it as {SAFETENSORS}")
  try:
    return {name: _from_torch(torch, tensor) for name, tensor in state.items()}
  except TypeError as error:
    raise WeightsError(f"weights {path}: {error}; convert it to {SAFETENSORS}") from error


def _from_torch(torch: Any, tensor: Any) -> np.ndarray:
  tensor = tensor.detach().contiguous()
  if tensor.dtype == torch.bfloat16:  # NumPy has no such dtype of its own
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return tensor.numpy()


def read_object(path: Path) -> dict[str, Any]:
  """The object in a JSON file; WeightsError where there is none."""
  try:
    value = json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise WeightsError(f"weights {path}: cannot be read ({reason}), want a JSON object; download it again") from error
  if not isinstance(value, dict):
    raise WeightsError(f"weights {path}: got a {type(value).__name__}, want a JSON object; download it again")
  return value


# --- writing --------------------------------------------------------------------------------------------------------


def _parts(tensors: Mapping[str, np.ndarray], part_bytes: int) -> list[dict[str, np.ndarray]]:
  parts: list[dict[str, np.ndarray]] = [{}]
  room = part_bytes
  for name, tensor in sorted(tensors.items()):
    # safetensors writes the memory behind an array as it lies there, whatever its strides
    array = np.asarray(tensor, order="C")
    if array.nbytes > room and parts[-1]:
      parts.append({})
      room = part_bytes
    parts[-1][name] = array
    room -= array.nbytes
  return parts


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
  try:
    save_file(tensors, path, metadata={"format": "pt"})  # without it transformers refuses the file
    path.chmod(0o666 & ~_umask())  # as of any other file; safetensors leaves it to the owner alone
  except SafetensorError as error:
    dtypes = listed(sorted({str(tensor.dtype) for tensor in tensors.values()}))
    raise WeightsError(f"weights {path}: cannot be written from dtypes {dtypes}: {error}") from error


def _umask() -> int:
  """The process's mask of permissions, which can be asked only by setting it."""
  mask = os.umask(0)
  os.umask(mask)
  return mask


def _replace(temporary: Path, target: Path, replaced: Path) -> None:
  """Renames `temporary` to `target`; an export that stands there is deleted once the new one does."""
  if _is_export(replaced):
    shutil.rmtree(replaced)
  if _is_export(target):
    target.rename(replaced)
  try:
    temporary.rename(target)
  except OSError:
    if replaced.exists():
      replaced.rename(target)
    raise
  _flush(target.parent)
  shutil.rmtree(replaced, ignore_errors=True)


def _refuse_occupied(target: Path) -> None:
  if not target.exists() or target.is_dir() and not any(target.iterdir()) or _is_export(target):
    return
  raise WeightsError(f"export {target}: is there and not an earlier export alone; want a new or empty folder")


def _is_export(folder: Path) -> bool:
  """Whether every file under `folder` stands in the sums beside it, so that nobody else's is lost with it."""
  if not folder.is_dir():
    return False
  files = [path for path in folder.rglob("*") if not path.is_dir()]
  sums = {path.parent: _read_sums(path) for path in files if path.name == SUMS}
  return bool(files) and all(path.name == SUMS or path.name in sums.get(path.parent, ()) for path in files)


def _write_sums(folder: Path) -> None:
  """Writes SHA256SUMS beside the files of every directory, and flushes all to the disk."""
  for directory, _, names in os.walk(folder):
    if names:
      lines = [f"{_digest(Path(directory, name), flush=True)}  {name}\n" for name in sorted(names)]
      Path(directory, SUMS).write_text("".join(lines))
      _flush(Path(directory, SUMS))
    _flush(Path(directory))


def _flush(path: Path) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


# --- sums -----------------------------------------------------------------------------------------------------------


def _read_sums(path: Path) -> dict[str, str]:
  """{name: SHA-256} of a file in the format of sha256sum."""
  sums = {}
  for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
    match = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)
    if not match:
      raise WeightsError(f"weights {path}:{number}: is not a line of sha256sum; copy the folder again or remove {SUMS}")
    sums[match[2]] = match[1]
  return sums


def _digest(path: Path, flush: bool = False) -> str:
  with path.open("rb") as file:
    if flush:
      os.fsync(file.fileno())
    return hashlib.file_digest(file, "sha256").hexdigest()
