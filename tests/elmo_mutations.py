"""What is easily got wrong in ELMo: {what: (where, what stands there instead)}, for `monkeypatch.setattr`."""

import math

import jax.numpy as jnp

from data.characters import FILLER, NO_WORD
from models import characters, elmo, recurrent


class SwappedGate(characters.Gate):
  """sigmoid(-x): the gate lets the input pass where it should let the transform."""

  def __call__(self, x):
    return -super().__call__(x)


def swapped_gates(z, activate=recurrent._activate):
  """i, f, j, o, as PyTorch has them."""
  i, j, f, o = jnp.split(z, 4, axis=-1)
  return activate(jnp.concatenate([i, f, j, o], axis=-1))


def without_clips(options, *rest, layer=recurrent.projected_lstm):
  return layer(options._replace(cell_clip=math.inf, projection_clip=math.inf), *rest)


def padding_advances(options, x, kernels, start, mask, layer=recurrent.projected_lstm):
  return layer(options, x, kernels, start, None)


def skip_in_the_state(options, x, kernels, start, mask, layer=recurrent.projected_lstm):
  """x + h is what the next step reads."""
  outputs, state = [], start
  for t in range(x.shape[1]):
    now = None if mask is None else mask[:, t : t + 1]
    h, new = layer(options, x[:, t : t + 1], kernels, state, now)
    outputs.append(h)
    state = recurrent.State(new.c, jnp.where(now[:, 0, :, None], new.h + x[:, t], state.h))
  return jnp.concatenate(outputs, axis=1), state


def skip_taken_back(options, x, kernels, start, mask, layer=recurrent.projected_lstm):
  """h - x + x is all that is left of the skip."""
  h, end = layer(options, x, kernels, start, mask)
  return h - x, end


def filler_masked(self, words, spell=elmo.Elmo.spell_words):
  return spell(self, jnp.where(words == FILLER, NO_WORD, words))


MUTATIONS = {
  "gate order": ("models.recurrent._activate", swapped_gates),
  "no forget bias": ("models.recurrent.FORGET_BIAS", 0.0),
  "no clips": ("models.recurrent.projected_lstm", without_clips),
  "no skip": ("models.recurrent.projected_lstm", skip_taken_back),
  "skip in the state": ("models.recurrent.projected_lstm", skip_in_the_state),
  "padding advances the state": ("models.recurrent.projected_lstm", padding_advances),
  "reversed by the padded length": ("models.elmo.reverse", lambda x, lengths, axis=1: jnp.flip(x, axis)),
  "filler of words masked": ("models.elmo.Elmo.spell_words", filler_masked),
  "highway gate swapped": ("models.characters.Gate", SwappedGate),
}
