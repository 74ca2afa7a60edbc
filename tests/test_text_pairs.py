"""Sentence embeddings: files of pairs, of inference, of similarity; rows of texts; what a batch leaves out; cosine."""

import json
import types
from pathlib import Path

import numpy as np
import pytest

from data.batch import FIRST, NEGATIVE, SECOND, Tokens
from data.tasks import registry
from data.tasks.batches import TaskPipeline, in_order
from data.tasks.rows import TaskError
from data.tasks.text_pairs import PairExample, PairRow, PairRows, PairShape
from data.tasks.texts import correlations
from objectives.pairs import PairsObjective
from tests.parity_models import CASES, random_params
from tests.task_files import refused, write
from tests.task_rows import LETTERS

EMBED = registry.find("embed")
SHAPE = PairShape(length=64, packed=4, multiple=2, pad=9)


def read(tmp_path, content, name="train.tsv"):
  return EMBED.read(write(tmp_path, content, name))


# Files


def test_pairs_with_names_and_without(tmp_path):
  want = [("A man.", "He left."), ("B", "C")]
  for content in (
    "first\tsecond\nA man.\t He left. \nB\tC\n",
    "A man.\tHe left.\n\nB\tC\n",
    "".join(json.dumps({"first": a, "second": b, "source": "x"}) + "\n" for a, b in want),
    json.dumps([{"first": a, "second": b} for a, b in want]),
  ):
    found = read(tmp_path, content)
    assert [example.texts for example in found] == want and {example.score for example in found} == {None}
    assert [example.name for example in found] == ["0", "1"]
  assert EMBED.label_list(found) == ()


def test_pairs_may_begin_with_a_bracket(tmp_path):
  assert [e.texts for e in read(tmp_path, "[a\tb\n{c\td\n")] == [("[a", "b"), ("{c", "d")]
  refused(EMBED.read, write(tmp_path, "", "train.json"), "got no pair")


def test_a_third_text_is_a_negative(tmp_path):
  for content in ("first\tsecond\tnegative\na\tb\tc\n", '{"first": "a", "second": "b", "negative": "c"}\n'):
    assert [example.texts for example in read(tmp_path, content)] == [("a", "b", "c")]


def test_of_inference_what_follows_is_the_second_and_what_contradicts_the_negative(tmp_path):
  """Three texts follow from p, two contradict it; nothing contradicts q; nothing follows from r; s is undecided."""
  pairs = [
    ("p", "no", "contradiction"), ("p", "x", "entailment"), ("q", "y", "entailment"), ("p", "z", "entailment"),
    ("q", "w", "neutral"), ("r", "v", "contradiction"), ("s", "u", "-"),
    ("p", "never", "contradiction"), ("p", "t", "entailment"),
  ]  # fmt: skip
  lines = ["index\tsentence1\tsentence2\tgold_label", *("\t".join([str(i), *each]) for i, each in enumerate(pairs))]
  found = read(tmp_path, "\n".join(lines) + "\n")
  assert [e.texts for e in found] == [("p", "x", "no"), ("p", "z", "never"), ("p", "t", "never"), ("q", "y")]
  assert [e.name for e in found] == ["1", "3", "8", "2"]
  records = {"0": {"text_a": "a", "text_b": "b", "label": "entailment"}}
  assert [e.texts for e in read(tmp_path, json.dumps(records, indent=2))] == [("a", "b")]


def test_texts_with_a_score_are_to_compare_and_not_to_train_on(tmp_path):
  found = read(tmp_path, "index\tgenre\tsentence1\tsentence2\tscore\n4\tnews\tA.\tB.\t3.8\n")
  assert [(e.texts, EMBED.gold(e), e.name) for e in found] == [(("A.", "B."), 3.8, "4")]
  with pytest.raises(TaskError, match="line 2: got two texts with a score, want texts that belong together"):
    EMBED.label_list(found)


@pytest.mark.parametrize(
  "content, parts",
  [
    ("a\tb\na\n", ("line 2: got 1 texts",)),
    ("a\tb\tc\td\n", ("line 1: got 4 texts",)),
    ("a\tb\na\t\n", ("line 2: got 2 texts, one of them empty",)),
    ('{"first": "a"}\n', ("line 1: got no 'second'",)),
    ('{"first": "a", "second": 3}\n', ("line 1: 'second': got 3, want a string",)),
    ("first\tsecond\n", ("got no pair",)),
    ("sentence1\tsentence2\tgold_label\np\tx\tneutral\n", ("got no pair",)),
    ("sentence1\tsentence2\tscore\na\tb\t7\n", ("line 2: got '7', want a number from 0 to 5",)),
  ],
)
def test_what_is_no_pair_is_refused(content, parts, tmp_path):
  refused(EMBED.read, write(tmp_path, content, "train.tsv"), *parts)


# Rows and batches


def test_every_text_is_a_row_of_its_own_pieces():
  examples = [PairExample(("a b", "c", "d e f g"), None), PairExample(("a", "b"), 2.5)]
  first, second = PairRows(max_length=5)(examples, LETTERS, ())
  pieces = lambda row: [" ".join(LETTERS.pieces(text)) for text in row.texts]
  assert pieces(first) == ["[CLS] a b [SEP]", "[CLS] c [SEP]", "[CLS] d e f [SEP]"]
  assert (first.sides, first.example, len(first)) == ((FIRST, SECOND, NEGATIVE), 0, 5)
  assert (second.sides, second.example) == ((NEGATIVE, NEGATIVE), 1)  # no pair: it costs nothing


def texts_of(batch):
  """{(pair, side): ids} of what a batch says, and the texts that are of no pair."""
  found, others = {}, []
  for row, place in np.ndindex(batch.pairs.shape):
    own = batch.tokens.segments[row] == place + 1
    ids, key = batch.tokens.ids[row, own], (int(batch.pairs[row, place]), int(batch.sides[row, place]))
    assert batch.tokens.positions[row, own].tolist() == list(range(own.sum()))
    if key[0] >= 0:
      assert len(ids) and key not in found
      found[key] = ids.tolist()
    elif len(ids):
      others.append(ids.tolist())
  return found, sorted(others)


def row(*texts, sides=(FIRST, SECOND, NEGATIVE), example=0):
  return PairRow(tuple(np.array(text, np.int32) for text in texts), sides[: len(texts)], example)


def random_rows(count=11):
  draw = np.random.default_rng(0)
  number = iter(range(10, 10_000))
  text = lambda: [next(number) for _ in range(draw.integers(3, 20))]
  return [row(*(text() for _ in range(2 + i % 2)), example=i) for i in range(count)]


def test_every_text_stands_once_with_its_pair_and_its_side():
  rows = random_rows()
  placed = SHAPE.collate(rows)
  found, others = texts_of(placed.batch)
  want = {(i, side): text.tolist() for i, each in enumerate(rows) for text, side in zip(each.texts, each.sides)}
  assert found == want and not others
  assert placed.batch.pairs.shape[0] % SHAPE.multiple == 0 and not placed.batch.tokens.types.any()
  assert (placed.batch.tokens.ids[placed.batch.tokens.segments == 0] == SHAPE.pad).all()


def test_a_pair_that_would_be_a_negative_to_itself_is_left_out():
  """The second pair has the first one's first text, the third its second as its own first; the fourth is new, but its
  negative is a second of the batch; a first text of another pair is a good negative."""
  a, b, c, d, e, f = ([i, i + 1, i + 2] for i in (10, 20, 30, 40, 50, 60))
  found, others = texts_of(SHAPE.collate([row(a, b, f), row(a, c, d), row(b, d), row(c, d, b), row(e, f, a)]).batch)
  assert found == {(0, 0): a, (0, 1): b, (3, 0): c, (3, 1): d, (4, 0): e, (4, 1): f, (4, 2): a}
  assert others == sorted([f, a, c, d, b, d, b])


def test_texts_to_compare_all_stay():
  same = [row([1, 2], [3, 4], sides=(NEGATIVE, NEGATIVE), example=i) for i in range(3)]
  batch = SHAPE.collate([*same, row([1, 2], [5, 6], example=3)]).batch
  assert sorted(batch.pairs[batch.pairs >= 0]) == [0, 0, 1, 1, 2, 2, 3, 3]
  assert set(batch.pairs[(batch.pairs >= 0) & (batch.sides != NEGATIVE)]) == {3}


def texts_at(batch):
  """[R, S, 1]: the first id of the text in each place."""
  first = np.zeros((*batch.pairs.shape, 1))
  for r, place in np.ndindex(batch.pairs.shape):
    own = batch.tokens.ids[r][batch.tokens.segments[r] == place + 1]
    first[r, place] = own[0] if len(own) else -1
  return first


def test_embeddings_come_back_to_their_texts():
  rows = random_rows()
  for numbers, placed in in_order(rows, 4, SHAPE):
    parts = placed.parts(texts_at(placed.batch))
    for i, own in zip(numbers, parts, strict=True):
      assert own[:, 0].tolist() == [text[0] for text in rows[i].texts]


def test_batches_follow_from_seed_and_cursor_and_an_epoch_has_every_pair():
  rows = random_rows(12)
  pipelines = [TaskPipeline(rows, 4, SHAPE, seed=3) for _ in range(2)]
  seen = []
  for cursor in range(3):
    one, two = (pipeline.batch(cursor) for pipeline in pipelines)
    np.testing.assert_array_equal(one.tokens.ids, two.tokens.ids)
    seen += [ids[0] for (_, side), ids in texts_of(one)[0].items() if side == FIRST]
  assert sorted(seen) == sorted(int(each.texts[0][0]) for each in rows)


def test_a_text_that_no_row_can_hold_is_refused():
  with pytest.raises(TaskError, match="got 65 tokens, want at most 64: raise data.length"):
    SHAPE.collate([row([1] * 65, [2])])


# What the objective makes of it

MODEL = CASES["bert_body"].model
PARAMS = random_params(MODEL)


def figures_and_embeddings(rows):
  """(figures, pairs, embeddings of each row's texts)."""
  objective, placed = PairsObjective(MODEL), SHAPE.collate(rows)
  sums, statistics, _ = objective.sums(PARAMS, None, placed.batch, types.SimpleNamespace(), train=False)
  counts = objective.counts(placed.batch)
  figures = objective.report(sums, counts, statistics)
  return figures, int(counts["pairs"]), placed.parts(np.asarray(statistics["outputs"]))


def test_what_is_left_out_changes_no_loss():
  pairs = [row([10, 11, 12], [20, 21], [30]), row([40, 41], [50, 51, 52])]
  again = row([10, 11, 12], [60, 61], [62])
  figures, count, _ = figures_and_embeddings(pairs)
  same, still, _ = figures_and_embeddings([pairs[0], again, pairs[1]])
  assert (count, still) == (2, 2) and same == pytest.approx(figures, rel=1e-5) and figures["loss"] > 0


def test_texts_to_compare_have_no_loss_and_are_embedded():
  """Their cosine is that of the mean states of each text by itself."""
  texts = [[10, 11, 12], [20, 21], [10, 11], [10, 11]]
  rows = [row(*texts[i : i + 2], sides=(NEGATIVE, NEGATIVE), example=i // 2) for i in (0, 2)]
  figures, count, parts = figures_and_embeddings(rows)
  examples = [PairExample(("x", "y"), score) for score in (1.0, 5.0)]
  found = EMBED.decode(examples, rows, parts, ())
  means = []
  for text in texts:
    ids = np.array([text], np.int32)
    tokens = Tokens(ids, ids * 0, ids * 0 + 1, np.arange(len(text), dtype=np.int32)[None])
    means.append(np.asarray(MODEL.apply({"params": PARAMS}, ids, tokens).hidden)[0].mean(0))
  want = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in (means[:2], means[2:])]
  assert (figures, count) == ({}, 0) and found == pytest.approx(want, abs=1e-5) and found[1] == pytest.approx(1)


# Similarity


def test_similarity_is_the_cosine_of_the_two_texts():
  """3-4-5: cosines 1, 0.6 and 0; a text of no state has cosine 0. Ranks of 1, 0.6, 0, 0 against 5, 3, 1, 0."""
  examples = [PairExample(("a", "b"), score) for score in (5.0, 3.0, 1.0, 0.0)]
  rows = EMBED.rows(examples, LETTERS, ())
  values = [np.array(each) for each in ([[3, 4], [6, 8]], [[1, 0], [3, 4]], [[0, 2], [1, 0]], [[0, 0], [1, 0]])]
  found = EMBED.decode(examples, rows[::-1], values[::-1], ())
  assert found == pytest.approx([1, 0.6, 0, 0])
  figures = EMBED.evaluate(examples, rows, values, ())
  assert figures == pytest.approx(correlations([5, 3, 1, 0], [1, 0.6, 0, 0]))
  assert figures["spearman"] == pytest.approx(4.5 / (5 * 4.5) ** 0.5)


# Real files

REAL = Path(__file__).parent.parent / "../shared/data/glue"


@pytest.mark.parametrize(
  "file, pairs, scored, negatives",
  [("STS-B/dev.tsv", 1500, 1500, 0), ("MNLI-sample/dev.json", 347, 0, None)],
)
def test_real_files_are_read_as_what_they_are(file, pairs, scored, negatives):
  if not (REAL / file).is_file():
    pytest.skip(f"../shared/data has no glue/{file}")
  found = EMBED.read(REAL / file)
  assert len(found) == pairs and sum(e.score is not None for e in found) == scored
  if negatives is not None:
    assert sum(len(e.texts) == 3 for e in found) == negatives
