"""transformers' Trainer on the rows and with the settings of a fine-tuning run, scored by the run's own figures.

    python -m tests.peers.trainer_pytorch --config=RUN/config.json [--seeds=0,1,2] [--paced=STEPS]

RUN began from published weights. Its config.json says the weights, the files, the rates and the number of updates, so
both sides have the same; the model, its dropout, the order of examples, the padding of batches (each to its longest
row), AdamW, the schedule and the loop are transformers' and PyTorch's. With --paced it takes that many updates for each
line of stdin, and answers with their seconds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from data.tasks.rows import TaskRow
from trainer.config import from_json
from trainer.finetuning.data import TaskData, task_data
from trainer.finetuning.recipe import task_form
from trainer.seeds import spread

CLASSES = {
  "classify": transformers.AutoModelForSequenceClassification,
  "regress": transformers.AutoModelForSequenceClassification,
  "tag": transformers.AutoModelForTokenClassification,
  "answer": transformers.AutoModelForQuestionAnswering,
}
IGNORED, NOWHERE = -100, 1 << 20  # labels that cost nothing: a class, a column


def read(path: str) -> tuple[Any, TaskData]:
  """(config, data) of a run."""
  config = from_json(Path(path).read_text(encoding="utf-8"), path)
  return config, task_data(config, task_form(config, Path(path).parent))


def features(row: TaskRow, head: str) -> dict[str, Any]:
  """A row as transformers' models name it."""
  found = {"input_ids": row.ids, "token_type_ids": row.types, "attention_mask": np.ones_like(row.ids)}
  counted = row.weights > 0
  if head == "classify":
    found["labels"] = np.array(row.labels[0])
  elif head == "regress":
    found["labels"] = np.array(row.several[0, 0], np.float32)
  elif head == "tag":
    found["labels"] = np.full(len(row.ids), IGNORED)
    found["labels"][row.cls[counted]] = row.labels[counted]
  else:
    first, last = np.where(counted, row.labels, NOWHERE)[:2]
    found |= {"start_positions": np.array(first), "end_positions": np.array(last)}
  return {name: torch.as_tensor(value, dtype=_kind(name, head)) for name, value in found.items()}


def _kind(name: str, head: str) -> torch.dtype:
  return torch.float32 if name == "labels" and head == "regress" else torch.long


def collate(rows: list[dict[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
  """A batch as long as its longest row."""
  fillers = {"input_ids": pad, "labels": IGNORED}
  return {
    name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=fillers.get(name, 0))
    if rows[0][name].ndim
    else torch.stack([row[name] for row in rows])
    for name in rows[0]
  }


def fit(config: Any, data: TaskData, seed: int, callbacks: list, updates: int = 0) -> tuple[Any, float]:
  """(the trained model, seconds of the loop). updates: 0 = those of the config."""
  head, o = config.objective.kind, config.optimizer
  transformers.set_seed(seed)
  classes = {"classify": len(data.labels), "tag": len(data.labels), "regress": 1}
  sizes = {"num_labels": classes[head]} if head in classes else {}
  kind = {"problem_type": "regression"} if head == "regress" else {}
  model = CLASSES[head].from_pretrained(config.init_from, **sizes, **kind)
  arguments = transformers.TrainingArguments(
    tempfile.mkdtemp(), max_steps=updates or config.steps, per_device_train_batch_size=config.batch_size,
    learning_rate=o.lr, adam_beta1=o.b1, adam_beta2=o.b2, adam_epsilon=o.eps, weight_decay=o.weight_decay,
    max_grad_norm=o.clip, lr_scheduler_type=o.schedule, warmup_steps=o.warmup_steps, seed=seed,
    dataloader_drop_last=True, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    logging_strategy="no",
  )  # fmt: skip
  rows = [features(row, head) for row in data.train]
  trainer = transformers.Trainer(
    model, arguments, data_collator=lambda part: collate(part, model.config.pad_token_id), train_dataset=rows,
    callbacks=callbacks,
  )  # fmt: skip
  return model, trainer.train().metrics["train_runtime"]


@torch.no_grad()
def logits_of(model: Any, data: TaskData, head: str) -> list[np.ndarray]:
  """What the model says of each held-out row: of its labels [k, n], or of its columns [L, 2]."""
  model.eval()
  rows, found = data.dev.rows, {}
  order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
  for part in (order[i : i + 32] for i in range(0, len(order), 32)):
    batch = collate([features(rows[i], head) for i in part], model.config.pad_token_id)
    said = model(**{name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    sides = torch.stack([said.start_logits, said.end_logits], -1) if head == "answer" else said.logits
    for i, own in zip(part, sides.numpy()):
      found[i] = own[: len(rows[i].ids)] if head == "answer" else own[rows[i].cls] if head == "tag" else own[None]
  return [found[i] for i in range(len(rows))]


class Pacer(transformers.TrainerCallback):
  """Stops before every `steps`-th update until a line says go on, and then tells how long the last ones took."""

  def __init__(self, steps: int, about: dict):
    self.steps, self.about, self.begin = steps, about, 0.0

  def on_step_begin(self, args, state, control, **rest):
    if state.global_step % self.steps == 0:
      said = {"seconds": time.perf_counter() - self.begin} if state.global_step else self.about
      print(json.dumps(said), flush=True)
      if not sys.stdin.readline():
        sys.exit(0)
      self.begin = time.perf_counter()


def density(rows: list[TaskRow], batch_size: int) -> float:
  """Share of the tokens that are not padding, in batches of rows in the order of `rows`."""
  sizes = [len(row.ids) for row in rows]
  parts = [sizes[i : i + batch_size] for i in range(0, len(sizes) - batch_size + 1, batch_size)]
  return sum(map(sum, parts)) / sum(max(part) * len(part) for part in parts)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", required=True)
  parser.add_argument("--seeds", default="0,1,2")
  parser.add_argument("--paced", type=int, default=0)
  flags = parser.parse_args()
  config, data = read(flags.config)
  versions = {"torch": torch.__version__, "transformers": transformers.__version__}
  if flags.paced:
    order = np.random.default_rng(0).permutation(len(data.train))
    about = {"versions": versions, "dense": density([data.train[i] for i in order], config.batch_size)}
    fit(config, data, 0, [Pacer(flags.paced, about)], 1 << 30)
  found = []
  for seed in map(int, flags.seeds.split(",")):
    model, took = fit(config, data, seed, [])
    said = logits_of(model, data, config.objective.kind)
    scores = data.task.evaluate(data.dev.examples, data.dev.rows, said, data.labels)
    found.append({f"eval/{name}": value for name, value in scores.items()})
    print(f"seed {seed}: {found[-1]}, {took:.0f} s", file=sys.stderr)
  print(json.dumps({"versions": versions, "metrics": spread(found)}))


if __name__ == "__main__":
  main()
