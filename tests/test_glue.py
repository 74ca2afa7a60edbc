"""Tasks on one text or two: the forms of their official files, their rows, their figures."""

import collections
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from data.tasks import glue, registry
from data.tasks.rows import TaskError
from data.tasks.texts import TextExample, TextRows, accuracy_f1, class_matthews, correlations, shortened
from tests.task_rows import LETTERS, ROBERTA, said

GLUE = Path(__file__).parent.parent / "../shared/data/glue"
NLI = ["contradiction", "entailment", "neutral"]
# Task -> lines of its official form, and of the first example the texts and the label.
OFFICIAL = {
  "sst2": (["sentence\tlabel", "a  film \t1"], ("a  film",), "positive"),
  "cola": (["gj04\t0\t*\tThe book was."], ("The book was.",), "unacceptable"),
  "mnli": (
    [
      "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
      "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
      '0\t3\t3n\tfiction\t( a )\t( b )\t(R a)\t(R b)\tHe said "no.\tHe left.\tneutral\tneutral',
    ],
    ('He said "no.', "He left."),
    "neutral",
  ),
  "snli": (
    [
      "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\t"
      "sentence2\tcaptionID\tpairID\tlabel1\tlabel2",
      "-\t( )\t( )\t( )\t( )\tA dog.\tA cat.\t1\t1r\tneutral\tentailment",
      "entailment\t( )\t( )\t( )\t( )\tA man.\tA person.\t2\t2r\tentailment",
    ],
    ("A man.", "A person."),
    "entailment",
  ),
  "qnli": (["index\tquestion\tsentence\tlabel", "0\tWho?\tAnn.\tnot_entailment"], ("Who?", "Ann."), "not_entailment"),
  "rte": (["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tentailment"], ("A.", "B."), "entailment"),
  "mrpc": (["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\t"A" b\tC'], ('"A" b', "C"), "equivalent"),
  "qqp": (
    ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWhat?\tWhich?\t0"],
    ("What?", "Which?"),
    "not_duplicate",
  ),
  "stsb": (
    [
      "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
      "0\tmain\tMSRvid\t2012\t0\tnone\tnone\tA.\tB.\t3.800",
    ],
    ("A.", "B."),
    3.8,
  ),
  "wnli": (["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1"], ("A.", "B."), "entailment"),
}


def write(folder, lines, name="train.tsv"):
  path = folder / name
  path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
  return path


def refused(read, path, says):
  with pytest.raises(TaskError) as caught:
    read(path)
  assert says.format(path) in str(caught.value) and "\n" not in str(caught.value)


# Files


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_columns(name, tmp_path):
  """No quotation mark means anything, labels have names, lines are counted from 1."""
  lines, texts, label = OFFICIAL[name]
  task = registry.find(name)
  (example,) = task.read(write(tmp_path, lines))
  assert (example.texts, example.label) == (texts, label)
  assert example.where == f"{tmp_path / 'train.tsv'}, line {len(lines)}" and task.gold(example) == label
  assert task.label_list([example]) == (("score",) if name == "stsb" else tuple(task.read.classes.values()))


def test_classes_stand_in_the_order_of_the_published_heads():
  lists = {name: registry.find(name).label_list([]) for name in registry.TASKS if name in (*OFFICIAL, "sst5")}
  assert lists["mnli"] == lists["snli"] == ("contradiction", "entailment", "neutral")
  assert lists["qnli"] == lists["rte"] == ("entailment", "not_entailment")
  assert lists["sst2"] == ("negative", "positive") and lists["cola"] == ("unacceptable", "acceptable")
  assert lists["wnli"] == ("not_entailment", "entailment") and len(lists["sst5"]) == 5
  assert lists["mrpc"] == ("not_equivalent", "equivalent") and lists["qqp"] == ("not_duplicate", "duplicate")


def test_test_files_say_no_label(tmp_path):
  task = registry.find("cola")
  (example,) = task.read(write(tmp_path, ["index\tsentence", "0\tBill left."]))
  assert example.texts == ("Bill left.",) and example.label is None and task.gold(example) is None
  assert all("test" not in registry.find(name).files for name in OFFICIAL if name != "snli")


def test_examples_have_the_name_that_predictions_go_by(tmp_path):
  """The file's own index, QQP's id, else the number in the file; what is left out counts."""
  names = lambda name, lines: [e.name for e in registry.find(name).read(write(tmp_path, lines))]
  assert names("rte", ["index\tsentence1\tsentence2\tlabel", "7\tA.\tB.\tentailment"]) == ["7"]
  assert names("qqp", [OFFICIAL["qqp"][0][0], "31\t1\t2\tWhat?\tWhich?\t0"]) == ["31"]
  assert names("cola", ["gj04\t0\t*\tBook was.", "gj04\t1\t\tBill left."]) == ["0", "1"]
  assert names("snli", OFFICIAL["snli"][0]) == ["1"]
  assert names("sst5", ["(3 (2 Good) (2 film))", "(1 (2 Bad) (2 film))"]) == ["0", "1"]
  records = [{"text_a": "A.", "text_b": "B.", "label": "-"}, {"text_a": "C.", "text_b": "D.", "label": "neutral"}]
  assert names("mnli", map(json.dumps, records)) == ["1"]
  assert names("mnli", [json.dumps(dict(zip("xy", records)))]) == ["y"]
  assert names("mnli", [json.dumps([each | {"idx": 5} for each in records])]) == ["5"]


def test_each_further_file_has_figures_of_its_own(tmp_path):
  """The diagnostic set has Matthews's correlation; a file that is not in the folder has no figures."""
  mnli = registry.find("mnli")
  write(tmp_path, ["index\tsentence1\tsentence2\tgold_label", "0\ta\tb\tneutral"], "dev_mismatched.tsv")
  assert list(mnli.further_examples(tmp_path)) == ["mismatched"]
  lines = ["Lexical Semantics\tLogic\tDomain\tPremise\tHypothesis\tLabel"]
  lines += [f"x\t\tNews\ta {i}\tb\t{label}" for i, label in enumerate(("neutral", "entailment", "contradiction"))]
  write(tmp_path, lines, "diagnostic-full.tsv")
  held = {"": [TextExample(("a", "b"), "neutral")] * 2} | mnli.further_examples(tmp_path)
  assert [example.label for example in held["diagnostic"]] == ["neutral", "entailment", "contradiction"]
  right = {name: [np.eye(3)[[NLI.index(e.label)]] for e in examples] for name, examples in held.items()}
  right[""][0] = np.eye(3)[[0]]
  wanted = {"": {"accuracy": 1 / 2}, "mismatched": {"accuracy": 1}, "diagnostic": {"matthews": 1}}
  for name, examples in held.items():
    task = mnli.beside(name) if name else mnli
    assert task.evaluate(examples, mnli.rows(examples, LETTERS, NLI), right[name], NLI) == pytest.approx(wanted[name])


def test_the_diagnostic_file_without_labels_is_one_to_predict(tmp_path):
  mnli = registry.find("mnli")
  path = write(tmp_path, ["index\tsentence1\tsentence2", "0\tA.\tB."], mnli.blind["AX"])
  (example,) = mnli.read(path)
  assert mnli.gold(example) is None and mnli.further_examples(tmp_path) == {}


def test_columns_may_begin_with_a_bracket(tmp_path):
  """A text is JSON where it can be parsed, or where its name says so."""
  for mark in ("[", "{"):
    (example,) = registry.find("cola").read(write(tmp_path, [f"{mark}x\t1\t\tHe ran"]))
    assert (example.texts, example.label) == (("He ran",), "acceptable")
    refused(registry.find("mnli").read, write(tmp_path, [mark, "b"]), "{}, line 1: got the columns '")
    refused(registry.find("mnli").read, write(tmp_path, [mark, "b"], "a.json"), "{}, line 2: got Expecting")
  refused(registry.find("mnli").read, write(tmp_path, [], "a.jsonl"), "{}: got no example, want some")


def test_json_is_told_by_what_is_in_the_file(tmp_path):
  records = [{"text_a": "A.", "text_b": "B.", "label": "neutral"}, {"text_a": "C.", "text_b": "D."}]
  lines = [{"gold_label": "-", "sentence1": "A.", "sentence2": "B."}, {"sentence1": "C.", "sentence2": "D."}]
  lines[1]["gold_label"] = "contradiction"
  read = registry.find("mnli").read
  named = dict(zip("xy", records))
  for content, where in (
    (json.dumps(named, indent=2), ("record x", "record y")),
    (json.dumps(named), ("record x", "record y")),
    (json.dumps(records), ("record 0", "record 1")),
  ):
    first, second = read(write(tmp_path, [content], "dev.txt"))
    assert (first.texts, first.label, second.label) == (("A.", "B."), "neutral", None)
    assert (first.where, second.where) == tuple(f"{tmp_path / 'dev.txt'}, {place}" for place in where)
  (only,) = read(write(tmp_path, map(json.dumps, lines), "dev.txt"))
  assert (only.texts, only.label, only.where[-6:]) == (("C.", "D."), "contradiction", "line 2")
  refused(read, write(tmp_path, ['{"sentence1": "A."', "}"]), "{}, record sentence1: got 'A.', want an object")
  refused(read, write(tmp_path, ['{"text_a": "A.", "label": "neutral"}']), "{}, line 1: got the fields 'label', 'text")
  refused(read, write(tmp_path, [json.dumps(lines[1]), "{"]), "{}, line 2: got Expecting")
  refused(read, write(tmp_path, [json.dumps(lines[1]), "[" * 100_000]), "{}, line 2: got maximum recursion depth")


def test_pairs_without_agreement_are_left_out_and_the_first_is_named(tmp_path, caplog):
  lines, _, _ = OFFICIAL["snli"]
  with caplog.at_level(logging.WARNING):
    assert len(registry.find("snli").read(write(tmp_path, [*lines, lines[1]]))) == 1
  (record,) = caplog.records
  assert record.getMessage() == (
    f"{tmp_path / 'train.tsv'}, line 2: the first of 2 of 3 examples that are left out: without a label that the "
    "annotators agreed on"
  )


def test_damaged_lines_are_left_out_of_training_alone(tmp_path, caplog):
  """QQP's. A test line that is left out would make what is handed in invalid."""
  task, lines = registry.find("qqp"), [*OFFICIAL["qqp"][0], "1\t3\t4\tWhere?", "2\t5\t6\tWho?\tWhom?\t1\tx"]
  train, dev = (write(tmp_path, lines, f"{name}.tsv") for name in ("train", "dev"))
  test = write(tmp_path, [lines[0].rpartition("\t")[0], "0\tWhat?"], "test.tsv")
  with caplog.at_level(logging.WARNING):
    assert len(task.examples(tmp_path, "train")) == 1
  (record,) = caplog.records
  assert record.getMessage().startswith(f"{train}, line 3: the first of 2 of 3 examples that are left out: damaged")
  refused(lambda _: task.examples(tmp_path, "dev"), dev, "{}, line 3: got 4 columns, want 6")
  refused(task.read, test, "{}, line 2: got 2 columns, want 5")


@pytest.mark.parametrize(
  "name, old, new, says",
  [
    ("sst2", "sentence", "text", "{}, line 1: got the columns 'text', 'label', want ['sentence'] among their names"),
    ("sst2", "\t1", "\t2", "{}, line 2: got label '2', want one of ['0', '1']"),
    ("sst2", "\t1", "", "{}, line 2: got 1 columns, want 2 ('sentence', 'label')"),
    ("sst2", "\t1", "\t1\t1", "{}, line 2: got 3 columns, want 2"),
    ("sst2", "a  film \t1", "", "{}: got no example, want some"),
    ("cola", "gj04\t", "", "{}, line 1: got the columns '0', '*', 'The book was.', want ['sentence'] among"),
    ("cola", "gj04\t", "", "or 4 columns without names"),
    ("snli", "entailment\t( )", "yes\t( )", "{}, line 3: got label 'yes', want one of ['contradiction', 'entail"),
    ("stsb", "3.800", "5.1", "{}, line 2: got '5.1', want a number from 0 to 5"),
    ("stsb", "3.800", "nan", "{}, line 2: got 'nan', want a number from 0 to 5"),
    ("stsb", "3.800", "much", "{}, line 2: got 'much', want a number from 0 to 5"),
  ],
)
def test_a_wrong_line_is_named(name, old, new, says, tmp_path):
  lines = [line.replace(old, new) for line in OFFICIAL[name][0]]
  refused(registry.find(name).read, write(tmp_path, lines), says)


def test_an_empty_file_is_named(tmp_path):
  for name in ("sst2", "cola", "sst5"):
    refused(registry.find(name).read, write(tmp_path, []), "{}: is empty, want ['sentence'] in columns")


# The sentiment tree-bank


TREE = "(4 (2 It) (3 (1 (2 's) (0 -LRB-not-RRB-)) (2 (2 a\\/b) (2 -LRB-))))"


def test_a_tree_is_a_sentence_or_its_phrases(tmp_path):
  path = write(tmp_path, [TREE, "", "(0 No)"])
  assert [(e.texts, e.label) for e in glue.read_sst5(path)] == [
    (("It 's -LRB-not-RRB- a\\/b (",), "very positive"),
    (("No",), "very negative"),
  ]
  phrases = [(e.texts[0], e.label, e.where[-1]) for e in glue.read_sst5(path, phrases=True)]
  assert len(phrases) == 10 and phrases[0] == ("It", "neutral", "1") and phrases[-1] == ("No", "very negative", "3")
  assert ("'s -LRB-not-RRB-", "negative", "1") in phrases and ("a\\/b (", "neutral", "1") in phrases


def test_the_tree_bank_in_columns(tmp_path):
  (example,) = glue.read_sst5(write(tmp_path, ["sentence\tlabel", "fine\t3"]))
  assert (example.texts, example.label) == (("fine",), "positive")


@pytest.mark.parametrize(
  "tree", ["(3 (2 a)", "(3 (2 a)))", "(3 )", "(3 (2 a) (2))", "(2 a) (2 b)", "(2 a) b", "()", "(("]
)
def test_what_is_no_tree_is_named(tree, tmp_path):
  path = write(tmp_path, ["(2 a)", tree])
  refused(glue.read_sst5, path, "{}, line 2: got " + tree + ", want one tree like (3 (2 Good) (2 film))")
  refused(glue.read_sst5, write(tmp_path, ["(5 a)"]), "{}, line 1: got label '5', want one of ['0', '1', '2'")


# Rows of pieces


def test_one_text_and_a_pair_in_pieces():
  text, pair = TextExample(("a b c d e",), "y"), TextExample(("a b c d", "e f"), None)
  one, two = TextRows(max_length=5)([text], LETTERS, ("x", "y")) + TextRows()([pair], LETTERS, ("x", "y"))
  assert said(one, LETTERS) == "[CLS] a b c [SEP]" and one.labels.tolist() == [1] and one.weights.tolist() == [1]
  assert one.cls.tolist() == [0] and one.several is None and one.example == 0
  assert said(two, LETTERS) == "[CLS] a b c d [SEP] e f [SEP]" and two.types.tolist() == [0] * 6 + [1] * 3
  assert two.labels.tolist() == [0] and two.weights.tolist() == [0]
  (roberta,) = TextRows(max_length=8)([pair], ROBERTA, ("x", "y"))
  assert said(roberta, ROBERTA) == "<s> a b </s> </s> e f </s>" and set(roberta.types.tolist()) == {0}
  with pytest.raises(TaskError, match="example: got label 'z', want one of the 2"):
    TextRows()([TextExample(("a",), "z")], LETTERS, ("x", "y"))


def test_a_number_stands_beside_the_class():
  rows = registry.find("stsb").rows([TextExample(("a", "b"), 3.5), TextExample(("a", "b"), None)], LETTERS, ("score",))
  assert [row.several.tolist() for row in rows] == [[[3.5]], [[0.0]]] and rows[0].several.dtype == np.float32
  assert [row.weights.tolist() for row in rows] == [[1.0], [0.0]] and rows[0].labels.tolist() == [0]


def shortened_oracle(first, second, room):
  """run_classifier.py's loop."""
  while first + second > room:
    if first > second:
      first -= 1
    else:
      second -= 1
  return first, second


def test_the_longer_text_loses_its_end():
  for first in range(9):
    for second in range(9):
      for room in range(17):
        assert shortened(first, second, room) == shortened_oracle(first, second, room)


# Answers and figures


def test_answers_of_texts():
  mnli, stsb = registry.find("mnli"), registry.find("stsb")
  examples = [TextExample(("a", "b"), "neutral"), TextExample(("b", "c"), "entailment")]
  rows = mnli.rows(examples, LETTERS, NLI)
  found = mnli.decode(examples, rows[::-1], [np.array([[0, 2, 1]]), np.array([[1, 0, 3]])], NLI)
  assert found == ["neutral", "entailment"] and mnli.figures(examples, found) == {"accuracy": 1}
  examples = [TextExample(("a", "b"), 1.0), TextExample(("b", "c"), 5.0), TextExample(("c", "d"), 2.0)]
  rows = stsb.rows(examples, LETTERS, ("score",))
  found = stsb.decode(examples, rows, [np.array([[value]]) for value in (0.5, 3.0, 1.0)], ("score",))
  assert found == [0.5, 3.0, 1.0]
  assert stsb.figures(examples, found) == correlations([1.0, 5.0, 2.0], found)


def test_figures_of_paraphrases_by_hand():
  """4 of 8 right. Of 5 pairs said to be equivalent 3 are, of the 5 that are 3 were found: F1 = 3/5."""
  gold = ["y", "y", "y", "y", "y", "n", "n", "n"]
  guess = ["y", "y", "y", "n", "n", "y", "y", "n"]
  assert accuracy_f1(gold, guess, "y") == pytest.approx({"accuracy": 0.5, "f1": 0.6, "accuracy_f1": 0.55})
  assert accuracy_f1(gold, guess, "n")["f1"] == pytest.approx(2 * 1 / (3 + 3))


def test_figures_of_acceptability_by_hand():
  """3 right of 5 with one of them unacceptable: (tp tn - fp fn) / sqrt(...) = (2*1 - 1*1) / sqrt(3*3*2*2)."""
  gold, guess = ["y", "y", "y", "n", "n"], ["y", "y", "n", "y", "n"]
  assert class_matthews(gold, guess, "y") == pytest.approx({"matthews": 1 / 6, "accuracy": 0.6})


def test_figures_of_similarity_by_hand():
  """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: sums of squares 4.5 and 5, of products 4.5."""
  found = correlations([0, 1, 1, 5], [1, 2, 3, 4])
  pearson = (1.5 * 1.75 + 0.5 * 0.75 - 0.5 * 0.75 + 1.5 * 3.25) / (5 * 14.75) ** 0.5
  spearman = 4.5 / (4.5 * 5) ** 0.5
  want = {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}
  assert found == pytest.approx(want)


# Other heads


def test_a_task_is_put_to_another_head():
  task = registry.find("snli")
  words = task.put("words_pair")
  assert (task.head, words.head) == ("classify", "words_pair") and words.score is task.score
  assert words.put("words_pair") is words
  with pytest.raises(TaskError, match="task snli: got head 'tag', want one of classify, words_pair"):
    task.put("tag")
  heads = {name: {task.head, *task.others} for name, task in registry.TASKS.items()}
  assert heads["wnut17"] == heads["conll2003"] == {"spans", "tag", "words_tag"}
  assert heads["sst2"] == heads["sst5"] == heads["cola"] == {"classify", "words_classify"}
  assert heads["stsb"] == {"regress", "words_regress"} and heads["qqp"] == {"classify", "words_pair"}
  assert heads["squad"] == {"answer", "words_answer"} and heads["swag"] == {"choose", "words_choose"}


# Real files


def real(name, folder, file):
  path = GLUE / folder / file
  if not path.is_file():
    pytest.skip(f"../shared/data has no glue/{folder}/{file}")
  return registry.find(name).read(path)


@pytest.mark.parametrize(
  "name, folder, sizes, labels",
  [
    ("sst2", "SST-2", {"train.tsv": 67349, "dev.tsv": 872, "test.tsv": 1821}, {"positive": 444, "negative": 428}),
    ("cola", "CoLA", {"train.tsv": 8551, "dev.tsv": 1043, "test.tsv": 1063}, {"acceptable": 721, "unacceptable": 322}),
    ("stsb", "STS-B", {"train.tsv": 5749, "dev.tsv": 1500, "test.tsv": 1379}, None),
    ("mnli", "MNLI-sample", {"train.json": 8999, "dev.json": 1000}, dict(zip(NLI, (320, 347, 333)))),
  ],
)
def test_real_files_have_the_published_numbers_of_examples(name, folder, sizes, labels):
  for file, size in sizes.items():
    found = real(name, folder, file)
    assert len(found) == size and all(text for example in found for text in example.texts)
    if file.startswith("test"):
      assert {example.label for example in found} == {None}
    elif file.startswith("dev") and labels:
      assert collections.Counter(example.label for example in found) == labels
    elif labels is None:
      assert min(e.label for e in found) == 0 and max(e.label for e in found) == 5
