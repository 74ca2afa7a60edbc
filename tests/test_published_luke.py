"""LUKE's published files: names as transformers has them, every head there and back, archives of the original code."""

import dataclasses
import json
import math

import numpy as np
import pytest

from configs import luke
from models import build
from models.luke import Luke
from models.paths import named_leaves
from models.published import files, luke_files, luke_tables, weights
from models.published.errors import WeightsError
from models.published.parts import shapes_of
from models.published.tasks import labels_of
from tests.luke_models import CASES, CLASSES, ENTITIES, OWN_CASES, assert_same, case
from tests.parity_models import SIZES, VOCAB, random_params

ALL = CASES | OWN_CASES
D, FFN, E, LAYERS, POSITIONS = SIZES["hidden"], SIZES["ffn"], 17, 3, SIZES["max_positions"] + 2
EXTRA = ("w2e_query", "e2w_query", "e2e_query")


def save(name, folder, **more):
  params = random_params(ALL[name].model)
  weights.save(folder, "luke", ALL[name].model, params, ALL[name].special, **more)
  return params


def edit(folder, tensors=lambda tensors: None, **config):
  """Changes tensors, and keys of config.json; None takes a key away."""
  (folder / "SHA256SUMS").unlink(missing_ok=True)
  stated = json.loads((folder / "config.json").read_text()) | config
  (folder / "config.json").write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
  found = files.read_tensors(folder)
  tensors(found)
  files.write_tensors(folder, found)


def without(tensors, *parts):
  for name in [name for name in tensors if any(part in name for part in parts)]:
    del tensors[name]


@pytest.fixture
def folder(tmp_path):
  """An exported LUKE with both heads of pretraining and four queries a layer."""
  save("luke", tmp_path / "luke")
  return tmp_path / "luke"


# --- both directions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_what_is_saved_comes_back_bit_for_bit_under_the_same_config(name, tmp_path):
  params = save(name, tmp_path)
  found = weights.load(tmp_path)
  assert found.model == ALL[name].model
  assert_same(params, found.params, found.model.config)


def test_names_and_shapes_are_those_of_hugging_face(folder):
  """LukeForMaskedLM of transformers 5, spelled out; every matrix [outputs, inputs]."""
  norm = lambda name, width: {f"{name}.weight": (width,), f"{name}.bias": (width,)}
  linear = lambda name, inputs, outputs: {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
  wanted = {
    "luke.embeddings.word_embeddings.weight": (VOCAB, D),
    "luke.embeddings.position_embeddings.weight": (POSITIONS, D),
    "luke.embeddings.token_type_embeddings.weight": (1, D),
    "luke.entity_embeddings.entity_embeddings.weight": (ENTITIES, E),
    "luke.entity_embeddings.entity_embedding_dense.weight": (D, E),
    "luke.entity_embeddings.position_embeddings.weight": (POSITIONS, D),
    "luke.entity_embeddings.token_type_embeddings.weight": (1, D),
    **norm("luke.embeddings.LayerNorm", D), **norm("luke.entity_embeddings.LayerNorm", D),
    **linear("luke.pooler.dense", D, D), **linear("lm_head.dense", D, D), **norm("lm_head.layer_norm", D),
    "lm_head.bias": (VOCAB,), "lm_head.decoder.weight": (VOCAB, D),
    **linear("entity_predictions.transform.dense", D, E), **norm("entity_predictions.transform.LayerNorm", E),
    "entity_predictions.bias": (ENTITIES,),
  }  # fmt: skip
  for i in range(LAYERS):
    layer = f"luke.encoder.layer.{i}"
    for name in ("query", "key", "value", *EXTRA):
      wanted |= linear(f"{layer}.attention.self.{name}", D, D)
    wanted |= linear(f"{layer}.attention.output.dense", D, D) | norm(f"{layer}.attention.output.LayerNorm", D)
    wanted |= linear(f"{layer}.intermediate.dense", D, FFN) | linear(f"{layer}.output.dense", FFN, D)
    wanted |= norm(f"{layer}.output.LayerNorm", D)
  assert {name: x.shape for name, x in files.read_tensors(folder).items()} == wanted


def head(name, outputs, inputs):
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


@pytest.mark.parametrize(
  ("task", "architecture", "head"),
  [
    ("type", "LukeForEntityClassification", head("classifier", CLASSES, D)),
    ("relate", "LukeForEntityPairClassification", {"classifier.weight": (CLASSES, 2 * D)}),  # no bias
    ("spans", "LukeForEntitySpanClassification", head("classifier", CLASSES, 3 * D)),
    ("answer", "LukeForQuestionAnswering", head("qa_outputs", 2, D)),
    ("classify", "LukeForSequenceClassification", head("classifier", CLASSES, D)),
    ("tag", "LukeForTokenClassification", head("classifier", CLASSES, D)),
    ("choose", "LukeForMultipleChoice", head("classifier", 1, D)),
    ("cloze", "LukeModel", head("cloze", 1, 2 * D)),  # no class has it
  ],
)
def test_heads_of_tasks_are_those_of_their_classes(task, architecture, head, tmp_path):
  save(f"luke_{task}", tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
  assert {name: x.shape for name, x in files.read_tensors(tmp_path).items() if not name.startswith("luke.")} == head


def test_config_json_says_what_the_model_is(folder):
  config = json.loads((folder / "config.json").read_text())
  assert config["architectures"] == ["LukeForMaskedLM"] and config["model_type"] == "luke"
  assert (config["entity_vocab_size"], config["entity_emb_size"]) == (ENTITIES, E)
  assert config["use_entity_aware_attention"] is True and config["max_position_embeddings"] == POSITIONS
  assert (config["pad_token_id"], config["bos_token_id"], config["eos_token_id"]) == (1, 0, 2)


def test_labels_go_with_the_head(tmp_path):
  labels = [f"per:{i}" for i in range(CLASSES)]
  save("luke_relate", tmp_path / "named", labels=labels)
  config = weights.load(tmp_path / "named").config
  assert labels_of(config) == tuple(labels)
  assert config["label2id"] == {label: i for i, label in enumerate(labels)}
  save("luke_relate", tmp_path / "plain")
  assert labels_of(weights.load(tmp_path / "plain").config) == tuple(f"LABEL_{i}" for i in range(CLASSES))
  with pytest.raises(WeightsError, match=f"got 2 labels, want {CLASSES}, the outputs of the head"):
    save("luke_relate", tmp_path / "wrong", labels=labels[:2])


@pytest.mark.parametrize(
  ("variant", "millions"),
  [
    ("base", 253.24), ("large", 484.15), ("mluke_base", 585.84), ("mluke_large", 867.88),
    ("base,queries=4", 253.24 + 21.26), ("large,queries=4", 484.15 + 75.57),
  ],
)  # fmt: skip
def test_a_body_of_published_size_has_the_published_parameters(variant, millions):
  """With the pooler, without heads; rows that only pad a table are not published."""
  config = dataclasses.replace(build(luke.get_config(variant)).config, pooler=True, heads_on_top=())
  model = Luke(config)
  leaves, sizes = named_leaves(shapes_of(model)), model.table_sizes()
  shapes = [
    entry.shape(leaves[entry.path].shape, sizes) for entry in luke_tables.luke(config).entries for _ in entry.names
  ]
  assert round(sum(map(math.prod, shapes)) / 1e6, 2) == pytest.approx(millions, abs=0.011)


# --- tables that are tied ---------------------------------------------------------------------------------------------


def test_files_without_the_tied_copies_are_tied(folder):
  params = random_params(CASES["luke"].model)
  edit(folder, lambda tensors: without(tensors, "decoder"))
  assert_same(params, weights.load(folder).params, CASES["luke"].model.config)


def test_tied_copies_of_old_files_are_read(folder):
  def repeat(tensors):
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"].copy()
    tensors["entity_predictions.decoder.weight"] = tensors["luke.entity_embeddings.entity_embeddings.weight"].copy()
    tensors["luke.embeddings.position_ids"] = np.arange(POSITIONS)[None]

  edit(folder, repeat)
  found = weights.load(folder)
  assert_same(random_params(CASES["luke"].model), found.params, CASES["luke"].model.config)
  assert found.notes == ("left out: luke.embeddings.position_ids",)


@pytest.mark.parametrize("name", ["lm_head.decoder.weight", "entity_predictions.decoder.weight"])
def test_copies_that_differ_from_their_table_are_refused(name, folder):
  table = "word_embeddings" if name.startswith("lm_head") else "entity_embeddings.entity_embeddings"

  def untie(tensors):
    source = next(x for key, x in tensors.items() if key.endswith(f"{table}.weight"))
    tensors[name] = source + np.float32(1)

  edit(folder, untie)
  with pytest.raises(WeightsError, match=rf"{name} differs from luke\..*{table}.weight, want the same values") as error:
    weights.load(folder)
  assert "\n" not in str(error.value)


# --- queries ----------------------------------------------------------------------------------------------------------


def test_queries_that_a_file_lacks_are_copies_of_the_words(folder):
  """Weight and bias, as fine-tuning starts from pretraining."""
  edit(folder, lambda tensors: without(tensors, *EXTRA))
  found = weights.load(folder)
  assert found.model == CASES["luke"].model
  attention = found.params["layers"]["attention"]
  for name in ("word_to_entity", "entity_to_word", "entity_to_entity"):
    for part in ("kernel", "bias"):
      np.testing.assert_array_equal(attention[name][part], attention["query"][part])
  assert found.notes == ("the file has one query a layer: w2e_query, e2w_query, e2e_query are copies of it",)


def test_queries_that_the_config_switches_off_are_left_out(folder):
  """mLUKE's files hold them all the same."""
  edit(folder, use_entity_aware_attention=False)
  found = weights.load(folder)
  assert found.model == CASES["luke_one_query"].model
  assert found.notes == ("use_entity_aware_attention is false: left out 18 tensors of w2e_query, e2w_query, e2e_query",)
  params = random_params(CASES["luke"].model)
  for name in ("word_to_entity", "entity_to_word", "entity_to_entity"):
    del params["layers"]["attention"][name]
  assert_same(params, found.params, found.model.config)


def test_a_file_with_some_of_the_queries_is_not_whole(folder):
  edit(folder, lambda tensors: without(tensors, "e2e_query"))
  with pytest.raises(WeightsError, match="missing luke.encoder.layer.0.attention.self.e2e_query.weight"):
    weights.load(folder)


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"cls_entity_prediction": True}, "cls_entity_prediction is True, want False; no model here has it"),
    ({"type_vocab_size": 2}, "type_vocab_size is 2, want 1"),
    ({"type_vocab_size": None}, "type_vocab_size is 2, want 1"),  # transformers' own value
    ({"entity_vocab_size": None}, "has no entity_vocab_size, want the whole file"),
    ({"entity_emb_size": "17"}, "entity_emb_size is '17', want a whole number from 1"),
    ({"entity_vocab_size": 62}, r"entity_embeddings.weight float32\[61, 17\], want float32\[62, 17\]"),
    ({"hidden_act": "relu"}, "hidden_act is relu, want gelu"),
  ],
)
def test_configs_of_other_models_are_refused(change, message, folder):
  edit(folder, **change)
  with pytest.raises(WeightsError, match=message) as error:
    weights.load(folder)
  assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("named", [None, ["LukeModel"], ["LukeForTokenClassification", "LukeForEntityClassification"]])
def test_a_head_needs_a_config_that_says_its_task(named, tmp_path):
  save("luke_tag", tmp_path)
  edit(tmp_path, architectures=named)
  with pytest.raises(WeightsError, match="want one of LukeForEntityClassification, .*: several have a classifier"):
    weights.load(tmp_path)


def test_two_tasks_at_once_have_no_layout(tmp_path):
  both = case(heads_on_top=("type", "tag"), classes=3)
  with pytest.raises(WeightsError, match="a model with the heads type, tag has no published layout; want one task"):
    weights.save(tmp_path / "x", "luke", both.model, random_params(both.model), both.special)


# --- archives of the original code ------------------------------------------------------------------------------------


def archive(folder, **changes):
  """As studio-ousia's code leaves them: no prefix, one query, metadata.json in place of config.json."""
  params = save("luke_one_query", folder / "hf")
  tensors = files.read_tensors(folder / "hf")
  tensors["entity_predictions.decoder.weight"] = tensors["luke.entity_embeddings.entity_embeddings.weight"]
  tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"]
  tensors["luke.embeddings.position_ids"] = np.arange(POSITIONS)[None]
  config = json.loads((folder / "hf" / "config.json").read_text())
  for key in ("model_type", "architectures", "use_entity_aware_attention"):
    del config[key]
  metadata = {
    "model_config": config | {"bert_model_name": "roberta-base", "cls_entity_prediction": False},
    "max_seq_length": 512, "max_entity_length": 128, "max_mention_length": 30,
  }  # fmt: skip
  (folder / "original").mkdir()
  (folder / "original" / "metadata.json").write_text(json.dumps(metadata | changes))
  return params, {name.removeprefix("luke."): tensor for name, tensor in tensors.items()}


def test_an_archive_of_the_original_code_is_read(tmp_path):
  params, tensors = archive(tmp_path)
  assert not any(name.startswith("luke.") for name in tensors)
  files.write_tensors(tmp_path / "original", tensors)
  found = weights.load(tmp_path / "original")
  assert (found.family, found.model) == ("luke", CASES["luke_one_query"].model)
  assert_same(params, found.params, found.model.config)
  assert [found.config[name] for name in luke_files.LENGTHS] == [512, 128, 30]


def test_an_archive_may_ask_for_entity_aware_attention(tmp_path):
  _, tensors = archive(tmp_path)
  metadata = json.loads((tmp_path / "original" / "metadata.json").read_text())
  metadata["model_config"]["use_entity_aware_attention"] = True
  (tmp_path / "original" / "metadata.json").write_text(json.dumps(metadata))
  files.write_tensors(tmp_path / "original", tensors)
  assert weights.load(tmp_path / "original").model == CASES["luke"].model


def test_an_archive_without_its_config_is_refused(tmp_path):
  _, tensors = archive(tmp_path, model_config=None)
  files.write_tensors(tmp_path / "original", tensors)
  with pytest.raises(WeightsError, match=r"metadata.json: has no model_config, want the file of a LUKE archive"):
    weights.load(tmp_path / "original")


@pytest.mark.parity
def test_pickles_of_an_archive_are_read_when_they_are_allowed(tmp_path):
  """And those of DeepSpeed, which nest the weights under "module"."""
  torch = pytest.importorskip("torch")
  params, tensors = archive(tmp_path)
  state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
  for content in (state, {"module": state, "global_steps": 98168}):
    torch.save(content, tmp_path / "original" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="has only pytorch_model.bin, a pickle"):
      weights.load(tmp_path / "original")
    found = weights.load(tmp_path / "original", pytorch_bin=True)
    assert_same(params, found.params, found.model.config)
