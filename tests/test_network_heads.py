"""What the heads of task networks say of the words that they read: classes, pairs, numbers, choices, answers."""

import dataclasses

import jax
import numpy as np
import pytest

from models.esim import compare
from models.passage_reader import PassageReader
from models.task_networks import TaskNetworkError
from tests.lstm_oracle import both_directions
from tests.word_networks import COLUMNS, PROBE, ROWS, alone, batch_of, network, params_of, run


def pools(x, mask):
  """(mean, maximum) of each sentence's words, zeros where it has none."""
  own = [sentence[words] if words.any() else np.zeros((1, x.shape[-1])) for sentence, words in zip(x, mask)]
  return np.array([words.mean(0) for words in own]), np.array([words.max(0) for words in own])


def last(params, x):
  return x @ params["heads"]["classify"]["kernel"] + params["heads"]["classify"]["bias"]


def test_a_sentence_is_the_mean_and_the_maximum_of_its_words():
  model = network()
  logits, x, mask = run(model, batch_of(model))
  assert np.allclose(logits[:, 0], last(params_of(model), np.concatenate(pools(x, mask), axis=-1)), atol=1e-5)


def test_a_probe_of_sentences_reads_their_means_alone():
  model = network(encoder="none", place="input")
  logits, x, mask = run(model, batch_of(model))
  assert np.allclose(logits[:, 0], last(params_of(model), pools(x, mask)[0]), atol=1e-5)


def test_a_probe_of_pairs_compares_their_means():
  """Both sentences with the words of the row's group."""
  model = network(PROBE, head="pair")
  batch, params = batch_of(model), params_of(model)
  logits, x, mask = run(model, batch)
  for row in range(ROWS):
    for sentence in (0, 1):
      states = params["mix"]["input"]["gamma"] * alone(params, batch, row, sentence)[2]
      assert np.allclose(x[2 * row + sentence][mask[2 * row + sentence]], states, atol=1e-5)
  a, b = pools(x, mask)[0].reshape(ROWS, 2, -1).swapaxes(0, 1)
  wanted = last(params, np.concatenate([a, b, a - b, a * b], axis=-1))
  assert np.allclose(logits[:, 0], wanted, atol=1e-5)


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def esim(params, a, b):
  """Chen et al. (2017), equations 11 to 18, of two sentences without padding."""
  scores = a @ b.T
  found = []
  for own, other in ((a, softmax(scores) @ b), (b, softmax(scores.T) @ a)):
    x = np.asarray(compare(own, other)) @ params["projection"]["kernel"] + params["projection"]["bias"]
    found.append(both_directions(np.maximum(x, 0), params["composition"]["layer_0"]))
  pooled = np.concatenate([pool for x in found for pool in (x.mean(0), x.max(0))])
  return np.maximum(pooled @ params["dense"]["kernel"] + params["dense"]["bias"], 0)


def test_a_pair_is_read_as_by_esim():
  model = network(head="pair")
  batch, params = batch_of(model), params_of(model)
  found, x, _ = run(model, batch)
  x = x.reshape(ROWS, 2, COLUMNS - 2, -1)
  for row, (first, second) in enumerate(batch.lengths - 2):
    if first and second:
      wanted = last(params, esim(params["pair"], x[row, 0, :first], x[row, 1, :second]))
      assert np.allclose(found[row, 0], wanted, atol=1e-5)
  assert np.isfinite(found).all()


def test_a_number_is_read_as_a_pair_is_and_has_one_output():
  model, pair = network(head="regress", labels=("score",)), network(head="pair")
  batch, own = batch_of(model), params_of(model)
  kernel = np.concatenate([own["heads"]["regress"]["kernel"]] * 3, axis=1)
  heads = {"classify": {"kernel": kernel, "bias": np.repeat(own["heads"]["regress"]["bias"], 3)}}
  found, wanted = run(model, batch)[0], run(pair, batch, params=own | {"heads": heads})[0]
  assert found.shape == (ROWS, 1, 1) and model.config.classes == 0
  assert np.allclose(found, wanted[..., :1], atol=1e-6)


def test_choices_are_pairs_of_the_first_sentence_with_each_other():
  model, pair = network(head="choose", labels=()), network(head="pair", labels=("no", "yes"))
  batch, own = batch_of(model), params_of(model)
  found = run(model, batch)[0]
  assert found.shape == (ROWS, 3) and model.config.classes == 0 and np.isfinite(found).all()
  kernel = np.concatenate([own["heads"]["choose"]["kernel"]] * 2, axis=1)
  heads = {"classify": {"kernel": kernel, "bias": np.repeat(own["heads"]["choose"]["bias"], 2)}}
  for choice in range(3):
    two = {name: getattr(batch, name)[:, [0, choice + 1]] for name in ("index", "lengths", "ids")}
    wanted = run(pair, dataclasses.replace(batch, **two), params=own | {"heads": heads})[0]
    assert np.allclose(found[:, choice], wanted[:, 0, 0], atol=1e-5)
  with pytest.raises(TaskNetworkError, match="got 2 sentences of an example, want 3 of choose"):
    run(model, dataclasses.replace(batch, **two))


def test_an_answer_is_read_from_the_passage_and_the_question():
  """Of the words of both, which `tests/test_passage_reader.py` knows."""
  model = network(head="answer", labels=())
  batch, own = batch_of(model), params_of(model)
  found, x, mask = run(model, batch)
  pairs = lambda leaf: leaf.reshape(ROWS, 2, *leaf.shape[1:])
  reader = PassageReader(model.config.encoded_size, 4, 0.0)
  wanted = jax.jit(reader.apply)({"params": own["reader"]}, pairs(x), pairs(mask))
  assert found.shape == (ROWS, COLUMNS - 1, 2) and model.config.classes == 0
  assert np.allclose(found, wanted, atol=1e-5)
