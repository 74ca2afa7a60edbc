"""Models through published files and back: the same bits under the same config, and one line for what does not fit."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from configs import albert, bert, electra, roberta, spanbert
from models import build
from models.bert import Bert
from models.paths import named_leaves
from models.published import electra_tables, files, weights
from models.published.errors import WeightsError
from models.published.parts import TABLES, shapes_of
from models.stack import Sharing
from tests.parity_models import CASES, OWN_CASES, PAIRS, Case, assert_same, random_params

ALL = CASES | OWN_CASES | {f"both_{name}": case for name, case in PAIRS.items()}


def save(case, folder, params=None):
  params = random_params(case.model) if params is None else params
  weights.save(folder, case.family, case.model, params, case.special)
  return params


def edit_config(folder, **changes):
  """Changes config.json; None takes a key away."""
  config = json.loads((folder / "config.json").read_text()) | changes
  (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
  (folder / "SHA256SUMS").unlink(missing_ok=True)


def edit_tensors(folder, change):
  tensors = files.read_tensors(folder)
  change(tensors)
  (folder / "SHA256SUMS").unlink(missing_ok=True)
  files.write_tensors(folder, tensors)


@pytest.fixture
def folder(tmp_path):
  """An exported BERT."""
  save(CASES["bert"], tmp_path / "bert")
  return tmp_path / "bert"


# --- both directions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_what_is_saved_comes_back_bit_for_bit_under_the_same_config(name, tmp_path):
  params = save(ALL[name], tmp_path / "export")
  found = weights.load(tmp_path / "export")
  assert found.model == ALL[name].model
  assert_same(params, found.params)


@pytest.mark.parametrize("name", ["bert", "spanbert_pairs", "both_electra_untied"])
def test_saving_again_writes_the_same_files(name, tmp_path):
  save(ALL[name], tmp_path / "first")
  found = weights.load(tmp_path / "first")
  save(Case(ALL[name].family, found.model), tmp_path / "second", found.params)
  names = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
  assert {path.name for path in names} == {"SHA256SUMS", "config.json", "model.safetensors"}
  for path in names:
    assert (tmp_path / "second" / path).read_bytes() == (tmp_path / "first" / path).read_bytes(), path


def test_every_folder_with_a_config_gets_the_tokenizer(tmp_path):
  for name, folders in (("bert", ["."]), ("both_electra", ["discriminator", "generator"])):
    put = lambda place: (place / "vocab.txt").write_text("[PAD]\n")
    case = ALL[name]
    weights.save(tmp_path / name, case.family, case.model, random_params(case.model), case.special, extra=put)
    for folder in folders:
      assert (tmp_path / name / folder / "vocab.txt").is_file() and (tmp_path / name / folder / "config.json").is_file()
      assert "vocab.txt" in (tmp_path / name / folder / "SHA256SUMS").read_text()


def test_heads_that_the_file_lacks_are_told(tmp_path):
  wanted = {
    "bert": (), "bert_body": ("the file has no mlm head", "the file has no pair head"), "roberta": (),
    "albert_words": ("the file has no pair head",), "electra_body": ("the file has no rtd head",),
    "electra_generator": (),
  }  # fmt: skip
  for name, notes in wanted.items():
    save(CASES[name], tmp_path / name)
    assert weights.load(tmp_path / name).notes == notes


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_narrow_tensors_are_widened_exactly_and_told(kind, folder):
  params = random_params(CASES["bert"].model)
  narrow = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params)
  edit_tensors(folder, lambda tensors: tensors.update({name: x.astype(kind) for name, x in tensors.items()}))
  found = weights.load(folder)
  assert_same(narrow, found.params)
  assert found.notes == (f"{len(files.read_tensors(folder))} {np.dtype(kind)} tensors widened to float32",)


def test_the_dtype_is_that_of_products_alone(folder):
  found = weights.load(folder, jnp.bfloat16)
  assert found.model.config == dataclasses.replace(CASES["bert"].model.config, dtype=jnp.bfloat16)
  assert {str(x.dtype) for x in jax.tree.leaves(found.params)} == {"float32"}


def test_older_spellings_and_buffers_are_read(folder):
  """As the first BERTs on the hub: gamma and beta, no prefix for the decoder's tied copy, position ids."""

  def age(tensors):
    for name in [name for name in tensors if ".LayerNorm." in name]:
      new = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
      tensors[new] = tensors.pop(name)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    tensors["bert.embeddings.position_ids"] = np.arange(37)[None]

  edit_tensors(folder, age)
  found = weights.load(folder)
  assert_same(random_params(CASES["bert"].model), found.params)
  assert found.notes == ("left out: bert.embeddings.position_ids",)


def test_tensors_of_other_tasks_are_named_and_dropped_on_demand(folder):
  edit_tensors(folder, lambda tensors: tensors.update({"classifier.weight": np.zeros((3, 42), np.float32)}))
  with pytest.raises(WeightsError, match=r"architectures is \['BertForPreTraining'\], want .* have a classifier"):
    weights.load(folder)
  found = weights.load(folder, drop=("^classifier", "^cls.seq"))
  assert found.model.config.heads_on_top == ("mlm",)
  assert found.notes == (
    "dropped: classifier.weight, cls.seq_relationship.bias, cls.seq_relationship.weight", "the file has no pair head",
  )  # fmt: skip


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key', want 'absolute'"),
    ({"is_decoder": True}, "is_decoder is True, want False"),
    ({"add_cross_attention": True}, "add_cross_attention is True, want False"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings is False, want True"),
    ({"hidden_act": "silu"}, "hidden_act is 'silu', want one of gelu, gelu_new"),
    ({"model_type": "deberta"}, "got model_type 'deberta', want one of bert, roberta, albert, electra"),
    ({"model_type": None}, "got model_type None"),
    ({"hidden_size": None}, "has no hidden_size, want the whole file"),
    ({"hidden_size": "42"}, "hidden_size is '42', want a whole number from 1"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0, want a whole number from 1"),
    ({"num_attention_heads": 4}, "hidden_size 42 is no multiple of 4 heads"),
    ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12', want a number from 0"),
    ({"vocab_size": 130}, r"word_embeddings.weight float32\[131, 42\], want float32\[130, 42\]"),
    ({"num_hidden_layers": 4}, "missing bert.encoder.layer.3.attention.self.query.weight"),
    ({"num_hidden_layers": 2}, "extra bert.encoder.layer.2.attention.output.LayerNorm.bias"),
  ],
)
def test_configs_of_other_models_are_refused(change, message, folder):
  edit_config(folder, **change)
  with pytest.raises(WeightsError, match=message) as error:
    weights.load(folder)
  assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_keys_that_a_config_leaves_out_have_the_values_of_transformers(tmp_path):
  for name in ("bert", "roberta_typed", "albert", "electra_discriminator"):
    save(CASES[name], tmp_path / name)
    keys = ["hidden_act", "layer_norm_eps", "initializer_range", "pad_token_id", "type_vocab_size"]
    edit_config(tmp_path / name, **dict.fromkeys([*keys, "hidden_dropout_prob", "attention_probs_dropout_prob"]))
  edit_config(tmp_path / "roberta_typed", type_vocab_size=1)
  config = {name: weights.load(tmp_path / name).model.config for name in ("bert", "roberta_typed", "albert")}
  assert [c.dropout for c in config.values()] == [0.1, 0.1, 0.0]
  assert [c.activation for c in config.values()] == ["gelu", "gelu", "gelu_tanh"]
  assert {c.norm_eps for c in config.values()} == {1e-12} and config["roberta_typed"].position_offset == 2


def test_positions_of_roberta_begin_behind_the_padding(tmp_path):
  case = CASES["roberta"]
  save(case, tmp_path / "roberta")
  assert json.loads((tmp_path / "roberta" / "config.json").read_text())["max_position_embeddings"] == 37 + 2
  with pytest.raises(WeightsError, match="positions begin at row 2, want 4"):
    weights.save(tmp_path / "x", "roberta", case.model, random_params(case.model), case.special | {"pad": 3})
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
  ("name", "family", "change", "message"),
  [
    ("roberta", "roberta", {"activation": "gelu_tanh"}, "activation gelu_tanh, want gelu in the head"),
    ("electra_generator", "electra", {"activation": "relu"}, "activation relu, want gelu in the head"),
    ("albert", "bert", {}, "layers share parameters; a projection, or tables narrower"),
    ("albert", "albert", {"layers": 6, "sharing": Sharing(2, 3)}, "6 layers in 2 groups of attention and 3 of feed-fo"),
    ("albert", "albert", {"layers": 18, "sharing": Sharing(14, 14)}, "18 layers in 14 groups .* divide the layers"),
  ],
)
def test_what_no_published_model_computes_is_not_exported(name, family, change, message, tmp_path):
  model = Bert(dataclasses.replace(CASES[name].model.config, **change))
  with pytest.raises(WeightsError, match=message) as error:
    weights.save(tmp_path / "x", family, model, random_params(model), CASES[name].special)
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_heads_with_an_activation_of_their_own_are_refused(tmp_path):
  for name in ("roberta", "electra_generator"):
    save(CASES[name], tmp_path / name)
    edit_config(tmp_path / name, hidden_act="relu")
    with pytest.raises(WeightsError, match="hidden_act is relu, want gelu: transformers gives this head no other"):
      weights.load(tmp_path / name)
  save(CASES["electra_discriminator"], tmp_path / "discriminator")
  edit_config(tmp_path / "discriminator", hidden_act="relu")
  assert weights.load(tmp_path / "discriminator").model.config.activation == "relu"


def test_parameters_that_are_not_the_models_are_not_exported(tmp_path):
  params = random_params(CASES["bert"].model)
  with pytest.raises(WeightsError, match="no entry for parameter heads/span/bias"):
    save(CASES["bert"], tmp_path / "x", params | {"heads": params["heads"] | {"span": {"bias": np.zeros(2)}}})
  with pytest.raises(WeightsError, match="no parameter for entry heads/mlm/bias"):
    save(CASES["bert"], tmp_path / "x", {name: part for name, part in params.items() if name != "heads"})
  assert not list(tmp_path.iterdir())


# --- ELECTRA's networks -----------------------------------------------------------------------------------------------


def test_each_network_of_an_electra_loads_by_itself(tmp_path):
  params = save(PAIRS["electra_adversarial"], tmp_path / "both")
  discriminator, generator = (weights.load(tmp_path / "both" / name) for name in ("discriminator", "generator"))
  assert discriminator.model.config.generator is None and discriminator.model.config.heads_on_top == ("rtd",)
  wanted = {name: params[name] for name in ("embeddings", "discriminator")}
  assert_same(wanted | {"heads": {"rtd": params["heads"]["rtd"]}}, discriminator.params)
  assert isinstance(generator.model, Bert) and generator.model.config.hidden == 20
  wanted = {"embeddings": params["embeddings"], **params["generator"], "heads": {"mlm": params["heads"]["mlm"]}}
  assert_same(wanted, generator.params)
  assert generator.notes == ("left out: generator_baseline.bias, generator_baseline.weight",)


def test_networks_of_two_trainings_are_no_pair(tmp_path):
  save(PAIRS["electra"], tmp_path / "first")
  save(PAIRS["electra"], tmp_path / "second", random_params(PAIRS["electra"].model, seed=1))
  mixed = tmp_path / "mixed"
  shutil.copytree(tmp_path / "first" / "discriminator", mixed / "discriminator")
  shutil.copytree(tmp_path / "second" / "generator", mixed / "generator")
  with pytest.raises(WeightsError, match="differ in embeddings/norm/bias, .*, which they share; want two"):
    weights.load(mixed)
  edit_config(mixed / "generator", electra_tie="none")
  with pytest.raises(WeightsError, match="electra_tie is embeddings, none, want embeddings, all or none in both"):
    weights.load(mixed)
  edit_config(mixed / "discriminator", electra_tie="none")
  found = weights.load(mixed)
  assert "embeddings" in found.params["generator"] and found.model.config.tie == "none"


def test_networks_of_hugging_face_share_their_tables_unless_they_say_otherwise(tmp_path):
  params = save(PAIRS["electra"], tmp_path / "both")
  for name in ("discriminator", "generator"):
    edit_config(tmp_path / "both" / name, electra_tie=None)
  found = weights.load(tmp_path / "both")
  assert found.model == PAIRS["electra"].model
  assert_same(params, found.params)


def test_two_towers_have_no_published_layout(tmp_path):
  model = PAIRS["electra"].model
  towers = type(model)(dataclasses.replace(model.config, two_towers=True, heads_on_top=("mlm",)))
  with pytest.raises(WeightsError, match="two towers .* has no published layout"):
    save(Case("electra", towers), tmp_path / "x")


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("recipe", "variant"),
  [
    (bert, "base"), (bert, "tiny"), (roberta, "large"), (roberta, "tiny"), (albert, "xxlarge"), (albert, "tiny"),
    (albert, "base,share=attention"), (albert, "base,groups=3,inner=2"), (spanbert, "base"), (electra, "small"),
    (electra, "base"), (electra, "tiny"),
  ],
)  # fmt: skip
def test_every_recipes_model_has_a_name_for_every_parameter(recipe, variant):
  config = recipe.get_config(variant)
  model = build(config)
  if config.model.name == "electra":
    own = {entry.path for table in electra_tables.both(model.config).values() for entry in table.entries}
  else:
    family = "bert" if config.model.name == "spanbert" else config.model.name
    own = {entry.path for entry in TABLES[family](model.config).entries}
  assert own == named_leaves(shapes_of(model)).keys()
