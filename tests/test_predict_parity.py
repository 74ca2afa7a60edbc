"""Commands on mentions against transformers: tokenizer and model of one exported folder, on the same texts."""

import numpy as np
import pytest

from tests.parity_models import from_pretrained
from tests.predict_lukes import SPANS, TEXTS, TITLES, close, command, luke, objects, write_lines

pytestmark = pytest.mark.parity

WITH_SPANS = [1, 2, 3]
PAIRS = ["Taro lives in Tokyo.", "In Tokyo, Taro sat", "Beyoncé met a cat in Los Angeles"]
PAIR_SPANS = [[(0, 4), (14, 19)], [(10, 14), (3, 8)], [(12, 17), (21, 32)]]


@pytest.fixture(scope="module")
def transformers():
  pytest.importorskip("torch")
  return pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path_factory):
  return lambda kind: luke(tmp_path_factory.getbasetemp(), kind)


def theirs(transformers, folder, text, **entities):
  """What the folder's tokenizer and model give for one text."""
  import torch

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
  inputs = tokenizer(text, return_tensors="pt", **entities)
  with torch.no_grad():
    return inputs, from_pretrained(folder)(**inputs)


def test_encode_and_fill_give_what_transformers_gives(transformers, folder, tmp_path, capsys):
  named = [None, [TITLES[0], "[MASK]", TITLES[3]], ["[MASK]"], [TITLES[0], "[MASK]"], None]
  source, output = write_lines(tmp_path / "a.jsonl", objects(named=named)), tmp_path / "o.npz"
  where = folder("whole")
  command(capsys, "encode", f"--model={where}", f"--input={source}", f"--output={output}")
  arrays = np.load(output)
  few = write_lines(tmp_path / "b.jsonl", [objects(named=named)[i] for i in WITH_SPANS])
  records, _, _ = command(capsys, "fill", f"--model={where}", f"--input={few}", "--top=9")
  for i, record in zip(WITH_SPANS, records, strict=True):
    inputs, said = theirs(transformers, where, TEXTS[i], entity_spans=SPANS[i], entities=named[i])
    n, e = inputs["input_ids"].shape[1], len(SPANS[i])
    assert arrays["ids"][i, : arrays["lengths"][i]].tolist() == inputs["input_ids"][0].tolist()
    assert arrays["entity_ids"][i, :e].tolist() == inputs["entity_ids"][0].tolist()
    body = from_pretrained(where).base_model(**inputs)
    close(arrays["hidden"][i, :n], body.last_hidden_state[0].detach().numpy())
    close(arrays["entities"][i, :e], body.entity_last_hidden_state[0].detach().numpy())
    shares = said.entity_logits.softmax(-1)[0].numpy()
    masked = [slot for slot, title in enumerate(named[i]) if title == "[MASK]"]
    for slot, own in zip(masked, record["entities"], strict=True):
      close([c["probability"] for c in own["candidates"]], shares[slot, [c["id"] for c in own["candidates"]]])


def test_relate_gives_what_transformers_gives(transformers, folder, tmp_path, capsys):
  source = write_lines(tmp_path / "a.jsonl", objects(PAIRS, PAIR_SPANS, [None] * 3))
  records, _, _ = command(capsys, "relate", f"--model={folder('relate')}", f"--input={source}", "--top=3")
  for text, spans, record in zip(PAIRS, PAIR_SPANS, records, strict=True):
    _, said = theirs(transformers, folder("relate"), text, entity_spans=spans)
    shares = said.logits.softmax(-1)[0].numpy()
    names = from_pretrained(folder("relate")).config.id2label
    found = {candidate["label"]: candidate["probability"] for candidate in record["candidates"]}
    close([found[names[i]] for i in range(len(names))], shares)
    assert record["label"] == names[int(shares.argmax())]


def test_type_gives_what_transformers_gives(transformers, folder, tmp_path, capsys):
  source = write_lines(tmp_path / "a.jsonl", [objects()[i] for i in WITH_SPANS])
  records, _, _ = command(capsys, "type", f"--model={folder('type')}", f"--input={source}", "--top=3")
  for record in records:
    _, said = theirs(transformers, folder("type"), record["text"], entity_spans=[(record["start"], record["end"])])
    names = from_pretrained(folder("type")).config.id2label
    found = {label["label"]: label["probability"] for label in record["labels"]}
    close([found[names[i]] for i in range(len(names))], said.logits.sigmoid()[0].numpy())
  assert len(records) == sum(len(SPANS[i]) for i in WITH_SPANS)
