"""Files of PyTorch and of transformers: read on demand and without running code, and read by transformers."""

import json
import os
import pickle
import sys

import ml_dtypes
import pytest

from models.published.errors import WeightsError
from models.published.files import exporting, read_config, read_tensors, write_config, write_tensors
from tests.test_published_files import assert_same, tensors


def test_pickles_are_read_only_on_demand(tmp_path):
  (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
  with pytest.raises(WeightsError, match=r"has only pytorch_model.bin, a pickle, want model.saf.*pytorch_bin"):
    read_tensors(tmp_path)


def test_without_pytorch_the_error_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "pytorch_model.bin").touch()
  with pytest.raises(WeightsError, match=r"pytorch_model.bin: .*not installed; pip install -e '.\[parity\]'"):
    read_tensors(tmp_path, pytorch_bin=True)


def test_safetensors_are_taken_before_pickles(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  write_tensors(tmp_path, tensors())
  (tmp_path / "pytorch_model.bin").touch()
  assert_same(read_tensors(tmp_path, pytorch_bin=True), tensors())


@pytest.mark.parity
def test_pytorch_files_give_what_was_saved_and_run_no_code(tmp_path):
  import torch

  state = {
    "w": torch.randn(4, 3).T,
    "narrow": torch.randn(5).bfloat16(),
    "half": torch.randn(2, 2).half().requires_grad_(),
    "ids": torch.arange(3),
  }
  state["tied"] = state["w"]
  torch.save(state, tmp_path / "pytorch_model.bin")
  want = {
    name: tensor.detach().float().numpy().astype(ml_dtypes.bfloat16) if name == "narrow" else tensor.detach().numpy()
    for name, tensor in state.items()
  }
  assert_same(read_tensors(tmp_path, pytorch_bin=True), want)

  (tmp_path / "parts").mkdir()
  for number, names in enumerate((["w", "tied"], ["narrow", "half", "ids"])):
    torch.save({name: state[name] for name in names}, tmp_path / "parts" / f"part{number}.bin")
  index = {"weight_map": {name: f"part{int(name in ('narrow', 'half', 'ids'))}.bin" for name in state}}
  (tmp_path / "parts" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
  assert_same(read_tensors(tmp_path / "parts", pytorch_bin=True), want)

  class Hostile:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "executed"),)

  for content, reason in (({"w": Hostile()}, "cannot be read as weights alone"), ({"epoch": 3}, "holds more than")):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=reason):
      read_tensors(tmp_path, pytorch_bin=True)
  assert not (tmp_path / "executed").exists()


@pytest.mark.parity
@pytest.mark.parametrize("part_bytes", [10**9, 3000])
def test_transformers_loads_what_is_written_and_we_read_what_it_saves(tmp_path, part_bytes):
  import transformers

  sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
  theirs = transformers.BertModel(transformers.BertConfig(vocab_size=31, max_position_embeddings=16, **sizes))
  theirs.save_pretrained(tmp_path / "saved", max_shard_size=part_bytes)
  got = read_tensors(tmp_path / "saved")
  assert_same(got, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
  with exporting(tmp_path / "export") as partial:
    write_config(partial, read_config(tmp_path / "saved"))
    write_tensors(partial, got, part_bytes)
  loaded, about = transformers.BertModel.from_pretrained(tmp_path / "export", output_loading_info=True)
  assert not any(about.values()), about
  assert_same({name: tensor.numpy() for name, tensor in loaded.state_dict().items()}, got)
