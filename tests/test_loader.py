"""The loader: a batch is a pure function of configuration and cursor; nothing else is state."""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from data import batch as contracts
from data import bench, draws, loader, masking, rows
from data.examples import Options, build_table
from data.loader import LoaderError, Pipeline, Settings, evaluation_batches, prefetch
from data.masking import Masking
from data.tokenizers import Special
from tests import oracles

SPECIAL, VOCAB, SEED = Special(pad=0, unk=1, cls=2, sep=3, mask=4), 60000, 5
STORE = oracles.random_store(150, seed=1)
FORMATS = {
  "pairs": Options("segment_pairs", 64),
  "packed pairs": Options("segment_pairs", 128, packed=3),
  "full sentences": Options("full_sentences", 64),
  "packed document sentences": Options("doc_sentences", 96, packed=4, separators="document"),
}


def tables_of(options, passes=1, store=STORE):
  return [build_table(store, options, 3, pass_) for pass_ in range(passes)]


def pipeline(batch_size, options=FORMATS["pairs"], passes=1, strategy="whole_word"):
  return Pipeline(tables_of(options, passes), STORE, Settings(batch_size, SPECIAL, VOCAB, Masking(strategy)), SEED)


def same(a, b):
  leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(leaves_a) == len(leaves_b) and all(
    x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(leaves_a, leaves_b, strict=True)
  )


# --- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
def test_rows_are_cls_span_sep_span_sep_with_types_segments_and_positions(options):
  table = tables_of(options)[0]
  got = rows.assemble(table, STORE, SPECIAL, np.arange(len(table.rows)))
  for row, packed in enumerate(table.rows.tolist()):
    columns = []  # (id, type, segment, position, starts a word, candidate)
    for slot, example in enumerate(e for e in packed if e >= 0):
      columns.append((SPECIAL.cls, 0, slot + 1, 0, False, False))
      start = len(columns) - 1
      for number, span in enumerate(range(table.spans[example], table.spans[example + 1])):
        kind = number if options.paired else 0
        first = table.starts[span]
        for at in range(first, first + table.lengths[span]):
          here = len(columns) - start
          columns.append((STORE.tokens[at], kind, slot + 1, here, STORE.word_starts[at], True))
        columns.append((SPECIAL.sep, kind, slot + 1, len(columns) - start, False, False))
    columns += [(SPECIAL.pad, 0, 0, 0, False, False)] * (options.length - len(columns))
    tokens = got.tokens
    fields = (tokens.ids, tokens.types, tokens.segments, tokens.positions, got.word_starts, got.candidates)
    assert list(zip(*(field[row].tolist() for field in fields), strict=True)) == columns


def test_pair_decisions_stand_on_the_cls_of_their_example():
  options = FORMATS["packed pairs"]
  table = tables_of(options)[0]
  got = rows.assemble(table, STORE, SPECIAL, np.arange(len(table.rows)))
  real = got.pair.weights == 1
  assert (real == (table.rows >= 0)).all() and set(np.unique(got.pair.weights)) == {0, 1}
  assert (np.take_along_axis(got.tokens.ids, got.pair.cls, 1)[real] == SPECIAL.cls).all()
  assert (np.take_along_axis(got.tokens.segments, got.pair.cls, 1) == np.arange(1, 4))[real].all()
  assert (got.pair.labels[real] == table.labels[table.rows[real]]).all()


def test_formats_without_pairs_have_no_pair_decision():
  assert pipeline(4, FORMATS["full sentences"]).batch(0).pair is None


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
def test_batches_keep_their_contract(options):
  sizes = contracts.validate(pipeline(4, options).batch(0))
  assert sizes["B"] == 4 and sizes["L"] == options.length and sizes.get("S", options.packed) == options.packed


# --- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["token", "whole_word"])
@pytest.mark.parametrize("options", [FORMATS["pairs"], FORMATS["packed pairs"]], ids=["pairs", "packed pairs"])
def test_rows_of_a_batch_of_256_equal_256_batches_of_one(options, strategy):
  size = min(256, len(tables_of(options)[0].rows) // 2)
  assert size == 256 or options.packed > 1
  many, one = pipeline(size, options, strategy=strategy), pipeline(1, options, strategy=strategy)
  assert same(many.batch(0), contracts.concatenate_rows([one.batch(cursor) for cursor in range(size)]))


def test_process_local_rows_concatenated_are_the_global_batch():
  pipe = pipeline(12, FORMATS["packed pairs"])
  parts = [pipe.batch(3, slice(first, first + 3)) for first in range(0, 12, 3)]
  assert all(contracts.batch_size(part) == 3 for part in parts)
  assert same(contracts.concatenate_rows(parts), pipe.batch(3))


def test_a_batch_does_not_depend_on_what_was_asked_before():
  pipe, fresh = pipeline(8, passes=3), pipeline(8, passes=3)
  for cursor in (40, 0, 17, 40, 200):
    pipe.batch(cursor)
  assert same(pipe.batch(17), fresh.batch(17))


def test_cursors_map_to_epochs_and_rows_by_the_number_of_rows_of_each_pass():
  pipe = pipeline(8, passes=3)
  counts = [len(table.rows) for table in pipe.tables]
  assert len(set(counts)) == 3  # builders give another number of examples each pass
  want = []
  for epoch in range(7):
    order = draws.permutation(SEED, "order", epoch, counts[epoch % 3])
    want += [(epoch, order[first : first + 8]) for first in range(0, len(order) - 7, 8)]
  for cursor, (epoch, chosen) in enumerate(want):
    got_epoch, got = pipe.locate(cursor)
    assert got_epoch == epoch and (got == chosen).all()
  assert [pipe.epoch_size(epoch) for epoch in range(4)] == [counts[p] // 8 for p in (0, 1, 2, 0)]
  assert [pipe.epoch_start(epoch) for epoch in range(4)] == np.cumsum([0] + [counts[p] // 8 for p in range(3)]).tolist()


def test_an_epoch_shows_every_row_at_most_once_and_drops_only_the_last_partial_batch():
  pipe = pipeline(8)
  rows_seen = np.concatenate([pipe.locate(cursor)[1] for cursor in range(pipe.epoch_size(0))])
  assert len(set(rows_seen.tolist())) == len(rows_seen) == len(pipe.tables[0].rows) // 8 * 8
  assert sorted(rows_seen.tolist()) != rows_seen.tolist()


def test_another_seed_gives_another_order_and_other_masks():
  first = pipeline(8)
  second = Pipeline(first.tables, STORE, first.settings, SEED + 1)
  assert (first.locate(0)[1] != second.locate(0)[1]).any()


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_evaluation_reads_the_whole_table_once_and_fills_the_last_batch_with_weight_0():
  table = tables_of(FORMATS["packed pairs"])[0]
  settings = Settings(7, SPECIAL, VOCAB, Masking())
  batches = list(evaluation_batches(table, STORE, settings, SEED))
  count = len(table.rows)
  assert count % 7 and len(batches) == -(-count // 7)
  whole = contracts.concatenate_rows(batches)
  assert (whole.tokens.segments[:count].max(1) > 0).all()
  assert all(not leaf[count:].any() for leaf in jax.tree.leaves(whole)), "rows of padding are all zero (pad is 0)"
  assert whole.pair.weights.sum() == table.card["examples"]
  again = contracts.concatenate_rows(
    list(evaluation_batches(table, STORE, dataclasses.replace(settings, batch_size=1), SEED))
  )
  assert same(again, jax.tree.map(lambda leaf: leaf[:count], whole))


def test_evaluation_shares_of_processes_are_the_global_batch():
  table = tables_of(FORMATS["pairs"])[0]
  settings = Settings(8, SPECIAL, VOCAB, Masking())
  parts = [list(evaluation_batches(table, STORE, settings, SEED, slice(first, first + 4))) for first in (0, 4)]
  for left, right, whole in zip(*parts, evaluation_batches(table, STORE, settings, SEED), strict=True):
    assert same(contracts.concatenate_rows([left, right]), whole)


# --- reading ahead -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_reading_ahead_gives_the_batches_of_the_cursors(threads):
  pipe = pipeline(8, passes=2)
  start = pipe.epoch_size(0) - 3  # across an epoch's end
  for cursor, batch in itertools.islice(prefetch(pipe, start, threads=threads, buffer=3), 6):
    assert same(batch, pipe.batch(cursor)) and cursor == start
    start += 1


def test_reading_ahead_of_a_share_gives_the_share():
  pipe = pipeline(8)
  cursor, batch = next(prefetch(pipe, 2, rows=slice(4, 8)))
  assert cursor == 2 and same(batch, pipe.batch(2, slice(4, 8)))


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_do_not_change_the_batches(workers):
  pipe = pipeline(8)
  read = prefetch(pipe, 1, workers=workers, threads=1, buffer=2)
  for want, (cursor, batch) in zip(range(1, 6), itertools.islice(read, 5), strict=True):
    assert cursor == want and same(batch, pipe.batch(cursor))


# --- refusals ------------------------------------------------------------------------------------------------------


def refused(line, tables, store=STORE, batch_size=4):
  with pytest.raises(LoaderError, match=line) as error:
    Pipeline(tables, store, Settings(batch_size, SPECIAL, VOCAB, Masking()), SEED)
  assert "\n" not in str(error.value)


def test_what_cannot_be_loaded_is_refused_with_one_line():
  tables = tables_of(FORMATS["pairs"])
  refused("got no example table", [])
  refused("batch_size: got 0", tables, batch_size=0)
  refused(r"table of pass 0: got \d+ rows, want at least batch_size=100000", tables, batch_size=100000)
  refused(
    r"made from store memory-150-\d+-\d+, want another-150", tables, dataclasses.replace(STORE, fingerprint="another")
  )
  refused("differ in their options", tables + tables_of(FORMATS["full sentences"]))
  with pytest.raises(LoaderError, match="cursor: got -1, want 0 or more"):
    pipeline(4).locate(-1)


def test_every_batch_is_held_against_its_contract(monkeypatch):
  seen = []
  monkeypatch.setattr(loader, "validate", seen.append)
  got = pipeline(4).batch(0)
  assert len(seen) == 1 and seen[0] is got


# --- data.bench ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_ends_with_one_json_line_of_tokens_per_second():
  command = [sys.executable, "-m", "data.bench", "--tokens=30000", "--batches=2", "--batch_size=16", "--articles=200"]
  root = pathlib.Path(__file__).parents[1]
  done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  stages = ["building", "reading"] + [f"{w}_{s}" for s in masking.STRATEGIES for w in ("masking", "end_to_end")]
  assert sorted(result["tokens_per_second"]) == sorted(stages)
  speeds = result["tokens_per_second"]
  # An epoch's seconds contain the building's; how fast the stages are beside each other is the machine's affair.
  assert all(0 < speeds[f"end_to_end_{strategy}"] < speeds["building"] for strategy in masking.STRATEGIES)
  assert min(speeds.values()) > 0


def test_bench_refuses_what_it_cannot_read_with_one_line(tmp_path, capsys):
  assert bench.main([f"--store={tmp_path}"]) == 2
  printed = capsys.readouterr()
  assert not printed.out and f"corpus {tmp_path}" in printed.err.splitlines()[-1]
  assert "articles/s" not in printed.err  # it is said before anything is measured
