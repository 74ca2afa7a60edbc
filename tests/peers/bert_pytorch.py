"""Our BERT train step against PyTorch's on the same machine: the same losses first, then the time of a step.

    python -m tests.peers.bert_pytorch [--torch_python=PYTHON_WITH_TORCH] [--rounds=9] [--window=1] [--output=FILE.json]

Three processes live side by side and work strictly in turn, each on all cores, so that whatever else the machine does
falls on all of them; the figures are medians of the ratios within a round.

  ours      the step that train.py runs, layers unrolled
  stock     transformers' BertForPreTraining: eager attention, vocabulary head on every position, AdamW as it comes
  honest    the same network as fast as PyTorch gets it: sdpa, head on predicted positions only, fused AdamW, no mask

One case: 4 layers, hidden 768, 12 heads, float32, full rows, pair term, clip 1.0. Weights and batches of `ours` go to
the others. Without dropout the losses of the first steps must agree to 1e-4; times are taken with dropout 0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.peers.worker import Worker, in_turn

PEERS = ("stock", "honest")
CHECKED, TOLERANCE, BATCHES, WARM = 3, 1e-4, 4, 20
RATE, DECAY, CLIP, EPS = 1e-4, 0.01, 1.0, 1e-8


def worker_of(role: str, flags: argparse.Namespace, exchange: str) -> Worker:
  """A child process that runs `steps` of its model when told."""
  python = sys.executable if role == "ours" else flags.torch_python
  command = [python, "-m", "tests.peers.bert_pytorch", f"--role={role}", f"--exchange={exchange}"]
  names = ("layers", "batch_size", "length", "predictions")
  return Worker(role, [*command, *(f"--{name}={getattr(flags, name)}" for name in names)])


def serve(prepare, about: dict) -> None:
  """A worker's life. prepare(dropout) -> step(number) -> loss; another `dropout` starts from the first weights."""
  print(json.dumps(about), flush=True)
  step, dropout, number = None, None, 0
  for line in sys.stdin:
    order = json.loads(line)
    if order["dropout"] != dropout:
      step = None  # frees the weights and moments of before
      step, dropout, number = prepare(order["dropout"]), order["dropout"], 0
    start = time.perf_counter()
    losses = []
    for _ in range(order["steps"]):
      losses.append(step(number))
      number += 1
    losses = [float(loss) for loss in losses]
    print(json.dumps({"seconds": (time.perf_counter() - start) / order["steps"], "losses": losses}), flush=True)


# --- ours -----------------------------------------------------------------------------------------------------------


def ours(flags: argparse.Namespace) -> None:
  """Writes weights under transformers' names, and batches, to flags.exchange; then serves."""
  import jax

  from data.synthetic import synthetic_batch
  from models.published.names import to_published
  from models.published.tables import bert
  from trainer.config import load
  from trainer.host_memory import keep_freed_memory
  from trainer.programs import Program, Setup

  kept = keep_freed_memory()

  def program(dropout: bool) -> Program:
    rate = 0.1 if dropout else 0.0
    keys = {
      "dtype": "float32", "stages": (), "batch_size": flags.batch_size, "data.length": flags.length,
      "data.max_predictions": flags.predictions, "model.layers": flags.layers, "model.unroll": flags.layers,
      "model.dropout": rate, "model.attention_dropout": rate, "optimizer.schedule": "constant", "optimizer.lr": RATE,
      "optimizer.warmup_steps": 0, "optimizer.bias_correction": True, "optimizer.eps": EPS,
      "optimizer.weight_decay": DECAY, "optimizer.clip": CLIP,
    }  # fmt: skip
    setup = Setup.of(load("configs/bert.py:base", keys))
    return Program(setup, setup.stages[0], synthetic_batch(setup.config, setup.stages[0], 0, full_rows=True))

  first = program(False)
  config, stage = first.setup.config, first.stage
  hosts = [synthetic_batch(config, stage, n, full_rows=True) for n in range(BATCHES)]
  model = first.setup.objective.model
  arrays = to_published(jax.device_get(first.fresh_state().params), bert(model.config), model.table_sizes())
  for n, host in enumerate(hosts):
    ids = host.tokens.ids.copy()
    np.put_along_axis(ids, host.positions, host.inputs, 1)  # full rows use every slot
    arrays |= {
      f"batch{n}/ids": ids, f"batch{n}/types": host.tokens.types, f"batch{n}/positions": host.positions,
      f"batch{n}/labels": host.labels, f"batch{n}/pair": host.pair.labels[:, 0],
    }  # fmt: skip
  np.savez(flags.exchange, **arrays)

  def prepare(dropout: bool):
    p = program(dropout)
    state, batches = p.fresh_state(), [p.place(host) for host in hosts]

    def step(number: int):
      nonlocal state
      state, report = p.step(state, batches[number % BATCHES])
      return _Loss(p.setup.objective, report)

    return step

  serve(prepare, {"jax": jax.__version__, "kept_memory": kept})


class _Loss:
  """A loss that is fetched when it is read, so that steps of a window run on without a wait."""

  def __init__(self, objective, report):
    self.objective, self.report = objective, report

  def __float__(self) -> float:
    import jax

    report = jax.device_get(self.report)
    return self.objective.report(report.sums, report.counts, report.statistics)["loss"]


# --- PyTorch --------------------------------------------------------------------------------------------------------


def pytorch(flags: argparse.Namespace) -> None:
  """Reads weights and batches of flags.exchange and serves as `stock` or `honest`."""
  import torch
  import transformers

  torch.set_num_threads(os.cpu_count())
  arrays = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in np.load(flags.exchange).items()}
  batches = [{name: arrays.pop(f"batch{n}/{name}").long() for name in BATCH_FIELDS} for n in range(BATCHES)]
  honest = flags.role == "honest"
  loss = honest_loss if honest else stock_loss

  def prepare(dropout: bool):
    rate = 0.1 if dropout else 0.0
    config = transformers.BertConfig(
      num_hidden_layers=flags.layers, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate,
      attn_implementation="sdpa" if honest else "eager",
    )  # fmt: skip
    model = transformers.BertForPreTraining(config)
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    if unexpected or set(missing) - {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}:
      raise SystemExit(f"error: parameters without a counterpart: {missing} {unexpected}")
    model.tie_weights()
    model.train()
    fused = True if honest else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, eps=EPS, weight_decay=DECAY, fused=fused)

    def step(number: int):
      optimizer.zero_grad()
      value = loss(model, batches[number % BATCHES])
      value.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
      optimizer.step()
      return value.detach()

    return step

  serve(prepare, {"torch": torch.__version__, "transformers": transformers.__version__})


BATCH_FIELDS = ("ids", "types", "positions", "labels", "pair")


def stock_loss(model, batch):
  """The model's own loss, as the documentation uses it."""
  import torch

  labels = torch.full_like(batch["ids"], -100).scatter_(1, batch["positions"], batch["labels"])
  mask = torch.ones_like(batch["ids"])
  return model(batch["ids"], mask, batch["types"], labels=labels, next_sentence_label=batch["pair"]).loss


def honest_loss(model, batch):
  """The same loss from the states at predicted positions only."""
  from torch.nn.functional import cross_entropy

  encoded = model.bert(batch["ids"], token_type_ids=batch["types"])
  hidden = encoded.last_hidden_state
  chosen = hidden.gather(1, batch["positions"][..., None].expand(-1, -1, hidden.shape[-1]))
  logits, pair = model.cls(chosen, encoded.pooler_output)
  return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()) + cross_entropy(pair, batch["pair"])


# --- the comparison -------------------------------------------------------------------------------------------------


def compare(flags: argparse.Namespace) -> dict:
  """Checks the losses, then times `rounds` rounds; returns the summary."""
  with tempfile.TemporaryDirectory() as directory:
    exchange = f"{directory}/exchange.npz"
    workers = [worker_of(role, flags, exchange) for role in ("ours", *PEERS)]  # ours writes what the others read
    about = {name: version for worker in workers for name, version in worker.first.items()}
    losses = {worker.role: worker.ask(steps=CHECKED, dropout=False)["losses"] for worker in workers}
    check(losses)
    for _ in range(WARM // 2):  # compiles, fills caches, and lets each process's memory settle
      for worker in workers:
        worker.ask(steps=2, dropout=True)
    seconds = {worker.role: [] for worker in workers}
    for turn in range(flags.rounds):
      for worker in in_turn(workers, turn):
        seconds[worker.role].append(worker.ask(steps=flags.window, dropout=True)["seconds"])
      print({role: round(times[-1], 3) for role, times in seconds.items()}, file=sys.stderr)
    for worker in workers:
      worker.close()
  ratios = {peer: np.divide(seconds[peer], seconds["ours"]).tolist() for peer in PEERS}
  return {
    "case": {name: getattr(flags, name) for name in ("layers", "batch_size", "length", "predictions")},
    "cores": os.cpu_count(),
    "versions": about,
    "losses_without_dropout": losses,
    "warm_up_steps": WARM,
    "rounds": flags.rounds,
    "steps_per_round": flags.window,
    "seconds_median": {role: statistics.median(times) for role, times in seconds.items()},
    "seconds_min": {role: min(times) for role, times in seconds.items()},
    "speed_over": {peer: {"median": statistics.median(r), "min": min(r), "max": max(r)} for peer, r in ratios.items()},
  }


def check(losses: dict[str, list[float]]) -> None:
  """Ends the program where a peer's losses of the first steps are not ours to TOLERANCE."""
  for peer in PEERS:
    apart = max(abs(a - b) for a, b in zip(losses["ours"], losses[peer], strict=True))
    if not apart <= TOLERANCE:
      raise SystemExit(f"error: losses of {peer} differ by {apart:.2e}, want at most {TOLERANCE:g}: {losses}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--torch_python", default=sys.executable, help="interpreter that has torch and transformers")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--window", type=int, default=1, help="steps of each process in a round")
  parser.add_argument("--output", help="file for the summary, beside the last line on stdout")
  for name, default in (("layers", 4), ("batch_size", 8), ("length", 128), ("predictions", 20)):
    parser.add_argument(f"--{name}", type=int, default=default)
  parser.add_argument("--role", default="parent", help=argparse.SUPPRESS)
  parser.add_argument("--exchange", help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.role == "parent":
    summary = compare(flags)
    if flags.output:
      Path(flags.output).write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary))
  else:
    (ours if flags.role == "ours" else pytorch)(flags)


if __name__ == "__main__":
  main()
