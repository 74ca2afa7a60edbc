"""Networks of tasks on ELMo: what stands where, what words they read, and that padding changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import objectives
from data.batch import LabelledWords
from models.elmo import Elmo
from models.paths import named_leaves
from models.scalar_mix import MixtureError
from models.sharding import axis_names
from models.task_networks import TaskNetworkError
from tests.word_networks import (
  BILM,
  BOTH,
  COLUMNS,
  GROUPS,
  LABELS,
  PROBE,
  ROWS,
  VECTORS,
  alone,
  batch_of,
  compiled,
  inputs,
  is_tagger,
  network,
  params_of,
  run,
  shapes,
)

# --- parameters -------------------------------------------------------------------------------------------------------


def test_paths_and_shapes():
  found = {path: leaf.shape for path, leaf in named_leaves(shapes(network(head="crf"))).items()}
  bilm = {path.removeprefix("bilm/") for path in found if path.startswith("bilm/")}
  alone = jax.eval_shape(lambda: Elmo(BILM).init(*elmo_start(), method="everything")["params"])
  assert bilm == named_leaves(alone).keys()
  assert {path: shape for path, shape in found.items() if not path.startswith("bilm/")} == {
    "mix/input/gamma": (), "mix/input/weights": (3,), "mix/output/gamma": (), "mix/output/weights": (3,),
    "vectors/embedding": (VECTORS, 5),
    "encoder/layer_0/input/kernel": (5 + 6, 2, 4, 4), "encoder/layer_0/recurrent": (2, 4, 4, 4),
    "encoder/layer_0/bias": (2, 4, 4),
    "heads/tag/kernel": (8 + 6, 3), "heads/tag/bias": (3,),
    "crf/transitions": (3, 3), "crf/start": (3,), "crf/end": (3,),
  }  # fmt: skip


def elmo_start():
  zeros = np.zeros((1, 1, 1), np.int32), np.zeros((1, 2, 1), np.int32)
  return jax.random.key(0), *zeros, Elmo(BILM).empty_carry(1)


@pytest.mark.parametrize(
  "changes",
  [
    {"head": "crf", "layers": 2},
    {"head": "pair"},
    {"head": "pair", "encoder": "none", "mixture": "equal"},
    {"head": "regress", "labels": ("score",)},
    {"head": "choose", "labels": ()},
    {"head": "answer", "labels": ()},
    {"place": "none"},
    {"place": "output", "mixture": "top", "head": "tag"},
    {"place": "input", "vectors": 0, "encoder": "none", "bilm": dataclasses.replace(BILM, input="characters")},
  ],
)
def test_every_leaf_has_a_rule_and_every_rule_a_leaf(changes):
  model = network(**changes)
  assert axis_names(shapes(model), model.axes()).keys() == named_leaves(shapes(model)).keys()


def test_no_place_no_language_model():
  model = network(place="none", bilm=None)
  assert {path.split("/")[0] for path in named_leaves(shapes(model))} == {"vectors", "encoder", "heads"}
  assert model.table_sizes() == {}
  batch = batch_of(model)
  other = dataclasses.replace(batch, words=batch.words[:, ::-1], index=batch.index * 0)
  assert np.array_equal(run(model, batch)[0], run(model, other)[0])


def test_row_zero_of_the_table_begins_at_zeros():
  """The others as Ma and Hovy's (2016), uniform in +-sqrt(3 / size)."""
  model = network(place="none", vectors=2000, vector_size=12)
  init = lambda: model.init(jax.random.key(0), *inputs(batch_of(model)), method="everything")["params"]
  table = np.asarray(jax.jit(init)()["vectors"]["embedding"])
  assert not table[0].any() and table[1:].all() and 0.499 < np.abs(table).max() <= 0.5


# --- what a word is read by -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture, layer", [("top", 2), ("0", 0)])
def test_a_probe_reads_one_layer_at_each_word(mixture, layer):
  """Word k in column k + 1, of its own group's words, every sentence from an empty state; boundaries are left out."""
  model = network(PROBE, mixture=mixture)
  batch, params = batch_of(model), params_of(model)
  found, *_ = run(model, batch)
  for row in range(ROWS):
    states = params["mix"]["input"]["gamma"] * alone(params, batch, row)[layer]
    wanted = states @ params["heads"]["tag"]["kernel"] + params["heads"]["tag"]["bias"]
    assert np.allclose(found[row, : len(states)], wanted, atol=1e-5)


def test_words_enter_at_their_places():
  """Read: [word vector; mix]; behind the LSTMs: [what they say; the other mix]; zeros where no word stands."""
  model, probe = network(encoder="none", head="tag"), network(PROBE, mixture="learned")
  batch = batch_of(model)
  _, found, mask = run(model, batch)
  _, mixed, _ = run(probe, batch)
  params = params_of(model)
  ids = batch.ids[:, 0, 1:-1]
  assert np.array_equal(mask, np.arange(COLUMNS - 2) < batch.lengths - 2)
  assert np.allclose(found[..., :5], np.where(mask[..., None], params["vectors"]["embedding"][ids], 0), atol=1e-6)
  assert np.allclose(found[..., 5:11], mixed, atol=1e-6)
  swapped = params | {"mix": {"input": params["mix"]["output"], "output": params["mix"]["input"]}}
  _, other, _ = run(model, batch, params=swapped)
  assert np.allclose(found[..., 11:], other[..., 5:11], atol=1e-6)
  assert np.abs(found[..., 11:] - mixed).max() > 0.01


def test_dropout_has_a_rate_for_word_vectors_and_one_for_elmo():
  """Each number is either gone or as much larger as is gone on average; nothing is dropped twice."""
  model = network(encoder="none", head="tag")
  batch = batch_of(model)
  _, still, mask = run(model, batch)
  _, moved, _ = run(model, batch, jax.random.key(3))
  for part, rate in ((slice(0, 5), 0.5), (slice(5, 17), 0.25)):
    a, b = still[mask][:, part], moved[mask][:, part]
    kept = b != 0
    assert np.allclose(b[kept], a[kept] / (1 - rate), atol=1e-6)
    assert abs(1 - kept.mean() - rate) < 0.2


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["crf", "pair", "answer"])
def test_logits_are_float32_whatever_the_products_are(head):
  model = network(head=head, dtype=jnp.bfloat16, bilm=dataclasses.replace(BILM, dtype=jnp.bfloat16))
  logits, x, _ = jax.eval_shape(compiled(model), shapes(model), *inputs(batch_of(model)))
  assert logits.dtype == x.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes(model))} == {np.dtype("float32")}


# --- invariances ------------------------------------------------------------------------------------------------------


def padded(batch):
  """With three columns and a group of rows without sentences more, full of what must not be read."""
  rows = lambda leaf, value: np.concatenate([leaf, np.full((ROWS // GROUPS, *leaf.shape[1:]), value, leaf.dtype)])
  columns = lambda leaf: np.pad(leaf, ((0, 0), (0, 0), (0, 3)), constant_values=1)
  words = np.concatenate([batch.words, batch.words[:1] * 0 + 9])
  return LabelledWords(
    words, rows(columns(batch.index), 1), rows(batch.lengths, 0), rows(columns(batch.ids), 3), None, None
  )


@pytest.mark.parametrize(
  "head, changes", [("classify", {}), ("crf", {"layer_norm": True}), ("pair", {}), ("answer", {})]
)
def test_padding_rows_and_columns_change_nothing(head, changes):
  model = network(head=head, **changes)
  batch = batch_of(model)
  found, more = run(model, batch)[0], run(model, padded(batch))[0]
  assert np.isfinite(more).all()
  columns = model.config.head == "answer" or is_tagger(model)
  for row, size in enumerate(batch.lengths[:, 0] - 2 if columns else np.ones(ROWS, int)):
    assert np.allclose(more[row, :size], found[row, :size], atol=1e-5)


def test_sentences_do_not_see_each_other():
  """The rows of a group in another order say the same in that order."""
  model = network(head="crf", layer_norm=True)
  batch = batch_of(model)
  turned = [1, 0, 3, 2]
  other = dataclasses.replace(batch, **{name: getattr(batch, name)[turned] for name in ("index", "lengths", "ids")})
  assert np.allclose(run(model, other)[0], run(model, batch)[0][turned], atol=1e-5)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"place": "above"}, "place: got 'above', want one of none, input, output, both"),
    ({"encoder": "gru"}, "encoder: got 'gru', want one of lstm, none"),
    ({"head": "spans"}, "head: got 'spans', want one of classify, tag, crf, pair, regress, choose, answer"),
    ({"head": "answer", "encoder": "none"}, "encoder: got none with head=answer, want lstm: a passage has to be read"),
    ({"bilm": None}, "bilm: got none with place=both, want a language model, or place=none"),
    (
      {"vectors": 0, "place": "output"},
      "vectors: got none with place=output, want word vectors, or place=input or both",
    ),
    ({"labels": ("O",)}, "labels: got 1, want at least 2 classes to choose from"),
  ],
)
def test_settings_that_do_not_fit(changes, message):
  with pytest.raises(TaskNetworkError) as error:
    dataclasses.replace(BOTH, **changes)
  assert str(error.value) == message


def test_a_mixture_is_checked_against_the_layers():
  with pytest.raises(MixtureError, match="or the number of a layer from 0 to 2"):
    dataclasses.replace(BOTH, mixture="3")
  assert dataclasses.replace(BOTH, mixture="3", place="none", bilm=None).places == ()


def test_a_pair_needs_two_sentences():
  single, pair = network(), network(head="pair")
  with pytest.raises(TaskNetworkError, match="^batch: got 1 sentences of an example, want 2 of pair"):
    jax.eval_shape(lambda: pair.init(jax.random.key(0), *inputs(batch_of(single))))


def test_a_config_says_all():
  """Sizes from `model`, head and classes from `objective`; without a place the biLM's keys are left alone."""
  bilm = {name: getattr(BILM, name) for name in (field.name for field in dataclasses.fields(BILM))}
  bilm = {name: value for name, value in bilm.items() if name not in ("dtype", "heads_on_top")}
  own = {name: getattr(BOTH, name) for name in (field.name for field in dataclasses.fields(BOTH))}
  own = {name: value for name, value in own.items() if name not in ("bilm", "head", "labels", "dtype")}
  objective = {"name": "word_task", "kind": "crf", "labels": LABELS, "l2": 0.1, "loss_scale": "mean"}
  config = ConfigDict(
    {"model": {"name": "elmo_task", "bilm": bilm, **own}, "objective": objective, "dtype": "bfloat16"}
  )
  built = objectives.build(config)
  assert built.l2 == 0.1
  wide = dataclasses.replace(BILM, dtype=jnp.bfloat16)
  assert built.model.config == dataclasses.replace(BOTH, head="crf", dtype=jnp.bfloat16, bilm=wide)
  config.model.place = "none"
  assert objectives.build(config).model.config.bilm is None
