"""TensorFlow releases of BERT, ALBERT and ELECTRA: names, layouts, configs, and a checkpoint that TensorFlow wrote."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from models.paths import named_leaves
from models.published import electra_tables, tables, weights
from models.published.errors import WeightsError
from models.published.names import to_published
from models.published.parts import TABLES
from models.published.releases import from_tensorflow
from tests.fixtures.write_tf_checkpoint import BERT, bert_arrays
from tests.parity_models import CASES, PAIRS, VOCAB, assert_same, random_params

SLOT = np.zeros((2, 2), np.float32)


def tensorflow(case):
  """The tensors of a case, random, as a TensorFlow checkpoint has them; and its parameters."""
  params, config = random_params(case.model), case.model.config
  if case.family == "electra":
    table = electra_tables.checkpoint(config)
  else:
    table = TABLES[case.family](config, tables.TENSORFLOW)
  return to_published(params, table, case.model.table_sizes()), params


def write_config(case, folder, activation):
  """What BERT's and ALBERT's releases have beside the checkpoint."""
  c = case.model.config
  config = {
    "vocab_size": c.vocab_size, "hidden_size": c.hidden, "num_hidden_layers": c.layers,
    "num_attention_heads": c.heads, "intermediate_size": c.ffn, "hidden_act": activation, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "max_position_embeddings": c.max_positions, "type_vocab_size": c.types,
    "initializer_range": 0.02,
  }  # fmt: skip
  if case.family == "albert":
    config |= {"embedding_size": c.embedding, "num_hidden_groups": c.sharing.ffn_groups}
    config |= {"inner_group_num": c.sharing.inner, "net_structure_type": 0, "gap_size": 0, "num_memory_blocks": 0}
  (folder / f"{case.family}_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
  ("name", "activation"),
  [
    ("bert", "gelu"), ("bert_words", "gelu"), ("bert_body", "gelu"), ("albert", "gelu"), ("albert_groups", "gelu"),
    ("albert_unshared", "relu"), ("albert_words", "gelu"), ("albert_equal_widths", "gelu"),
  ],
)  # fmt: skip
def test_tensors_of_bert_and_albert_releases_become_the_parameters(name, activation, tmp_path):
  case = CASES[name]
  tensors, params = tensorflow(case)
  write_config(case, tmp_path, activation)
  found = from_tensorflow(tensors, tmp_path, "release")
  assert found.model == case.model and found.family == case.family
  assert_same(params, found.params)
  module = {f"module/{name}": x for name, x in tensors.items()}  # as hub modules have them
  assert_same(params, from_tensorflow(module, tmp_path, "release").params)


@pytest.mark.parametrize("name", ["electra", "electra_tied", "electra_untied", "electra_narrow", "discriminator"])
def test_tensors_of_electra_releases_become_the_parameters(name, tmp_path):
  """Sizes are those of the tensors; heads are 64 wide, one here, as no tensor tells them."""
  case = CASES["electra_discriminator"] if name == "discriminator" else PAIRS[name]
  tensors, _ = tensorflow(case)
  found = from_tensorflow(tensors | {"generator_predictions/temperature": SLOT}, tmp_path, "release")
  told = lambda c: c and dataclasses.replace(c, heads=1, dropout=0.1, attention_dropout=0.1)
  want = told(case.model.config)
  assert found.model.config == dataclasses.replace(want, generator=told(want.generator))
  back = to_published(found.params, electra_tables.checkpoint(found.model.config), found.model.table_sizes())
  assert {name: x.tobytes() for name, x in back.items()} == {name: x.tobytes() for name, x in tensors.items()}
  assert "discriminator: sizes are the tensors', 1 heads by the width of released ones" in found.notes


LAYER = ("attention/output/dense", "attention/self/key", "attention/self/query", "attention/self/value")
DENSE, NORM = ("kernel", "bias"), ("gamma", "beta")


def named(prefix, denses=(), norms=(), tensors=()):
  """{prefix/name/kernel, bias, gamma, beta}"""
  parts = [f"{name}/{last}" for names, lasts in ((denses, DENSE), (norms, NORM)) for name in names for last in lasts]
  return {f"{prefix}/{name}" for name in (*parts, *tensors)}


EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
BLOCK = {
  "denses": (*LAYER, "intermediate/dense", "output/dense"),
  "norms": ("attention/output/LayerNorm", "output/LayerNorm"),
}
PREDICTIONS = {"denses": ("transform/dense",), "norms": ("transform/LayerNorm",), "tensors": ("output_bias",)}
PAIR = {"cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias"}
SHARED_BLOCK = {
  "denses": (
    "attention_1/self/query", "attention_1/self/key", "attention_1/self/value", "attention_1/output/dense",
    "ffn_1/intermediate/dense", "ffn_1/intermediate/output/dense",
  ),
  "norms": ("LayerNorm", "LayerNorm_1"),
}  # fmt: skip


def test_names_are_those_of_the_released_checkpoints():
  """Written out here once more, as the released code's variable scopes spell them."""
  cases = {"bert": CASES["bert"], "albert": CASES["albert"], "both": PAIRS["electra"]}
  got = {name: set(tensorflow(case)[0]) for name, case in cases.items()}
  layers = [named(f"bert/encoder/layer_{i}", **BLOCK) for i in range(3)]
  heads = named("bert/pooler", ("dense",)) | named("cls/predictions", **PREDICTIONS) | PAIR
  tables = named("bert/embeddings", (), ("LayerNorm",), EMBEDDINGS)
  assert got["bert"] == tables.union(*layers) | heads
  block = named("bert/encoder/transformer/group_0/inner_group_0", **SHARED_BLOCK)
  assert got["albert"] == tables | named("bert/encoder", ("embedding_hidden_mapping_in",)) | block | heads
  want = named("electra/embeddings", (), ("LayerNorm",), EMBEDDINGS)
  for scope, depth in (("electra", 3), ("generator", 2)):
    want |= named(scope, ("embeddings_project",))
    want = want.union(*(named(f"{scope}/encoder/layer_{i}", **BLOCK) for i in range(depth)))
  want |= named("generator_predictions", ("dense",), ("LayerNorm",), ("output_bias",))
  assert got["both"] == want | named("discriminator_predictions", ("dense", "dense_1"))


def test_layouts_are_those_of_the_released_checkpoints():
  tensors, params = tensorflow(CASES["bert"])
  block = {name: leaf[1] for name, leaf in named_leaves(params["layers"]).items()}
  layer = "bert/encoder/layer_1"
  for name, want in {
    f"{layer}/attention/self/query/kernel": block["attention/query/kernel"].reshape(42, 42),
    f"{layer}/attention/self/query/bias": block["attention/query/bias"].reshape(42),
    f"{layer}/attention/output/dense/kernel": block["attention/output/kernel"].reshape(42, 42),
    f"{layer}/intermediate/dense/kernel": block["ffn/up/kernel"],
    "cls/seq_relationship/output_weights": params["heads"]["pair"]["kernel"].T,
    "bert/embeddings/word_embeddings": params["embeddings"]["word"]["embedding"][:VOCAB],
  }.items():
    np.testing.assert_array_equal(tensors[name], want, err_msg=name)


def test_a_checkpoint_that_tensorflow_wrote_becomes_a_model():
  """One layer in two data files, with an optimiser's slots; pooler and heads in bfloat16."""
  want = {name: x.astype(np.float32) for part in bert_arrays() for name, x in part.items() if "adam" not in name}
  for path in (BERT, BERT / "bert_model.ckpt"):
    found = weights.load_tensorflow(path)
    c = found.model.config
    assert (c.vocab_size, c.hidden, c.heads, c.layers, c.max_positions) == (17, 8, 2, 1, 11)
    assert c.pooler and c.heads_on_top == ("mlm", "pair") and found.notes == ("9 bfloat16 tensors widened to float32",)
    tensors = to_published(found.params, tables.bert(c, tables.TENSORFLOW), found.model.table_sizes())
    assert tensors.keys() == want.keys() - {"global_step"}
    assert [name for name, x in tensors.items() if x.tobytes() != want[name].tobytes()] == []


def test_a_checkpoint_becomes_a_folder_in_hugging_faces_layout(tmp_path):
  found = weights.load_tensorflow(BERT)
  weights.save(tmp_path / "x", found.family, found.model, found.params, CASES["bert"].special)
  again = weights.load(tmp_path / "x")
  assert again.model == found.model
  assert jax.tree.all(jax.tree.map(np.array_equal, again.params, found.params))


def test_without_a_config_sizes_are_those_of_the_tensors(tmp_path):
  for file in BERT.glob("*ckpt*"):
    shutil.copy(file, tmp_path)
  found = weights.load_tensorflow(tmp_path)
  assert (found.model.config.hidden, found.model.config.layers, found.model.config.heads) == (8, 1, 1)
  assert found.notes[1:] == ("no bert_config.json: sizes are the tensors', 1 heads by the width of released ones",)
  tensors, _ = tensorflow(CASES["albert"])
  with pytest.raises(WeightsError, match="weights release: has no albert_config.json beside it, want it"):
    from_tensorflow(tensors, tmp_path, "release")


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ("{", "albert_config.json: cannot be read"),
    ("[]", "albert_config.json: got a list, want a JSON object"),
    ('{"hidden_act": "silu"}', "albert_config.json: hidden_act is 'silu', want one of gelu, relu"),
    ('{"hidden_act": "gelu"}', "has no vocab_size, want the whole file"),
  ],
)
def test_damaged_configs_of_releases_are_refused(config, message, tmp_path):
  (tmp_path / "albert_config.json").write_text(config)
  with pytest.raises(WeightsError, match=message):
    from_tensorflow(tensorflow(CASES["albert"])[0], tmp_path, "release")


def test_checkpoints_that_are_not_whole_are_refused(tmp_path):
  tensors, _ = tensorflow(CASES["bert"])
  write_config(CASES["bert"], tmp_path, "gelu")
  del tensors["bert/encoder/layer_1/output/dense/bias"]
  with pytest.raises(WeightsError, match=r"1 problem\): missing bert/encoder/layer_1/output/dense/bias float32\[42\]"):
    from_tensorflow(tensors | {"bert/x/kernel/adam_m": SLOT, "global_step": np.array(3)}, tmp_path, "release")
  with pytest.raises(WeightsError, match="has no electra/embeddings/word_embeddings, want a whole checkpoint"):
    from_tensorflow({"electra/encoder/layer_0/intermediate/dense/kernel": SLOT}, tmp_path, "release")
  with pytest.raises(WeightsError, match=r"got none, want one checkpoint \(X.index\)"):
    weights.load_tensorflow(tmp_path)
  for name in ("a.index", "b.index"):
    (tmp_path / name).touch()
  with pytest.raises(WeightsError, match="got a.index, b.index, want one checkpoint"):
    weights.load_tensorflow(tmp_path)
