"""Files of mentions, relations, tags and types: what each says, and the one line about each that is wrong."""

import json
import random

import pytest

from data.tasks import docred, entity_typing, named_entities, registry, relations, tags
from data.tasks.rows import TaskError
from tests.task_files import refused, write
from tests.test_task_file_damage import FILES

# Entity typing


TYPED = {"sent": "He met -LRB- Ann -RRB- today .", "start": 13, "end": 16, "labels": ["person", "artist"]}


def test_open_entity(tmp_path):
  (example,) = entity_typing.read_open_entity(write(tmp_path, [TYPED]))
  assert example.text == "He met ( Ann ) today ."
  assert example.text[slice(*example.span)] == "Ann" and example.types == ("person", "artist")
  assert entity_typing.type_list([example]) == ("artist", "person")


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    ({"end": 99}, ["example 0", "13 to 99"]),
    ({"start": 16}, ["16 to 16"]),
    ({"start": "13"}, ["'start'", "a whole number"]),
    ({"labels": ["person", 3]}, ["'labels'", "3"]),
  ],
)
def test_a_wrong_open_entity_record_is_named(tmp_path, change, parts):
  refused(entity_typing.read_open_entity, write(tmp_path, [TYPED | change]), *parts)


def test_a_file_that_is_none_is_named(tmp_path):
  read = entity_typing.read_open_entity
  refused(read, tmp_path / "nothing.json", "no such file")
  refused(read, write(tmp_path, '[{"sent": "a",\n "start": }]'), "line 2")
  refused(read, write(tmp_path, {"sent": "a"}), "want a list")
  refused(read, write(tmp_path, [["a"]]), "example 0", "'sent'")
  refused(read, write(tmp_path, "[" * 100_000), "maximum recursion depth", "want a JSON file")
  refused(read, write(tmp_path, f"[{'9' * 5000}]"), "5000 digits", "want a JSON file")
  (tmp_path / "latin").write_bytes(b"[\xff]")
  refused(read, tmp_path / "latin", "UTF-8")


# Relations


TACRED = {
  "token": ["Bill", "and", "Ann", "Lee", "married", "."],
  **{"subj_start": 2, "subj_end": 3, "obj_start": 0, "obj_end": 0, "relation": "per:spouse"},
}


def test_tacred_spans_are_of_tokens_with_their_last(tmp_path):
  (example,) = relations.read_tacred(write(tmp_path, [TACRED]))
  assert example.text == "Bill and Ann Lee married ."
  assert [example.text[slice(*span)] for span in (example.head, example.tail)] == ["Ann Lee", "Bill"]
  others = [relations.RelationExample("", (0, 1), (1, 2), name) for name in ("no_relation", "org:x", "per:spouse")]
  assert relations.relation_list([example, *others]) == ("no_relation", "org:x", "per:spouse")


def test_tacred_mentions_outside_or_over_one_another_are_refused(tmp_path):
  refused(relations.read_tacred, write(tmp_path, [TACRED, TACRED | {"obj_end": 6}]), "example 1", "obj: got 0 to 7")
  refused(relations.read_tacred, write(tmp_path, [TACRED | {"obj_end": 2}]), "over one another")


SEMEVAL = """1\t"The <e1>child</e1> was put into the <e2>cradle</e2>."\r
Entity-Destination(e1,e2)\r
Comment: none\r
\r
2\t"<e2>Waste</e2> is the <e1>topic</e1>"\r
Other\r
Comment:\r
\r
"""


def test_semeval(tmp_path):
  first, second = relations.read_semeval(write(tmp_path, SEMEVAL))
  assert first.text == "The child was put into the cradle." and first.relation == "Entity-Destination(e1,e2)"
  assert [first.text[slice(*span)] for span in (first.head, first.tail)] == ["child", "cradle"]
  assert [second.text[slice(*span)] for span in (second.head, second.tail)] == ["topic", "Waste"]
  assert relations.relation_list([first, second], "Other") == ("Other", "Entity-Destination(e1,e2)")


def test_semeval_without_its_key_has_no_relations(tmp_path):
  text = '8001\t"A <e1>b</e1> c <e2>d</e2>."\n8002\t"E <e1>f</e1> g <e2>h</e2>."\n'
  assert [e.relation for e in relations.read_semeval(write(tmp_path, text.replace("\n", "\n\n")))] == [None, None]


def test_a_wrong_semeval_line_is_named(tmp_path):
  refused(relations.read_semeval, write(tmp_path, SEMEVAL.replace("</e2>", "", 1)), "line 1", "<e2>")
  refused(relations.read_semeval, write(tmp_path, SEMEVAL.replace("2\t", "2 ")), "line 5", "NUMBER<tab>")
  refused(relations.read_semeval, write(tmp_path, SEMEVAL.replace("Waste", "")), "line 5", "mention")
  refused(relations.read_semeval, write(tmp_path, "\n"), "no sentence")


# Tags


def conlleval(sentence):
  """Chunks as the original script finds them, tag by tag, from its tables of beginnings and ends."""
  letters = {"U": "S", "L": "E"}
  pairs = [(letters.get(t[0], t[0]), t[2:]) for t in sentence] + [("O", "")]
  chunks, start, before = [], None, ("O", "")
  for i, now in enumerate(pairs):
    (a, x), (b, y) = before, now
    ends = a in "ES" or (a in "BI" and (b in "OBS" or x != y))
    begins = b in "BS" or (b in "IE" and (a in "OES" or x != y))
    if a != "O" and ends:
      chunks.append((start, i, x))
    if begins:
      start = i
    before = now
  return chunks


def test_spans_of_any_tags_are_conllevals():
  draw = random.Random(0)
  names = ["O", *(f"{letter}-{kind}" for letter in "BIESUL" for kind in "XY")]
  for _ in range(3000):
    sentence = draw.choices(names, k=draw.randint(0, 7))
    assert tags.spans_of(sentence) == conlleval(sentence), sentence


def test_the_three_schemes_of_one_sentence():
  spans = [(0, 2, "PER"), (2, 3, "PER"), (4, 5, "LOC")]
  written = {
    "iob1": ["I-PER", "I-PER", "B-PER", "O", "I-LOC"],
    "iob2": ["B-PER", "I-PER", "B-PER", "O", "B-LOC"],
    "bioes": ["B-PER", "E-PER", "S-PER", "O", "S-LOC"],
  }
  for scheme, sentence in written.items():
    assert tags.tags_of(spans, 5, scheme) == sentence
    assert tags.spans_of(sentence) == spans
    assert tags.scheme_of([sentence]) == scheme and tags.check(sentence, scheme) is None
  assert tags.spans_of(["B-PER", "L-PER", "U-PER", "O", "U-LOC"]) == spans  # BILOU
  with pytest.raises(TaskError, match="over one another"):
    tags.tags_of([(0, 2, "A"), (1, 3, "B")], 3)


# Columns


CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- O O

Rome NNP I-NP I-LOC
Italy NNP I-NP B-LOC
"""


def test_conll_2003(tmp_path):
  first, second = named_entities.read_columns(write(tmp_path, CONLL))
  assert first.words == ("EU", "rejects", "Peter", "Blackburn") and first.sentences == (0, 2, 4)
  assert first.spans == ((0, 1, "ORG"), (2, 4, "PER"))  # PER does not reach over the end of a sentence
  assert second.spans == ((0, 1, "LOC"), (1, 2, "LOC"))  # IOB1: B- parts neighbours of one type
  with_misc = named_entities.TaggedDocument(("a",), (0, 1), ((0, 1, "MISC"),))
  assert named_entities.span_labels([first, second, with_misc]) == ("NIL", "MISC", "PER", "ORG", "LOC")
  assert named_entities.span_labels([first]) == ("NIL", "ORG", "PER")


@pytest.mark.parametrize(
  ("content", "says"),
  [
    (CONLL, ["{}: tags read as IOB1"]),
    ("a B-x\nb I-x\n", ["{}: tags read as IOB2"]),
    ("a B-x\nb L-x\nc U-x\n", ["{}: tags read as BIOES"]),
    ("a O\n", ["{}: tags read as IOB2"]),
    (CONLL.replace("Italy NNP I-NP B-LOC", "Italy NNP I-NP B-PER"),
     ["{}: tags read as IOB1",
      "{}, line 12: got tag B-PER after I-LOC, want I-PER by iob1; the first of 1 of 3 sentences that break it, which "
      "are read as conlleval reads them"]),
    ("a B-x\n\nb B-x\n\nc I-x\n",
     ["{}: tags read as IOB2", "{}, line 5: got tag I-x after the start, want B-x by iob2; the first of 1 of 3"]),
    ("a B-x\nb E-x\n\nc S-x\n\nd O\ne B-x\n",
     ["{}: tags read as BIOES", "{}, line 7: got tag B-x after O, want S-x by bioes; the first of 1 of 3"]),
  ],
)  # fmt: skip
def test_the_scheme_of_a_file_and_what_breaks_it_are_told(tmp_path, caplog, content, says):
  path = write(tmp_path, content)
  with caplog.at_level("INFO"):
    named_entities.read_columns(path)
  assert len(caplog.messages) == len(says)
  assert all(got.startswith(want.format(path)) for got, want in zip(caplog.messages, says))


def test_an_entity_ends_with_its_sentence(tmp_path):
  (document,) = named_entities.read_columns(write(tmp_path, "-DOCSTART- O\n\nAnn I-PER\n\nLee I-PER\n"))
  assert document.spans == ((0, 1, "PER"), (1, 2, "PER"))


def test_without_docstart_each_sentence_is_a_document(tmp_path):
  found = named_entities.read_columns(write(tmp_path, "a\tO\nNew York\tB-x\n\t\nc\tO\n"))
  assert [document.words for document in found] == [("a", "New York"), ("c",)]
  assert found[0].spans == ((1, 2, "x"),)


@pytest.mark.parametrize(
  ("old", "new", "parts"),
  [
    ("rejects VBZ I-VP O", "rejects VBZ O", ["line 4", "3 columns", "4"]),
    ("rejects VBZ I-VP O", "rejects VBZ I-VP VERB", ["line 4", "'VERB'"]),
    (CONLL, "\n\n", ["no word"]),
    (CONLL, "word\n", ["line 1", "1 columns"]),
  ],
)
def test_a_wrong_line_of_columns_is_named(tmp_path, old, new, parts):
  refused(named_entities.read_columns, write(tmp_path, CONLL.replace(old, new)), *parts)


# DocRED


def mention(sentence, first, end, kind):
  return {"sent_id": sentence, "pos": [first, end], "type": kind, "name": "x"}


DOCRED = {
  "title": "T",
  "sents": [["Ann", "Lee", "of", "Rome", "."], ["Lee", "left", "Italy", "."]],
  "vertexSet": [
    [mention(0, 0, 2, "PER"), mention(1, 0, 1, "PER")],
    [mention(0, 3, 4, "LOC")],
    [mention(1, 2, 3, "LOC"), mention(1, 2, 3, "ORG")],
    [mention(0, 1, 2, "PER")],
  ],
  "labels": [{"h": 0, "t": 1, "r": "P19"}, {"h": 0, "t": 2, "r": "P27"}, {"h": 0, "t": 2, "r": "P20"}],
}


def test_relations_of_docred_are_pairs_in_one_sentence(tmp_path):
  """Entity 3 lies inside entity 0's first mention; entities 1 and 2 share no sentence; (0, 2) has two relations."""
  found = docred.read_relations(write(tmp_path, [DOCRED]))
  texts = {(e.text[slice(*e.head)], e.text[slice(*e.tail)]): e.relation for e in found}
  none = dict.fromkeys([("Rome", "Ann Lee"), ("Italy", "Lee"), ("Rome", "Lee"), ("Lee", "Rome")], "no_relation")
  assert texts == {("Ann Lee", "Rome"): "P19", **none}


def test_types_and_entities_of_docred(tmp_path):
  path = write(tmp_path, [DOCRED])
  typed = [(e.text[slice(*e.span)], e.types) for e in docred.read_typing(path)]
  both = [("Italy", ("LOC", "ORG"))] * 2
  assert typed == [("Ann Lee", ("PER",)), ("Lee", ("PER",)), ("Rome", ("LOC",)), *both, ("Lee", ("PER",))]
  (document,) = docred.read_documents(path)
  assert document.sentences == (0, 5, 9)
  assert document.spans == ((0, 2, "PER"), (3, 4, "LOC"), (5, 6, "PER"), (7, 8, "LOC"))


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    ({"vertexSet": [[mention(2, 0, 1, "PER")]]}, ["document 0", "sentence 2"]),
    ({"vertexSet": [[mention(1, 3, 5, "PER")]]}, ["3 to 5"]),
    ({"vertexSet": [[mention(0, "0", 1, "PER")]]}, ["document 0: 'pos': got '0' in the list, want a whole number"]),
    ({"vertexSet": [[mention(0, 0, 1.0, "PER")]]}, ["document 0: 'pos': got 1.0 in the list, want a whole number"]),
    ({"vertexSet": [3]}, ["document 0: 'vertexSet': got 3 in the list, want a list each"]),
    ({"sents": [["Ann"], ["Lee", ""]]}, ["document 0, sentence 1: got '' for word 1, want a word"]),
    ({"labels": [{"h": 0, "t": 4, "r": "P1"}]}, ["(0, 4)"]),
  ],
)
def test_a_wrong_docred_record_is_named(tmp_path, change, parts):
  refused(docred.read_relations, write(tmp_path, [DOCRED | change]), *parts)


# The list of tasks


def test_tasks_are_found_by_name(tmp_path):
  write(tmp_path, [TYPED], "dev.json")
  assert len(registry.find("open_entity").examples(tmp_path, "dev")) == 1
  with pytest.raises(TaskError, match="'conll', want one of open_entity"):
    registry.find("conll")
  with pytest.raises(TaskError, match="got split 'valid', want one of \\['train', 'dev', 'test'\\]"):
    registry.find("open_entity").examples(tmp_path, "valid")


@pytest.mark.parametrize("task", ["open_entity", "tacred", "redocred_relations"])
def test_a_file_to_answer_need_not_say_what_is_true(tmp_path, task):
  own = [{key: value for key, value in record.items() if key not in ("labels", "relation")} for record in FILES[task]]
  (tmp_path / "test.json").write_text(json.dumps(own))
  task = registry.find(task)
  examples = task.read(tmp_path / "test.json")
  assert examples and {task.gold(example) for example in examples} == {None}


def test_a_file_without_labels_is_not_scored():
  task = registry.find("tacred")
  with pytest.raises(TaskError, match="f.json, example 3: says no answer"):
    task.figures([relations.RelationExample("a b", (0, 1), (2, 3), None, "f.json, example 3")], ["x"])
