"""Plain LSTMs in NumPy, a word at a time, for sentences without padding."""

import numpy as np


def both_directions(x, layer):
  """h [m, 2H] of one sentence [m, D] by a layer's parameters: the forward half, then the backward one."""
  return np.concatenate([one_direction(x, layer, direction) for direction in (0, 1)], axis=-1)


def one_direction(x, layer, direction):
  """h [m, H]: gates i, f, g, o; direction 1 begins at the last word."""
  kernel, recurrent = layer["input"]["kernel"][:, direction], layer["recurrent"][direction]
  c = h = np.zeros(len(recurrent))
  found = np.zeros((len(x), len(recurrent)))
  for t in range(len(x)) if direction == 0 else reversed(range(len(x))):
    z = np.einsum("d,dgh->gh", x[t], kernel) + np.einsum("h,hgk->gk", h, recurrent)
    i, f, g, o = z + layer["bias"][direction]
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    h = found[t] = _sigmoid(o) * np.tanh(c)
  return found


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))
