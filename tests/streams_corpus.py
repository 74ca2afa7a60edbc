"""A small corpus of whole words and a small ELMo for runs of seconds."""

import numpy as np

from trainer import config as configs

WORDS = tuple(f"{a}{b}{c}" for a in "bdgklmnprs" for b in "aeiou" for c in ("", "n", "st"))  # 150
SMALL = {
  "steps": 6, "batch_size": 8, "eval_every": 3, "save_every": 2, "log_every": 2, "data.words": "space",
  "data.holdout": 0.2, "data.length": 8, "data.groups": 2, "data.distinct_words": 64, "model.vocab_size": 60,
  "model.characters": 8, "model.char_embedding": 4, "model.filters": ((1, 6), (2, 10)), "model.cell": 12,
  "model.projection": 6, "objective.negatives": 20,
}  # fmt: skip


def write(path, documents=20, seed=0, words=WORDS):
  """Writes documents of six sentences, one a line: words by Zipf's law, and a mark at the end."""
  rng = np.random.default_rng(seed)
  chances = 1 / np.arange(1, len(words) + 1)
  draw = lambda: rng.choice(words, rng.integers(3, 12), p=chances / chances.sum())
  path.write_text("\n\n".join("\n".join(" ".join((*draw(), ".")) for _ in range(6)) for _ in range(documents)))
  return path


def config_of(source, variant="tiny", **changes):
  """A resolved config; names with `__` for the dots of keys."""
  keys = {name.replace("__", "."): value for name, value in changes.items()}
  return configs.load(f"configs/elmo.py:{variant}", SMALL | {"data.source": f"lines:{source}"} | keys)


def arguments(source, **changes):
  """The same as a command line."""
  keys = {name.replace("__", "."): value for name, value in changes.items()}
  values = {"data.source": f"lines:{source}", "mesh.data": 1} | SMALL | keys
  return [f"--config.{key}={value}" for key, value in values.items()]
