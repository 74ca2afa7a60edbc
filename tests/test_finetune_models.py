"""Any encoder on any task by one recipe: that each kind of task is learned, and what each encoder starts from."""

import json
import shutil

import jax
import numpy as np
import pytest

import models
from configs import finetune
from data.batch import validate as validate_batch
from data.synthetic import synthetic_batch
from models import flops
from models.paths import named_leaves
from models.task_heads import TASK_HEADS
from objectives.tasks import KINDS
from tests.encoder_runs import FILES, config_of, encoder_run, fit, write_tasks
from trainer.config import load, validate
from trainer.evaluation import evaluate
from trainer.exchange import export_run, import_weights
from trainer.finetuning.feed import TaskFeed
from trainer.finetuning.recipe import initial_leaves, task_form
from trainer.inference import classify
from trainer.inference import load_model as load_tuned
from trainer.loading import load_model, newest_params
from trainer.programs import Program, Setup
from trainer.rules import ConfigError
from trainer.start import _leaves_of, initial_params
from trainer.texts import InputError

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with the tasks' files in task/, where runs are made as they are asked for."""
  folder = tmp_path_factory.mktemp("models")
  write_tasks(folder / "task")
  return folder


def started(place, family):
  folder = place / family
  return folder if folder.is_dir() else encoder_run(family, folder)


def config(place, family, task, variant="", **changes):
  return config_of(task, started(place, family), place / "task", variant, **changes)


def some(marked, *others):
  """Parameters of which all but the first few stand behind the slow marker."""
  return [*marked, *(pytest.param(*each, marks=pytest.mark.slow) for each in others)]


def program_of(own, folder):
  setup = Setup.of(own, jax.devices()[:1])
  feed = TaskFeed(own, folder / "unborn")
  return feed, Program(setup, setup.stages[0], feed.example(setup.stages[0]))


# --- learning by heart ------------------------------------------------------------------------------------------------

# Official figures at their best. Ranks of cosines that are highest for all pairs that belong together, of as many: gold
# has two values, each 8 times, so no order of 16 correlates more.
BEST = {
  "sst2": {"accuracy": 1.0}, "rte": {"accuracy": 1.0}, "swag": {"accuracy": 1.0}, "wnut17": {"f1": 1.0},
  "squad": {"exact_match": 1.0, "f1": 1.0}, "stsb": {"pearson": 1.0, "spearman": 1.0},
  "semeval": {"f1": 1.0}, "open_entity": {"f1": 1.0}, "redocred_mentions": {"f1": 1.0},
  "record": {"exact_match": 1.0, "f1": 1.0},
  "embed": {"spearman": 64 / np.sqrt(16 * (16**2 - 1) * 16 / 12)},
}  # fmt: skip


def learned(place, own, updates=60):
  """Official figures of the dev file after updates on all training examples."""
  feed, program = program_of(own, place)
  state = program.fresh_state()
  state = jax.tree.map(jax.numpy.asarray, state)
  state = state.__class__(**{**vars(state), "params": initial_params(own, state.params)})
  for _, (_, batch) in zip(range(updates), feed.batches(program.stage, 0)):
    state, _ = program.step(state, program.place(batch))
  return evaluate(program, feed, state.params)


@pytest.mark.parametrize(
  "family, task, variant",
  some(
    [("bert", "embed", "")],
    ("albert", "semeval", ""), ("bert", "record", ""), ("electra", "open_entity", ""),
    ("roberta", "semeval", ""), ("spanbert", "record", ""), ("roberta", "open_entity", ""), ("luke", "record", ""),
    ("bert", "redocred_mentions", ""),
    ("bert", "squad", ""), ("electra", "wnut17", ""),
    ("bert", "sst2", ""), ("bert", "rte", ""), ("bert", "stsb", ""), ("bert", "swag", ""), ("bert", "wnut17", ""),
    ("roberta", "rte", ""), ("roberta", "swag", ""), ("albert", "rte", ""), ("albert", "squad", ""),
    ("electra", "sst2", ""), ("electra", "swag", ""), ("spanbert", "squad", ""), ("spanbert", "stsb", ""),
    ("luke", "rte", ""), ("luke", "wnut17", ",head=tag"), ("luke", "embed", ""), ("roberta", "embed", ""),
  ),
)  # fmt: skip
def test_eight_examples_are_learned_by_heart(place, family, task, variant):
  """The official figures of the training file itself reach their best: reading, rows, head, loss, decoding agree."""
  own = config(place, family, task, variant, steps=60, optimizer__schedule="constant")
  figures = learned(place, own)
  for name, best in BEST[task].items():
    assert figures[name] == pytest.approx(best, abs=0.02), figures


def test_packing_changes_no_update_of_pairs(place):
  """Types and positions are those of each example wherever it stands in a row."""
  found, begun = [], None
  for pack, parts in ((1, 1), (3, 2)):
    own = config(place, "bert", "rte", data__pack=pack, micro_batches=parts, steps=4)
    feed, program = program_of(own, place)
    begun = jax.device_get(program.fresh_state()) if begun is None else begun
    batch = feed.example(program.stage)
    assert set(np.unique(batch.tokens.types)) == {0, 1}
    state, report = program.step(jax.device_put(begun, program.shardings), program.place(batch))
    found.append((len(batch.tokens.ids), jax.device_get(report), named_leaves(jax.device_get(state.params))))
  (rows, lone, one), (fewer, packed, two) = found
  assert fewer < rows == 8
  assert float(lone.sums["task"]) == pytest.approx(float(packed.sums["task"]), rel=1e-5)
  for path in ("heads/classify/kernel", "layers/ffn/up/kernel", "embeddings/type/embedding"):
    np.testing.assert_allclose(one[path], two[path], atol=1e-5)


# --- what it starts from ----------------------------------------------------------------------------------------------


def begun(own, place, found):
  """The leaves that a run starts from, with zeros for those from its seed."""
  _, program = program_of(own, place)
  fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.shapes.params)
  return initial_leaves(own, found, fresh)


def test_the_length_of_the_recipe_comes_down_to_the_positions_and_a_users_does_not(place):
  """Which are 48; that it is the recipe's own number does not make it less the user's."""
  assert finetune.get_config("rte,model=bert").data.length == 128
  assert config(place, "bert", "rte", ",model=bert").data.length == 48
  assert config(place, "bert", "rte", ",model=bert", data__length=40).data.length == 40
  with pytest.raises(ConfigError, match="data.length: got 128, want at most 48, the positions of init_from"):
    config(place, "bert", "rte", ",model=bert", data__length=128)


@pytest.mark.parametrize("task", ["sst2", "embed", "swag", "wnut17", "squad"])
def test_both_orders_are_of_labelled_pairs(place, task):
  with pytest.raises(ConfigError, match=f"task.both_orders: got True, want False: {task} has no labelled pairs"):
    config(place, "bert", task, task__both_orders=True)
  assert config(place, "bert", "rte", task__both_orders=True).steps == 2 * config(place, "bert", "rte").steps


def leaves_of(folder):
  return {path: np.asarray(leaf) for path, leaf in named_leaves(load_model(folder).params).items()}


@pytest.mark.parametrize("family", some(["bert", "electra", "albert"], ("roberta",), ("spanbert",), ("luke",)))
def test_an_encoder_is_taken_over_whole_and_its_heads_are_not(place, family):
  own, found = config(place, family, "rte"), leaves_of(started(place, family))
  leaves = begun(own, place, found)
  encoder = {path for path in leaves if not path.startswith(("heads/", "pooler/"))}
  assert any("layers/ffn/up/kernel" in path for path in encoder)
  assert not any(path.startswith("generator") for path in leaves)
  for path in encoder - {"entity_embeddings/entity/embedding"}:
    source = path
    for query in ("word_to_entity", "entity_to_word", "entity_to_entity"):
      source = path if path in found else source.replace(query, "query")
    rows = min(len(found[source]), len(leaves[path]))
    np.testing.assert_array_equal(leaves[path][:rows], found[source][:rows])
  assert {path.split("/")[1] for path in leaves if path.startswith("heads/")} == {"classify"}
  assert own.model.name == family and own.objective.labels == ("entailment", "not_entailment")


def test_published_networks_of_an_electra_alone_and_together(place, tmp_path):
  """A discriminator's folder, and that with both; a generator is none to fine-tune."""
  run = started(place, "electra")
  export_run(run, tmp_path / "hf")
  found = leaves_of(run)
  for folder in (tmp_path / "hf", tmp_path / "hf" / "discriminator"):
    own = config_of("sst2", folder, place / "task", ",model=electra_small")
    assert (own.model.name, own.model.embedding, own.model.hidden) == ("electra", 16, 32)
    leaves = begun(own, place, leaves_of(folder))
    for path in ("discriminator/layers/ffn/up/kernel", "discriminator/projection/kernel", "embeddings/word/embedding"):
      np.testing.assert_array_equal(leaves[path], found[path])
  with pytest.raises(ConfigError, match="holds an electra's generator, want its discriminator"):
    config_of("sst2", tmp_path / "hf" / "generator", place / "task")


def test_a_spanbert_in_files_that_say_bert_is_one(place, tmp_path):
  export_run(started(place, "bert"), tmp_path / "hf")
  assert config_of("squad", tmp_path / "hf", place / "task", ",model=spanbert").model.name == "bert"
  with pytest.raises(ConfigError, match="holds a model of the family bert, want roberta, whose numbers the recipe has"):
    config_of("squad", tmp_path / "hf", place / "task", ",model=roberta")


def test_a_luke_without_titles_does_tasks_without_entities(place, tmp_path):
  shutil.copytree(started(place, "luke"), tmp_path / "luke", ignore=shutil.ignore_patterns("entity_vocab*"))
  own = config_of("rte", tmp_path / "luke", place / "task")
  leaves = begun(own, place, leaves_of(tmp_path / "luke"))
  assert own.model.entity_vocab_size == 4 and not leaves["entity_embeddings/entity/embedding"].any()
  form = task_form(own, tmp_path / "unborn")
  (tmp_path / "saved").mkdir()
  form.save(tmp_path / "saved" / "tokenizer")
  assert form.entities is None and not list((tmp_path / "saved" / "tokenizer").glob("entity_vocab*"))
  assert task_form(own, tmp_path / "saved").digest == form.digest


def test_a_luke_puts_named_entities_to_spans_and_others_to_tags(place):
  assert config(place, "luke", "wnut17").objective.kind == "spans"
  for family, variant in (("luke", ",head=tag"), ("bert", "")):
    own = config(place, family, "wnut17", variant)
    assert own.objective.kind == "tag"
    assert own.objective.labels == ("O", "B-location", "I-location", "B-person", "I-person")


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(place):
  """(config, workdir, summary) of a BERT on pairs of texts, three epochs."""
  own = config(place, "bert", "rte", task__epochs=3, task__dev_share=0.0)
  return own, place / "done", fit(own, place / "done")


def test_numbers_are_those_of_the_files_wherever_they_are_said(place, tmp_path):
  """ELECTRA's head learns a fifth of them. An export gives the same numbers, and a run goes on with either's head."""
  own = config(place, "electra", "stsb", ",model=electra_small", steps=1, eval_every=1)
  fit(own, tmp_path / "run")
  assert own.objective.target_scale == 5.0
  lines = (tmp_path / "run" / "predictions" / "dev.jsonl").read_text().splitlines()
  said = [json.loads(line)["prediction"] for line in lines]
  export_run(tmp_path / "run", tmp_path / "hf")
  pairs = [line.split("\t")[1:3] for line in (place / "task" / "stsb.tsv").read_text().splitlines()[1:]]
  for folder in ("run", "hf"):
    found = classify(load_tuned(tmp_path / folder), list(map(tuple, pairs)))
    np.testing.assert_allclose([each.number for each in found], said, rtol=1e-4)
  leaves, path = leaves_of(tmp_path / "run"), "heads/regress/output/kernel"
  for folder, variant, factor in (
    ("run", ",model=electra_small", 1), ("run", "", 5), ("hf", "", 5), ("hf", ",model=electra_small", 1),
  ):  # fmt: skip
    again = config_of("stsb", tmp_path / folder, place / "task", variant)
    head = begun(again, place, leaves_of(tmp_path / folder))[path]
    np.testing.assert_allclose(head, factor * leaves[path], rtol=1e-6)
  assert leaves[path].any()


def test_a_scale_is_of_tasks_with_numbers(place):
  with pytest.raises(ConfigError, match="target_scale: got 2, want 1: the targets of rte are no numbers"):
    config(place, "bert", "rte", objective__target_scale=2.0)


def test_a_killed_run_ends_with_the_same_scores(place, done, tmp_path):
  own, folder, summary = done
  shutil.copytree(folder, tmp_path / "cut")
  for step in (2, 3):
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(step), ignore_errors=True)
  again = fit(own, tmp_path / "cut")
  assert again["state_sha256"] == summary["state_sha256"]
  scores = {name: value for name, value in summary["metrics"].items() if name.startswith(("eval/", "best/"))}
  assert "eval/accuracy" in scores and {name: again["metrics"][name] for name in scores} == scores


def test_a_second_task_keeps_the_encoder_and_drops_the_head(place, done):
  """As MNLI before RTE; with the same labels the head goes on."""
  _, folder, _ = done
  found = leaves_of(folder)
  leaves = begun(config_of("sst2", folder, place / "task"), place, found)
  np.testing.assert_array_equal(leaves["layers/ffn/up/kernel"], found["layers/ffn/up/kernel"])
  np.testing.assert_array_equal(leaves["pooler/dense/kernel"], found["pooler/dense/kernel"])
  assert not leaves["heads/classify/kernel"].any()
  same = begun(config_of("rte", folder, place / "task"), place, found)
  np.testing.assert_array_equal(same["heads/classify/kernel"], found["heads/classify/kernel"])


def test_another_run_starts_from_the_best_checkpoint(place, done, tmp_path):
  own, folder, _ = done
  log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
  shutil.copytree(folder, tmp_path / "run")
  for line in log:
    line |= {"eval/accuracy": 2.0 if line["step"] == steps[-2] else 0.0} if "eval/accuracy" in line else {}
  (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
  model = models.build(own)
  best, newest = (newest_params(folder, model, step)[0]["pooler"]["dense"]["kernel"] for step in steps[-2:])
  found = begun(config_of("sst2", tmp_path / "run", place / "task"), place, _leaves_of(tmp_path / "run"))
  np.testing.assert_array_equal(found["pooler/dense/kernel"], best)
  assert not np.array_equal(best, newest)


def test_what_was_fine_tuned_is_no_start_of_pretraining(done, tmp_path):
  export_run(done[1], tmp_path / "hf")
  with pytest.raises(InputError, match="hold a head for classify, which pretraining has not; give the folder to"):
    import_weights(tmp_path / "hf", tmp_path / "run")


def test_the_log_says_whose_numbers_there_are(place, caplog):
  caplog.set_level("INFO")
  found = leaves_of(started(place, "bert"))
  said = "fine-tuning: a model of the family bert; model=bert in the variant has the numbers published with it"
  begun(config(place, "bert", "rte"), place, found)
  assert said in caplog.text
  caplog.clear()
  begun(config(place, "bert", "rte", ",model=bert"), place, found)
  assert said not in caplog.text


# --- variants ---------------------------------------------------------------------------------------------------------


def test_a_variant_says_where_to_start_and_an_elmo_has_its_own_recipe(place):
  assert finetune.get_config("sst2,init=runs/bert,model=bert").init_from == "runs/bert"
  elmo = finetune.get_config("sst2,model=elmo,init=runs/elmo")
  assert (elmo.model.name, elmo.objective.kind, elmo.init_from) == ("elmo_task", "classify", "runs/elmo")
  own = finetune.get_config("sst2,model=elmo,vectors=tuned,place=both")  # the settings of networks on ELMo
  assert (own.task.word_vectors, own.model.place) == ("tuned", "both")
  own = config(place, "bert", "sst2", f",model=bert,init={started(place, 'bert')}", model__dropout=0.3)
  validate(own)
  assert own.model.dropout == 0.3 and own.model.hidden == 32


@pytest.mark.parametrize(
  "family, task, variant, changes, line",
  [
    ("electra", "rte", ",model=bert", {}, "holds a model of the family electra, want bert, whose numbers the recipe"),
    ("bert", "rte", ",queries=4", {}, "task.queries: got 4, want 0: bert has no entities"),
    ("bert", "squad", "", {"task__links": "links.jsonl"}, "task.links: got 'links.jsonl', want '': bert has no entiti"),
    ("bert", "rte", ",head=tag", {}, "task rte: got head 'tag', want one of classify, words_pair"),
    ("bert", "rte", "", {"task__head": "spans"}, "task.head: got 'spans', want tag, or empty for that of the task"),
    ("bert", "embed", "", {"micro_batches": 2}, "micro_batches: got 2, want 1: embed ranks all second texts"),
    ("bert", "semeval", ",model=elmo", {}, "task semeval: model=elmo has no network for it, want one of conll2003"),
    ("bert", "sst2", ",model=elmo,head=tag", {}, "variant 'sst2,head=tag': unknown setting 'head'"),
    ("bert", "sst2", "", {"task.name": "cola"}, "task.name: is set, want it left out: say cola in the variant"),
    ("bert", "sst2", "", {"model.layers": 3}, "model.layers: is set, want it left out: the sizes are those of"),
    ("bert", "sst2", ",model=bort", {}, "model='bort'; did you mean bert or"),
    ("bert", "sst2", ",init=a,init=b", {}, "setting 'init' is given twice"),
  ],
)
def test_what_cannot_be_is_one_line(place, family, task, variant, changes, line):
  known = task if task in FILES else "rte"
  run = started(place, family)
  with pytest.raises(ConfigError) as caught:
    if variant.startswith(",model=elmo"):
      load(f"configs/finetune.py:{task}{variant}")
    else:
      own = {"task.train": FILES[known], "task.dev": FILES[known], "task.dir": str(place / "task")}
      own |= {"init_from": str(run)} if "init=" not in variant else {}
      changed = {name.replace("__", "."): value for name, value in changes.items()}
      load(f"configs/finetune.py:{task}{variant}", own | changed | {"task.dev_share": 0.0})
  assert line in str(caught.value) and "\n" not in str(caught.value)


# --- batches without files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["rte", "stsb", "wnut17", "swag", "embed", "semeval", "open_entity", "record"])
@pytest.mark.parametrize("full", [False, True])
def test_synthetic_batches_are_those_of_the_task(place, task, full):
  """Fields, ranks and types of a real batch, one shape whatever the number, and FLOPs of what stands in them."""
  own = config(place, "bert", task, mesh__data=8, data__pack=4, steps=4)
  setup = Setup.of(own)
  first, other = (synthetic_batch(own, setup.stages[0], number, full) for number in (0, 1))
  kinds = lambda batch: {path: (leaf.ndim, leaf.dtype) for path, leaf in named_leaves(batch).items()}
  assert kinds(first) == kinds(TaskFeed(own, place / "unborn").example(None))
  for batch in (first, other):
    validate_batch(batch)
    assert len(batch.tokens.ids) % 8 == 0
  shape = lambda batch: jax.tree.map(lambda x: x.shape, batch)
  assert shape(first) == shape(other) and not np.array_equal(first.tokens.ids, other.tokens.ids)
  tokens = int((first.tokens.segments > 0).sum())
  assert flops.count(first).tokens == tokens and setup.step_flops(first) > 6 * tokens * own.model.layers * 32**2
  heads = [path for path in named_leaves(Program(setup, setup.stages[0], first).shapes.params) if "heads/" in path]
  assert {path.split("/")[1] for path in heads} == ({own.objective.kind} if task != "embed" else set())


def test_every_kind_of_head_has_a_loss():
  assert {*KINDS} == {*TASK_HEADS}
