"""Masks: equal to plain oracles draw for draw; BERT's procedures; identity, budgets, slots and options of all."""

import itertools

import numpy as np
import pytest

from data import masking, rows
from data.examples import Options, build_table
from data.loader import Pipeline, Settings
from data.masking import MaskError, Masking, Unigram
from tests import oracles
from tests.masking_oracles import (
  MASKS,
  SPECIAL,
  TABLES,
  VOCAB,
  annotated,
  assembled,
  assert_equals_oracle,
  masked,
  predictions,
  word_row,
)


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_masks_equal_the_oracle_draw_for_draw(options, mask):
  assert_equals_oracle(assembled(options, documents=25), mask)


def test_the_number_of_predictions_is_berts():
  # round(0.15 * length) half to even, at least 1, at most max_predictions; 19 at length 128 and 77 at 512.
  k = lambda size, most=100: int(masking.budgets(np.array([size]), Masking(max_predictions=most))[0])  # noqa: E731
  assert [k(size) for size in (128, 512, 3, 10, 30, 50)] == [19, 77, 1, 2, 4, 8]
  assert k(128, 20) == 19 and k(512, 20) == 20 and k(0) == 0


def test_budgets_of_roberta_and_spanbert():
  stochastic, ceil = (Masking(max_predictions=100, budget=budget) for budget in ("stochastic", "ceil"))
  for u, two, base, large in ((0.0, 0, 19, 76), (0.5, 0, 19, 77), (0.9, 1, 20, 77), (1 - 2**-53, 1, 20, 77)):
    assert masking.budgets(np.array([2, 128, 512, 100]), stochastic, u).tolist() == [two, base, large, 15]
  assert masking.budgets(np.array([0, 1, 20, 126, 510]), ceil).tolist() == [0, 1, 3, 19, 77]


def test_every_example_has_exactly_its_number_of_predictions():
  for name, options in TABLES.items():
    got = assembled(options)
    batch = masked(got, Masking(max_predictions=77))
    want = masking.budgets(got.sizes, Masking(max_predictions=77)).sum(1)
    assert (batch.weights.sum(1) == want).all(), name


def test_special_tokens_and_padding_are_never_masked():
  got = assembled(Options("segment_pairs", 64), documents=200)
  for strategy in masking.STRATEGIES:
    batch = masked(got, Masking(strategy))
    kept = batch.weights > 0
    assert batch.labels[kept].min() >= 10  # ids below 10 are special in these stores
    assert np.take_along_axis(got.candidates, batch.positions, 1)[kept].all()
    assert (np.take_along_axis(got.tokens.ids, batch.positions, 1) == batch.labels)[kept].all()


def test_predictions_stand_in_order_and_padding_slots_behind_them():
  batch = masked(assembled(Options("segment_pairs", 128, packed=4)), Masking())
  kept = batch.weights > 0
  assert ((np.diff(batch.positions, axis=1) > 0) | ~kept[:, 1:]).all()
  assert (np.diff(batch.weights, axis=1) <= 0).all() and set(np.unique(batch.weights)) == {0, 1}
  assert not (batch.positions[~kept].any() or batch.inputs[~kept].any() or batch.labels[~kept].any())


def test_80_10_10_is_drawn_per_piece_and_random_tokens_cover_the_whole_vocabulary():
  got = assembled(Options("full_sentences", 128), documents=3000)
  batch = masked(got, Masking("whole_word"))
  kept = batch.weights > 0
  inputs, labels = batch.inputs[kept], batch.labels[kept]
  n = len(labels)
  assert n > 5000
  for share, got_share in ((0.8, (inputs == SPECIAL.mask).mean()), (0.1, (inputs == labels).mean())):
    assert abs(got_share - share) < 4 * (share * (1 - share) / n) ** 0.5 + 1e-4
  drawn = inputs[(inputs != SPECIAL.mask) & (inputs != labels)]
  assert abs(drawn.mean() / VOCAB - 0.5) < 4 / (12 * len(drawn)) ** 0.5


@pytest.mark.parametrize("shares", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_shares_are_configurable(shares):
  mask = Masking(mask_share=shares[0], random_share=shares[1], keep_share=shares[2])
  batch = masked(assembled(Options("segment_pairs", 64)), mask)
  kept = batch.weights > 0
  inputs, labels = batch.inputs[kept], batch.labels[kept]
  assert (inputs == SPECIAL.mask).all() == (shares[0] == 1) and (inputs == labels).all() == (shares[2] == 1)


def test_every_candidate_is_as_likely_as_any_other():
  store = oracles.store_of([[10, 10]] * 3000)
  table = build_table(store, Options("doc_sentences", 22, separators="document"), 0, 0)
  got = rows.assemble(table, store, SPECIAL, np.arange(3000))
  batch = masked(got, Masking())
  counts = np.bincount(batch.positions[batch.weights > 0], minlength=22)
  assert counts[0] == counts[21] == 0 and counts.sum() == 3000 * 3  # round(0.15 * 22) of 20
  assert (abs(counts[1:21] - 450) < 4.5 * (450 * 0.85) ** 0.5).all()


def test_a_word_joins_across_the_separator_as_published_or_not():
  got = word_row([1] * 5 + [2], [1, 1, 1, 1, 1])
  # Columns 6, 7 are A's last word, 8 is [SEP], 9 continues that word.
  seen = {True: set(), False: set()}
  for join in seen:
    for epoch in range(200):
      options = Masking("whole_word", mask_rate=0.25, join_across_separators=join)
      columns = {column for column, _, _ in predictions(masked(got, options, epoch), 0)}
      seen[join].add(frozenset(columns & {6, 7, 9}))
  assert seen[True] == {frozenset(), frozenset({6, 7, 9})}
  assert seen[False] == {frozenset(c) for c in ((), (6, 7), (9,), (6, 7, 9))}


def test_a_word_that_does_not_fit_is_passed_over_and_shorter_ones_still_tried():
  # Words of 4, 4, 1 + 4 (across the separator), 1 and 2 pieces; k = round(0.15 * 19) = 3. The long ones never fit, so
  # whatever the order, the words of 1 and 2 pieces are found.
  got = word_row([4, 4, 1], [4, 1, 2])
  for epoch in range(50):
    assert [column for column, _, _ in predictions(masked(got, Masking("whole_word"), epoch), 0)] == [15, 16, 17]


def test_the_total_can_end_below_the_budget():
  got = word_row([4, 4, 1], [4, 4])
  for epoch in range(50):
    assert predictions(masked(got, Masking("whole_word"), epoch), 0) == []


def test_whole_words_are_never_split():
  got = assembled(Options("full_sentences", 128), documents=100)
  batch = masked(got, Masking("whole_word", mask_rate=0.3, max_predictions=38))
  for row in range(len(got.examples)):
    chosen = np.zeros(128, bool)
    chosen[[column for column, _, _ in predictions(batch, row)]] = True
    candidate = np.flatnonzero(got.candidates[row])
    continues = ~got.word_starts[row][candidate][1:]
    assert (chosen[candidate][1:] == chosen[candidate][:-1])[continues].all()


def test_a_packed_example_has_the_mask_that_it_has_alone():
  store = annotated(oracles.random_store(60))
  alone, packed = (build_table(store, Options("segment_pairs", 128, packed=s), 3, 0) for s in (1, 4))
  for options in (*map(Masking, masking.STRATEGIES), MASKS["RoBERTa"], MASKS["RoBERTa's whole words"]):
    found = []
    for table in (alone, packed):
      got = rows.assemble(table, store, SPECIAL, np.arange(len(table.rows)))
      batch = masked(got, options)
      masks = {}
      for row in range(len(got.examples)):
        for column, given, label in predictions(batch, row):
          example = int(got.examples[row, got.tokens.segments[row, column] - 1])
          masks.setdefault(example, []).append((int(got.tokens.positions[row, column]), given, label))
      found.append(masks)
    assert found[0] == found[1]
    assert len(found[0]) == alone.card["examples"] or options.budget == "stochastic"


@pytest.mark.parametrize("strategy", masking.STRATEGIES)
def test_a_batch_of_rows_is_as_many_batches_of_one(strategy):
  store, options = annotated(oracles.random_store(60)), Options("segment_pairs", 96, packed=2)
  table = build_table(store, options, 3, 0)
  mask = Masking(strategy, replace_by="span", random_tokens="unigram", max_offset=3)
  together = masked(rows.assemble(table, store, SPECIAL, np.arange(50)), mask)
  for row in range(50):
    alone = masked(rows.assemble(table, store, SPECIAL, np.array([row])), mask)
    for name in ("positions", "inputs", "labels", "weights", "edges", "offsets"):
      np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[row], err_msg=name)


def pipeline(mask, passes=1, seed=0, batch_size=4):
  store = oracles.random_store(12)
  built = [build_table(store, Options("segment_pairs", 48), 3, p) for p in range(passes)]
  return Pipeline(built, store, Settings(batch_size, SPECIAL, VOCAB, mask), seed)


def masks_of_epoch(pipe, epoch):
  """{tokens of a row: its predictions} over an epoch."""
  start, masks = pipe.epoch_start(epoch), {}
  for cursor in range(start, start + pipe.epoch_size(epoch)):
    batch = pipe.batch(cursor)
    masks |= {batch.tokens.ids[row].tobytes(): tuple(predictions(batch, row)) for row in range(len(batch.weights))}
  return masks


def test_masks_are_keyed_by_example_not_by_position():
  # One static copy: epochs differ in their order alone, so an example must carry its mask to wherever it comes to
  # stand.
  pipe = pipeline(Masking(static_copies=1), batch_size=1)
  first, second = masks_of_epoch(pipe, 0), masks_of_epoch(pipe, 1)
  assert len(first) > 10 and list(first) != list(second) and first == second
  several = pipeline(Masking(static_copies=1), batch_size=5)
  shared = masks_of_epoch(several, 0)
  assert shared == {row: first[row] for row in shared}


def test_static_masking_shows_each_of_10_masks_4_times_in_40_epochs():
  # BERT's static masking, as RoBERTa (section 4.1) tells it.
  pipe = pipeline(Masking(static_copies=10), batch_size=1)
  epochs = [masks_of_epoch(pipe, epoch) for epoch in range(40)]
  for row in epochs[0]:
    seen = [epoch[row] for epoch in epochs]
    assert sorted(seen.count(mask) for mask in set(seen)) == [4] * 10
    assert seen[:10] == seen[10:20] == seen[20:30] == seen[30:]


def test_ten_passes_with_ten_static_copies_repeat_after_ten_epochs():
  pipe = pipeline(Masking(static_copies=10), passes=10, batch_size=1)
  for epoch in (0, 7):
    assert masks_of_epoch(pipe, epoch) == masks_of_epoch(pipe, epoch + 10) == masks_of_epoch(pipe, epoch + 30)
  assert masks_of_epoch(pipe, 0) != masks_of_epoch(pipe, 1)


def test_dynamic_masking_never_repeats():
  pipe = pipeline(Masking(), batch_size=1)
  epochs = [masks_of_epoch(pipe, epoch) for epoch in range(10)]
  long = max(epochs[0], key=lambda row: len(epochs[0][row]))
  assert len({epoch[long] for epoch in epochs}) == 10


@pytest.mark.parametrize("per_row", [2, 3])
def test_packed_rows_have_as_many_slots_as_any_lengths_can_need(per_row):
  options, length = Masking(max_predictions=4), 30
  most = max(
    masking.budgets(np.array(sizes), options).sum()
    for sizes in itertools.product([0, *range(3, length + 1)], repeat=per_row)
    if sum(sizes) <= length
  )
  assert masking.predictions_per_row(length, per_row, options) == most <= 4 * per_row


def test_slots_follow_the_budget():
  # Two examples in 41 tokens. "stochastic" can round any product up, "ceil" does not count two special tokens each.
  k = lambda **changes: masking.predictions_per_row(41, 2, Masking(**{"max_predictions": 50} | changes))  # noqa: E731
  ceil = lambda n: -(-15 * n // 100)  # noqa: E731
  splits = [(n, 41 - n) for n in range(3, 39)]
  assert k(budget="stochastic") == max(ceil(a) + ceil(b) for a, b in splits) == 8
  assert k(budget="ceil") == max(ceil(a - 2) + ceil(b - 2) for a, b in splits) == 7
  assert k(budget="stochastic", strategy="whole_word") == 41 - 2  # one example, words of any length
  assert k(budget="stochastic", strategy="whole_word", mask_specials=True) == 41
  # Spans: each example may be two segments, [CLS] A [SEP] and B [SEP], each with a budget of its own.
  pair = lambda n: max([ceil(n - 2), *(ceil(a) + ceil(n - 3 - a) for a in range(1, n - 3))])  # noqa: E731
  assert k(budget="ceil", strategy="span") == max(pair(a) + pair(b) for a, b in splits) == 9


@pytest.mark.parametrize("mask", [mask for mask in MASKS.values() if mask.budget == "stochastic"])
def test_packed_rows_of_every_fraction_fit_their_slots(mask):
  got = assembled(Options("doc_sentences", 40, packed=4, separators="document"), documents=150, sentences=3, longest=9)
  for epoch in range(20):
    batch = masked(got, mask, epoch)
    assert batch.weights.shape[1] == masking.predictions_per_row(40, 4, mask)
    assert (np.diff(batch.positions, axis=1) > 0)[batch.weights[:, 1:] > 0].all()


def test_slots_of_unpacked_rows_are_the_published_ones():
  assert masking.predictions_per_row(128, 1, Masking()) == 20
  assert masking.predictions_per_row(512, 1, Masking(max_predictions=77)) == 77
  assert masking.predictions_per_row(512, 3, Masking(max_predictions=77)) == 78


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"strategy": "spans"}, "masking option strategy: got 'spans', want one of token, whole_word"),
    ({"mask_share": 0.9}, "want shares that sum to 1"),
    ({"mask_share": 1.1, "random_share": -0.1, "keep_share": 0.0}, "want shares that sum to 1"),
    ({"mask_rate": 0.0}, "masking option mask_rate: got 0.0, want a share above 0 and up to 1"),
    ({"max_predictions": 0}, "masking option max_predictions: got 0, want at least 1"),
    ({"static_copies": -1}, "masking option static_copies: got -1"),
    ({"budget": "exact"}, "masking option budget: got 'exact', want one of round, stochastic, ceil"),
    ({"replace_by": "row"}, "masking option replace_by: got 'row', want one of piece, word, span"),
    ({"random_tokens": "all"}, "masking option random_tokens: got 'all', want one of uniform, no_specials, unigram"),
    ({"max_ngram": 0}, "masking option max_ngram: got 0, want at least 1"),
    ({"max_span": 0}, "masking option max_span: got 0, want at least 1"),
    ({"span_p": 0.0}, "masking option span_p: got 0.0, want a share above 0 and up to 1"),
    ({"entity_share": 1.0}, "masking option entity_share: got 1.0, want a share from 0 to below 1"),
    ({"max_offset": -1}, "masking option max_offset: got -1, want 0 "),
    ({"strategy": "span", "mask_specials": True}, "masking option mask_specials: got strategy='span'"),
    ({"mask_specials": True, "max_offset": 15}, "max_offset=15, want token or whole_word without span boundaries"),
  ],
)
def test_options_that_cannot_be_are_refused_with_one_line(changes, line):
  with pytest.raises(MaskError, match=line) as error:
    Masking(**changes)
  assert "\n" not in str(error.value)


def test_what_the_options_need_and_the_data_lacks_is_said_in_one_line():
  store = oracles.random_store(12)
  table = build_table(store, Options("segment_pairs", 48), 3, 0)
  beyond = Unigram.of([1] * (VOCAB + 1) + [0])
  for mask, unigram, line in (
    (Masking("entity"), None, "got 'entity' and a store without annotations, want one with them"),
    (Masking(random_tokens="unigram"), None, f"got 'unigram' and no table, want counts of ids below {VOCAB}"),
    (Masking(random_tokens="unigram"), beyond, f"got 'unigram' and one with id {VOCAB}, want counts of ids below"),
  ):
    with pytest.raises(MaskError, match=line) as error:
      Pipeline([table], store, Settings(4, SPECIAL, VOCAB, mask, unigram), 0)
    assert "\n" not in str(error.value)
    got = rows.assemble(table, store, SPECIAL, np.arange(3))
    with pytest.raises(MaskError, match=line):
      masking.mask(got, mask, np.zeros((3, 1), np.uint64), SPECIAL.mask, VOCAB, unigram)


@pytest.mark.parametrize("counts", [[0, 0], [3, -1, 2]])
def test_counts_that_are_no_distribution_are_refused(counts):
  with pytest.raises(MaskError, match="unigram table: got"):
    Unigram.of(counts)
