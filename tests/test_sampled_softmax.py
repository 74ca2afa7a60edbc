"""Sampled softmax against the original's sampler in plain Python, and in expectation against the full softmax."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from models.sharding import make_mesh
from objectives.losses import cross_entropy
from objectives.sampled_softmax import (
  Negatives,
  distinct_words,
  draw_negatives,
  draw_words,
  log_expected_count,
  log_uniform,
  sampled_cross_entropy,
  tries_for,
)

VOCAB = 1000
LOSSES = jax.jit(sampled_cross_entropy, static_argnums=5)
DRAW = jax.jit(jax.vmap(draw_negatives, (0, None, None)), static_argnums=(1, 2))  # [n] keys -> Negatives of [n, K]


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def chances(vocab):
  """P(k) = log((k + 2) / (k + 1)) / log(V + 1)."""
  k = np.arange(vocab, dtype=np.float64)
  return np.log((k + 2) / (k + 1)) / np.log(vocab + 1)


# --- the sampler ----------------------------------------------------------------------------------------------------


def test_word_probabilities_are_log_uniform_and_add_up_to_1():
  got = log_uniform(jnp.arange(VOCAB), VOCAB)
  np.testing.assert_allclose(got, chances(VOCAB), rtol=1e-6)
  assert float(jnp.sum(got)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("vocab", [7, 8, 100])
def test_words_are_drawn_with_their_probabilities(vocab):
  """Frequencies of 100,000 draws, to five standard deviations of each; V + 1 a power of two, and not."""
  draws = 100_000
  got = np.bincount(draw_words(jax.random.key(vocab), vocab, draws), minlength=vocab) / draws
  p = chances(vocab)
  assert got.shape == (vocab,) and (np.abs(got - p) < 5 * np.sqrt(p / draws)).all()


def test_rare_words_of_a_large_vocabulary_are_told_apart():
  """The last 100,000 of 793,471: a million draws of float32 numbers reach all kinds of them alike."""
  vocab, draws = 793_471, 1_000_000
  words = np.asarray(draw_words(jax.random.key(0), vocab, draws))
  assert words.min() == 0 and words.max() < vocab
  tail = words[words >= vocab - 100_000]
  expected = draws * chances(vocab)[-100_000:].sum()
  assert abs(len(tail) - expected) < 5 * expected**0.5
  for modulus in (2, 3, 16):
    shares = np.bincount(tail % modulus, minlength=modulus) / len(tail)
    assert (np.abs(shares * modulus - 1) < 5 * (modulus / len(tail)) ** 0.5).all()


def first_distinct(words, count):
  """The original's loop: draw until `count` different words are there; the words in order, and the tries."""
  found, tries = [], 0
  while len(found) < count:
    word, tries = int(words[tries]), tries + 1
    if word not in found:
      found.append(word)
  return found, tries


@pytest.mark.parametrize("count", [1, 5, 60])
def test_negatives_are_the_first_distinct_words_and_tries_count_repeats(count):
  for words in np.random.default_rng(count).zipf(1.3, (3, 600)) % 100:
    want, tries = first_distinct(words, count)
    got = distinct_words(jnp.asarray(words), count)
    assert got.ids.tolist() == want and int(got.tries) == tries and bool(got.filled.all())


def test_too_few_tries_leave_slots_that_are_not_filled():
  got = distinct_words(jnp.array([4, 4, 2, 4]), 3)
  assert got.ids[:2].tolist() == [4, 2] and got.filled.tolist() == [True, True, False] and int(got.tries) == 4


@pytest.mark.parametrize(("vocab", "count"), [(793_471, 8192), (100, 10)])
def test_tries_suffice(vocab, count):
  """The expected number of different words is six roots above what is wanted; all slots are filled, 10 times."""
  tries = tries_for(vocab, count)
  expected = -np.expm1(tries * np.log1p(-chances(vocab))).sum()
  assert count + 6 * count**0.5 <= expected <= 1.02 * (count + 6 * count**0.5)
  many = DRAW(keys(10), vocab, count)
  assert bool(many.filled.all()) and int(many.tries.max()) < tries
  assert all(len(set(ids)) == count for ids in np.asarray(many.ids).tolist())


def test_words_are_among_the_negatives_as_often_as_expected():
  """Mean of 1[k drawn] / expected count over 1500 sets of 100 out of 1000 is 1 to 1 / 50, for every run of words."""
  sets = 1500
  drawn = DRAW(keys(sets), VOCAB, 100)
  expected = np.exp(log_expected_count(drawn.ids, drawn.tries[:, None], VOCAB))
  ratios = np.bincount(np.asarray(drawn.ids).ravel(), 1 / expected.ravel(), VOCAB) / sets
  for run in (slice(0, 1), slice(1, 5), slice(5, 30), slice(30, 200), slice(200, VOCAB)):
    assert np.mean(ratios[run]) == pytest.approx(1.0, abs=0.02), run


# --- the loss -------------------------------------------------------------------------------------------------------


def problem(seed=0, rows=4, length=3, width=6, vocab=40, count=12):
  """(x [B, 2, L, P], table, bias, labels, negatives): a table of 128 rows, of which 40 are words."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  labels = jnp.asarray(rng.integers(0, vocab, (rows, 2, length)), jnp.int32)
  negatives = DRAW(keys(2, seed), vocab, count)
  return normal(rows, 2, length, width), normal(128, width), normal(128), labels, negatives


@jax.jit
def gradients(x, table, bias, labels, negatives):
  """Of the sum of the losses, in the table and the biases."""
  return jax.grad(lambda *to: jnp.sum(LOSSES(x, *to, labels, negatives, 40)), (0, 1))(table, bias)


def oracle(x, table, bias, labels, negatives, vocab):
  """One position after the other in float64."""
  x, table, bias = (np.asarray(leaf, np.float64) for leaf in (x, table, bias))
  p, losses = chances(vocab), np.zeros(labels.shape)
  for row, direction, step in np.ndindex(*labels.shape):
    label, state = int(labels[row, direction, step]), x[row, direction, step]
    expected = lambda word, tries=int(negatives.tries[direction]): 1 - (1 - p[word]) ** tries
    corrected = lambda word, state=state, expected=expected: state @ table[word] + bias[word] - np.log(expected(word))
    words = [int(w) for w, there in zip(negatives.ids[direction], negatives.filled[direction]) if there]
    logits = [corrected(label)] + [corrected(word) for word in words if word != label]
    losses[row, direction, step] = np.log(np.exp(logits).sum()) - logits[0]
  return losses


def test_losses_and_gradients_equal_a_plain_loop():
  x, table, bias, labels, negatives = problem()
  assert (labels[..., None] == negatives.ids[:, None]).any(), "want an accidental hit"
  got = LOSSES(x, table, bias, labels, negatives, 40)
  np.testing.assert_allclose(got, oracle(x, table, bias, labels, negatives, 40), rtol=1e-5)
  gradient, step = gradients(x, table, bias, labels, negatives)[0], 1e-5
  for word, column in ((int(labels[0, 0, 0]), 0), (int(negatives.ids[1, 2]), 3)):
    moved = [np.array(table, np.float64) for _ in range(2)]
    for sign, leaf in zip((1, -1), moved):
      leaf[word, column] += sign * step
    above, below = (oracle(x, leaf, bias, labels, negatives, 40).sum() for leaf in moved)
    assert float(gradient[word, column]) == pytest.approx((above - below) / (2 * step), rel=1e-4)


def test_slots_that_are_not_filled_are_no_classes():
  x, table, bias, labels, negatives = problem()
  some = dataclasses.replace(negatives, filled=negatives.filled & (jnp.arange(12) < 7))
  fewer = Negatives(negatives.ids[:, :7], negatives.filled[:, :7], negatives.tries)
  got, want = LOSSES(x, table, bias, labels, some, 40), oracle(x, table, bias, labels, fewer, 40)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_only_labels_and_negatives_have_a_gradient():
  x, table, bias, labels, negatives = problem()
  of_table, of_bias = gradients(x, table, bias, labels, negatives)
  touched = {*np.asarray(labels).ravel().tolist(), *np.asarray(negatives.ids).ravel().tolist()}
  assert {*np.flatnonzero(np.abs(of_table).sum(1)).tolist()} == touched == {*np.flatnonzero(of_bias).tolist()}
  assert len(touched) < 40


def test_the_corrected_sum_over_negatives_is_the_full_sum_in_expectation():
  """E[sum over negatives of exp(logit) / expected count] = sum over all words, to the size of one word in 100."""
  logits = np.random.default_rng(1).normal(size=VOCAB)
  drawn = DRAW(keys(1500, 5), VOCAB, 100)
  corrected = logits[drawn.ids] - log_expected_count(drawn.ids, drawn.tries[:, None], VOCAB)
  assert np.exp(corrected).sum(1).mean() / np.exp(logits).sum() == pytest.approx(1.0, abs=0.02)


def test_the_true_distribution_is_where_the_expected_gradient_is_zero():
  """Targets from p: at logits log p the gradient of the biases vanishes, as the full softmax's does.

  Without the correction it does not: words that are drawn often would be pushed down.
  """
  vocab, count, trials = 30, 8, 4000
  p = np.random.default_rng(2).dirichlet(np.ones(vocab))
  x, table, bias = jnp.zeros((1, 1, 1, 1)), jnp.zeros((128, 1)), jnp.zeros(128).at[:vocab].set(np.log(p))

  def gradient(key, spoil):
    one, two = jax.random.split(key)
    drawn = jax.tree.map(lambda leaf: leaf[None], draw_negatives(one, vocab, count))
    drawn = dataclasses.replace(drawn, tries=jnp.where(spoil, 10**6, drawn.tries))  # expected counts of 1
    label = jax.random.categorical(two, jnp.log(p))[None, None, None]
    return jax.grad(lambda bias: sampled_cross_entropy(x, table, bias, label, drawn, vocab).sum())(bias)[:vocab]

  many = jax.jit(jax.vmap(gradient, (0, None)))
  right, wrong = (np.abs(np.mean(many(keys(trials, 3), spoil), 0)).max() for spoil in (False, True))
  assert right < 0.015 and wrong > 0.03


def test_it_is_lower_than_the_full_loss_and_nears_it_as_negatives_become_all_words():
  x, table, bias, labels, _ = problem()
  full = float(cross_entropy(jnp.einsum("BDLP,VP->BDLV", x, table[:40]) + bias[:40], labels).mean())

  def loss(count):
    drawn = DRAW(keys(80), 40, count)
    pairs = jax.tree.map(lambda leaf: leaf.reshape(40, 2, *leaf.shape[1:]), drawn)
    many = jax.jit(jax.vmap(lambda negatives: sampled_cross_entropy(x, table, bias, labels, negatives, 40).mean()))
    return float(many(pairs).mean())

  few, most = loss(3), loss(39)
  assert few < 0.8 * full < most < full and most == pytest.approx(full, rel=0.02)


def test_a_table_split_over_the_mesh_is_never_gathered():
  """Rows over `data`, words over `model`: loss and gradient are those of one device; nothing travels but sums."""
  x, table, bias, labels, negatives = problem(rows=8, vocab=500)
  table = jnp.asarray(np.random.default_rng(1).normal(size=(512, 6)), jnp.float32)
  bias = jnp.zeros(512)
  mesh = make_mesh(2, 4)
  place = lambda leaf, *axes: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))
  rows, words = (lambda leaf: place(leaf, "data")), (lambda leaf: place(leaf, "model"))

  def loss(x, table, bias, labels, negatives):
    return jnp.mean(sampled_cross_entropy(x, table, bias, labels, negatives, 500))

  function = jax.value_and_grad(loss, (0, 1, 2))
  want = jax.jit(function)(x, table, bias, labels, jax.device_get(negatives))
  shardings = (None, tuple(leaf.sharding for leaf in (rows(x), words(table), words(bias))))
  split = jax.jit(function, out_shardings=shardings)
  arguments = rows(x), words(table), words(bias), rows(labels), jax.tree.map(place, negatives)
  for got, leaf in zip(jax.tree.leaves(split(*arguments)), jax.tree.leaves(want)):
    np.testing.assert_allclose(got, leaf, rtol=1e-5, atol=1e-6)
  text = split.lower(*arguments).compile().as_text()
  assert not re.search(r"f32\[512,6\]|all-gather|collective-permute|all-to-all", text)
