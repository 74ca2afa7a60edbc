"""ELMo through the commands: it trains, is killed and goes on, refuses in one line, is measured and counted."""

import collections
import functools
import json
import os
import signal
import sys
import types

import jax
import numpy as np
import pytest

import models
import train
from data.batch import Chars
from models import flops
from tests import streams_corpus
from tests.streams_corpus import SMALL, arguments, config_of
from tests.test_benchmark import command as benchmark
from tests.test_train_command import command as train_command
from trainer import faults
from trainer.checkpoints import Checkpoints
from trainer.compile_only import compile_report
from trainer.config import load
from trainer.dry_run import dry_run, totals
from trainer.manifest import state_digest
from trainer.programs import Program, Setup, parameter_counts

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return tmp_path_factory.mktemp("elmo")


@pytest.fixture(scope="module")
def source(base):
  return streams_corpus.write(base / "words.txt")


class Killed(BaseException):
  """Stands for SIGKILL: nothing of ours catches it."""


EIGHT = {"data__groups": 1, "data__distinct_words": 140, "steps": 9}  # for eight devices, one row each


def launch(workdir, source, *more, **changes):
  """train.py's exit code in this process."""
  changes = EIGHT | {"mesh__data": -1} | changes
  with pytest.MonkeyPatch.context() as patch:
    line = [f"--workdir={workdir}", *arguments(source, **changes), *more]
    patch.setattr(sys, "argv", ["train.py", "--config=configs/elmo.py:tiny", *line])
    return train.main()


def lines(workdir, prefix):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [row for row in rows if any(name.startswith(prefix) for name in row)]


@pytest.fixture(scope="module")
def whole(base, source):
  """The workdir of a run that nothing interrupted."""
  assert launch(base / "whole", source) == 0
  return base / "whole"


@functools.cache
def restored(workdir):
  """The newest state in a workdir."""
  config = load(str(workdir / "config.json"))
  setup = Setup.of(config)
  stage = setup.stages[0]
  example = train.make_feed(config, workdir).example(stage)
  with Checkpoints(workdir / "checkpoints", 9) as checkpoints:
    return checkpoints.restore(lambda step: Program(setup, stage, example).abstract_state)[0]


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_reports_both_directions_and_what_counts_alone_would_score(whole):
  found = lines(whole, "eval/")
  assert [row["step"] for row in found] == [3, 6, 9]
  names = ("loss", "forward_loss", "backward_loss", "perplexity", "forward_perplexity", "backward_perplexity",
           "forward_accuracy", "backward_accuracy", "unigram_loss", "unigram_perplexity")  # fmt: skip
  assert all(row.keys() == {"step", *(f"eval/{name}" for name in names)} for row in found)
  perplexities = [row["eval/perplexity"] for row in found]
  assert perplexities == sorted(perplexities, reverse=True) and perplexities[-1] < 0.8 * SMALL["model.vocab_size"]
  row = lines(whole, "train/")[-1]
  assert {"train/loss", "train/forward_loss", "train/backward_loss", "train/valid_tokens_per_s"} <= row.keys()
  assert "train/perplexity" not in row  # a sampled softmax has none
  assert (whole / "tokenizer" / "vocab.txt").read_text().startswith("<S>\n</S>\n<UNK>\n")


@pytest.mark.parametrize("point, n", [("step", 5), ("before_save", 3)])
def test_a_killed_run_goes_on_to_the_same_state(whole, source, tmp_path, monkeypatch, capsys, point, n):
  """Parameters, accumulators and the carried states of both directions, bit for bit."""

  def die(pid, number):
    monkeypatch.delenv("SEPTET_KILL_AT")
    raise Killed

  faults._passed.clear()
  monkeypatch.setenv("SEPTET_KILL_AT", f"{point}:{n}")
  monkeypatch.setattr(faults, "os", collections.namedtuple("Os", "environ kill getpid")(os.environ, die, os.getpid))
  data = {"data__dir": str(whole / "data")}
  with pytest.raises(Killed):
    launch(tmp_path, source, **data)
  assert launch(tmp_path, source, **data) == 0
  got = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert got["state_sha256"] == state_digest(restored(whole)) and lines(tmp_path, "eval/") == lines(whole, "eval/")


def test_the_state_that_is_compared_has_the_carry_of_both_directions(whole):
  state = restored(whole)
  assert state.carry.shape == (8, 2, 2, SMALL["model.cell"] + SMALL["model.projection"])
  assert all(np.abs(np.asarray(state.carry[:, direction])).max() > 0 for direction in range(2))
  assert state.carry.sharding.spec[0] == "data"


@pytest.mark.slow
def test_sigkill_and_the_same_command_give_the_same_hash(base, source, tmp_path):
  run = functools.partial(train_command, recipe="configs/elmo.py:tiny")
  line = arguments(source, steps=8)
  want = run(tmp_path / "whole", *line)
  killed = run(tmp_path / "killed", *line, SEPTET_KILL_AT="step:5")
  assert killed.returncode == -signal.SIGKILL
  done = run(tmp_path / "killed", *line)
  hashes = [json.loads(run.stdout.splitlines()[-1])["state_sha256"] for run in (want, done)]
  assert hashes[0] == hashes[1] and "resumed" in done.stderr


def test_more_room_for_words_lets_a_run_go_on(whole, source, tmp_path, capsys):
  """A run that ended for want of room in a group goes on with more."""
  assert launch(tmp_path, source, data__dir=str(whole / "data"), data__distinct_words=30) == 2
  assert "set it to" in capsys.readouterr().err
  assert launch(tmp_path, source, data__dir=str(whole / "data"), steps=1) == 0


def test_the_number_of_streams_is_fixed(whole, source, capsys):
  """Each row goes on with a stream of its own; leave to change the config does not change that."""
  other = {"batch_size": 16, "data__distinct_words": 300}
  lines = {"": "batch_size: 8 -> 16", "--allow_change": "carry/value: got float32[8, 2, 2, 18], want float32[16, 2, 2"}
  for flag, line in lines.items():
    assert launch(whole, source, *filter(None, [flag]), **other) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and line in error


@pytest.mark.parametrize(
  "changes, line",
  [
    ({"data__distinct_words": 20}, "distinct words, want at most distinct_words=20; set it to"),
    ({"model__vocab_size": 900}, "want at least 900, model.vocab_size: those that are predicted; set --config.model"),
    ({"batch_size": 800}, "want at least batch_size x length = 800 x 8; lower batch_size or add text"),
    ({"init_from": "/nowhere"}, "/nowhere"),
    ({"data__tokenizer": "/nowhere"}, "/nowhere"),
  ],
)
def test_mistakes_end_in_one_line(whole, source, tmp_path, capsys, changes, line):
  named = {} if "data__tokenizer" in changes else {"data__dir": str(whole / "data")}
  assert launch(tmp_path, source, **named, **changes) == 2
  out, error = capsys.readouterr()
  error = error.strip().splitlines()[-1]
  assert out == "" and error.startswith("error: ") and line in error


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, number", [("small", 13_593_296), ("medium", 28_027_728), ("original", 93_600_848)])
def test_counted_parameters_are_the_published_ones(size, number):
  """Without the softmax; the row of no character, always zeros, is no parameter."""
  config = load(f"configs/elmo.py:{size}", {"batch_size": 8, "data.groups": 1})
  setup = Setup.of(config, jax.devices()[:1])
  words, rows = np.zeros((1, 4, 50), np.int32), np.zeros((8, 2, 8), np.int32)
  program = Program(setup, setup.stages[0], Chars(words, rows, rows, np.float32(rows)))
  found = totals(parameter_counts(setup, program.shapes.params))
  softmax = 793_471 * (config.model.projection + 1)
  assert found == {"parameters": number + softmax, "parameters_without_heads": number}
  assert size != "original" or softmax == 407_050_623


def test_flops_of_a_step_by_hand():
  """Of each word and direction 75 M in the LSTMs and 8 M in a sampled softmax, of each distinct word 53 M forward."""
  setup = Setup.of(load("configs/elmo.py:original", {"batch_size": 8, "data.groups": 2}), jax.devices()[:1])
  words = np.zeros((2, 5, 50), np.int32)
  words[0, :3, 0] = words[1, :1, 0] = 259  # four real words, six slots that are only room
  index, weights = np.zeros((8, 2, 20), np.int32), np.ones((8, 2, 20), np.float32)
  weights[:, :, 15:] = 0
  batch = Chars(words, index, index, weights)
  lstm, sampled, spelled = 75_497_472, 2 * 512 * 8193, 53_312_128
  assert flops.count(batch) == flops.Work(240, 0, 240, 0, 0, 320, spelled=4)
  assert setup.step_flops(batch) == pytest.approx(3 * (240 * (lstm + sampled) + 4 * spelled), rel=1e-3)
  whole = flops.step_flops(setup.objective.model, batch)
  assert whole == pytest.approx(3 * (240 * (lstm + 2 * 512 * 793_471) + 4 * spelled), rel=1e-3)


def test_a_model_with_a_table_of_words_spells_nothing():
  keys = {"batch_size": 8, "data.groups": 1}
  batch = Chars(*(np.ones(shape, np.int32) for shape in ((1, 4, 1), (8, 2, 20), (8, 2, 20))), np.ones((8, 2, 20)))
  table = Setup.of(load("configs/elmo.py:small,input=words", keys), jax.devices()[:1])
  assert table.step_flops(batch) == 3 * 2 * 320 * (2 * (256 * 4096 + 1024 * 128) + 128 * 8193)


def test_dry_run_tells_shapes_and_parameters(capsys):
  found = dry_run(config_of("words.txt", **EIGHT))
  assert found["parameters"] - found["parameters_without_heads"] == 60 * (6 + 1)
  assert found["stages"][0]["state_bytes"] > 0 and found["mesh"] == {"data": 8, "model": 1}
  told = capsys.readouterr().err
  assert "heads/softmax/kernel" in told and f"{found['parameters_without_heads']:,}" in told and "index" in told


@pytest.mark.parametrize("mode", [(), pytest.param(("--inference",), marks=pytest.mark.slow)], ids=["train", "states"])
def test_the_benchmark_times_streams(mode):
  """Without any library of the data side."""
  small = {name: value for name, value in SMALL.items() if name not in ("data.holdout", "steps")}
  keys = [f"--config.{name}={value}" for name, value in small.items()]
  code, out, err = benchmark("--config=configs/elmo.py:tiny", "--steps=3", "--warmup=1", *mode, *keys)
  assert code == 0, err
  figures = json.loads(out.splitlines()[-1])
  assert figures["tokens_per_s"] == pytest.approx(2 * 8 * 8 / (figures["step_ms"]["median"] / 1e3), rel=1e-3)
  if not mode:
    assert figures["padding_share"] == 0 and figures["model_flops_per_step"] > 0
    assert figures["loss"]["first"] == pytest.approx(np.log(21), abs=2)


class Untiled:
  """A step that XLA compiles only without Triton."""

  def lower(self, state, batch):
    self.lowered = jax.jit(lambda x: x @ x).lower(np.ones((4, 4), np.float32))
    return self

  def compile(self, compiler_options=None):
    if not compiler_options:
      raise jax.errors.JaxRuntimeError("INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot.1")
    self.options = compiler_options
    return self.lowered.compile()


def test_compile_only_does_without_triton_where_xla_cannot_tile():
  """Without a GPU to try tilings on it fails at the gradient of ELMo's filters; the report says what was done."""
  step = Untiled()
  program = types.SimpleNamespace(
    step=step, example=(), batch_shardings=(), abstract_state=None, shapes=(), stage=types.SimpleNamespace(length=20)
  )
  report = compile_report(program, "gpu:h100")
  assert report["fits"] and report["compiler_options"] == step.options == {"xla_gpu_enable_triton_gemm": False}


@pytest.mark.parametrize("variant", ["small", "original,softmax=full", "medium,input=words,state=reset"])
def test_every_variant_has_batches_and_a_flop_count(variant):
  from data.synthetic import synthetic_batch

  config = load(f"configs/elmo.py:{variant}", {"batch_size": 8, "data.groups": 2, "data.distinct_words": 64})
  setup = Setup.of(config, jax.devices()[:1])
  batch = synthetic_batch(config, setup.stages[0], 0)
  full = setup.step_flops(batch) / (3 * flops.count(batch).tokens)
  assert 1e6 < full < 2e9
  assert jax.eval_shape(setup.objective.counts, batch).keys() == setup.objective.weights.keys()
  assert models.build(config).config == setup.objective.model.config
