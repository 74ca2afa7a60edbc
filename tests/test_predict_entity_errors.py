"""Wrong spans, titles, lines and models of commands on mentions: one line that says where, status 2, no traceback."""

import shutil

import pytest

import predict
from tests.predict_lukes import luke
from tests.trained import finished_run

LUKE, RELATE, TYPE, BERT = ("--model={pretrained}", "--model={relate}", "--model={type}", "--model={bert}")
TARO, JSONL = "--text=Taro lives in Tokyo", "--input={tmp}/a.jsonl"
OUT = "--output={tmp}/o.npz"
PAIR = '{"text": "Taro lives in Tokyo", "spans": [[0, 4], [14, 19]]}\n'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Models by name."""
  base, untitled = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("luke") / "untitled"
  found = {kind: luke(base, kind) for kind in ("pretrained", "relate", "type")}
  found |= {"bert": finished_run(base), "untitled": untitled}
  (shutil.copytree(found["pretrained"], untitled) / "entity_vocab.json").unlink()
  return found


@pytest.mark.parametrize(
  ("argv", "content", "says"),
  [
    (["relate", RELATE, JSONL], PAIR + "{", "a.jsonl: line 2: got '{', want a JSON object"),
    (["relate", RELATE, JSONL], PAIR + "\n" + PAIR, "a.jsonl: line 2: got '', want a JSON object"),
    (["relate", RELATE, JSONL], PAIR + "[1]", "a.jsonl: line 2: got '[1]', want an object with \"text\""),
    (["relate", RELATE, JSONL], '{"text": 3}', "line 1: got '{\"text\": 3}', want an object with \"text\""),
    (["relate", RELATE, JSONL], '{"text": "a"}', "a.jsonl: line 1: got no spans, want those of the mentions"),
    (["relate", RELATE, JSONL], '{"text": "a", "spans": [[0, 1]]}', "line 1: got 1 spans, want 2 for task relate"),
    (["relate", RELATE, JSONL], '{"text": "a", "spans": 7}', "line 1: got spans 7, want a list"),
    (["relate", RELATE, JSONL], '{"text": "a b", "spans": [[0, 1], [2, 4]]}', "line 1, span 1: got characters 2 to 4"),
    (["relate", RELATE, JSONL], '{"text": "a b", "spans": [[0, 1], [2]]}', "span 1: got [2], want two integers"),
    (["relate", RELATE, JSONL], '{"text": "a b", "head": [0, 1]}', "line 1: got no spans"),
    (["type", TYPE, JSONL], '{"text": "a", "spans": []}', "line 1: got an empty list of spans, want one at least"),
    (["encode", LUKE, JSONL, OUT], '{"text": "a", "spans": [[1, 1]]}', "line 1, span 0: got characters 1 to 1"),
    (["encode", LUKE, JSONL, OUT], '{"text": "a", "entities": ["A"]}', "line 1: got no spans"),
    (
      ["encode", LUKE, JSONL, OUT],
      '{"text": "a", "spans": [[0, 1]], "entities": []}',
      "a.jsonl: line 1: got 0 titles, want 1; give one for each span",
    ),
    (["fill", LUKE, JSONL], '{"text": "a", "spans": [[0, 1]], "entities": [3]}', "got entities [3], want titles"),
    (["fill", LUKE, JSONL], '{"text": "a", "spans": [[0, 1]], "entities": ["A"]}', "got no <mask> and no masked"),
    (["fill", LUKE, JSONL], '{"text": "a b", "spans": [[1, 2]]}', "text 1: span 1:2 ' ' has no piece, want a mention"),
    (["fill", LUKE, JSONL, "--spans=0:1"], PAIR, "--spans and --titles are those of --text"),
    (["fill", LUKE, TARO, "--spans=0:4", "--titles=A,B"], "", "--titles: got 2 titles between commas, want 1, one for"),
    (["fill", LUKE, TARO, "--spans=0:4", "--titles=A, B"], "", "that has a comma in it needs --input=FILE.jsonl"),
    (["fill", LUKE, TARO, "--spans=0-4"], "", "--spans: got '0-4', want FIRST:END in characters"),
    (["fill", LUKE, TARO, "--titles=A"], "", "--text: got no spans"),
    (["fill", LUKE, TARO, "--spans=0:4", "--top=0"], "", "top: got 0, want a number from 1 to 9"),
    (["fill", RELATE, TARO, "--spans=0:4"], "", "want a model with a head that predicts entities, and"),
    (["relate", RELATE, TARO], "", "--text: got no spans"),
    (["relate", RELATE, TARO, "--head=0:4"], "", "want --head and --tail together, or --spans"),
    (["relate", RELATE, TARO, "--head=0:4", "--tail=1:2", "--spans=0:4"], "", "want --head and --tail together, or"),
    (["relate", RELATE, TARO, "--head=0:4", "--tail=2:9"], "", "overlap, want spans that get markers apart"),
    (["relate", RELATE, TARO, "--head=0:4", "--tail=14:20"], "", "--text, span 1: got characters 14 to 20"),
    (["relate", RELATE, JSONL, "--head=0:4", "--tail=1:2"], PAIR, "spans on the command line are those of --text"),
    (["relate", RELATE, TARO, "--spans=0:4,14:19", "--top=4"], "", "top: got 4, want a number from 1 to 3"),
    (["type", TYPE, TARO, "--spans=0:4", "--top=0"], "", "top: got 0, want a number from 1 to 3"),
    (["relate", TYPE, TARO, "--spans=0:4,14:19"], "", "a head that tells relations, as configs/finetune.py:tacred"),
    (["type", RELATE, TARO, "--spans=0:4"], "", "a head that tells types, as configs/finetune.py:open_entity trains"),
    (["relate", BERT, TARO, "--spans=0:4,14:19"], "", "and this one has none (its heads: mlm, pair)"),
    (["fill", BERT, TARO, "--spans=0:4"], "", "got a Bert, want a LUKE for texts with spans; leave the spans out"),
    (["encode", BERT, JSONL, OUT], PAIR, "got a Bert, want a LUKE for texts with spans"),
    (["encode", "--model={untitled}", JSONL, OUT], PAIR, "has no entity_vocab.json beside its tokenizer, want it"),
    (["type", TYPE, JSONL], PAIR + '{"text": "' + "a " * 70 + '", "spans": [[0, 1]]}', "text 2: got 75 tokens"),
  ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(folders, tmp_path, capsys, argv, content, says):
  (tmp_path / "a.jsonl").write_text(content)
  places = {"tmp": tmp_path, **folders}
  try:
    status = predict.main([argument.format(**places) if "{" in argument else argument for argument in argv])
  except SystemExit as ended:
    status = ended.code
  out, err = capsys.readouterr()
  assert status == 2 and out == ""
  (line,) = err.splitlines()
  assert line.startswith(f"predict.py {argv[0]}: ") and says in line
