"""Wrong texts, questions and models of classify, tag, answer and choose: one line that says where, status 2."""

import pytest

from tests.predict_heads import POSITIONS, folder
from tests.test_predict_errors import refused
from tests.trained import finished_run

CLASSIFY, TAG, ANSWER, CHOOSE, BERT = (f"--model={{{name}}}" for name in ("bert", "tags", "answer", "choose", "plain"))
TEXT, LINES, JSONL = "--text=a dog", "--input={tmp}/a.txt", "--input={tmp}/a.jsonl"
ASKED, HERE = "--question=who?", "--passage=a dog"
PAIR = '{"text": "a", "second": "b"}\n'
QUESTION = '{"question": "who?", "context": "a dog"}\n'
CHOICES = '{"text": "a", "choices": ["b", "c"]}\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Models by name."""
  base = tmp_path_factory.getbasetemp()
  found = {name: folder(base / "heads", name) for name in ("bert", "number", "tags", "answer", "choose")}
  return found | {"plain": finished_run(base)}


@pytest.mark.parametrize(
  ("argv", "content", "says"),
  [
    (["classify", BERT, TEXT], "", "want a model with a head that decides about texts, as sst2 trains it, and"),
    (["classify", TAG, TEXT], "", "this one has none (its heads: tag)"),
    (["tag", CLASSIFY, TEXT], "", "want a model with a head that finds entities"),
    (["answer", CLASSIFY, ASKED, HERE], "", "want a model with a head that answers questions"),
    (["choose", ANSWER, TEXT, "--choice=b", "--choice=c"], "", "want a model with a head that chooses"),
    (["relate", CLASSIFY, "--text=a b", "--spans=0:1,2:3"], "", "want a model with a head that tells relations"),
    (["fill", CLASSIFY, "--text=a [MASK]"], "", "want a model with a head that predicts words"),
    (["classify", "--model={tmp}/no", TEXT], "", "/no: no such directory"),
    (["classify", CLASSIFY, TEXT, "--top=5"], "", "top: got 5, want a number from 1 to 4, the classes that there are"),
    (["classify", "--model={number}", TEXT, "--top=2"], "", "top: got 2, want a number from 1 to 1"),
    (["classify", CLASSIFY, TEXT, "--split=space"], "", "split: is of a network on an ELMo"),
    (["classify", CLASSIFY, TEXT, "--batch_size=0"], "", "batch_size: got 0, want 1 or more"),
    (["classify", CLASSIFY, TEXT, "--max_length=99"], "", f"max_length: got 99, want 3 to {POSITIONS}"),
    (["classify", CLASSIFY, "--text=" + "cat " * 60], "", f"text 1: got 62 tokens, want at most {POSITIONS}; shorten"),
    (["classify", CLASSIFY, "--text= "], "", "--text: got ' ', want a text with words"),
    (["classify", CLASSIFY, LINES], "a\n\nb\n", "a.txt: line 2: got an empty text, want one with words; remove"),
    (["classify", CLASSIFY, LINES], "a\tb\na\n", "a.txt: line 2: got one text, want a pair as in line 1"),
    (["classify", CLASSIFY, LINES], "a\nb\tc\n", "a.txt: line 2: got a pair, want one text as in line 1"),
    (["classify", CLASSIFY, LINES], "a\tb\tc\n", "a.txt: line 1: got 3 columns, want a text, or FIRST<tab>SECOND"),
    (["classify", CLASSIFY, LINES, "--second=b"], "a\n", "--second is that of --text; lines of --input say their own"),
    (["classify", CLASSIFY, LINES], "", "a.txt: is empty, want a text file with one text a line"),
    (["classify", CLASSIFY, JSONL], PAIR + "{", "a.jsonl: line 2: got '{', want a JSON object"),
    (["classify", CLASSIFY, JSONL], PAIR + '{"text": 3}', "line 2: got '{\"text\": 3}', want an object with the texts"),
    (["classify", CLASSIFY, JSONL], PAIR + '{"text": "a"}', "line 2: got one text, want a pair as in line 1"),
    (["tag", TAG, "--input={tmp}/no.txt"], "", "no.txt: no such file"),
    (["tag", TAG, LINES], "a dog\n \n", "a.txt: line 2: got an empty text"),
    (["tag", TAG, "--text=a " + "t" * 33, "--max_length=9"], "", "text 1: word 1 has more than 7 pieces, want fewer"),
    (["answer", ANSWER, ASKED], "", "want --question, and one of --context=FILE and --passage=TEXT"),
    (["answer", ANSWER, HERE], "", "want --question, and one of"),
    (["answer", ANSWER], "", "want --question with --context or --passage, or --input"),
    (["answer", ANSWER, ASKED, HERE, JSONL], QUESTION, "want --question with --context or --passage, or --input"),
    (["answer", ANSWER, ASKED, "--context={tmp}/no.txt"], "", "no.txt: no such file, want a text file to answer from"),
    (["answer", ANSWER, ASKED, "--passage= "], "", "want a question and a context with words; one of them is empty"),
    (["answer", ANSWER, ASKED, HERE, "--top=21"], "", "top: got 21, want a number from 1 to 20, the answers that are"),
    (["answer", ANSWER, ASKED, HERE, "--null_threshold=nan"], "", "null_threshold: got nan, want a number"),
    (["answer", ANSWER, "--question=" + "who " * 50, HERE], "", "question 1: got 150 pieces, want at most 64; shorten"),
    (["answer", ANSWER, "--question=" + "who " * 50, HERE, "--cut"], "", "1: got a question of 64 pieces, want room"),
    (["answer", ANSWER, JSONL], QUESTION + '{"question": "a"}', "want an object with the texts 'question', 'context'"),
    (["answer", ANSWER, JSONL], QUESTION + '{"question": "a", "context": ""}', "line 2: got an empty context"),
    (["choose", CHOOSE, TEXT, "--choice=b"], "", "want --choice=TEXT twice or more with --text"),
    (["choose", CHOOSE, "--text=", "--choice=b", "--choice=c"], "", "--text: got '', want a text with words"),
    (["choose", CHOOSE, TEXT, "--choice=b", "--choice= "], "", "--choice: got ' ', want a text with words"),
    (["choose", CHOOSE, JSONL], CHOICES + CHOICES.replace("a", " "), "a.jsonl: line 2: got an empty text, want"),
    (["choose", CHOOSE, JSONL], CHOICES.replace('"c"', '""'), "line 1: got choices ['b', ''], want a list of two"),
    (["choose", CHOOSE, JSONL, "--choice=b"], CHOICES, "--choice is that of --text; lines of --input say their own"),
    (["choose", CHOOSE, JSONL], CHOICES + '{"text": "a", "choices": ["b"]}', "line 2: got choices ['b'], want a list"),
  ],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_line(folders, tmp_path, capsys, argv, content, says):
  for name in ("a.txt", "a.jsonl"):
    (tmp_path / name).write_text(content)
  names = {f"{{{name}}}": str(path) for name, path in folders.items()} | {"{tmp}": str(tmp_path)}
  for name, value in names.items():
    argv = [argument.replace(name, value) for argument in argv]
  refused(capsys, argv, says)
