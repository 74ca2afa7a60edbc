"""Sentence embeddings: in-batch negatives against plain loops; neither packing nor order change the loss."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from data.batch import NEGATIVE, TextPairs, Tokens, validate
from models.paths import named_leaves
from objectives.pairs import PairsObjective, mean_pool
from objectives.step import StepSettings, make_step
from tests.parity_models import CASES, random_params

MODEL = CASES["bert_body"].model
TEXTS = [  # (pair, side, tokens); pair 1 has a negative of its own
  (0, 0, [7, 9, 11]), (0, 1, [12, 30]), (1, 0, [41, 8, 8, 6]), (1, 1, [9]), (1, 2, [77, 5, 90]), (2, 0, [22, 23]),
  (2, 1, [61, 62, 63, 64]),
]  # fmt: skip


def batch_of(rows, width=12, most=3):
  """Rows of indices of TEXTS, packed."""
  ids, segments, positions = (np.zeros((len(rows), width), np.int32) for _ in range(3))
  pairs, sides = np.full((len(rows), most), -1, np.int32), np.zeros((len(rows), most), np.int32)
  for row, texts in enumerate(rows):
    column = 0
    for place, text in enumerate(texts):
      pairs[row, place], sides[row, place], tokens = TEXTS[text]
      span = slice(column, column + len(tokens))
      ids[row, span], segments[row, span], positions[row, span] = tokens, place + 1, np.arange(len(tokens))
      column += len(tokens)
  batch = TextPairs(Tokens(ids, np.zeros_like(ids), segments, positions), pairs, sides)
  validate(batch)
  return batch


LONE, PACKED = batch_of([[i] for i in range(7)]), batch_of([[0, 6, 3], [2, 1, 4], [5], []])


def embeddings(params):
  """{(pair, side): the mean state of a text's tokens}, each encoded by itself."""
  hidden = np.asarray(MODEL.apply({"params": params}, LONE.tokens.ids, LONE.tokens).hidden)
  return {(pair, side): hidden[i, : len(tokens)].mean(0) for i, (pair, side, tokens) in enumerate(TEXTS)}


def cosine(a, b):
  return a @ b / np.sqrt(a @ a * (b @ b))


def cost(scores, right):
  return -(scores[right] - np.log(np.sum(np.exp(scores))))


def test_the_mean_is_over_the_tokens_of_a_text():
  hidden = np.arange(12, dtype=np.float32).reshape(1, 6, 2)
  found = np.asarray(mean_pool(hidden, np.int32([[1, 1, 2, 0, 2, 0]]), 3))
  assert found.tolist() == [[[1.0, 2.0], [6.0, 7.0], [0.0, 0.0]]]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_pair_costs_its_second_among_all_seconds_and_negatives(symmetric):
  params, scale = random_params(MODEL), 7.0
  objective, z = PairsObjective(MODEL, scale, symmetric), embeddings(params)
  candidates = [(0, 1), (1, 1), (2, 1), (1, 2)]
  forward = [scale * np.array([cosine(z[p, 0], z[c]) for c in candidates]) for p in range(3)]
  backward = [scale * np.array([cosine(z[p, 1], z[q, 0]) for q in range(3)]) for p in range(3)]
  want = np.mean([cost(scores, p) for p, scores in enumerate(forward)])
  if symmetric:
    want = (want + np.mean([cost(scores, p) for p, scores in enumerate(backward)])) / 2
  evaluate = jax.jit(lambda batch: objective.sums(params, None, batch, types.SimpleNamespace(), train=False)[:2])
  for batch in (LONE, PACKED):
    sums, statistics = jax.device_get(evaluate(batch))
    counts = objective.counts(batch)
    assert counts["pairs"] == 3
    figures = objective.report(sums, counts, statistics)
    assert figures["loss"] == pytest.approx(want, rel=1e-5)
    assert figures["accuracy"] == pytest.approx(np.mean([s.argmax() == p for p, s in enumerate(forward)]))
    real = batch.pairs >= 0
    np.testing.assert_allclose(np.linalg.norm(statistics["outputs"], axis=-1), real, atol=1e-6)


def test_texts_that_are_only_compared_have_no_loss():
  """Held-out texts with a score belong to no pair; a loss of 0 would look like a perfect one."""
  objective = PairsObjective(MODEL)
  compared = dataclasses.replace(LONE, sides=np.full_like(LONE.sides, NEGATIVE))
  assert objective.report({"pairs": np.float32(0)}, objective.counts(compared), {"pairs": np.zeros(2)}) == {}


def test_places_without_a_text_take_no_gradient_and_give_none():
  """Rows of padding, even whole ones, leave every gradient finite and as it was."""
  objective, params = PairsObjective(MODEL), random_params(MODEL)
  slope = jax.jit(jax.grad(lambda p, b: objective.sums(p, None, b, types.SimpleNamespace(), train=False)[0]["pairs"]))
  lone, packed = (named_leaves(slope(params, batch)) for batch in (LONE, PACKED))
  for path, leaf in lone.items():
    np.testing.assert_allclose(packed[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)


def test_more_than_one_micro_batch_is_refused():
  """Negatives are those of the whole batch."""
  settings = StepSettings(seed=0, micro_batches=2, loss_scale="mean")
  with pytest.raises(ValueError, match="micro_batches: got 2, want 1"):
    make_step(PairsObjective(MODEL), None, settings, None)
