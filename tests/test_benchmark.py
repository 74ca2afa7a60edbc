"""FLOPs by formula, synthetic batches, chip peaks, the benchmark's JSON line, and what compile-only reads from HLO."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import benchmark
import models
from data.batch import Masked, Pair, Tokens, validate
from data.synthetic import article_pieces, synthetic_batch
from models import flops
from models.sharding import make_mesh
from trainer import chips, compile_only
from trainer.config import load, stages
from trainer.programs import Setup

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = ("grain", "tensorflow_datasets", "tokenizers", "sentencepiece", "tensorflow", "orbax", "array_record")


def batch_of(variant, full_rows=False, number=0, **keys):
  """(config, synthetic host batch) of the first stage."""
  config = load(f"configs/bert.py:{variant}", {name.replace("__", "."): value for name, value in keys.items()})
  return config, synthetic_batch(config, stages(config)[0], number, full_rows)


# --- FLOPs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "variant, gigaflops",
  [("base,length=128", 69.9), ("base,length=512", 301), ("large,length=128", 241), ("large,length=512", 1020)],
)
def test_flops_of_a_full_row_forward_and_backward(variant, gigaflops):
  """3 * (24 h^2 L n + 4 h L n^2 + P (2 h^2 + 2 h V)), with P = 19 or 77 of 0.15 n: figures worked out by hand."""
  config, batch = batch_of(variant, full_rows=True, batch_size=1)
  assert flops.step_flops(models.build(config), batch) == pytest.approx(gigaflops * 1e9, rel=3e-3)


def hand_made():
  """Two rows of six columns: examples of 3 and 2 tokens in the first, of 4 in the second; 2 + 1 predictions."""
  segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]], np.int32)
  zeros, slots = np.zeros_like(segments), np.array([[1, 3], [2, 0]], np.int32)
  pair = Pair(np.array([[0, 3], [0, 0]], np.int32), np.zeros((2, 2), np.int32), np.array([[1, 1], [1, 0]], np.float32))
  weights = np.array([[1, 1], [1, 0]], np.float32)
  return Masked(Tokens(zeros, zeros, segments, zeros), slots, slots, slots, weights, pair=pair)


def test_work_counts_real_tokens_and_every_example_alone():
  assert flops.count(hand_made()) == flops.Work(tokens=9, squares=9 + 4 + 16, predictions=3, pairs=3, spans=0, slots=12)


def test_padding_costs_nothing():
  config, batch = batch_of("tiny", batch_size=4)
  model, padded = models.build(config), jax.tree.map(lambda leaf: np.concatenate([leaf, leaf * 0]), batch)
  assert flops.step_flops(model, padded) == flops.step_flops(model, batch)


def test_flops_by_hand_of_the_smallest_case():
  config, _ = batch_of("tiny", model__layers=1, model__hidden=2, model__heads=1, model__ffn=4, model__vocab_size=10)
  per_token, per_square, per_prediction, per_pair = 2 * (4 * 4 + 2 * 8), 4 * 2, 2 * (4 + 2 * 10), 2 * 4
  forward = 9 * per_token + 29 * per_square + 3 * per_prediction + 3 * per_pair
  assert flops.step_flops(models.build(config), hand_made()) == 3 * forward


# --- synthetic batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["base", "base,length=512", "tiny", "base,pair=none", "tiny,format=full_sentences"])
@pytest.mark.parametrize("pack", [1, 3])
@pytest.mark.parametrize("full_rows", [False, True])
def test_synthetic_batches_keep_the_contract(variant, pack, full_rows):
  config, batch = batch_of(variant, full_rows, batch_size=16, data__pack=pack)
  stage, tokens = stages(config)[0], batch.tokens
  sizes = validate(batch)
  assert (sizes["B"], sizes["L"], sizes["P"]) == (16, stage.length, stage.max_predictions)
  assert tokens.ids.max() < config.model.vocab_size and tokens.types.max() < config.model.types
  assert tokens.segments.max() <= pack and (tokens.segments[:, 0] == 1).all()
  starts = np.diff(tokens.segments, axis=1, prepend=0) != 0
  np.testing.assert_array_equal(starts & (tokens.segments > 0), (tokens.positions == 0) & (tokens.segments > 0))
  assert (np.take_along_axis(tokens.segments, batch.positions, 1)[batch.weights > 0] > 0).all()
  for columns, weights in zip(batch.positions, batch.weights, strict=True):
    assert len(set(columns[weights > 0])) == np.count_nonzero(weights) > 0
  originals = np.take_along_axis(tokens.ids, batch.positions, 1)
  np.testing.assert_array_equal(batch.labels, np.where(batch.weights > 0, originals, 0))
  if batch.pair is not None:
    assert batch.pair.weights.sum() == len(flops.example_lengths(tokens))
    assert (np.take_along_axis(tokens.positions, batch.pair.cls, 1)[batch.pair.weights > 0] == 0).all()
  if full_rows:
    assert (tokens.segments == 1).all() and (batch.weights == 1).all()


def test_lengths_are_those_of_wikipedia():
  """MLPerf's BERT corpus has 254 real tokens in a row of 512; most examples fill a row of 128."""
  rng = np.random.default_rng(0)
  assert article_pieces(rng, 50_000, 512).mean() == pytest.approx(254, abs=8)
  assert np.mean(article_pieces(rng, 50_000, 128) == 128) > 0.6


def test_synthetic_batches_are_a_function_of_seed_and_number():
  def ids(**keys):
    return batch_of("tiny", **keys)[1].tokens.ids

  np.testing.assert_array_equal(ids(number=3), ids(number=3))
  assert (ids(number=3) != ids(number=4)).any() and (ids(number=3) != ids(number=3, seed=1)).any()


def test_packing_leaves_less_padding():
  def share(pack):
    return np.mean(batch_of("base,length=512", batch_size=64, data__pack=pack)[1].tokens.segments == 0)

  assert share(3) < 0.15 < 0.35 < share(1)


# --- chips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "kind, teraflops",
  [("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H200", 989), ("NVIDIA B200", 2250),
   ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v6 lite", 918), ("TPU v3", 61.5)],
)  # fmt: skip
def test_peaks_are_those_of_the_datasheets(kind, teraflops):
  assert chips.datasheet(kind) == teraflops * 1e12


def test_unknown_chips_have_no_peak():
  assert chips.datasheet("NVIDIA GeForce GTX 1080") is None


# --- the command ----------------------------------------------------------------------------------------------------

GUARD = f"""
import sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {FORBIDDEN!r}:
      raise ImportError("benchmark.py must not import " + name)
sys.meta_path.insert(0, Refuse())
import benchmark
sys.exit(benchmark.main())
"""


def command(*arguments):
  """(exit code, stdout, stderr) of benchmark.py on one device, in a process that cannot import the data libraries."""
  environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", GUARD, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
  )
  return done.returncode, done.stdout, done.stderr


def test_the_json_line_is_complete_and_consistent():
  small = {"batch_size": 4, "data.length": 32, "data.max_predictions": 5, "model.vocab_size": 256}
  keys = (f"--config.{name}={value}" for name, value in small.items())
  code, out, err = command("--config=configs/bert.py:tiny", "--steps=3", "--warmup=1", *keys)
  assert code == 0, err
  figures = json.loads(out.splitlines()[-1])
  assert figures["config"] == "configs/bert.py:tiny"
  assert (figures["device"], figures["devices"], figures["windows"]) == ("cpu", 1, 3)
  step = figures["step_ms"]
  assert figures["dispatch_ms"] > 0 and 0 < step["min"] <= step["median"] <= step["max"] and figures["compile_s"] > 0
  seconds = step["median"] / 1e3
  assert figures["tokens_per_s"] == pytest.approx(4 * 32 / seconds, rel=1e-3)
  real = figures["tokens_per_s"] * (1 - figures["padding_share"])
  assert figures["valid_tokens_per_s"] == pytest.approx(real, rel=1e-3)
  rate = figures["model_flops_per_step"] / seconds
  assert figures["mfu"] == pytest.approx(rate / figures["peak_flops_per_s"], abs=1e-4)
  assert figures["peak_source"] == "measured" and figures["peak_bytes_source"] == "memory_analysis"
  parameters = 2 * (12 * 128 * 128) + (256 + 512) * 128
  assert figures["peak_bytes"] > 3 * 4 * parameters  # weights and two moments at least
  assert figures["loss"]["first"] == pytest.approx(np.log(256) + np.log(2), abs=0.3)
  assert {"jax", "jaxlib", "flax", "optax", "numpy", "python"} == set(figures["versions"])


@pytest.mark.parametrize("model", ["albert", "bert", "electra", "luke", "roberta", "spanbert"])
def test_every_recipe_has_synthetic_batches_and_a_flop_count(model):
  config = load(f"configs/{model}.py:tiny")
  setup = Setup.of(config, jax.devices()[:1])
  batch = synthetic_batch(config, setup.stages[0], 0)
  validate(batch)
  assert 1e8 < flops.step_flops(setup.objective.model, batch) < 1e11
  assert set(jax.eval_shape(setup.objective.counts, batch)) == set(setup.objective.weights)


def test_inference_times_the_encoder_alone():
  small = ("--config.batch_size=4", "--config.data.length=32", "--config.data.max_predictions=5")
  small = (*small, "--config.model.vocab_size=256", "--steps=3", "--warmup=1", "--inference")
  figures = {}
  for model in ("bert", "albert"):
    code, out, err = command(f"--config=configs/{model}.py:tiny", *small)
    assert code == 0, err
    figures[model] = json.loads(out.splitlines()[-1])
    assert figures[model]["inference"] and figures[model]["step_ms"]["median"] > 0
  assert figures["albert"]["parameter_bytes"] < 0.8 * figures["bert"]["parameter_bytes"]
  assert figures["albert"]["peak_bytes"] < figures["bert"]["peak_bytes"]


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--config=configs/bert.py:tiny", "--steps=0"], "flag --steps: got 0, want at least 1"),
    (["--config=configs/bert.py:base", "--stage=2"], "flag --stage: got 2, want below 2"),
    (["--config=configs/bert.py:tiny", "--config.mesh.data=16"], "mesh: got data=16"),
    (["--config=configs/bert.py:tiny", "--compile_only=gpu:v100"], "compile_only: got 'gpu:v100', want gpu:h100"),
  ],
)
def test_wrong_flags_end_with_one_line_and_code_2(arguments, message, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
  assert benchmark.main() == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1


# --- compile-only ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "target, wheels", [("tpu:v5e:4x4", ["libtpu"]), ("gpu:h100", ["jax-cuda13-plugin", "nvidia-cudnn-cu13"])]
)
def test_missing_wheels_are_named(target, wheels, monkeypatch):
  monkeypatch.setattr(compile_only.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(compile_only.TargetError) as error:
    compile_only.devices(target)
  assert all(wheel in str(error.value) for wheel in wheels) and "\n" not in str(error.value)


def test_text_report_of_a_program_compiled_here():
  """A product sharded over its contraction on four devices: one dot a device, one all-reduce, one [B, L, L] tensor."""
  mesh = make_mesh(1, 4, jax.devices()[:4])

  def place(*names):
    return NamedSharding(mesh, PartitionSpec(*names))

  a, b = jax.ShapeDtypeStruct((3, 16, 64), jnp.bfloat16), jax.ShapeDtypeStruct((3, 64, 16), jnp.bfloat16)
  product = jax.jit(
    lambda a, b: jnp.einsum("BQH,BHK->BQK", a.astype(jnp.float32), b.astype(jnp.float32)),
    in_shardings=(place(None, None, "model"), place(None, "model")), out_shardings=place(),
  )  # fmt: skip
  report = compile_only.text_report(product.lower(a, b).compile().as_text(), 16)
  assert report["collectives"] == {"all-reduce": 1} and report["dots"] == {"f32 x f32": 1}
  assert set(report["square_tensors"]) == {"f32[3,16,16]"}
  assert compile_only.text_report(product.lower(a, b).compile().as_text(), 15)["square_tensors"] == {}


GPU_TEXT = """
%fused_computation.1 (param_0: bf16[8,4,16,16]) -> bf16[8,4,16,16] {
  %param_0 = bf16[8,4,16,16]{3,2,1,0} parameter(0)
  ROOT %exponential.1 = f32[8,4,16,16]{3,2,1,0} exponential(%param_0)
}

ENTRY %main.9 (x: bf16[32,64], w: bf16[64,64]) -> (bf16[32,64], f32[64]) {
  %x = bf16[32,64]{1,0} parameter(0)
  %w = bf16[64,64]{1,0} parameter(1)
  %scores = bf16[8,4,16,16]{3,2,1,0} bitcast(%x)
  %fusion.1 = f32[2,4]{1,0} fusion(%scores), kind=kLoop, calls=%fused_computation.1
  %cublas-gemm.2 = (bf16[32,64]{1,0}, s8[33554432]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul"
  %flash.3 = (bf16[8,16,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, %x, %x), custom_call_target="__cudnn$fmhaSoftmax"
  %all-reduce-start.4 = f32[64]{0} all-reduce-start(%w), replica_groups=[1,4]<=[4], to_apply=%add
  %all-reduce-done.4 = f32[64]{0} all-reduce-done(%all-reduce-start.4)
}
"""


def test_text_report_reads_kernels_and_asynchronous_collectives():
  """What stays inside a fusion writes no tensor, and a start with its done is one collective."""
  assert compile_only.text_report(GPU_TEXT, 16) == {
    "fusions": 1,
    "custom_calls": {"__cublas$lt$matmul": 1, "__cudnn$fmhaSoftmax": 1},
    "collectives": {"all-reduce": 1},
    "dots": {"bf16 x bf16": 1},
    "square_tensors": {},
  }


def test_weights_are_no_square_tensors():
  text = GPU_TEXT.replace("f32[2,4]{1,0} fusion", "f32[3,16,16]{2,1,0} fusion")
  assert compile_only.text_report(text, 16)["square_tensors"] == {"f32[3,16,16]": 1}
  assert compile_only.text_report(text, 16, weights={(3, 16, 16)})["square_tensors"] == {}
