"""LAMB: the trust ratio is that of each layer's own tensors, however layers are stacked, shared, sharded or frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from models.layers import Init, LayerConfig, attention_mask
from models.paths import map_named, merge, named_leaves, split
from models.sharding import like_parameters, make_mesh, parameter_shardings
from models.stack import STACK_AXES, Sharing, Stack
from objectives.optimizers import has_copies, lamb
from tests.test_stack import LAYERS, MODES

WIDTH = 8
EXCLUDE = ("norm/", "bias$")
LAMB_AXES = (*STACK_AXES, (r"^word/embedding$", ("vocab", "embed")))


def stack_params(sharing, seed=0):
  """A stack and a table with weights of very different norms, so that ratios differ from row to row."""
  stack = Stack(LayerConfig(WIDTH, 2, 16, 0.0, 0.0, "gelu", 1e-12, Init(0.02)), LAYERS, sharing)
  x = jnp.zeros((1, 2, WIDTH))
  mask = attention_mask(jnp.ones((1, 2), jnp.int32))
  shapes = jax.eval_shape(lambda: stack.init(jax.random.key(0), x, mask, None))["params"]
  shapes = {"layers": shapes, "word": {"embedding": jax.ShapeDtypeStruct((16, WIDTH), jnp.float32)}}
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    rows = leaf.shape[:1] if has_copies(path) else (1,)
    return np.float32(rng.normal(size=leaf.shape) * 10 ** rng.uniform(-2, 2, (*rows, *[1] * (len(leaf.shape) - 1))))

  return map_named(draw, shapes)


def variables(tree):
  """{path: array} with one entry for every tensor of the published code: rows of a stack are variables of their own."""
  leaves = {}
  for path, leaf in named_leaves(tree).items():
    rows = enumerate(leaf) if path.startswith("layers/") else [("", leaf)]
    leaves |= {f"{path}{row}": np.asarray(value, np.float64) for row, value in rows}
  return leaves


def published_lamb(weights, gradients, lr=0.01, b1=0.9, b2=0.999, eps=1e-6, decay=0.01):
  """Tensor by tensor, update by update, as ALBERT's lamb_optimizer.py reads."""
  for path, w in weights.items():
    m, v, plain = np.zeros_like(w), np.zeros_like(w), any(part in path for part in ("norm/", "bias"))
    for gradient in gradients:
      g = gradient[path]
      m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
      u, ratio = m / (np.sqrt(v) + eps), 1.0
      if not plain:
        u = u + decay * w
        size, step = np.linalg.norm(w.ravel()), np.linalg.norm(u.ravel())
        ratio = size / step if size > 0 and step > 0 else 1.0
      w = w - lr * ratio * u
    yield path, w


def updated(transform, params, gradients, lr=0.01):
  state = transform.init(params)
  for gradient in gradients:
    direction, state = transform.update(gradient, state, params)
    params = jax.tree.map(lambda p, d: p - lr * d, params, direction)
  return params


ALBERT_LAMB = (0.9, 0.999, 1e-6, 0.01, EXCLUDE, False)


@pytest.mark.parametrize("mode", ["all shared", "attention shared", "groups with two inner blocks", "nothing shared"])
def test_lamb_equals_the_published_loop_over_unstacked_tensors(mode):
  sharing, attention, ffn = MODES[mode]
  params, gradients = stack_params(sharing), [stack_params(sharing, seed) for seed in (1, 2, 3)]
  assert params["layers"]["attention"]["query"]["kernel"].shape[0] == attention
  assert params["layers"]["ffn"]["up"]["kernel"].shape[0] == ffn
  got = variables(jax.jit(lambda p, g: updated(lamb(*ALBERT_LAMB), p, g))(params, gradients))
  want = dict(published_lamb(variables(params), [variables(g) for g in gradients]))
  assert got.keys() == want.keys() and len(want) == 10 * attention + 6 * ffn + 1
  for path in want:
    np.testing.assert_allclose(got[path], want[path], rtol=1e-4, atol=1e-5 * np.abs(want[path]).max(), err_msg=path)


def first_lamb_update(params, gradient, decay=0.0):
  transform = lamb(0.9, 0.999, 1e-6, decay, EXCLUDE, False)
  return transform.update(gradient, transform.init(params), params)[0]


def test_lamb_keeps_the_norm_of_each_row_whatever_its_gradient():
  """Without decay ||update|| = ||w||, row by row, over six orders of magnitude: nothing clips the ratio."""
  w = jnp.asarray([1e3, 1.0, 1e-3])[:, None, None] * jnp.ones((3, 2, 2))
  params = {"layers": {"up": {"kernel": w, "bias": w[..., 0]}}, "dense": {"kernel": w}}
  update = first_lamb_update(params, jax.tree.map(jnp.ones_like, params))
  norms = jnp.linalg.norm(update["layers"]["up"]["kernel"].reshape(3, -1), axis=1)
  np.testing.assert_allclose(norms, [2e3, 2.0, 2e-3], rtol=1e-5)
  np.testing.assert_allclose(jnp.linalg.norm(update["dense"]["kernel"]), jnp.linalg.norm(w), rtol=1e-5)
  np.testing.assert_allclose(update["layers"]["up"]["bias"], 0.1 / (0.001**0.5 + 1e-6), rtol=1e-5)  # ratio 1


def test_lamb_ratio_is_one_where_a_norm_is_zero():
  """A row of zeros moves as without a ratio; a row without a gradient does not move; both are finite."""
  w = jnp.stack([jnp.zeros((2, 2)), jnp.ones((2, 2))])
  gradient = jnp.stack([jnp.ones((2, 2)), jnp.zeros((2, 2))])
  update = first_lamb_update({"layers": {"up": {"kernel": w}}}, {"layers": {"up": {"kernel": gradient}}})
  kernel = update["layers"]["up"]["kernel"]
  np.testing.assert_allclose(kernel[0], 0.1 / (0.001**0.5 + 1e-6), rtol=1e-5)
  np.testing.assert_array_equal(kernel[1], 0.0)


def test_lamb_on_sharded_leaves_gives_the_same_update():
  """Norms are of whole tensors, though each device holds a part of the tensor and of its moments."""
  sharing, mesh = Sharing(2, 2), make_mesh(4, 2)
  params, gradients, transform = stack_params(sharing), [stack_params(sharing, 1)], lamb(*ALBERT_LAMB)
  shardings = parameter_shardings(params, LAMB_AXES, mesh, over_data=True)
  placed = jax.device_put((params, gradients), (shardings, [shardings]))
  assert placed[0]["layers"]["ffn"]["up"]["kernel"].sharding.spec == PartitionSpec(None, "data", "model")
  step = lambda p, g: updated(transform, p, g)
  got = jax.jit(step, out_shardings=shardings)(*placed)
  for (path, a), b in zip(named_leaves(got).items(), jax.tree.leaves(jax.jit(step)(params, gradients)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=path)
  shapes = {path: leaf.shape for path, leaf in named_leaves(params).items()}
  state = like_parameters(jax.eval_shape(transform.init, params), shapes, named_leaves(shardings), mesh)
  moments = [leaf for path, leaf in named_leaves(state).items() if path.endswith("layers/ffn/up/kernel")]
  assert moments == [NamedSharding(mesh, PartitionSpec(None, "data", "model"))] * 2


def test_lamb_of_what_a_stage_leaves_trainable_is_what_it_is_beside_the_rest():
  """Each tensor's ratio is its own, so freezing some changes no other; frozen ones have no moments."""
  params, gradients = stack_params(Sharing(1, LAYERS)), stack_params(Sharing(1, LAYERS), 1)
  transform, frozen = lamb(*ALBERT_LAMB), ("^word/", "attention/")
  rest, still = split(params, frozen)
  update = jax.jit(lambda p, g: updated(transform, p, [g]))
  got, want = merge(update(rest, split(gradients, frozen)[0]), still), update(params, gradients)
  for (path, a), b, before in zip(named_leaves(got).items(), *map(jax.tree.leaves, (want, params)), strict=True):
    is_frozen = "attention/" in path or path.startswith("word/")
    np.testing.assert_allclose(a, before if is_frozen else b, rtol=0 if is_frozen else 1e-6, err_msg=path)
  assert not [path for path in named_leaves(transform.init(rest)) if "attention/" in path or "word/" in path]
