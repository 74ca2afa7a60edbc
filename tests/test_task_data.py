"""Real files of the tasks, where they are at hand; what they show is also shown on files made in the other tests."""

import functools
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data import tokenizers
from data.tasks import named_entities, questions, registry, tags
from data.tasks.metrics import normalised

DATA = Path(__file__).parent.parent / "../shared/data"
SEMEVAL, DOCRED, WNUT = DATA / "relation/semeval2010_task8", DATA / "relation/re-docred", DATA / "ner/wnut17"


def examples(name, folder, split):
  task = registry.find(name)
  if not (folder / task.files[split]).is_file():
    pytest.skip(f"../shared/data has no {folder.name}")
  return task.examples(folder, split)


@functools.cache
def tokenizer():
  if not (DATA / "tokenizers").is_dir():
    pytest.skip("../shared/data/tokenizers is not here")
  return tokenizers.load(DATA / "tokenizers").with_added(("<ent>", "<ent2>"))


def mentions_are_their_texts(rows, spans, first):
  """Each mention without its markers, decoded, is its text; rows in which it was cut are left out."""
  of, checked = tokenizer(), 0
  for row in rows[first::23]:
    for mention, text in zip(row.mentions, spans(row.example), strict=True):
      if len(mention) < 30:
        assert " ".join(of.decode(row.ids[mention[1:-1]]).split()) == " ".join(text.split())
        checked += 1
  return checked


def test_semeval():
  task = registry.find("semeval")
  train, test = (examples("semeval", SEMEVAL, split) for split in ("train", "test"))
  assert (len(train), len(test)) == (8000, 2717)
  labels = task.label_list(train)
  assert len(labels) == 19 and labels[0] == "Other" and task.label_list(test)[0] == "Other"
  assert set(task.label_list(test)) <= set(labels)
  rows = task.rows(test, tokenizer(), labels)
  texts = lambda i: [test[i].text[slice(*span)] for span in (test[i].head, test[i].tail)]
  assert mentions_are_their_texts(rows, texts, 0) > 200
  assert max(len(row) for row in rows) < 512 and len(rows) == 2717
  assert [labels[row.labels[0]] for row in rows] == [example.relation for example in test]
  assert task.figures(test, [example.relation for example in test])["f1"] == 1
  swapped = [example.relation.translate(str.maketrans("12", "21")) for example in test]
  assert task.figures(test, swapped)["f1"] == 0  # the right relation in the wrong direction


def test_wnut():
  """Counts of the data set's own description; its tags keep IOB2."""
  task, counts = registry.find("wnut17"), []
  splits = {split: examples("wnut17", WNUT, split) for split in task.files}
  for split, found in splits.items():
    counts.append((len(found), sum(len(document.spans) for document in found)))
    lines = named_entities._sentences(WNUT / task.files[split])[0]
    assert tags.scheme_of([[tag for _, _, tag in sentence] for sentence in lines]) == "iob2"
  assert counts == [(3394, 1975), (1009, 836), (1287, 1079)]
  labels = task.label_list(splits["train"])
  assert labels == ("NIL", "corporation", "creative-work", "group", "location", "person", "product")
  development = splits["dev"]
  rows = task.rows(development, tokenizer(), labels)
  found = task.decode(development, rows, [np.eye(7)[row.labels] for row in rows], labels)
  figures = task.figures(development, found)
  assert figures["precision"] == 1 and figures["recall"] == 835 / 836  # one entity has more than 16 pieces
  for row in rows[::17]:
    words = development[row.example].words
    for (first, end), mention in zip(row.window, row.mentions, strict=True):
      assert tokenizer().decode(row.ids[mention]).replace(" ", "") == "".join(words[first:end])


def pairs_of_docred(records):
  """Pairs of entities with mentions side by side, without those of several relations; and how many have one."""
  counts = [0, 0]
  for record in records:
    relations = Counter((relation["h"], relation["t"]) for relation in record["labels"])
    words = [[{(m["sent_id"], i) for i in range(*m["pos"])} for m in entity] for entity in record["vertexSet"]]
    for a, b in itertools.permutations(range(len(words)), 2):
      near = any(min(x)[0] == min(y)[0] and not x & y for x in words[a] for y in words[b])
      counts[0] += near and relations[a, b] < 2
      counts[1] += near and relations[a, b] == 1
  return tuple(counts)


def test_redocred():
  """500 documents, 13,189 mentions, and the relations of pairs in one sentence that have one."""
  task = registry.find("redocred_relations")
  found = examples("redocred_relations", DOCRED, "dev")
  related = [example for example in found if example.relation != "no_relation"]
  assert (len(found), len(related)) == pairs_of_docred(json.loads((DOCRED / "dev_revised.json").read_text()))
  assert task.label_list(found)[0] == "no_relation" and len(task.label_list(found)) == 93
  typed, documents = (examples(f"redocred_{name}", DOCRED, "dev") for name in ("types", "mentions"))
  assert len(typed) == 13189 and len(documents) == 500
  assert registry.find("redocred_types").label_list(typed) == ("LOC", "MISC", "NUM", "ORG", "PER", "TIME")
  rows = registry.find("redocred_types").rows(typed[:2000], tokenizer(), ("LOC", "MISC", "NUM", "ORG", "PER", "TIME"))
  assert mentions_are_their_texts(rows, lambda i: [typed[i].text[slice(*typed[i].span)]], 5) > 80
  for document in documents:
    first, end = np.array([span[:2] for span in document.spans]).T
    sentence = np.searchsorted(document.sentences, first, "right")
    assert (first[1:] >= end[:-1]).all() and (end <= np.array(document.sentences)[sentence]).all()


def test_xquad():
  """1,190 questions with true offsets; labels are where the answers stand, and right logits give them back."""
  path = DATA / "qa/xquad.en.json"
  if not path.is_file():
    pytest.skip("../shared/data/qa is not here")
  found, task = questions.read_squad(path), registry.find("squad")
  assert len(found) == 1190
  assert all(e.passage.startswith(answer.text, answer.start) for e in found for answer in e.answers)
  rows = task.rows(found, tokenizer(), ())
  logits = [np.zeros((len(row), 2)) for row in rows]
  for row, values in zip(rows, logits):
    if row.labels[0]:
      values[row.labels[0], 0] = values[row.labels[1], 1] = 9
  answers = task.decode(found, rows, logits, ())
  pairs = [(normalised(answer), normalised(example.answers[0].text)) for example, answer in zip(found, answers)]
  wider = [(answer, true) for answer, true in pairs if answer != true]
  assert wider == [("7000000 square kilometres 2700", "7000000 square kilometres 270")]  # ends in the piece "700"
  assert {row.example for row in rows if row.labels[0]} == set(range(1190))


def test_half_of_squad_2():
  """6,078 questions, 3,168 of them without an answer; some offsets are of the passage before it was cleaned."""
  path = DATA / "qa/squad-v2.0-half-dev.json"
  if not path.is_file():
    pytest.skip("../shared/data/qa is not here")
  with pytest.raises(questions.TaskError, match="set task.offsets=nearest"):
    questions.read_squad(path)
  found = questions.read_squad(path, unanswerable="keep", offsets="nearest")
  assert (len(found), sum(example.impossible for example in found)) == (6078, 3168)
  assert len(questions.read_squad(path, offsets="nearest")) == 6078 - 3168
  task = registry.find("squad2")
  assert task.figures(found, [""] * 6078)["exact_match"] == 3168 / 6078
  right = task.figures(found, [e.answers[0].text if e.answers else "" for e in found])
  assert right == {f"{part}{name}": 1 for part in ("", "HasAns/", "NoAns/") for name in ("exact_match", "f1")}
