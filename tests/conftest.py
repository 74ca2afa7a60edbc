"""Eight simulated CPU devices for every test process; programs compile cheaply and once: nothing here is timed."""

import atexit
import logging
import os
import shutil
import tempfile

import pytest

_FLAGS = (
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
)
_CACHE = tempfile.mkdtemp(prefix="septet-compiled-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS)).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture(scope="module")
def own_logging():
  """Puts back the process's log, which a command sets up; other tests read stderr."""
  root = logging.getLogger()
  handlers, level = [*root.handlers], root.level
  yield
  root.handlers, root.level = handlers, level
