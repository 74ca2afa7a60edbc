"""Formats of RoBERTa, ALBERT, ELECTRA and SpanBERT as example tables: plain oracles, figures of the papers and code."""

import numpy as np
import pytest

from data import rows, spans, tables
from data.examples import BUILDERS, FORMATS, Options, TableError, build_table
from data.loader import Pipeline, Settings
from data.masking import Masking
from data.tokenizers import Special
from tests import example_oracles, oracles

SPECIAL = Special(pad=0, unk=1, cls=2, sep=3, mask=4)
ARRAYS = ("spans", "starts", "lengths", "labels", "rows")
OPTIONAL = ("joined", "mentions")


def segments_of(table):
  """Segments of each example, a segment being a list of token offsets: joined spans put together."""
  joined = np.zeros(len(table.starts), bool) if table.joined is None else table.joined
  out = []
  for first, last in zip(table.spans[:-1], table.spans[1:], strict=True):
    example, opened = [], False
    for span in range(first, last):
      if not opened:
        example.append([])
      example[-1] += range(table.starts[span], table.starts[span] + table.lengths[span])
      opened = joined[span]
    assert not opened  # an example ends in a [SEP]
    out.append(example)
  return out


def equal(a, b):
  return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in (*ARRAYS, *OPTIONAL))


def near(share, want, count):
  return abs(share - want) < 4 * (want * (1 - want) / count) ** 0.5


# --- every format ----------------------------------------------------------------------------------------------------


def test_every_format_has_a_builder():
  assert tuple(BUILDERS) == FORMATS


def test_which_formats_have_pair_decisions_and_which_a_second_segment():
  kinds = {name: (Options(name, 64).paired, Options(name, 64).segmented) for name in FORMATS}
  assert kinds == {
    "segment_pairs": (True, True),
    "sentence_pairs": (True, True),
    "full_sentences": (False, False),
    "doc_sentences": (False, False),
    "electra_segments": (False, True),
    "entity_sentences": (False, False),
  }


@pytest.mark.parametrize("format_", FORMATS)
def test_blocks_of_documents_change_nothing(format_, monkeypatch):
  store, options = oracles.random_store(50, seed=8), Options(format_, 40, packed=2)
  whole = build_table(store, options, 1, 0)
  monkeypatch.setattr(spans, "BLOCK", 7)
  assert equal(build_table(store, options, 1, 0), whole)


@pytest.mark.parametrize("format_", FORMATS)
def test_packing_moves_whole_examples_and_passes_repeat_exactly(format_):
  store = oracles.random_store(200, seed=3)
  packed = [build_table(store, Options(format_, 96, packed=3), 0, pass_) for pass_ in (0, 1)]
  alone = build_table(store, Options(format_, 96), 0, 0)
  assert segments_of(packed[0]) == segments_of(alone)
  assert np.where(packed[0].rows >= 0, packed[0].sizes[packed[0].rows], 0).sum(1).max() <= 96
  assert sorted(packed[0].rows[packed[0].rows >= 0].tolist()) == list(range(packed[0].card["examples"]))
  assert packed[0].card["rows"] == len(packed[0].rows) < alone.card["rows"]
  assert equal(packed[1], build_table(store, Options(format_, 96, packed=3), 0, 1))
  drawn = format_ not in ("full_sentences", "doc_sentences", "entity_sentences")  # these draw nothing
  assert (segments_of(packed[1]) != segments_of(alone)) == drawn


@pytest.mark.parametrize("format_", ["sentence_pairs", "electra_segments"])
def test_documents_are_independent_of_one_another(format_):
  middle = [9, 4, 30, 2, 17, 8, 21, 5, 13, 26] * 8
  kept = []
  for others in ([7, 7], [50, 1, 1]):
    table = build_table(oracles.store_of([others, middle, others]), Options(format_, 64), 5, 0)
    own = [example[0] for example in segments_of(table)]  # A is of the document itself
    kept.append([[at - sum(others) for at in a] for a in own if 0 <= a[0] - sum(others) < sum(middle)])
  assert len(kept[0]) > 8 and kept[0] == kept[1]


@pytest.mark.parametrize("format_", ["sentence_pairs", "electra_segments"])
def test_an_epoch_shows_every_row_of_its_own_pass_once(format_):
  store = oracles.random_store(60, seed=2)
  made = [build_table(store, Options(format_, 64, packed=2), 0, pass_) for pass_ in (0, 1)]
  pipeline = Pipeline(made, store, Settings(1, SPECIAL, 60000, Masking()), seed=0)
  for epoch in range(4):
    assert pipeline.epoch_size(epoch) == len(made[epoch % 2].rows)  # N_p of pass e mod D
    cursors = range(pipeline.epoch_start(epoch), pipeline.epoch_start(epoch + 1))
    shown = [pipeline.locate(cursor) for cursor in cursors]
    assert {found for found, _ in shown} == {epoch}
    assert sorted(int(row[0]) for _, row in shown) == list(range(len(made[epoch % 2].rows)))


@pytest.mark.parametrize("format_", FORMATS)
def test_tables_are_read_back_as_they_were_built(format_, tmp_path):
  store, options = oracles.random_store(30), Options(format_, 40)
  read = tables.load_or_build_tables(tmp_path, store, options, seed=1, passes=2)
  for pass_ in (0, 1):
    built = build_table(store, options, 1, pass_)
    assert equal(read[pass_], built) and (read[pass_].sizes == built.sizes).all()


# --- RoBERTa: sentence pairs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["nsp", "sop"])
@pytest.mark.parametrize(("documents", "length", "longest"), [(2, 40, 60), (60, 40, 60), (60, 256, 100), (60, 40, 2)])
def test_sentence_pairs_equal_the_oracle_draw_for_draw(documents, length, longest, task):
  store = oracles.random_store(documents, seed=documents, longest=longest)
  options = Options("sentence_pairs", length, task=task)
  for pass_ in (0, 1):
    want = example_oracles.sentence_pairs(store, options, 7, pass_)
    table = build_table(store, options, 7, pass_)
    assert segments_of(table) == [[a, b] for a, b, _ in want] != []
    assert table.labels.tolist() == [label for _, _, label in want]


def test_sentence_pairs_are_two_whole_sentences_next_to_each_other_or_of_two_documents():
  # Label 0 = B is the next sentence, 1 = random (fairseq's pairs have it the other way round).
  store = oracles.random_store(2000, seed=1)
  table = build_table(store, Options("sentence_pairs", 512), 0, 0)
  sentence = np.searchsorted(store.sentences, table.starts)
  assert (store.sentences[sentence] == table.starts).all()
  assert (store.sentences[sentence + 1] - store.sentences[sentence] == table.lengths).all()
  document = np.searchsorted(store.documents, sentence, side="right") - 1
  (a, b), (a_document, b_document), random = sentence.reshape(-1, 2).T, document.reshape(-1, 2).T, table.labels == 1
  assert ((b == a + 1) & (a_document == b_document))[~random].all()
  assert (a_document != b_document)[random].all()
  assert near(random.mean(), 0.5, len(random)) and table.card["random_share"] == round(float(random.mean()), 6)
  # A goes through each document: behind a random B by one sentence, else by two; the last sentence alone is no A.
  last = store.documents[a_document + 1] - 1
  assert (a < last).all()
  following = a + np.where(random, 1, 2)
  assert np.where(following[:-1] < last[:-1], a[1:] == following[:-1], a_document[1:] > a_document[:-1]).all()


def test_random_sentences_are_uniform_over_documents_first_and_sentences_then():
  store = oracles.store_of([[5] * 2000, [5], [5] * 4])
  table = build_table(store, Options("sentence_pairs", 64), 0, 0)
  sentence = (table.starts[1::2] // 5)[(table.labels == 1) & (table.starts[0::2] // 5 < 2000)]
  counts = np.bincount(sentence - 2000, minlength=5)
  assert len(sentence) > 500 and counts.sum() == len(sentence)
  for count, share in zip(counts, [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8], strict=True):
    assert near(count / len(sentence), share, len(sentence))


# --- ALBERT: sentence order ------------------------------------------------------------------------------------------


def test_halves_are_swapped_before_they_are_trimmed():
  # Two sentences of 40 and a budget of 37: the tie goes to B, so B loses 22 and A 21, whichever sentence A is by then.
  options = Options("segment_pairs", 40, task="sop", short_share=0.0, singles_are_negatives=False)
  table = build_table(oracles.store_of([[40, 40]] * 400), options, 0, 0)
  assert set(table.lengths[0::2]) == {19} and set(table.lengths[1::2]) == {18}
  swapped = table.starts[0::2] > table.starts[1::2]
  assert (swapped == (table.labels == 1)).all() and near(swapped.mean(), 0.5, 400)


def test_a_chunk_of_one_sentence_has_a_random_b_of_label_one_in_sentence_order():
  # Budget 61: every sentence of 70 fills a chunk by itself, so all of this data is next-sentence negatives.
  options = Options("segment_pairs", 64, task="sop", short_share=0.0)
  table = build_table(oracles.store_of([[70] * 5] * 50), options, 0, 0)
  assert (table.labels == 1).all() and table.card["random_share"] == 1.0
  assert (table.starts[0::2] // 350 != table.starts[1::2] // 350).all()
  assert (table.starts[0::2] // 70 == np.arange(250)).all()  # A is the sentence itself: nothing is swapped as well


# --- SpanBERT --------------------------------------------------------------------------------------------------------

SPANBERT = {"separators": "document", "long_sentences": "skip"}


@pytest.mark.parametrize("separators", ["sentence", "document"])
@pytest.mark.parametrize("format_", ["full_sentences", "doc_sentences"])
def test_blocks_that_skip_long_sentences_equal_the_greedy_oracle(format_, separators):
  store = oracles.random_store(80, seed=4, longest=150)
  options = Options(format_, 40, separators=separators, long_sentences="skip")
  table, sizes = build_table(store, options, 0, 0), np.diff(store.sentences)
  assert segments_of(table) == example_oracles.blocks(store, options)
  assert table.card["skipped_sentences"] == (sizes > 38).sum() > 10
  assert table.lengths.sum() == sizes[sizes <= 38].sum() and table.sizes.max() <= 40


def test_a_block_of_spanbert_is_one_run_of_whole_sentences_of_one_document():
  store = oracles.random_store(300, seed=6, longest=700, sentences=30)
  table = build_table(store, Options("doc_sentences", 128, **SPANBERT), 0, 0)
  assert (np.diff(table.spans) == 1).all() and table.lengths.max() == 126  # [CLS] block [SEP]
  assert np.isin(table.starts, store.sentences).all() and np.isin(table.starts + table.lengths, store.sentences).all()
  edges = store.sentences[store.documents]
  assert (np.searchsorted(edges, table.starts, "right") == np.searchsorted(edges, table.starts + table.lengths)).all()


def test_blocks_of_510_pieces_close_before_a_skipped_sentence_and_at_the_document_end():
  store = oracles.store_of([[500, 10, 1, 511, 3, 510, 600], [2, 510]])
  table = build_table(store, Options("doc_sentences", 512, **SPANBERT), 0, 0)
  assert table.lengths.tolist() == [510, 1, 3, 510, 2, 510]  # a block before a skipped last sentence is kept
  assert table.card["skipped_sentences"] == 2


def test_two_segments_of_spanbert_have_509_pieces():
  store = oracles.random_store(100, seed=7, sentences=60)
  table = build_table(store, Options("segment_pairs", 512, same_document_negatives=False), 0, 0)
  assert (table.lengths[0::2] + table.lengths[1::2]).max() == 509


def test_a_store_of_nothing_but_long_sentences_is_refused_where_they_are_skipped():
  with pytest.raises(TableError, match="the store gives no example"):
    build_table(oracles.store_of([[50], [60, 70]]), Options("doc_sentences", 42, **SPANBERT), 0, 0)


# --- ELECTRA ---------------------------------------------------------------------------------------------------------

TEXTS = {
  "two documents": oracles.random_store(2, seed=1),
  "a hundred documents": oracles.random_store(100, seed=2),
  "short sentences": oracles.random_store(40, seed=3, longest=6, sentences=60),
  "long sentences": oracles.random_store(40, seed=4, longest=300),
  "one long document": oracles.random_store(1, seed=5, sentences=500),
  "single tokens": oracles.store_of([[1] * 700, [1]]),
}


@pytest.mark.parametrize("length", [5, 16, 64, 128])
@pytest.mark.parametrize("store", TEXTS.values(), ids=TEXTS.keys())
def test_electra_segments_equal_the_oracle_draw_for_draw(store, length):
  options = Options("electra_segments", length)
  for pass_ in (0, 1):
    want = example_oracles.electra_segments(store, options, 7, pass_)
    table = build_table(store, options, 7, pass_)
    assert segments_of(table) == [[a, b] if b else [a] for a, b in want]
    assert table.sizes.tolist() == [len(a) + len(b) + (3 if b else 2) for a, b in want]
    assert table.sizes.max() <= length and not table.labels.any()
    assert table.card["cut_tokens"] == len(store.tokens) - sum(len(a) + len(b) for a, b in want)
    assert table.card["single_share"] == round(np.mean([not b for _, b in want]), 6)


@pytest.mark.parametrize("packed", [1, 3])
def test_rows_of_electra_are_cls_a_sep_b_sep_with_types_and_no_pair_decision(packed):
  store, options = TEXTS["a hundred documents"], Options("electra_segments", 64, packed=packed)
  table, want = build_table(store, options, 7, 0), example_oracles.electra_segments(store, options, 7, 0)
  got = rows.assemble(table, store, SPECIAL, np.arange(len(table.rows)))
  assert got.pair is None and (np.diff(table.spans) > 2).mean() > 0.02  # there are segments with gaps
  for row, examples in enumerate(table.rows.tolist()):
    columns, pieces = [], []  # (id, type, segment, position, starts a word, candidate)
    for slot, example in enumerate(e for e in examples if e >= 0):
      place = [(SPECIAL.cls, 0, False, False)]
      for type_, segment in enumerate(want[example]):
        place += [(store.tokens[at], type_, store.word_starts[at], True) for at in segment]
        place += [(SPECIAL.sep, type_, False, False)] if segment else []
      columns += [(i, t, slot + 1, n, w, c) for n, (i, t, w, c) in enumerate(place)]
      pieces.append(sum(map(len, want[example])))
    columns += [(SPECIAL.pad, 0, 0, 0, False, False)] * (options.length - len(columns))
    t = got.tokens
    fields = (t.ids, t.types, t.segments, t.positions, got.word_starts, got.candidates)
    assert list(zip(*(field[row].tolist() for field in fields), strict=True)) == columns
    assert got.pieces[row].tolist() == pieces + [0] * (packed - len(pieces))


def test_a_later_short_sentence_may_join_a_after_b_has_begun():
  # 50 + 40 + 5 + 33 fill 128, and A's target is (128 - 3) // 2 = 62. After 50 a coin decides on 40: heads, A = 50 + 40
  # is full and B = 5 + 33 is cut to 35; tails, B = 40, but 5 still joins A and 33 does not, so A = 50 + 5 and
  # B = 40 + 33 is cut to 70. One in ten has no B, and A is cut to 126. One in twenty has a target from 5 to 128, of
  # which those from 105, 115 and 96 on lead to the same three.
  count = 4000
  table = build_table(oracles.store_of([[50, 40, 5, 33]] * count), Options("electra_segments", 128), 0, 0)
  found = [tuple(map(len, example)) for example in segments_of(table)]
  for lengths, share, targets in (((90, 35), 0.45, 24), ((55, 70), 0.45, 14), ((126,), 0.1, 33)):
    assert near(found.count(lengths) / count, share * (0.95 + 0.05 * targets / 124), count)
  tails = found.index((55, 70))
  spans_ = slice(table.spans[tails], table.spans[tails + 1])
  assert table.joined[spans_].tolist() == [True, False, True, False]
  assert (table.starts[spans_] % 128).tolist() == [0, 90, 50, 95] and table.lengths[spans_].tolist() == [50, 5, 40, 30]


def test_one_example_in_twenty_has_a_target_uniform_from_5_to_the_length():
  # Documents of single tokens: an example ends at its target exactly, and one of up to 125 tokens loses none of them.
  count = 20000
  table = build_table(oracles.store_of([[1] * 128] * count), Options("electra_segments", 128), 0, 0)
  firsts = table.spans[:-1][table.starts[table.spans[:-1]] % 128 == 0]
  sizes = np.add.reduceat(table.lengths, table.spans[:-1])[np.isin(table.spans[:-1], firsts)]
  short = sizes[sizes < 125]
  assert len(sizes) == count and near(len(short) / count, 0.05 * 120 / 124, count)
  assert short.min() == 5 and abs(short.mean() - 64.5) < 4 * 120 / (12 * len(short)) ** 0.5


def test_lines_are_never_carried_over_and_what_overflows_is_dropped():
  # A line of 300 fills any target: it is an example by itself, of one segment, cut to length - 2.
  table = build_table(oracles.store_of([[300] * 50]), Options("electra_segments", 128), 0, 0)
  assert table.lengths.tolist() == [126] * 50 and (table.starts == 300 * np.arange(50)).all()
  assert table.card["single_share"] == 1.0 and table.card["cut_tokens"] == 50 * 174


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_unknown_way_with_long_sentences_is_refused_with_one_line():
  with pytest.raises(TableError) as error:
    Options("doc_sentences", 64, long_sentences="drop")
  assert str(error.value) == "example option long_sentences: got 'drop', want one of split, skip"


def test_sentence_pairs_of_one_document_are_refused_with_one_line():
  with pytest.raises(TableError, match="got one document, want two or more: a random B is from another") as error:
    build_table(oracles.store_of([[3, 2, 4]]), Options("sentence_pairs", 64), 0, 0)
  assert "\n" not in str(error.value)
