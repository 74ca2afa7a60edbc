"""Multiple choice: SWAG's and RACE's files, rows of choices side by side, what a model says of them."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.tasks import choices, registry
from data.tasks.batches import Shape, collate
from data.tasks.choices import ChoiceExample, ChoiceRows
from data.tasks.files import digest
from data.tasks.rows import TaskError
from data.tasks.texts import TextExample, TextRows
from objectives.tasks import TaskObjective
from tests.parity_models import random_params
from tests.task_files import refused, write
from tests.task_models import case
from tests.task_rows import KINDS, LETTERS, ROBERTA, TEXTS, said, tokenizer

SWAG = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
RACE = {
  "article": "A man left.", "questions": ["Who _ ?", "Where was he ?"], "answers": ["B", "A"], "id": "high7.txt",
  "options": [["a", "left", "c", "d"], ["in", "out", "up", "on"]],
}  # fmt: skip


# Files


def test_swag_by_hand(tmp_path):
  """A quoted comma and line end are part of a text; the test file lacks the label and the numbers go on."""
  lines = '0,v,1,x y,"A man, tall\nand old, left.",He,gold,runs.,sits.,is.,was.,2\n1,v,2,x,S.,,gold,a,b,c,d,0\n'
  first, second = choices.read_swag(write(tmp_path, SWAG + lines, "train.csv"))
  assert (first.text, first.label, first.name) == ("A man, tall\nand old, left.", 2, "0")
  assert first.choices == ("He runs.", "He sits.", "He is.", "He was.")
  assert (second.choices, second.label, second.name) == (("a", "b", "c", "d"), 0, "1")
  assert second.where.endswith("train.csv, line 4")
  blind = SWAG.replace(",label", "") + "0,v,1,x,S.,He,gold,a,b,c,d\n"
  assert choices.read_swag(write(tmp_path, blind, "test.csv"))[0].label is None


@pytest.mark.parametrize(
  "content, parts",
  [
    ("a,b\n1,2\n", ("line 1: got the columns a, b, want sent1, sent2",)),
    (SWAG + "0,v,1,x,S.,He,gold,a,b,c,d,4\n", ("line 2: got label '4', want one of 0 to 3",)),
    (SWAG + "0,v,1,x,S.,He,gold,a,b\n", ("line 2: got 9 columns, want ending2 too",)),
    (SWAG + "0,v,1,x,S.,He,gold,a,b,c,d\n", ("line 2: got 11 columns, want label too",)),
    (SWAG, ("got no example",)),
    (SWAG + '0,v,"1"x,x,S.,He,gold,a,b,c,d,1\n', ("line 2: got ", "want columns between commas")),
  ],
)
def test_a_damaged_swag_file_is_refused(content, parts, tmp_path):
  refused(choices.read_swag, write(tmp_path, content, "train.csv"), *parts)


def race(folder, level, number, **changes):
  (folder / level).mkdir(parents=True, exist_ok=True)
  return write(folder / level, RACE | {"id": f"{level}{number}.txt"} | changes, f"{number}.txt")


def test_race_by_hand(tmp_path):
  """An option goes into the blank or behind the question; a folder is read by level and number; so is a single file."""
  race(tmp_path / "dev", "middle", 10, answers=["D", "C"])
  race(tmp_path / "dev", "middle", 9)
  race(tmp_path / "dev", "high", 7)
  task = registry.find("race")
  found = task.examples(tmp_path, "dev")
  assert [example.name for example in found] == [
    f"{name}-{i}" for name in ("high7", "middle9", "middle10") for i in (0, 1)
  ]
  first, second = found[:2]
  assert (first.text, first.label, first.part) == ("A man left.", 1, "high")
  assert first.choices == ("Who a ?", "Who left ?", "Who c ?", "Who d ?")
  assert second.choices == tuple(f"Where was he ? {option}" for option in ("in", "out", "up", "on"))
  assert [example.label for example in found] == [1, 0, 1, 0, 3, 2]
  assert choices.read_race(tmp_path / "dev/high/7.txt") == found[:2]
  assert task.group(first) == task.group(second)  # questions of one article are held out together
  assert first.where.endswith("7.txt, question 0")


@pytest.mark.parametrize(
  "changes, parts",
  [
    ({"answers": ["B"]}, ("got 2 questions, 2 lists of options, 1 answers",)),
    ({"answers": ["B", "E"]}, ("question 1: got answer 'E' of 4 options",)),
    ({"answers": ["B", "AB"]}, ("question 1: got answer 'AB'",)),
    ({"options": [["a", "b"], "ab"]}, ("question 1: 'options'",)),
    ({"article": 3}, ("'article': got 3, want a string",)),
  ],
)
def test_a_damaged_race_file_is_refused(changes, parts, tmp_path):
  refused(choices.read_race, race(tmp_path, "high", 1, **changes), *parts)


def test_a_race_folder_without_articles_is_refused(tmp_path):
  with pytest.raises(TaskError, match="got no file"):
    choices.read_race(tmp_path)


def test_the_digest_of_a_folder_follows_names_and_content(tmp_path):
  folder = tmp_path / "dev"
  race(folder, "high", 1)
  seen = {digest(folder)}
  race(folder, "high", 2)
  seen.add(digest(folder))
  (folder / "high/2.txt").rename(folder / "high/3.txt")
  seen.add(digest(folder))
  (folder / "high/3.txt").write_text(json.dumps(RACE | {"article": "B"}))
  seen.add(digest(folder))
  assert len(seen) == 4 and digest(folder) in seen


# Rows


def test_choices_stand_side_by_side():
  example = ChoiceExample("q", "a b", ("c ?", "d", "e f ?"), 1)
  (row,) = ChoiceRows()([example], LETTERS, ())
  assert said(row, LETTERS) == "[CLS] a b [SEP] c ? [SEP] [CLS] a b [SEP] d [SEP] [CLS] a b [SEP] e f ? [SEP]"
  assert row.cls.tolist() == row.parts.tolist() == [0, 7, 13]
  assert row.types.tolist() == [0] * 4 + [1] * 3 + [0] * 4 + [1] * 2 + [0] * 4 + [1] * 4
  assert row.labels.tolist() == [0, 1, 0] and row.weights.tolist() == [1, 1, 1] and row.longest == 8
  (other,) = ChoiceRows()([ChoiceExample("q", "a", ("b", "c"), None)], ROBERTA, ())
  assert said(other, ROBERTA) == "<s> a </s> </s> b </s> <s> a </s> </s> c </s>"
  assert other.labels.tolist() == [0, 0] and not other.types.any()


def test_the_end_of_a_choice_stays_and_the_text_is_cut():
  example = ChoiceExample("q", "a b c d e f g h", ("i j k l", "m"), 0)
  (row,) = ChoiceRows(max_length=8, max_choice=2)([example], LETTERS, ())
  assert said(row, LETTERS) == "[CLS] a b c [SEP] k l [SEP] [CLS] a b c d [SEP] m [SEP]"


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_is_the_row_of_its_pair(kind):
  """As the same two texts have it as a pair of their own, of any kind of pieces."""
  of = tokenizer(kind)
  (row,) = ChoiceRows()([ChoiceExample("q", TEXTS[0], (TEXTS[1], "the mat"), 1)], of, ())
  alone = TextRows()([TextExample((TEXTS[0], choice), "x") for choice in (TEXTS[1], "the mat")], of, ("x",))
  assert row.ids.tolist() == [i for each in alone for i in each.ids]
  assert row.types.tolist() == [i for each in alone for i in each.types]


# Answers


def test_the_highest_choice_is_the_answer_and_levels_have_figures_of_their_own():
  task = registry.find("race")
  labels = ((1, "high"), (0, "high"), (1, "middle"))
  examples = [ChoiceExample(str(i), "a", ("b", "c"), label, part) for i, (label, part) in enumerate(labels)]
  rows = task.rows(examples, LETTERS, ())
  logits = [np.array([0.5, 1.0]), np.array([-2.0, -1.0]), np.array([3.0, 9.0])]
  assert task.decode(examples, rows[::-1], logits[::-1], ()) == [1, 1, 1]
  want = {"accuracy": 2 / 3, "high/accuracy": 1 / 2, "middle/accuracy": 1}
  assert task.evaluate(examples, rows, logits, ()) == pytest.approx(want)


def test_a_question_in_one_row_has_the_loss_of_its_choices_apart():
  """The softmax over logits of choices that were each encoded in a row of its own; 2 and 3 choices in one batch."""
  given = case("bert", "choose", head_dropout=0.0)
  objective, params = TaskObjective(given.model, "choose"), random_params(given.model)
  examples = [ChoiceExample("q", "a b c", ("d", "e f", "g ?"), 1), ChoiceExample("r", "h", ("i j k l", "m"), 0)]
  questions = ChoiceRows()(examples, LETTERS, ())
  batch = jax.tree.map(jnp.asarray, collate(questions, Shape(32, 4, 1, 0)).batch)
  sums, statistics, _ = objective.sums(params, None, batch, types.SimpleNamespace(), train=False)
  singles = [
    ChoiceRows()([ChoiceExample("q", e.text, (choice,), 0)], LETTERS, ())[0] for e in examples for choice in e.choices
  ]
  alone = collate(singles, Shape(32, 4, 1, 0))
  lone = jax.tree.map(jnp.asarray, alone.batch)
  logits = alone.parts(np.asarray(objective.logits(params, lone, None)))
  logits = np.array([float(np.ravel(each)[0]) for each in logits])
  placed = collate(questions, Shape(32, 4, 1, 0)).parts(np.asarray(statistics["outputs"]))
  np.testing.assert_allclose(np.concatenate(placed), logits, atol=2e-5)
  cost = lambda own, right: np.log(np.exp(own).sum()) - own[right]
  assert objective.counts(batch)["task"] == 2
  assert float(sums["task"]) == pytest.approx(cost(logits[:3], 1) + cost(logits[3:], 0), rel=1e-4)
