"""ELMo's train step in PyTorch from its own parts: nn.LSTM with proj_size, conv1d, fused Adagrad.

nn.LSTM has no clips of cells and projections, so this does a little less work than `models.recurrent`. Its second bias
stays zero and is not trained. Gates stand in the order i, f, g, o here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

ORDER = [0, 2, 1, 3]  # of i, j, f, o


class Elmo:
  """The model from parameters {path: array} as `models.elmo` names them; what is there decides which parts it has."""

  def __init__(self, given: dict[str, np.ndarray], batch: dict[str, np.ndarray]):
    self.batch = {name: torch.from_numpy(leaf).long() for name, leaf in batch.items()}
    self.rows, self.layers = len(batch["index"]), len(given["layers/bias"])
    stack = {path: leaf for path, leaf in given.items() if path.startswith("layers/")}
    self.lstms = [[lstm(stack, layer, r) for r in range(2)] for layer in range(self.layers)]
    own = (parameter for both in self.lstms for net in both for parameter in net.parameters())
    self.given = {
      path: torch.from_numpy(as_conv1d(path, leaf)).requires_grad_()
      for path, leaf in given.items()
      if path not in stack
    }
    self.parameters = [*(parameter for parameter in own if parameter.requires_grad), *self.given.values()]
    width, cell = stack["layers/projection/kernel"].shape[-1], stack["layers/projection/kernel"].shape[-2]
    zeros = lambda: (torch.zeros(1, self.rows, width), torch.zeros(1, self.rows, cell))
    self.states = [[zeros() for _ in range(2)] for _ in range(self.layers)]

  def loss(self) -> torch.Tensor:
    """Of the streams' next words, half of each direction; without words, the mean square of the top layer."""
    top = [self.top(r, x) for r, x in enumerate(self.inputs())]
    if "heads/softmax/kernel" not in self.given:
      return sum(y.square().mean() for y in top) / 2
    kernel, bias = self.given["heads/softmax/kernel"], self.given["heads/softmax/bias"]
    targets = self.batch["targets"].transpose(0, 1).transpose(1, 2)
    logits = (functional.linear(y, kernel, bias).flatten(0, 1) for y in top)
    return sum(functional.cross_entropy(y, t.flatten()) for y, t in zip(logits, targets)) / 2

  def top(self, r: int, x: torch.Tensor) -> torch.Tensor:
    """The last layer [L, B, P] of direction r, skips added; the state goes on."""
    for layer in range(self.layers):
      y, state = self.lstms[layer][r](x, self.states[layer][r])
      self.states[layer][r] = tuple(part.detach() for part in state)
      x = x + y if layer else y
    return x

  def inputs(self) -> torch.Tensor:
    """[2, L, B, P]."""
    if "x" in self.given:
      return self.given["x"]
    return self.spelled()[self.batch["index"]].permute(1, 2, 0, 3)

  def spelled(self) -> torch.Tensor:
    """Vectors [U, P] of the distinct words."""
    part = lambda name: (self.given[f"char/{name}/kernel"], self.given[f"char/{name}/bias"])
    characters = functional.embedding(self.batch["words"][0], self.given["char/embedding"]).transpose(1, 2)
    convolutions = sum(path.startswith("char/conv_") for path in self.given) // 2
    x = [functional.conv1d(characters, *part(f"conv_{i}")).amax(-1) for i in range(convolutions)]
    x = torch.cat(x, -1).relu()
    dense = lambda x, name: torch.addmm(part(name)[1], x, part(name)[0])
    for i in range(sum(path.endswith("carry/bias") for path in self.given)):
      gate = dense(x, f"highway_{i}/carry").sigmoid()
      x = gate * dense(x, f"highway_{i}/transform").relu() + (1 - gate) * x
    return dense(x, "projection")


def as_conv1d(path: str, leaf: np.ndarray) -> np.ndarray:
  """A convolution [width, E, n] as PyTorch has it, [n, E, width]; anything else as it is."""
  is_kernel = "conv_" in path and path.endswith("kernel")
  return np.ascontiguousarray(leaf.transpose(2, 1, 0)) if is_kernel else leaf


def lstm(stack: dict[str, np.ndarray], layer: int, r: int) -> torch.nn.LSTM:
  """One layer of direction r."""
  at = lambda name: stack[f"layers/{name}"][layer, r]
  rows = lambda kernel: torch.from_numpy(np.ascontiguousarray(kernel[:, ORDER].reshape(len(kernel), -1).T))
  cell, width = at("projection/kernel").shape
  net = torch.nn.LSTM(width, cell, proj_size=width)
  bias = at("bias")[ORDER] + np.array([0, 1, 0, 0], np.float32)[:, None]  # ours adds 1 to the forget gate
  net.weight_ih_l0.data, net.weight_hh_l0.data = rows(at("input/kernel")), rows(at("recurrent/kernel"))
  net.weight_hr_l0.data = torch.from_numpy(np.ascontiguousarray(at("projection/kernel").T))
  net.bias_ih_l0.data, net.bias_hh_l0.data = torch.from_numpy(bias.reshape(-1)), torch.zeros(4 * cell)
  net.bias_hh_l0.requires_grad_(False)
  return net


def train_step(
  given: dict[str, np.ndarray], batch: dict[str, np.ndarray], rate: float, start: float, clip: float, scale: float
) -> Callable[[], tuple[float, float]]:
  """A step that returns (loss, norm of its gradient times `scale`)."""
  model = Elmo(given, batch)
  optimizer = torch.optim.Adagrad(model.parameters, rate, initial_accumulator_value=start, eps=0.0, fused=True)

  def step() -> tuple[float, float]:
    optimizer.zero_grad()
    loss = model.loss()
    (loss * scale).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters, clip)
    optimizer.step()
    return loss.item(), norm.item()

  return step
