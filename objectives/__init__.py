"""Everything that knows a denominator: losses, metrics, optimisers, one objective per training signal, the one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import models
from objectives import optimizers
from objectives.base import Objective
from objectives.electric import ElectricObjective
from objectives.entities import EntityObjective
from objectives.language import LanguageObjective
from objectives.masked import MaskedObjective
from objectives.optimizers import SCHEDULES, Optimizer
from objectives.pairs import PairsObjective
from objectives.replaced import ReplacedObjective
from objectives.tasks import TaskObjective
from objectives.word_tasks import WordTaskObjective


def _pair(objective: Any) -> str | None:
  return None if objective.pair == "none" else objective.pair


def _electra(model: Any, objective: Any) -> ReplacedObjective:
  kind = ElectricObjective if objective.generator == "electric" else ReplacedObjective
  return kind(
    model,
    target=objective.target,
    generator=objective.generator,
    sample=objective.sample,
    temperature=objective.temperature,
    disallow_correct=objective.disallow_correct,
    mlm_weight=objective.mlm_weight,
    rtd_weight=objective.rtd_weight,
    adversarial=objective.adversarial,
  )


BUILDERS: dict[str, Callable[..., Objective]] = {
  "electra": _electra,
  "entities": lambda model, objective: EntityObjective(model),
  "language": lambda model, objective: LanguageObjective(
    model, objective.softmax, objective.negatives, objective.reset
  ),
  "masked": lambda model, objective: MaskedObjective(model, _pair(objective)),
  "pairs": lambda model, objective: PairsObjective(model, objective.scale, objective.symmetric),
  "spans": lambda model, objective: MaskedObjective(model, _pair(objective), objective.sbo),
  "task": lambda model, objective: TaskObjective(model, objective.kind),
  "word_task": lambda model, objective: WordTaskObjective(model, objective.l2),
}


def build(config: Any, frequencies: np.ndarray | None = None) -> Objective:
  """The objective of a resolved config, around its model.

  Args:
    frequencies: [V], how often words occur in the training corpus, for a generator that proposes words by them; where
      it is not known (benchmarks), all alike.
  """
  objective = BUILDERS[config.objective.name](models.build(config), config.objective)
  if isinstance(objective, ReplacedObjective) and objective.generator == "unigram":
    objective = objective.with_frequencies(np.ones(config.model.vocab_size) if frequencies is None else frequencies)
  return objective


def build_optimizer(config: Any) -> Optimizer:
  """The optimiser of a resolved config; its schedule ends at `config.steps`."""
  o = config.optimizer
  moments = lambda make: make(
    o.b1, o.b2, o.eps, o.weight_decay, o.decay_exclude, bias_correction=o.bias_correction, eps_hat=o.eps_hat
  )
  transforms = {
    "adagrad": lambda: optimizers.adagrad(o.accumulator),
    "adamw": lambda: moments(optimizers.adamw),
    "lamb": lambda: moments(optimizers.lamb),
    "sgd": optimizers.sgd,
  }
  return Optimizer(transforms[o.name](), SCHEDULES[o.schedule](o.lr, o.warmup_steps, config.steps), o.clip)


def of_stage(optimizer: Optimizer, config: Any, stage: Any) -> Optimizer:
  """The optimiser with the schedule of a stage, which ends with it where the stage has a rate (`lr`) of its own."""
  if not stage.lr:
    return optimizer
  schedule = SCHEDULES[config.optimizer.schedule](stage.lr, stage.warmup_steps, stage.steps)
  return dataclasses.replace(optimizer, schedule=schedule)


def loss_scale(config: Any) -> str | float:
  """`mean`, `sum`, or the factor on the mean that `objective.loss_scale` spells."""
  text = config.objective.loss_scale
  return text if text in ("mean", "sum") else float(text)
