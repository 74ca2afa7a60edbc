"""Nothing wrong gets past the loader: each mistake is one line with the key, what is wanted and the nearest name."""

import json

import pytest
from ml_collections import ConfigDict

from trainer.config import load, to_json, validate
from trainer.rules import ConfigError

TINY = "configs/bert.py:tiny"

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
  ({"optimizer.learning_rate": "3"}, "optimizer.learning_rate", "mean optimizer.lr?"),
  ({"optimizer.wd": "3"}, "optimizer.wd", "mean optimizer.weight_decay?"),
  ({"lr": "3"}, "lr", "optimizer.lr"),
  ({"warmup_steps": "3"}, "warmup_steps", "optimizer.warmup_steps"),
  ({"data.mask_rte": "0.1"}, "data.mask_rte", "data.mask_rate"),
  ({"mesh.modle": "2"}, "mesh.modle", "mesh.model"),
  ({"Seed": "2"}, "Seed", "seed"),
  ({"model": "2"}, "model", "model.hidden"),
  ({"model.hidden.size": "2"}, "model.hidden.size", "model.hidden"),
  ({"": "2"}, "config key", "did you mean"),
  ({"recipe": "configs/other.py"}, "recipe", "--config"),
  ({"stages.0.steps": "3"}, "stages.0.steps", "0 stages"),
  # of another type
  ({"model.hidden": "wide"}, "model.hidden", "whole number"),
  ({"model.hidden": "1.5"}, "model.hidden", "whole number"),
  ({"steps": "1e3"}, "steps", "whole number"),
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
  ({"mesh.data": "-2"}, "mesh.data", "-1"),
  ({"mesh.model": "0"}, "mesh.model", "at least 1"),
  ({"data.length": "4"}, "data.length", "8"),
  ({"data.pack": "0"}, "data.pack", "1 to 255"),
  ({"data.passes": "0"}, "data.passes", "at least 1"),
  ({"data.workers": "-1"}, "data.workers", "at least 0"),
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
  ({"data.short_by": "documents"}, "data.short_by", "did you mean document"),
  ({"data.separators": "none"}, "data.separators", "sentence, document"),
  ({"data.words": "test"}, "data.words", "did you mean text"),
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
  ({"stages": "({'steps': 5},)"}, "stages add up to 5", "set --config.steps=5"),
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
  assert TINY in line


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
    (lambda v: v.update(sead=1), ("sead", "seed", "config.json")),
    (lambda v: v.pop("seed"), ("seed", "missing", "config.json")),
    (lambda v: without(v, "model.hidden"), ("model.hidden", "missing", "128", "config.json")),
    (lambda v: v.pop("optimizer"), ("optimizer.", "missing")),
    (lambda v: v.pop("recipe"), ("recipe",)),
    (lambda v: v.update(recipe="configs/gone.py"), ("configs/gone.py", "configs/bert.py")),
    (lambda v: v.update(recipe=None), ("recipe",)),
    (lambda v: v.update(stages=[{"steps": 5}]), ("stages add up to 5", "--config.steps=5")),
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


@pytest.mark.parametrize(("key", "value"), [("steps", None), ("optimizer.lr", float("nan")), ("model.remat", "all")])
def test_a_config_changed_in_memory_is_checked_again(key, value):
  values = load(TINY).to_dict()
  *groups, name = key.split(".")
  group = values
  for step in groups:
    group = group[step]
  group[name] = value
  with pytest.raises(ConfigError) as error:
    validate(ConfigDict(values))
  line = line_of(error)
  assert key in line
  assert repr(value) in line
  assert TINY in line


def test_a_config_cannot_grow_keys():
  with pytest.raises(AttributeError):
    load(TINY).sed = 1
