"""Linear-chain CRFs against all paths of short sentences, one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.tasks import tags as schemes
from models.crf import Chain, Crf, allowed_paths, best_path, log_likelihood, log_partition

TAGS, WORDS = 3, 4
LENGTHS = (4, 1, 0, 3)
MASK = np.arange(WORDS) < np.array(LENGTHS)[:, None]
FREE = allowed_paths(("A", "B", "C"))
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", *(f"{letter}-{kind}" for kind in ("PER", "LOC") for letter in "BIES"))


@functools.cache
def problem(tags=TAGS, words=WORDS, seed=0):
  """Emissions [B, K, N] with large numbers behind each sentence, a chain, tags [B, K]."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: np.float32(rng.normal(0, 1.5, shape))
  emissions = draw(len(LENGTHS), words, tags)
  emissions[~(np.arange(words) < np.array(LENGTHS)[:, None])] = 77
  return emissions, Chain(draw(tags, tags), draw(tags), draw(tags)), rng.integers(0, tags, (len(LENGTHS), words))


def scores(emissions, chain, paths):
  """Of paths [n, m] of one sentence [K, N], m words of it; on NumPy and JAX."""
  own = emissions[np.arange(paths.shape[1]), paths].sum(axis=1)
  steps = chain.transitions[paths[:, :-1], paths[:, 1:]].sum(axis=1)
  return chain.start[paths[:, 0]] + own + steps + chain.end[paths[:, -1]]


def every_path(tags, size):
  return np.array([*itertools.product(range(tags), repeat=size)])


def log_p(emissions, chain, tags):
  """float [B], by the scores of all paths of each sentence; 0 where there is no word."""
  found = []
  for sentence, path, size in zip(emissions, tags, LENGTHS):
    if size:
      total = jax.nn.logsumexp(scores(sentence, chain, every_path(TAGS, size)))
      found.append(scores(sentence, chain, path[None, :size])[0] - total)
    else:
      found.append(0.0)
  return jnp.stack(found)


def test_log_partition_is_the_sum_over_all_paths():
  emissions, chain, _ = problem()
  found = jax.jit(log_partition)(emissions, chain, MASK)
  for sentence, size, total in zip(emissions, LENGTHS, found):
    wanted = scores(sentence, chain, every_path(TAGS, size)) if size else np.zeros(1)
    assert np.isclose(total, np.log(np.exp(np.float64(wanted)).sum()), atol=1e-5)


def test_log_likelihood_and_its_gradient():
  """Of emissions, transitions and both ends; padding has none."""
  emissions, chain, tags = problem()
  weights = np.float32([1.0, 0.5, 2.0, 3.0])

  def weighed(function, *more):
    total = lambda emissions, chain: (lambda p: (jnp.sum(p * weights), p))(function(emissions, chain, tags, *more))
    return jax.value_and_grad(total, (0, 1), has_aux=True)

  (_, found), gradient = jax.jit(weighed(log_likelihood, MASK))(emissions, chain)
  (_, wanted), slow = jax.jit(weighed(log_p))(emissions, chain)
  assert np.allclose(found, wanted, atol=1e-5) and found[2] == 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, slow)
  assert not np.asarray(gradient[0])[~MASK].any()


def test_probabilities_of_all_paths_sum_to_one():
  emissions, chain, _ = problem()
  paths = every_path(TAGS, WORDS)
  whole = np.ones(paths.shape, bool)
  found = jax.jit(log_likelihood)(np.repeat(emissions[:1], len(paths), axis=0), chain, paths, whole)
  assert np.isclose(np.exp(found).sum(), 1, atol=1e-5)


@functools.cache
def decoder(labels):
  return jax.jit(lambda *arrays: best_path(*arrays, allowed_paths(labels)))


@pytest.mark.parametrize("labels, scheme", [(("A", "B", "C"), None), (BIO, "iob2"), (BIOES, "bioes")])
def test_the_best_path_is_the_best_of_all_that_are_allowed(labels, scheme):
  """Sentences of four lengths in one batch; a scheme is what its own check lets pass."""
  emissions, chain, _ = problem(len(labels), 3 if scheme == "bioes" else WORDS)
  lengths = np.minimum(LENGTHS, emissions.shape[1])
  found = np.asarray(decoder(labels)(emissions, chain, np.arange(emissions.shape[1]) < lengths[:, None]))
  assert found.dtype == np.int32
  free = np.asarray(decoder(tuple(map(str, range(len(labels)))))(emissions, chain, np.ones(emissions.shape[:2], bool)))
  for sentence, path, size in zip(emissions, found.tolist(), lengths):
    legal = lambda path: scheme is None or schemes.check([labels[i] for i in path], scheme) is None
    best = ()
    if size:
      paths = np.array([path for path in every_path(len(labels), size).tolist() if legal(path)])
      best = paths[np.argmax(scores(sentence, chain, paths))]
    assert path == [*best, *[0] * (emissions.shape[1] - size)]
  assert scheme is None or any(schemes.check([labels[i] for i in path], scheme) for path in free.tolist())


@pytest.mark.parametrize("labels, scheme", [(BIO, "iob2"), (BIOES, "bioes")])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_scheme_allows_what_its_check_lets_pass(labels, scheme, size):
  """Every sequence of so many tags: its beginning, its steps and its end are all allowed, or the check complains."""
  allowed = allowed_paths(labels)
  for path in itertools.product(range(len(labels)), repeat=size):
    steps = all(allowed.transitions[a, b] for a, b in itertools.pairwise(path))
    says = allowed.start[path[0]] and steps and allowed.end[path[-1]]
    assert says == (schemes.check([labels[i] for i in path], scheme) is None), path


def test_letters_of_allennlp_are_those_of_bioes():
  named = [label.replace("E-", "L-").replace("S-", "U-") for label in BIOES]
  for a, b in zip(allowed_paths(named), allowed_paths(BIOES)):
    assert (a == b).all()


@pytest.mark.parametrize("labels", [("NN", "VB"), ("O", "PER"), ("O", "I-PER", "I-LOC"), ("B-", "O")])
def test_other_labels_have_no_rules(labels):
  assert all(leaf.all() for leaf in allowed_paths(labels))


def test_initial_parameters():
  """AllenNLP's: transitions N(0, 1 / sqrt(N)), which is Glorot's for a square, start and end N(0, 1)."""
  params = jax.jit(lambda: Crf(200).init(jax.random.key(0)))()["params"]
  assert {name: leaf.shape for name, leaf in params.items()} == {
    "transitions": (200, 200), "start": (200,), "end": (200,),
  }  # fmt: skip
  assert abs(params["transitions"].std() * 200**0.5 - 1) < 0.05
  assert abs(params["start"].std() - 1) < 0.2 and abs(params["end"].std() - 1) < 0.2
