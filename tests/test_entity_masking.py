"""Masked words and mentions of LUKE: budgets, groups, shares and draws."""

import dataclasses
import itertools

import numpy as np
import pytest

from data import masking
from data.documents import Document
from data.examples import Options, build_table
from data.loader import Settings, evaluation_batches
from data.masking import EntitySettings, Masking, mentions
from data.mentions import encode_linked
from data.store import Store
from data.tokenizers import bytebpe
from tests import oracles
from tests.entity_rows import ENTITIES, SEED, SPECIAL, STORE, TABLES, VOCAB, WORDS, pipeline, same, whole
from tests.masking_oracles import all_rows, assert_equals_oracle, one_block_rows, word_row
from tests.oracles import _word

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
