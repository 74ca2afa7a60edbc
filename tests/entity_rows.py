"""Examples with mentions, and the pipelines, rows and batches made of them."""

import dataclasses

import jax
import numpy as np

from data import rows
from data.examples import Options, build_table
from data.loader import Pipeline, Settings, evaluation_batches
from data.masking import EntitySettings, Masking
from data.tokenizers import Special
from tests import oracles

SPECIAL, VOCAB, SEED = Special(pad=1, unk=3, cls=0, sep=2, mask=4), 60000, 5
WORDS = Masking("whole_word", max_predictions=77, budget="text", replace_by="word", random_tokens="above_pad")
ENTITIES = EntitySettings(mask=101, pad=100)
STORE = oracles.random_store(120, seed=1)
TABLES = {
  "alone": Options("entity_sentences", 64),
  "packed": Options("entity_sentences", 128, packed=4),
  "packed, few slots": Options("entity_sentences", 128, packed=3, max_entities=10),
}


def pipeline(options=TABLES["alone"], batch_size=8, words=WORDS, entities=ENTITIES, passes=1, store=STORE, seed=SEED):
  built = [build_table(store, options, 3, pass_) for pass_ in range(passes)]
  return Pipeline(built, store, Settings(batch_size, SPECIAL, VOCAB, words, None, entities), seed)


def whole(pipe):
  """All rows of the first pass, in the table's order, and their batch."""
  table = pipe.tables[0]
  got = rows.assemble(table, pipe.store, SPECIAL, np.arange(len(table.rows)))
  settings = dataclasses.replace(pipe.settings, batch_size=len(table.rows))
  (batch,) = evaluation_batches(table, pipe.store, settings, pipe.seed)
  return got, batch


def same(a, b):
  leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(leaves_a) == len(leaves_b) and all(
    x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(leaves_a, leaves_b, strict=True)
  )
