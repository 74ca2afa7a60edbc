"""Recipes hold the published numbers."""

import re

import pytest

from configs import bert
from trainer.config import load, stages

TINY, BASE = "configs/bert.py:tiny", "configs/bert.py:base"

# --- BERT ------------------------------------------------------------------------------------------------------------


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


def test_length_128_for_90_percent_of_the_steps_then_512():
  first, second = stages(load(BASE))
  assert (first.start, first.steps, first.length, first.batch_size, first.max_predictions) == (0, 900_000, 128, 256, 20)
  assert (second.start, second.end, second.length, second.max_predictions) == (900_000, 1_000_000, 512, 77)
  assert not second.reset_optimizer
  assert second.freeze == second.copy == ()


# --- the others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("variant", "lr", "warmup", "steps", "batch"),
  [
    ("roberta.py:base", 6e-4, 24_000, 500_000, 8192),
    ("roberta.py:large", 4e-4, 30_000, 500_000, 8192),
    ("roberta.py:base_2k", 5e-4, 10_000, 125_000, 2048),
    ("albert.py:xxlarge", 0.00176, 3125, 125_000, 4096),
    ("electra.py:small", 5e-4, 10_000, 1_000_000, 128),
    ("electra.py:base", 2e-4, 10_000, 766_000, 256),
    ("electra.py:large", 2e-4, 10_000, 400_000, 2048),
    ("spanbert.py:large", 1e-4, 10_000, 2_400_000, 256),
  ],
)
def test_published_schedules(variant, lr, warmup, steps, batch):
  config = load(f"configs/{variant}")
  assert (config.optimizer.lr, config.optimizer.warmup_steps, config.steps, config.batch_size) == (
    lr, warmup, steps, batch,
  )  # fmt: skip


def test_roberta_departs_from_bert_where_the_paper_says():
  config = load("configs/roberta.py:base")
  optimizer, data = config.optimizer, config.data
  assert (optimizer.b2, optimizer.eps, optimizer.clip, optimizer.decay_exclude) == (0.98, 1e-6, 0.0, ())
  assert (data.format, data.static_masks, data.mask_specials, config.objective.pair) == (
    "full_sentences", False, True, "none",
  )  # fmt: skip
  assert (config.model.types, config.model.norm_eps, config.model.vocab_size) == (0, 1e-5, 50_265)
  assert load("configs/roberta.py:base,format=sentence_pairs").objective.pair == "nsp"


@pytest.mark.parametrize(
  ("size", "length", "rate", "slots", "width"),
  [("small", 128, 0.15, 19, 64), ("small_plus", 512, 0.15, 79, 256), ("base", 512, 0.15, 79, 256),
   ("large", 512, 0.25, 130, 256)],
)  # fmt: skip
def test_electra_sizes(size, length, rate, slots, width):
  config = load(f"configs/electra.py:{size}")
  assert (config.data.length, config.data.mask_rate, config.data.max_predictions) == (length, rate, slots)
  assert config.model.generator_hidden == width and config.model.generator_layers == config.model.layers


def test_spanbert_trains_the_boundary_term():
  config = load("configs/spanbert.py:base")
  assert (config.objective.sbo, config.model.span_positions, config.data.max_span) == (1.0, 15, 10)
  assert load("configs/spanbert.py:base,masking=token").objective.sbo == 0.0
