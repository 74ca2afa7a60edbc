"""Relations and types of mentions: what the model decides for each text alone, under the names of its classes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from data.entity_vocabulary import EntityVocabulary
from data.tasks.batches import Shape, collate
from data.tasks.entity_typing import TypingExample, TypingRows
from data.tasks.relations import RelationExample, RelationRows
from data.tasks.rows import ENTITIES
from data.tokenizers import bytebpe
from models.paths import map_named
from tests.predict_lukes import (
  RELATIONS,
  SPANS,
  TEXTS,
  THREE,
  TYPES,
  alone,
  close,
  command,
  load,
  luke,
  objects,
  write_lines,
)
from tests.trained import SENTENCES
from trainer.checkpoints import Checkpoints
from trainer.config import load as load_config
from trainer.config import to_json
from trainer.inference import relate, types
from trainer.inference.mentions import Tuned, with_mentions
from trainer.loading import Loaded
from trainer.programs import Program, Setup
from trainer.texts import InputError

SMALL = {
  "model.hidden": 32, "model.heads": 2, "model.ffn": 48, "model.max_positions": 64, "model.query_kinds": 4,
  "model.entity_vocab_size": len(ENTITIES), "model.entity_embedding": 24, "data.length": 64,
  "data.max_predictions": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def related(tmp_path_factory):
  return luke(tmp_path_factory.getbasetemp(), "relate")


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
  return luke(tmp_path_factory.getbasetemp(), "type")


@pytest.fixture
def lines(tmp_path):
  """A function that writes objects as JSON lines."""
  return functools.partial(write_lines, tmp_path / "texts.jsonl")


# --- relate ----------------------------------------------------------------------------------------------------------

PAIRS = ["Taro lives at Tokyo.", "in Tokyo lives Taro.", "the cat sat"]
PAIR_SPANS = [[(0, 4), (14, 19)], [(15, 19), (3, 8)], [(4, 7), (8, 11)]]


def test_the_relation_is_the_softmax_of_the_head_and_the_tail(related):
  """<ent> and [MASK] are the head's, <ent2> and [MASK2] the tail's, wherever they stand."""
  loaded = load(related)
  got = relate(loaded, PAIRS[:2], PAIR_SPANS[:2], top=3)
  for decision, text, spans in zip(got, PAIRS, PAIR_SPANS, strict=False):
    want, given = alone(loaded, text, spans, task="relate")
    assert given.entity_ids.tolist() == [2, 3]
    assert sorted(label.label for label in decision.labels) == sorted(RELATIONS)
    close([label.probability for label in decision.labels], np.sort(want["relations"])[::-1])
    assert decision.labels[0].label == RELATIONS[int(np.argmax(want["relations"]))]
    assert decision.remarks == []
  turned = relate(loaded, PAIRS[:1], [PAIR_SPANS[0][::-1]], top=3)
  assert abs(turned[0].labels[0].probability - got[0].labels[0].probability) > 1e-4


def test_relate_prints_the_relation_and_both_mentions(related, lines, capsys):
  source = lines(objects(PAIRS[:2], PAIR_SPANS[:2], [None] * 2))
  records, summary, _ = command(capsys, "relate", f"--model={related}", f"--input={source}")
  want = relate(load(related), PAIRS[:2], PAIR_SPANS[:2])
  for record, decision, (head, tail) in zip(records, want, PAIR_SPANS[:2], strict=True):
    assert (record["label"], len(record["candidates"])) == (decision.labels[0].label, 1)
    assert record["probability"] == pytest.approx(decision.labels[0].probability, abs=1e-6)
    for name, (start, end) in (("head", head), ("tail", tail)):
      assert record[name] == {"start": start, "end": end, "mention": record["text"][start:end]}
  assert sum(summary["labels"].values()) == summary["texts"] == 2 and summary["warnings"] == 0
  flags = (["--head=0:4", "--tail=14:19"], ["--spans=0:4,14:19"])
  both = [command(capsys, "relate", f"--model={related}", f"--text={PAIRS[0]}", "--top=2", *own)[0][0] for own in flags]
  sides = lines([{"text": PAIRS[0], "head": [0, 4], "tail": [14, 19]}])
  both += command(capsys, "relate", f"--model={related}", f"--input={sides}", "--top=2")[0]
  assert both[0] == both[1] == both[2] and both[0]["label"] == records[0]["label"]
  assert [len(record["candidates"]) for record in both] == [2, 2, 2]


def test_a_span_that_cuts_a_word_is_told(related, capsys):
  """(0, 3) of "Taro" is "Tar": an answer comes, with a warning in it and on stderr."""
  flags = (f"--model={related}", f"--text={PAIRS[0]}", "--head=0:3", "--tail=14:19")
  (record,), summary, err = command(capsys, "relate", *flags)
  assert record["head"]["mention"] == "Tar" and record["label"] in RELATIONS
  assert record["warnings"] == ["span 0:3 'Tar' ends inside a word"] and summary["warnings"] == 1
  assert "warning: text 1: span 0:3 'Tar' ends inside a word" in err.splitlines()


# --- type ------------------------------------------------------------------------------------------------------------


def test_each_mention_is_typed_by_itself(typed):
  loaded = load(typed)
  got = types(loaded, TEXTS[:2], SPANS[:2], top=3)
  assert [len(own) for own in got] == [0, 3]
  chosen = types(loaded, TEXTS[:2], SPANS[:2])
  for text, spans, decisions, above in zip(TEXTS, SPANS, got, chosen, strict=False):
    for span, decision, few in zip(spans, decisions, above, strict=True):
      want, given = alone(loaded, text, [span], task="type")
      assert given.entity_ids.tolist() == [2]
      shares = {label.label: label.probability for label in decision.labels}
      close([shares[name] for name in TYPES], want["types"])
      assert list(shares.values()) == sorted(shares.values(), reverse=True)
      assert {label.label for label in few.labels} == {n for n, p in zip(TYPES, want["types"], strict=True) if p > 0.5}


def test_type_prints_a_line_for_each_mention(typed, lines, capsys):
  spans = "9:16,0:3,20:25"
  records, summary, err = command(capsys, "type", f"--model={typed}", f"--text={THREE}", f"--spans={spans}", "--top=1")
  assert [(r["start"], r["end"]) for r in records] == [(9, 16), (0, 3), (20, 25)]
  assert [r["mention"] for r in records] == ["Beyoncé", "Tar", "Tokyo"]
  assert [r["warnings"] for r in records] == [[], ["span 0:3 'Tar' ends inside a word"], []]
  assert all(len(r["labels"]) == 1 for r in records) and summary["warnings"] == 1
  assert summary["mentions"] == 3 and "texts" not in summary and "3 mentions, " in err  # each is run by itself
  assert "warning: text 1: span 0:3 'Tar' ends inside a word" in err
  (decisions,) = types(load(typed), [THREE], [[(9, 16), (0, 3), (20, 25)]])
  source = lines([{"text": THREE, "spans": [[9, 16], [0, 3], [20, 25]]}])
  records, summary, _ = command(capsys, "type", f"--model={typed}", f"--input={source}")
  assert [[label["label"] for label in r["labels"]] for r in records] == [
    [label.label for label in decision.labels] for decision in decisions
  ]
  assert sum(summary["labels"].values()) == sum(len(decision.labels) for decision in decisions)


# --- models that were tuned here -------------------------------------------------------------------------------------


def fields(loaded):
  return {field.name: getattr(loaded, field.name) for field in dataclasses.fields(Loaded)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(workdir of a run on relations, a batch of its task with one example of PAIRS in each row)."""
  folder, tokenizer = tmp_path_factory.mktemp("tuned"), bytebpe.train(SENTENCES, 300).with_added(("<ent>", "<ent2>"))
  config = load_config("configs/luke.py:tiny", SMALL | {"model.vocab_size": tokenizer.vocab_size})
  with config.unlocked():
    config.objective = ConfigDict({"name": "task", "kind": "relate", "labels": RELATIONS, "loss_scale": "mean"})
  given = [RelationExample(text, *spans, None) for text, spans in zip(PAIRS, PAIR_SPANS, strict=True)]
  shape = Shape(64, packed=1, multiple=1, pad=tokenizer.special.pad, mention=30)
  batch = collate(RelationRows()(given, tokenizer, RELATIONS), shape).batch
  setup = Setup.of(config, jax.devices()[:1])
  shapes, rng = Program(setup, setup.stages[0], batch).shapes, np.random.default_rng(0)
  draw = lambda path, leaf: np.float32(rng.normal(path.endswith("scale"), 0.3, leaf.shape))
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  state = dataclasses.replace(state, params=map_named(draw, shapes.params))
  with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
    checkpoints.save(state, {}, scheduled=True, wait=True)
  (folder / "config.json").write_text(to_json(config))
  tokenizer.save(folder / "tokenizer")
  EntityVocabulary(ENTITIES).save(folder / "tokenizer")
  return folder, setup.objective, batch


def test_a_run_decides_as_it_did_in_training(run):
  folder, objective, batch = run
  loaded = load(folder)
  assert loaded.labels == RELATIONS
  got = relate(loaded, PAIRS, PAIR_SPANS, top=3)
  logits = jax.jit(lambda params, batch: objective.logits(params, batch, None))(loaded.params, batch)
  order = {tuple(row[row != loaded.tokenizer.special.pad].tolist()): i for i, row in enumerate(batch.tokens.ids)}
  for text, spans, decision in zip(PAIRS, PAIR_SPANS, got, strict=True):
    (own,) = with_mentions(loaded, [text], [spans], task="relate")
    want = jax.nn.softmax(logits[order[tuple(own.ids.tolist())], 0])
    shares = {label.label: label.probability for label in decision.labels}
    close([shares[name] for name in RELATIONS], want)
    assert np.ptp(want) > 0.01


@pytest.mark.parametrize(("text", "head", "tail"), [(PAIRS[0], (0, 4), (14, 19)), (PAIRS[1], (15, 19), (3, 8))])
def test_a_run_reads_a_text_as_its_task_did_in_training(related, text, head, tail):
  """There the first word has the form after a space, which published models do not give it."""
  loaded = load(related)
  run = Tuned(**fields(loaded), labels=RELATIONS, spaced=True)
  (want,) = RelationRows()([RelationExample(text, head, tail, None)], loaded.tokenizer, RELATIONS)
  (got,) = with_mentions(run, [text], [[head, tail]], task="relate")
  assert got.ids.tolist() == want.ids.tolist()
  assert [m.tolist() for m in got.mentions] == [m.tolist() for m in want.mentions]
  (want,) = TypingRows()([TypingExample(text, head, None)], loaded.tokenizer, TYPES)
  (got,) = with_mentions(run, [text], [[head]], task="type")
  assert got.ids.tolist() == want.ids.tolist() and got.mentions[0].tolist() == want.mentions[0].tolist()


def test_classes_without_names_are_numbered_and_wrong_names_refused(related):
  bare = fields(load(related))
  found = relate(Tuned(**bare), PAIRS[:1], PAIR_SPANS[:1], top=3)
  assert sorted(label.label for label in found[0].labels) == ["LABEL_0", "LABEL_1", "LABEL_2"]
  with pytest.raises(InputError, match="got 2 labels in its config.json, want 3, its classes"):
    relate(Tuned(**bare, labels=RELATIONS[:2]), PAIRS[:1], PAIR_SPANS[:1])
