"""The end of a fine-tuning run: the test file is scored, and what the chosen parameters say is written down.

WORKDIR/predictions holds, whole or not at all:

- dev.jsonl, test.jsonl and a file for each further or unlabelled file of the task: a JSON object an example;
- submission/: what the benchmark wants to be handed in: SST-2.tsv and the like for GLUE's files without labels;
  dev/ and test/ with the files of tasks whose own splits are handed in, with labels or without (predictions.json of
  SQuAD);
- run.json: the task, and the step of the parameters.

Questions that may have no answer are left open by the threshold that was best on the dev file, so that the f1 which
SQuAD 2.0's scorer gives to predictions.json of that file, without the file of odds, is the run's best_f1.

Each part is done once, and what a kill left undone is done by the next start.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data.tasks import certainty, predictions
from data.tasks.answers import AnswerDecoder
from trainer.evaluation import run_through
from trainer.faults import fault_point
from trainer.finetuning.feed import HeldOut, TaskFeed
from trainer.finetuning.null_threshold import with_threshold
from trainer.logs import Live, MetricLog
from trainer.programs import Program
from trainer.storage import from_first_process

FOLDER, ABOUT, SUBMISSION = "predictions", "run.json", "submission"
_TEMPORARY = f".{FOLDER}.tmp"


def conclude(
  feed: TaskFeed, program: Program, params: Callable[[], Any], chosen: int, log: MetricLog, live: Live, step: int
) -> None:
  """Scores the test file and writes the predictions, whichever of the two the run has not done yet.

  All processes compute; process 0 decides what is to be done, and writes.

  Args:
    params: gives the parameters of the step `chosen`, on the devices.
    step: the last of the run, where test/FIGURE stand in its log; test/step says `chosen`.
  """
  scores, writes = _missing(feed, chosen)
  if not scores and not writes:
    return
  values, files = params(), predictions.Files()
  for name, held in _parts(feed, writes, chosen):
    live.note(f"predicting {name}")
    logging.info("predicting %s with the parameters of step %d: %d examples", name, chosen, len(held.split.examples))
    reported, outputs = run_through(program, held, values)
    if name == "test" and scores:
      figures = {f"test/{figure}": value for figure, value in (reported | held.score(outputs)).items()}
      live.report(step, figures)
      log.write(step, figures | {"test/step": chosen})
      fault_point("tested")
    if writes:
      files |= files_of(name, held, outputs)
  if writes and jax.process_index() == 0:
    about = {"task": feed.dev.split.task.name, "step": chosen}
    write(feed.workdir, files | {ABOUT: json.dumps(about) + "\n"})


def _parts(feed: TaskFeed, writes: bool, chosen: int) -> Iterator[tuple[str, HeldOut]]:
  """(name, file) of what the end of a run looks at, the test file first."""
  scored = {} if feed.test is None else {"test": feed.test}
  others = itertools.chain({"dev": feed.dev, **feed.further}.items(), feed.blind()) if writes else ()
  return ((name, as_tuned(held, feed.workdir, chosen)) for name, held in itertools.chain(scored.items(), others))


def as_tuned(held: HeldOut, workdir: Path, chosen: int) -> HeldOut:
  """A file whose questions are left open by the threshold that was best on the dev file at the step `chosen`."""
  task = held.split.task
  if not isinstance(task.decode, AnswerDecoder):
    return held
  task = dataclasses.replace(task, decode=with_threshold(task.decode, workdir, chosen))
  return dataclasses.replace(held, split=dataclasses.replace(held.split, task=task))


def _missing(feed: TaskFeed, chosen: int) -> tuple[bool, bool]:
  """Whether the test file has to be scored, and predictions have to be written, as process 0 sees it."""
  found = [0, 0]
  if jax.process_index() == 0:
    known = MetricLog.last_figures(feed.workdir)
    scored = "test/step" in known and known["test/step"] == chosen
    found = [int(feed.test is not None and not scored), int(feed.answers and step_of(feed.workdir) != chosen)]
  scores, writes = from_first_process(found)
  return bool(scores), bool(writes)


def step_of(workdir: Path) -> int | None:
  """The step of the parameters whose predictions a workdir has; None where it has none."""
  about = workdir / FOLDER / ABOUT
  return json.loads(about.read_text(encoding="utf-8"))["step"] if about.is_file() else None


def files_of(name: str, held: HeldOut, outputs: Sequence[np.ndarray]) -> predictions.Files:
  """{path below the folder: text} of the answers to a file: NAME.jsonl and what is handed in.

  Args:
    name: dev, test, that of a further file, or one of the task's `blind`, which are handed in by it.
    outputs: as the objective reports them of the file's batches.
  """
  task, examples, rows = held.split.task, held.split.examples, held.split.rows
  logits = held.logits(outputs)
  found = task.decode(examples, rows, logits, held.labels)
  beside = certainty.beside(task, examples, rows, logits, held.labels, found)
  files = {f"{name}.jsonl": predictions.json_lines(task, examples, found, beside)}
  if name not in task.blind and not (predictions.has_form(task) and name in ("dev", "test")):
    return files
  handed = predictions.submission(task, examples, found, beside, name if name in task.blind else "")
  folder = SUBMISSION if name in task.blind else f"{SUBMISSION}/{name}"
  return files | {f"{folder}/{file}": text for file, text in handed.items()}


def write(workdir: Path, files: predictions.Files) -> None:
  """Puts WORKDIR/predictions in place, all files or none, instead of those of other parameters."""
  folder, temporary = workdir / FOLDER, workdir / _TEMPORARY
  shutil.rmtree(temporary, ignore_errors=True)
  for name, text in files.items():
    path = temporary / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
  fault_point("predicted")
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)
  logging.info("predictions: %s", folder)
