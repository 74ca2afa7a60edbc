"""Tasks as rows and batches of whole words, and tags of words and of pieces back to entities."""

import collections
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from data import batch as contracts
from data import draws
from data.batch import LabelledWords
from data.characters import BEGIN, END, Spellings, spell
from data.tasks import registry, tagging, tags
from data.tasks.batches import Shape, TaskPipeline, in_order
from data.tasks.named_entities import TaggedDocument
from data.tasks.rows import TaskError, WordRow
from data.tasks.tagging import TagPieces, tag_labels
from data.tasks.texts import TextExample
from data.tasks.word_batches import WordShape, spelled_words
from data.tasks.word_rows import TagWords, TextWords, words_of
from data.word_vectors import WordVocabulary
from tests.task_rows import LETTERS, by_words, document, said

WNUT = Path(__file__).parent.parent / "../shared/data/ner/wnut17"
KINDS = [document(["a"], [(0, 1, "PER")]), document(["a"], [(0, 1, "LOC")])]
IOB2, BIOES = (tag_labels(KINDS, scheme) for scheme in ("iob2", "bioes"))


def named(row, labels):
  return [labels[i] for i in row.labels]


# Tags


def test_classes_are_every_tag_of_the_scheme():
  assert IOB2 == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
  assert BIOES == ("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "B-PER", "I-PER", "E-PER", "S-PER")
  assert tag_labels([document(["a"])], "bioes") == ("O",)
  with pytest.raises(TaskError, match="got scheme 'iob1', want one of \\['iob2', 'bioes'\\]"):
    tag_labels(KINDS, "iob1")


# Tags, and the spans that seqeval and conlleval read out of them: (first, one past the last, type).
READINGS = [
  ("B-x I-x O B-y", [(0, 2, "x"), (3, 4, "y")]),
  ("I-x I-x O I-y", [(0, 2, "x"), (3, 4, "y")]),  # IOB1
  ("I-x B-x I-x", [(0, 1, "x"), (1, 3, "x")]),  # IOB1: a neighbour of one type
  ("B-x I-y", [(0, 1, "x"), (1, 2, "y")]),
  ("B-x B-x", [(0, 1, "x"), (1, 2, "x")]),
  ("S-x B-x I-x E-x O", [(0, 1, "x"), (1, 4, "x")]),
  ("B-x E-x I-x", [(0, 2, "x"), (2, 3, "x")]),  # E ends, whatever follows
  ("E-x", [(0, 1, "x")]),
  ("B-x S-x I-x", [(0, 1, "x"), (1, 2, "x"), (2, 3, "x")]),
  ("O I-x E-y", [(1, 2, "x"), (2, 3, "y")]),
]


@pytest.mark.parametrize("said, want", READINGS)
def test_tags_are_read_as_seqeval_reads_them(said, want):
  labels = ("O", *(f"{letter}-{kind}" for kind in "xy" for letter in "BIES"))
  classes = np.array([labels.index(tag) for tag in said.split()])
  size = len(classes)
  example = TaggedDocument(tuple("w" * size), (0, size), None)
  (row,) = TagWords()([example], labels)
  for value in (classes, np.eye(len(labels))[classes]):
    assert tagging.decode([example], [row], [value], labels) == [tuple(want)]
  for scheme in tags.SCHEMES:
    assert tags.spans_of(tags.tags_of(want, size, scheme)) == want


@pytest.mark.parametrize("labels", [IOB2, BIOES])
@pytest.mark.parametrize("form", ["words", "pieces"])
def test_right_tags_of_any_rows_are_the_entities_of_their_documents(form, labels):
  """Spans side by side and at both ends of sentences; sentences longer than a row; words without a piece."""
  examples = [
    document(["a b c d e f g h i", "j k l"], [(0, 2, "PER"), (2, 3, "PER"), (6, 9, "LOC"), (9, 10, "LOC")]),
    document(["m"], [(0, 1, "LOC")]),
    document(["n o"]),
  ]
  rows = TagWords(4)(examples, labels) if form == "words" else TagPieces(6)(examples, LETTERS, labels)
  assert len(rows) > 4 and {row.example for row in rows} == {0, 1, 2}
  values = [np.eye(len(labels))[row.labels] for row in rows]
  assert tagging.decode(examples, rows[::-1], values[::-1], labels) == [example.spans for example in examples]


def test_each_word_is_found_where_it_has_the_most_words_around_it():
  """Windows of 4 share one word: 0-4, 3-7, 5-9 (the last one is full); words 3 and 6 and 7 are in two of them."""
  (example,) = [document(["a b c d e f g h i"], [(3, 5, "PER")])]
  rows = TagWords(4)([example], IOB2)
  assert ["".join(row.sentences[0]) for row in rows] == ["abcd", "defg", "fghi"]
  assert named(rows[0], IOB2) == ["O", "O", "O", "B-PER"] and named(rows[1], IOB2) == ["B-PER", "I-PER", "O", "O"]
  found = [row.window.tolist() for row in rows]
  assert [word for window in found for _, word in window] == list(range(9))
  for row, window in zip(rows, found):
    assert [row.sentences[0][place] for place, _ in window] == [example.words[word] for _, word in window]
  assert all(set(row.weights.tolist()) == {1.0} for row in rows)


def test_tags_that_nobody_says_and_types_that_there_are_not():
  unknown = TaggedDocument(("a", "b"), (0, 2), None)
  assert TagWords()([unknown], IOB2)[0].weights.tolist() == [0, 0]
  for rows in (TagWords(), lambda examples, labels: TagPieces()(examples, LETTERS, labels)):
    with pytest.raises(TaskError, match="f.txt, line 7: got label 'B-ORG', want one of the 5"):
      rows([document(["a"], [(0, 1, "ORG")], "f.txt, line 7")], IOB2)


def test_a_tag_stands_on_the_first_piece_of_its_word_in_the_context_of_its_document():
  of = by_words("a", "b", "##x", "c")
  first, second = TagPieces()([document(["a bxx", "c"], [(1, 2, "PER")])], of, IOB2)
  assert said(first, of) == said(second, of) == "[CLS] a b ##x ##x c [SEP]"
  assert first.cls.tolist() == [1, 2] and named(first, IOB2) == ["O", "B-PER"] and second.cls.tolist() == [5]
  assert first.window.tolist() == [[0, 0], [1, 1]] and second.window.tolist() == [[0, 2]]
  with pytest.raises(TaskError, match="document: word 0 has more than 2 pieces, want fewer"):
    TagPieces(4)([document(["bxx"])], of, IOB2)


def test_tags_of_packed_pieces_come_back_to_their_documents():
  """Several examples share a row, and every label still stands on its word's first piece."""
  examples = [document(["a b c"], [(1, 3, "PER")]), document(["d e"], [(0, 1, "LOC")]), document(["f"])]
  rows = TagPieces()(examples, LETTERS, IOB2)
  ((order, placed),) = in_order(rows, 3, Shape(length=32, packed=3, multiple=1, pad=0))
  batch = placed.batch
  assert batch.tokens.ids.shape == (1, 32)
  words = np.take_along_axis(batch.tokens.ids, batch.cls, axis=1)
  assert ["".join(LETTERS.pieces(part)) for part in placed.parts(words)] == ["abc", "de", "f"]
  found = tagging.decode(examples, [rows[i] for i in order], placed.parts(np.eye(5)[batch.labels]), IOB2)
  assert found == [example.spans for example in examples]


def test_a_word_without_a_piece_is_outside():
  example = TaggedDocument(("a", "\u200b", "b"), (0, 3), ((0, 3, "PER"),))
  (row,) = TagPieces()([example], LETTERS, IOB2)
  assert said(row, LETTERS) == "[CLS] a b [SEP]" and row.window.tolist() == [[0, 0], [1, 2]]
  assert tagging.decode([example], [row], [row.labels], IOB2) == [((0, 1, "PER"), (2, 3, "PER"))]


# Texts


def test_texts_are_divided_into_words():
  pair = TextExample(("It's a-b.", "Yes , no"), "y")
  (row,) = TextWords()([pair], ("x", "y"))
  assert row.sentences == (("It", "'", "s", "a", "-", "b", "."), ("Yes", ",", "no")) and len(row) == 9
  (spaced,) = TextWords(split="space")([pair], ("x", "y"))
  assert spaced.sentences == (("It's", "a-b."), ("Yes", ",", "no")) and len(spaced) == 5
  assert row.labels.tolist() == [1] and row.weights.tolist() == [1] and row.window is None
  assert registry.find("sst2").put("words_classify").rows == TextWords(split="space")
  assert words_of([row, spaced]) == ("'", ",", "-", ".", "It", "It's", "Yes", "a", "a-b.", "b", "no", "s")


def test_long_texts_are_cut_and_empty_ones_are_a_word(caplog):
  examples = [TextExample(("a b c d", "e"), None), TextExample(("", " "), "x")]
  with caplog.at_level(logging.WARNING):
    long, empty = TextWords(max_words=3)(examples, ("x", "y"))
  assert long.sentences == (("a", "b", "c"), ("e",)) and long.weights.tolist() == [0]
  assert empty.sentences == (("",), ("",)) and empty.example == 1
  assert "1 of 4 have more than 3 words" in caplog.text


# Batches


def rows_of_pairs(count):
  rng, letters = np.random.default_rng(0), list("abcdefgh") + ["<S>", "ünï"]
  sentence = lambda: tuple(rng.choice(letters, rng.integers(1, 9)).tolist())
  return [
    WordRow((sentence(), sentence()), np.array([i % 3], np.int32), np.ones(1, np.float32), i) for i in range(count)
  ]


def test_a_batch_says_every_word_of_every_row():
  """Spelled back word by word; boundaries, padding and rows that there are not are what the contract says."""
  rows, vectors = rows_of_pairs(11), WordVocabulary(("b", "ünï", "c"))
  batch = WordShape(vectors, multiple=4, spellings_length=9).collate(rows).batch
  assert contracts.validate(batch) == {"G": 1, "U": 64, "C": 9, "B": 12, "A": 2, "L": 16, "K": 1}
  for i, row in enumerate(rows):
    assert batch.labels[i, 0] == row.labels[0] and batch.weights[i, 0] == 1
    for a, sentence in enumerate(row.sentences):
      size = batch.lengths[i, a]
      assert size == len(sentence) + 2
      spelled = batch.words[0, batch.index[i, a, :size]]
      np.testing.assert_array_equal(spelled[1:-1], spell(sentence, 9))
      np.testing.assert_array_equal(spelled[[0, -1]], Spellings(("", ""), 9, boundaries=True)[np.arange(2)])
      assert batch.ids[i, a, 1 : size - 1].tolist() == [vectors.id_of(word) for word in sentence]
      assert not batch.index[i, a, size:].any() and not batch.ids[i, a, size - 1 :].any() and not batch.ids[i, a, 0]
  assert not batch.lengths[11:].any() and not batch.weights[11:].any() and not batch.index[11:].any()
  assert len(words_of(rows)) == 10 and not batch.words[0, 12:].any()
  assert len(np.unique(batch.words[0, :12], axis=0)) == 12  # each once, and the two boundaries


def test_each_distinct_word_is_spelled_once_at_the_published_length():
  row = WordRow((("a", "b", "a", "a"),), np.zeros(1, np.int32), np.ones(1, np.float32))
  words = WordShape(WordVocabulary(())).collate([row, row]).batch.words
  assert words.shape == (1, 64, 50)
  np.testing.assert_array_equal(words[0, :2], [BEGIN, END])
  np.testing.assert_array_equal(words[0, 2:4], spell(["a", "b"]))
  assert not words[0, 4:].any() and words[0, :4].all()  # no word fills up the table


def test_labels_of_tags_stand_one_column_before_their_words():
  """K = L - 2 even where every sentence of a batch is one word."""
  shape = WordShape(WordVocabulary(()))
  examples = [document(["a b c"], [(1, 3, "PER")]), document(["d"], [(0, 1, "LOC")])]
  long, short = TagWords()(examples, BIOES)
  batch = shape.collate([long, short]).batch
  assert batch.index.shape == (2, 1, 16) and batch.labels.shape == batch.weights.shape == (2, 14)
  assert named(long, BIOES) == ["O", "B-PER", "E-PER"] and batch.labels[0, :3].tolist() == long.labels.tolist()
  assert batch.weights.sum(1).tolist() == [3, 1]
  assert shape.collate([short, short]).batch.labels.shape == (2, 14)
  wide = WordRow((("a",) * 31,), np.zeros(31, np.int32), np.ones(31, np.float32), window=np.zeros((0, 2), np.int32))
  assert shape.collate([wide]).batch.labels.shape == (1, 62)


def test_what_a_network_says_comes_back_to_its_rows():
  examples = [document(["a b c"], [(1, 3, "PER")]), document(["d e f g"], [(0, 1, "LOC")]), document(["h"])]
  rows = TagWords()(examples, BIOES)
  (first, one), (second, two) = in_order(rows, 2, WordShape(WordVocabulary(()), multiple=4))
  assert first.tolist() == [1, 0] and second.tolist() == [2]  # those of like length together
  parts = one.parts(one.batch.labels) + two.parts(two.batch.labels)
  assert [part.tolist() for part in parts] == [rows[i].labels.tolist() for i in (1, 0, 2)]
  logits = np.eye(len(BIOES))[one.batch.labels]
  assert [part.shape for part in one.parts(logits)] == [(4, 9), (3, 9)]
  found = tagging.decode(examples, [rows[i] for i in (1, 0, 2)], parts, BIOES)
  assert found == [example.spans for example in examples]


def test_epochs_of_words_follow_from_seed_and_cursor():
  rows, shape = rows_of_pairs(13), WordShape(WordVocabulary(("a",)))
  pipeline, again = (TaskPipeline(rows, 4, shape, seed=3) for _ in range(2))
  assert pipeline.epoch_size == 3
  jax.tree.map(np.testing.assert_array_equal, pipeline.batch(7), again.batch(7))
  seen = [tuple(b.ids[i].ravel()) for b in map(pipeline.batch, range(3)) for i in range(4)]
  assert len(seen) == 12 and TaskPipeline(rows, 99, shape, seed=0).batch(0).weights.sum() == 13


def test_batches_of_words_are_of_like_length_and_every_epoch_has_every_row_once():
  """Of 16 batches of 4 rows each, sorted together: every batch's longest row is the next one's shortest at most."""
  sizes = np.random.default_rng(0).integers(1, 60, 128)
  rows = [WordRow((("a",) * n,), np.array([i], np.int32), np.ones(1, np.float32)) for i, n in enumerate(sizes)]
  pipeline = TaskPipeline(rows, 4, WordShape(WordVocabulary(("a",))), seed=3)
  for epoch in range(2):
    found = [pipeline.batch(epoch * 32 + n).labels[:, 0] for n in range(32)]
    assert sorted(np.concatenate(found)) == list(range(128))
    chunks = draws.permutation(3, "order", epoch, 128).reshape(2, 64)
    for chunk in chunks:
      own = [sizes[part] for part in found if set(part) <= set(chunk)]
      own.sort(key=lambda part: (part.max(), part.min()))
      assert len(own) == 16
      assert all(a.max() <= b.min() for a, b in zip(own, own[1:]))
  assert sizes[found[0]].max() != min(sizes[part].max() for part in found)  # nor do the shortest come first


def test_batches_have_few_shapes():
  sizes = [spelled_words(n) for n in range(1, 4097)]
  assert sorted(set(sizes)) == [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]
  assert all(size >= n and (size == 64 or size < n * 3 / 2) for n, size in enumerate(sizes, 1))
  rows = rows_of_pairs(64)
  shapes = {WordShape(WordVocabulary(())).collate(rows[: n + 1]).batch.words.shape[1] for n in range(63)}
  assert shapes == {64}


def test_words_belong_to_the_whole_batch_and_padding_is_counted():
  batch = WordShape(WordVocabulary(()), multiple=4).collate(rows_of_pairs(3)).batch
  rows = contracts.is_row_field(batch)
  assert rows == LabelledWords(words=False, index=True, lengths=True, ids=True, labels=True, weights=True)
  real = sum(len(sentence) + 2 for row in rows_of_pairs(3) for sentence in row.sentences)
  assert contracts.count_tokens(batch) == (real, 4 * 2 * 16) and contracts.batch_size(batch) == 4


# Real files


def test_wnut_in_words():
  """The corpus's own counts, and every entity found again from right tags, in windows of 16 words too."""
  task = registry.find("wnut17").put("words_tag")
  if not (WNUT / task.files["train"]).is_file():
    pytest.skip("../shared/data has no ner/wnut17")
  examples = task.examples(WNUT, "train")
  labels = task.label_list(examples)
  assert len(labels) == 1 + 4 * 6
  for rows in (task.rows, TagWords(16)):
    made = rows(examples, labels)
    found = task.decode(examples, made, [row.labels for row in made], labels)
    assert task.figures(examples, found) == {"precision": 1, "recall": 1, "f1": 1}
    counted = collections.Counter(len(row.window) for row in made)
    assert sum(size * count for size, count in counted.items()) == 62730
  assert sum(len(spans) for spans in found) == 1975


def test_wnut_in_pieces():
  task = registry.find("wnut17").put("tag")
  if not (WNUT / task.files["dev"]).is_file():
    pytest.skip("../shared/data has no ner/wnut17")
  examples = task.examples(WNUT, "dev")
  labels = task.label_list(examples)
  alphabet = sorted({char for example in examples for word in example.words for char in word})
  of = by_words(*alphabet, *(f"##{char}" for char in alphabet))
  rows = task.rows(examples, of, labels)
  assert labels[:3] == ("O", "B-corporation", "I-corporation")
  found = task.decode(examples, rows, [row.labels for row in rows], labels)
  assert task.figures(examples, found) == {"precision": 1, "recall": 1, "f1": 1}
  assert sum(len(spans) for spans in found) == 836 and len(rows) == 1009
