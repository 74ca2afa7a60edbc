"""TensorFlow checkpoints without TensorFlow: values that real TensorFlow wrote, kinds of damage, the table format."""

import re
import shutil

import ml_dtypes
import numpy as np
import pytest

from models.published.errors import WeightsError
from models.published.tf_checkpoints import _entries, crc32c, masked, read, variables
from tests.fixtures.write_tf_checkpoint import FOLDER, arrays

ENCODER = FOLDER / "encoder.ckpt"


@pytest.fixture
def copied(tmp_path):
  """Prefix of a copy that may be damaged."""
  shutil.copytree(FOLDER, tmp_path / "copy")
  return tmp_path / "copy" / "encoder.ckpt"


def flip(path, at):
  data = bytearray(path.read_bytes())
  data[at] ^= 0x10
  path.write_bytes(data)


def test_values_and_dtypes_are_those_tensorflow_was_given():
  want = {name: array for part in arrays() for name, array in part.items()}
  got = read(ENCODER)
  assert list(got) == sorted(want)
  for name, array in want.items():
    assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
    assert got[name].tobytes() == array.tobytes(), name
  assert {str(array.dtype) for array in got.values()} == {"float32", "bfloat16", "float16", "int32", "int64"}
  assert got["global_step"] == 1_000_000_007_000 and got["empty"].shape == (0, 3)


def test_variables_are_listed_without_their_values(copied):
  for part in (0, 1):
    copied.with_name(f"encoder.ckpt.data-0000{part}-of-00002").unlink()
  found = variables(copied)
  assert found["bert/embeddings/word_embeddings"].shape == (21, 8)
  assert found["bert/pooler/dense/kernel"].dtype == ml_dtypes.bfloat16
  assert {name: v.shard for name, v in found.items() if v.shard} == dict.fromkeys(arrays()[1], 1)


def test_skipped_variables_are_not_read(copied):
  copied.with_name("encoder.ckpt.data-00001-of-00002").unlink()
  assert read(copied, skip=("^cls/", "pooler")).keys() == arrays()[0].keys()
  with pytest.raises(WeightsError, match=r"data-00001-of-00002: no such file, want all files"):
    read(copied)


def test_arrays_cannot_write_to_the_files():
  assert not read(ENCODER)["bert/pooler/dense/bias"].flags.writeable


def test_every_flipped_byte_is_noticed(copied):
  index, data = copied.with_name("encoder.ckpt.index"), copied.with_name("encoder.ckpt.data-00001-of-00002")
  footer = index.stat().st_size - 48
  for path, places in ((data, range(data.stat().st_size)), (index, range(0, footer, 7))):
    whole = path.read_bytes()
    for at in places:
      flip(path, at)
      with pytest.raises(WeightsError, match=re.escape(path.name) + ".*checksum"):
        read(copied)
      path.write_bytes(whole)


@pytest.mark.parametrize("keep", [0, 20, 500, 880])
def test_an_index_that_breaks_off_is_refused(copied, keep):
  index = copied.with_name("encoder.ckpt.index")
  index.write_bytes(index.read_bytes()[:keep])
  with pytest.raises(WeightsError, match="encoder.ckpt.index: does not end like a table; want the whole index"):
    read(copied)


def test_data_that_breaks_off_is_refused(copied):
  data = copied.with_name("encoder.ckpt.data-00001-of-00002")
  data.write_bytes(data.read_bytes()[:-1])
  with pytest.raises(WeightsError, match=r"data-00001-of-00002: cls/seq_relationship/labels has 11 bytes, want 12"):
    read(copied)


def test_a_missing_index_names_those_that_are_there():
  with pytest.raises(WeightsError, match=r"model.ckpt.index: no such file.*there: encoder.ckpt.index, sliced.ckpt"):
    read(FOLDER / "model.ckpt")


def test_partitioned_variables_are_refused_by_name():
  with pytest.raises(WeightsError, match=r"sliced.ckpt.index: table is partitioned into slices"):
    read(FOLDER / "sliced.ckpt")
  assert read(FOLDER / "sliced.ckpt", skip=("^table$",))["bias"].tolist() == [0, 1, 2]


def test_other_dtypes_are_refused_by_name():
  with pytest.raises(WeightsError, match=r"strings.ckpt.index: graph has dtype number 7, want one of 1 \(float32\)"):
    variables(FOLDER / "strings.ckpt")
  assert list(variables(FOLDER / "strings.ckpt", skip=("^graph$",))) == ["bias"]


# --- the table format -----------------------------------------------------------------------------------------------


def varint(value):
  out = b""
  while value >= 0x80:
    out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
  return out + bytes([value])


def block(entries, restart_every):
  """Entries with shared key prefixes, restart points, and trailer."""
  data, starts, last = b"", [], b""
  for number, (key, value) in enumerate(entries):
    shared = 0
    if number % restart_every == 0:
      starts.append(len(data))
    else:
      while shared < min(len(last), len(key)) and last[shared] == key[shared]:
        shared += 1
    data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
    last = key
  for number in (*starts, len(starts)):
    data += number.to_bytes(4, "little")
  return data


def table(blocks, compression=0):
  """A table of these blocks: data blocks, an empty meta index, the index, the footer."""
  out = b""

  def put(data):
    nonlocal out
    handle = varint(len(out)) + varint(len(data))
    kind = bytes([compression])
    out += data + kind + masked(crc32c(data + kind)).to_bytes(4, "little")
    return handle

  handles = [(entries[-1][0], put(block(entries, 3))) for entries in blocks]
  footer = put(block([], 1)) + put(block(handles, 1))
  return out + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def test_tables_of_many_blocks_give_all_entries_in_order():
  entries = [(f"layer_{n:04d}/kernel".encode(), bytes([n % 256]) * (n % 300)) for n in range(1000)]
  blocks = [entries[i : i + 17] for i in range(0, len(entries), 17)]
  assert list(_entries(table(blocks))) == entries


def test_compressed_blocks_are_refused(tmp_path):
  (tmp_path / "x.index").write_bytes(table([[(b"", b"\x08\x01")]], compression=1))
  with pytest.raises(WeightsError, match=r"x.index: block at byte \d+ is compressed \(type 1\)"):
    read(tmp_path / "x")


@pytest.mark.parametrize(
  ("header", "got"), [(b"\x08\x01\x10\x01", "a big-endian checkpoint"), (b"", "no number of data files")]
)
def test_headers_of_other_checkpoints_are_refused(tmp_path, header, got):
  (tmp_path / "x.index").write_bytes(table([[(b"", header)]]))
  with pytest.raises(WeightsError, match=f"x.index: got {got}, want a little-endian V2 checkpoint"):
    read(tmp_path / "x")


# --- checksums ------------------------------------------------------------------------------------------------------


def bitwise_crc32c(data):
  register = 0xFFFFFFFF
  for byte in data:
    register ^= byte
    for _ in range(8):
      register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
  return register ^ 0xFFFFFFFF


def test_checksums_of_the_standard():
  """RFC 3720, appendix B.4, and the check value of CRC-32C/iSCSI."""
  assert crc32c(b"123456789") == 0xE3069283
  assert crc32c(bytes(32)) == 0x8A9136AA
  assert crc32c(b"\xff" * 32) == 0x62A8AB43
  assert crc32c(bytes(range(32))) == 0x46DD794E
  assert crc32c(b"") == 0


@pytest.mark.parametrize("length", [1, 16383, 16384, 16385, 3 * 16384 + 7])
def test_checksums_equal_the_bitwise_computation(length):
  data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
  assert crc32c(data) == crc32c(data.tobytes()) == bitwise_crc32c(data.tobytes())
