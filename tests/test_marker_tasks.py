"""Tasks on mentions by encoders without entities: what their heads read, where they start, runs, and what these say."""

import itertools
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.tasks.batches import Shape, collate
from data.tasks.cloze import ClozeRows
from data.tasks.entity_typing import TypingExample, TypingRows
from data.tasks.relations import RelationExample, RelationRows
from data.tokenizers import sentencepieces
from models.published import weights
from objectives.tasks import TaskObjective
from tests.encoder_runs import FILES, config_of, encoder_run, fit, write_tasks
from tests.parity_models import assert_same, random_params
from tests.predict_heads import PASSAGE, POSITIONS, folder, load
from tests.predict_lukes import command
from tests.task_models import BODIES, CLASSES, case
from tests.task_rows import LETTERS, record
from tests.test_predict_errors import refused
from tests.trained import SENTENCES
from trainer.exchange import export_run
from trainer.finetuning import recipe
from trainer.inference import relate
from trainer.inference import types as types_of
from trainer.texts import InputError

pytestmark = pytest.mark.usefixtures("own_logging")
LABELS = tuple(f"c{i}" for i in range(CLASSES))
MENTIONS = {"semeval": ("relate", ("<ent>", "<ent2>")), "open_entity": ("type", ("<ent>",)),
            "record": ("cloze", ("[HIGHLIGHT]", "[PLACEHOLDER]", "[ENTITY]"))}  # fmt: skip


def each_with(families, others):
  """Pairs of all, in which each family has one of the others by turns in the default suite."""
  pairs = itertools.product(enumerate(families), enumerate(others))
  slow = lambda i, j: [] if i % len(others) == j else [pytest.mark.slow]
  return [pytest.param(family, other, marks=slow(i, j)) for (i, family), (j, other) in pairs]


# --- what heads read --------------------------------------------------------------------------------------------------


def rows_of(head):
  """Examples of odd sizes."""
  text = "a b c d e f g h i j k l m n o p"
  edges = [(0, 4, 9), (6, 0, 15), (10, 2, 19), (2, 8, 27), (4, 0, 31)]  # characters of two mentions; the text's end
  if head == "relate":
    examples = [RelationExample(text[:end], (a, a + 1), (b, b + 1), LABELS[a % 3]) for a, b, end in edges]
    return RelationRows(entities=False)(examples, LETTERS, LABELS)
  if head == "type":
    examples = [TypingExample(text[:end], (a, a + 3), LABELS[: 1 + a % 3]) for a, _, end in edges]
    return TypingRows(entities=False)(examples, LETTERS, LABELS)
  examples = [record("a @placeholder ?", text[:end], ["b", "d", "a"][: 1 + a % 3], "b") for a, _, end in edges]
  return ClozeRows(entities=False)(examples, LETTERS, ())


@pytest.mark.parametrize(("family", "head"), [("bert", "relate"), ("electra", "type"), ("bert", "cloze")])
def test_a_mention_is_the_state_of_its_first_marker(family, head):
  """Logits of packed, padded rows are those of an affine map, by hand, of the states of each example alone."""
  given = case(family, head, vocab_size=LETTERS.vocab_size, max_positions=48)
  params, rows, objective = random_params(given.model, std=0.3), rows_of(head), TaskObjective(given.model, head)
  placed = collate(rows, Shape(48, 3, 1, LETTERS.special.pad))
  assert len(placed.batch.tokens.ids) < len(rows) and placed.batch.entities is None
  said = placed.parts(np.asarray(jax.jit(objective.logits)(params, placed.batch, None)))
  own = params["heads"][head]
  markers = [LETTERS.id_of(name) for name in ("<ent>", "<ent2>", "[ENTITY]")]
  for row, logits in zip(rows, said, strict=True):
    lone = collate([row], Shape(48, 1, 1, 0)).batch
    hidden = np.asarray(given.model.apply({"params": params}, lone.tokens.ids, lone.tokens).hidden[0], np.float64)
    first, second, candidates = (hidden[np.flatnonzero(row.ids == piece)[::2]] for piece in markers)
    if head == "relate":
      want = np.concatenate([first, second], axis=1) @ own["kernel"]
    elif head == "type":
      want = first @ own["kernel"] + own["bias"]
    else:
      gap = hidden[: len(row)][row.ids == LETTERS.id_of("[PLACEHOLDER]")]
      pairs = np.concatenate([np.broadcast_to(gap, candidates.shape), candidates], axis=1)
      want = (pairs @ own["kernel"] + own["bias"])[:, 0]
    np.testing.assert_allclose(logits, want, atol=2e-4)
  assert np.ptp(np.concatenate([np.ravel(each) for each in said])) > 0.1


def test_packing_changes_no_loss_and_no_gradient():
  given = case("bert", "cloze", vocab_size=LETTERS.vocab_size, max_positions=48)
  objective, params, found = TaskObjective(given.model, "cloze"), random_params(given.model, std=0.3), []

  @jax.jit
  @jax.value_and_grad
  def loss(params, batch):
    sums, _, _ = objective.sums(params, None, batch, types.SimpleNamespace(dropout=lambda: None), train=True)
    return sums["task"] / objective.counts(batch)["task"]

  for packed in (1, 3):
    batch = jax.tree.map(jnp.asarray, collate(rows_of("cloze"), Shape(48, packed, 1, LETTERS.special.pad)).batch)
    found.append(loss(params, batch))
  (lone, one), (packed, two) = found
  assert float(lone) == pytest.approx(float(packed), rel=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), one, two)
  assert float(jnp.abs(one["heads"]["cloze"]["kernel"]).max()) > 1e-3


# --- what a run starts from -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  base = tmp_path_factory.mktemp("markers")
  write_tasks(base / "task")
  return base


def started(place, family):
  return place / family if (place / family).is_dir() else encoder_run(family, place / family)


@pytest.mark.parametrize(("family", "task"), each_with([*BODIES, "albert_sentencepiece"], list(MENTIONS)))
def test_every_encoder_resolves_with_the_markers_behind_its_vocabulary(place, family, task):
  """A new piece begins as a copy of the row that it is said to, of the unknown one where there is none such."""
  name, _, kind = family.partition("_")
  source = started(place, name)
  if kind:
    source = place / family
    if not source.is_dir():
      shutil.copytree(started(place, name), source, ignore=shutil.ignore_patterns("tokenizer"))
      sentencepieces.train(["a cat @ the mat", *SENTENCES] * 4, 60).save(source / "tokenizer")
  config = config_of(task, source, place / "task", f",model={'electra_small' if name == 'electra' else name}")
  head, markers = MENTIONS[task]
  form, before = recipe.task_form(config, place / "unborn"), recipe.pretrained(str(source)).tokenizer
  assert config.objective.kind == head and not form.task.rows.entities
  size = before.vocab_size
  assert form.tokenizer.vocabulary[size:] == markers and config.model.vocab_size == size + len(markers)
  examples = form.task.read(place / "task" / FILES[task])
  assert len(form.task.rows(examples, form.tokenizer, config.objective.labels)) >= len(examples)
  rng = np.random.default_rng(0)
  found = {"embeddings/word/embedding": rng.normal(size=(300, 4)).astype(np.float32)}
  fresh = {"embeddings": {"word": {"embedding": np.zeros((384, 4), np.float32)}}}
  table = recipe.initial_leaves(config, found, fresh)["embeddings/word/embedding"]
  known = {piece.removeprefix("▁"): i for i, piece in enumerate(before.vocabulary)}
  rows = [known.get(form.task.markers[marker], before.special.unk) for marker in markers]
  np.testing.assert_array_equal(table[size : size + len(rows)], found["embeddings/word/embedding"][rows])
  assert not table[size + len(rows) :].any()
  assert (rows[0] != before.special.unk) == ("@" in known)
  assert "@" in known or not kind


def test_rows_with_entities_and_rows_without_are_no_same_data(place):
  config = config_of("semeval", started(place, "luke"), place / "task")
  form = recipe.task_form(config, place / "unborn")
  with config.unlocked():
    config.model.name = "roberta"
  assert recipe.task_form(config, place / "unborn").digest != form.digest


def test_mentions_of_documents_are_tagged_by_encoders_without_entities(place):
  """Of mentions over one another the reader keeps the longest, so a tag a word says them all."""
  config = config_of("redocred_mentions", started(place, "bert"), place / "task", ",model=bert")
  assert (config.objective.kind, config.select_by) == ("tag", "f1")
  assert config.objective.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(place):
  """(config, workdir, summary) of an ALBERT on relations, three epochs."""
  own = config_of("semeval", started(place, "albert"), place / "task", task__epochs=3, seed=1)
  return own, place / "done", fit(own, place / "done")


def test_a_resumed_run_ends_in_the_same_state(done, tmp_path):
  own, workdir, summary = done
  shutil.copytree(workdir, tmp_path / "cut")
  for step in (2, 3):
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(step), ignore_errors=True)
  assert fit(own, tmp_path / "cut")["state_sha256"] == summary["state_sha256"]


def test_a_run_says_of_its_dev_file_what_its_predictions_say(done, capsys, tmp_path):
  """Also as published weights, beside whose encoder the head stands under a name of ours."""
  own, workdir, _ = done
  task = recipe.task_form(own, workdir).task
  examples = task.read(workdir.parent / "task" / FILES["semeval"])
  written = [json.loads(line) for line in (workdir / "predictions" / "dev.jsonl").read_text().splitlines()]
  lines = [json.dumps({"text": e.text, "head": e.head, "tail": e.tail}) + "\n" for e in examples]
  (tmp_path / "a.jsonl").write_text("".join(lines))
  export_run(workdir, tmp_path / "hf")
  assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["AlbertModel"]
  for model in (workdir, tmp_path / "hf"):
    records, summary, _ = command(capsys, "relate", f"--model={model}", f"--input={tmp_path}/a.jsonl", "--top=2")
    assert summary["texts"] == len(written) == len(records) == 8
    for one, line in zip(records, written, strict=True):
      assert one["label"] == line["prediction"]
      assert one["probability"] == pytest.approx(line["probability"], abs=1e-4)


@pytest.mark.parametrize(("family", "head"), each_with(list(BODIES), ["relate", "type", "cloze"]))
def test_what_is_exported_comes_back(family, head, tmp_path):
  given = case(family, head)
  params = random_params(given.model)
  weights.save(tmp_path / "hf", given.family, given.model, params, given.special)
  found = weights.load(tmp_path / "hf")
  assert found.model == given.model and found.notes == ()
  assert_same(params, found.params)


# --- what models say of mentions --------------------------------------------------------------------------------------

TEXT, SPANS = "Taro met Anna in Tokyo.", [(0, 4), (17, 22)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  base = tmp_path_factory.getbasetemp() / "heads"
  return {name: folder(base, name) for name in ("relations", "types")}


def test_relate_and_type_say_what_the_task_objective_says(folders):
  """Wherever the head stands; each mention is typed by itself; the batch and its other texts change nothing."""
  given, (near, far) = load(folders["relations"]), SPANS
  texts = [TEXT, TEXT, PASSAGE[:90]]
  sides = [[near, far], [far, near], [(0, 4), (9, 13)]]
  got = relate(given, texts, sides, top=4, batch_size=2)
  assert got[0].labels != got[1].labels
  for decision, text, (head, tail) in zip(got, texts, sides, strict=True):
    rows = RelationRows(entities=False)([RelationExample(text, head, tail, None)], given.tokenizer, given.names())
    shares = np.asarray(jax.nn.softmax(said_of(given, rows, "relate")))
    assert [label.label for label in decision.labels] == [given.names()[i] for i in np.argsort(-shares)]
    np.testing.assert_allclose([label.probability for label in decision.labels], np.sort(shares)[::-1], atol=1e-5)
    assert decision.remarks == []
  typed = load(folders["types"])
  (first, second), none = types_of(typed, [TEXT, TEXT], [SPANS, []], top=4)
  assert none == [] and first != second
  for decision, span in ((first, near), (second, far)):
    rows = TypingRows(entities=False)([TypingExample(TEXT, span, None)], typed.tokenizer, typed.names())
    want = dict(zip(typed.names(), np.asarray(jax.nn.sigmoid(said_of(typed, rows, "type"))).tolist(), strict=True))
    assert len(decision.labels) == 4
    for label in decision.labels:
      assert label.probability == pytest.approx(want[label.label], abs=1e-5)


def said_of(loaded, rows, head):
  batch = collate(rows, Shape(POSITIONS, 1, 1, loaded.tokenizer.special.pad)).batch
  return TaskObjective(loaded.model, head).logits(loaded.params, batch, None)[0, 0]


def test_a_span_that_cuts_a_word_is_told_with_its_text(folders, capsys):
  flags = (f"--model={folders['types']}", f"--text={TEXT}", "--spans=0:4,9:12", "--top=1")
  records, summary, err = command(capsys, "type", *flags)
  assert [record["warnings"] for record in records] == [[], ["span 9:12 'Ann' ends inside a word"]]
  assert "warning: text 1: span 9:12 'Ann' ends inside a word" in err and summary["mentions"] == 2


@pytest.mark.parametrize(
  ("argv", "says"),
  [
    (["relate", "{relations}", "--spans=0:4"], "--text: got 1 spans, want 2 for task relate"),
    (["relate", "{relations}", "--spans=0:4,2:8"], "overlap, want spans that get markers apart"),
    (["relate", "{relations}", "--spans=0:4,8:9"], "text 1: span 8:9 ' ' has no piece, want a mention; give the span"),
    (["relate", "{relations}", "--spans=0:4,9:13", "--max_length=8"], "tokens, want at most 8; shorten it, or raise"),
    (["relate", "{relations}", "--spans=0:4,9:13", "--top=5"], "top: got 5, want a number from 1 to 4, the relations"),
    (["type", "{types}", "--spans=4:5"], "text 1: span 4:5 ' ' has no piece, want a mention"),
    (["type", "{relations}", "--spans=0:4"], "want a model with a head that tells types, as configs/finetune.py:open"),
  ],
)
def test_what_cannot_be_decided_is_one_line(folders, capsys, argv, says):
  verb, model, *flags = argv
  refused(capsys, [verb, f"--model={model.format(**folders)}", f"--text={TEXT}", *flags], says)


def test_the_second_text_of_several_is_named(folders):
  with pytest.raises(InputError, match="text 2: got .* tokens, want at most 12; shorten it, or raise max_length"):
    types_of(load(folders["types"]), ["a cat", "a cat " * 9], [[(0, 1), (2, 5)], [(2, 5)]], max_length=12)
