"""Recipes and their stages: valid, the same after saving, overridden key by key, and every key is read by the code."""

import ast
import json
import re
from pathlib import Path

import pytest

from configs import albert, bert, common, electra, elmo, finetune, luke, roberta, spanbert
from trainer.config import FREE_ON_RESUME, difference, flatten, from_json, load, stage_at, stages, to_json, validate
from trainer.rules import RULES

ROOT = Path(__file__).resolve().parent.parent
TINY, BASE = "configs/bert.py:tiny", "configs/bert.py:base"
RECIPES = {
  "albert": albert, "bert": bert, "electra": electra, "elmo": elmo, "luke": luke, "roberta": roberta,
  "spanbert": spanbert,
}  # fmt: skip
TINIES = [f"configs/{name}.py:tiny" for name in RECIPES]


def variants(recipe):
  """Every size, and every value of every setting on the base size, or the smallest published one."""
  yield from recipe.SIZES
  size = "base" if "base" in recipe.SIZES else "small"
  for name, values in recipe.SETTINGS.items():
    yield from (f"{size},{name}={value}" for value in ((2, 4) if values is int and name != "length" else ()))
    yield from (f"{size},{name}={value}" for value in (() if values is int else values))


VARIANTS = [f"{name}.py:{variant}" for name, recipe in RECIPES.items() for variant in variants(recipe)]
VARIANTS += ["bert.py:base,length=512", "bert.py:tiny,length=64"]
COMBINED = [
  "bert.py:base,format=doc_sentences,masking=whole_word,masks=dynamic,length=256",
  "albert.py:large,share=ffn,groups=4,inner=2,embedding=256,pair=none,masking=token,optimizer=adamw,release=v2",
  "spanbert.py:large,sequence=pairs,masking=entity,sbo=off",
  "roberta.py:large,format=sentence_pairs,masks=static,masking=whole_word,batch=2048",
  "luke.py:mluke_large,words=whole,entities=keep,lite=on,queries=4",
  "elmo.py:original,softmax=full,input=words,state=reset",
]


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*VARIANTS, *COMBINED])
def test_every_variant_is_valid_and_survives_its_saved_form(variant):
  config = load(f"configs/{variant}")
  saved = to_json(config)
  again = from_json(saved)
  validate(again)
  assert again.to_dict() == config.to_dict()
  assert to_json(again) == saved
  assert difference(config, again) == []
  assert json.loads(saved)["schema"] == 1


# --- stages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "stage"), [(0, 0), (899_999, 0), (900_000, 1), (999_999, 1), (1_000_000, 1)])
def test_the_stage_follows_from_the_step(step, stage):
  resolved = stages(load(BASE))
  assert stage_at(resolved, step) is resolved[stage]


def test_stages_take_what_they_do_not_say_from_the_config():
  first = "{'steps': 2, 'freeze': ('layers/',), 'copy': {'a': 'b'}}"
  text = f"({first}, {{'steps': 3, 'batch_size': 8, 'reset_optimizer': True}})"
  config = load(TINY, {"steps": "5", "optimizer.warmup_steps": "1", "stages": text, "data.length": "64"})
  first, second = stages(config)
  assert (first.steps, first.length, first.batch_size, first.freeze, first.copy) == (
    2, 64, 16, ("layers/",), (("a", "b"),),
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
  assert difference(old, new) == ["log_every: 50 -> 7", "mesh.model: 1 -> 2", "optimizer.lr: 0.0015 -> 0.002"]
  assert difference(old, new, FREE_ON_RESUME) == ["optimizer.lr: 0.0015 -> 0.002"]
  lines = difference(load(BASE), load(BASE, {"stages.0.length": "64"}))
  assert lines == ["stages.0.length: 128 -> 64"]
  shorter = difference(load(BASE), load("configs/bert.py:base,length=512"), FREE_ON_RESUME)
  assert "stages.0.steps: 900000 -> (none)" in shorter


def test_keys_that_are_free_on_resume_exist_and_change_no_update():
  keys = {key for tiny in TINIES for key in flatten(load(tiny))}
  assert {*keys, *flatten(finetune.get_config("semeval"))} >= FREE_ON_RESUME
  touching = ("seed", "steps", "batch_size", "micro_batches", "dtype", "stages", "data.static_copies", "data.dir")
  groups = [key for key in keys if key.startswith(("model.", "optimizer.", "objective."))]
  assert not FREE_ON_RESUME & {*touching, *groups}


# --- the recipe and the code that reads it ---------------------------------------------------------------------------


def test_choices_are_those_of_the_code():
  from data.examples import FORMATS, Options
  from data.masking import STRATEGIES
  from data.tokenizers import WORDS
  from data.tokenizers.training import TRAINERS
  from data.tokenizers.words import SPLITS
  from models import DTYPES
  from models.albert import SHARED
  from models.elmo import ACTIVATIONS as OF_CHARACTERS
  from models.entity_attention import FORMS
  from models.layers import ACTIVATIONS
  from models.sharding import SHARD_OVER_DATA
  from models.stack import REMAT
  from objectives.language import RESET, SOFTMAX
  from objectives.optimizers import SCHEDULES

  built = {
    "data.format": FORMATS, "data.masking": STRATEGIES, "data.words": {*WORDS, *SPLITS}, "dtype": DTYPES,
    "model.activation": {*ACTIVATIONS, *OF_CHARACTERS},
    "objective.softmax": SOFTMAX, "objective.reset": RESET, "mesh.shard_params": SHARD_OVER_DATA, "model.remat": REMAT,
    "optimizer.schedule": SCHEDULES, "data.tokenizer_type": TRAINERS, "model.share": SHARED, "model.attention": FORMS,
  }  # fmt: skip
  for key, names in built.items():
    rule = next(rule for pattern, rule in RULES if re.fullmatch(pattern, key))
    assert set(rule.choices) == set(names), key
  for name in ("short_by", "separators"):
    for choice in next(rule for pattern, rule in RULES if re.fullmatch(pattern, f"data.{name}")).choices:
      assert getattr(Options("segment_pairs", 128, **{name: choice}), name) == choice


def test_every_rule_has_a_key():
  keys = {key for tiny in TINIES for key in flatten(load(tiny))}
  keys |= {f"stages.0.{name}" for name in ("steps", "length", "freeze", "lr")}
  assert [pattern for pattern, _ in RULES if not any(re.fullmatch(pattern, key) for key in keys)] == []


@pytest.mark.parametrize("tiny", TINIES)
def test_base_keys_are_in_every_recipe(tiny):
  assert set(flatten(common.base())) <= set(flatten(load(tiny)))


def reads():
  """(group, key) of every attribute that the code reads, local names of a group (`o = config.optimizer`) undone."""
  pairs = set()
  folders = ("data", "models", "objectives", "trainer")
  files = [*(file for folder in folders for file in (ROOT / folder).rglob("*.py")), *ROOT.glob("*.py")]
  for file in files:
    if file.name == "rules.py":  # checks values, uses none
      continue
    for scope in ast.walk(ast.parse(file.read_text())):
      if isinstance(scope, ast.Module | ast.FunctionDef):
        names = dict(aliases(scope))
        for node in ast.walk(scope):
          if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            receiver = getattr(node.value, "attr", getattr(node.value, "id", ""))
            pairs |= {(receiver, node.attr), (names.get(receiver, receiver), node.attr)}
  return pairs


def aliases(scope):
  """(name, group) of assignments `name = config.group` and `a, b = config.group, config.other`."""
  for node in ast.walk(scope):
    if isinstance(node, ast.Assign):
      for target in node.targets:
        both = (target, node.value)
        pairs = zip(*(side.elts for side in both), strict=False) if all(hasattr(s, "elts") for s in both) else [both]
        yield from ((to.id, by.attr) for to, by in pairs if isinstance(to, ast.Name) and isinstance(by, ast.Attribute))


def unread(config):
  pairs = reads()
  return [key for key in flatten(config) if tuple(f"config.{key}".split(".")[-2:]) not in pairs]


@pytest.mark.parametrize("tiny", TINIES)
def test_every_key_is_read(tiny):
  assert unread(load(tiny)) == []
