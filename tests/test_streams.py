"""Streams of words: batches are a pure function of the cursor and, row by row, one long text in each direction."""

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import batch as contracts
from data import draws
from data.characters import BEGIN, END, Spellings, spell
from data.loader import prefetch
from data.store import Store, unigram_counts
from data.streams import Settings, StreamError, Streams, WordIds, held_out_batches, target_counts, windows
from data.tokenizers.words import SPECIALS, Words, train

SEED, N_WORDS, V = 7, 90, 40
VOCABULARY = (*SPECIALS, *(f"w{i}" for i in range(3, N_WORDS)))
SPELLINGS = Spellings(VOCABULARY, 8, boundaries=True)
SHAPES = [Settings(6, 5, V, 3, 80), Settings(4, 20, V, 1, 200), Settings(1, 1, V, 1, 2), Settings(8, 3, V, 8, 12)]
NAMES = [f"B{s.batch_size} L{s.length} G{s.groups}" for s in SHAPES]


def random_store(seed=0, documents=14, vocab_size=N_WORDS):
  """Sentences of 1 to 12 words, the frequent ones first in the vocabulary."""
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, 13, (documents, 5))
  draw = lambda n: np.minimum(2 + rng.geometric(0.05, n), N_WORDS - 1).tolist()
  return Store.from_documents([[draw(n) for n in row] for row in sizes], vocab_size=vocab_size)


STORE = random_store()


def sentences_of(store):
  return [store.tokens[a:b].tolist() for a, b in itertools.pairwise(store.sentences.tolist())]


def sequence(store, direction, order):
  """The pairs of a direction, one after the other, told word by word."""
  pairs = []
  for number in order:
    words = sentences_of(store)[number]
    whole = [0, *words, 1] if direction == 0 else [1, *reversed(words), 0]
    pairs += itertools.pairwise(whole)
  return pairs


def oracle(store, settings, epoch):
  """[batches of the epoch][row][direction]: the pairs there."""
  texts = []
  for direction, name in enumerate(("order forward", "order backward")):
    texts.append(sequence(store, direction, draws.permutation(SEED, name, epoch, store.n_sentences).tolist()))
  length = settings.length
  part = len(texts[0]) // settings.batch_size // length * length
  return [
    [[text[row * part + k : row * part + k + length] for text in texts] for row in range(settings.batch_size)]
    for k in range(0, part, length)
  ]


def inputs_of(batch, settings):
  """ids [B, 2, L] of the inputs, read back from their characters."""
  known = {tuple(row): i for i, row in enumerate(SPELLINGS[np.arange(N_WORDS)].tolist())} | {(0,) * 8: -1}
  ids = np.array([[known[tuple(word)] for word in group] for group in batch.words.tolist()])
  group = np.arange(settings.batch_size) // (settings.batch_size // settings.groups)
  return ids[group[:, None, None], batch.index]


# --- the text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SHAPES, ids=NAMES)
def test_batches_of_three_epochs_are_those_told_word_by_word(settings):
  streams, cursor = Streams(STORE, SPELLINGS, settings, SEED), 0
  for epoch in range(3):
    batches = oracle(STORE, settings, epoch)
    assert streams.epoch_size == len(batches) > 1
    for number, want in enumerate(batches):
      if settings.length > 1 or number % 37 == 0:
        got = streams.batch(cursor)
        assert contracts.validate(got)["U"] == settings.distinct_words and streams.locate(cursor) == (epoch, number)
        want = np.array(want).transpose(3, 0, 1, 2)
        np.testing.assert_array_equal(inputs_of(got, settings), want[0])
        np.testing.assert_array_equal(got.targets, np.where(want[1] < V, want[1], 2))
        assert got.weights.dtype == np.float32 and (got.weights == 1).all()
      cursor += 1


def test_boundaries_are_swapped_backward_and_the_last_symbol_is_never_an_input():
  """One sentence, one row: `<S>` a b c -> a b c `</S>`, and `</S>` c b a -> c b a `<S>`."""
  store, settings = Store.from_documents([[[3, 4, 5]]]), Settings(1, 4, V, 1, 8)
  got = Streams(store, SPELLINGS, settings, SEED).batch(0)
  assert inputs_of(got, settings).tolist() == [[[0, 3, 4, 5], [1, 5, 4, 3]]]
  assert got.targets.tolist() == [[[3, 4, 5, 1], [5, 4, 3, 0]]]


def test_each_pair_comes_once_an_epoch_but_for_fewer_than_a_batch_more():
  """What is left over of an epoch is less than a batch has, and other pairs in the next epoch."""
  settings, left = Settings(6, 5, N_WORDS, 1, 200), []
  streams = Streams(STORE, SPELLINGS, settings, SEED)
  for epoch, direction in itertools.product(range(2), range(2)):
    found = Counter()
    for number in range(streams.epoch_size):
      got = streams.batch(epoch * streams.epoch_size + number)
      inputs = inputs_of(got, settings)[:, direction]
      found.update(zip(inputs.ravel().tolist(), got.targets[:, direction].ravel().tolist(), strict=True))
    whole = Counter(sequence(STORE, direction, range(STORE.n_sentences)))
    assert found <= whole and (whole - found).total() == (STORE.n_tokens + STORE.n_sentences) % 30 > 0
    left.append(whole - found)
  assert left[0] != left[2] and left[1] != left[3]


def test_a_row_goes_on_where_it_stopped():
  """Within a part, the next input is the last target, or a boundary behind a boundary."""
  settings = Settings(4, 6, N_WORDS, 2, 60)
  streams = Streams(STORE, SPELLINGS, settings, SEED)
  for cursor in range(streams.epoch_size - 1):
    before, after = streams.batch(cursor), streams.batch(cursor + 1)
    last, next_ = before.targets[:, :, -1], inputs_of(after, settings)[:, :, 0]
    begin, end = np.array([0, 1]), np.array([1, 0])
    np.testing.assert_array_equal(next_, np.where(last == end, begin, last))


def test_the_directions_of_a_row_hold_different_text_and_so_do_epochs():
  settings = Settings(6, 5, N_WORDS, 1, 200)
  streams = Streams(STORE, SPELLINGS, settings, SEED)
  words = lambda cursor, direction: [
    sorted(set(row) - {0, 1}) for row in inputs_of(streams.batch(cursor), settings)[:, direction].tolist()
  ]
  here = words(0, 0)
  for other in (words(0, 1), words(streams.epoch_size, 0)):
    assert sum(a == b for a, b in zip(here, other, strict=True)) <= 1
  moved = Streams(STORE, SPELLINGS, settings, SEED + 1)
  assert (moved.batch(0).targets != streams.batch(0).targets).any()


# --- words, targets ------------------------------------------------------------------------------------------------


def test_a_word_that_is_not_predicted_is_its_own_characters_as_an_input():
  store, settings = Store.from_documents([[[V - 1, V, N_WORDS - 1]]]), Settings(1, 4, V, 1, 5)
  got = Streams(store, SPELLINGS, settings, SEED).batch(0)
  assert got.targets[0, 0].tolist() == [V - 1, 2, 2, 1] and got.targets[0, 1].tolist() == [2, 2, V - 1, 0]
  row = got.words[0, got.index[0, 0]]
  np.testing.assert_array_equal(row[1:], spell([f"w{V - 1}", f"w{V}", f"w{N_WORDS - 1}"], 8))


def test_words_from_a_table_are_their_ids_and_unknown_beyond_it():
  settings = Settings(6, 5, V, 3, 40)
  spelled = list(held_out_batches(STORE, SPELLINGS, settings))
  for want, got in zip(spelled, held_out_batches(STORE, WordIds(N_WORDS, V), settings), strict=True):
    ids, group = inputs_of(want, settings), np.arange(6)[:, None, None] // 2
    read = got.words[group, got.index, 0]
    np.testing.assert_array_equal(read, np.where((ids >= 0) & (ids < V), ids, 2))
    assert got.words.shape == (3, 40, 1) and np.array_equal(got.targets, want.targets)


def test_words_of_a_group_are_distinct_and_the_rest_of_the_room_is_no_word():
  settings = Settings(6, 5, V, 3, 40)
  got = Streams(STORE, SPELLINGS, settings, SEED).batch(2)
  for group in range(3):
    used = np.unique(got.index[2 * group : 2 * group + 2])
    assert used.tolist() == list(range(len(used))) and len(used) < 40
    rows = got.words[group]
    assert len(np.unique(rows[used], axis=0)) == len(used) and (rows[len(used) :] == 0).all()
    assert (rows[: len(used), 0] > 0).all()


def test_boundaries_are_those_of_the_character_files():
  spellings = Spellings(VOCABULARY, boundaries=True)
  got = Streams(STORE, spellings, Settings(6, 5, V, 1, 60), SEED).batch(0)
  assert any((row == BEGIN).all() for row in got.words[0]) and any((row == END).all() for row in got.words[0])


def test_too_many_distinct_words_name_the_number_that_is_needed():
  settings = Settings(6, 5, V, 2, 60)
  streams = Streams(STORE, SPELLINGS, settings, SEED)
  needed = [
    max(len(np.unique(inputs_of(streams.batch(cursor), settings)[rows])) for rows in (slice(0, 3), slice(3, 6)))
    for cursor in range(8)
  ]
  assert [streams.most_distinct_words([cursor]) for cursor in range(8)] == needed
  most, at = streams.most_distinct_words(range(8)), int(np.argmax(needed))
  small = Streams(STORE, SPELLINGS, Settings(6, 5, V, 2, most - 1), SEED)
  with pytest.raises(StreamError, match=rf"batch {at}, group \d: got {most} distinct words, .* or more \(30 is enough"):
    small.batch(at)
  whole = Streams(STORE, SPELLINGS, Settings(6, 5, V, 2, most), SEED)
  np.testing.assert_array_equal(whole.batch(at).targets, streams.batch(at).targets)


def test_vocabularies_of_more_than_65535_words():
  words = (*SPECIALS, *(str(i) for i in range(3, 70_000)))
  store = Store.from_documents([[[69_999, 3, 66_000]]], vocab_size=len(words))
  got = Streams(store, Spellings(words, 8, boundaries=True), Settings(1, 4, 66_001, 1, 6), SEED).batch(0)
  assert got.targets[0, 0].tolist() == [2, 3, 66_000, 1]
  np.testing.assert_array_equal(got.words[0, got.index[0, 0]][1:], spell(["69999", "3", "66000"], 8))


# --- a pure function -----------------------------------------------------------------------------------------------


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_batch_depends_on_its_cursor_alone():
  """Not on what was read before, on the process, or on reading ahead."""
  settings = Settings(6, 5, V, 3, 40)
  streams = Streams(STORE, SPELLINGS, settings, SEED)
  cursors = range(streams.epoch_size - 2, streams.epoch_size + 3)
  want = {cursor: streams.batch(cursor) for cursor in cursors}
  copy = pickle.loads(pickle.dumps(streams))
  assert all(same(copy.batch(cursor), want[cursor]) for cursor in reversed(cursors))
  ahead = itertools.islice(prefetch(streams, cursors[0]), len(cursors))
  assert all(same(batch, want[cursor]) for cursor, batch in ahead)


@pytest.mark.parametrize("held_out", [False, True])
def test_processes_have_their_rows_and_the_words_of_their_groups(held_out):
  settings = Settings(8, 5, V, 4, 40)
  read = lambda rows=None: (
    next(held_out_batches(STORE, SPELLINGS, settings, rows))
    if held_out
    else Streams(STORE, SPELLINGS, settings, SEED).batch(3, rows)
  )
  whole, halves = read(), [read(slice(0, 4)), read(slice(4, 8))]
  for name, want in vars(whole).items():
    np.testing.assert_array_equal(np.concatenate([getattr(half, name) for half in halves]), want)
  with pytest.raises(StreamError, match="rows 0 to 3: want whole groups of 2 rows; .*number of processes"):
    read(slice(0, 3))


# --- held-out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [*SHAPES[:2], Settings(90, 7, V, 2, 99), Settings(3, 400, V, 1, 99)], ids=str)
def test_every_held_out_pair_comes_once_in_order_with_padding_behind(settings):
  batches = list(held_out_batches(STORE, SPELLINGS, settings))
  total = STORE.n_tokens + STORE.n_sentences
  inputs = np.concatenate([inputs_of(batch, settings) for batch in batches], axis=2)
  targets, real = (np.concatenate([getattr(batch, name) for batch in batches], 2) for name in ("targets", "weights"))
  assert real.sum() == 2 * total and set(np.unique(real)) <= {0, 1}
  assert (np.diff(real, axis=2) <= 0).all()  # a row ends and does not begin again
  assert (inputs[real == 0] == -1).all() and (targets[real == 0] == 0).all()
  for direction in range(2):
    want = sequence(STORE, direction, range(STORE.n_sentences))
    here = real[:, direction] == 1
    got = zip(inputs[:, direction][here].tolist(), targets[:, direction][here].tolist(), strict=True)
    assert list(got) == [(word, target if target < V else 2) for word, target in want]


def test_how_often_each_word_is_a_target():
  settings = Settings(3, 9, V, 1, 99)
  counts = target_counts(unigram_counts(STORE, N_WORDS), STORE.n_sentences, V)
  found = np.zeros((2, V), np.int64)
  for batch in held_out_batches(STORE, SPELLINGS, settings):
    for direction in range(2):
      here = batch.weights[:, direction] == 1
      found[direction] += np.bincount(batch.targets[:, direction][here], minlength=V)
  np.testing.assert_array_equal(counts, found)
  assert counts[0, 0] == counts[1, 1] == 0 and counts[0, 1] == counts[1, 0] == STORE.n_sentences


# --- refusals ------------------------------------------------------------------------------------------------------

WRONG = {
  "groups": (lambda: Settings(6, 5, V, 4, 9), "groups: got 4, want a number that divides batch_size=6"),
  "length": (lambda: Settings(6, 0, V, 1, 9), "length: got 0, want at least 1"),
  "predicted": (lambda: Settings(6, 5, 2, 1, 9), "vocab_size: got 2, want at least 3"),
  "text": (
    lambda: Streams(STORE, SPELLINGS, Settings(99, 20, V, 1, 9), SEED),
    r"at least .* 99 x 20; lower batch_size",
  ),
  "cursor": (lambda: Streams(STORE, SPELLINGS, SHAPES[0], SEED).batch(-1), "cursor: got -1, want 0 or more"),
  "vocabulary": (
    lambda: Streams(STORE, Spellings(VOCABULARY[:20], 8, boundaries=True), SHAPES[0], SEED).batch(0),
    r"batch 0: got word \d+, want ids below 20, .* the corpus was prepared with",
  ),
  "overlap": (lambda: windows(30, 8, 8), "windows of 8 words: got an overlap of 8, want at least 0 and below 8"),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG)
def test_what_is_refused_in_one_line(call, message):
  with pytest.raises(StreamError, match=message) as error:
    call()
  assert "\n" not in str(error.value)


# --- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most, overlap", [(1, 0), (5, 0), (8, 3), (8, 7), (100, 40)])
def test_windows_keep_every_word_once_with_words_on_both_sides(most, overlap):
  for length in (*range(0, 3 * most + 2), 1000):
    found = windows(length, most, overlap)
    assert [word for _, _, first, end in found.tolist() for word in range(first, end)] == list(range(length))
    for first, end, kept, kept_end in found.tolist():
      assert end - first == min(most, length) and first <= kept <= kept_end <= end
      assert first == 0 or kept - first >= overlap // 2
      assert end == length or end - kept_end >= overlap // 2
    assert (np.diff(found[:, 0]) > 0).all() and (found[:-1, 1] - found[1:, 0] >= overlap).all()


# --- real text -----------------------------------------------------------------------------------------------------

GUTENBERG = Path("../shared/data/text/gutenberg/carroll-alice.txt")


@pytest.mark.skipif(not GUTENBERG.exists(), reason="../shared/data/text/gutenberg is absent")
def test_a_row_of_alice_reads_as_its_sentences():
  """The first row of an epoch, joined over its batches, is sentences of the book as its words have them."""
  lines = [line for line in GUTENBERG.read_text().splitlines() if line.strip()][:400]
  words: Words = train(lines, "marks")
  store = Store.from_documents([[each.ids for each in words.encode(lines)]], vocab_size=words.vocab_size)
  settings = Settings(4, 20, words.vocab_size, 2, 80)
  streams = Streams(store, Spellings(words.vocabulary, boundaries=True), settings, SEED)
  text = [streams.batch(cursor).targets[0].tolist() for cursor in range(streams.epoch_size)]
  read = [words.decode(itertools.chain(*(row[d] for row in text)), specials=True) for d in range(2)]
  known = {" ".join(each) for each in words.words(lines)}
  forward = [line.strip() for line in read[0].split("</S>")][:-1]
  backward = [" ".join(reversed(line.split())) for line in read[1].split("<S>")][:-1]
  assert len(forward) > 80 and len(backward) > 80 and known.issuperset(forward) and known.issuperset(backward)
