"""Running a trained model on text gives what the model gives for each text alone."""

import dataclasses
import functools
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
import predict
from data.batch import Tokens
from tests.trained import HIDDEN, POSITIONS, SENTENCES, SIZES, TRAINED, VOCAB, finished_run
from trainer.config import load
from trainer.inference import encode, fill, load_model, pair
from trainer.inference.encoding import layer_numbers
from trainer.texts import InputError, chunks, read_lines

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["the cat sat", "", " ".join(SENTENCES), "a dog ran"]  # 5, 2, 20 and 5 tokens


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return finished_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def loaded(workdir):
  return load_model(workdir)


@pytest.fixture
def lines(tmp_path):
  """A function that writes texts as a file of lines."""

  def write(texts, name="texts.txt"):
    (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(tmp_path / name)

  return write


def command(capsys, *argv):
  """(JSON lines, summary) of a command that succeeds."""
  assert predict.main([str(argument) for argument in argv]) == 0
  *records, summary = map(json.loads, capsys.readouterr().out.splitlines())
  assert summary["command"] == argv[0]
  return records, summary


@functools.partial(jax.jit, static_argnums=0)
def everything(model, params, tokens):
  variables, columns = {"params": params}, tokens.positions
  encoded = model.apply(variables, tokens.ids, tokens, collect=True)
  names = ("token_logits", "pool", "pair_logits")
  heads = {name: model.apply(variables, encoded.hidden, columns, method=name) for name in names}
  return {"hidden": encoded.hidden, "layers": encoded.layers[:, 0], **heads}


def alone(loaded, ids, types=None):
  """What the model itself gives for one row without padding: layers [T+1, L, D], the rest [L, ...]."""
  ids = np.asarray(ids, np.int32)[None]
  types = np.zeros_like(ids) if types is None else np.asarray(types, np.int32)[None]
  tokens = Tokens(ids, types, np.ones_like(ids), np.arange(ids.shape[1], dtype=np.int32)[None])
  outputs = jax.device_get(everything(loaded.model, loaded.params, tokens))
  return SimpleNamespace(**{name: value if name == "layers" else value[0] for name, value in outputs.items()})


def softmax(logits):
  e = np.exp(np.asarray(logits, np.float64) - np.max(logits))
  return e / e.sum()


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# --- the model of a workdir ------------------------------------------------------------------------------------------


def test_the_newest_good_checkpoint_is_loaded(workdir, loaded):
  assert loaded.source == f"{workdir} step 7"
  assert loaded.tokenizer.vocab_size == loaded.model.config.vocab_size == VOCAB


def test_a_damaged_checkpoint_gives_way_to_the_one_before(workdir, loaded, tmp_path, caplog):
  copy = shutil.copytree(workdir, tmp_path / "copy")
  files = (path for path in (copy / "checkpoints" / "7" / "params").rglob("*") if path.is_file())
  data = max(files, key=lambda path: path.stat().st_size)
  data.write_bytes(data.read_bytes()[:-1])
  older = load_model(copy)
  assert older.source == f"{copy} step 3"
  assert "checkpoints/7 is damaged" in caplog.text
  half = jax.tree.map(lambda leaf: leaf * 0.5, loaded.params)
  assert jax.tree.all(jax.tree.map(np.array_equal, older.params, half))


def test_on_cpus_products_are_float32_unless_said_otherwise(workdir, loaded):
  assert loaded.model.config.dtype == jnp.float32
  rough = load_model(workdir, dtype="bfloat16")
  assert rough.model.config.dtype == jnp.bfloat16
  got, want = (encode(model, TEXTS).pooled for model in (rough, loaded))
  assert got.dtype == np.float32
  assert 1e-4 < np.abs(got - want).max() < 0.3


# --- encode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_text_has_the_states_it_has_alone(loaded, batch_size):
  got = encode(loaded, TEXTS, pool="mean", layers="all", batch_size=batch_size)
  for i, encoding in enumerate(loaded.tokenizer.encode(TEXTS, specials=True)):
    n, want = len(encoding), alone(loaded, encoding.ids)
    assert got.lengths[i] == n
    np.testing.assert_array_equal(got.ids[i], [*encoding.ids, *[loaded.tokenizer.special.pad] * (got.ids.shape[1] - n)])
    close(got.hidden[i, :n], want.hidden)
    close(got.layers[i, :, :n], want.layers)
    close(got.pooled[i], np.mean(want.hidden, axis=0))  # [CLS] and [SEP] count
    assert not got.hidden[i, n:].any() and not got.layers[i, :, n:].any()


@pytest.mark.parametrize("pool", ["cls", "pooler"])
def test_vectors_of_texts(loaded, pool):
  got = encode(loaded, TEXTS, pool=pool).pooled
  for vector, encoding in zip(got, loaded.tokenizer.encode(TEXTS, specials=True), strict=True):
    want = alone(loaded, encoding.ids)
    close(vector, want.hidden[0] if pool == "cls" else want.pool[0])


def test_layers_count_from_the_embeddings_and_from_the_end():
  wanted = {"all": (0, 1, 2), "2,0,-1,-3": (2, 0, 2, 0), (1, -2): (1, 1), "last": (), "none": ()}
  assert {layers: layer_numbers(layers, last=2) for layers in wanted} == wanted


def test_a_longer_neighbour_changes_nothing(loaded):
  got = encode(loaded, [TEXTS[0], "cat " * 38])
  assert got.lengths.tolist() == [5, 40]
  close(got.hidden[0, :5], alone(loaded, got.ids[0, :5]).hidden)


def test_longer_texts_than_in_training_are_cut_before_sep_and_counted(loaded):
  default, longer = (encode(loaded, ["cat " * 60, "a"], max_length=most) for most in (None, POSITIONS))
  assert (default.lengths.tolist(), default.truncated) == ([TRAINED, 3], 1)
  assert (longer.lengths.tolist(), longer.truncated) == ([62, 3], 0)
  cat = loaded.tokenizer.id_of("cat")
  assert default.ids[0].tolist() == [2, *[cat] * (TRAINED - 2), 3]


def test_states_that_no_memory_holds_are_refused_before_the_work(loaded, monkeypatch):
  monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 4096}.get)
  with pytest.raises(InputError, match=r"GB, want no more than the memory here; choose layers=none"):
    encode(loaded, TEXTS)


def test_encode_writes_one_row_for_each_line(workdir, loaded, lines, tmp_path, capsys):
  output = tmp_path / "out.npz"
  _, summary = command(
    capsys, "encode", f"--model={workdir}", f"--input={lines(TEXTS)}", f"--output={output}", "--layers=0,-1"
  )
  want = encode(loaded, TEXTS, layers=(0, -1))
  n, width = len(TEXTS), 20
  with np.load(output) as arrays:
    shapes = {name: list(arrays[name].shape) for name in arrays}
    for name in arrays:
      close(arrays[name], getattr(want, name))
    assert arrays["ids"][1, :3].tolist() == [2, 3, 0]  # the empty line: [CLS] [SEP]
  assert shapes == summary["arrays"] == {
    "ids": [n, width], "lengths": [n], "hidden": [n, width, HIDDEN], "pooled": [n, HIDDEN],
    "layers": [n, 2, width, HIDDEN],
  }  # fmt: skip
  assert (summary["texts"], summary["tokens"], summary["truncated"]) == (n, want.lengths.sum(), 0)
  assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
  ("flags", "names"),
  [
    (["--pool=none"], {"ids", "lengths", "hidden"}),
    (["--layers=none"], {"ids", "lengths", "pooled"}),
  ],
)
def test_what_is_not_asked_for_is_not_written(workdir, lines, tmp_path, capsys, flags, names):
  output = tmp_path / "out.npz"
  command(capsys, "encode", f"--model={workdir}", f"--input={lines(TEXTS)}", f"--output={output}", *flags)
  with np.load(output) as arrays:
    assert set(arrays) == names


def test_encode_says_how_many_texts_it_cut_and_how_fast_it_was(workdir, lines, tmp_path, capsys):
  source, output = lines(["cat " * 60, "the cat sat"]), tmp_path / "out.npz"
  assert predict.main(["encode", f"--model={workdir}", f"--input={source}", f"--output={output}"]) == 0
  out, err = capsys.readouterr()
  assert json.loads(out.splitlines()[-1])["truncated"] == 1
  assert "1 of 2 texts are cut" in err
  assert f"2 texts, {TRAINED + 5} tokens in " in err and " texts/s, " in err and " tokens/s" in err


# --- fill ------------------------------------------------------------------------------------------------------------


def test_candidates_are_the_softmax_of_the_logits_best_first(loaded):
  texts = ["a [MASK] [MASK]", "the cat [MASK]"]
  blanks = fill(loaded, texts, top=VOCAB)
  assert [len(own) for own in blanks] == [2, 1]
  for own, encoding in zip(blanks, loaded.tokenizer.encode(texts, specials=True), strict=True):
    encoded = alone(loaded, encoding.ids)
    assert [blank.column for blank in own] == [i for i, piece in enumerate(encoding.ids) if piece == 4]
    for blank in own:
      want = softmax(encoded.token_logits[blank.column, :VOCAB])
      got = [candidate.probability for candidate in blank.candidates]
      close(got, want[[candidate.id for candidate in blank.candidates]])
      assert got == sorted(got, reverse=True)
      assert sum(got) == pytest.approx(1, abs=1e-5)
      assert [c.piece for c in blank.candidates] == loaded.tokenizer.pieces(c.id for c in blank.candidates)


def test_fill_prints_a_line_for_each_text_and_where_its_masks_stand(workdir, loaded, lines, capsys):
  texts = ["a [MASK] ran", "the [MASK] [MASK]"]
  records, summary = command(capsys, "fill", f"--model={workdir}", f"--input={lines(texts)}", "--top=2")
  assert [record["text"] for record in records] == texts
  assert [[mask["start"] for mask in record["masks"]] for record in records] == [[2], [4, 11]]
  want = fill(loaded, texts, top=2)
  assert records[1]["masks"] == [dataclasses.asdict(blank) for blank in want[1]]
  assert (summary["texts"], summary["masks"], summary["model"]) == (2, 3, f"{workdir} step 7")


# --- pair ------------------------------------------------------------------------------------------------------------

PAIRS = [("a", "dog"), (SENTENCES[0], " ".join(SENTENCES[1:])[:-4]), ("it rained", "")]  # 5, 20 and 5 tokens


def test_the_probability_is_that_of_class_0_with_the_second_text_in_type_1(loaded):
  got = pair(loaded, PAIRS, batch_size=2)
  for p, (first, second) in zip(got, PAIRS, strict=True):
    a, b = (e.ids.tolist() for e in loaded.tokenizer.encode([first, second]))
    ids, types = [2, *a, 3, *b, 3], [0] * (len(a) + 2) + [1] * (len(b) + 1)
    close(p, softmax(alone(loaded, ids, types).pair_logits[0])[0])


def test_pair_prints_probability_and_label(workdir, loaded, lines, capsys):
  source = lines("\t".join(sides) for sides in PAIRS)
  records, summary = command(capsys, "pair", f"--model={workdir}", f"--input={source}", "--batch_size=2")
  want = pair(loaded, PAIRS, batch_size=2).tolist()
  close([record["probability"] for record in records], want)
  assert [(record["first"], record["second"]) for record in records] == PAIRS
  assert [record["label"] for record in records] == [0 if p >= 0.5 else 1 for p in want]
  assert summary["follows"] == sum(p >= 0.5 for p in want)
  first, second = PAIRS[0]
  (record,), _ = command(capsys, "pair", f"--model={workdir}", f"--first={first}", f"--second={second}")
  assert record["probability"] == pytest.approx(want[0], abs=1e-5)


def test_a_model_without_the_pair_decision_says_so(loaded):
  config = load("configs/bert.py:tiny", {**SIZES, "objective.pair": "none"})
  plain = dataclasses.replace(loaded, model=models.build(config))
  with pytest.raises(InputError, match="want a model with a pair head"):
    pair(plain, PAIRS)
  with pytest.raises(InputError, match="got 'pooler', want one of none, cls, mean"):
    encode(plain, TEXTS, pool="pooler")


# --- tokenize --------------------------------------------------------------------------------------------------------


def test_tokenize_needs_a_tokenizer_only_and_never_jax(workdir):
  script = "import sys, predict; sys.exit(predict.main(sys.argv[1:]) or ('jax' in sys.modules and 'jax was imported'))"
  argv = ["tokenize", f"--model={workdir / 'tokenizer'}", "--text=The cat [MASK]"]
  done = subprocess.run([sys.executable, "-c", script, *argv], cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")
  record, summary = map(json.loads, done.stdout.splitlines())
  assert record["pieces"] == ["[CLS]", "the", "cat", "[MASK]", "[SEP]"]
  assert record["offsets"] == [[0, 0], [0, 3], [4, 7], [8, 14], [0, 0]]
  assert summary == {"command": "tokenize", "model": str(workdir / "tokenizer"), "texts": 1, "tokens": 5, "unknown": 0}


@pytest.mark.parametrize("where", ["", "tokenizer", "tokenizer/vocab.txt"])
def test_tokenize_takes_a_workdir_a_folder_or_a_file(workdir, loaded, capsys, monkeypatch, where):
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat\r\n\nq?\n")))
  records, summary = command(capsys, "tokenize", f"--model={workdir / where}", "--input=-")
  assert [record["text"] for record in records] == ["the cat", "", "q?"]
  encodings = loaded.tokenizer.encode(["the cat", "", "q?"], specials=True)
  assert [record["ids"] for record in records] == [encoding.ids.tolist() for encoding in encodings]
  assert summary["unknown"] == 2


# --- batches ---------------------------------------------------------------------------------------------------------


def test_texts_of_any_length_run_in_few_shapes_each_text_once():
  lengths = np.random.default_rng(0).integers(2, 513, 1000)
  found = list(chunks(lengths, 32, 512))
  assert Counter(np.concatenate([chunk.rows for chunk in found]).tolist()) == Counter(range(1000))
  assert all(chunk.width >= lengths[chunk.rows].max() for chunk in found)
  assert len({(chunk.height, chunk.width) for chunk in found}) <= 9  # eight lengths, and the last batch
  assert [chunk.height for chunk in found[:-1]] == [32] * 31 and found[-1].height == 8
  assert sum(chunk.height * chunk.width for chunk in found) < 1.25 * lengths.sum()


def test_no_batch_is_wider_than_the_model_or_higher_than_asked():
  found = [(chunk.height, chunk.width, chunk.rows.tolist()) for chunk in chunks([3, 40, 5], 1, 40)]
  assert found == [(1, 40, [1]), (1, 32, [2]), (1, 32, [0])]
  assert [(c.height, c.width) for c in chunks([600, 2000], 3, 4096)] == [(2, 2048)]
  assert list(chunks([], 4, 64)) == []


def test_lines_end_at_newlines_alone(lines):
  texts = ["one\u2028still one", "\ttwo ", "", "four"]
  assert read_lines(lines(texts)) == texts
