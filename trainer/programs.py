"""From a resolved config to what runs: objective, mesh, and for each stage a jitted step and the state it works on."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import objectives
from data.batch import is_row_field
from models import flops
from models.paths import named_leaves
from models.sharding import count_parameters, make_mesh, row_sharding
from objectives.base import Draws, Objective
from objectives.optimizers import Optimizer, layer_factors, scaled
from objectives.state import State, abstract, enter_stage, init_state, state_shardings
from objectives.step import StepSettings, make_step
from trainer.config import Stage, stages

CHARACTERS = "char/embedding"  # ELMo's table


@dataclasses.dataclass(frozen=True)
class Setup:
  """What a run is made of, fixed by its config and the devices."""

  config: Any
  objective: Objective
  optimizer: Optimizer
  mesh: Mesh
  stages: tuple[Stage, ...]

  @staticmethod
  def of(config: Any, devices: list | None = None) -> Setup:
    """Builds everything from a resolved config; devices default to all."""
    mesh, objective = make_mesh(config.mesh.data, config.mesh.model, devices), objectives.build(config)
    optimizer = _by_layer(objectives.build_optimizer(config), config, objective)
    return Setup(config, objective, optimizer, mesh, stages(config))

  @property
  def placed(self) -> Any:
    """The config with the number of devices that split a batch, where it leaves that open."""
    config = copy.deepcopy(self.config)
    config.mesh.data = self.mesh.shape["data"]
    return config

  def step_flops(self, batch: Any) -> float | None:
    """Matmul FLOPs of an update on a whole host batch, or None for a model without a formula."""
    model, objective = self.objective.model, self.config.objective
    if type(model) not in flops.FORWARD:
      return None
    sampled = objective.name == "language" and objective.softmax == "sampled"
    return flops.step_flops(model, batch, objective.negatives + 1 if sampled else None)

  def informed(self, frequencies: np.ndarray) -> Setup:
    """This, with an objective that knows how often words occur in the training corpus (int [V])."""
    return dataclasses.replace(self, objective=objectives.build(self.config, frequencies))


@dataclasses.dataclass(frozen=True)
class Program:
  """One stage, compiled on first use."""

  setup: Setup
  stage: Stage
  example: Any  # a host batch of the stage's shapes

  @property
  def settings(self) -> StepSettings:
    """What the stage fixes of the step.

    Its own schedule counts from its start, the run's from the last stage that reset the optimiser.
    """
    config, upto = self.setup.config, [s for s in self.setup.stages if s.start <= self.stage.start]
    resets = [self.stage.start] if self.stage.lr else [s.start for s in upto if s.reset_optimizer]
    return StepSettings(
      config.seed, config.micro_batches, objectives.loss_scale(config), self.stage.freeze, resets[-1] if resets else 0
    )

  @functools.cached_property
  def shapes(self) -> State:
    """The state's shapes without shardings."""
    s = self.setup
    return jax.eval_shape(lambda: init_state(s.objective, s.optimizer, s.config.seed, self.stage.freeze, self.example))

  @functools.cached_property
  def shardings(self) -> State:
    return state_shardings(self.shapes, self.setup.objective, self.setup.mesh, self.setup.config.mesh.shard_params)

  @functools.cached_property
  def abstract_state(self) -> State:
    """Shapes, dtypes and shardings: what a checkpoint is restored into."""
    return abstract(self.shapes, self.shardings)

  def fresh_state(self) -> State:
    """Parameters, moments and carry from the seed, born sharded."""
    s = self.setup
    init = functools.partial(init_state, s.objective, s.optimizer, s.config.seed, self.stage.freeze)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.example)
    return jax.jit(lambda: init(zeros), out_shardings=self.shardings)()

  def fresh_carry(self) -> Any:
    """The recurrent state that a stream starts from, or None."""
    carry = self.setup.objective.carry
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.example)
    return jax.jit(lambda: carry(zeros), out_shardings=self.shardings.carry)()

  def enter(self, state: State) -> State:
    """The state at this stage's first step from that at the end of the stage before."""
    stage, optimizer = self.stage, self.setup.optimizer
    enter = functools.partial(
      enter_stage,
      optimizer=optimizer,
      freeze=stage.freeze,
      reset_optimizer=stage.reset_optimizer,
      copy=dict(stage.copy),
    )
    return jax.jit(enter, out_shardings=self.shardings)(state)

  @functools.cached_property
  def step(self) -> Any:
    """(state, batch) -> (state, report), jitted; the state's buffers are donated."""
    s = self.setup
    function = make_step(s.objective, objectives.of_stage(s.optimizer, s.config, self.stage), self.settings, s.mesh)
    whole = NamedSharding(s.mesh, P())
    return jax.jit(function, donate_argnums=0, out_shardings=(self.shardings, whole))

  @functools.cached_property
  def evaluate(self) -> Any:
    """(params, carry, batch, number) -> (sums, counts, statistics, carry) of one held-out batch, jitted."""
    objective, whole = self.setup.objective, NamedSharding(self.setup.mesh, P())

    def evaluate(params, carry, batch, number):
      root = jax.random.fold_in(jax.random.key(self.setup.config.seed), 2)
      draws = Draws(root, number, number * 0, jax.numpy.arange(self.stage.batch_size))
      sums, statistics, carry = objective.sums(params, carry, batch, draws, train=False)
      return sums, objective.counts(batch), statistics, carry

    return jax.jit(evaluate, out_shardings=(whole, whole, whole, None))

  @functools.cached_property
  def batch_shardings(self) -> Any:
    """Rows over `data`; fields of the whole batch over `data` where it divides them."""
    rows, whole, size = (
      row_sharding(self.setup.mesh),
      NamedSharding(self.setup.mesh, P()),
      self.setup.mesh.shape["data"],
    )
    return jax.tree.map(
      lambda row, leaf: rows if row or leaf.shape[0] % size == 0 else whole, is_row_field(self.example), self.example
    )

  def on_all(self, value: np.ndarray) -> jax.Array:
    """A host value whole on every device."""
    return jax.device_put(value, NamedSharding(self.setup.mesh, P()))

  def place(self, batch: Any) -> Any:
    """This process's rows of a host batch as arrays of the whole batch on the mesh."""
    with jax.transfer_guard("allow"):  # the one place where batches move; with several processes jax calls it implicit
      return jax.tree.map(jax.make_array_from_process_local_data, self.batch_shardings, batch)


def _by_layer(optimizer: Optimizer, config: Any, objective: Objective) -> Optimizer:
  """The optimiser with the rate of each layer that a recipe for fine-tuning names."""
  if "layer_decay" not in config.optimizer:
    return optimizer
  decay, frozen = config.optimizer.layer_decay, frozen_layers(config)
  if decay == 1.0 and not frozen:
    return optimizer
  factors = layer_factors(objective.model.config, decay, frozen, config.optimizer.layer_decay_top)
  return dataclasses.replace(optimizer, transform=scaled(optimizer.transform, factors))


def frozen_layers(config: Any) -> int:
  """Layers from the bottom whose rows a recipe for fine-tuning leaves as they are."""
  return int(config.task.freeze) if config.task.freeze.isdecimal() else 0


def parameter_counts(setup: Setup, params: Any) -> dict[str, int]:
  """{path: parameters} with vocabularies at their real size.

  Row 0 of a table of characters, which stands for none and is always zeros, is not one of them.
  """
  counts = count_parameters(params, setup.objective.axes(), setup.objective.table_sizes())
  if CHARACTERS in counts:
    counts[CHARACTERS] -= named_leaves(params)[CHARACTERS].shape[1]
  return counts
