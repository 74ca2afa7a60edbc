"""Every model against transformers, both ways, in float32 without dropout: outputs to 1e-5, gradients to 1e-4.

Ours is exported and loaded there; theirs, with random weights, is saved and loaded here.
"""

import json

import jax
import numpy as np
import pytest

from models.paths import named_leaves
from models.published import files, weights
from tests.parity_models import (
  CASES,
  PAIRS,
  Case,
  errors,
  example,
  from_pretrained,
  in_our_layout,
  ours,
  random_params,
  relative_errors,
  said,
  table_of,
  their_random,
  theirs,
)

pytestmark = pytest.mark.parity

OUTPUTS, GRADIENTS = 1e-5, 1e-4


@pytest.fixture(autouse=True, scope="module")
def peers():
  pytest.importorskip("torch")
  pytest.importorskip("transformers")


def above(found, tolerance):
  return {name: error for name, error in found.items() if not error < tolerance}


def compare(case, params, model):
  """Outputs and gradients of ours with `params` against those of transformers' model."""
  given = example(case)
  outputs, gradients = ours(case, params, given)
  their_outputs, their_gradients = theirs(model, given)
  assert above(errors(outputs, their_outputs), OUTPUTS) == {}
  wanted = in_our_layout(their_gradients, table_of(case), case.model)
  assert above(relative_errors(named_leaves(gradients), wanted), GRADIENTS) == {}
  # the scalar reaches every parameter, or agreement would say nothing of it
  assert [path for path, x in wanted.items() if not np.abs(x).max() > 0] == []


@pytest.mark.parametrize("name", CASES)
def test_exports_compute_the_same_in_transformers(name, tmp_path):
  """And what transformers writes again means the same model, parameters and config.json alike."""
  case, params = CASES[name], random_params(CASES[name].model)
  weights.save(tmp_path / "export", case.family, case.model, params, case.special)
  model = from_pretrained(tmp_path / "export")
  compare(case, params, model)
  model.save_pretrained(tmp_path / "again")
  assert weights.load(tmp_path / "again").model == case.model
  written, again = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("export", "again"))
  known = written.keys() - {"torch_dtype"}  # which transformers now calls dtype
  assert {key: again[key] for key in known} == {key: written[key] for key in known}


@pytest.mark.parametrize("name", ["bert", "albert_groups", "electra_discriminator"])
def test_transformers_other_attention_computes_the_same(name, tmp_path):
  case, params = CASES[name], random_params(CASES[name].model)
  weights.save(tmp_path / "export", case.family, case.model, params, case.special)
  compare(case, params, from_pretrained(tmp_path / "export", attention="sdpa"))


@pytest.mark.parametrize("name", [name for name in CASES if "_shared_" not in name])
def test_models_of_transformers_compute_the_same_here(name, tmp_path):
  """Saved by transformers, loaded here; saved again, transformers has the same weights bit for bit."""
  case, model = CASES[name], their_random(CASES[name])
  model.save_pretrained(tmp_path / "theirs")
  found = weights.load(tmp_path / "theirs")
  loaded = Case(case.family, found.model)
  outputs, _ = ours(loaded, found.params, example(case))
  assert above(errors(outputs, theirs(model, example(case))[0]), OUTPUTS) == {}
  weights.save(tmp_path / "ours", case.family, found.model, found.params, case.special)
  again = from_pretrained(tmp_path / "ours")
  assert type(again) is type(model)
  state, wanted = again.state_dict(), model.state_dict()
  assert state.keys() == wanted.keys()
  assert [key for key in wanted if state[key].numpy().tobytes() != wanted[key].numpy().tobytes()] == []


@pytest.mark.parametrize("name", ["electra", "electra_tied", "electra_untied", "electra_narrow"])
def test_both_networks_of_an_electra_compute_the_same_in_transformers(name, tmp_path):
  case, params = PAIRS[name], random_params(PAIRS[name].model)
  weights.save(tmp_path / "export", "electra", case.model, params, case.special)
  given = example(case)
  own = jax.device_get(said(case.model, params, given))
  for folder, kind, outputs in (
    ("discriminator", "ElectraForPreTraining", ("hidden", "replaced")),
    ("generator", "ElectraForMaskedLM", ("words",)),
  ):
    model = from_pretrained(tmp_path / "export" / folder)
    assert type(model).__name__ == kind
    found, _ = theirs(model, given)
    assert above({key: np.abs(own[key] - found[key]).max() for key in outputs}, OUTPUTS) == {}


def test_parts_that_transformers_saved_with_an_index_are_read(tmp_path):
  model = their_random(CASES["bert"])
  model.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
  model.save_pretrained(tmp_path / "whole")
  assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
  whole, parts = (named_leaves(weights.load(tmp_path / name).params) for name in ("whole", "parts"))
  assert {path: x.tobytes() for path, x in parts.items()} == {path: x.tobytes() for path, x in whole.items()}


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_models_of_transformers_are_widened(kind, tmp_path):
  import torch

  case = CASES["albert"]
  model = their_random(case).to(getattr(torch, kind))
  model.save_pretrained(tmp_path)
  assert {str(x.dtype) for x in files.read_tensors(tmp_path).values()} == {kind}
  found = weights.load(tmp_path)
  assert found.notes == (f"{len(files.read_tensors(tmp_path))} {kind} tensors widened to float32",)
  outputs, _ = ours(Case("albert", found.model), found.params, example(case))
  assert above(errors(outputs, theirs(model.float(), example(case))[0]), OUTPUTS) == {}


def test_pytorch_files_are_read_when_they_are_allowed(tmp_path):
  import torch

  model = their_random(CASES["electra_discriminator"])
  model.save_pretrained(tmp_path / "safe")
  (tmp_path / "pickle").mkdir()
  (tmp_path / "pickle" / "config.json").write_bytes((tmp_path / "safe" / "config.json").read_bytes())
  torch.save(model.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
  safe, pickle = (weights.load(tmp_path / name, pytorch_bin=True) for name in ("safe", "pickle"))
  assert pickle.model == safe.model
  a, b = named_leaves(safe.params), named_leaves(pickle.params)
  assert {path: x.tobytes() for path, x in a.items()} == {path: x.tobytes() for path, x in b.items()}
