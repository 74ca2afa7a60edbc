"""The reader of passages against the same in plain loops, and that what stands behind a text changes nothing."""

import functools
import zlib

import jax
import numpy as np

from models.passage_reader import PassageReader
from models.paths import map_named
from tests.lstm_oracle import both_directions

SIZES = [(6, 3), (4, 5), (1, 1), (2, 6)]  # words of passage and question
WIDTH, HIDDEN, COLUMNS = 5, 3, 6
READER = PassageReader(WIDTH, HIDDEN, 0.0)


def example_of(seed=0, columns=COLUMNS):
  """(x [B, 2, K, D], mask [B, 2, K])."""
  rng = np.random.default_rng(seed)
  mask = np.arange(columns) < np.array(SIZES)[:, :, None]
  x = rng.normal(size=(len(SIZES), 2, COLUMNS, WIDTH)).astype(np.float32)
  x = np.pad(x, ((0, 0), (0, 0), (0, columns - COLUMNS), (0, 0)))
  return np.where(mask[..., None], x, 0), mask


@functools.cache
def params():
  draw = lambda path, leaf: np.float32(np.random.default_rng(zlib.crc32(path.encode())).normal(0, 0.6, leaf.shape))
  shapes = jax.eval_shape(lambda: READER.init(jax.random.key(0), *example_of())["params"])
  return map_named(draw, shapes)


def run(x, mask, *key, reader=READER):
  return np.asarray(jax.jit(reader.apply)({"params": params()}, x, mask, *key))


def affine(x, layer):
  return x @ layer["kernel"] + layer["bias"]


def softmax(x, axis):
  x = np.exp(x - x.max(axis, keepdims=True))
  return x / x.sum(axis, keepdims=True)


def scores(a, b, layer):
  """w_x x + w_y y + w_xy (x y), a pair of words at a time."""
  both = lambda x, y: x @ layer["first"] + y @ layer["second"] + (x * y) @ layer["both"]
  return np.array([[both(x, y) for y in b] for x in a])


def read(p, passage, question):
  """Clark and Gardner (2018), section 3.1, of one question without padding: logits [K + 1, 2]."""
  found = scores(passage, question, p["question"])
  context = softmax(found, 1) @ question
  seen = softmax(found.max(1), 0) @ passage
  x = np.concatenate([passage, context, passage * context, seen * context], axis=1)
  x = np.maximum(affine(x, p["question_dense"]), 0)
  h = both_directions(x, p["second"]["layer_0"])
  own = scores(h, h, p["itself"])
  np.fill_diagonal(own, -np.inf)
  context = softmax(own, 1) @ h if len(h) > 1 else h * 0
  x = x + np.maximum(affine(np.concatenate([h, context, h * context], axis=1), p["itself_dense"]), 0)
  first = both_directions(x, p["start_reading"]["layer_0"])
  last = both_directions(np.concatenate([x, first], axis=1), p["end_reading"]["layer_0"])
  logits = np.concatenate([affine(first, p["start"]), affine(last, p["end"])], axis=1)
  shares = softmax(logits, 0)
  pooled = np.concatenate([shares[:, 0] @ first, shares[:, 1] @ last])
  none = affine(np.maximum(affine(pooled, p["nothing_dense"]), 0), p["nothing"])
  return np.concatenate([none[None], logits])


def test_it_reads_as_the_paper_has_it():
  x, mask = example_of()
  found = run(x, mask)
  assert found.shape == (4, COLUMNS + 1, 2) and found.dtype == np.float32
  for row, (words, asked) in enumerate(SIZES):
    np.testing.assert_allclose(found[row, : words + 1], read(params(), x[row, 0, :words], x[row, 1, :asked]), atol=1e-5)
    assert (found[row, words + 1 :] == -1e9).all()


def test_padding_changes_nothing():
  """More columns, in which the passage of another row of the batch may stand; the logits of one word too."""
  x, mask = example_of()
  more, wider = example_of(columns=COLUMNS + 4)
  np.testing.assert_allclose(run(more, wider)[:, : COLUMNS + 1], run(x, mask), atol=1e-6)
  nothing = run(x, mask & False)
  assert np.isfinite(nothing).all()


def test_every_part_of_the_question_counts():
  """A gradient reaches the last word of each question and of each passage from the logits of the first word."""
  x, mask = example_of()
  of = lambda x: READER.apply({"params": params()}, x, mask)[:, 1, 0].sum()
  gradient = np.abs(np.asarray(jax.jit(jax.grad(of))(x))).sum(-1)
  for row, (words, asked) in enumerate(SIZES):
    assert gradient[row, 0, words - 1] > 0
    assert words == 1 or gradient[row, 1, asked - 1] > 0
  assert (gradient[~mask] == 0).all()


def test_dropout_is_of_its_key():
  x, mask = example_of()
  reader = PassageReader(WIDTH, HIDDEN, 0.5)
  one, same, other = (run(x, mask, jax.random.key(seed), reader=reader) for seed in (0, 0, 1))
  assert np.array_equal(one, same) and not np.allclose(one, other)
  assert np.array_equal(run(x, mask, reader=reader), run(x, mask))
