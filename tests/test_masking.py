"""Masks: BERT's token and whole-word masking (create_masked_lm_predictions), their identity, their budgets."""

import dataclasses
import itertools

import numpy as np
import pytest

from data import masking, rows
from data.examples import Options, Table, build_table
from data.loader import Pipeline, Settings
from data.masking import MaskError, Masking
from data.tokenizers import Special
from tests import oracles

SPECIAL, VOCAB = Special(pad=0, unk=1, cls=2, sep=3, mask=4), 60000
TABLES = {
  "pairs": Options("segment_pairs", 64),
  "packed pairs": Options("segment_pairs", 128, packed=4),
  "full sentences": Options("full_sentences", 64),
  "packed document sentences": Options("doc_sentences", 96, packed=3, separators="document"),
}
MASKS = {
  "token": Masking(),
  "whole word": Masking("whole_word"),
  "whole word, own words behind a separator": Masking("whole_word", join_across_separators=False),
  "a third of the tokens, many": Masking("whole_word", mask_rate=0.33, max_predictions=50),
  "few predictions": Masking(max_predictions=3),
}


def assembled(options, documents=40, seed=0, **changes):
  store = oracles.random_store(documents, seed, **changes)
  table = build_table(store, options, 3, 0)
  return rows.assemble(table, store, SPECIAL, np.arange(len(table.rows)))


def masked(batch_rows, options, epoch=0):
  keys = masking.mask_keys(11, 0, batch_rows.examples, epoch)
  return masking.mask(batch_rows, options, keys, SPECIAL.mask, VOCAB)


def predictions(batch, row):
  """[(column, input, label)] of a row."""
  kept = batch.weights[row] == 1
  return list(zip(*(field[row][kept].tolist() for field in (batch.positions, batch.inputs, batch.labels)), strict=True))


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_masks_equal_the_oracle_draw_for_draw(options, mask):
  got = assembled(options)
  batch = masked(got, mask, epoch=5)
  for row in range(len(got.examples)):
    want, start = [], 0
    for example, size in zip(got.examples[row].tolist(), got.sizes[row].tolist(), strict=True):
      own = slice(start, start + size)
      key = masking.mask_keys(11, 0, np.array([example]), 5)[0]
      ids, special = got.tokens.ids[row, own].tolist(), ~got.candidates[row, own]
      found = oracles.mask_example(ids, special, got.word_starts[row, own], mask, key, SPECIAL.mask, VOCAB)
      want += [(start + position, *pair) for position, pair in found.items()]
      start += size
    assert predictions(batch, row) == want


def test_the_number_of_predictions_is_berts():
  # round(0.15 * length) half to even, at least 1, at most max_predictions; 19 at length 128 and 77 at 512.
  k = lambda size, most=100: int(masking.budgets(np.array([size]), Masking(max_predictions=most))[0])  # noqa: E731
  assert [k(size) for size in (128, 512, 3, 10, 30, 50)] == [19, 77, 1, 2, 4, 8]
  assert k(128, 20) == 19 and k(512, 20) == 20 and k(0) == 0


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


def word_row(a, b):
  """A row [CLS] A [SEP] B [SEP] with words of the given lengths; B's first word continues A's last one."""
  size, words = sum(a) + sum(b), np.array([*a, *b])
  starts = np.zeros(size, bool)
  starts[np.cumsum(words) - words] = True
  starts[sum(a)] = False
  store = oracles.MemoryStore(np.arange(10, 10 + size), starts, np.array([0, size]), np.array([0, 1]))
  card = {"options": dataclasses.asdict(Options("segment_pairs", 64))}
  lengths = np.array([sum(a), sum(b)])
  table = Table(np.array([0, 2]), np.array([0, sum(a)]), lengths, np.zeros(1, int), np.zeros((1, 1), int), card)
  return rows.assemble(table, store, SPECIAL, np.array([0]))


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
  store = oracles.random_store(60)
  alone, packed = (build_table(store, Options("segment_pairs", 128, packed=s), 3, 0) for s in (1, 4))
  for strategy in masking.STRATEGIES:
    found = []
    for table in (alone, packed):
      got = rows.assemble(table, store, SPECIAL, np.arange(len(table.rows)))
      batch = masked(got, Masking(strategy))
      masks = {}
      for row in range(len(got.examples)):
        for column, given, label in predictions(batch, row):
          example = int(got.examples[row, got.tokens.segments[row, column] - 1])
          masks.setdefault(example, []).append((int(got.tokens.positions[row, column]), given, label))
      found.append(masks)
    assert found[0] == found[1] and len(found[0]) == alone.card["examples"]


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


def test_slots_of_unpacked_rows_are_the_published_ones():
  assert masking.predictions_per_row(128, 1, Masking()) == 20
  assert masking.predictions_per_row(512, 1, Masking(max_predictions=77)) == 77
  assert masking.predictions_per_row(512, 3, Masking(max_predictions=77)) == 78


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"strategy": "spans"}, "masking option strategy: got 'spans', want one of token, whole_word"),
    ({"mask_share": 0.9}, "want shares that sum to 1"),
    ({"mask_share": 1.1, "random_share": -0.1, "keep_share": 0.0}, "want shares that sum to 1"),
    ({"mask_rate": 0.0}, "masking option mask_rate: got 0.0, want a share above 0 and up to 1"),
    ({"max_predictions": 0}, "masking option max_predictions: got 0, want at least 1"),
    ({"static_copies": -1}, "masking option static_copies: got -1"),
  ],
)
def test_options_that_cannot_be_are_refused_with_one_line(changes, line):
  with pytest.raises(MaskError, match=line) as error:
    Masking(**changes)
  assert "\n" not in str(error.value)
