"""Span masking (SpanBERT, section 3.1; its span-boundary targets, section 3.2), and its variants by annotated spans."""

import collections
import dataclasses
import math

import numpy as np
import pytest

from data import masking, rows
from data.examples import Options, build_table
from data.masking import Masking, Unigram
from data.masking.units import drawn_lengths, length_table
from data.store import Store, StoreError
from tests import oracles
from tests.masking_oracles import (
  COUNTS,
  SPECIAL,
  TABLES,
  all_rows,
  assembled,
  assert_equals_oracle,
  boundaries,
  masked,
  one_block_rows,
  predictions,
  word_row,
)

SPANBERT = Masking("span", 0.15, 77, budget="ceil", replace_by="span", random_tokens="unigram", max_offset=15)
CHANGES = {
  "SpanBERT": {},
  "entities": {"strategy": "entity"},
  "noun phrases": {"strategy": "noun_phrase", "entity_share": 0.9},
  "few predictions": {"max_predictions": 3},
  "other lengths, a third of the tokens": {"span_p": 0.5, "max_span": 3, "mask_rate": 0.33, "max_offset": 1},
  "all tokens": {"mask_rate": 1.0},
  "all tokens, by a rounded budget above them": {"mask_rate": 1.0, "budget": "round", "max_predictions": 200},
  "rounded budgets, words of BERT": {"budget": "round", "replace_by": "word", "random_tokens": "uniform"},
  "drawn budgets": {"budget": "stochastic", "max_offset": 0},
}


@pytest.mark.parametrize("options", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_masks_equal_the_oracle_draw_for_draw(options, changes):
  assert_equals_oracle(assembled(options, documents=20), dataclasses.replace(SPANBERT, **changes))


def spans_of(batch, row):
  """[(first column, last column, [(input, label)])] of the runs of neighbouring predictions."""
  out = []
  for column, given, label in predictions(batch, row):
    if out and out[-1][1] == column - 1:
      out[-1] = (out[-1][0], column, [*out[-1][2], (given, label)])
    else:
      out.append((column, column, [(given, label)]))
  return out


# --- how many, how long, where ---------------------------------------------------------------------------------------


def test_lengths_are_geometric_truncated_and_renormalised():
  # The mean is the paper's 3.8; with the tail's mass moved to 10 it would be 4.46.
  table = length_table(0.8 ** np.arange(10))
  shares = np.diff([0, *table, 1])
  np.testing.assert_allclose(
    shares, [0.2241, 0.1792, 0.1434, 0.1147, 0.0918, 0.0734, 0.0587, 0.0470, 0.0376, 0.0301], atol=5e-5
  )
  drawn = drawn_lengths(table, np.uint64(5), np.arange(100000, dtype=np.uint64))
  assert drawn.min() == 1 and drawn.max() == 10 and abs(drawn.mean() - 3.797) < 0.02
  assert (abs(np.bincount(drawn)[1:] / 1e5 - shares) < 4.5 * (shares / 1e5) ** 0.5).all()


@pytest.mark.parametrize("size", [1, 2, 6, 7, 20, 40, 127, 510])
def test_exactly_15_percent_of_a_block_rounded_up_are_masked(size):
  got = all_rows(oracles.store_of([[size]] * 20), Options("doc_sentences", 512, separators="document"))
  assert (masked(got, SPANBERT).weights.sum(1) == math.ceil(0.15 * size)).all()


def test_each_segment_of_a_pair_has_its_own_15_percent():
  got = assembled(Options("segment_pairs", 128), documents=100)
  batch = masked(got, SPANBERT)
  chosen = np.zeros(got.candidates.shape, bool)
  row, slot = np.nonzero(batch.weights)
  chosen[row, batch.positions[row, slot]] = True
  for type_ in (0, 1):
    own = got.candidates & (got.tokens.types == type_)
    assert ((chosen & own).sum(1) == np.ceil(0.15 * own.sum(1))).all()


def test_blocks_of_510_pieces_look_as_in_the_original():
  # A simulation of it with a fifth of continuation pieces: 15.1 % masked, about 15 merged spans of 5.0 pieces in the
  # mean, 95 % of 12 or fewer, 1.1 % longer than 15; 98 % of the predictions have boundary targets.
  batch = masked(one_block_rows(400, 510), SPANBERT)
  sizes = np.array([last - first + 1 for row in range(400) for first, last, _ in spans_of(batch, row)])
  assert abs(sizes.sum() / (400 * 510) - 0.151) < 1e-4 and abs(len(sizes) / 400 - 15.1) < 0.3
  assert abs(sizes.mean() - 5.05) < 0.1 and np.percentile(sizes, 95) == 12 and abs((sizes > 15).mean() - 0.011) < 0.005
  assert abs((batch.edges[..., 0] >= 0).sum() / batch.weights.sum() - 0.98) < 0.005


def test_only_the_last_span_is_cut_inside_a_word_and_only_at_its_end():
  got = one_block_rows(300, 100, continuation=0.4)
  batch, cut = masked(got, SPANBERT), 0
  for row in range(300):
    ends = [last for first, last, _ in spans_of(batch, row) if got.candidates[row, last + 1]]
    assert all(got.word_starts[row, first] for first, _, _ in spans_of(batch, row))
    split = sum(not got.word_starts[row, last + 1] for last in ends)
    assert split <= 1
    cut += split
  assert cut > 30


def test_the_anchor_is_a_token_so_longer_words_are_picked_more_often():
  # Words of 1, 1, ..., and one of 8 pieces; budget 1: the anchor's word gives its first piece.
  n = 2000
  store = Store.from_documents([[range(10, 24)]] * n, word_starts=[[[True] * 7 + [False] * 7]] * n)
  got = all_rows(store, Options("doc_sentences", 16, separators="document"))
  columns = masked(got, dataclasses.replace(SPANBERT, mask_rate=0.01)).positions[:, 0]
  counts = collections.Counter(columns.tolist())
  assert set(counts) == set(range(1, 8))
  for column in range(1, 8):
    want = (8 if column == 7 else 1) / 14
    assert abs(counts[column] / n - want) < 4 * (want * (1 - want) / n) ** 0.5


def test_spans_end_at_separators_even_where_a_word_goes_on():
  got = word_row([1, 2], [1, 1, 3])  # the second segment begins with a continuation piece
  for epoch in range(50):
    batch = masked(got, dataclasses.replace(SPANBERT, mask_rate=0.5), epoch)
    assert {column for column, _, _ in predictions(batch, 0)} <= {1, 2, 3, 5, 6, 7, 8, 9}
    assert batch.weights.sum() == 2 + 3  # ceil(0.5 * 3) and ceil(0.5 * 5)


# --- what stands there -----------------------------------------------------------------------------------------------


def test_80_10_10_is_drawn_once_for_each_merged_span():
  batch, kinds = masked(one_block_rows(400, 510), SPANBERT), []
  for row in range(400):
    for _, _, pairs in spans_of(batch, row):
      given = [given for given, _ in pairs]
      own = {"mask": set(given) == {SPECIAL.mask}, "keep": all(given == label for given, label in pairs)}
      kinds.append(next((kind for kind, holds in own.items() if holds), "random"))
      assert kinds[-1] != "random" or len(given) < 3 or len(set(given)) > 1  # tokens are drawn one by one
      assert kinds[-1] != "random" or SPECIAL.mask not in given
  for kind, share in (("mask", 0.8), ("keep", 0.1), ("random", 0.1)):
    assert abs(kinds.count(kind) / len(kinds) - share) < 4 * (share * (1 - share) / len(kinds)) ** 0.5


def test_random_tokens_come_as_often_as_in_the_corpus():
  # Counts of 0 to 3 for 60000 ids: none of count 0 ever, the others in proportion.
  options = dataclasses.replace(SPANBERT, mask_share=0.0, random_share=1.0, keep_share=0.0)
  batch = masked(one_block_rows(300, 510), options)
  found = np.bincount(COUNTS[batch.inputs[batch.weights > 0]], minlength=4) / batch.weights.sum()
  want = np.bincount(COUNTS, COUNTS) / COUNTS.sum()
  assert found[0] == want[0] == 0
  assert (abs(found - want) < 4 * (want / batch.weights.sum()) ** 0.5 + 1e-12).all()


def test_a_unigram_table_reaches_its_first_and_last_token():
  drawn = Unigram.of([2, 0, 1, 5]).draw(np.uint64(3), np.arange(40000, dtype=np.uint64))
  np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 40000, [2 / 8, 0, 1 / 8, 5 / 8], atol=0.01)


def test_counts_of_a_large_corpus_are_exact():
  # Above 2^32 tokens no 32-bit product would do.
  drawn = Unigram.of([2**40, 0, 3 * 2**40]).draw(np.uint64(3), np.arange(20000, dtype=np.uint64))
  np.testing.assert_allclose(np.bincount(drawn) / 20000, [0.25, 0, 0.75], atol=0.015)


# --- boundaries ------------------------------------------------------------------------------------------------------

SENTENCE = "Super Bowl 50 was an American football game to determine the champion"


def football(strategy, **changes):
  """(rows with the sentence, options for 4 of its 12 tokens)."""
  phrase = [4 if word == "an" else 8 if word in ("American", "football", "game") else 0 for word in SENTENCE.split()]
  store = Store.from_documents([[range(10, 22)]], annotations=[[phrase]])
  got = all_rows(store, Options("doc_sentences", 20, separators="document"))
  only_masks = {"mask_share": 1.0, "random_share": 0.0, "keep_share": 0.0}
  return got, dataclasses.replace(SPANBERT, strategy=strategy, mask_rate=0.33, **only_masks, **changes)


def test_an_american_football_game():
  # SpanBERT, figure 1: x5 to x8 are masked and predicted from x4 and x9 and their places 1 to 4 (offsets 0 to 3).
  got, options = football("span")
  batches = [masked(got, options, epoch) for epoch in range(400)]
  same = [batch for batch in batches if [column for column, _, _ in predictions(batch, 0)] == [5, 6, 7, 8]]
  assert len(same) > 5
  for batch in same:
    assert boundaries(batch, 0) == [(4, 9, offset) for offset in range(4)]
    assert predictions(batch, 0) == [(x, SPECIAL.mask, 9 + x) for x in (5, 6, 7, 8)]


def test_the_noun_phrase_of_the_example_is_masked_whole():
  got, options = football("noun_phrase", entity_share=0.999)
  batch = masked(got, options)
  assert boundaries(batch, 0) == [(4, 9, offset) for offset in range(4)]


def test_targets_end_at_max_offset_and_edges_of_a_block_have_none():
  got, options = football("noun_phrase", entity_share=0.999, max_offset=2)
  assert boundaries(masked(got, options), 0) == [(4, 9, 0), (4, 9, 1), (-1, -1, 0), (-1, -1, 0)]
  got = one_block_rows(300, 20)
  batch, seen = masked(got, SPANBERT), collections.Counter()
  for row in range(300):
    sides = iter(boundaries(batch, row))
    for first, last, pairs in spans_of(batch, row):
      at_edge = first == 1 or last == 20
      seen[at_edge] += 1
      for offset in range(len(pairs)):
        assert next(sides) == ((-1, -1, 0) if at_edge else (first - 1, last + 1, offset))
  assert min(seen.values()) > 50


def test_boundaries_are_never_predicted_and_padding_slots_have_none():
  got = assembled(Options("segment_pairs", 128, packed=3), documents=100)
  batch = masked(got, SPANBERT)
  for row in range(len(got.examples)):
    columns = {column for column, _, _ in predictions(batch, row)}
    for left, right, _ in boundaries(batch, row):
      assert not {left, right} & columns
  padding = batch.weights == 0
  assert (batch.edges[padding] == -1).all() and (batch.offsets[padding] == 0).all()
  assert batch.edges.dtype == batch.offsets.dtype == np.int32
  assert masked(got, dataclasses.replace(SPANBERT, max_offset=0)).edges is None


# --- entities and noun phrases ---------------------------------------------------------------------------------------


def test_half_of_the_attempts_take_an_annotated_span():
  # One entity at columns 41 to 43 and a budget of 1: it is masked by half of the attempts, and by a random span now and
  # then: with an anchor on its first token (1 of 100; one of the words before cannot reach it within a budget of 1).
  flags = np.zeros(100, np.uint8)
  flags[40], flags[41:43] = 1, 2
  n = 2000
  store = Store.from_documents([[range(10, 110)]] * n, annotations=[[flags]] * n)
  got = all_rows(store, Options("doc_sentences", 102, separators="document"))
  for share in (0.5, 0.2):
    options = dataclasses.replace(SPANBERT, strategy="entity", entity_share=share, mask_rate=0.001)
    hits = (masked(got, options).positions[:, 0] == 41).mean()
    want = share + (1 - share) / 100
    assert abs(hits - want) < 4 * (want * (1 - want) / n) ** 0.5


def test_without_annotations_in_a_block_all_spans_are_random():
  store = oracles.store_of([[60]] * 20)
  bare = dataclasses.replace(store, annotations=np.zeros(len(store.tokens), np.uint8))
  options = Options("doc_sentences", 62, separators="document")
  random_ = masked(all_rows(bare, options), SPANBERT)
  for strategy in ("entity", "noun_phrase"):
    found = masked(all_rows(bare, options), dataclasses.replace(SPANBERT, strategy=strategy))
    np.testing.assert_array_equal(found.positions, random_.positions)


def test_rows_carry_the_flags_of_their_tokens():
  got = assembled(Options("segment_pairs", 96, packed=2), documents=30)
  assert got.annotations.dtype == np.uint8 and not got.annotations[~got.candidates].any()
  store = oracles.random_store(30)  # token n has id 10 + n mod 50000, so flags that say n say ids
  assert len(store.tokens) < 50000
  flagged = dataclasses.replace(store, annotations=(np.arange(len(store.tokens)) % 256).astype(np.uint8))
  table = build_table(flagged, Options("segment_pairs", 96, packed=2), 3, 0)
  got = rows.assemble(table, flagged, SPECIAL, np.array([0, 2, -1, 1]))
  assert (got.annotations == np.where(got.candidates, (got.tokens.ids - 10) % 256, 0)).all()
  assert rows.assemble(table, store, SPECIAL, np.array([0])).annotations is None


def test_a_store_in_memory_takes_a_flag_for_each_token():
  store = Store.from_documents([[[5, 6], [7]]], annotations=[[[1, 2], [4]]])
  assert store.annotations.tolist() == [1, 2, 4] and store.annotations.dtype == np.uint8
  assert Store.from_documents([[[5, 6]]]).annotations is None
  with pytest.raises(StoreError, match="annotations: got 1 values, want 2, one a token"):
    Store.from_documents([[[5, 6]]], annotations=[[[1]]])


def test_masks_of_the_same_seed_are_the_same():
  got = assembled(TABLES["pairs"])
  one, other = masked(got, SPANBERT, 3), masked(got, SPANBERT, 3)
  np.testing.assert_array_equal(one.inputs, other.inputs)
  assert (masked(got, SPANBERT, 4).positions != one.positions).any()
  assert masking.predictions_per_row(512, 1, SPANBERT) == 77
