"""ELECTRA's ablations: what the second network learns, what the networks share, and how the generator is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.heads import replace_columns
from models.paths import named_leaves, split
from objectives.electra_variants import adversarial_sums, copy_mixture
from objectives.electric import ElectricObjective
from objectives.state import copy_subtrees
from tests.tenants import LENGTH, PREDICTIONS, ROWS, VOCAB
from tests.test_electra import (
  PADDED,
  SAME_SIZES,
  Scripted,
  batch_of,
  compiled,
  draws,
  figures,
  gradients,
  make,
  oracle_detection,
  params_of,
  scripted,
)
from trainer.config import load
from trainer.rules import ConfigError

# --- what the networks share ----------------------------------------------------------------------------------------


def sizes(objective):
  leaves = named_leaves(params_of(objective))
  return lambda *names: sum(leaf.size for path, leaf in leaves.items() if path.startswith(names))


def test_one_network_in_both_roles_has_no_generator():
  one, two = sizes(make(tie="all", **SAME_SIZES)), sizes(make(**SAME_SIZES))
  assert one("generator") == 0 and two("generator") == two("discriminator") == one("discriminator")
  assert one("") == two("") - two("generator")


def test_untied_networks_have_tables_of_their_own_and_of_one_width():
  tied, untied = sizes(make()), sizes(make(tie="none"))
  assert untied("generator/embeddings") == untied("embeddings") == tied("embeddings") > 0
  assert untied("") == tied("") + tied("embeddings")


UNTIED = make(tie="none", embedding=24, **{k: v for k, v in SAME_SIZES.items() if k != "embedding"})
STAGES = (  # frozen, copied at the start
  ((r"^(embeddings|discriminator|heads/rtd)/",), {}),
  (
    (r"^generator/", r"^heads/mlm/"),
    {
      "generator/embeddings": "embeddings",
      "generator/projection": "discriminator/projection",
      "generator/layers": "discriminator/layers",
    },
  ),
)


def test_untied_networks_exchange_no_gradient_so_freezing_one_trains_the_other_alone():
  """What training in two stages rests on: the frozen network's term moves nothing that trains."""
  for term, (frozen, _) in zip(("mlm", "rtd"), STAGES, strict=True):
    trains = set(named_leaves(split(params_of(UNTIED), frozen)[0]))
    for path, leaf in gradients(UNTIED)[term].items():
      assert path in trains or not leaf.any(), (term, path)
    assert all(gradients(UNTIED)[term][path].any() for path in trains if path.endswith("kernel"))


def test_the_second_stage_starts_from_the_generator():
  params, tokens = params_of(UNTIED), batch_of().tokens
  copied = {"params": copy_subtrees(params, STAGES[1][1])}
  model = UNTIED.model
  discriminates, generates = jax.jit(
    lambda v: (model.apply(v, tokens.ids, tokens).hidden, model.apply(v, tokens.ids, tokens, method="generate"))
  )(copied)
  np.testing.assert_allclose(discriminates, generates, atol=1e-6)


# --- what replaces tokens without a network -------------------------------------------------------------------------


def test_uniform_replacement_trains_the_discriminator_alone():
  objective = make(generator="uniform")
  params = params_of(objective)
  assert not any(path.startswith(("generator", "heads/mlm")) for path in named_leaves(params))
  assert set(objective.weights) == set(objective.counts(batch_of())) == {"rtd"}
  samples = many_samples(objective)
  assert samples.max() == VOCAB - 1 and samples.min() == 0
  assert (samples != 5).mean() == pytest.approx(1 - 1 / VOCAB, abs=3e-3)


def many_samples(objective, steps=64):
  """int [n]: samples of many steps, each slot's original being word 5."""
  labels = np.full((ROWS, PREDICTIONS), 5, np.int32)
  logits = objective._frequency_logits(dataclasses.replace(batch_of(), labels=labels))
  one = lambda cursor: objective.choose(logits, labels, dataclasses.replace(draws(), cursor=cursor))
  return np.ravel(jax.jit(jax.vmap(one))(jnp.arange(steps)))


def test_unigram_replacement_follows_the_corpus():
  counts = np.zeros(VOCAB)
  counts[10:20] = np.arange(1, 11)
  samples = many_samples(make(generator="unigram").with_frequencies(counts))
  assert set(samples) == set(range(10, 20))
  np.testing.assert_allclose(np.bincount(samples)[10:], np.arange(1, 11) / 55 * len(samples), atol=5 * 20)


def test_unigram_replacement_without_frequencies_says_what_is_missing():
  with pytest.raises(ValueError, match=r"unigram has no word frequencies; give them by with_frequencies\(counts\)"):
    figures(make(generator="unigram"), params_of(make(generator="unigram")))


# --- what the second network learns ---------------------------------------------------------------------------------


def corrupted_by_script(batch):
  samples = jnp.where(jnp.arange(PREDICTIONS) % 2 == 0, batch.labels, (batch.labels + 1) % VOCAB)
  return replace_columns(batch.tokens.ids, batch.positions, samples, batch.weights)


def test_electra_15_judges_selected_positions_alone():
  objective, batch = scripted(make(target="masked")), batch_of()
  logits, labels, _ = oracle_detection(objective, params_of(objective), batch)
  chosen = np.zeros((ROWS, LENGTH), bool)
  for row, slot in np.argwhere(batch.weights > 0):
    chosen[row, batch.positions[row, slot]] = True
  got = figures(objective, params_of(objective))
  losses = np.log1p(np.exp(np.where(labels, -logits, logits)))
  assert objective.counts(batch)["rtd"] == chosen.sum() == batch.weights.sum()
  assert got["rtd_loss"] == pytest.approx(losses[chosen].mean(), rel=1e-5)
  assert got["replaced_share"] == pytest.approx(labels.sum() / chosen.sum())


def second_network(objective, batch, *methods):
  """Outputs of the discriminator's heads on what the scripted generator leaves."""
  variables = {"params": params_of(objective)}
  hidden = objective.model.apply(variables, corrupted_by_script(batch), batch.tokens).hidden
  return [np.asarray(objective.model.apply(variables, hidden, method=name), np.float64) for name in methods]


def log_softmax(logits):
  shifted = logits - logits.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_replace_mlm_restores_selected_tokens_from_samples():
  objective, batch = scripted(make(target="replace_mlm")), batch_of()
  logs = log_softmax(second_network(objective, batch, "restored_logits")[0])
  costs = [-logs[row, batch.positions[row, slot], batch.labels[row, slot]] for row, slot in np.argwhere(batch.weights)]
  got = figures(objective, params_of(objective))
  assert set(objective.weights) == {"mlm", "restore"} and "rtd_loss" not in got
  assert got["restore_loss"] == pytest.approx(np.mean(costs), rel=1e-5)
  assert got["loss"] == pytest.approx(got["mlm_loss"] + 50 * got["restore_loss"])


def test_all_tokens_mlm_restores_every_token_and_may_copy():
  objective, batch = scripted(make(target="all_tokens_mlm")), batch_of()
  logits, gate = second_network(objective, batch, "restored_logits", "gate_logits")
  shares = np.exp(log_softmax(logits)) / (1 + np.exp(gate))[..., None]
  given, costs, right = np.asarray(corrupted_by_script(batch)), [], []
  for row, column in np.argwhere(batch.tokens.segments):
    share = shares[row, column]
    share[given[row, column]] += 1 / (1 + np.exp(-gate[row, column]))
    costs.append(-np.log(share[batch.tokens.ids[row, column]]))
    right.append(share.argmax() == batch.tokens.ids[row, column])
  got = figures(objective, params_of(objective))
  assert got["restore_loss"] == pytest.approx(np.mean(costs), rel=1e-5)
  assert got["restore_accuracy"] == pytest.approx(np.mean(right))


def test_the_copy_gate_is_finite_in_log_space():
  """Shares that a float32 cannot hold: the loss is exact and has a finite gradient, copied or not."""
  gates = np.array([-200.0, 0.0, 200.0], np.float32)
  logits = jnp.array([80.0, -80.0, 0.0])
  loss = lambda gate, given: -copy_mixture(logits, gate, given, jnp.array(1))[0]
  everywhere = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(loss), (None, 0)), (0, None)))
  got, slopes = everywhere(gates, jnp.array([1, 2]))
  written = 160 + np.logaddexp(0, gates)
  copied = -np.logaddexp(-np.logaddexp(0, -gates), -written)
  np.testing.assert_allclose(got, np.stack([copied, written], 1), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(slopes[:, 1], jax.nn.sigmoid(gates), atol=1e-6)
  assert np.isfinite(slopes).all() and slopes[1, 0] == pytest.approx(-0.5)


# --- adversarial training -------------------------------------------------------------------------------------------

ADVERSARIAL = make(adversarial=True, mlm_weight=0.0)


def surrogate(logits, samples, costs, states=None):
  """The adversarial terms of slots [1, P] with weight 1."""
  states = jnp.ones((*samples.shape, 16)) if states is None else states
  variables = {"params": params_of(ADVERSARIAL)}
  return adversarial_sums(ADVERSARIAL.model, variables, states, logits, samples, costs, jnp.ones(samples.shape))


def test_the_policy_term_is_zero_and_its_gradient_raises_the_expected_reward():
  """Summed over all samples by their probability, the gradient is minus that of the expected reward, exactly."""
  logits, rewards = jax.random.normal(jax.random.key(0), (1, 6)), jnp.arange(6.0)
  term = lambda x, word, reward: surrogate(x[None], word.reshape(1, 1), reward.reshape(1, 1))["policy"]
  of_each_sample = jax.jit(jax.vmap(jax.value_and_grad(term), (None, 0, 0)))
  values, slopes = of_each_sample(logits, jnp.arange(6), rewards)
  q = jax.nn.softmax(logits)[0]
  np.testing.assert_array_equal(values, 0)
  want = -q * (rewards - (q * rewards).sum())  # minus the gradient of sum q r
  np.testing.assert_allclose(jnp.einsum("s,sbv->v", q, slopes), want, rtol=1e-4, atol=1e-5)


def test_the_baseline_learns_the_probability_of_a_right_judgement_and_reaches_its_own_head_alone():
  states = jax.random.normal(jax.random.key(0), (1, 4, 16))
  samples, costs = jnp.zeros((1, 4), int), jnp.array([[0.1, 0.7, 2.0, 5.0]])
  logits = jnp.zeros((1, 4, 6))
  head = params_of(ADVERSARIAL)["heads"]["baseline"]
  guess = jax.nn.sigmoid(states @ head["kernel"] + head["bias"])[..., 0]
  want = -(jnp.exp(-costs) * jnp.log(guess) + (1 - jnp.exp(-costs)) * jnp.log(1 - guess)).sum()
  np.testing.assert_allclose(surrogate(logits, samples, costs, states)["baseline"], want, rtol=1e-5)
  for term in ("policy", "baseline"):
    slopes = jax.grad(lambda s, c, t=term: surrogate(logits, samples, c, s)[t], argnums=(0, 1))(states, costs)
    assert not any(slope.any() for slope in slopes)


def test_adversarial_losses_are_reported_without_the_surrogate():
  got, plain = figures(ADVERSARIAL, params_of(ADVERSARIAL)), figures(make(), params_of(make()))
  assert "policy_loss" not in got and got["baseline_loss"] > 0
  assert got["loss"] == pytest.approx(50 * got["rtd_loss"] + got["baseline_loss"])
  assert set(plain) | {"baseline_loss"} == set(got)
  sums, _ = compiled(ADVERSARIAL)(params_of(ADVERSARIAL), batch_of())
  assert sums["policy"] == 0 and set(sums) == set(ADVERSARIAL.weights) == set(ADVERSARIAL.counts(batch_of()))


# --- Electric -------------------------------------------------------------------------------------------------------

ELECTRIC = make(generator="electric")


def test_towers_propose_a_token_from_its_context_alone():
  """The state that predicts a token depends on every other token of its example, on no other one, and not on itself."""
  tokens, params = batch_of().tokens, params_of(ELECTRIC)
  generate = jax.jit(lambda ids: ELECTRIC.model.apply({"params": params}, ids, tokens, method="generate"))
  changed = np.array(tokens.ids)
  changed[0, 4] = (changed[0, 4] + 1) % VOCAB
  moved = np.asarray(jnp.abs(generate(changed) - generate(tokens.ids)).max(-1) > 0)
  end = int((tokens.segments[0] == 1).sum())
  assert end < LENGTH and not moved[1:].any()
  assert moved[0, 1:4].all() and not moved[0, 4] and moved[0, 5 : end - 1].all() and not moved[0, end + 1 : -1].any()


class ScriptedElectric(ElectricObjective):
  choose = Scripted.choose


def test_electric_judges_by_energy_proposal_and_share_of_noise():
  """Log odds that a position holds noise, position by position; a right sample is noise as well."""
  batch, params = batch_of(), params_of(ELECTRIC)
  variables, model = {"params": params}, ELECTRIC.model
  objective = ScriptedElectric(**vars(ELECTRIC))
  given = np.asarray(corrupted_by_script(batch))
  energies = np.asarray(model.apply(variables, given, batch.tokens, method="detect_logits"), np.float64)
  states = model.apply(variables, batch.tokens.ids, batch.tokens, method="generate")
  logs = log_softmax(np.asarray(model.apply(variables, states, method="generator_logits"), np.float64))
  losses, words, right = [], [], 0
  for row in range(ROWS):
    segments = batch.tokens.segments[row]
    columns = [c for c in range(1, LENGTH - 1) if segments[c] and segments[c - 1] == segments[c] == segments[c + 1]]
    noisy = {int(c) for c, weight in zip(batch.positions[row], batch.weights[row], strict=True) if weight}
    held = len(noisy & set(columns))
    for c in columns:
      odds = energies[row, c] + logs[row, c, given[row, c]] + np.log(held / (len(columns) - held))
      losses.append(np.log1p(np.exp(-odds if c in noisy else odds)))
      words.append(-logs[row, c, batch.tokens.ids[row, c]])
      right += (odds > 0) == (c in noisy)
  got = figures(objective, params)
  assert got["rtd_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
  assert got["mlm_loss"] == pytest.approx(np.mean(words), rel=1e-5)
  assert got["rtd_accuracy"] == pytest.approx(right / len(losses))


CONTRADICTIONS = {
  "model.generator_hidden is 64, want model.hidden = 128 with model.tie=all": {"model.tie": "all"},
  "model.tie is all, want embeddings or none with objective.generator=electric": {
    "objective.generator": "electric", "model.tie": "all", "model.generator_hidden": 128, "model.generator_heads": 2,
    "model.generator_ffn": 512,
  },
  "objective.target is masked, want all_tokens with": {"objective.generator": "electric", "objective.target": "masked"},
  "objective.adversarial is True, want False with objective.generator=uniform": {
    "objective.generator": "uniform", "objective.adversarial": True,
  },
  "objective.sample is argmax, want softmax with": {"objective.generator": "unigram", "objective.sample": "argmax"},
  "objective.target is replace_mlm, want all_tokens or masked with": {
    "objective.adversarial": True, "objective.target": "replace_mlm",
  },
}  # fmt: skip


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_choices_that_contradict_each_other_are_refused_by_name(message):
  with pytest.raises(ConfigError, match=message):
    load("configs/electra.py:tiny", CONTRADICTIONS[message])


def test_padded_words_are_never_proposed():
  logits = make(generator="uniform")._frequency_logits(batch_of())
  assert logits.shape == (ROWS, PREDICTIONS, PADDED) and (logits[..., VOCAB:] == -1e9).all()
