"""What ALBERT, RoBERTa and ELECTRA mask: figures of the papers, of their code and of simulations of it."""

import dataclasses

import numpy as np
import pytest

from data import masking
from data.masking import Masking
from data.masking.units import drawn_lengths, length_table
from tests.masking_oracles import MASKS, ROBERTA, SPECIAL, masked, one_block_rows, predictions, word_row

# --- ALBERT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("favor_shorter", "shares"), [(True, (6, 3, 2)), (False, (2, 3, 6))])
def test_albert_draws_1_2_3_words_with_6_3_2_elevenths(favor_shorter, shares):
  weights = 1 / np.arange(1, 4)
  table = length_table(weights if favor_shorter else weights[::-1])
  np.testing.assert_allclose(table, np.cumsum(shares)[:2] / 11, rtol=1e-12)
  n = 100000
  counts = np.bincount(drawn_lengths(table, np.uint64(7), np.arange(n, dtype=np.uint64)), minlength=4)[1:]
  for count, share in zip(counts, np.array(shares) / 11, strict=True):
    assert abs(count - share * n) < 4 * (share * (1 - share) * n) ** 0.5


def test_albert_n_grams_merge_into_runs_of_1_2_3_and_4_or_more_words_in_52_26_17_and_4_percent():
  # As a simulation of the original gives at length 512 with 77 predictions.
  got = one_block_rows(600, 510)
  batch = masked(got, Masking("ngram", max_predictions=77))
  lengths = []
  for row in range(600):
    chosen = np.zeros(512, bool)
    chosen[batch.positions[row][batch.weights[row] > 0]] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen[got.word_starts[row]], [0]]).astype(int)))
    lengths += (edges[1::2] - edges[::2]).tolist()
  shares = np.bincount(np.minimum(lengths, 4), minlength=5)[1:] / len(lengths)
  np.testing.assert_allclose(shares, [0.52, 0.26, 0.17, 0.04], atol=0.012)


def test_20_predictions_at_length_512_mask_less_than_4_percent():
  # The original's default; 15 % needs 77.
  got = one_block_rows(50, 510)
  for most, share in ((20, 0.0395), (77, 0.1504)):
    assert abs(masked(got, Masking("ngram", max_predictions=most)).weights.sum() / (50 * 512) - share) < 0.0006


def test_an_n_gram_spans_the_separator_as_published_or_not():
  # Words at columns 1, 2, [SEP], 4, 5 and k = round(0.3 * 7) = 2. Across the separator, 2 and 4 come about as one
  # n-gram (1/4 * 2/3) or as two words, the first of them at 2 or at 4 (twice 1/4 * 1/3 * 1/3): 2/9. If n-grams end
  # there, the word at 2 is always alone (1/4 * 1/3) and the one at 4 as before: 1/9.
  got, n = word_row([1, 1], [1, 1], continued=False), 600
  for join, want in ((True, 2 / 9), (False, 1 / 9)):
    options = Masking("ngram", mask_rate=0.3, max_ngram=2, favor_shorter=False, join_across_separators=join)
    masks = [[column for column, _, _ in predictions(masked(got, options, epoch), 0)] for epoch in range(n)]
    assert abs(masks.count([2, 4]) / n - want) < 4 * (want * (1 - want) / n) ** 0.5


def test_an_n_gram_that_does_not_fit_gives_way_to_a_shorter_one():
  # Words of 2 and 3 pieces, k = round(0.3 * 8) = 2: only the first word fits, whatever n is drawn and whoever is first.
  got = word_row([2], [3])
  for epoch in range(30):
    batch = masked(got, Masking("ngram", mask_rate=0.3, join_across_separators=False, favor_shorter=False), epoch)
    assert [column for column, _, _ in predictions(batch, 0)] == [1, 2]


# --- RoBERTa ---------------------------------------------------------------------------------------------------------


def test_roberta_predicts_15_percent_in_the_mean_special_tokens_among_them():
  got = one_block_rows(4000, 20)
  batch = masked(got, Masking(mask_specials=True, **ROBERTA))
  counts = batch.weights.sum(1)
  assert set(counts) == {3, 4}  # floor(3.3 + u)
  assert abs(counts.mean() - 0.15 * 22) < 4 * (0.3 * 0.7 / 4000) ** 0.5
  columns = np.bincount(batch.positions[batch.weights > 0], minlength=22) / 4000
  assert (abs(columns - 0.15) < 4.5 * (0.15 * 0.85 / 4000) ** 0.5).all()  # <s> and </s> as often as any other


def test_a_short_example_may_have_nothing_to_predict():
  got = one_block_rows(2000, 3)
  counts = masked(got, Masking(mask_specials=True, **ROBERTA)).weights.sum(1)
  assert set(counts) == {0, 1} and abs(counts.mean() - 0.75) < 4 * (0.75 * 0.25 / 2000) ** 0.5


def test_without_special_tokens_the_count_is_still_of_all_tokens():
  got = one_block_rows(2000, 20)
  batch = masked(got, Masking(**ROBERTA))
  kept = batch.weights > 0
  assert abs(batch.weights.sum(1).mean() - 0.15 * 22) < 4 * (0.3 * 0.7 / 2000) ** 0.5
  assert np.take_along_axis(got.candidates, batch.positions, 1)[kept].all()


def test_roberta_draws_random_tokens_from_all_but_the_first_four():
  got = one_block_rows(200, 100)
  options = Masking(mask_share=0, random_share=1, keep_share=0, **ROBERTA)
  keys = masking.mask_keys(0, 0, got.examples, 0)
  batch = masking.mask(got, options, keys, SPECIAL.mask, 10)
  assert set(np.unique(batch.inputs[batch.weights > 0])) == set(range(4, 10))


def test_roberta_masks_15_percent_of_words_with_one_draw_of_80_10_10_for_a_word():
  got = one_block_rows(1500, 98, continuation=0.4)
  options = Masking("whole_word", mask_specials=True, replace_by="word", **ROBERTA)
  batch, words, kinds = masked(got, options), 0, []
  for row in range(1500):
    found = {column: (given == SPECIAL.mask, given == label) for column, given, label in predictions(batch, row)}
    begins = got.word_starts[row] | ~got.candidates[row]
    begins[1:] |= ~got.candidates[row][:-1]
    ends = [*np.flatnonzero(begins)[1:], 100]
    for first, end in zip(np.flatnonzero(begins).tolist(), ends, strict=True):
      own = {found.get(column) for column in range(first, end)}
      assert len(own) == 1  # all pieces or none, and all the same kind
      kinds += [own.pop()] if None not in own else []
    words += begins.sum()
  share = len(kinds) / words
  assert abs(share - 0.15) < 4 * (0.25 / 1500) ** 0.5 / (words / 1500)
  for kind, want in (((True, False), 0.8), ((False, True), 0.1), ((False, False), 0.1)):
    assert abs(kinds.count(kind) / len(kinds) - want) < 4 * (want * (1 - want) / len(kinds)) ** 0.5 + 1e-4


def test_random_pieces_of_one_word_are_drawn_one_by_one():
  got = word_row([6], [6])
  options = Masking("whole_word", mask_rate=0.4, mask_share=0, random_share=1, keep_share=0, replace_by="word")
  given = [given for _, given, _ in predictions(masked(got, dataclasses.replace(options, mask_rate=0.9)), 0)]
  assert len(given) == len(set(given)) == 12


# --- ELECTRA ---------------------------------------------------------------------------------------------------------


def test_electra_masks_85_percent_keeps_15_and_draws_no_random_tokens():
  # Positions are drawn without replacement (the original's collisions are not kept), so all k are distinct.
  got = one_block_rows(600, 126)
  batch = masked(got, MASKS["ELECTRA"])
  inputs, labels = batch.inputs[batch.weights > 0], batch.labels[batch.weights > 0]
  assert (batch.weights.sum(1) == 19).all() and ((inputs == SPECIAL.mask) | (inputs == labels)).all()
  assert abs((inputs == SPECIAL.mask).mean() - 0.85) < 4 * (0.85 * 0.15 / len(inputs)) ** 0.5
  for row in range(600):
    assert len({column for column, _, _ in predictions(batch, row)}) == 19


def test_the_chef_cooked_the_meal():
  # ELECTRA, figure 2: "the" and "cooked" of the five words are masked.
  got = one_block_rows(1, 5, continuation=0)
  the, cooked = got.tokens.ids[0, [1, 3]].tolist()
  options = dataclasses.replace(MASKS["ELECTRA"], mask_rate=0.3)  # round(0.3 * 7) = 2 of them
  masks = [predictions(masked(got, options, epoch), 0) for epoch in range(200)]
  assert [(1, SPECIAL.mask, the), (3, SPECIAL.mask, cooked)] in masks
  assert len({tuple(column for column, _, _ in mask) for mask in masks}) == 10  # every pair of the five
