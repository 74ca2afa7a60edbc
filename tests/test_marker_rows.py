"""Rows that published weights of LUKE gain for markers: copies in tables and biases, and nothing else changes."""

import dataclasses

import numpy as np

from models.paths import named_leaves
from models.published import luke_files
from models.published.parts import shapes_of
from tests.luke_models import CASES, ENTITIES, case
from tests.parity_models import SIZES, VOCAB, random_params


def test_marker_rows_are_copies_in_tables_and_biases():
  c = CASES["luke"]
  params = random_params(c.model)
  model, grown = luke_files.with_rows(c.model, params, words=(7, 9), entity=(ENTITIES, 2))
  assert model.config == dataclasses.replace(c.model.config, vocab_size=VOCAB + 2, entity_vocab_size=ENTITIES + 1)
  before, after, wanted = (named_leaves(tree) for tree in (params, grown, shapes_of(model)))
  assert {path: x.shape for path, x in after.items()} == {path: x.shape for path, x in wanted.items()}
  for path in ("embeddings/word/embedding", "heads/mlm/bias"):
    np.testing.assert_array_equal(after[path][:VOCAB], before[path][:VOCAB])
    np.testing.assert_array_equal(after[path][VOCAB : VOCAB + 2], before[path][[7, 9]])
    assert not after[path][VOCAB + 2 :].any()
  for path in ("entity_embeddings/entity/embedding", "heads/entity/bias"):
    np.testing.assert_array_equal(after[path][:ENTITIES], before[path][:ENTITIES])
    np.testing.assert_array_equal(after[path][ENTITIES], before[path][2])
  same = [path for path, x in before.items() if after[path] is x]
  assert len(same) == len(before) - 4


def test_a_marker_row_may_take_another_ones_place():
  c = CASES["luke"]
  params = random_params(c.model)
  model, grown = luke_files.with_rows(c.model, params, entity=(ENTITIES - 1, 2))
  assert model.config == c.model.config
  table, before = grown["entity_embeddings"]["entity"]["embedding"], params["entity_embeddings"]["entity"]["embedding"]
  np.testing.assert_array_equal(table[ENTITIES - 1], before[2])
  np.testing.assert_array_equal(table[: ENTITIES - 1], before[: ENTITIES - 1])


def test_tables_grow_by_whole_blocks_of_rows():
  full = case(vocab_size=128)
  model, grown = luke_files.with_rows(full.model, random_params(full.model), words=(0, 1))
  assert grown["embeddings"]["word"]["embedding"].shape == (256, SIZES["hidden"]) and model.config.vocab_size == 130
