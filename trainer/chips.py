"""Peak matrix throughput of the devices: datasheet figures for accelerators, a measured product for CPUs."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Part of jax's `device_kind` -> dense bfloat16 TFLOP/s of one jax device, first match (datasheets). A jax device is a
# core, half a chip, up to TPU v3.
PEAKS: tuple[tuple[str, float], ...] = (
  ("B200", 2250.0),
  ("H200", 989.0),
  ("H100 PCIe", 756.0),
  ("H100", 989.0),
  ("A100", 312.0),
  ("TPU v3", 123.0 / 2),
  ("TPU v4", 275.0),
  ("TPU v5 lite", 197.0),
  ("TPU v5e", 197.0),
  ("TPU v5", 459.0),
  ("TPU v6", 918.0),
)

CPU_PRODUCT = 2048  # rows of the square float32 product that stands for a CPU's peak


@dataclasses.dataclass(frozen=True)
class Peak:
  """FLOP/s of all devices together, and whether it is a `datasheet` figure or was `measured`."""

  flops: float
  source: str


def peak(devices: Sequence[jax.Device]) -> Peak | None:
  """The peak of like devices; None for chips that are not in the table. Simulated CPU devices share one machine."""
  if devices[0].platform == "cpu":
    return Peak(measured_cpu_flops(), "measured")
  each = datasheet(devices[0].device_kind)
  return None if each is None else Peak(each * len(devices), "datasheet")


def datasheet(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of one jax device of this kind, None if unknown."""
  return next((tera * 1e12 for name, tera in PEAKS if name in device_kind), None)


@functools.cache
def measured_cpu_flops() -> float:
  """Best rate of a float32 product of CPU_PRODUCT rows in ten tries, on the threads that a step would use."""
  a = jnp.ones((CPU_PRODUCT, CPU_PRODUCT), jnp.float32)
  product = jax.jit(jnp.matmul)
  product(a, a).block_until_ready()
  best = float("inf")
  for _ in range(10):
    start = time.perf_counter()
    product(a, a).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * CPU_PRODUCT**3 / best
