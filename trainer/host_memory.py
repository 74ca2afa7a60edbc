"""Memory that a step gives back stays with the process, where the CPU is the device.

XLA takes the temporaries of every execution from malloc and frees them at its end. glibc answers requests of that size
with fresh mappings, so each step pays a page fault for every 4 KiB: a fifth of the processor time of a small BERT step.
Kept on one heap, the pages are there from the second step on (docs/performance.md has the figures).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from collections.abc import Mapping
from importlib.metadata import entry_points

# <malloc.h>. Requests of threads beside the main one go to arenas of 64 MiB, and beyond that to mappings even with
# M_MMAP_MAX of 0, hence one arena.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
KEPT = 2**31 - 1  # bytes free at the heap's end above which they go back; the largest value mallopt takes
SETTINGS = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, 64 << 20))


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
  """Tells glibc's malloc to keep freed memory. To be called before jax starts its threads.

  Nothing happens where an accelerator may be the device (its host threads gain from several arenas), where the
  environment sets malloc up already (MALLOC_*, GLIBC_TUNABLES, LD_PRELOAD), or without glibc.
  Returns:
    Whether malloc was set up.
  """
  tuned = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in environment)
  if tuned or not _cpu_only(environment) or platform.libc_ver()[0] != "glibc":
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all([mallopt(option, value) for option, value in SETTINGS])


def _cpu_only(environment: Mapping[str, str]) -> bool:
  """Whether jax can only find CPUs: by request, or because no plugin for anything else is installed."""
  if environment.get("JAX_PLATFORMS"):
    return environment["JAX_PLATFORMS"] == "cpu"
  plugins = bool(entry_points(group="jax_plugins")) or bool(importlib.util.find_spec("jax_plugins"))
  return not plugins and not importlib.util.find_spec("libtpu")
