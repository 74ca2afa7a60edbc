"""Examples of sentences with entities: LUKE's builder as a plain oracle, packing without loss, tables on disk."""

import dataclasses

import numpy as np
import pytest

from data import rows, tables
from data.examples import Options, TableError, build_table
from data.tokenizers import Special
from tests import example_oracles, oracles

SPECIAL = Special(pad=0, unk=1, cls=2, sep=3, mask=4)
STORES = {
  "pages": oracles.random_store(40, seed=1),
  "short sentences": oracles.random_store(30, seed=2, longest=9, sentences=40),
  "long sentences": oracles.random_store(30, seed=3, longest=300),
  "one page": oracles.random_store(1, seed=4, sentences=300),
}


def options(length=64, **changes):
  return Options("entity_sentences", length, **changes)


def examples_of(table, store):
  """[(token ids, [(first, end, entity)])] of each example, read from assembled rows."""
  got, found = rows.assemble(table, store, SPECIAL, np.arange(len(table.rows))), {}
  per_row, length = got.examples.shape[1], got.tokens.ids.shape[1]
  for slot, example in enumerate(got.examples.reshape(-1).tolist()):
    if example >= 0:
      row = slot // per_row
      own = np.flatnonzero(got.tokens.segments[row] == slot % per_row + 1)
      ids = got.tokens.ids[row, own]
      assert ids[0] == SPECIAL.cls and ids[-1] == SPECIAL.sep and (np.diff(own) == 1).all()
      mine = got.mentions.slots == slot
      columns = np.stack([got.mentions.firsts[mine], got.mentions.ends[mine]], axis=1) - row * length - own[0] - 1
      mentions = [(*pair, entity) for pair, entity in zip(columns.tolist(), got.mentions.entities[mine].tolist())]
      found[example] = (ids[1:-1].tolist(), mentions)
  return [found[example] for example in sorted(found)]


# --- the builder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"min_sentence": 1}, {"max_entities": 3}, {"require_mention": False}], ids=str)
@pytest.mark.parametrize("length", [16, 64, 512])
@pytest.mark.parametrize("store", STORES.values(), ids=STORES.keys())
def test_examples_equal_the_oracle(store, length, changes):
  made = build_table(store, options(length, **changes), 0, 0)
  want = example_oracles.entity_sentences(store, options(length, **changes))
  assert examples_of(made, store) == [(store.tokens[words].tolist(), mentions) for words, mentions in want] != []
  assert made.card["mentions"] == sum(len(mentions) for _, mentions in want)
  assert made.sizes.tolist() == [2 + len(words) for words, _ in want]


def linked(lengths, mentions):
  """A store of one page of sentences of these lengths, with mentions in its tokens."""
  return dataclasses.replace(oracles.store_of([lengths]), mentions=np.array(mentions, np.int64).reshape(-1, 3))


def test_a_sentence_that_is_left_out_does_not_end_a_run():
  store = linked([6, 4, 7, 63, 5], [(7, 8, 1), (12, 14, 2), (30, 31, 3)])
  made = build_table(store, options(), 0, 0)
  ((ids, mentions),) = examples_of(made, store)
  assert ids == store.tokens[[*range(6), *range(10, 17), *range(80, 85)]].tolist()
  assert mentions == [(8, 10, 2)]  # that in a sentence of 4, and that in one of 63, are gone
  assert made.joined.tolist() == [True, True, False] and made.card["skipped_sentences"] == 2


def test_a_run_ends_before_the_sentence_that_would_pass_510_tokens():
  store = linked([500, 10, 1, 10, 505, 600], [(0, 1, 1), (515, 516, 2), (600, 602, 3)])
  made = build_table(store, options(512, min_sentence=5), 0, 0)
  assert [len(ids) for ids, _ in examples_of(made, store)] == [510, 10, 505]


def test_runs_without_a_mention_are_dropped_and_counted():
  store = linked([60, 61, 62], [(70, 71, 1)])
  made = build_table(store, options(), 0, 0)
  assert [ids for ids, _ in examples_of(made, store)] == [store.tokens[60:121].tolist()]
  assert made.card["examples_without_mentions"] == 2
  every = build_table(store, options(require_mention=False), 0, 0)
  assert [len(mentions) for _, mentions in examples_of(every, store)] == [0, 1, 0]


def test_the_first_128_mentions_are_kept_across_the_holes_of_a_run():
  mentions = [(at, at + 1, at) for at in range(0, 100)] + [(at, at + 1, at) for at in range(103, 203)]
  store = linked([100, 3, 100], mentions)
  made = build_table(store, options(512), 0, 0)
  ((_, found),) = examples_of(made, store)
  assert [entity for _, _, entity in found] == [*range(100), *range(103, 131)]
  assert made.card["mentions"] == 128 and made.card["dropped_mentions"] == 72


# --- packing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [8, 12, 128])
def test_packing_loses_no_mention_and_no_row_has_more_than_its_slots(most):
  store = oracles.random_store(150, seed=5)
  alone, packed = (build_table(store, options(128, packed=s, max_entities=most), 0, 0) for s in (1, 6))
  assert examples_of(packed, store) == examples_of(alone, store)
  counts = np.diff(np.concatenate([[0], np.cumsum(packed.mentions[:, 1] - packed.mentions[:, 0])])[packed.spans])
  in_row = np.where(packed.rows >= 0, counts[packed.rows], 0).sum(1)
  tokens = np.where(packed.rows >= 0, packed.sizes[packed.rows], 0).sum(1)
  assert in_row.max() <= most and tokens.max() <= 128 and packed.card["mentions"] == counts.sum()
  assert (packed.rows >= 0).sum(1).max() > 1


def test_examples_full_of_mentions_stand_alone_however_short_they_are():
  # 8 mentions of 8 fill a row's slots; 2 of 8 take a quarter of it, though they are a tenth of its tokens.
  dense = [(at, at + 1, 1) for at in range(8)]
  store = oracles.store_of([[8], [10], [10], [10], [10]])
  pairs = [(at, at + 1, 1) for page in range(4) for at in (8 + 10 * page, 9 + 10 * page)]
  store = dataclasses.replace(store, mentions=np.array(dense + pairs))
  made = build_table(store, options(128, packed=8, max_entities=8), 0, 0)
  assert made.room.tolist() == [128, 32, 32, 32, 32]
  assert sorted(tuple(e for e in row if e >= 0) for row in made.rows.tolist()) == [(0,), (1, 2, 3, 4)]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tables_of_other_formats_are_named_as_before_there_were_entities(tmp_path):
  store = oracles.store_of([[8, 9], [10], [7, 30]])
  for name in ("segment_pairs", "doc_sentences"):
    tables.load_or_build_tables(tmp_path, store, Options(name, 64), seed=1, passes=1)
  found = sorted(path.stem for path in tmp_path.glob("*.npz"))
  assert found == ["doc_sentences-64-c5c316d9d2ad", "segment_pairs-64-97582d9d461f"]


def test_options_of_entities_name_tables_of_entities_only():
  changed = {"min_sentence": 7, "max_entities": 9, "require_mention": False}
  assert Options("doc_sentences", 64, **changed).identity == Options("doc_sentences", 64).identity
  for name, value in changed.items():
    assert options(**{name: value}).identity != options().identity
    assert options(**{name: value}).identity[name] == value


def test_a_table_of_entities_is_read_back_as_it_was_built(tmp_path):
  store = oracles.random_store(30)
  read = tables.load_or_build_tables(tmp_path, store, options(packed=3), seed=1, passes=1)[0]
  built = build_table(store, options(packed=3), 1, 0)
  assert (read.mentions == built.mentions).all() and (read.room == built.room).all()
  assert examples_of(read, store) == examples_of(built, store)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_with_one_line():
  store = oracles.store_of([[10]])
  refusals = [
    (lambda: options(min_sentence=0), "example option min_sentence: got 0, want at least 1"),
    (lambda: options(max_entities=0), "example option max_entities: got 0, want at least 1"),
    (lambda: build_table(dataclasses.replace(store, mentions=None), options(), 0, 0), "a store without mentions"),
    (lambda: build_table(linked([10], []), options(), 0, 0), "the store gives no example"),
    (lambda: build_table(linked([4], [(0, 1, 1)]), options(), 0, 0), "the store gives no example"),
  ]
  for call, line in refusals:
    with pytest.raises(TableError, match=line) as error:
      call()
    assert "\n" not in str(error.value)
