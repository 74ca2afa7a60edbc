"""Bert: published parameter counts, initialisation, masks, padding; parameters and optimiser are born sharded."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.bert import COMPACT
from data.synthetic import synthetic_batch
from models.layers import ACTIVATIONS
from models.paths import named_leaves
from models.sharding import ShardingError, axis_names, make_mesh, parameter_shardings
from tests.tenants import BERT, TENANTS, masked_batch
from trainer.config import load
from trainer.programs import Program, Setup, parameter_counts

COUNTS = {  # encoder with pooler, and with the masked-token and next-sentence heads
  "l2_h128": (4_385_920, 4_433_468),
  "mini": (11_170_560, 11_267_900),
  "small": (28_763_648, 29_058_876),
  "medium": (41_373_184, 41_668_412),
  "base": (109_482_240, 110_106_428),
  "large": (335_141_888, 336_226_108),
  "base_cased": (108_310_272, 108_932_934),
  "large_cased": (333_579_264, 334_661_958),
}


def program(variant, devices=1, **overrides):
  config = load(f"configs/bert.py:{variant}", {"batch_size": 8, **overrides})
  setup = Setup.of(config, jax.devices()[:devices])
  return Program(setup, setup.stages[0], synthetic_batch(config, setup.stages[0], 0))


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameter_counts(size):
  made = program(size)
  counts = parameter_counts(made.setup, made.shapes.params)
  total = sum(counts.values())
  assert (total - sum(n for path, n in counts.items() if path.startswith("heads/")), total) == COUNTS[size]


def test_every_compact_model_has_a_size():
  assert len(COMPACT) == 24 and {n for n, _ in COMPACT.values()} == {2, 4, 6, 8, 10, 12}


def test_weights_start_as_a_truncated_normal_of_002():
  """Cut at two sigma and not rescaled, so the standard deviation is 0.0176; biases 0, norms 1 and 0."""
  params = program("tiny", **{"model.init_std": 0.02}).fresh_state().params
  for path, leaf in named_leaves(params).items():
    if path.endswith(("kernel", "embedding")) and leaf.size > 50_000:
      assert abs(float(jnp.std(leaf)) - 0.0176) < 2e-4 and float(jnp.max(jnp.abs(leaf))) <= 0.04, path
    elif not path.endswith(("kernel", "embedding")):
      np.testing.assert_array_equal(leaf, 1.0 if path.endswith("scale") else 0.0, err_msg=path)


def test_erf_and_tanh_gelu_differ_by_at_most_47e_5():
  x = jnp.linspace(-6, 6, 100_001)
  gap = jnp.abs(ACTIVATIONS["gelu"](x) - ACTIVATIONS["gelu_tanh"](x))
  assert 4.6e-4 < float(gap.max()) < 4.8e-4 and 2.6 < abs(float(x[gap.argmax()])) < 2.8


def encode(batch, params, ids=None):
  model = TENANTS["masked"][0].model
  tokens = batch.tokens
  return model.apply({"params": params}, tokens.ids if ids is None else ids, tokens).hidden


def test_padding_changes_no_real_token():
  batch = masked_batch(0)
  params = TENANTS["masked"][0].init(jax.random.key(0), batch)
  other = np.where(batch.tokens.segments > 0, batch.tokens.ids, 7)
  real = batch.tokens.segments > 0
  np.testing.assert_array_equal(np.asarray(encode(batch, params))[real], np.asarray(encode(batch, params, other))[real])


def test_padded_vocabulary_rows_are_never_predicted_and_never_train():
  """Rows past the vocabulary get probability 0 and gradient 0, so a mesh of any size trains the same model."""
  batch, objective = masked_batch(0), TENANTS["masked"][0]
  params = objective.init(jax.random.key(0), batch)
  hidden = encode(batch, params)
  logits = objective.model.apply({"params": params}, hidden, batch.positions, method="token_logits")
  assert logits.shape[-1] == 128 and BERT.vocab_size == 96
  assert float(jax.nn.softmax(logits)[..., 96:].max()) == 0.0


def test_state_is_born_sharded_with_its_optimiser():
  made = program("tiny", devices=8, **{"mesh.model": 2, "mesh.shard_params": "optimizer"})
  state = made.fresh_state()
  kernel = "layers/ffn/up/kernel"
  assert named_leaves(state.params)[kernel].sharding.spec == jax.sharding.PartitionSpec(None, None, "model")
  moments = {path: leaf for path, leaf in named_leaves(state.opt).items() if path.endswith(kernel)}
  assert len(moments) == 2
  assert all(leaf.sharding.spec == jax.sharding.PartitionSpec(None, "data", "model") for leaf in moments.values())


def test_a_leaf_without_a_rule_and_a_rule_without_a_leaf_are_errors_that_name_them():
  with pytest.raises(ShardingError, match="parameter new/kernel .* has no sharding rule; sharding rule \\^old\\$"):
    axis_names({"new": {"kernel": np.zeros((2, 2))}}, ((r"^old$", ("embed",)),))


def test_heads_that_do_not_divide_the_mesh_stay_whole_and_say_so(caplog):
  shapes = {"query": jax.ShapeDtypeStruct((12, 3, 4), jnp.float32)}
  with caplog.at_level("INFO"):
    placed = parameter_shardings(shapes, (("^query$", ("embed", "heads", "head_dim")),), make_mesh(4, 2))
  assert placed["query"].spec == jax.sharding.PartitionSpec(None, None, None)
  assert "parameter query: axis heads of 3 stays whole on mesh.model=2" in caplog.text


def test_a_mesh_that_does_not_fit_says_what_is_here():
  with pytest.raises(ShardingError, match="got data=3 x model=2, want a product of 8"):
    make_mesh(3, 2)


def test_bfloat16_steps_have_no_float32_products_but_the_pair_head():
  """Forward and backward: only the two-class head, [D, 2], is float32 by choice."""
  made = program("tiny", dtype="bfloat16")
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made.example)
  text = made.step.lower(made.abstract_state, shapes).as_text()
  operands = re.findall(r"dot_general .*: \(tensor<([\dx]*)x(\w+)>, tensor<([\dx]*)x(\w+)>\)", text)
  wide = [(a, b) for a, kind, b, other in operands if "f32" in (kind, other)]
  assert len(operands) > 20
  assert all("2" in (a.split("x")[-1], b.split("x")[-1], a.split("x")[0], b.split("x")[0]) for a, b in wide), wide
