"""A made-up relation task, and settings under which a small LUKE learns it in seconds, by programs of one shape."""

import jax
import numpy as np

from train import train
from trainer.config import load
from trainer.programs import Setup

RECIPE = "configs/finetune.py:semeval"
# The words between the two marks tell the relation, and which mark comes first its direction.
BETWEEN = {"Cause-Effect": "made", "Component-Whole": "is part of", "Other": "saw"}
SPLIT = 0.2


def semeval(path, count, seed, names=tuple(BETWEEN)):
  """Writes examples short enough for two to fit a row of 32."""
  rng, lines = np.random.default_rng(seed), []
  for number in range(count):
    name = str(rng.choice(names))
    one, two = rng.choice(["cat", "dog", "mat", "rain"], 2, replace=False)
    turned = name != "Other" and rng.random() < 0.5
    first, second = (f"<e2>{one}</e2>", f"<e1>{two}</e1>") if turned else (f"<e1>{one}</e1>", f"<e2>{two}</e2>")
    relation = name if name == "Other" else f"{name}({'e2,e1' if turned else 'e1,e2'})"
    # e1 stands first in every line of the official files; here order and direction say the same
    lines += [f'{number + 1}\t"{first} {BETWEEN[name]} {second}"', relation, "Comment:", ""]
  path.write_text("\n".join(lines) + "\n")


def settings(run, **changes):
  own = {
    "init_from": str(run), "task.dir": str(run.parent / "task"), "batch_size": 12, "optimizer.lr": 6e-3,
    "task.epochs": 10, "task.dev_share": SPLIT, "mesh.data": 1, "log_every": 10, "data.pack": 1,
    "model.unroll": 1, "model.dropout": 0.0,
  }  # fmt: skip
  return own | {name.replace("__", "."): value for name, value in changes.items()}


def config_of(run, **changes):
  return load(RECIPE, settings(run, **changes))


def fit(config, folder):
  """One device, as most who fine-tune have."""
  return train(config, folder, setup=Setup.of(config, jax.devices()[:1]))
