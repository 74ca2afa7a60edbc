"""The threshold of no answer that a run on SQuAD 2.0 has found on its held-out questions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from data.tasks.answers import NULL_THRESHOLD, AnswerDecoder
from trainer.logs import METRICS

_THRESHOLD = f"eval/{NULL_THRESHOLD}"


def with_threshold(decoder: AnswerDecoder, folder: Path, step: int | None) -> AnswerDecoder:
  """With the threshold that was best on the run's held-out questions at the step of its parameters, if it has one."""
  path = folder / METRICS
  for line in path.read_text(encoding="utf-8").splitlines() if decoder.unanswerable and path.is_file() else ():
    figures = json.loads(line)
    if figures["step"] == step and _THRESHOLD in figures:
      decoder = dataclasses.replace(decoder, threshold=figures[_THRESHOLD])
  return decoder
