"""A bidirectional language model in NumPy, word by word: ELMo's arithmetic from the tensors of a weights.hdf5.

`Oracle` takes {name: array} in that file's layout and the object in options.json. It keeps the state of each row and
direction between sentences, as the released code does. `mutation` names one thing to get wrong.
"""

import numpy as np

MUTATIONS = ("gate_order", "forget_bias", "skip", "state")


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def random_tensors(options, seed=0):
  """{name: float32 array} of the options' sizes, large enough that clips and gates matter."""
  rng = np.random.default_rng(seed)
  lstm, char = options["lstm"], options["char_cnn"]
  width, size, cell = lstm["projection_dim"], sum(n for _, n in char["filters"]), lstm["dim"]
  shapes = {"CNN_proj/W_proj": (size, width), "CNN_proj/b_proj": (width,)}
  shapes["char_embed"] = (261, char["embedding"]["dim"])
  for i, (places, number) in enumerate(char["filters"]):
    shapes |= {f"CNN/W_cnn_{i}": (1, places, char["embedding"]["dim"], number), f"CNN/b_cnn_{i}": (number,)}
  for i in range(char["n_highway"]):
    for gate in ("carry", "transform"):
      shapes |= {f"CNN_high_{i}/W_{gate}": (size, size), f"CNN_high_{i}/b_{gate}": (size,)}
  for direction in range(2):
    for layer in range(lstm["n_layers"]):
      name = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
      shapes |= {f"{name}/W_0": (2 * width, 4 * cell), f"{name}/B": (4 * cell,), f"{name}/W_P_0": (cell, width)}
  return {
    name: rng.normal(0, 1 if name == "char_embed" else 0.5, shape).astype(np.float32) for name, shape in shapes.items()
  }


def parameters(tensors, options):
  """The same tensors as parameters of `models.elmo.Elmo`, without heads."""
  lstm, char = options["lstm"], options["char_cnn"]
  layer = lambda kernel, bias: {"kernel": tensors[kernel], "bias": tensors[bias]}
  tree = {"embedding": np.concatenate([np.zeros((1, char["embedding"]["dim"]), np.float32), tensors["char_embed"]])}
  for i in range(len(char["filters"])):
    tree[f"conv_{i}"] = {"kernel": tensors[f"CNN/W_cnn_{i}"][0], "bias": tensors[f"CNN/b_cnn_{i}"]}
  for i in range(char["n_highway"]):
    name = f"CNN_high_{i}"
    tree[f"highway_{i}"] = {gate: layer(f"{name}/W_{gate}", f"{name}/b_{gate}") for gate in ("carry", "transform")}
  tree["projection"] = layer("CNN_proj/W_proj", "CNN_proj/b_proj")
  copies = [
    [f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell" for direction in range(2)]
    for layer in range(lstm["n_layers"])
  ]
  stacked = lambda leaf: np.array([[leaf(name) for name in both] for both in copies])
  width, cell = lstm["projection_dim"], lstm["dim"]
  rows = lambda part: {"kernel": stacked(lambda name: tensors[f"{name}/W_0"][part].reshape(width, 4, cell))}
  layers = {
    "input": rows(slice(0, width)),
    "recurrent": rows(slice(width, None)),
    "bias": stacked(lambda name: tensors[f"{name}/B"].reshape(4, cell)),
    "projection": {"kernel": stacked(lambda name: tensors[f"{name}/W_P_0"])},
  }
  return {"char": tree, "layers": layers}


class Oracle:
  """tensors by name, options, and the rows of state that go on from sentence to sentence."""

  def __init__(self, tensors, options, rows=1, mutation=""):
    self.tensors = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}
    self.lstm, self.char, self.mutation = options["lstm"], options["char_cnn"], mutation
    layers = self.lstm["n_layers"]
    empty = lambda: [[np.zeros(self.lstm["dim"]), np.zeros(self.lstm["projection_dim"])] for _ in range(layers)]
    self.state = [[empty() for _ in range(2)] for _ in range(rows)]

  def word(self, characters):
    """Vector [P] of a word, ids [C]; 0 = no character."""
    table = np.concatenate([np.zeros((1, self.char["embedding"]["dim"])), self.tensors["char_embed"]])
    x, parts = table[characters], []
    for i, (places, _) in enumerate(self.char["filters"]):
      kernel, bias = self.tensors[f"CNN/W_cnn_{i}"][0], self.tensors[f"CNN/b_cnn_{i}"]
      windows = [np.einsum("we,wen->n", x[k : k + places], kernel) + bias for k in range(len(x) - places + 1)]
      parts.append(np.max(windows, axis=0))
    y = np.concatenate(parts)
    y = np.maximum(y, 0) if self.char["activation"] == "relu" else np.tanh(y)
    for i in range(self.char["n_highway"]):
      weight, bias = self.tensors[f"CNN_high_{i}/W_carry"], self.tensors[f"CNN_high_{i}/b_carry"]
      gate = sigmoid(y @ weight + bias)
      weight, bias = self.tensors[f"CNN_high_{i}/W_transform"], self.tensors[f"CNN_high_{i}/b_transform"]
      y = gate * np.maximum(y @ weight + bias, 0) + (1 - gate) * y
    return y @ self.tensors["CNN_proj/W_proj"] + self.tensors["CNN_proj/b_proj"]

  def step(self, x, row, direction):
    """Outputs [T, P] of all layers for the next word's vector x [P] of a row."""
    outputs = []
    for layer, state in enumerate(self.state[row][direction]):
      name = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
      c, h = state
      z = np.concatenate([x, h]) @ self.tensors[f"{name}/W_0"] + self.tensors[f"{name}/B"]
      i, j, f, o = np.split(z, 4)
      if self.mutation == "gate_order":
        j, f = f, j
      c = sigmoid(f + (self.mutation != "forget_bias")) * c + sigmoid(i) * np.tanh(j)
      c = np.clip(c, -self.lstm["cell_clip"], self.lstm["cell_clip"])
      h = (sigmoid(o) * np.tanh(c)) @ self.tensors[f"{name}/W_P_0"]
      h = np.clip(h, -self.lstm["proj_clip"], self.lstm["proj_clip"])
      state[:] = c, h
      skip = self.lstm["use_skip_connections"] != (self.mutation == "skip")
      x = h + x if skip and layer else h
      outputs.append(x)
    return np.stack(outputs)

  def sentence(self, characters, row=0):
    """Layers [T + 1, n, 2P], forward half first, of a sentence with its boundaries, ids [n, C]; the state goes on."""
    if self.mutation == "state":
      self.state = Oracle(self.tensors, {"lstm": self.lstm, "char_cnn": self.char}, len(self.state)).state
    words = np.stack([self.word(ids) for ids in characters])
    halves = []
    for direction, order in ((0, range(len(words))), (1, range(len(words) - 1, -1, -1))):
      found = {place: np.concatenate([words[None, place], self.step(words[place], row, direction)]) for place in order}
      halves.append(np.stack([found[place] for place in range(len(words))], axis=1))
    return np.concatenate(halves, axis=-1)
