"""Everything that knows a parameter's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from models import albert, bert, electra, elmo, luke, roberta, spanbert, task_networks

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

BUILDERS: dict[str, Callable[[Any, Any], Any]] = {
  "albert": albert.build,
  "bert": bert.build,
  "electra": electra.build,
  "elmo": elmo.build,
  "elmo_task": task_networks.build,
  "luke": luke.build,
  "roberta": roberta.build,
  "spanbert": spanbert.build,
}


def build(config: Any) -> Any:
  """The model of a resolved config, with `config.dtype` for its matrix products."""
  return BUILDERS[config.model.name](config, DTYPES[config.dtype])
