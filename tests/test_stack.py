"""The stack against a Python loop, for every way of sharing parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.layers import FeedForward, Init, LayerConfig, SelfAttention, attention_mask
from models.stack import REMAT, Sharing, Stack, copy_rows

D, F, LAYERS = 16, 32, 4
LAYER = LayerConfig(D, 2, F, 0.0, 0.0, "gelu", 1e-12, Init(0.2))
ATTENTION = 4 * D * D + 4 * D + 2 * D  # four projections with biases and the layer norm that follows sharing
FFN = 2 * D * F + F + D + 2 * D
MODES = {  # attention groups, ffn groups, inner blocks -> copies of each
  "all shared": (Sharing(1, 1), 1, 1),
  "attention shared": (Sharing(1, LAYERS), 1, LAYERS),
  "ffn shared": (Sharing(LAYERS, 1), LAYERS, 1),
  "groups": (Sharing(3, 3), 3, 3),
  "groups with two inner blocks": (Sharing(2, 2, 2), 4, 4),
  "nothing shared": (Sharing(LAYERS, LAYERS), LAYERS, LAYERS),
}


def build(sharing, **options):
  stack = Stack(LAYER, LAYERS, sharing, **options)
  x = jax.random.normal(jax.random.key(1), (3, 5, D))
  mask = attention_mask(jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 2, 2], [1, 1, 1, 0, 0]]))
  return stack, stack.init(jax.random.key(0), x, mask, None)["params"], x, mask


def python_loop(params, x, mask, sharing):
  """Block by block, each with the row that it reads: layer i's group is floor(i * G / L), inner blocks in order."""
  outputs = []
  for layer in range(LAYERS):
    for inner in range(sharing.inner):
      rows = {
        n: layer * g // LAYERS * sharing.inner + inner
        for n, g in (("attention", sharing.attention_groups), ("ffn", sharing.ffn_groups))
      }
      own = {name: jax.tree.map(lambda leaf, row=row: leaf[row], params[name]) for name, row in rows.items()}
      x = SelfAttention(LAYER).apply({"params": own["attention"]}, x, mask, None)
      x = FeedForward(LAYER).apply({"params": own["ffn"]}, x, None)
      outputs.append(x)
  return x, jnp.stack(outputs)


def loss(outputs):
  return jnp.sum(jnp.sin(outputs * 3.0))


def evaluated(apply, params):
  """(last output, outputs of all blocks, gradient of a loss on the last one) of params -> (last, all)."""

  def value(params):
    last, every = apply(params)
    return loss(last), (last, every)

  (_, outputs), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
  return outputs, gradient


TWO_BLOCKS = pytest.param("groups with two inner blocks", marks=pytest.mark.slow)


@pytest.mark.parametrize("mode", [TWO_BLOCKS if mode == TWO_BLOCKS.values[0] else mode for mode in MODES])
def test_stack_equals_a_python_loop_in_outputs_and_gradients(mode):
  sharing, *_ = MODES[mode]
  stack, params, x, mask = build(sharing)
  outputs, gradient = evaluated(lambda p: stack.apply({"params": p}, x, mask, None, True), params)
  want, slow_gradient = evaluated(lambda p: python_loop(p, x, mask, sharing), params)
  for got, expected in zip(outputs, want, strict=True):
    np.testing.assert_allclose(got, expected, atol=2e-6)
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(slow_gradient), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_parameter_counts_follow_sharing(mode):
  sharing, attention, ffn = MODES[mode]
  _, params, *_ = build(sharing)
  count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  assert count(params["attention"]) == attention * ATTENTION
  assert count(params["ffn"]) == ffn * FFN


def test_rows_of_groups_and_inner_blocks():
  """12 layers in 5 groups: layer i reads group floor(i * 5 / 12); two inner blocks interleave."""
  assert copy_rows(12, 5).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
  assert copy_rows(4, 2, 2).tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_one_copy_gets_the_sum_of_the_gradients_of_its_layers():
  stack, params, x, mask = build(Sharing(1, 1))
  apart = Stack(LAYER, LAYERS, Sharing(LAYERS, LAYERS))
  copies = jax.tree.map(lambda leaf: jnp.repeat(leaf, LAYERS, axis=0), params)
  shared = jax.grad(lambda p: loss(stack.apply({"params": p}, x, mask, None)[0]))(params)
  per_layer = jax.grad(lambda p: loss(apart.apply({"params": p}, x, mask, None)[0]))(copies)
  for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(per_layer), strict=True):
    np.testing.assert_allclose(a[0], b.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"unroll": LAYERS}, {"unroll": 4}, *({"remat": name} for name in REMAT)])
def test_unroll_and_remat_change_neither_parameters_nor_values(options):
  sharing = Sharing(1, LAYERS)
  plain, params, x, mask = build(sharing)
  stack, same, *_ = build(sharing, **options)
  jax.tree.map(np.testing.assert_array_equal, params, same)
  key = jax.random.key(5)
  value = lambda s: jax.jit(jax.value_and_grad(lambda p: loss(s.apply({"params": p}, x, mask, key)[0])))(params)
  (a, ga), (b, gb) = value(plain), value(stack)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  for left, right in zip(jax.tree.leaves(ga), jax.tree.leaves(gb), strict=True):
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_layers_draw_dropout_of_their_own():
  """With everything shared and dropout on, two layers still drop different elements."""
  layer = LayerConfig(D, 2, F, 0.5, 0.0, "gelu", 1e-12, Init(0.2))
  stack = Stack(layer, 2, Sharing(1, 1))
  _, params, x, mask = build(Sharing(1, 1))
  _, outputs = stack.apply({"params": params}, x, mask, jax.random.key(3), True)
  again = stack.apply({"params": params}, outputs[0], mask, jax.random.key(3), True)[1][0]
  assert not np.allclose(again, outputs[1])
