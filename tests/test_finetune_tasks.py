"""What fine-tuning makes of a task's files, keys and source: splits, lengths, queries, SQuAD's entities, dry runs."""

import dataclasses
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest

from configs import finetune
from data.batch import validate as validate_batch
from data.synthetic import synthetic_batch
from data.tasks import registry
from models.paths import named_leaves
from models.task_heads import TASK_HEADS
from tests.finetune_runs import config_of, semeval, settings
from tests.trained import TITLES, WORDS, luke_run
from trainer.config import flatten, load, stages, to_json
from trainer.dry_run import dry_run
from trainer.finetuning import recipe
from trainer.finetuning.data import task_data
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.recipe import pretrained
from trainer.loading import load_model
from trainer.programs import Program, Setup
from trainer.rules import TASK_RULES, ConfigError
from trainer.start import initial_params

pytestmark = pytest.mark.usefixtures("own_logging")
PASSAGE = "the cat sat on the mat, and a dog ran after the cat all day"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = luke_run(tmp_path_factory.mktemp("tasks") / "luke")
  task = folder.parent / "task"
  task.mkdir()
  semeval(task / "TRAIN_FILE.TXT", 40, 0)
  questions = [
    {"id": f"q{n}", "question": "what sat on the mat?", "answers": [{"text": "cat", "answer_start": 4}]}
    for n in range(6)
  ]
  squad = [{"title": f"Cat_{n}", "paragraphs": [{"context": PASSAGE, "qas": questions[n::2]}]} for n in range(2)]
  (task / "squad.json").write_text(json.dumps({"data": squad}))
  links = [["The Cat", "Title 5", 40, 100], ["mat", "Title 7", 1, 1000], ["dog", "no such page", 9, 10]]
  (task / "links.jsonl").write_text(json.dumps({"title": "Cat_0", "links": links}) + "\n")
  return folder


def squad(run, **changes):
  own = {"task__train": "squad.json", "task__dev": "squad.json", "task__dev_share": 0.0, "batch_size": 4}
  return load("configs/finetune.py:squad", settings(run, **(own | changes)))


# --- what it starts from ----------------------------------------------------------------------------------------------


def test_a_table_of_words_may_be_larger_than_the_tokenizer_and_not_smaller(tmp_path, run):
  """As published tables are, whose size is a round number; the run has the tokenizer's."""
  config = load(str(run / "config.json"))
  for size, name in ((WORDS + 9, "larger"), (WORDS - 9, "smaller")):
    shutil.copytree(run, tmp_path / name)
    config.model.vocab_size = size
    (tmp_path / name / "config.json").write_text(to_json(config))
  assert config_of(run, init_from=str(tmp_path / "larger")).model.vocab_size == WORDS + 2
  with pytest.raises(ConfigError, match=f"got a tokenizer of {WORDS} pieces, want at most {WORDS - 9}"):
    config_of(run, init_from=str(tmp_path / "smaller"))


def test_a_luke_without_its_entity_vocabulary_is_refused(tmp_path, run):
  shutil.copytree(run, tmp_path / "luke", ignore=shutil.ignore_patterns("entity_vocab*"))
  with pytest.raises(ConfigError, match="has no entity vocabulary, want entity_vocab.json there"):
    config_of(run, init_from=str(tmp_path / "luke"))


def test_a_source_is_read_once_while_it_stays_the_same(run):
  first = pretrained(str(run))
  assert pretrained(str(run)) is first
  os.utime(run / "config.json", ns=(1, 1))
  assert pretrained(str(run)) is not first


def test_queries_follow_the_family_of_the_source(run, monkeypatch):
  """mLUKE is fine-tuned without entity-aware attention; what is named wins, in the variant and as a key."""
  assert config_of(run).task.queries == 4 and pretrained(str(run)).queries == 4
  start = pretrained(str(run))
  for queries in (1, 4):
    found = dataclasses.replace(start, queries=queries)
    monkeypatch.setattr(recipe, "pretrained", lambda source, found=found: found)
    assert config_of(run).model.query_kinds == config_of(run).task.queries == queries
    assert config_of(run, task__queries=5 - queries).model.query_kinds == 5 - queries


def test_every_rule_for_tasks_has_a_key(run):
  keys = {*flatten(config_of(run)), *flatten(finetune.get_config("embed"))}
  assert [pattern for pattern, _ in TASK_RULES if not any(re.fullmatch(pattern, key) for key in keys)] == []


# --- splits -----------------------------------------------------------------------------------------------------------


def docred(path, documents, kinds=("PER", "LOC")):
  """Documents of two sentences with two entities in each."""
  records = []
  for n in range(documents):
    sents = [["a", "cat", "saw", "the", "dog"], ["the", "dog", "ran", "to", "paris"]]
    mentions = [[{"sent_id": s, "pos": [p, p + 1], "type": kinds[n % len(kinds)]}] for s in (0, 1) for p in (1, 4)]
    records.append(
      {"title": f"d{n}", "sents": sents, "vertexSet": mentions, "labels": [{"h": 0, "t": 1, "r": f"P{n}"}]}
    )
  path.write_text(json.dumps(records))


@pytest.mark.parametrize("name", ["redocred_relations", "redocred_types", "redocred_mentions"])
def test_whole_documents_are_held_out_and_no_label_is_lost(run, tmp_path, name):
  """A relation that only a held-out document has is a label all the same, and the draw is not that of the path."""
  found = []
  for folder in (tmp_path / "a", tmp_path / "another"):
    folder.mkdir()
    docred(folder / "all.json", 10)
    own = settings(run, task__dir=str(folder), task__train="all.json", task__dev_share=0.3, batch_size=2)
    config = load(f"configs/finetune.py:{name}", own)
    data = task_data(config, recipe.task_form(config, run.parent / "unborn"))
    held = {example.where for example in data.dev.examples}
    assert len(held) == 3
    examples = registry.find(name).read(folder / "all.json")
    assert len(data.dev.examples) == sum(example.where in held for example in examples)
    assert data.labels == registry.find(name).label_list(examples)
    found.append(sorted(where.partition(", ")[2] for where in held))
  assert found[0] == found[1]


def test_labels_that_only_a_scored_file_has_are_not_found_and_end_no_run(run, tmp_path, caplog):
  """Of 40 test examples those of the relation that training lacks are wrong, whatever the model says."""
  semeval(tmp_path / "TRAIN_FILE.TXT", 40, 0, names=("Cause-Effect", "Other"))
  semeval(tmp_path / "TEST_FILE_FULL.TXT", 40, 1)
  feed = TaskFeed(config_of(run, task__dir=str(tmp_path)), run.parent / "unborn")
  assert "labels that no training example has: Component-Whole(e1,e2), Component-Whole(e2,e1)" in caplog.text
  batches = list(feed.test.held_out(None))
  unknown = sum(int(batch.labels.size - batch.weights.sum()) for batch in batches)
  figures = feed.test.score([np.eye(3)[batch.labels] for batch in batches])
  assert unknown > 4 and figures["f1"] == pytest.approx(0.5, abs=0.01)  # of two relations one is found, wholly


def test_rows_are_counted_at_the_length_that_they_are_cut_to(run):
  """A model of few positions cuts a passage in several windows, and an epoch has as many examples as windows."""
  config = squad(run, data__length=24)
  data = task_data(config, recipe.task_form(config, run.parent / "unborn"))
  assert len(data.train) > 6 and config.steps == len(data.train) // 4 * config.task.epochs
  assert max(len(row) for row in data.train) <= 24
  assert squad(run).data.length == 48


def test_answers_beside_their_offsets_are_found_on_request(run, tmp_path):
  broken = json.loads((run.parent / "task" / "squad.json").read_text())
  broken["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 6
  (tmp_path / "squad.json").write_text(json.dumps(broken))
  with pytest.raises(ConfigError, match="correct the offset, or set task.offsets=nearest"):
    squad(run, task__dir=str(tmp_path))
  assert squad(run, task__dir=str(tmp_path), task__offsets="nearest").task.offsets == "nearest"


# --- SQuAD with entities ----------------------------------------------------------------------------------------------


def test_a_question_has_the_entities_of_its_articles_links_over_the_whole_table(run):
  """Links of less than a hundredth, and those to pages without an entity, are no mentions; other articles have none."""
  config = squad(run, task__links="links.jsonl")
  assert config.model.entity_vocab_size == TITLES
  assert stages(config)[0].freeze == ("^entity_embeddings/entity/",)
  form = recipe.task_form(config, run.parent / "unborn")
  tokenizer, entities, data = form.tokenizer, form.entities, task_data(config, form)
  for row, example in zip(data.train, data.dev.examples):
    texts = [tokenizer.decode(row.ids[columns]).strip() for columns in row.mentions]
    assert entities.titles(row.entities) == ["Title 5"] * len(texts)
    assert texts == (["the cat"] * 2 if example.title == "Cat 0" else [])


def test_the_table_of_entities_is_taken_whole_and_stays_as_it_is(run):
  """It has no moments, as what is frozen has none; the map behind it and the positions learn."""
  config = squad(run, task__links="links.jsonl")
  feed, setup = TaskFeed(config, run.parent / "unborn"), Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], feed.example(setup.stages[0]))
  begun = named_leaves(jax.device_get(initial_params(config, program.fresh_state().params)))
  table = "entity_embeddings/entity/embedding"
  np.testing.assert_array_equal(begun[table], named_leaves(jax.device_get(load_model(run).params))[table])
  learns = " ".join(named_leaves(program.shapes.opt))
  assert table not in learns and all(
    name in learns for name in ("entity_embeddings/dense", "entity_embeddings/position")
  )
  state, report = jax.eval_shape(program.step, program.abstract_state, program.example)
  assert named_leaves(state.params)[table].shape == begun[table].shape and report.sums.keys() == {"task"}
  feed.save_tokenizer(run.parent / "linked")
  assert recipe.task_form(config, run.parent / "linked").entities.digest == pretrained(str(run)).entities.digest


def test_a_question_without_links_is_read_without_entities(run):
  config = squad(run)
  feed, setup = TaskFeed(config, run.parent / "unborn"), Setup.of(config, jax.devices()[:1])
  program = Program(setup, setup.stages[0], feed.example(setup.stages[0]))
  assert program.example.entities is None and not config.stages
  assert "heads/answer/kernel" in named_leaves(program.shapes.params)


@pytest.mark.parametrize(
  "text, line",
  [
    ("{}", "line 1: got no 'title'"),
    ('{"title": "Cat_0", "links": [["a", "b", 1]]}', "got link ['a', 'b', 1], want [TEXT, TITLE, LINKS, DOCUMENTS]"),
    ('{"title": "Cat_0", "links": [["a", "b", 1, 0]]}', "got link ['a', 'b', 1, 0], want [TEXT, TITLE"),
    ('{"title": "Mat", "links": []}', "got no line for any of 2 articles (Cat 0, Cat 1), want their links"),
    ("{", "line 1: got Expecting property name"),
  ],
)
def test_a_broken_file_of_links_is_one_line(run, text, line):
  (run.parent / "task" / "broken.jsonl").write_text(text + "\n")
  with pytest.raises(ConfigError) as caught:
    squad(run, task__links="broken.jsonl")
  assert line in str(caught.value) and "\n" not in str(caught.value)


# --- batches without files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["type", "relate", "spans", "cloze", "answer"])
@pytest.mark.parametrize("full", [False, True])
def test_every_kind_of_task_has_synthetic_batches(run, kind, full):
  """Of one shape whatever their number, with rows for all devices; the objective takes them."""
  config = config_of(run, mesh__data=8, data__pack=4)
  with config.unlocked():
    config.objective.kind = kind
  setup = Setup.of(config)
  first, other = (synthetic_batch(config, setup.stages[0], number, full) for number in (0, 1))
  for batch in (first, other):
    validate_batch(batch)
    assert len(batch.tokens.ids) % 8 == 0 and batch.weights.sum() % 12 == 0 and batch.weights.sum() > 0
  shape = lambda batch: jax.tree.map(lambda x: (x.shape, x.dtype), batch)
  assert shape(first) == shape(other) and not np.array_equal(first.tokens.ids, other.tokens.ids)
  program = Program(setup, setup.stages[0], first)
  assert f"heads/{kind}/kernel" in named_leaves(program.shapes.params)
  columns = kind == "answer"
  assert first.labels.max() < (48 if columns else len(config.objective.labels))
  assert (first.entities is None) == columns and TASK_HEADS[kind]


def test_a_synthetic_batch_has_the_fields_of_a_real_one(run):
  config = config_of(run)
  real = TaskFeed(config, run.parent / "unborn").example(None)
  made = synthetic_batch(config, stages(config)[0], 0)
  kinds = lambda batch: {path: (leaf.ndim, leaf.dtype) for path, leaf in named_leaves(batch).items()}
  assert kinds(made) == kinds(real)


def test_a_dry_run_needs_no_training(run, monkeypatch):
  monkeypatch.setattr("trainer.dry_run.memory", lambda program: {"rows": len(program.example.tokens.ids)})
  report = dry_run(config_of(run, mesh__data=8))
  assert report["parameters"] > 10_000 and report["stages"][0]["rows"] == 16  # 12 examples on 8 devices
