"""Freed memory stays with the process, and only where that is meant to happen."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from trainer.host_memory import keep_freed_memory

FAULTS = """
import resource, sys, threading
import numpy as np
from trainer.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
  assert keep_freed_memory({"JAX_PLATFORMS": "cpu"})
faults = []
def use():
  for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    np.ones(128 << 20, np.int8)
    faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(faults[0], faults[-1])
"""


def faults(how: str) -> tuple[int, int]:
  """Page faults of the first and the fourth request of 128 MiB in a thread of a fresh process."""
  environment = {"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "NUMPY_MADVISE_HUGEPAGE": "0"}
  command = [sys.executable, "-c", FAULTS, how]
  first, last = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
  return int(first), int(last)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_thread_gets_its_freed_pages_again():
  first, last = faults("keep")
  assert first > 10000 and last < 100
  assert faults("leave")[1] > 10000  # what the setting is for


@pytest.mark.parametrize(
  "environment",
  [
    {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "2"},
    {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    {"JAX_PLATFORMS": "cpu", "LD_PRELOAD": "libjemalloc.so"},
    {"JAX_PLATFORMS": "cuda,cpu"},
  ],
)
def test_settings_of_the_environment_and_accelerators_are_left_alone(environment):
  assert not keep_freed_memory(environment)
