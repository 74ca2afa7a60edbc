"""ELMo's model: published parameter counts, initial parameters, words once each, sentences both ways, heads."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import elmo as recipe
from data.characters import BEGIN, END, spell
from models import elmo
from models.characters import Convolution
from models.elmo import Elmo, ElmoConfig, pair_layers, reverse
from models.paths import map_named, named_leaves
from models.sharding import axis_names, make_mesh, parameter_shardings, row_sharding
from tests.elmo_oracle import Oracle, parameters, random_tensors

# Without softmax, as published with each size (allenai.org/allennlp/software/elmo)
COUNTS = {"small": 13_593_296, "medium": 28_027_728, "original": 93_600_848}
PUBLISHED_WORDS, PUBLISHED_SOFTMAX = 793_471, 407_050_623
SMALL = ElmoConfig(
  vocab_size=90, input="characters", characters=9, char_embedding=4, filters=((1, 4), (2, 4), (3, 8)),
  activation="relu", highway=1, layers=2, cell=7, projection=5, cell_clip=3.0, projection_clip=3.0, skip=True,
  dropout=0.0, recompute_gates=False, unroll=1,
)  # fmt: skip
GROUPS, WORDS, ROWS, STEPS = 2, 6, 4, 5


def tree_of(model):
  c = model.config
  size = c.characters if c.input == "characters" else 1
  words, index = np.zeros((1, 1, size), np.int32), np.zeros((1, 2, 1), np.int32)
  init = lambda: model.init(jax.random.key(0), words, index, model.empty_carry(1), method="everything")["params"]
  return jax.eval_shape(init)


def shapes(model):
  return named_leaves(tree_of(model))


def sizes(leaves):
  return {path: int(np.prod(leaf.shape, dtype=np.int64)) for path, leaf in leaves.items()}


@functools.cache
def params_of(model):
  """Parameters so large that every part matters; rows that pad are zeros."""
  rng = np.random.default_rng(0)
  real = {"char/embedding": (1, None), "word/embedding": (0, 90), "heads/softmax/kernel": (0, 90)}

  def draw(path, leaf):
    first, last = real.get(path, (0, None))
    values = np.zeros(leaf.shape, np.float32)
    values[first:last] = rng.normal(0, 0.5, values[first:last].shape)
    return jnp.asarray(values)

  return map_named(draw, tree_of(model))


def inputs(config=SMALL, seed=0):
  rng = np.random.default_rng(seed)
  words = rng.integers(1, 262, (GROUPS, WORDS, config.characters)).astype(np.int32)
  if config.input == "words":
    words = rng.integers(0, config.vocab_size, (GROUPS, WORDS, 1)).astype(np.int32)
  index = rng.integers(0, WORDS, (ROWS, 2, STEPS)).astype(np.int32)
  carry = rng.normal(0, 0.3, (ROWS, 2, config.layers, config.cell + config.projection)).astype(np.float32)
  return words, index, carry


@functools.cache
def compiled(model, method):
  return jax.jit(lambda params, *arguments: model.apply({"params": params}, *arguments, method=method))


def apply(model, *arguments, method="__call__", params=None):
  return compiled(model, method)(params_of(model) if params is None else params, *arguments)


# --- sizes and initial parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameter_counts(size):
  """All but the softmax; the row of no character is no parameter, being zeros always."""
  model = elmo.build(recipe.get_config(size), jnp.float32)
  counted = sizes(shapes(model))
  softmax = {path: size for path, size in counted.items() if path.startswith("heads/")}
  assert sum(counted.values()) - sum(softmax.values()) - model.config.char_embedding == COUNTS[size]
  if size == "original":
    padding = (-PUBLISHED_WORDS) % 128 * (512 + 1)
    assert sum(softmax.values()) - padding == PUBLISHED_SOFTMAX


def test_paths_and_shapes():
  found = {path: leaf.shape for path, leaf in shapes(Elmo(dataclasses.replace(SMALL, filters=((2, 16),)))).items()}
  assert found == {
    "char/embedding": (262, 4),
    "char/conv_0/kernel": (2, 4, 16),
    "char/conv_0/bias": (16,),
    "char/highway_0/carry/kernel": (16, 16),
    "char/highway_0/carry/bias": (16,),
    "char/highway_0/transform/kernel": (16, 16),
    "char/highway_0/transform/bias": (16,),
    "char/projection/kernel": (16, 5),
    "char/projection/bias": (5,),
    "layers/input/kernel": (2, 2, 5, 4, 7),
    "layers/recurrent/kernel": (2, 2, 5, 4, 7),
    "layers/bias": (2, 2, 4, 7),
    "layers/projection/kernel": (2, 2, 7, 5),
    "heads/softmax/kernel": (128, 5),
    "heads/softmax/bias": (128,),
  }


@pytest.mark.parametrize(
  "change", [{}, {"input": "words"}, {"heads_on_top": ()}, {"highway": 0}], ids=["whole", "words", "no head", "bare"]
)
def test_every_leaf_has_a_rule_and_every_rule_a_leaf(change):
  model = Elmo(dataclasses.replace(SMALL, **change))
  assert axis_names(shapes(model), model.axes()).keys() == shapes(model).keys()


def test_initial_parameters():
  """bilm-tf's: characters U(-1, 1), convolutions U(-0.05, 0.05) or N(0, 1 / sqrt(width E)), the rest by its inputs."""
  config = dataclasses.replace(SMALL, filters=((3, 512),), char_embedding=16, projection=64, vocab_size=500)
  words, index, carry = inputs(config)
  params = jax.jit(lambda: Elmo(config).init(jax.random.key(1), words, index, carry, method="everything")["params"])()
  leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params).items()}
  characters = leaves["char/embedding"]
  assert not characters[0].any() and 0.99 < np.abs(characters).max() <= 1
  assert abs(characters[1:].std() - 3**-0.5) < 0.02
  kernel = leaves["char/conv_0/kernel"]
  assert 0.0499 < np.abs(kernel).max() <= 0.05 and abs(kernel.std() - 0.05 / 3**0.5) < 1e-3
  tanh = Convolution(3, 512, dataclasses.replace(config.spelling, activation="tanh"))
  kernel = tanh.init(jax.random.key(1), np.zeros((1, 9, 16)))["params"]["kernel"]
  assert abs(kernel.std() * (3 * 16) ** 0.5 - 1) < 0.02 and np.abs(kernel).max() > 3 * kernel.std()
  for path, inputs_ in (("highway_0/carry", 512), ("highway_0/transform", 512), ("projection", 512)):
    assert abs(leaves[f"char/{path}/kernel"].std() * inputs_**0.5 - 1) < 0.02
  softmax = leaves["heads/softmax/kernel"]
  assert abs(softmax[:500].std() * 64**0.5 - 1) < 0.02 and not softmax[500:].any()
  biases = {path: set(leaf.ravel().tolist()) for path, leaf in leaves.items() if path.endswith("bias")}
  assert biases.pop("char/highway_0/carry/bias") == {-2.0} and set().union(*biases.values()) == {0.0}


def test_no_character_stays_zeros():
  """No gradient reaches row 0, and what stands in it is not read."""
  model, (words, _, _) = Elmo(SMALL), inputs()
  words[:, 0] = 0
  loss = lambda params: jnp.sum(jnp.square(model.apply({"params": params}, words, method="spell_words")))
  value_and_gradient = jax.jit(jax.value_and_grad(loss))
  value, gradient = value_and_gradient(params_of(model))
  assert not gradient["char"]["embedding"][0].any() and gradient["char"]["embedding"][1:].any()
  params = jax.tree.map(jnp.array, params_of(model))
  params["char"]["embedding"] = params["char"]["embedding"].at[0].set(9.0)
  assert value_and_gradient(params)[0] == value


# --- against the oracle ---------------------------------------------------------------------------------------------

SENTENCES = [["the cat sat", "Zürich"], ["a dog that sat", "yes or no"]]  # of two rows, one behind the other


def oracle_options(config):
  """`config` as the object in an options.json."""
  return {
    "lstm": {
      "use_skip_connections": config.skip, "projection_dim": config.projection, "cell_clip": config.cell_clip,
      "proj_clip": config.projection_clip, "dim": config.cell, "n_layers": config.layers,
    },
    "char_cnn": {
      "activation": config.activation, "filters": config.filters, "n_highway": config.highway,
      "embedding": {"dim": config.char_embedding},
    },
  }  # fmt: skip


def spelled(sentence, length):
  """int [n + 2, C]: words between spaces, with the boundaries of a sentence."""
  ends = np.stack([BEGIN, END])[:, :length]
  return np.concatenate([ends[:1], spell(sentence.split(" "), length), ends[1:]])


@pytest.mark.parametrize(
  "change",
  [{}, {"skip": False, "activation": "tanh", "highway": 0, "cell_clip": 3.0}],
  ids=["clipped", "no skip, tanh"],
)
def test_layers_of_sentences_are_the_oracles(change):
  """From characters to the top layer, word by word; the second sentence goes on with the state of the first."""
  config = dataclasses.replace(SMALL, heads_on_top=(), **{"cell_clip": 0.5, "projection_clip": 0.4} | change)
  model, tensors = Elmo(config), random_tensors(oracle_options(config))
  params, oracle = parameters(tensors, oracle_options(config)), Oracle(tensors, oracle_options(config), rows=2)
  carry = model.empty_carry(2)
  for sentences in zip(*SENTENCES):
    parts = [spelled(sentence, config.characters) for sentence in sentences]
    lengths = np.array([len(part) for part in parts], np.int32)
    words, index = np.zeros((2, 7, config.characters), np.int32), np.tile(np.arange(7, dtype=np.int32), (2, 1))
    for row, part in zip(words, parts):
      row[: len(part)] = part
    encoded, carry = apply(model, words, index, lengths, carry, method="encode", params=params)
    for row, part in enumerate(parts):
      want = oracle.sentence(part, row)
      np.testing.assert_allclose(encoded.layers[:, row, : len(part)], want, atol=2e-6)


# --- streams --------------------------------------------------------------------------------------------------------


def test_words_are_looked_up_in_their_rows_group():
  """The first layer is the spelled word, of the group of B / G neighbouring rows."""
  model, (words, index, carry) = Elmo(SMALL), inputs()
  vectors = apply(model, words, method="spell_words")
  outputs, _ = apply(model, words, index, carry)
  assert outputs.shape == (3, ROWS, 2, STEPS, 5)
  for row in range(ROWS):
    np.testing.assert_array_equal(outputs[0, row], vectors[row // (ROWS // GROUPS)][index[row]])


def test_characters_are_read_once_for_each_distinct_word():
  """Convolutions see G x U words, whatever the number of rows and steps."""
  model = Elmo(SMALL)
  words, _, _ = inputs()
  index = np.zeros((ROWS, 2, 50), np.int32)
  params, carry = {"params": params_of(model)}, model.empty_carry(ROWS)
  jaxpr = str(jax.make_jaxpr(lambda: model.apply(params, words, index, carry))())
  places = [SMALL.characters - width + 1 for width, _ in SMALL.filters]
  for (_, filters), place in zip(SMALL.filters, places):
    assert f"f32[{GROUPS * WORDS * place},{filters}] = dot_general" in jaxpr


def test_two_windows_are_one():
  model, (words, index, carry) = Elmo(SMALL), inputs()
  whole, end = apply(model, words, index, carry)
  first, between = apply(model, words, index[..., :2], carry)
  second, last = apply(model, words, index[..., 2:], between)
  np.testing.assert_allclose(jnp.concatenate([first, second], axis=3), whole, atol=1e-6)
  np.testing.assert_allclose(last, end, atol=1e-6)


def test_recomputing_convolutions_changes_no_gradient():
  """What the LSTMs recompute, `test_recurrent` holds to the formulas."""
  words = inputs()[0]
  loss = lambda model: lambda params: jnp.sum(jnp.sin(model.apply({"params": params}, words, method="spell_words")))
  models = (Elmo(dataclasses.replace(SMALL, recompute_gates=again)) for again in (False, True))
  want, got = (jax.jit(jax.grad(loss(model)))(params_of(Elmo(SMALL))) for model in models)
  for path, leaf in named_leaves(want["char"]).items():
    np.testing.assert_allclose(named_leaves(got["char"])[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


def test_words_by_a_table():
  model = Elmo(dataclasses.replace(SMALL, input="words"))
  words, index, carry = inputs(model.config)
  table = np.asarray(params_of(model)["word"]["embedding"])
  assert table.shape == (128, 5) and not table[90:].any() and table[:90].all()
  np.testing.assert_array_equal(apply(model, words, method="spell_words"), table[words[..., 0]])
  assert apply(model, words, index, carry)[0].shape == (3, ROWS, 2, STEPS, 5)


@functools.cache
def sharded_gradients():
  """(gradients of parameters that are split over both axes of a 2 x 2 mesh with the rows, the compiled text)."""
  model, mesh, arguments = Elmo(SMALL), make_mesh(2, 2, jax.devices()[:4]), inputs()
  rows, whole = row_sharding(mesh), NamedSharding(mesh, PartitionSpec())
  shardings = parameter_shardings(tree_of(model), model.axes(), mesh, over_data=True)
  split = lambda params, words, *rest: jax.device_put((params, words, rest), (shardings, whole, rows))
  params, words, rest = split(params_of(model), *arguments)
  step = jax.jit(jax.grad(lambda *inputs: probe(model, *inputs)), out_shardings=shardings)
  compiled = step.lower(params, words, *rest).compile()
  return compiled(params, words, *rest), compiled.as_text()


def probe(model, params, words, index, carry):
  """A number that every parameter has a part in."""
  outputs, carry = model.apply({"params": params}, words, index, carry)
  hidden, kernel, bias = model.apply({"params": params}, outputs[-1], method="scores")
  return jnp.sum(jnp.sin(outputs)) + jnp.sum(carry) + jnp.sum(jnp.sin(hidden @ kernel.T + bias)[..., :90])


def test_a_mesh_changes_no_gradient():
  want = jax.jit(jax.grad(lambda *inputs: probe(Elmo(SMALL), *inputs)))(params_of(Elmo(SMALL)), *inputs())
  for path, leaf in named_leaves(want).items():
    np.testing.assert_allclose(named_leaves(sharded_gradients()[0])[path], leaf, rtol=1e-4, atol=1e-4, err_msg=path)


def test_devices_tell_each_other_nothing_in_the_loops():
  """Of a compiled program, the bodies of its four loops: what is gathered there would be gathered in every step."""
  text = sharded_gradients()[1]
  computations = {part.split()[0]: part for part in re.split(r"\n(?=[%E])", text) if part.startswith("%")}
  bodies = set(re.findall(r"body=(%[\w.-]+)", text))
  collective = r"= .*(all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)"
  assert len(bodies) == 4 and re.search(collective, text)
  assert not [body for body in bodies if re.search(collective, computations[body])]


# --- sentences ------------------------------------------------------------------------------------------------------


def test_what_stands_behind_a_sentence_is_not_read():
  """Zeros come out there; a row without a sentence keeps its state; halves of one word stand side by side."""
  model, (words, _, carry) = Elmo(SMALL), inputs()
  lengths = np.array([STEPS, 3, 0, 1], np.int32)
  index = np.random.default_rng(3).integers(0, WORDS, (ROWS, STEPS)).astype(np.int32)
  encoded, end = apply(model, words, index, lengths, carry, method="encode")
  assert encoded.layers.shape == (3, ROWS, STEPS, 10)
  np.testing.assert_array_equal(encoded.hidden, encoded.layers[-1])
  np.testing.assert_array_equal(encoded.layers[0, ..., :5], encoded.layers[0, ..., 5:])
  inside = np.arange(STEPS) < lengths[:, None]
  assert not np.asarray(encoded.layers)[:, ~inside].any() and np.asarray(encoded.layers)[:, inside].all()
  np.testing.assert_array_equal(end[2], carry[2])
  other, other_end = apply(model, words, np.where(inside, index, (index + 1) % WORDS), lengths, carry, method="encode")
  np.testing.assert_array_equal(other.layers, encoded.layers)
  np.testing.assert_array_equal(other_end, end)


def test_reversal_by_true_length():
  x = np.arange(10).reshape(2, 5)
  assert reverse(x, np.array([3, 5])).tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]
  outputs = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4, 1)
  assert pair_layers(outputs, np.array([3])).tolist() == [[[[1, 7], [2, 6], [3, 5], [0, 0]]]]


# --- heads and dropout ----------------------------------------------------------------------------------------------


def test_scores_are_logits_of_real_words():
  model = Elmo(SMALL)
  hidden = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
  states, kernel, bias = apply(model, hidden, method="scores")
  logits = states @ kernel.T + bias
  softmax = params_of(model)["heads"]["softmax"]
  np.testing.assert_allclose(logits[:, :90], hidden @ softmax["kernel"][:90].T + softmax["bias"][:90], atol=1e-5)
  assert np.all(logits[:, 90:] < -1e8)


def test_dropout_is_of_inputs_and_of_what_words_are_predicted_from():
  """The layers that come out are not dropped: the softmax drops the top one, each LSTM its own input."""
  model, (words, index, carry) = Elmo(dataclasses.replace(SMALL, dropout=0.3)), inputs()
  plain, _ = apply(model, words, index, carry)
  dropped, _ = apply(model, words, index, carry, jax.random.key(2))
  np.testing.assert_array_equal(dropped[0], plain[0])
  assert np.all(dropped[1] != 0) and not np.allclose(dropped[1], plain[1])
  top = np.ones((50, 5), np.float32)
  states = apply(model, top, jax.random.key(2), method="scores")[0]
  assert set(np.unique(np.asarray(states)).tolist()) == {0.0, np.float32(1 / 0.7)}
  np.testing.assert_array_equal(apply(model, top, method="scores")[0], top)
