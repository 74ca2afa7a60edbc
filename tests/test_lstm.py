"""LSTMs in two directions against a loop over the words of one sentence at a time, and PyTorch's."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.lstm import BiLstm, _orthogonal, lstm_axes
from models.paths import named_leaves
from models.sharding import axis_names
from tests.lstm_oracle import both_directions

ROOT = Path(__file__).parents[1]
INPUTS, HIDDEN, LAYERS = 5, 4, 2
LENGTHS = (6, 1, 0, 4)
MASK = np.arange(6) < np.array(LENGTHS)[:, None]
MODEL = BiLstm(INPUTS, HIDDEN, LAYERS, 0.0)


def words(seed=0):
  """[B, L, D] with large numbers behind each sentence, which nothing may read."""
  x = np.float32(np.random.default_rng(seed).normal(0, 1, (*MASK.shape, INPUTS)))
  return np.where(MASK[..., None], x, 1e3)


@functools.cache
def params_of():
  shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), words(), MASK)["params"])
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.6, leaf.shape)), shapes)


def by_hand(x, params):
  result = np.zeros((*MASK.shape, 2 * HIDDEN))
  for row, size in enumerate(LENGTHS):
    states = x[row, :size].astype(np.float64)
    for number in range(LAYERS):
      states = both_directions(states, params[f"layer_{number}"])
    result[row, :size] = states
  return result


@functools.cache
def compiled(model=MODEL):
  return jax.jit(lambda params, *arguments: model.apply({"params": params}, *arguments))


def test_each_sentence_is_read_as_if_alone():
  """Padding neither advances a state nor is read; the backward direction begins at the last word."""
  found = np.asarray(compiled()(params_of(), words(), MASK))
  assert np.allclose(found, by_hand(words(), params_of()), atol=1e-5)
  assert not found[~MASK].any()


def test_gradients_stay_inside_the_sentence():
  """Against central differences, of every parameter and of x, which has none behind a sentence."""
  weights = np.float32(np.random.default_rng(2).normal(0, 1, (*MASK.shape, 2 * HIDDEN)))
  loss = lambda params, x: jnp.sum(weights * MODEL.apply({"params": params}, x, MASK))
  params, x = params_of(), words()
  of_params, of_x = jax.jit(jax.grad(loss, (0, 1)))(params, x)
  assert not np.asarray(of_x)[~MASK].any()
  rng = np.random.default_rng(3)
  way = jax.tree.map(lambda leaf: rng.normal(0, 1, leaf.shape), (params, np.where(MASK[..., None], x, 0)))
  moved = lambda e: jax.tree.map(lambda leaf, step: np.float64(leaf) + e * step, (params, x), way)
  value = lambda e: np.sum(weights * by_hand(moved(e)[1], moved(e)[0]))
  inside = np.where(MASK[..., None], way[1], 0)
  slope = sum(jax.tree.leaves(jax.tree.map(lambda g, step: np.sum(np.float64(g) * step), of_params, way[0])))
  assert np.isclose(slope + np.sum(of_x * inside), (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-4)


def test_dropout_stands_between_layers_only():
  """One layer has none; two differ from themselves without it, as the key says."""
  params, key = params_of(), jax.random.key(1)
  single, double = BiLstm(INPUTS, HIDDEN, 1, 0.5), BiLstm(INPUTS, HIDDEN, LAYERS, 0.5)
  lower = {"layer_0": params["layer_0"]}
  assert np.array_equal(compiled(single)(lower, words(), MASK), compiled(single)(lower, words(), MASK, key))
  same, once = compiled(double)(params, words(), MASK), compiled(double)(params, words(), MASK, key)
  assert np.allclose(same, compiled()(params, words(), MASK)) and not np.allclose(same, once, atol=1e-2)
  assert np.array_equal(once, compiled(double)(params, words(), MASK, key))


def test_initial_parameters():
  """W_x Glorot uniform, rows of W_h orthonormal in each direction, biases 0 but for the forget gate's 1."""
  model = BiLstm(30, 20, 1, 0.0)
  params = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 2, 30)), jnp.ones((1, 2), bool)))()["params"]
  leaves = {path.removeprefix("layer_0/"): np.asarray(leaf) for path, leaf in named_leaves(params).items()}
  assert {path: leaf.shape for path, leaf in leaves.items()} == {
    "input/kernel": (30, 2, 4, 20), "recurrent": (2, 20, 4, 20), "bias": (2, 4, 20),
  }  # fmt: skip
  bound = (6 / (30 + 4 * 20)) ** 0.5
  assert 0.98 * bound < np.abs(leaves["input/kernel"]).max() <= bound
  for direction in leaves["recurrent"].reshape(2, 20, 80):
    assert np.allclose(direction @ direction.T, np.eye(20), atol=1e-5)
  assert (leaves["bias"] == np.array([0, 1, 0, 0])[:, None]).all()


def test_every_leaf_has_a_rule():
  rules = lstm_axes("encoder")
  assert len(axis_names({"encoder": params_of()}, rules)) == 3 * LAYERS


@pytest.mark.parity
def test_the_same_as_pytorch():
  """nn.LSTM of the same weights; its two biases are one here."""
  torch = pytest.importorskip("torch")
  peer = torch.nn.LSTM(INPUTS, HIDDEN, LAYERS, batch_first=True, bidirectional=True)
  with torch.no_grad():
    for number in range(LAYERS):
      layer = params_of()[f"layer_{number}"]
      for direction, end in enumerate(("", "_reverse")):
        put = lambda name, value, tail=f"_l{number}{end}": getattr(peer, name + tail).copy_(torch.tensor(value))
        put("weight_ih", layer["input"]["kernel"][:, direction].reshape(-1, 4 * HIDDEN).T)
        put("weight_hh", layer["recurrent"][direction].reshape(HIDDEN, -1).T)
        put("bias_ih", layer["bias"][direction].reshape(-1))
        put("bias_hh", np.zeros(4 * HIDDEN, np.float32))
    rows = [row for row, size in enumerate(LENGTHS) if size]
    lengths = [LENGTHS[row] for row in rows]
    pack = torch.nn.utils.rnn.pack_padded_sequence
    packed = pack(torch.tensor(words()[rows]), lengths, batch_first=True, enforce_sorted=False)
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(peer(packed)[0], batch_first=True)
  found = compiled()(params_of(), words(), MASK)
  assert np.allclose(np.asarray(found)[rows], wanted.numpy(), atol=1e-5)


def test_recurrent_kernels_begin_as_those_of_flax():
  """The Q of NumPy's QR decomposition of the same draws, with the diagonal of its R above 0."""
  rows, shape = 6, (2, 6, 4, 6)
  found = np.asarray(_orthogonal(jax.random.key(3), shape)).reshape(2, rows, -1)
  for key, kernel in zip(jax.random.split(jax.random.key(3), 2), found):
    q, r = np.linalg.qr(np.float64(jax.random.normal(key, (24, rows))))
    np.testing.assert_allclose(kernel, (q * np.sign(np.diag(r))).T, atol=1e-5)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(rows), atol=1e-6)
    np.testing.assert_allclose(kernel, nn.initializers.orthogonal()(key, (rows, 24)), atol=1e-5)


def test_networks_of_any_size_begin_on_two_cores():
  """LAPACK's QR of several kernels at once hung here for ever (jaxlib 0.10), as its threads waited for each other."""
  layers = 4
  program = f"""
import jax
from models.lstm import BiLstm
import numpy as np
model = BiLstm(200, 200, {layers}, 0.0)
made = jax.jit(lambda: model.init(jax.random.key(0), np.zeros((1, 2, 200), np.float32), np.ones((1, 2), bool)))()
print(len(jax.tree.leaves(made)))
"""
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, few threads
  command = [sys.executable, "-c", program]
  done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, cwd=ROOT)
  assert done.stdout.strip() == str(3 * layers), done.stderr
