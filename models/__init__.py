"""Everything that knows a parameter's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from models import bert

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

BUILDERS: dict[str, Callable[..., Any]] = {"bert": bert.build}


def build(config: Any) -> Any:
  """The model of a resolved config: `config.model.name`, sizes, and `config.dtype` for its matrix products."""
  return BUILDERS[config.model.name](config.model, DTYPES[config.dtype], pair=config.objective.pair != "none")
