"""Recipes hold the published numbers, every key is read, and nothing wrong gets past the loader."""

import ast
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import bert, common
from trainer.command import Flag, parse_command
from trainer.config import (
  FREE_ON_RESUME, difference, flatten, from_json, load, stage_at, stages, to_json, validate,
)  # fmt: skip
from trainer.rules import RULES, ConfigError

ROOT = Path(__file__).resolve().parent.parent
TINY, BASE = "configs/bert.py:tiny", "configs/bert.py:base"
SETTINGS = [f"{name}={value}" for name, values in bert.SETTINGS.items() if values is not int for value in values]
VARIANTS = [*bert.SIZES, *(f"base,{setting}" for setting in SETTINGS), "base,length=512", "tiny,length=64"]
COMBINED = "base,format=doc_sentences,masking=whole_word,masks=dynamic,length=256"


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*VARIANTS, COMBINED])
def test_every_variant_is_valid_and_survives_its_saved_form(variant):
  config = load(f"configs/bert.py:{variant}")
  saved = to_json(config)
  again = from_json(saved)
  validate(again)
  assert again.to_dict() == config.to_dict()
  assert to_json(again) == saved
  assert difference(config, again) == []
  assert json.loads(saved)["schema"] == 1


def parameters(config):
  """Encoder with pooler, and the heads for masked tokens and pairs, from the shapes alone."""
  model, h = config.model, config.model.hidden
  tables = (model.vocab_size + model.max_positions + model.types) * h + 2 * h
  layer = 4 * (h * h + h) + 2 * h + (h * model.ffn + model.ffn) + (model.ffn * h + h) + 2 * h
  encoder = tables + model.layers * layer + h * h + h
  return encoder, encoder + (h * h + h) + 2 * h + model.vocab_size + 2 * h + 2


@pytest.mark.parametrize(
  ("variant", "encoder", "with_heads"),
  [
    ("l2_h128", 4_385_920, 4_433_468),
    ("mini", 11_170_560, 11_267_900),
    ("l4_h256", 11_170_560, 11_267_900),
    ("small", 28_763_648, 29_058_876),
    ("medium", 41_373_184, 41_668_412),
    ("base", 109_482_240, 110_106_428),
    ("large", 335_141_888, 336_226_108),
    ("base_cased", 108_310_272, 108_932_934),
    ("large_cased", 333_579_264, 334_661_958),
  ],
)
def test_sizes_give_the_published_parameter_counts(variant, encoder, with_heads):
  assert parameters(load(f"configs/bert.py:{variant}")) == (encoder, with_heads)


def test_the_24_compact_models_are_there_with_heads_of_64():
  compact = [name for name in bert.SIZES if re.fullmatch(r"l\d+_h\d+", name)]
  assert len(compact) == 24
  for name in compact:
    model = load(f"configs/bert.py:{name}").model
    assert name == f"l{model.layers}_h{model.hidden}"
    assert (model.hidden // model.heads, model.ffn) == (64, 4 * model.hidden)


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_pretraining_recipe_is_the_published_one(size):
  config = load(f"configs/bert.py:{size}")
  assert (config.optimizer.lr, config.optimizer.warmup_steps, config.steps, config.batch_size) == (
    1e-4, 10_000, 1_000_000, 256,
  )  # fmt: skip
  optimizer = config.optimizer
  assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.weight_decay, optimizer.clip) == (
    0.9, 0.999, 1e-6, 0.01, 1.0,
  )  # fmt: skip
  assert (optimizer.bias_correction, optimizer.schedule) == (False, "bert")
  model, data = config.model, config.data
  assert (model.dropout, model.attention_dropout, model.norm_eps, model.activation) == (0.1, 0.1, 1e-12, "gelu")
  assert (data.mask_rate, data.mask_share, data.random_share, data.short_rate, data.passes) == (0.15, 0.8, 0.1, 0.1, 10)
  assert (data.static_masks, data.static_copies, config.objective.pair) == (True, 10, "nsp")


def test_decay_leaves_out_norms_and_biases_and_nothing_else():
  exclude = load(BASE).optimizer.decay_exclude
  free = [
    "embeddings/norm/scale", "embeddings/norm/bias", "layers/attention/norm/scale", "layers/ffn/up/bias",
    "heads/mlm/bias", "heads/mlm/norm/scale", "pooler/dense/bias",
  ]  # fmt: skip
  decayed = [
    "embeddings/word/embedding", "embeddings/position/embedding", "layers/attention/query/kernel",
    "layers/ffn/down/kernel", "pooler/dense/kernel", "heads/mlm/dense/kernel", "heads/pair/kernel",
  ]  # fmt: skip
  assert [path for path in free + decayed if any(re.search(p, path) for p in exclude)] == free


def test_full_sentences_drop_the_pairs():
  assert load("configs/bert.py:base,format=full_sentences").objective.pair == "none"
  assert load("configs/bert.py:base,pair=none").data.format == "segment_pairs"


def test_tiny_is_a_demo_of_one_stage_in_float32():
  config = load("configs/bert.py")
  assert config.to_dict() | {"recipe": ""} == load(TINY).to_dict() | {"recipe": ""}
  assert (config.dtype, config.model.vocab_size, config.data.length, len(stages(config))) == ("float32", 8192, 128, 1)


# --- stages --------------------------------------------------------------------------------------------------------


def test_length_128_for_90_percent_of_the_steps_then_512():
  first, second = stages(load(BASE))
  assert (first.start, first.steps, first.length, first.batch_size, first.max_predictions) == (0, 900_000, 128, 256, 20)
  assert (second.start, second.end, second.length, second.max_predictions) == (900_000, 1_000_000, 512, 77)
  assert not second.reset_optimizer
  assert second.freeze == second.copy == ()


@pytest.mark.parametrize(("step", "stage"), [(0, 0), (899_999, 0), (900_000, 1), (999_999, 1), (1_000_000, 1)])
def test_the_stage_follows_from_the_step(step, stage):
  resolved = stages(load(BASE))
  assert stage_at(resolved, step) is resolved[stage]


def test_stages_take_what_they_do_not_say_from_the_config():
  text = "({'steps': 2, 'freeze': ('layers/',), 'copy': {'a': 'b'}}, {'steps': 3, 'batch_size': 8, 'reset_optimizer': True})"
  config = load(TINY, {"steps": "5", "optimizer.warmup_steps": "1", "stages": text, "data.length": "64"})
  first, second = stages(config)
  assert (first.steps, first.length, first.batch_size, first.freeze, first.copy) == (
    2, 64, 32, ("layers/",), (("a", "b"),),
  )  # fmt: skip
  assert (second.start, second.steps, second.batch_size, second.reset_optimizer) == (2, 3, 8, True)
  assert stages(from_json(to_json(config))) == (first, second)


def test_one_key_of_one_stage_can_be_overridden():
  config = load(BASE, {"stages.1.length": "256", "stages.1.max_predictions": "38"})
  assert [stage.length for stage in stages(config)] == [128, 256]


# --- overrides, saved configs, resume --------------------------------------------------------------------------------


def test_overrides_are_read_as_the_type_of_their_key():
  config = load(
    TINY,
    {
      "steps": "10_000", "optimizer.lr": "1e-3", "optimizer.clip": "2", "data.lowercase": "False", "optimizer.b1": 0,
      "optimizer.decay_exclude": "bias$,norm/", "init_from": "run", "init_map": "(('encoder', 'layers'),)",
      "objective.loss_scale": "256",
    },
  )  # fmt: skip
  assert (config.steps, config.optimizer.lr, config.optimizer.clip, config.optimizer.b1) == (10_000, 1e-3, 2.0, 0.0)
  assert isinstance(config.optimizer.clip, float)
  assert config.data.lowercase is False
  assert config.optimizer.decay_exclude == ("bias$", "norm/")
  assert config.init_map == (("encoder", "layers"),)
  assert config.objective.loss_scale == "256"


def test_a_saved_config_is_a_config(tmp_path):
  config = load(TINY, {"model.layers": "3"})
  (tmp_path / "config.json").write_text(to_json(config))
  assert load(str(tmp_path / "config.json")).to_dict() == config.to_dict()
  assert load(str(tmp_path / "config.json"), {"model.layers": "4"}).model.layers == 4


def test_a_recipe_of_ones_own_works_from_anywhere(tmp_path, monkeypatch):
  recipe = tmp_path / "mine.py"
  recipe.write_text("from configs import bert\ndef get_config():\n  c = bert.get_config()\n  c.seed = 7\n  return c\n")
  monkeypatch.chdir(tmp_path)
  assert load("mine.py").seed == 7
  assert load(TINY).recipe == TINY


def test_difference_lists_key_old_and_new():
  old, new = load(TINY), load(TINY, {"optimizer.lr": "0.002", "log_every": "7", "mesh.model": "2"})
  assert difference(old, new) == ["log_every: 20 -> 7", "mesh.model: 1 -> 2", "optimizer.lr: 0.001 -> 0.002"]
  assert difference(old, new, FREE_ON_RESUME) == ["optimizer.lr: 0.001 -> 0.002"]
  lines = difference(load(BASE), load(BASE, {"stages.0.length": "64"}))
  assert lines == ["stages.0.length: 128 -> 64"]
  shorter = difference(load(BASE), load("configs/bert.py:base,length=512"), FREE_ON_RESUME)
  assert "stages.0.steps: 900000 -> (none)" in shorter


def test_keys_that_are_free_on_resume_exist_and_change_no_update():
  assert set(flatten(load(TINY))) >= FREE_ON_RESUME
  touching = ("seed", "steps", "batch_size", "micro_batches", "dtype", "stages", "data.static_copies", "data.dir")
  assert not FREE_ON_RESUME & {*touching, *(k for k in flatten(load(TINY)) if k.startswith(("model", "optimizer", "objective")))}


# --- wrong configs ---------------------------------------------------------------------------------------------------

# overrides of tiny -> what the one line must hold: the key, and what to do
WRONG = [
  # typed wrong
  ({"modle.hiden": "3"}, "modle.hiden", "model.hidden"),
  ({"model.hiden": "3"}, "model.hiden", "model.hidden"),
  ({"hidden": "3"}, "hidden", "model.hidden"),
  ({"batchsize": "3"}, "batchsize", "batch_size"),
  ({"data.batch_size": "3"}, "data.batch_size", "batch_size"),
  ({"optimiser.lr": "3"}, "optimiser.lr", "optimizer.lr"),
  ({"optimizer.learning_rate": "3"}, "optimizer.learning_rate", "optimizer."),
  ({"lr": "3"}, "lr", "optimizer.lr"),
  ({"warmup_steps": "3"}, "warmup_steps", "optimizer.warmup_steps"),
  ({"data.mask_rte": "0.1"}, "data.mask_rte", "data.mask_rate"),
  ({"mesh.modle": "2"}, "mesh.modle", "mesh.model"),
  ({"Seed": "2"}, "Seed", "seed"),
  ({"model": "2"}, "model", "model.hidden"),
  ({"model.hidden.size": "2"}, "model.hidden.size", "model.hidden"),
  ({"": "2"}, "config key", "did you mean"),
  ({"recipe": "configs/other.py"}, "recipe", "did you mean"),
  ({"stages.0.steps": "3"}, "stages.0.steps", "0 stages"),
  # of another type
  ({"model.hidden": "wide"}, "model.hidden", "whole number"),
  ({"model.hidden": "1.5"}, "model.hidden", "whole number"),
  ({"steps": "1e3"}, "steps", "whole number"),
  ({"steps": ""}, "steps", "whole number"),
  ({"steps": None}, "steps", "whole number"),
  ({"steps": True}, "steps", "whole number"),
  ({"optimizer.lr": "fast"}, "optimizer.lr", "a number"),
  ({"optimizer.lr": None}, "optimizer.lr", "a number"),
  ({"data.lowercase": "1"}, "data.lowercase", "true or false"),
  ({"data.lowercase": 1}, "data.lowercase", "true or false"),
  ({"data.source": None}, "data.source", "text"),
  ({"data.source": 3}, "data.source", "text"),
  ({"stages": 3}, "stages", "tuple"),
  ({"optimizer.decay_exclude": "('a'"}, "optimizer.decay_exclude", "tuple"),
  ({"init_map": "(1, 2)", "init_from": "run"}, "init_map", "pairs"),
  # out of range
  ({"seed": "-1"}, "seed", "from 0"),
  ({"steps": "0"}, "steps", "at least 1"),
  ({"batch_size": "-32"}, "batch_size", "at least 1"),
  ({"micro_batches": "0"}, "micro_batches", "at least 1"),
  ({"eval_every": "0"}, "eval_every", "at least 1"),
  ({"save_every": "0"}, "save_every", "at least 1"),
  ({"log_every": "-5"}, "log_every", "at least 1"),
  ({"keep_checkpoints": "0"}, "keep_checkpoints", "at least 1"),
  ({"max_skips": "0"}, "max_skips", "at least 1"),
  ({"max_rollbacks": "-1"}, "max_rollbacks", "at least 0"),
  ({"mesh.data": "0"}, "mesh.data", "-1"),
  ({"mesh.data": "-2"}, "mesh.data", "-1"),
  ({"mesh.model": "0"}, "mesh.model", "at least 1"),
  ({"data.length": "4"}, "data.length", "8"),
  ({"data.pack": "0"}, "data.pack", "1 to 255"),
  ({"data.holdout": "1.0"}, "data.holdout", "below 1"),
  ({"data.mask_rate": "0"}, "data.mask_rate", "above 0"),
  ({"data.mask_rate": "1.5"}, "data.mask_rate", "at most 1"),
  ({"data.short_rate": "-0.1"}, "data.short_rate", "0 to 1"),
  ({"data.mask_share": "nan"}, "data.mask_share", "0 to 1"),
  ({"data.source": " "}, "data.source", "name of a corpus"),
  ({"data.language": "English"}, "data.language", "en"),
  ({"model.dropout": "1.0"}, "model.dropout", "below 1"),
  ({"model.attention_dropout": "-0.1"}, "model.attention_dropout", "below 1"),
  ({"model.layers": "0"}, "model.layers", "at least 1"),
  ({"model.norm_eps": "0"}, "model.norm_eps", "above 0"),
  ({"model.vocab_size": "2"}, "model.vocab_size", "at least 8"),
  ({"optimizer.lr": "nan"}, "optimizer.lr", "finite"),
  ({"optimizer.lr": "inf"}, "optimizer.lr", "finite"),
  ({"optimizer.lr": "-1e-4"}, "optimizer.lr", "above 0"),
  ({"optimizer.weight_decay": "-inf"}, "optimizer.weight_decay", "finite"),
  ({"optimizer.weight_decay": "nan"}, "optimizer.weight_decay", "finite"),
  ({"optimizer.b2": "1"}, "optimizer.b2", "below 1"),
  ({"optimizer.clip": "-1"}, "optimizer.clip", "at least 0"),
  ({"optimizer.decay_exclude": "bias("}, "optimizer.decay_exclude", "regular expressions"),
  ({"objective.loss_scale": "nan"}, "objective.loss_scale", "mean, sum or a number"),
  ({"objective.loss_scale": "0"}, "objective.loss_scale", "mean, sum or a number"),
  # none of the choices
  ({"dtype": "bf16"}, "dtype", "bfloat16"),
  ({"dtype": "float16"}, "dtype", "float32"),
  ({"mesh.shard_params": "optimiser"}, "mesh.shard_params", "did you mean optimizer"),
  ({"data.format": "full_sentence"}, "data.format", "did you mean full_sentences"),
  ({"data.masking": "wholeword"}, "data.masking", "did you mean whole_word"),
  ({"model.activation": "gelu_new"}, "model.activation", "did you mean gelu"),
  ({"model.remat": "True"}, "model.remat", "none, dots, full"),
  ({"objective.pair": "npss"}, "objective.pair", "did you mean nsp"),
  ({"optimizer.name": "adam"}, "optimizer.name", "did you mean adamw"),
  ({"optimizer.schedule": "lineal"}, "optimizer.schedule", "did you mean linear"),
  ({"model.name": "roberta"}, "model.name", "'bert'"),
  ({"objective.name": "replaced"}, "objective.name", "'masked'"),
  # against each other
  ({"micro_batches": "3"}, "batch_size", "multiple of micro_batches = 3"),
  ({"mesh.data": "3"}, "batch_size", "1 x 3"),
  ({"model.heads": "3"}, "model.hidden", "multiple of model.heads = 3"),
  ({"data.mask_share": "0.95"}, "data.mask_share + data.random_share", "at most 1"),
  ({"data.length": "1024"}, "data.length", "model.max_positions = 512"),
  ({"data.max_predictions": "129"}, "data.max_predictions", "data.length = 128"),
  ({"steps": "100"}, "optimizer.warmup_steps", "steps = 100"),
  ({"data.format": "doc_sentences"}, "objective.pair", "set --config.objective.pair=none"),
  ({"model.types": "1"}, "model.types", "at least 2"),
  ({"init_map": "(('a', 'b'),)"}, "init_map", "init_from"),
  # stages
  ({"stages": "({'steps': 5},)"}, "steps is 3000", "set --config.steps=5"),
  ({"stages": "({'length': 128},)"}, "stages.0.steps", "missing"),
  ({"stages": "({'steps': 3000, 'lenght': 128},)"}, "stages.0.lenght", "stages.0.length"),
  ({"stages": "({'steps': 3000, 'length': 1024},)"}, "stages.0.length", "model.max_positions = 512"),
  ({"stages": "({'steps': 3000, 'length': 16},)"}, "stages.0.max_predictions", "stages.0.length = 16"),
  ({"stages": "({'steps': 3000, 'batch_size': 7},)", "micro_batches": "2"}, "stages.0.batch_size", "multiple"),
  ({"stages": "({'steps': 3000.0},)"}, "stages.0.steps", "whole number"),
  ({"stages": "({'steps': 0},)"}, "stages.0.steps", "at least 1"),
  ({"stages": "({'steps': 3000, 'freeze': 'layers'},)"}, "stages.0.freeze", "tuple"),
  ({"stages": "({'steps': 3000, 'freeze': ('lay(',)},)"}, "stages.0.freeze", "regular expressions"),
  ({"stages": "({'steps': 3000, 'copy': {'a': 1}},)"}, "stages.0.copy", "parameter paths"),
  ({"stages": "3000,200"}, "stages.0", "dict"),
]


def line_of(error):
  line = str(error.value)
  assert "\n" not in line
  assert len(line) < 400
  return line


@pytest.mark.parametrize(("overrides", "key", "hint"), WRONG, ids=[str(case[0]) for case in WRONG])
def test_a_wrong_value_is_one_line_with_key_and_hint(overrides, key, hint):
  with pytest.raises(ConfigError) as error:
    load(TINY, overrides)
  line = line_of(error)
  assert key in line
  assert hint in line


@pytest.mark.parametrize(
  ("source", "parts"),
  [
    ("configs/bert.py:tyny", ("tyny", "tiny")),
    ("configs/bert.py:bass", ("bass", "base")),
    ("configs/bert.py:l4_h250", ("l4_h250", "l4_h256")),
    ("configs/bert.py:", ("''", "tiny")),
    ("configs/bert.py:base,formt=full_sentences", ("formt", "format")),
    ("configs/bert.py:base,format=full_sentence", ("format='full_sentence'", "full_sentences")),
    ("configs/bert.py:base,length=long", ("length='long'", "positive whole number")),
    ("configs/bert.py:base,length=0", ("length='0'", "positive whole number")),
    ("configs/bert.py:base,length=1024", ("data.length", "model.max_positions = 512")),
    ("configs/bert.py:base,pair=nsp,pair=none", ("pair", "twice")),
    ("configs/bert.py:base,format=full_sentences,pair=nsp", ("objective.pair", "none")),
    ("configs/brt.py:tiny", ("configs/brt.py", "configs/bert.py")),
    ("configs/bert:tiny", ("configs/bert", "configs/bert.py")),
    ("bert", ("bert", "configs/bert.py")),
    ("configs/common.py", ("configs/common.py", "get_config")),
    ("runs/none/config.json", ("runs/none/config.json", "no such file")),
    ("configs", ("configs", "want FILE.py")),
  ],
)
def test_a_wrong_recipe_is_one_line_with_the_nearest(source, parts):
  with pytest.raises(ConfigError) as error:
    load(source)
  line = line_of(error)
  assert all(part in line for part in parts), line


@pytest.mark.parametrize(
  ("recipe", "part"),
  [
    ("def get_config(:\n", "SyntaxError"),
    ("import nothing_of_that_name\n", "nothing_of_that_name"),
    ("def get_config():\n  return 3\n", "no ConfigDict"),
    ("def get_config():\n  raise KeyError('two\\nlines')\n", "KeyError"),
  ],
)
def test_a_broken_recipe_is_one_line(tmp_path, recipe, part):
  (tmp_path / "mine.py").write_text(recipe)
  with pytest.raises(ConfigError) as error:
    load(str(tmp_path / "mine.py"))
  line = line_of(error)
  assert "mine.py" in line
  assert part in line


def without(values, key):
  *groups, name = key.split(".")
  for group in groups:
    values = values[group]
  del values[name]


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    (lambda v: v.pop("schema"), ("schema",)),
    (lambda v: v.update(schema=99), ("schema 99", "want 1")),
    (lambda v: v.update(sead=1), ("sead", "seed", TINY)),
    (lambda v: v.pop("seed"), ("seed", "missing", TINY)),
    (lambda v: without(v, "model.hidden"), ("model.hidden", "missing", "128")),
    (lambda v: v.pop("optimizer"), ("optimizer.", "missing")),
    (lambda v: v.pop("recipe"), ("recipe",)),
    (lambda v: v.update(recipe="configs/gone.py"), ("configs/gone.py", "configs/bert.py")),
    (lambda v: v.update(recipe=None), ("recipe",)),
    (lambda v: v.update(steps=None), ("steps", "None", "whole number")),
    (lambda v: v.update(model=3), ("model", "unknown")),
    (lambda v: v["model"].update(dropout=0), ("model.dropout", "a number")),
    (lambda v: v["optimizer"].update(lr=float("nan")), ("optimizer.lr", "nan", "finite")),
    (lambda v: v["model"].update(hidden=[1]), ("model.hidden", "whole number")),
  ],
)
def test_a_saved_config_edited_wrongly_is_one_line(tmp_path, change, parts):
  values = json.loads(to_json(load(TINY)))
  change(values)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(values))
  with pytest.raises(ConfigError) as error:
    load(str(path))
  line = line_of(error)
  assert all(part in line for part in parts), line


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_saved_config_is_one_line(tmp_path, content):
  path = tmp_path / "config.json"
  path.write_bytes(content)
  with pytest.raises(ConfigError) as error:
    load(str(path))
  assert str(path) in line_of(error)


def test_a_config_cannot_grow_keys():
  with pytest.raises(AttributeError):
    load(TINY).sed = 1


# --- command lines -----------------------------------------------------------------------------------------------------

FLAGS = (
  Flag("workdir", "", "where the run lives", required=True),
  Flag("allow_change", False, "go on with a changed config"),
  Flag("limit", 20, "steps"),
)
GOOD = ["--config=configs/bert.py:tiny", "--workdir=here"]


def test_a_command_line_gives_config_and_flags():
  command = parse_command([*GOOD, "--config.model.layers=3", "--allow_change", "--limit", "5"], FLAGS)
  assert command.config.model.layers == 3
  assert vars(command.flags) == {"workdir": "here", "allow_change": True, "limit": 5}
  assert parse_command(GOOD, FLAGS).flags.allow_change is False
  assert command.source == "configs/bert.py:tiny"


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    (["--workdir=here"], ("--config", "configs/bert.py:tiny")),
    (GOOD[:1], ("--workdir", "missing", "where the run lives")),
    ([*GOOD, "--workdri=there"], ("--workdri", "--workdir")),
    ([*GOOD, "--batch_size=8"], ("--batch_size", "--config.batch_size")),
    ([*GOOD, "--conifg.steps=8"], ("--conifg.steps", "--config")),
    ([*GOOD, "--workdir=there"], ("--workdir", "twice")),
    ([*GOOD, "--config=configs/bert.py:base"], ("--config", "twice")),
    ([*GOOD, "--config.steps=4", "--config.steps=5"], ("--config.steps", "twice")),
    ([*GOOD, "--limit=many"], ("--limit", "int")),
    ([*GOOD, "--allow_change=maybe"], ("--allow_change", "true or false")),
    ([*GOOD, "--config.steps"], ("--config.steps", "no value")),
    ([*GOOD, "steps=5"], ("steps=5", "--flag=value")),
    ([*GOOD, "--"], ("'--'", "--flag=value")),
    ([*GOOD, "--config.=5"], ("config key", "did you mean")),
  ],
)
def test_a_wrong_command_line_is_one_line(arguments, parts):
  with pytest.raises(ConfigError) as error:
    parse_command(arguments, FLAGS)
  line = line_of(error)
  assert all(part in line for part in parts), line


PROGRAM = """
import sys
from trainer.command import Flag, parse_or_exit
command = parse_or_exit((Flag("workdir", "", "where the run lives"),), "Trains.")
assert "jax" not in sys.modules and "flax" not in sys.modules
print(command.config.model.layers)
"""


def run(*arguments):
  start = time.monotonic()
  done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
  return done, time.monotonic() - start


def test_a_wrong_config_ends_a_program_in_seconds_with_one_line_and_code_2():
  done, seconds = run("--config=configs/bert.py:tiny", "--config.modle.hiden=3")
  assert (done.returncode, done.stdout) == (2, "")
  assert len(done.stderr.splitlines()) == 1
  assert "modle.hiden" in done.stderr
  assert "model.hidden" in done.stderr
  assert "configs/bert.py:tiny" in done.stderr
  assert seconds < 5


def test_loading_and_checking_a_config_imports_no_jax():
  done, seconds = run("--config=configs/bert.py:tiny", "--config.model.layers=3")
  assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")
  assert seconds < 5


def test_help_names_the_flags():
  done, _ = run("--help")
  assert done.returncode == 0
  assert "--workdir" in done.stdout
  assert "--config.KEY=VALUE" in done.stdout


# --- the recipe and the code that reads it ---------------------------------------------------------------------------


def test_choices_are_those_of_the_code():
  from data.examples import FORMATS
  from data.masking import STRATEGIES
  from data.tokenizers import WORDS
  from models.layers import ACTIVATIONS
  from models.sharding import SHARD_OVER_DATA
  from models.stack import REMAT
  from objectives.optimizers import SCHEDULES

  built = {
    "data.format": FORMATS, "data.masking": STRATEGIES, "data.words": WORDS, "model.activation": ACTIVATIONS,
    "mesh.shard_params": SHARD_OVER_DATA, "model.remat": REMAT, "optimizer.schedule": SCHEDULES,
  }  # fmt: skip
  for key, names in built.items():
    rule = next(rule for pattern, rule in RULES if re.fullmatch(pattern, key))
    assert set(rule.choices) == set(names), key


def test_every_rule_has_a_key():
  keys = [*flatten(load(TINY)), *(f"stages.0.{name}" for name in ("steps", "length", "freeze"))]
  assert [pattern for pattern, _ in RULES if not any(re.fullmatch(pattern, key) for key in keys)] == []


def test_base_keys_are_in_every_recipe():
  assert set(flatten(common.base())) <= set(flatten(load(TINY)))


def reads():
  """(receiver, attribute) of every attribute that the code reads, and the groups handed on whole as **config.group."""
  pairs, whole = set(), set()
  folders = ("data", "models", "objectives", "trainer")
  files = [*(file for folder in folders for file in (ROOT / folder).rglob("*.py")), *ROOT.glob("*.py")]
  for file in files:
    if file.name == "rules.py":  # checks values, uses none
      continue
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        receiver = node.value
        pairs.add((getattr(receiver, "attr", getattr(receiver, "id", "")), node.attr))
      if isinstance(node, ast.keyword) and node.arg is None:
        whole |= {part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute)}
  return pairs, whole


def unread(config):
  pairs, whole = reads()
  missing = []
  for key in flatten(config):
    *groups, name = key.split(".")
    group = groups[-1] if groups else "config"
    handed_on = group in whole and any(attribute == name for _, attribute in pairs)
    if (group, name) not in pairs and not handed_on:
      missing.append(key)
  return missing


def test_every_key_is_read():
  assert unread(load(TINY)) == []
