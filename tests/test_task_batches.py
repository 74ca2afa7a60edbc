"""Task rows become batches: nothing is lost or mixed up, and packing is no part of what is computed."""

import numpy as np
import pytest

from data.tasks.batches import Shape, TaskPipeline, collate, in_order, rounded
from data.tasks.rows import TaskError, TaskRow

SHAPE = Shape(length=64, packed=4, multiple=2, pad=9, mention=3)


def relation(number, size):
  """An example with two mentions and one label that stands on both; every id tells which example it is of."""
  ids = np.full(size, 100 + number, np.int32)
  mentions = (np.array([1, 2], np.int32), np.array([3, 4, 5], np.int32))
  slots = np.array([[0, 1]], np.int32)
  one = np.ones(1, np.float32)
  return TaskRow(
    ids, np.zeros(size, np.int32), np.array([number], np.int32), one, slots=slots,
    entities=np.array([number, number + 1], np.int32), mentions=mentions, example=number,
  )  # fmt: skip


def answer(number, size):
  labels = np.array([2, 4], np.int32)
  return TaskRow(np.full(size, number, np.int32), np.zeros(size, np.int32), labels, np.ones(2, np.float32))


SIZES = np.random.default_rng(0).integers(6, 40, 23)
RELATIONS = [relation(i, int(size)) for i, size in enumerate(SIZES)]


def test_every_example_stands_in_one_row_whole_with_its_labels_and_mentions():
  placed = collate(RELATIONS, SHAPE)
  batch = placed.batch
  assert sorted(placed.rows[placed.rows >= 0]) == list(range(len(RELATIONS)))
  for row, place in zip(*np.nonzero(placed.rows >= 0)):
    example = RELATIONS[placed.rows[row, place]]
    column, label = placed.columns[row, place], placed.labels[row, place]
    span = slice(column, column + len(example))
    assert (batch.tokens.ids[row, span] == example.ids).all()
    assert (batch.tokens.segments[row, span] == place + 1).all()
    assert batch.tokens.positions[row, span].tolist() == list(range(len(example)))
    assert batch.labels[row, label] == example.labels[0] and batch.weights[row, label] == 1
    for slot, own in zip(batch.slots[row, label], (0, 1)):
      assert batch.entities.ids[row, slot] == example.entities[own]
      assert batch.entities.segments[row, slot] == place + 1
      columns = batch.entities.positions[row, slot]
      assert columns[columns >= 0].tolist() == (example.mentions[own] + column).tolist()


def test_what_is_no_example_is_padding():
  batch = collate(RELATIONS, SHAPE).batch
  padding = batch.tokens.segments == 0
  assert (batch.tokens.ids[padding] == SHAPE.pad).all() and padding.sum() == padding.size - SIZES.sum()
  assert batch.weights.sum() == len(RELATIONS) and (batch.entities.segments > 0).sum() == 2 * len(RELATIONS)
  assert (batch.entities.positions[batch.entities.segments == 0] == -1).all()


def test_labels_that_are_columns_move_with_their_example():
  placed = collate([answer(i, 10) for i in range(5)], Shape(32, 3, 1, 0, columns=True))
  for row, place in zip(*np.nonzero(placed.rows >= 0)):
    first = placed.labels[row, place]
    assert placed.batch.labels[row, first : first + 2].tolist() == [placed.columns[row, place] + c for c in (2, 4)]


def test_predictions_come_back_to_their_examples():
  placed = collate(RELATIONS, SHAPE)
  by_label = placed.parts(placed.batch.labels, by_column=False)
  assert [own.tolist() for own in by_label] == [example.labels.tolist() for example in RELATIONS]
  by_column = placed.parts(placed.batch.tokens.ids, by_column=True)
  assert [own.tolist() for own in by_column] == [example.ids.tolist() for example in RELATIONS]


def test_rows_are_of_few_shapes_and_a_multiple_of_what_is_asked():
  shapes = {collate(RELATIONS[: n + 8], SHAPE).batch.tokens.ids.shape for n in range(15)}
  assert len(shapes) <= 6 and all(rows % 2 == 0 and width in (32, 64) for rows, width in shapes)
  assert [rounded(n) for n in (1, 7, 8, 9, 11, 15, 17, 33)] == [1, 7, 8, 10, 12, 16, 20, 40]


def test_many_mentions_never_overflow_a_row():
  """32 mentions fill a row whatever its tokens leave free."""
  count = 20
  rows = [
    TaskRow(
      np.zeros(12, np.int32), np.zeros(12, np.int32), np.zeros(count, np.int32), np.ones(count, np.float32),
      slots=np.arange(count, dtype=np.int32)[:, None], entities=np.ones(count, np.int32),
      mentions=tuple(np.array([1], np.int32) for _ in range(count)),
    )
    for _ in range(6)
  ]  # fmt: skip
  batch = collate(rows, SHAPE).batch
  assert batch.weights.sum() == 6 * count and (batch.entities.segments > 0).sum() == 6 * count


def tagged(size, words):
  """A label on each of `words` of the tokens between the first and the last."""
  columns = 1 + np.sort(np.random.default_rng(size).permutation(size - 2)[:words]).astype(np.int32)
  return TaskRow(
    np.full(size, size, np.int32), np.zeros(size, np.int32), columns, np.ones(words, np.float32), cls=columns
  )


def test_labels_on_tokens_take_no_room_of_their_own():
  """However many words its sentences have, a row is full when its tokens are, and batches of a width are alike."""
  for examples in ([tagged(31, 29), tagged(30, 5), tagged(32, 30), tagged(33, 31)], [tagged(33, 6), tagged(29, 7)]):
    placed = collate(examples, SHAPE)
    batch = placed.batch
    assert batch.labels.shape[1] == batch.tokens.ids.shape[1] == 64
    assert len(batch.labels) == 2 and (placed.rows >= 0).sum() == len(examples)
    counted = batch.weights > 0
    assert (batch.labels[counted] == np.take_along_axis(batch.tokens.positions, batch.cls, 1)[counted]).all()
    for own, example in zip(placed.parts(batch.labels), examples, strict=True):
      assert (own == example.labels).all()


def parted(number, *sizes):
  """A question of several texts, each with a label on its first column."""
  begins = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
  ids = np.concatenate([np.full(size, 100 * number + i, np.int32) for i, size in enumerate(sizes)])
  labels = (np.arange(len(sizes)) == 1).astype(np.int32)
  ones = np.ones(len(sizes), np.float32)
  return TaskRow(ids, np.zeros(len(ids), np.int32), labels, ones, cls=begins, parts=begins, example=number)


def test_texts_of_one_row_do_not_see_each_other_and_have_it_for_themselves():
  """Segments count the texts, positions restart, and no second example joins them; fewer texts leave weight 0."""
  placed = collate([parted(1, 3, 2, 4), parted(2, 5, 2)], SHAPE)
  batch, first = placed.batch, int(np.argmax(placed.rows[:, 0] == 0))
  assert placed.rows.shape == (2, 1) and sorted(placed.rows[:, 0]) == [0, 1]
  assert batch.tokens.segments[first, :10].tolist() == [1, 1, 1, 2, 2, 3, 3, 3, 3, 0]
  assert batch.tokens.positions[first, :10].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0]
  assert batch.cls[first].tolist() == [0, 3, 5] and batch.labels[first].tolist() == [0, 1, 0]
  assert batch.weights[1 - first].tolist() == [1, 1, 0] and batch.cls[1 - first].tolist() == [0, 5, 0]
  assert [own.tolist() for own in placed.parts(batch.cls)] == [[0, 3, 5], [0, 5]]


def test_only_a_single_text_is_bound_by_the_length():
  assert collate([parted(0, 64, 64, 60, 64)], SHAPE).batch.tokens.ids.shape == (2, 256)
  assert collate([parted(0, 64, 64, 64, 64)] * 2, Shape(64, 4, 1, 0)).batch.tokens.ids.shape == (2, 256)
  wide = collate([parted(0, *[200] * 4)], Shape(200, 4, 1, 0)).batch
  assert wide.tokens.ids.shape == (1, 896)  # the first size above 512 that holds 800
  with pytest.raises(TaskError, match="example 0: got 65 tokens, want at most 64: raise data.length"):
    collate([parted(0, 10, 65)], SHAPE)


def test_an_example_that_no_row_can_hold_is_refused():
  with pytest.raises(TaskError, match="example 1: got 65 tokens, want at most 64: raise data.length"):
    collate([relation(0, 10), relation(1, 65)], SHAPE)


def test_an_epoch_has_every_example_once_and_follows_from_seed_and_cursor():
  pipeline, again = (TaskPipeline(RELATIONS, 5, SHAPE, seed=3) for _ in range(2))
  assert pipeline.epoch_size == 4
  seen = np.concatenate([batch.labels[batch.weights > 0] for batch in map(pipeline.batch, range(4))])
  assert len(set(seen)) == 20
  np.testing.assert_array_equal(pipeline.batch(9).tokens.ids, again.batch(9).tokens.ids)
  second = np.concatenate([batch.labels[batch.weights > 0] for batch in map(pipeline.batch, range(4, 8))])
  assert seen.tolist() != second.tolist()


def test_a_batch_larger_than_the_data_is_all_of_it():
  assert TaskPipeline(RELATIONS, 100, SHAPE, seed=0).batch(7).weights.sum() == len(RELATIONS)


def test_held_out_examples_come_once_each_with_those_of_their_length():
  parts = in_order(RELATIONS, 6, SHAPE)
  assert sorted(np.concatenate([numbers for numbers, _ in parts])) == list(range(len(RELATIONS)))
  longest = [max(len(RELATIONS[i]) for i in numbers) for numbers, _ in parts]
  assert longest == sorted(longest, reverse=True)
