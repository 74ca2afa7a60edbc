"""Folders of published weights: dtypes, parts, sums, exports that are whole or absent, and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from models.published.errors import WeightsError
from models.published.files import exporting, read_config, read_tensors, verify, write_config, write_tensors

CONFIG = {"model_type": "bert", "hidden_size": 4, "layer_norm_eps": 1e-12, "architectures": ["BertModel"]}


def tensors():
  """Every dtype that weights come in, arrays whose memory is not in C order, a scalar, an empty array."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return {
    "encoder.layer.0.weight": draw(6, 4),
    "encoder.layer.0.turned": draw(5, 3).T,
    "encoder.layer.0.strided": draw(8, 3)[::2],
    "encoder.layer.10.weight": draw(6, 4).astype(ml_dtypes.bfloat16),
    "encoder.layer.2.weight": draw(6, 4).astype(np.float16),
    "position_ids": np.arange(7)[None],
    "scale": np.array(2.5, np.float32),
    "nothing": np.zeros((0, 3), np.float32),
  }


def export(folder, config=CONFIG, part_bytes=10**9, **others):
  with exporting(folder) as partial:
    write_config(partial, config)
    write_tensors(partial, tensors(), part_bytes)
    for name, text in others.items():
      (partial / f"{name}.txt").write_text(text)


def assert_same(got, want):
  assert got.keys() == want.keys()
  for name, array in want.items():
    assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
    assert got[name].tobytes() == array.tobytes(), name


def files(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part_bytes", [10**9, 200, 1])
def test_what_is_read_is_what_was_written(tmp_path, part_bytes):
  export(tmp_path / "model", part_bytes=part_bytes)
  got = read_tensors(tmp_path / "model")
  assert_same(got, tensors())
  assert list(got) == sorted(got)
  assert read_config(tmp_path / "model") == CONFIG


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_all_files_may_be_read_by_those_who_may_read_the_others(tmp_path, mask):
  before = os.umask(mask)
  try:
    export(tmp_path / "model", part_bytes=200, note="a")
  finally:
    os.umask(before)
  modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
  assert len(modes) > 4 and set(modes.values()) == {0o666 & ~mask}


def test_one_file_until_it_passes_the_part_size(tmp_path):
  total = sum(array.nbytes for array in tensors().values())
  for size, count in ((total, 1), (total - 1, 2)):
    export(tmp_path / str(size), part_bytes=size)
    names = {path.name for path in (tmp_path / str(size)).glob("model*")}
    parts = {f"model-0000{part + 1}-of-0000{count}.safetensors" for part in range(count)}
    assert names == ({"model.safetensors"} if count == 1 else parts | {"model.safetensors.index.json"})


def test_parts_keep_to_their_size_and_the_index_says_which_holds_what(tmp_path):
  write_tensors(tmp_path, tensors(), 200)
  index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors().values())
  held = {}
  for path in sorted(tmp_path.glob("*.safetensors")):
    with safe_open(path, framework="np") as part:
      names = list(part.keys())
      assert part.metadata() == {"format": "pt"}
      assert sum(tensors()[name].nbytes for name in names) <= 200
      held |= dict.fromkeys(names, path.name)
  assert index["weight_map"] == held and len(set(held.values())) > 2


def test_the_same_tensors_give_the_same_bytes(tmp_path):
  export(tmp_path / "a", part_bytes=200)
  with exporting(tmp_path / "b") as partial:
    write_tensors(partial, dict(reversed(tensors().items())), 200)
    write_config(partial, dict(reversed(CONFIG.items())))
  assert files(tmp_path / "a") == files(tmp_path / "b")


def test_dtypes_that_numpy_lacks_are_refused_by_name(tmp_path):
  save_file({"a": np.zeros(2, np.float32), "w": np.zeros(3, ml_dtypes.float8_e4m3fn)}, tmp_path / "model.safetensors")
  with pytest.raises(WeightsError, match=r"model.safetensors: w F8_E4M3: want dtypes BF16, BOOL, F16, F32"):
    read_tensors(tmp_path)
  with pytest.raises(WeightsError, match=r"model.safetensors: cannot be written from dtypes complex128"):
    write_tensors(tmp_path, {"w": np.zeros(3, np.complex128)})


# --- damage ---------------------------------------------------------------------------------------------------------


def test_sums_are_in_the_format_of_sha256sum(tmp_path):
  export(tmp_path / "model", part_bytes=200, vocab="[PAD]\n")
  sums = (tmp_path / "model" / "SHA256SUMS").read_text().splitlines()
  want = files(tmp_path / "model")
  del want["SHA256SUMS"]
  assert sums == [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in sorted(want.items())]
  if shutil.which("sha256sum"):
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "model", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == len(want), done.stderr


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00003.safetensors", "model.safetensors.index.json"])
def test_a_flipped_byte_a_missing_file_and_an_unlisted_file_are_refused(tmp_path, name):
  export(tmp_path / "model", part_bytes=200)
  path, sums = tmp_path / "model" / name, tmp_path / "model" / "SHA256SUMS"
  read = read_config if name == "config.json" else read_tensors
  whole, lines = path.read_bytes(), sums.read_text()
  path.write_bytes(bytes([*whole[:-2], whole[-2] ^ 1, whole[-1]]))
  with pytest.raises(WeightsError, match=f"{name}: does not have its SHA-256 of SHA256SUMS"):
    read(path.parent)
  with pytest.raises(WeightsError, match=f"{name}: does not have its SHA-256"):
    verify(path.parent)
  path.write_bytes(whole)
  sums.write_text("".join(line for line in lines.splitlines(True) if not line.endswith(f"  {name}\n")))
  with pytest.raises(WeightsError, match=f"{name}: does not stand in SHA256SUMS"):
    read(path.parent)
  sums.write_text(lines)
  verify(path.parent)
  path.unlink()
  with pytest.raises(WeightsError, match=f"{name}: no such file, yet it stands in SHA256SUMS"):
    verify(path.parent)


def test_sums_written_by_sha256sum_itself_are_understood_and_others_refused(tmp_path):
  export(tmp_path / "model")
  sums = tmp_path / "model" / "SHA256SUMS"
  digest = hashlib.sha256((tmp_path / "model" / "config.json").read_bytes()).hexdigest()
  sums.write_text(f"{digest} *./config.json\n")
  assert read_config(tmp_path / "model") == CONFIG
  sums.write_text(f"{digest}  config.json\nMD5 (config.json) = 0\n")
  with pytest.raises(WeightsError, match=r"SHA256SUMS:2: is not a line of sha256sum"):
    read_config(tmp_path / "model")


def test_without_sums_the_files_themselves_are_checked(tmp_path):
  write_tensors(tmp_path, tensors(), 200)
  second = tmp_path / "model-00002-of-00003.safetensors"
  whole = second.read_bytes()
  second.write_bytes(whole[:-1])
  with pytest.raises(WeightsError, match=r"00002-of-00003.safetensors: cannot be read \(.*\); download it again"):
    read_tensors(tmp_path)
  second.unlink()
  with pytest.raises(WeightsError, match=r"00002-of-00003.safetensors: cannot be read \(No such file"):
    read_tensors(tmp_path)
  save_file({"stranger": np.zeros(1, np.float32)}, second)
  with pytest.raises(WeightsError, match=r"00002-of.*: missing encoder.layer.0.weight.*, extra stranger, want what"):
    read_tensors(tmp_path)


def test_an_index_cannot_name_files_outside_its_folder(tmp_path):
  (tmp_path / "model").mkdir()
  write_tensors(tmp_path, {"w": np.zeros(2, np.float32)})
  index = {"weight_map": {"w": "../model.safetensors"}}
  (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(WeightsError, match="names files outside its folder: ../model.safetensors"):
    read_tensors(tmp_path / "model")


@pytest.mark.parametrize(
  ("text", "reason"), [("{", "cannot be read"), ("[1]", "got a list, want a JSON object"), (None, "No such file")]
)
def test_a_config_that_is_no_object_is_refused(tmp_path, text, reason):
  if text is not None:
    (tmp_path / "config.json").write_text(text)
  with pytest.raises(WeightsError, match=rf"config.json: .*{reason}"):
    read_config(tmp_path)


def test_folders_without_weights_say_what_they_have(tmp_path):
  with pytest.raises(WeightsError, match="nowhere: no such directory"):
    read_tensors(tmp_path / "nowhere")
  with pytest.raises(WeightsError, match=r"has nothing, want model.safetensors or model.safetensors.index.json"):
    read_tensors(tmp_path)
  (tmp_path / "tf_model.h5").touch()
  with pytest.raises(WeightsError, match=r"has tf_model.h5, want model.safetensors"):
    read_tensors(tmp_path)


def test_two_sets_of_weights_are_ambiguous(tmp_path):
  write_tensors(tmp_path, tensors(), 200)
  write_tensors(tmp_path, tensors())
  with pytest.raises(WeightsError, match=r"has both model.safetensors and model.safetensors.index.json, want one"):
    read_tensors(tmp_path)


# --- exports --------------------------------------------------------------------------------------------------------


def test_an_export_that_fails_leaves_what_was_there(tmp_path):
  export(tmp_path / "model")
  before = files(tmp_path)
  with pytest.raises(KeyError), exporting(tmp_path / "model") as partial:
    write_config(partial, {})
    assert {f"model/{name}" for name in files(tmp_path / "model")} == before.keys()
    raise KeyError("tokenizer")
  assert files(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_are_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
  flushed, renamed = set(), []
  fsync, rename = os.fsync, os.rename

  def note_flush(descriptor):
    flushed.add(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
    fsync(descriptor)

  def note_rename(source, target, **others):
    renamed.append((set(flushed), os.path.basename(target)))
    rename(source, target, **others)

  monkeypatch.setattr(os, "fsync", note_flush)
  monkeypatch.setattr(os, "rename", note_rename)
  export(tmp_path / "model")
  (before, target) = renamed[-1]
  assert target == "model" and before >= {"config.json", "model.safetensors", "SHA256SUMS"}
  assert any(name.startswith("model.partial-") for name in before), "the directory itself"


def test_only_an_earlier_export_is_replaced(tmp_path):
  export(tmp_path / "model", vocab="old", other="old")
  export(tmp_path / "model", {"hidden_size": 5})
  assert read_config(tmp_path / "model") == {"hidden_size": 5}
  assert files(tmp_path / "model").keys() == {"SHA256SUMS", "config.json", "model.safetensors"}
  (tmp_path / "model" / "notes.txt").write_text("mine")
  before = files(tmp_path)
  with pytest.raises(WeightsError, match="model: is there and not an earlier export alone; want a new or empty folder"):
    export(tmp_path / "model")
  assert files(tmp_path) == before


@pytest.mark.parametrize("occupied", ["file", "folder"])
def test_nothing_of_anybody_else_is_replaced(tmp_path, occupied):
  target = tmp_path / "target"
  if occupied == "file":
    target.write_text("mine")
  else:
    target.mkdir()
    write_config(target, CONFIG)  # an export has sums
  before = files(tmp_path)
  with pytest.raises(WeightsError, match="target: is there and not an earlier export alone"):
    export(target)
  assert files(tmp_path) == before


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
  (tmp_path / "empty").mkdir()
  for target in (tmp_path / "empty", tmp_path / "new" / "folder"):
    export(target)
    assert_same(read_tensors(target), tensors())
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
  export(tmp_path / "model", vocab="old")
  (tmp_path / "model").rename(tmp_path / "model.replaced")
  before = files(tmp_path / "model.replaced")
  with pytest.raises(KeyError), exporting(tmp_path / "model"):
    raise KeyError("killed again")
  assert files(tmp_path / "model") == before
  shutil.copytree(tmp_path / "model", tmp_path / "model.replaced")
  export(tmp_path / "model")
  assert [path.name for path in tmp_path.iterdir()] == ["model"] and "vocab.txt" not in files(tmp_path / "model")


def test_a_rename_that_fails_puts_the_earlier_export_back(tmp_path, monkeypatch):
  export(tmp_path / "model", vocab="old")
  before, rename = files(tmp_path), os.rename

  def fail(source, target, **others):
    if ".partial-" in str(source):
      raise OSError("disk")
    rename(source, target, **others)

  monkeypatch.setattr(os, "rename", fail)
  with pytest.raises(OSError, match="disk"):
    export(tmp_path / "model")
  assert files(tmp_path) == before


def test_exports_of_several_models_have_sums_in_every_folder(tmp_path):
  with exporting(tmp_path / "both") as partial:
    for role in ("generator", "discriminator"):
      (partial / role).mkdir()
      write_config(partial / role, CONFIG | {"role": role})
      write_tensors(partial / role, tensors())
  assert not (tmp_path / "both" / "SHA256SUMS").exists()
  for role in ("generator", "discriminator"):
    verify(tmp_path / "both" / role)
    assert (tmp_path / "both" / role / "SHA256SUMS").exists()
    assert read_config(tmp_path / "both" / role)["role"] == role
  export(tmp_path / "both")  # known for an export as a whole
