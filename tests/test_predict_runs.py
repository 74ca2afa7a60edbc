"""A fine-tuned run says of the texts of its dev file what its own predictions say, by the same parameters."""

import json

import numpy as np
import pytest

from data.tasks import tags
from tests.encoder_runs import FILES, config_of, encoder_run, fit, write_tasks
from trainer.inference import answer, classify, load_model, tag
from trainer.texts import InputError

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp("predict_runs")
  encoder_run("bert", folder / "bert")
  write_tasks(folder / "task")
  return folder


def tuned(base, task):
  """(the model of a run of a few updates, the records of its dev file, the lines of that file)."""
  fit(config_of(task, base / "bert", base / "task", task__epochs=3), base / task)
  records = [json.loads(line) for line in (base / task / "predictions" / "dev.jsonl").read_text().splitlines()]
  return load_model(base / task), records, (base / "task" / FILES[task]).read_text()


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_classes(base):
  model, records, text = tuned(base, "sst2")
  texts = [line.split("\t")[0] for line in text.splitlines()[1:]]
  found = classify(model, texts, top=2, batch_size=3)
  assert [each.labels[0].label for each in found] == [record["prediction"] for record in records]
  assert {label.label for label in found[0].labels} == {"negative", "positive"}
  close([each.labels[0].probability for each in found], [record["probability"] for record in records])
  with pytest.raises(InputError, match="text 1: got a pair, want one text, as sst2 has"):
    classify(model, [("a cat", "a dog")])


@pytest.mark.slow
def test_numbers_of_pairs(base):
  model, records, text = tuned(base, "stsb")
  pairs = [tuple(line.split("\t")[1:3]) for line in text.splitlines()[1:]]
  close([each.number for each in classify(model, pairs, batch_size=3)], [record["prediction"] for record in records])
  with pytest.raises(InputError, match="text 1: got one text, want a pair, as stsb has"):
    classify(model, ["a cat"])


@pytest.mark.slow
def test_entities(base):
  model, records, text = tuned(base, "wnut17")
  sentences = [" ".join(line.split("\t")[0] for line in part.splitlines()) for part in text.split("\n\n")]
  for found, record in zip(tag(model, sentences, batch_size=3), records, strict=True):
    assert [list(span) for span in tags.spans_of(found.tags)] == record["prediction"]
    close([span.probability for span in found.spans], record["probabilities"])


@pytest.mark.slow
def test_answers(base):
  model, records, text = tuned(base, "squad")
  asked = [(own["qas"][0]["question"], own["context"]) for own in json.loads(text)["data"][0]["paragraphs"]]
  for (_, context), found, record in zip(asked, answer(model, *zip(*asked), top=3, batch_size=3), records, strict=True):
    assert found.text == record["prediction"]
    assert [each.text for each in found.answers] == [each["text"] for each in record["n_best"][:3]]
    close([each.score for each in found.answers], [each["score"] for each in record["n_best"][:3]])
    assert all(context[each.start : each.end] == each.text for each in found.answers)
