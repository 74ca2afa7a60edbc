"""Wrong input to predict.py, and folders that hold no model that runs: one line, status 2, no traceback."""

import errno
import json
import shutil

import pytest

import predict
from tests.trained import LAYERS, POSITIONS, TRAINED, VOCAB, finished_run
from trainer.finetuning.recipe import pretrained
from trainer.loading import read_config
from trainer.texts import InputError


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return finished_run(tmp_path_factory.getbasetemp())


MODEL = "--model={model}"
ENCODE = ["encode", MODEL, "--input={tmp}/a.txt"]
OUT = "--output={tmp}/out.npz"
LONG = "cat " * 30


@pytest.mark.parametrize(
  ("argv", "says"),
  [
    (["reply"], "choose from 'encode', 'fill', 'pair', 'detect', 'classify', 'tag', 'answer', 'choose', 'relate'"),
    ([], "required: {encode,fill,pair,detect,classify,tag,answer,choose,relate,type,tokenize,neighbors}"),
    (["fill", MODEL], "one of the arguments --text --input is required"),
    (["fill", MODEL, "--text=a [MASK]", "--text=b [MASK]"], "argument --text: is given twice, want it once"),
    (["fill", "--modle=x", "--text=a [MASK]"], "unrecognized argument --modle; did you mean --model?"),
    (["fill", MODEL, "--input={tmp}"], "is a folder, want a text file"),
    (["fill", MODEL, "--text=a [MASK]", "--top=many"], "--top: invalid int value: 'many'"),
    (["fill", MODEL, "--text=a [MASK]", "--top=0"], f"top: got 0, want a number from 1 to {VOCAB}"),
    (["fill", MODEL, "--text=a [MASK]", "--batch_size=0"], "batch_size: got 0, want 1 or more"),
    (["fill", MODEL, "--text=a [MASK]", "--dtype=int8"], "invalid choice: 'int8'"),
    (["fill", "--model={tmp}/no", "--text=a [MASK]"], "/no: no such directory, want a workdir"),
    (["fill", "--model={tmp}", "--text=a [MASK]"], "has no config.json, want a workdir"),
    (["fill", MODEL, "--text=the cat"], "text 1: got no [MASK] in 'the cat'"),
    (["fill", MODEL, "--text=[MASK]" + " cat" * 60], f"text 1: got 63 tokens, want at most {TRAINED}"),
    (["fill", MODEL, "--input={tmp}/no.txt"], "no.txt: no such file"),
    (["fill", MODEL, "--input={tmp}/empty.txt"], "empty.txt: is empty"),
    (["fill", MODEL, "--input={tmp}/latin1.txt"], "latin1.txt: line 2: got invalid"),
    ([*ENCODE, OUT, "--pool=max"], "pool: got 'max', want one of none, cls, pooler, mean"),
    ([*ENCODE, OUT, "--layers=0,3"], "layers: got '0,3', want last, none, all, or numbers from -3"),
    ([*ENCODE, OUT, "--layers=first"], "layers: got 'first'"),
    ([*ENCODE, OUT, "--max_length=65"], f"max_length: got 65, want 3 to {POSITIONS}"),
    ([*ENCODE, "--output={tmp}/no/out.npz"], "in one that does not exist"),
    ([*ENCODE, "--output={tmp}"], "is a directory"),
    (["pair", MODEL, "--first=a"], "want --first and --second"),
    (["pair", MODEL, "--first=a", "--second=b", "--input={tmp}/a.txt"], "want --first and --second"),
    (["pair", MODEL, "--input={tmp}/a.txt"], "line 1: got 1 columns, want FIRST<tab>SECOND"),
    (["pair", MODEL, f"--first={LONG}", f"--second={LONG}"], f"text 1: got 63 tokens, want at most {TRAINED}"),
    (["tokenize", "--model={tmp}/no", "--text=a"], "no such file or directory, want a workdir"),
    (["tokenize", "--model={tmp}", "--text=a"], "want tokenizer.json or vocab.txt"),
    (["tokenize", MODEL, "--text=a\udcff"], "lone surrogate"),
  ],
)  # fmt: skip
def test_a_wrong_command_is_one_line_and_status_2(workdir, tmp_path, capsys, argv, says):
  (tmp_path / "a.txt").write_text("a dog\n")
  (tmp_path / "empty.txt").write_text("")
  (tmp_path / "latin1.txt").write_bytes(b"a\ncaf\xe9\n")
  argv = [argument.replace("{model}", str(workdir)).replace("{tmp}", str(tmp_path)) for argument in argv]
  refused(capsys, argv, says)


def refused(capsys, argv, says):
  """Holds a command to status 2, nothing on stdout and one line on stderr."""
  try:
    status = predict.main(argv)
  except SystemExit as ended:
    status = ended.code
  out, err = capsys.readouterr()
  assert status == 2 and out == ""
  (line,) = err.splitlines()
  assert line.startswith("predict.py") and says in line


def config_text(text):
  return lambda folder: (folder / "config.json").write_text(text)


def config_model(change):
  def rewrite(folder):
    values = json.loads((folder / "config.json").read_text())
    change(values["model"])
    (folder / "config.json").write_text(json.dumps(values))

  return rewrite


def cut_manifests(folder):
  for manifest in (folder / "checkpoints").glob("*/manifest.json"):
    manifest.write_text(manifest.read_text()[:-9])


@pytest.mark.parametrize(
  ("harm", "says"),
  [
    (config_text('{"model_type": "bert", "hidden_size": 32}'), "want model.safetensors or"),
    (config_text("{"), "config.json: no JSON"),
    (config_text("{}"), "config.json: got no key schema"),
    (config_model(lambda model: model.pop("ffn")), "'ffn'"),
    (config_model(lambda model: model.pop("max_positions")), "'max_positions'"),
    (config_model(lambda model: model.update(name="gpt")), "'gpt'"),
    (config_model(lambda model: model.update(layers=0)), "model.layers: got 0, want"),
    (config_model(lambda model: model.update(ffn=48)), f"ffn/down/kernel: got float32[{LAYERS}, 64, 32]"),
    (config_model(lambda model: model.update(vocab_size=100)), f"got {VOCAB} pieces, want 100"),
    (lambda folder: shutil.rmtree(folder / "tokenizer"), "has no folder tokenizer/"),
    (lambda folder: shutil.rmtree(folder / "checkpoints"), "has no good checkpoint"),
    (cut_manifests, "no good checkpoint among [7, 3]"),
  ],
)  # fmt: skip
def test_a_workdir_that_cannot_run_is_one_line(workdir, tmp_path, capsys, harm, says):
  copy = shutil.copytree(workdir, tmp_path / "copy")
  harm(copy)
  refused(capsys, ["fill", f"--model={copy}", "--text=a [MASK]"], says)


def test_a_folder_of_several_seeds_is_none_of_its_runs(workdir, tmp_path, capsys):
  """What --seeds makes; its runs are named, in the order of their numbers."""
  for seed in (10, 2):
    (tmp_path / f"runs/seed-{seed}").mkdir(parents=True)
    shutil.copy(workdir / "config.json", tmp_path / f"runs/seed-{seed}")
  want = f"want one of its runs: {tmp_path}/runs/seed-2, {tmp_path}/runs/seed-10"
  refused(capsys, ["fill", f"--model={tmp_path}/runs", "--text=a [MASK]"], f"runs: has no config.json, {want}")
  refused(capsys, ["tokenize", f"--model={tmp_path}/runs", "--text=a"], f"runs: has no tokenizer, {want}")
  with pytest.raises(InputError, match=f"runs: has no config.json of a run, {want}"):
    read_config(tmp_path / "runs")
  with pytest.raises(InputError, match=want):
    pretrained(str(tmp_path / "runs"))


def test_an_output_that_cannot_be_written_leaves_nothing_behind(workdir, tmp_path, capsys, monkeypatch):
  (tmp_path / "a.txt").write_text("a dog\n")
  output = tmp_path / "out.npz"
  output.write_text("what stood there")

  def full(file, **arrays):
    file.write(b"part")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr("numpy.savez", full)
  assert predict.main(["encode", f"--model={workdir}", f"--input={tmp_path}/a.txt", f"--output={output}"]) == 2
  assert capsys.readouterr().err.splitlines()[-1].endswith("out.npz: cannot be written: No space left on device")
  assert output.read_text() == "what stood there"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.npz"]
