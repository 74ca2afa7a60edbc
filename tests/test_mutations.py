"""Mutations that must turn a named test red: what each of them breaks is what the contracts exist to keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.language import LanguageObjective
from tests import elmo_mutations, test_elmo, test_masking, test_recurrence, test_stack, test_step


def test_unsharing_albert_turns_red(monkeypatch):
  monkeypatch.setattr("models.stack.copy_rows", lambda layers, groups, inner=1: np.arange(layers * inner))
  with pytest.raises(AssertionError):
    test_stack.test_parameter_counts_follow_sharing("all shared")


def test_resetting_the_backward_carry_turns_red(monkeypatch):
  monkeypatch.setattr(LanguageObjective, "next_carry", lambda self, state: state.at[:, 1].set(0.0))
  test_recurrence.test_two_steps_of_T_equal_one_of_2T("forward")
  with pytest.raises(AssertionError):
    test_recurrence.test_two_steps_of_T_equal_one_of_2T("backward")


@pytest.mark.parametrize("name", elmo_mutations.MUTATIONS)
def test_mutating_elmo_turns_red(monkeypatch, name):
  """Sentences no longer come out as the oracle has them, word by word."""
  monkeypatch.setattr(*elmo_mutations.MUTATIONS[name])
  test_elmo.compiled.cache_clear()
  with pytest.raises(AssertionError, match="Mismatched elements"):
    test_elmo.test_layers_of_sentences_are_the_oracles({})
  test_elmo.compiled.cache_clear()


@pytest.mark.slow
def test_cutting_the_batch_in_blocks_turns_red(monkeypatch):
  """Blocks of rows give every right loss, which is why the compiled text is what is read."""

  def blocks(tree, micro_batches, mesh):
    return jax.tree.map(lambda leaf: leaf.reshape(micro_batches, -1, *leaf.shape[1:]), tree)

  monkeypatch.setattr("objectives.step._strided", blocks)
  for cached in (test_step.compiled_step, test_step.compiled_text):
    cached.cache_clear()
  with pytest.raises(AssertionError):
    test_step.test_devices_keep_their_rows_of_the_batch(2)
  for cached in (test_step.compiled_step, test_step.compiled_text):
    cached.cache_clear()


def test_keying_masks_by_position_turns_red(monkeypatch):
  from data import draws

  def by_position(seed, pass_, example_ids, epoch):
    places = np.arange(example_ids.size).reshape(example_ids.shape)
    return draws.fold(draws.fold(draws.key(seed, "mask", pass_), places), epoch)

  monkeypatch.setattr("data.masking.mask_keys", by_position)
  with pytest.raises(AssertionError):
    test_masking.test_masks_are_keyed_by_example_not_by_position()


@pytest.mark.slow
def test_losing_a_skip_turns_red(monkeypatch):
  monkeypatch.setattr("objectives.step.is_finite", lambda norm, sums, carry: jnp.array(True))
  test_step.compiled_step.cache_clear()
  with pytest.raises(AssertionError):
    test_step.test_a_non_finite_batch_changes_nothing_but_cursor_and_skipped("recurrent")
  test_step.compiled_step.cache_clear()
