"""Batches of examples with mentions: the same draws alone, packed, cut in shares and read ahead; what is refused."""

import dataclasses

import numpy as np
import pytest

from data import batch as contracts
from data import masking
from data.examples import Options
from data.loader import LoaderError, evaluation_batches, prefetch
from data.masking import EntitySettings, MaskError, Masking
from tests import oracles
from tests.entity_rows import ENTITIES, SEED, STORE, TABLES, WORDS, pipeline, same, whole
from tests.masking_oracles import one_block_rows

# --- identity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entities", [ENTITIES, dataclasses.replace(ENTITIES, mask_words=True)], ids=["", "mask_words"])
def test_a_packed_example_has_the_masks_that_it_has_alone(entities):
  packed, alone = (pipeline(Options("entity_sentences", 128, packed=s), entities=entities) for s in (4, 1))
  (got, batch), (ones, single) = whole(packed), whole(alone)
  row_of = {int(example): row for row, example in enumerate(ones.examples[:, 0])}
  for row, slot in np.argwhere(got.examples >= 0).tolist():
    lone = row_of[int(got.examples[row, slot])]
    begin = int(got.sizes[row, :slot].sum())
    mine = got.tokens.segments[row][batch.words.positions[row]] == slot + 1
    mine &= batch.words.weights[row] == 1
    kept = single.words.weights[lone] == 1
    assert (batch.words.positions[row][mine] - begin).tolist() == single.words.positions[lone][kept].tolist()
    assert batch.words.inputs[row][mine].tolist() == single.words.inputs[lone][kept].tolist()
    own = batch.entities.segments[row] == slot + 1
    there = single.entities.segments[lone] == 1
    assert batch.entities.ids[row][own].tolist() == single.entities.ids[lone][there].tolist()
    places = batch.entities.positions[row][own]
    assert np.where(places >= 0, places - begin, -1).tolist() == single.entities.positions[lone][there].tolist()
  assert batch.weights.sum() == single.weights.sum() and batch.words.weights.sum() == single.words.weights.sum()


@pytest.mark.parametrize("options", [TABLES["alone"], TABLES["packed, few slots"]], ids=["alone", "packed"])
def test_rows_of_a_batch_of_256_equal_256_batches_of_one(options):
  store = oracles.random_store(400, seed=2)
  many, one = pipeline(options, 256, store=store), pipeline(options, 1, store=store)
  assert len(one.tables[0].rows) >= 256
  assert same(many.batch(0), contracts.concatenate_rows([one.batch(cursor) for cursor in range(256)]))


def test_masks_of_mentions_change_with_the_epoch_unless_they_are_static():
  dynamic, static = pipeline(), pipeline(words=dataclasses.replace(WORDS, static_copies=2))
  for pipe, alike in ((dynamic, False), (static, True)):
    seen = {}
    for epoch in (0, 2):
      start, shown = pipe.epoch_start(epoch), {}
      for cursor in range(start, start + pipe.epoch_size(epoch)):
        for row, batch_row in zip(pipe.locate(cursor)[1].tolist(), pipe.batch(cursor).positions.tolist()):
          shown[row] = batch_row
      seen[epoch] = shown
    both = seen[0].keys() & seen[2].keys()
    assert (all(seen[0][row] == seen[2][row] for row in both)) == alike and len(both) > 50


def test_entities_do_not_change_the_words():
  plain = pipeline(entities=None).batch(3)
  assert isinstance(plain, contracts.Masked) and same(plain, pipeline().batch(3).words)
  assert same(plain, pipeline(entities=EntitySettings(7, 8, rate=0.5, max_mention=2)).batch(3).words)


# --- the loader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
def test_batches_keep_their_contract(options):
  sizes = contracts.validate(pipeline(options).batch(0))
  slots = masking.masked_per_row(options.max_entities, options.packed, 0.15)
  assert [sizes[letter] for letter in "BLEMJ"] == [8, options.length, options.max_entities, 30, slots]
  tokens, slots = contracts.count_tokens(pipeline(options).batch(0))
  assert 0 < tokens <= slots == 8 * options.length


def test_evaluation_fills_the_last_batch_with_rows_without_words_and_mentions():
  pipe = pipeline(TABLES["packed"], batch_size=7)
  table, count = pipe.tables[0], len(pipe.tables[0].rows)
  batches = [*evaluation_batches(table, STORE, pipe.settings, SEED)]
  assert count % 7 and len(batches) == -(-count // 7)
  every = contracts.concatenate_rows(batches)
  assert every.weights[:count].sum(1).min() >= 1
  assert int((every.entities.segments > 0).sum()) == table.card["mentions"]
  for values in (every.words.tokens.segments, every.words.weights, every.weights, every.entities.segments):
    assert not values[count:].any()
  assert (every.entities.ids[count:] == ENTITIES.pad).all() and (every.entities.positions[count:] == -1).all()


def test_reading_ahead_and_shares_of_processes_give_the_batches_of_the_cursors():
  pipe = pipeline(TABLES["packed"], batch_size=4, passes=2)
  start = pipe.epoch_size(0) - 2
  for want, (cursor, batch) in zip(range(start, start + 4), prefetch(pipe, start), strict=False):
    assert cursor == want and same(batch, pipe.batch(cursor))
  parts = [pipe.batch(1, slice(first, first + 2)) for first in (0, 2)]
  assert same(contracts.concatenate_rows(parts), pipe.batch(1))


# --- refusals --------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_refused_with_one_line():
  inside = dataclasses.replace(ENTITIES, mask_words=True)
  refusals = [
    (lambda: EntitySettings(1, 0, rate=0.0), MaskError, "rate of entities: got 0.0, want a share above 0"),
    (lambda: EntitySettings(1, 0, max_mention=0), MaskError, "max_mention: got 0, want at least 1 token"),
    (lambda: EntitySettings(1, 1), MaskError, r"got \[MASK\] as 1 and \[PAD\] as 1, want two ids"),
    (lambda: pipeline(words=Masking("ngram"), entities=inside), MaskError, "mask_words: got strategy='ngram'"),
    (lambda: pipeline(Options("doc_sentences", 64)), LoaderError, "got format 'doc_sentences' and settings of entit"),
    (lambda: masking.mask(one_block_rows(1, 9), WORDS, np.zeros((1, 1), np.uint64), 4, 9), MaskError, "without pad_id"),
  ]
  for call, kind, line in refusals:
    with pytest.raises(kind, match=line) as error:
      call()
    assert "\n" not in str(error.value)
