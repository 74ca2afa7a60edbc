"""ELMo's objective: two directions on one softmax, sampled or full, and a state that goes on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import elmo
from data.batch import Chars, validate
from data.characters import BEGIN_WORD, END_WORD, FILLER
from data.synthetic_streams import streams
from models import elmo as elmo_model
from models.elmo import Elmo, ElmoConfig
from models.paths import named_leaves
from objectives import BUILDERS, build_optimizer, loss_scale
from objectives.base import Draws
from objectives.language import LanguageObjective, full_cross_entropy
from objectives.sampled_softmax import sampled_cross_entropy

VOCAB, ROWS, LENGTH, CELL, WIDTH = 90, 8, 5, 12, 6


SMALL = ElmoConfig(
  vocab_size=VOCAB, input="characters", characters=7, char_embedding=4, filters=((1, 8), (2, 8)), activation="tanh",
  highway=1, layers=2, cell=CELL, projection=WIDTH, cell_clip=3.0, projection_clip=3.0, skip=True, dropout=0.0,
  recompute_gates=False, unroll=1,
)  # fmt: skip


def make(softmax="sampled", negatives=20, reset="never", dropout=0.0):
  return LanguageObjective(Elmo(dataclasses.replace(SMALL, dropout=dropout)), softmax, negatives, reset)


def batch_of(seed=0, length=LENGTH):
  rng = np.random.default_rng(seed)
  ints = lambda high, *shape: rng.integers(0, high, shape).astype(np.int32)
  weights = np.float32(rng.random((ROWS, 2, length)) < 0.8)
  return Chars(ints(262, 2, 30, 7), ints(30, ROWS, 2, length), ints(VOCAB, ROWS, 2, length), weights)


def draws(cursor=0, micro=0, rows=ROWS):
  root = jax.random.fold_in(jax.random.key(3), 1)
  return Draws(root, jnp.int32(cursor), jnp.int32(micro), jnp.arange(rows))


@functools.cache
def params_of(objective):
  return jax.jit(lambda: objective.init(jax.random.key(0), batch_of()))()


@functools.cache
def compiled(objective, train):
  return jax.jit(lambda params, carry, batch, draws: objective.sums(params, carry, batch, draws, train))


def run(objective, batch, train, carry=None, step=None):
  """(sums, statistics, carry) with the parameters of the seed, from an empty carry where none is given."""
  carry = objective.carry(batch) if carry is None else carry
  return compiled(objective, train)(params_of(objective), carry, batch, step or draws())


def figures(objective, batch, train):
  sums, statistics, _ = run(objective, batch, train)
  return objective.report(*jax.device_get((sums, objective.counts(batch), statistics)))


# --- the loss -------------------------------------------------------------------------------------------------------


@functools.cache
def scores_of(model):
  """jitted (params, batch, carry) -> (states, table, bias) of the top layer."""

  def scores(params, batch, carry):
    outputs, _ = model.apply({"params": params}, batch.words, batch.index, carry)
    return model.apply({"params": params}, outputs[-1], method="scores")

  return jax.jit(scores)


def top_logits(objective, batch):
  """float64 [B, 2, L, V] of the real words, from the model's own table."""
  x, table, bias = scores_of(objective.model)(params_of(objective), batch, objective.carry(batch))
  return np.einsum("BDLP,VP->BDLV", x, np.asarray(table)[:VOCAB], dtype=np.float64) + np.asarray(bias)[:VOCAB]


def oracle_losses(objective, batch):
  """[B, 2, L]: -log softmax at the target."""
  logits = top_logits(objective, batch)
  shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  return -np.log(np.take_along_axis(shares, batch.targets[..., None], -1)[..., 0])


def test_the_loss_is_half_the_mean_cross_entropy_of_each_direction():
  objective, batch = make("full"), batch_of()
  losses, weights = oracle_losses(objective, batch), batch.weights
  forward, backward = ((losses[:, d] * weights[:, d]).sum() / weights[:, d].sum() for d in (0, 1))
  got = figures(objective, batch, True)
  assert got["forward_loss"] == pytest.approx(forward, rel=1e-5)
  assert got["backward_loss"] == pytest.approx(backward, rel=1e-5)
  assert got["loss"] == pytest.approx(0.5 * forward + 0.5 * backward, rel=1e-5)


def test_perplexity_is_of_each_direction_and_of_the_mean_of_both_losses():
  objective, batch = make("full"), batch_of()
  got = figures(objective, batch, False)
  assert got["forward_perplexity"] == pytest.approx(np.exp(got["forward_loss"]))
  assert got["backward_perplexity"] == pytest.approx(np.exp(got["backward_loss"]))
  geometric = (got["forward_perplexity"] * got["backward_perplexity"]) ** 0.5
  assert got["perplexity"] == pytest.approx(geometric)
  right = top_logits(objective, batch).argmax(-1) == batch.targets
  for direction, name in enumerate(("forward", "backward")):
    weights = batch.weights[:, direction]
    assert got[f"{name}_accuracy"] == pytest.approx((right[:, direction] * weights).sum() / weights.sum())


def test_held_out_text_is_judged_by_the_full_softmax_whatever_training_does():
  batch = batch_of()
  sampled, full = (figures(make(softmax), batch, False) for softmax in ("sampled", "full"))
  assert sampled == pytest.approx(full, rel=1e-6)


def test_a_sampled_loss_is_of_the_negatives_of_its_step_and_tells_no_perplexity():
  objective, batch = make(), batch_of()
  step = draws(cursor=4)
  scores = scores_of(objective.model)(params_of(objective), batch, objective.carry(batch))
  judge = jax.jit(lambda scores, draws: sampled_cross_entropy(*scores, batch.targets, objective.draw(draws), VOCAB))
  losses = judge(scores, step)
  sums, statistics, _ = run(objective, batch, True, step=step)
  for direction, term in enumerate(("forward", "backward")):
    want = (losses[:, direction] * batch.weights[:, direction]).sum()
    np.testing.assert_allclose(sums[term], want, rtol=1e-5)
  assert statistics == {}
  assert set(figures(objective, batch, True)) == {"loss", "forward_loss", "backward_loss"}


def test_negatives_are_drawn_once_a_step_for_each_direction():
  """Micro-steps and rows share them; the next batch and the other direction have others."""
  draw = jax.jit(make().draw)
  first, micro, later = draw(draws(7)), draw(draws(7, micro=3)), draw(draws(8))
  assert first.ids.shape == (2, 20)
  np.testing.assert_array_equal(first.ids, micro.ids)
  assert (first.ids != later.ids).any() and {*first.ids[0].tolist()} != {*first.ids[1].tolist()}


def test_directions_share_softmax_and_characters():
  """The gradient of either term reaches both; each one's LSTMs only itself."""
  objective, batch = make("full"), batch_of()
  params = params_of(objective)
  terms = lambda params: objective.sums(params, objective.carry(batch), batch, draws(), True)[0]
  gradients = jax.jit(jax.jacrev(terms))(params)
  for number, term in enumerate(("forward", "backward")):
    for path, leaf in named_leaves(gradients[term]).items():
      if path.startswith("layers/"):
        assert leaf[:, number].any() and not leaf[:, 1 - number].any(), (term, path)
      else:
        assert leaf.any(), (term, path)


def test_dropout_is_of_training_alone_and_of_its_micro_step():
  plain, objective, batch = make("full"), make("full", dropout=0.3), batch_of()
  held_out, want = run(objective, batch, False)[0], run(plain, batch, False)[0]
  np.testing.assert_allclose(held_out["forward"], want["forward"], rtol=1e-6)
  first, again, other = (run(objective, batch, True, step=draws(micro=m))[0]["forward"] for m in (0, 0, 1))
  assert first == again != other and first != held_out["forward"]


def test_losses_over_slices_of_the_table_are_those_of_the_whole(monkeypatch):
  objective, batch = make("full"), batch_of()
  monkeypatch.setattr("objectives.losses.CHUNK_ROWS", 32)
  rng = np.random.default_rng(0)
  x, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((ROWS, 2, LENGTH, WIDTH), (128, WIDTH)))
  bias = jnp.where(jnp.arange(128) < VOCAB, 0.0, -1e9)
  losses, hits = full_cross_entropy(x, table, bias, batch.targets)
  logits = np.einsum("BDLP,VP->BDLV", x, table[:VOCAB])
  want = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, batch.targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(losses, want, rtol=1e-5)
  np.testing.assert_array_equal(hits, logits.argmax(-1) == batch.targets)
  assert objective.weights == {"forward": 0.5, "backward": 0.5}


# --- the state ------------------------------------------------------------------------------------------------------


def halves(batch):
  part = lambda columns: dataclasses.replace(
    batch, **{name: getattr(batch, name)[..., columns] for name in ("index", "targets", "weights")}
  )
  middle = batch.index.shape[-1] // 2
  return part(slice(0, middle)), part(slice(middle, None))


def test_the_state_begins_at_zeros_of_every_layer_and_direction():
  assert make().carry(batch_of()).shape == (ROWS, 2, 2, CELL + WIDTH) and not make().carry(batch_of()).any()


def test_reset_windows_carry_nothing_and_begin_at_zeros():
  """The second window gives what it gives by itself; carried, it gives something else in both directions."""
  carried, reset = make("full"), make("full", reset="window")
  first, second = halves(batch_of(length=2 * LENGTH))
  assert reset.carry(first) is None and run(reset, first, True)[2] is None
  alone = run(carried, second, True)[0]
  after = run(carried, second, True, carry=run(carried, first, True)[2])[0]
  for term, total in run(reset, second, True)[0].items():
    np.testing.assert_allclose(total, alone[term], rtol=1e-6)
    assert abs(total - after[term]) > 1e-4 * total


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_published_recipe():
  """Peters et al. 2018 and the released code: 10 epochs in 1,000,840 steps of 384 x 20 words."""
  config = elmo.get_config("original")
  assert (config.steps, config.batch_size * config.data.length) == (1_000_840, 7680)
  o, objective = config.optimizer, config.objective
  assert (o.name, o.lr, o.accumulator, o.schedule, o.warmup_steps, o.clip) == ("adagrad", 0.2, 1.0, "constant", 0, 10.0)
  assert (objective.softmax, objective.negatives, objective.reset, loss_scale(config)) == ("sampled", 8192, "never", 20)
  m = config.model
  assert (m.vocab_size, m.characters, m.char_embedding, m.dropout) == (793_471, 50, 16, 0.1)
  assert (m.cell_clip, m.projection_clip, m.skip, m.layers, m.activation) == (3.0, 3.0, True, 2, "relu")
  assert sum(number for _, number in m.filters) == 2048 and [width for width, _ in m.filters] == [*range(1, 8)]


@pytest.mark.parametrize(
  ("size", "cell", "projection", "highway"),
  [("small", 1024, 128, 1), ("medium", 2048, 256, 1), ("original", 4096, 512, 2)],
)
def test_sizes(size, cell, projection, highway):
  model = elmo.get_config(size).model
  assert (model.cell, model.projection, model.highway) == (cell, projection, highway)


def test_settings_change_what_they_name():
  config = elmo.get_config("small,softmax=full,input=words,state=reset")
  assert (config.objective.softmax, config.model.input, config.objective.reset) == ("full", "words", "window")
  tiny = elmo.get_config()
  assert tiny.objective.negatives < tiny.model.vocab_size and tiny.dtype == "float32"


def test_the_recipe_builds_its_objective_and_optimiser():
  config = elmo.get_config("small,state=reset")
  objective = BUILDERS["language"](elmo_model.build(config, jnp.bfloat16), config.objective)
  assert (objective.model.config.cell, objective.model.config.dtype) == (1024, jnp.bfloat16)
  assert (objective.softmax, objective.negatives, objective.reset) == ("sampled", 8192, "window")
  optimizer = build_optimizer(config)
  state = optimizer.transform.init({"w": jnp.zeros(3)})
  assert state.squares["w"].tolist() == [1.0] * 3 and optimizer.clip == 10.0
  assert float(optimizer.schedule(jnp.int32(10**6))) == pytest.approx(0.2)


# --- batches without a corpus ---------------------------------------------------------------------------------------


def test_synthetic_streams_are_spelled_words_in_the_shapes_of_the_recipe():
  config = elmo.get_config("tiny")
  stage = ConfigDict({"batch_size": 8, "length": 20})
  batch, again = (streams(config, stage, np.random.default_rng(5)) for _ in range(2))
  sizes = validate(batch)
  assert (sizes["B"], sizes["L"], sizes["G"], sizes["U"], sizes["C"]) == (8, 20, 1, 512, 50)
  for name in ("words", "index", "targets"):
    np.testing.assert_array_equal(getattr(batch, name), getattr(again, name))
  assert batch.index.min() >= 0 and batch.index.max() < 512 and (batch.weights == 1).all()
  assert batch.targets.min() >= 0 and batch.targets.max() < 8192 and (batch.targets == 0).mean() > 0.03
  for word in batch.words[0]:
    end = word.tolist().index(END_WORD)
    letters = word[1:end]
    assert word[0] == BEGIN_WORD and end >= 2 and (word[end + 1 :] == FILLER).all()
    assert ((letters >= 1 + ord("a")) & (letters <= 1 + ord("z"))).all()


def test_synthetic_words_of_a_table_are_ids():
  config = elmo.get_config("tiny,input=words")
  batch = streams(config, ConfigDict({"batch_size": 8, "length": 20}), np.random.default_rng(5))
  sizes = validate(batch)
  assert (sizes["U"], sizes["C"]) == (512, 1) and 0 < batch.words.max() < 8192
