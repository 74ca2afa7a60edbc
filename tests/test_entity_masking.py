"""Masked words and mentions of LUKE: budgets, groups, shares and draws, and the batches that the loader makes."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from data import batch as contracts
from data import masking, rows
from data.documents import Document
from data.examples import Options, build_table
from data.loader import LoaderError, Pipeline, Settings, evaluation_batches, prefetch
from data.masking import EntitySettings, MaskError, Masking, mentions
from data.mentions import encode_linked
from data.store import Store
from data.tokenizers import Special, bytebpe
from tests import oracles
from tests.masking_oracles import all_rows, assert_equals_oracle, one_block_rows, word_row
from tests.oracles import _word

SPECIAL, VOCAB, SEED = Special(pad=1, unk=3, cls=0, sep=2, mask=4), 60000, 5
WORDS = Masking("whole_word", max_predictions=77, budget="text", replace_by="word", random_tokens="above_pad")
ENTITIES = EntitySettings(mask=101, pad=100)
STORE = oracles.random_store(120, seed=1)
TABLES = {
  "alone": Options("entity_sentences", 64),
  "packed": Options("entity_sentences", 128, packed=4),
  "packed, few slots": Options("entity_sentences", 128, packed=3, max_entities=10),
}


def pipeline(options=TABLES["alone"], batch_size=8, words=WORDS, entities=ENTITIES, passes=1, store=STORE, seed=SEED):
  built = [build_table(store, options, 3, pass_) for pass_ in range(passes)]
  return Pipeline(built, store, Settings(batch_size, SPECIAL, VOCAB, words, None, entities), seed)


def whole(pipe):
  """All rows of the first pass, in the table's order, and their batch."""
  table = pipe.tables[0]
  got = rows.assemble(table, pipe.store, SPECIAL, np.arange(len(table.rows)))
  settings = dataclasses.replace(pipe.settings, batch_size=len(table.rows))
  (batch,) = evaluation_batches(table, pipe.store, settings, pipe.seed)
  return got, batch


def same(a, b):
  leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(leaves_a) == len(leaves_b) and all(
    x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(leaves_a, leaves_b, strict=True)
  )


# --- mentions --------------------------------------------------------------------------------------------------------


def test_the_number_of_masked_mentions_is_lukes():
  # max(1, round(0.15 * n)), half to even: 10 -> round(1.5) = 2, 30 -> round(4.5) = 4, 128 -> 19.
  want = {0: 0, 1: 1, 3: 1, 9: 1, 10: 2, 16: 2, 17: 3, 30: 4, 50: 8, 128: 19}
  assert {n: int(mentions.mention_budgets(n, 0.15)) for n in want} == want
  assert mentions.mention_budgets(np.arange(1, 129), 0.3).tolist() == [max(1, round(0.3 * n)) for n in range(1, 129)]


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
def test_entities_of_a_batch_are_its_mentions_in_order_and_predicted_ones_are_masks(options):
  pipe = pipeline(options)
  got, batch = whole(pipe)
  most, per_row, length = options.max_entities, options.packed, options.length
  assert batch.entities.positions.shape == (len(got.examples), most, 30)
  for row in range(len(got.examples)):
    mine = got.mentions.slots // per_row == row
    firsts, ends, in_row = got.mentions.firsts[mine], got.mentions.ends[mine], got.mentions.slots[mine] % per_row
    columns = [range(first - row * length, end - row * length) for first, end in zip(firsts, ends, strict=True)]
    free = most - len(columns)
    kept = batch.weights[row] == 1
    slots, ids = batch.positions[row][kept].tolist(), got.mentions.entities[mine].tolist()
    given = [ENTITIES.mask if slot in slots else entity for slot, entity in enumerate(ids)]
    assert batch.entities.ids[row].tolist() == given + [ENTITIES.pad] * free
    assert batch.labels[row][kept].tolist() == [ids[slot] for slot in slots] and slots == sorted(set(slots))
    assert batch.entities.segments[row].tolist() == (in_row + 1).tolist() + [0] * free
    for place, own in zip(batch.entities.positions[row].tolist(), [*columns, *[()] * free], strict=True):
      assert place == [*own] + [-1] * (30 - len(own))
    assert not batch.positions[row][~kept].any() and not batch.labels[row][~kept].any()


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
def test_masked_mentions_equal_the_oracle_draw_for_draw(options):
  pipe = pipeline(options)
  got, batch = whole(pipe)
  for row, examples in enumerate(got.examples.tolist()):
    want, before = [], 0
    for slot, example in enumerate(examples):
      mine = np.flatnonzero(got.mentions.slots == row * options.packed + slot)
      if len(mine):
        key = int(masking.mask_keys(SEED, 0, np.array([example]), 0)[0])
        places = got.tokens.positions.reshape(-1)[got.mentions.firsts[mine]].tolist()
        ranked = sorted(range(len(mine)), key=lambda n: (_word(key, 2**37 + places[n]) >> 24, n))
        want += sorted(before + n for n in ranked[: max(1, round(0.15 * len(mine)))])
      before += len(mine)
    assert batch.positions[row][batch.weights[row] == 1].tolist() == want


def test_mentions_are_masked_uniformly_whatever_their_place_and_entity():
  store = oracles.store_of([[40]] * 3000)
  every = [(40 * page + at, 40 * page + at + 2, 1 if at == 0 else 7) for page in range(3000) for at in (0, 10, 20, 30)]
  _, batch = whole(pipeline(store=dataclasses.replace(store, mentions=np.array(every))))
  counts = np.bincount(batch.positions[batch.weights == 1], minlength=4)
  assert counts.sum() == 3000  # one of four
  assert (np.abs(counts - 750) < 4 * (3000 * 0.25 * 0.75) ** 0.5).all()
  assert (batch.labels[batch.weights == 1] == 1).mean() > 0.2  # [UNK] is a target like any other
  assert (np.take_along_axis(batch.entities.ids, batch.positions, 1)[batch.weights == 1] == ENTITIES.mask).all()


def test_the_places_of_a_long_mention_are_cut_and_the_mention_stays_one():
  store = dataclasses.replace(oracles.store_of([[50]]), mentions=np.array([[3, 45, 7]]))
  _, batch = whole(pipeline(batch_size=1, entities=EntitySettings(101, 100, max_mention=5), store=store))
  assert batch.entities.positions[0, 0].tolist() == [4, 5, 6, 7, 8]
  assert batch.entities.positions.shape[2] == 5 and (batch.entities.positions[0, 1:] == -1).all()


def test_slots_for_predicted_mentions_suffice_for_any_packing():
  need = lambda parts: sum(max(1, round(0.15 * n)) for n in parts if n)  # noqa: E731
  for most, per_row in ((8, 1), (8, 3), (10, 4), (20, 2)):
    parts = itertools.product(range(most + 1), repeat=per_row)
    assert masking.masked_per_row(most, per_row, 0.15) == max(need(p) for p in parts if sum(p) <= most)
  assert masking.masked_per_row(128, 1, 0.15) == 19


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
def test_words_of_examples_with_entities_equal_the_oracle_draw_for_draw(options):
  store = dataclasses.replace(STORE, annotations=np.zeros(len(STORE.tokens), np.uint8))
  for mask in (WORDS, dataclasses.replace(WORDS, strategy="token", replace_by="piece")):
    assert_equals_oracle(all_rows(store, options), mask)


def test_the_number_of_predicted_words_counts_no_special_tokens():
  # round(0.15 * tokens), half to even, at least 1: 510 -> 76 (76.5), 30 -> 4, 10 -> 2, 3 -> 1 (0.45).
  sizes = np.array([510, 509, 30, 10, 3, 1, 0])
  assert masking.budgets(sizes, WORDS).tolist() == [76, 76, 4, 2, 1, 1, 0]
  got, batch = whole(pipeline(words=dataclasses.replace(WORDS, strategy="token")))
  assert batch.words.weights.sum(1).tolist() == [max(1, round(0.15 * n)) for n in got.pieces[:, 0].tolist()]


def test_whole_words_fill_the_budget_but_for_less_than_the_shortest_word_left():
  got, batch = whole(pipeline())
  for row, pieces in enumerate(got.pieces[:, 0].tolist()):
    able = np.flatnonzero(got.candidates[row])
    begins = got.word_starts[row, able]
    begins[0] = True
    word = np.cumsum(begins) - 1
    chosen = np.isin(able, batch.words.positions[row][batch.words.weights[row] == 1])
    sizes, taken = np.bincount(word), np.bincount(word, chosen)
    assert ((taken == 0) | (taken == sizes)).all()  # no word is cut
    left = max(1, round(0.15 * pieces)) - int(taken.sum())
    assert left >= 0 and (left == 0 or sizes[taken == 0].min() > left)


def test_a_group_has_one_draw_of_80_10_10_and_random_pieces_are_above_the_pad():
  store = oracles.store_of([[60]] * 2500, continuation=0.5)
  every = [(60 * page, 60 * page + 1, 1) for page in range(2500)]
  got, batch = whole(pipeline(store=dataclasses.replace(store, mentions=np.array(every))))
  kept, kinds, random = batch.words.weights == 1, [], []
  for row in range(len(got.examples)):
    fields = (batch.words.positions, batch.words.inputs, batch.words.labels)
    columns, given, labels = (field[row][kept[row]] for field in fields)
    starts = np.flatnonzero(got.word_starts[row, columns] | (np.diff(columns, prepend=-9) > 1))
    for own in np.split(np.arange(len(columns)), starts[1:]):
      masked, same_ = (given[own] == SPECIAL.mask), (given[own] == labels[own])
      kind = "mask" if masked.all() else "keep" if same_.all() else "random"
      assert kind != "random" or not masked.any()  # a random piece is [MASK] or the token itself once in 60000
      kinds.append(kind)
      random += given[own].tolist() if kind == "random" else []
  count = len(kinds)
  for kind, share in (("mask", 0.8), ("random", 0.1), ("keep", 0.1)):
    assert abs(kinds.count(kind) / count - share) < 4 * (share * (1 - share) / count) ** 0.5, kind
  assert min(random) >= 2 and max(random) < VOCAB and count > 5000
  assert abs(np.mean(random) - VOCAB / 2) < 4 * VOCAB / (12 * len(random)) ** 0.5


def test_random_pieces_are_all_ids_from_above_the_pad_special_ones_too():
  store = dataclasses.replace(oracles.store_of([[200]] * 40), mentions=np.array([[0, 1, 1]]))
  words = Masking(random_tokens="above_pad", budget="text", mask_share=0.0, random_share=1.0, keep_share=0.0)
  table = build_table(store, Options("entity_sentences", 256, require_mention=False), 0, 0)
  settings = Settings(40, SPECIAL, 8, dataclasses.replace(words, max_predictions=30), None, ENTITIES)
  (batch,) = evaluation_batches(table, store, settings, SEED)
  assert np.unique(batch.words.inputs[batch.words.weights == 1]).tolist() == [2, 3, 4, 5, 6, 7]


def test_where_no_word_fits_one_piece_is_masked_any_with_the_same_probability():
  count = 4000
  got = one_block_rows(count, 10, continuation=1.0)  # one word of 10 pieces; a budget of 2
  keys = masking.mask_keys(SEED, 0, got.examples, 0)
  batch = masking.mask(got, WORDS, keys, SPECIAL.mask, VOCAB, None, SPECIAL.pad)
  assert (batch.weights.sum(1) == 1).all() and (batch.inputs[batch.weights == 1] == SPECIAL.mask).all()
  counts = np.bincount(batch.positions[batch.weights == 1], minlength=12)[1:11]
  assert counts.sum() == count and (np.abs(counts - count / 10) < 4 * (count * 0.09) ** 0.5).all()
  mixed = word_row([9, 9, 9, 1], [9], continued=False)  # round(0.15 * 37) = 6: the one word of a single piece fits
  batch = masking.mask(mixed, WORDS, masking.mask_keys(0, 0, mixed.examples, 0), 4, VOCAB, None, 1)
  assert batch.positions[0][batch.weights[0] == 1].tolist() == [28]


def test_groups_part_at_spaces_punctuation_and_apostrophes():
  text = "The well-known Thames isn't small; it's \u201clong\u201d and (deep)."
  bpe = bytebpe.train([text] * 40, 420, words="marks")
  first = text.index("Thames")
  made = encode_linked(Document("d", None, [text], links=[[(first, first + 6, "Thames")]]), bpe, lambda title: 7)
  store = Store.from_documents([[made.ids]], [[made.word_starts]], mentions=[made.mentions])
  got = all_rows(store, Options("entity_sentences", 128))
  able = np.flatnonzero(got.candidates[0])
  groups = np.split(got.tokens.ids[0, able], np.flatnonzero(got.word_starts[0, able])[1:])
  assert [bpe.decode(group).strip() for group in groups] == [
    "The", "well", "-known", "Thames", "isn", "'t", "small", ";", "it", "'s", "\u201clong\u201d", "and", "(deep", ").",
  ]  # fmt: skip


# --- words of masked mentions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["whole_word", "token"])
@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
def test_words_of_masked_mentions_are_predicted_first_and_count(options, strategy):
  words = dataclasses.replace(WORDS, strategy=strategy)
  pipe = pipeline(options, words=words, entities=dataclasses.replace(ENTITIES, mask_words=True, max_mention=3))
  got, batch = whole(pipe)
  plain = whole(pipeline(options, words=words, entities=dataclasses.replace(ENTITIES, max_mention=3)))[1]
  assert same(batch.entities, plain.entities) and same(batch.labels, plain.labels)
  for row in range(len(got.examples)):
    columns = batch.words.positions[row][batch.words.weights[row] == 1]
    assert len(set(columns.tolist())) == len(columns) and (np.diff(columns) > 0).all()
    slots = batch.positions[row][batch.weights[row] == 1]
    for slot in range(options.packed):
      of_slot = batch.entities.segments[row, slots] == slot + 1
      inside = batch.entities.positions[row, slots[of_slot]]
      inside = set(inside[inside >= 0].tolist())
      mine = {c for c in columns.tolist() if got.tokens.segments[row, c] == slot + 1}
      assert inside <= mine
      budget = max(1, round(0.15 * int(got.pieces[row, slot]))) if got.sizes[row, slot] else 0
      assert len(mine) <= max(budget, len(inside)) and (strategy != "token" or len(mine) == max(budget, len(inside)))
      given = dict(zip(columns.tolist(), batch.words.inputs[row].tolist()))
      for entity in slots[of_slot]:
        own = [c for c in batch.entities.positions[row, entity].tolist() if c >= 0]
        masks = [given[c] == SPECIAL.mask for c in own]
        assert all(masks) or not any(masks)  # one draw for a mention


def test_words_in_and_beside_a_masked_mention_are_not_drawn_again():
  # One word of 4 pieces, the mention is the two in the middle: the word as a whole is out, and so are its other pieces.
  store = oracles.store_of([[40]])
  starts = np.ones(40, bool)
  starts[11:14] = False
  store = dataclasses.replace(store, word_starts=starts, mentions=np.array([[11, 13, 7]]))
  entities = dataclasses.replace(ENTITIES, mask_words=True)
  for seed in range(30):
    _, batch = whole(pipeline(batch_size=1, entities=entities, store=store, seed=seed))
    columns = set(batch.words.positions[0][batch.words.weights[0] == 1].tolist())
    assert {12, 13} <= columns and not {11, 14} & columns and len(columns) == 6


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
