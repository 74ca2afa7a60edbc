"""Eight simulated CPU devices for every test process; programs compile cheaply, since nothing here is timed."""

import os

_FLAGS = (
  "--xla_force_host_platform_device_count=8",
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS)).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
