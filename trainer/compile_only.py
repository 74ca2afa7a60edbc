"""Compiles a step for accelerators that are not here, and reads what the compiler made of it.

Targets: `tpu:TOPOLOGY` (v5e:4x4, v6e:2x2 ...) needs the wheel libtpu, `gpu:h100` the CUDA plug-in wheels; neither needs
a driver or a device. Works in a process that has not touched a device yet.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import jax

PASSING = ("parameter", "get-tuple-element", "tuple", "bitcast", "while")  # hand a tensor on without writing one
HBM = {"gpu:h100": 84_942_979_072}  # bytes; the TPU compiler knows its own and refuses what does not fit
UNTILED = "Couldn't find output tile sizes"
WITHOUT_TRITON = {"xla_gpu_enable_triton_gemm": False}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""  # the datasheet as XLA's GpuTargetConfig in text form


class TargetError(ValueError):
  """A compile-only target that does not exist or whose wheels are not installed; one line."""


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction of optimised HLO; `shapes` of its results as (dtype, dims), `line` as a whole."""

  computation: str
  name: str
  operation: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]
  operands: tuple[str, ...]
  line: str


def devices(target: str) -> list[Any]:
  """Compile-only devices of a target; raises TargetError with what to install or which targets there are."""
  kind, _, name = target.partition(":")
  if kind == "tpu" and name:
    return _tpu_devices(name)
  if target == "gpu:h100":
    return _h100_devices()
  raise TargetError(f"compile_only: got {target!r}, want gpu:h100 or tpu:TOPOLOGY such as tpu:v5e:4x4")


def _require(target: str, wheels: dict[str, str]) -> None:
  """`wheels`: module -> the wheel that brings it."""
  missing = [wheel for module, wheel in wheels.items() if not _installed(module)]
  if missing:
    raise TargetError(f"compile_only={target}: wheels are missing here; pip install {' '.join(missing)}")


def _installed(module: str) -> bool:
  package, _, _ = module.rpartition(".")
  return (not package or _installed(package)) and importlib.util.find_spec(module) is not None


def _tpu_devices(topology: str) -> list[Any]:
  _require(f"tpu:{topology}", {"libtpu": f"'jax[tpu]=={jax.__version__}'  (brings libtpu)"})
  settings = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}
  os.environ.update(settings)  # keeps libtpu from asking the network which machine it is on
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies

  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
  except Exception as error:  # libtpu raises several kinds for a topology that it does not know
    line = " ".join(str(error).split())[:200]
    raise TargetError(f"compile_only=tpu:{topology}: libtpu refuses it: {line}") from error


def _h100_devices() -> list[Any]:
  """Uses private names of jax: the plug-in's own start refuses without a GPU. Everything that may break is in here."""
  version = jax.__version__
  _require(
    "gpu:h100",
    {
      "jax_plugins.xla_cuda13": f"jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version}",
      "nvidia.cudnn": "nvidia-cudnn-cu13",
    },
  )
  jax.config.update("jax_platforms", "cpu")
  from jax._src import xla_bridge
  from jax._src.lib import xla_client

  try:
    xla_bridge.discover_pjrt_plugins()
    xla_bridge._plugins_registered = True
    xla_client.initialize_pjrt_plugin("cuda")
    topology = xla_bridge.make_pjrt_topology("cuda", "", target_config=H100, topology="1x1x1")
    return list(topology._make_compile_only_devices())
  except (AttributeError, TypeError, RuntimeError) as error:
    line = " ".join(str(error).split())[:200]
    raise TargetError(f"compile_only=gpu:h100: jax {version} cannot compile without a GPU: {line}") from error


def compile_report(program: Any, target: str) -> dict[str, Any]:
  """Compiles `program.step` (trainer.programs.Program on compile-only devices) and returns `report` of the result.

  A step that the compiler refuses for want of memory is reported as fits = False with the compiler's line. One with a
  product that XLA cannot put into a Triton kernel, of which without a GPU it knows one tiling only, is compiled with
  the library's products instead; `compiler_options` says so.
  """
  batch = jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    program.example, program.batch_shardings,
  )  # fmt: skip
  lowered = program.step.lower(program.abstract_state, batch)
  options: dict[str, Any] = {}
  try:
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if UNTILED not in str(error):
        raise
      options = WITHOUT_TRITON
      compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return {"fits": False, "compiler": " ".join(str(error).split())[:300]}
  weights = {leaf.shape for leaf in jax.tree.leaves(program.shapes)}
  memory = compiled.memory_analysis()
  figures = {
    "argument_bytes": memory.argument_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
  }
  fits = target not in HBM or sum(figures.values()) <= HBM[target]
  text = text_report(compiled.as_text(), program.stage.length, weights)
  return {"fits": fits, "compiler_options": options, **figures, **text}


def text_report(text: str, length: int, weights: Collection[tuple[int, ...]] = ()) -> dict[str, Any]:
  """What optimised HLO text holds.

  Args:
    length: L; tensors with two dimensions of this size and more besides are listed, since fused attention has none.
    weights: shapes of parameters, which are no such tensors.
  Returns:
    fusions: number. custom_calls: {target: number}. collectives: {kind: number}. dots: {operand dtypes: number}.
    square_tensors: {shape: number of instructions that write one to memory}; what stays inside a fusion is not.
  """
  instructions = parse(text)
  results = {instruction.name: instruction for instruction in instructions}
  fused = {name for i in instructions if i.operation == "fusion" for name in re.findall(r"calls=%?([\w.\-]+)", i.line)}
  calls, collectives, dots, squares = Counter(), Counter(), Counter(), Counter()
  for instruction in instructions:
    operation, called = instruction.operation, re.search(r'custom_call_target="([^"]+)"', instruction.line)
    if called:
      calls[called.group(1)] += 1
    if operation.removesuffix("-start") in COLLECTIVES:
      collectives[operation.removesuffix("-start")] += 1
    if operation in ("dot", "convolution") or called and re.search("gemm|matmul", called.group(1).lower()):
      operands = (results[name].shapes[0][0] for name in instruction.operands[:2] if name in results)
      dots[" x ".join(operands)] += 1
    if operation not in PASSING and instruction.computation not in fused:
      for dtype, dims in instruction.shapes:
        if len(dims) > 2 and dims.count(length) >= 2 and dims not in weights:
          squares[f"{dtype}[{','.join(map(str, dims))}]"] += 1
  return {
    "fusions": sum(instruction.operation == "fusion" for instruction in instructions),
    "custom_calls": dict(calls),
    "collectives": dict(collectives),
    "dots": dict(dots),
    "square_tensors": dict(squares),
  }


_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\]")


def parse(text: str) -> list[Instruction]:
  """Instructions of every computation of optimised HLO text, in order."""
  found, computation = [], ""
  for line in text.splitlines():
    head, match = _HEAD.match(line), _LINE.match(line)
    if head:
      computation = head.group(1)
    elif match:
      name, shape, operation, rest = match.groups()
      shapes = tuple((dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims in _SHAPE.findall(shape))
      operands = tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
      found.append(Instruction(computation, name, operation, shapes, operands, line))
  return found
