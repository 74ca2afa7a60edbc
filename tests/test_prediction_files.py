"""Predictions of a run as files: what stands in them, when they are written, and what a kill leaves undone."""

import json
import shutil

import numpy as np
import pytest

import trainer.finetuning.predictions
from data.tasks import metrics, registry
from data.tasks.batches import Shape
from data.tasks.choices import ChoiceExample
from data.tasks.named_entities import read_columns
from data.tasks.questions import Answer, QuestionExample
from tests.task_rows import LETTERS
from tests.trained import finished_run
from tests.word_task_runs import config_of, entities, fit, pairs, sentences
from trainer.config import load
from trainer.finetuning.data import Split
from trainer.finetuning.feed import HeldOut
from trainer.finetuning.predictions import FOLDER, as_tuned, files_of, step_of, write

pytestmark = pytest.mark.usefixtures("own_logging")

OFF = {"task__predictions": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Beside it stand the files of three tasks; the networks on words need no ELMo."""
  folder = tmp_path_factory.mktemp("prediction_files") / "none"
  task = folder.parent / "task"
  task.mkdir()
  for name, count, seed in (("train.tsv", 40, 0), ("dev.tsv", 10, 1)):
    sentences(task / name, count, seed)
  (task / "test.tsv").write_text("index\tsentence\n7\tthe cat saw good\n3\tpoor cat\n")
  columns = (("wnut17train.conll", 40, 0), ("emerging.dev.conll", 10, 1), ("emerging.test.annotated", 12, 2))
  for name, count, seed in columns:
    entities(task / name, count, seed)
  (folder.parent / "mnli").mkdir()
  files = (("train", 40, 0), ("dev_matched", 10, 1), ("dev_mismatched", 12, 2))
  for name, count, seed in files:
    pairs(folder.parent / "mnli" / f"{name}.tsv", count, seed)
  for name, numbers in (("test_matched", "45"), ("diagnostic", "6")):
    lines = [f"{number}\tthe cat is good\ta cat is bad" for number in numbers]
    (folder.parent / "mnli" / f"{name}.tsv").write_text("\n".join(["index\tsentence1\tsentence2", *lines]) + "\n")
  return folder


def settings(run, task, **changes):
  own = {"task__epochs": 2, "log_every": 2}
  return config_of(run, f"{task},place=none,vectors=tuned,network=linear", **own | changes)


def contents(folder):
  """{path below WORKDIR/predictions: text}."""
  root = folder / FOLDER
  return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def records(text):
  return [json.loads(line) for line in text.splitlines()]


def logged(folder, prefix):
  """{figure: {step: value}} of a run's metrics.jsonl."""
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  names = dict.fromkeys(name for line in lines for name in line if name.startswith(prefix))
  return {name: {line["step"]: line[name] for line in lines if name in line} for name in names}


@pytest.fixture(scope="module")
def done(run):
  """(config, workdir, summary) of a run of named entities."""
  config, folder = settings(run, "wnut17", keep_checkpoints=2), run.parent / "done"
  return config, folder, fit(config, folder)[0]


# A run's own files


def test_the_files_have_the_figures_of_the_run(run, done):
  """Scored by themselves the records give dev's best and test's f1; the columns to hand in hold the same spans."""
  _, folder, summary = done
  files, task = contents(folder), registry.find("wnut17")
  assert list(files) == [
    "dev.jsonl", "run.json", "submission/dev/predictions.conll", "submission/test/predictions.conll", "test.jsonl",
  ]  # fmt: skip
  metrics_of = {"dev": summary["metrics"]["best/f1"], "test": summary["metrics"]["test/f1"]}
  for split, f1 in metrics_of.items():
    said = records(files[f"{split}.jsonl"])
    gold, found = ([{tuple(span) for span in record[name]} for record in said] for name in ("gold", "prediction"))
    assert metrics.micro(gold, found)["f1"] == f1
    examples = read_columns(run.parent / "task" / task.files[split])
    assert [record["id"] for record in said] == [example.where for example in examples]
    columns = read_columns(folder / FOLDER / f"submission/{split}/predictions.conll")
    assert [{*example.spans} for example in columns] == [
      {tuple(span) for span in record["prediction"]} for record in said
    ]
  assert json.loads(files["run.json"]) == {"task": "wnut17", "step": summary["metrics"]["best/step"]}


def test_a_second_start_leaves_them_and_writes_those_that_are_gone(done, tmp_path):
  """The same bytes come back; nothing is added to the run's figures."""
  config, folder, _ = done
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  files, figures = contents(copy), (copy / "metrics.jsonl").read_bytes()
  (copy / FOLDER / "dev.jsonl").write_text("mine")
  fit(config, copy)
  assert contents(copy) == files | {"dev.jsonl": "mine"}
  shutil.rmtree(copy / FOLDER)
  fit(config, copy)
  assert contents(copy) == files and (copy / "metrics.jsonl").read_bytes() == figures


@pytest.mark.parametrize("point", ["tested", "predicted"])
def test_a_kill_leaves_all_files_or_none_and_the_next_start_writes_them(done, tmp_path, monkeypatch, point):
  """Once the test file has been scored, and once all files but their folder's name are there."""

  class Killed(BaseException):
    pass

  def killing(name):
    if name == point:
      raise Killed

  config, folder, summary = done
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  shutil.rmtree(copy / FOLDER)
  lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
  (copy / "metrics.jsonl").write_text("".join(line for line in lines if "test/" not in line))
  monkeypatch.setattr(trainer.finetuning.predictions, "fault_point", killing)
  with pytest.raises(Killed):
    fit(config, copy)
  assert "test/f1" in logged(copy, "test/") and not (copy / FOLDER).exists()
  monkeypatch.undo()
  again, _ = fit(config, copy)
  assert contents(copy) == contents(folder) and again["state_sha256"] == summary["state_sha256"]
  assert logged(copy, "test/") == logged(folder, "test/") and not (copy / ".predictions.tmp").exists()


def test_predictions_of_other_parameters_are_replaced(tmp_path):
  assert step_of(tmp_path) is None
  write(tmp_path, {"run.json": '{"step": 4}', "submission/a.tsv": "1"})
  assert step_of(tmp_path) == 4
  write(tmp_path, {"run.json": '{"step": 8}'})
  assert step_of(tmp_path) == 8 and list(contents(tmp_path)) == ["run.json"]


def test_glues_file_without_labels_is_answered_by_the_index_of_its_lines(run, tmp_path):
  """It plays no part before the end, and none at all where no predictions are wanted."""
  summary, _ = fit(settings(run, "sst2"), tmp_path / "run")
  files = contents(tmp_path / "run")
  assert list(files) == ["SST-2.jsonl", "dev.jsonl", "run.json", "submission/SST-2.tsv"]
  said = records(files["SST-2.jsonl"])
  assert [record["id"] for record in said] == ["7", "3"] and not any("gold" in record for record in said)
  labels = ["negative", "positive"]
  lines = [f"{record['id']}\t{labels.index(record['prediction'])}\n" for record in said]
  assert files["submission/SST-2.tsv"] == "".join(["index\tprediction\n", *lines])
  assert not any(name.startswith("test/") for name in summary["metrics"])
  right = [record["prediction"] == record["gold"] for record in records(files["dev.jsonl"])]
  assert np.mean(right) == summary["metrics"]["best/accuracy"]
  fit(settings(run, "sst2", task__epochs=1, **OFF), tmp_path / "off")
  assert not (tmp_path / "off" / FOLDER).exists()


def test_further_files_are_scored_at_every_evaluation_and_answered_at_the_end(run, tmp_path):
  """MNLI's mismatched pairs; of its files without labels those that are there."""
  config = settings(run, "mnli", task__dir=str(run.parent / "mnli"))
  summary, _ = fit(config, tmp_path / "run")
  found = logged(tmp_path / "run", "eval/")
  for name in ("eval/accuracy", "eval/mismatched/accuracy", "eval/mismatched/loss"):
    assert list(found[name]) == [2, config.steps]
  assert "eval/diagnostic/matthews" not in found
  files = contents(tmp_path / "run")
  assert list(files) == [
    "AX.jsonl", "MNLI-m.jsonl", "dev.jsonl", "mismatched.jsonl", "run.json", "submission/AX.tsv",
    "submission/MNLI-m.tsv",
  ]  # fmt: skip
  assert [line.split("\t")[0] for line in files["submission/MNLI-m.tsv"].splitlines()] == ["index", "4", "5"]
  said = records(files["mismatched.jsonl"])
  right = [record["prediction"] == record["gold"] for record in said]
  assert np.mean(right) == found["eval/mismatched/accuracy"][summary["metrics"]["best/step"]]
  assert len(said) == 12


# Encoders of pieces

PIECES = {
  "task.epochs": 2, "batch_size": 8, "optimizer.lr": 5e-3, "dtype": "float32", "mesh.data": 1, "model.unroll": 1,
  "model.dropout": 0.0, "data.pack": 1,
}  # fmt: skip


def of_pieces(task, folder, run, **changes):
  own = {"init_from": str(run), "task.dir": str(folder)}
  changes = {name.replace("__", "."): value for name, value in changes.items()}
  return load(f"configs/finetune.py:{task}", PIECES | own | changes)


@pytest.mark.slow
def test_a_bert_answers_glues_file(tmp_path):
  """Cats are good and dogs are not."""
  said = [("the cat sat on the mat", 1), ("a dog sat all day", 0), ("it rained on the cat", 1), ("the dog ran", 0)]
  for name in ("train.tsv", "dev.tsv"):
    (tmp_path / name).write_text("".join(["sentence\tlabel\n", *(f"{text}\t{label}\n" for text, label in said * 2)]))
  lines = [f"{number}\t{text}\n" for number, (text, _) in enumerate(said, 11)]
  (tmp_path / "test.tsv").write_text("".join(["index\tsentence\n", *lines]))
  config = of_pieces("sst2", tmp_path, finished_run(tmp_path), task__epochs=24, eval_every=12, select_by="accuracy")
  summary, _ = fit(config, tmp_path / "run")
  files = contents(tmp_path / "run")
  assert summary["metrics"]["best/accuracy"] == 1
  assert files["submission/SST-2.tsv"] == "index\tprediction\n11\t1\n12\t0\n13\t1\n14\t0\n"
  assert [record["prediction"] == record["gold"] for record in records(files["dev.jsonl"])] == [True] * 8


@pytest.mark.slow
def test_questions_of_a_run_are_handed_in_by_their_ids(tmp_path):
  """What SQuAD 2.0's scorer makes of dev's files is what the run has logged as best; all have the dev file's threshold.

  A test file without answers has the same form.
  """
  asked = (("the cat sat", "on the mat"), ("the mat", "the cat"), ("a dog", ""))
  paragraphs, open_ones = [], []
  for number in range(8):  # no two alike, as equal odds would lie on both sides of a threshold
    passage = "the cat sat on the mat" + " and it rained" * number
    given = [
      {"id": f"{number} {question}", "question": question, "is_impossible": not text,
       "answers": [{"text": text, "answer_start": passage.index(text)}] if text else []}
      for question, text in asked
    ]  # fmt: skip
    paragraphs.append({"context": passage, "qas": given})
    given = [{name: each[name] for name in ("id", "question")} for each in given]
    open_ones.append({"context": passage, "qas": given})
  files = {"train-v2.0.json": paragraphs, "dev-v2.0.json": paragraphs, "test.json": open_ones}
  for name, content in files.items():
    (tmp_path / name).write_text(json.dumps({"data": [{"title": "t", "paragraphs": content}]}))
  given = [each for paragraph in paragraphs for each in paragraph["qas"]]
  summary, _ = fit(of_pieces("squad2", tmp_path, finished_run(tmp_path), task__test="test.json"), tmp_path / "run")
  files = contents(tmp_path / "run")
  answers, odds = (json.loads(files[f"submission/dev/{name}.json"]) for name in ("predictions", "null_odds"))
  assert list(answers) == list(odds) == [each["id"] for each in given]
  gold = [[answer["text"] for answer in each["answers"]] for each in given]
  figures = metrics.each_answer(gold, list(answers.values()), unanswerable=True)
  chosen = json.loads(files["run.json"])["step"]
  best, limit = (logged(tmp_path / "run", "eval/")[f"eval/{name}"][chosen] for name in ("best_f1", "null_threshold"))
  assert np.mean(figures["f1"]) == pytest.approx(best)
  answered = [bool(text) for text in answers.values()]
  found = metrics.best_threshold(figures["f1"], list(odds.values()), [bool(texts) for texts in gold], answered)
  assert (found[0], max(found[1], -1e9)) == (pytest.approx(best), limit)
  for name in ("dev", "test"):
    said = records(files[f"{name}.jsonl"])
    assert [not record["prediction"] for record in said] == [record["null_odds"] > limit for record in said]
    handed = json.loads(files[f"submission/{name}/predictions.json"])
    assert handed == {record["id"]: record["prediction"] for record in said}
  assert not any(name.startswith("test/") for name in summary["metrics"])
  assert {"eval/HasAns/f1", "eval/NoAns/f1", "eval/best_f1", "eval/best_f1_thresh"} <= summary["metrics"].keys()


# Files by hand


def held(name, examples, labels=(), by_column=False):
  task = registry.find(name)
  made = task.rows(examples, LETTERS, labels)
  shape = Shape(64, 2, 1, 0, columns=name.startswith("squad"))
  return HeldOut(Split(task, examples, lambda: made), labels, 2, lambda rows: shape, by_column)


def outputs_of(part, logits):
  """What an objective would report of a file's batches: the logits of each row in its places."""
  found = []
  for numbers, placed in part._batches:
    room = placed.batch.tokens.ids.shape if part.by_column else placed.batch.labels.shape
    values = np.zeros((*room, *np.shape(logits[0])[1:]))
    first = placed.columns if part.by_column else placed.labels
    for row, place in zip(*np.nonzero(placed.rows >= 0)):
      own = logits[numbers[placed.rows[row, place]]]
      values[row, first[row, place] : first[row, place] + len(own)] = own
    found.append(values)
  return found


def asked(name, answer):
  found = (Answer(answer, "b c".index(answer)),) if answer else ()
  return QuestionExample(name, "", "a ?", "b c", found, impossible=not answer)


def test_questions_without_answers_have_all_figures_of_the_official_scorer(tmp_path):
  """Three questions: "b" by 2, right; "c" by 2, right; "b" by 1 where there is no answer. The odds are tuned.

  A file that is no dev file has the threshold that was best on the dev file, at the step of the parameters.
  """
  part = held("squad2", [asked("q1", "b"), asked("q2", "c"), asked("q3", "")], by_column=True)
  logits = [np.full((len(row), 2), -40.0) for row in part.split.rows]
  for values, row, text, score in zip(logits, part.split.rows, "bcb", (2.0, 2.0, 1.0)):
    values[row.window.begin + "bc".index(text)], values[0] = score / 2, 0.0
  outputs = outputs_of(part, logits)
  assert part.score(outputs) == pytest.approx({
    "exact_match": 2 / 3, "f1": 2 / 3, "HasAns/exact_match": 1, "HasAns/f1": 1, "NoAns/exact_match": 0,
    "NoAns/f1": 0, "best_exact": 1, "best_exact_thresh": -2, "best_f1": 1, "best_f1_thresh": -2,
    "null_threshold": -2,
  })  # fmt: skip
  files = files_of("dev", part, outputs)
  assert list(files) == ["dev.jsonl", "submission/dev/predictions.json", "submission/dev/null_odds.json"]
  assert json.loads(files["submission/dev/predictions.json"]) == {"q1": "b", "q2": "c", "q3": "b"}
  assert json.loads(files["submission/dev/null_odds.json"]) == pytest.approx({"q1": -2, "q2": -2, "q3": -1})
  assert list(files_of("other", part, outputs)) == ["other.jsonl"]
  for step, threshold in ((4, -2.0), (8, 5.0)):
    with open(tmp_path / "metrics.jsonl", "a") as file:
      file.write(json.dumps({"step": step, "eval/null_threshold": threshold}) + "\n")
  said = json.loads(files_of("test", as_tuned(part, tmp_path, 4), outputs)["submission/test/predictions.json"])
  assert said == {"q1": "b", "q2": "c", "q3": ""} and as_tuned(part, tmp_path, 4).score(outputs)["f1"] == 1
  assert as_tuned(part, tmp_path, 8).score(outputs)["f1"] == 2 / 3


def test_levels_of_reading_have_figures_of_their_own():
  """RACE: of two questions of high schools one is right, of three of middle schools two."""
  levels = ["high", "middle", "middle", "high", "middle"]
  examples = [ChoiceExample(f"{level}{i}", "a", ("b", "c d"), 1, level) for i, level in enumerate(levels)]
  part = held("race", examples)
  logits = [np.array(each, float) for each in ([0, 1], [0, 1], [1, 0], [1, 0], [0, 1])]
  outputs = outputs_of(part, logits)
  assert part.score(outputs) == pytest.approx({"accuracy": 3 / 5, "high/accuracy": 1 / 2, "middle/accuracy": 2 / 3})
  said = records(files_of("dev", part, outputs)["dev.jsonl"])
  assert [(record["id"], record["prediction"]) for record in said] == [
    ("high0", 1), ("middle1", 1), ("middle2", 0), ("high3", 0), ("middle4", 1),
  ]  # fmt: skip
