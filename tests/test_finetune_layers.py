"""Rates by depth and frozen parameters: against plain oracles, and bit for bit after updates of the real step."""

from pathlib import Path

import jax
import numpy as np
import pytest

from configs import common, finetune
from models.paths import named_leaves
from objectives.optimizers import adamw, layer_factors, scaled
from tests.encoder_runs import LAYERS, config_of, encoder_run, write_tasks
from trainer.config import stages
from trainer.finetuning.feed import TaskFeed
from trainer.programs import Program, Setup
from trainer.rules import ConfigError

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  folder = tmp_path_factory.mktemp("layers")
  write_tasks(folder / "task")
  for family in ("bert", "albert", "electra"):
    encoder_run(family, folder / family)
  return folder


def config(start, family="bert", task="sst2", **changes):
  return config_of(task, start / family, start / "task", **({"steps": 4} | changes))


def shape_of(layers, groups=None, inner=1):
  """What the factors follow from, of a model that is not built."""
  groups = layers if groups is None else groups
  sharing = common.ConfigDict({"attention_groups": groups, "ffn_groups": layers, "inner": inner})
  return common.ConfigDict({"layers": layers, "sharing": sharing, "depth": layers * inner})


# --- factors ----------------------------------------------------------------------------------------------------------


def test_factors_are_powers_of_the_distance_to_the_head():
  """Of 12 layers at 0.8 the top one has 0.8, the bottom one 0.8^12 and the tables 0.8^13."""
  factor = layer_factors(shape_of(12), 0.8)
  for path in ("heads/classify/dense/kernel", "pooler/dense/bias"):
    assert factor(path) == 1.0
  for prefix in ("", "discriminator/"):
    rows = factor(f"{prefix}layers/attention/query/kernel")
    np.testing.assert_allclose(rows, [0.8 ** (12 - i) for i in range(12)], rtol=1e-6)
  for path in ("embeddings/word/embedding", "embeddings/norm/scale", "discriminator/projection/kernel"):
    assert factor(path) == pytest.approx(0.8**13)


@pytest.mark.parametrize("decay, layers, top, tables", [(0.8, 12, 0.64, 0.0440), (0.9, 24, 0.81, 0.0646)])
def test_factors_of_electra_are_those_of_its_code(decay, layers, top, tables):
  """base and large: the top layer has the decay twice, the tables L + 2 times."""
  factor = layer_factors(shape_of(layers), decay, top=2)
  assert factor("layers/ffn/up/bias")[-1] == pytest.approx(top)
  assert factor("embeddings/word/embedding") == pytest.approx(tables, abs=5e-5)
  assert finetune.get_config("sst2,model=electra").optimizer.layer_decay_top == 2


def test_a_shared_row_has_the_factor_of_the_topmost_layer_that_reads_it():
  factor = layer_factors(shape_of(6, groups=2), 0.5)
  np.testing.assert_allclose(factor("layers/attention/key/bias"), [0.5**4, 0.5**1])  # layers 0 to 2, and 3 to 5
  np.testing.assert_allclose(factor("layers/ffn/up/bias"), [0.5 ** (6 - i) for i in range(6)])


def test_frozen_layers_have_none_and_must_not_share():
  np.testing.assert_array_equal(layer_factors(shape_of(4), 1.0, frozen=3)("layers/ffn/up/bias"), [0, 0, 0, 1])
  shared = layer_factors(shape_of(4, groups=2), 1.0, frozen=2)
  np.testing.assert_array_equal(shared("layers/attention/key/bias"), [0, 1])
  with pytest.raises(ValueError, match=r"got 3 frozen layers of 4 that share parameters \(attention, row 1\)"):
    layer_factors(shape_of(4, groups=2), 1.0, frozen=3)


def test_the_whole_update_is_scaled_decay_included():
  """Each tensor as AdamW would update it at a rate of its own; the moments are those of one rate."""
  kernel, head = np.ones((2, 3, 2), np.float32), np.ones(2, np.float32)
  params = {"layers": {"ffn": {"up": {"kernel": kernel}}}, "heads": {"tag": head}}
  grads = jax.tree.map(lambda leaf: np.linspace(-1, 2, leaf.size, dtype=np.float32).reshape(leaf.shape), params)
  plain = adamw(0.9, 0.999, 1e-6, 0.1, (), bias_correction=False)
  own = scaled(plain, layer_factors(shape_of(2), 0.5))
  state = plain.init(params)
  whole, moments = plain.update(grads, state, params)
  found, same = own.update(grads, own.init(params), params)
  up = lambda tree: tree["layers"]["ffn"]["up"]["kernel"]
  np.testing.assert_allclose(up(found)[0], 0.25 * up(whole)[0], rtol=1e-6)
  np.testing.assert_allclose(up(found)[1], 0.5 * up(whole)[1], rtol=1e-6)
  np.testing.assert_array_equal(found["heads"]["tag"], whole["heads"]["tag"])
  jax.tree.map(np.testing.assert_array_equal, moments, same)


# --- runs -------------------------------------------------------------------------------------------------------------


def updated(config, updates=2):
  """(leaves before, after, program) of a few updates on one device."""
  setup = Setup.of(config, jax.devices()[:1])
  feed, stage = TaskFeed(config, Path(config.task.dir) / "unborn"), setup.stages[0]
  program = Program(setup, stage, feed.example(stage))
  state = program.fresh_state()
  before = named_leaves(jax.device_get(state.params))
  for _, batch in zip(range(updates), feed.batches(stage, 0)):
    state, _ = program.step(state, program.place(batch[1]))
  return before, named_leaves(jax.device_get(state.params)), program


def changed(before, after):
  return {path for path in before if not np.array_equal(before[path], after[path])}


def test_a_frozen_encoder_stays_bit_for_bit_and_has_no_moments(start):
  """The pooler is the head's lower layer, and trains with it."""
  before, after, program = updated(config(start, task__freeze="encoder"))
  assert {path.split("/")[0] for path in changed(before, after)} == {"heads", "pooler"}
  assert not any("layers" in path or "embeddings" in path for path in named_leaves(program.shapes.opt))


def test_frozen_layers_stay_bit_for_bit_and_the_others_train(start):
  before, after, program = updated(config(start, task__freeze="1", optimizer__weight_decay=0.1))
  opt = " ".join(named_leaves(program.shapes.opt))
  assert "embeddings/word" not in opt and "layers/ffn/up/kernel" in opt
  for path in before:
    if path.startswith("embeddings/"):
      np.testing.assert_array_equal(before[path], after[path])
    elif path.startswith("layers/"):
      np.testing.assert_array_equal(before[path][0], after[path][0])
      # softmax does not see a bias of the keys
      assert not np.array_equal(before[path][1], after[path][1]) or path == "layers/attention/key/bias"


def test_what_is_frozen_follows_the_encoders_own_names(start):
  frozen = {}
  for family in ("albert", "electra"):
    own = config(start, family, task__freeze="embeddings")
    patterns = stages(own)[0].freeze
    setup = Setup.of(own, jax.devices()[:1])
    program = Program(setup, setup.stages[0], TaskFeed(own, start / "unborn").example(setup.stages[0]))
    learns = " ".join(named_leaves(program.shapes.opt))
    frozen[family] = [p for p in named_leaves(program.shapes.params) if p not in learns]
    assert patterns and "layers/ffn/up/kernel" in learns
  assert "projection/kernel" in frozen["albert"] and "discriminator/projection/kernel" in frozen["electra"]
  for paths in frozen.values():
    assert all("embeddings/" in path or "projection/" in path for path in paths)


def test_a_rate_by_depth_moves_lower_layers_less(start):
  """Without bias correction Adam first moves by 0.1 / sqrt(0.001) times the rate, wherever there is a gradient."""
  adam = {"optimizer__schedule": "constant", "optimizer__weight_decay": 0.0, "optimizer__eps": 1e-12}
  before, after, _ = updated(config(start, optimizer__layer_decay=0.5, task__warmup=0.0, **adam), updates=1)
  moved = {path: np.abs(after[path] - before[path]) for path in before}
  full, up, word = 3e-3 * 0.1 / 0.001**0.5, "layers/ffn/up/kernel", "embeddings/word/embedding"
  for row in range(LAYERS):
    assert moved[up][row].max() == pytest.approx(0.5 ** (LAYERS - row) * full, rel=1e-3)
  assert moved[word].max() == pytest.approx(0.5 ** (LAYERS + 1) * full, rel=1e-3)
  for head in ("heads/classify/kernel", "pooler/dense/kernel"):
    assert moved[head].max() == pytest.approx(full, rel=1e-3)


@pytest.mark.parametrize(
  "family, changes, line",
  [
    ("bert", {"task__freeze": "all"}, "task.freeze: got 'all', want empty, embeddings, encoder or a number of layers"),
    ("bert", {"task__freeze": "0"}, "task.freeze: got '0', want empty, embeddings, encoder or a number of layers"),
    ("bert", {"task__freeze": "3"}, "task.freeze: got '3', want at most 2, the layers of init_from"),
    ("albert", {"task__freeze": "1"}, "task.freeze: got 1 frozen layers of 2 that share parameters (attention, row 0)"),
    ("bert", {"optimizer__layer_decay": 0.0}, "optimizer.layer_decay: got 0.0, want a factor above 0, at most 1"),
    ("bert", {"task": "embed", "task__freeze": "encoder"}, "want less: embed has no head that could train"),
    ("bert", {"stages": ({"steps": 4},), "task__freeze": "1"}, "got '1' beside stages, want one of them"),
  ],
)
def test_what_cannot_be_frozen_is_one_line(start, family, changes, line):
  with pytest.raises(ConfigError) as caught:
    config(start, family, **changes)
  assert line in str(caught.value) and "\n" not in str(caught.value)
