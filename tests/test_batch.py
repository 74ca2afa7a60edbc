"""The batch contracts hold on the host, with a message that names the field."""

import dataclasses

import jax
import numpy as np
import pytest

from data.batch import BatchError, Masked, Pair, Tokens, batch_size, count_tokens, is_row_field, split_rows, validate
from data.draws import below, key, permutation, uniform, words
from tests.tenants import chars_batch, entity_batch, masked_batch


def test_sizes_of_a_valid_batch():
  assert validate(masked_batch(0)) == {"B": 16, "L": 24, "P": 6, "S": 2}
  assert validate(entity_batch(0)) == {"B": 16, "L": 24, "P": 6, "E": 4, "M": 3, "J": 2}


@pytest.mark.parametrize(
  "change, line",
  [
    (
      {"labels": np.zeros((16, 5), np.int32)},
      "batch field Masked.labels: got shape (16, 5) int32, want [B=16, P=6] int",
    ),
    (
      {"weights": np.zeros((16, 6), np.int32)},
      "batch field Masked.weights: got shape (16, 6) int32, want [B=16, P=6] float",
    ),
    ({"inputs": None}, "batch field Masked.inputs is missing: got None, want [B=16, P=6] int"),
    ({"labels": [1, 2]}, "batch field Masked.labels: got list, want [B=16, P=6] int"),
    (
      {"edges": np.zeros((16, 6, 3), np.int32)},
      "batch field Masked.edges: got shape (16, 6, 3) int32, want [B=16, P=6, 2] int",
    ),
  ],
)
def test_a_wrong_field_is_named_with_what_it_is_and_must_be(change, line):
  with pytest.raises(BatchError) as caught:
    validate(dataclasses.replace(masked_batch(0), **change))
  assert str(caught.value) == line


def test_nested_fields_share_the_sizes_of_the_whole_batch():
  batch = masked_batch(0)
  short = Pair(*(x[:8] for x in (batch.pair.cls, batch.pair.labels, batch.pair.weights)))
  with pytest.raises(BatchError, match=r"Masked.pair.cls: got shape \(8, 2\) int32, want \[B=16, S\] int"):
    validate(dataclasses.replace(batch, pair=short))


def test_rows_are_told_from_fields_of_the_whole_batch():
  batch = chars_batch(0)
  assert is_row_field(batch).words is False and is_row_field(batch).index is True
  rows, rebuild = split_rows(batch)
  assert len(rows) == 3 and batch_size(batch) == 16
  jax.tree.map(np.testing.assert_array_equal, rebuild(rows), batch)


def test_batches_are_pytrees_with_absent_optional_fields():
  batch = masked_batch(0)
  assert isinstance(jax.tree.map(lambda x: x, batch), Masked) and isinstance(batch.tokens, Tokens)
  assert batch.edges is None and len(jax.tree.leaves(batch)) == 11


def test_padding_is_counted():
  batch = masked_batch(0)
  assert count_tokens(batch) == (int((batch.tokens.segments > 0).sum()), 16 * 24)


def test_a_key_depends_on_every_name_its_order_and_its_type():
  keys = {
    key(0, "mask", 1),
    key(1, "mask", 1),
    key(0, "mask", "1"),
    key(0, 1, "mask"),
    key(0, "mask"),
    key(0, "mask", 1, 0),
  }
  assert len(keys) == 6 and key(0, "mask", np.int64(1)) == key(0, "mask", 1)


def test_words_are_splitmix64():
  """The first outputs of SplitMix64 from seed 1234567, as its author publishes them."""
  want = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
  assert words(1234567, np.arange(5)).tolist() == want


def test_draws_are_uniform_and_permutations_are_permutations():
  u = uniform(key(0, "u"), np.arange(100_000))
  assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.005
  assert np.bincount(below(key(0, "b"), np.arange(70_000), 7)).min() > 9_500
  order = permutation(0, "order", 3, 1000)
  assert sorted(order) == list(range(1000)) and list(order) != list(permutation(0, "order", 4, 1000))
