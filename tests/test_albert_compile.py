"""Shared layers compile to the kernels of one block, whatever the depth: read from the compiled train step."""

import dataclasses
import functools
import re

import jax
import pytest

from models.albert import sharing
from models.bert import Bert
from models.sharding import make_mesh
from objectives.masked import MaskedObjective
from objectives.optimizers import Optimizer, constant_schedule, sgd
from objectives.state import init_state
from objectives.step import StepSettings, make_step
from tests.tenants import BERT, WIDTH, masked_batch

SGD = Optimizer(sgd(), constant_schedule(0.1, 0, 1), 0.0)
BLOCK = 24  # products of a block: query, key, value, scores, context, output, up, down; two gradients of each
HEAD = 6  # the masked-token head's dense layer and table, and two gradients of each
UP = (WIDTH, BERT.ffn)  # a kernel whose shape no activation has


@functools.cache
def compiled(share, depth, unroll):
  """Optimised HLO of one update."""
  config = dataclasses.replace(
    BERT, layers=depth, sharing=sharing(share, depth, 1, 1), unroll=unroll, pooler=False, heads_on_top=("mlm",)
  )
  objective, batch = MaskedObjective(Bert(config)), masked_batch(0)
  step = make_step(objective, SGD, StepSettings(0, 1, "mean"), make_mesh(1, 1, jax.devices()[:1]))
  state = jax.eval_shape(lambda: init_state(objective, SGD, 0, (), batch))
  return jax.jit(step, donate_argnums=0).lower(state, batch).compile().as_text()


def kernels(text):
  """(matrix products, fusions); on CPUs a product may be a call of a library."""
  products = len(re.findall(r" dot\(| custom-call\([^\n]*matmul", text))
  return products, len(re.findall(r" fusion\(", text))


def holds_stack(text, depth):
  """Whether any array has one `up` kernel for each layer."""
  return f"f32[{depth},{UP[0]},{UP[1]}]" in text


@pytest.mark.parametrize("depth", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_shared_layers_compile_to_one_block(depth):
  """As many products and fusions at any depth as at 2, and no array that repeats a weight for every layer."""
  products, fusions = kernels(compiled("all", depth, 1))
  assert products == BLOCK + HEAD
  assert (products, fusions) == kernels(compiled("all", 2, 1))
  assert not holds_stack(compiled("all", depth, 1), depth)


@pytest.mark.slow
def test_unrolled_layers_compile_to_a_block_each():
  """BERT's fast form, unroll = depth: the products of every layer, and an array of all copies of a weight."""
  products, fusions = kernels(compiled("none", 6, 6))
  assert products == 6 * BLOCK + HEAD
  assert fusions > 2 * kernels(compiled("all", 6, 1))[1]
  assert holds_stack(compiled("none", 6, 6), 6)
