"""TensorFlow checkpoints (V2, the "tensor bundle") without TensorFlow.

`PREFIX.index` is a LevelDB table from variable names to protocol buffers (dtype, shape, shard, offset, size, CRC32C);
`PREFIX.data-0000i-of-0000n` hold the values back to back, little-endian. Formats: tensorflow/core/protobuf/
tensor_bundle.proto, and doc/table_format.md of LevelDB. Checksums of every block and tensor that is read are verified.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from models.published.errors import WeightsError, listed

# tensorflow/core/framework/types.proto
DTYPES = {1: np.dtype(np.float32), 3: np.dtype(np.int32), 9: np.dtype(np.int64), 14: np.dtype(ml_dtypes.bfloat16),
          19: np.dtype(np.float16)}  # fmt: skip
MAGIC = 0xDB4775248B80FB57
FOOTER, TRAILER = 48, 5  # bytes: two padded block handles and the magic number; compression type and checksum


@dataclasses.dataclass(frozen=True)
class Variable:
  """Where one variable's values are: bytes [offset, offset + size) of data file `shard`."""

  dtype: np.dtype
  shape: tuple[int, ...]
  shard: int
  offset: int
  size: int
  checksum: int  # masked CRC32C


def variables(prefix: str | os.PathLike[str], skip: Sequence[str] = ()) -> dict[str, Variable]:
  """The variables of a checkpoint by name, without their values; arguments and errors as in `read`."""
  return _index(Path(f"{os.fspath(prefix)}.index"), skip)[1]


def read(prefix: str | os.PathLike[str], skip: Sequence[str] = ()) -> dict[str, np.ndarray]:
  """{name: array} of a checkpoint, in name order and in the stored dtypes.

  Args:
    prefix: path without `.index` and `.data-...`, as TensorFlow takes it.
    skip: regular expressions of names to leave out unread, such as an optimiser's slots.
  Returns:
    Read-only arrays that map the files.
  Raises:
    WeightsError: files are missing, damaged or of another format, or a variable is partitioned or of a dtype other
      than float32, float16, bfloat16, int32 and int64.
  """
  prefix = os.fspath(prefix)
  shards, found = _index(Path(f"{prefix}.index"), skip)
  files: dict[int, np.ndarray] = {}
  arrays = {}
  for name, variable in found.items():
    path = Path(f"{prefix}.data-{variable.shard:05d}-of-{shards:05d}")
    if variable.shard not in files:
      files[variable.shard] = _mapped(path)
    data = files[variable.shard]
    want = math.prod(variable.shape) * variable.dtype.itemsize
    values = data[variable.offset : variable.offset + variable.size]
    if variable.size != want or len(values) != want:
      raise WeightsError(f"checkpoint {path}: {name} has {len(values)} bytes, want {want}; copy the checkpoint again")
    if masked(crc32c(values)) != variable.checksum:
      raise WeightsError(f"checkpoint {path}: {name} does not have the checksum of its index; copy it again")
    arrays[name] = np.asarray(values).view(variable.dtype).reshape(variable.shape)
  return arrays


def _index(path: Path, skip: Sequence[str]) -> tuple[int, dict[str, Variable]]:
  """Number of data files, and the variables by name."""
  data = _mapped(path).tobytes()
  try:
    entries = {key: _message(value) for key, value in _entries(data)}
  except (_Damaged, IndexError) as error:
    reason = error if isinstance(error, _Damaged) else "breaks off"
    raise WeightsError(f"checkpoint {path}: {reason}; want the whole index of a V2 checkpoint") from error
  header = entries.pop(b"", {})
  if not _last(header, 1, 0) or _last(header, 2, 0):
    got = "a big-endian checkpoint" if _last(header, 2, 0) else "no number of data files"
    raise WeightsError(f"checkpoint {path}: got {got}, want a little-endian V2 checkpoint; save it again")
  found = {}
  for key, fields in entries.items():
    name = key.decode(errors="backslashreplace")
    # keys that start with a zero byte are slices; the variable they belong to says that it has some
    if not key.startswith(b"\0") and not any(re.search(pattern, name) for pattern in skip):
      found[name] = _variable(f"checkpoint {path}: {name}", fields)
  return _last(header, 1, 0), found


def _variable(where: str, fields: dict[int, list[Any]]) -> Variable:
  """BundleEntryProto: dtype 1, shape 2, shard_id 3, offset 4, size 5, crc32c 6, slices 7."""
  if 7 in fields:
    raise WeightsError(f"{where} is partitioned into slices, which are not read; save it as one variable")
  number = _last(fields, 1, 0)
  if number not in DTYPES:
    known = ", ".join(f"{n} ({dtype})" for n, dtype in DTYPES.items())
    raise WeightsError(f"{where} has dtype number {number}, want one of {known}; leave it out with `skip`")
  shape = _message(_last(fields, 2, b""))
  if _last(shape, 3, 0):
    raise WeightsError(f"{where} has no known shape; leave it out with `skip`")
  dimensions = tuple(_last(_message(dimension), 1, 0) for dimension in shape.get(2, ()))
  return Variable(DTYPES[number], dimensions, *(_last(fields, n, 0) for n in (3, 4, 5, 6)))


# --- table ----------------------------------------------------------------------------------------------------------


class _Damaged(ValueError):
  """What is wrong with an index, without the place."""


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Keys and values of a LevelDB table, in key order."""
  if len(data) < FOOTER or int.from_bytes(data[-8:], "little") != MAGIC:
    raise _Damaged("does not end like a table")
  at = len(data) - FOOTER
  meta, at = _handle(data, at)
  index, _ = _handle(data, at)
  for _ in _block(data, *meta):
    raise _Damaged("has a meta index that is not empty")
  for _, handle in _block(data, *index):
    yield from _block(data, *_handle(handle, 0)[0])


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
  """(offset, size) of a block, and the next position."""
  offset, at = _varint(data, at)
  size, at = _varint(data, at)
  return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
  """Entries of one block: prefix-compressed keys, then the restart points, which a scan does not need."""
  block, trailer = data[offset : offset + size], data[offset + size : offset + size + TRAILER]
  if len(block) != size or len(trailer) != TRAILER or size < 4:
    raise _Damaged(f"block at byte {offset} passes the end")
  if masked(crc32c(block + trailer[:1])) != int.from_bytes(trailer[1:], "little"):
    raise _Damaged(f"block at byte {offset} does not have its checksum")
  if trailer[0]:
    raise _Damaged(f"block at byte {offset} is compressed (type {trailer[0]}), which is not read")
  end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
  at, key = 0, b""
  while at < end:
    shared, at = _varint(block, at)
    own, at = _varint(block, at)
    length, at = _varint(block, at)
    key = key[:shared] + block[at : at + own]
    at += own + length
    yield key, block[at - length : at]


# --- protocol buffers -----------------------------------------------------------------------------------------------


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """Value and next position of a base-128 number."""
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 0x7F) << shift
    at, shift = at + 1, shift + 7
    if byte < 0x80:
      return value, at


def _message(data: bytes) -> dict[int, list[Any]]:
  """Fields of a message by number: ints for varint and fixed fields, bytes for the others."""
  fields: dict[int, list[Any]] = {}
  at = 0
  while at < len(data):
    tag, at = _varint(data, at)
    number, kind = tag >> 3, tag & 7
    if kind == 0:
      value, at = _varint(data, at)
    elif kind == 2:
      length, at = _varint(data, at)
      value, at = data[at : at + length], at + length
    elif kind in (1, 5):
      width = 8 if kind == 1 else 4
      value, at = int.from_bytes(data[at : at + width], "little"), at + width
    else:
      raise _Damaged(f"field {number} has wire type {kind}")
    if at > len(data):
      raise _Damaged(f"field {number} passes the end of its message")
    fields.setdefault(number, []).append(value)
  return fields


def _last(fields: dict[int, list[Any]], number: int, default: Any) -> Any:
  """A field's value; protocol buffers do not store fields that have the default."""
  return fields[number][-1] if number in fields else default


def _mapped(path: Path) -> np.ndarray:
  """The bytes of a file, mapped read-only."""
  if not path.is_file():
    there = sorted(p.name for p in path.parent.glob("*.index")) if path.parent.is_dir() else []
    hint = f"; indexes there: {listed(there)}" if there else ""
    raise WeightsError(f"checkpoint {path}: no such file, want all files of a V2 checkpoint{hint}")
  return np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)


# --- CRC32C ---------------------------------------------------------------------------------------------------------

POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reflected
LANES = 4096


def crc32c(data: Any) -> int:
  """CRC32C of bytes or a uint8 array.

  Long data is cut into LANES pieces whose checksums advance together, four bytes at a time; the pieces are then joined
  by appending zeros, which is linear over GF(2).
  """
  data = np.frombuffer(data, np.uint8)
  register = 0xFFFFFFFF
  words = len(data) // (4 * LANES)
  if words:
    body = data[: 4 * LANES * words].view("<u4").reshape(LANES, words)
    register = _joined(_advanced(register, body), 4 * words)
    data = data[4 * LANES * words :]
  table = _tables()[2]
  for byte in data.tobytes():
    register = (register >> 8) ^ table[(register ^ byte) & 0xFF]
  return register ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
  """LevelDB's and TensorFlow's stored form of a CRC32C."""
  return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _advanced(register: int, body: np.ndarray) -> np.ndarray:
  """Registers [LANES] after rows of words [LANES, n]; the first row starts from `register`, the others from zero."""
  low, high, _ = _tables()
  registers = np.zeros(LANES, np.uint32)
  registers[0] = register
  for column in range(body.shape[1]):
    registers ^= body[:, column]
    registers = low[registers & 0xFFFF] ^ high[registers >> 16]
  return registers


def _joined(registers: np.ndarray, length: int) -> int:
  """The register after pieces of `length` bytes each, from the registers of the single pieces."""
  operator = _zeros(length)
  while len(registers) > 1:
    registers = _applied(operator, registers[0::2]) ^ registers[1::2]
    operator = _applied(operator, operator)
  return int(registers[0])


def _zeros(length: int) -> np.ndarray:
  """The map of a register over `length` zero bytes: a 32 x 32 matrix over GF(2), one uint32 for each unit vector."""
  units = np.uint32(1) << np.arange(32, dtype=np.uint32)
  power = (units >> 8) ^ np.asarray(_tables()[2], np.uint32)[units & 0xFF]
  result = units
  while length:
    if length & 1:
      result = _applied(power, result)
    power, length = _applied(power, power), length >> 1
  return result


def _applied(operator: np.ndarray, registers: np.ndarray) -> np.ndarray:
  """The matrix times each register."""
  result = np.zeros_like(registers)
  for bit in range(32):
    result ^= np.where(registers >> np.uint32(bit) & 1, operator[bit], np.uint32(0))
  return result


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, list[int]]:
  """Remainders of the low and the high half of a word, uint32 [65536] each, and of a byte, 256 ints."""
  remainders = np.arange(65536, dtype=np.uint32)
  steps = {}
  for bit in range(1, 33):
    remainders = (remainders >> 1) ^ np.where(remainders & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    steps[bit] = remainders
  return steps[32], steps[16], steps[8][:256].tolist()
