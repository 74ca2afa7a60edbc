"""Small real objectives, one of each shape that the contracts must carry, on two layers and random arrays.

masked: packed rows with a pair term. replaced: two networks with sampling in between. recurrent: carried state in both
directions. entities: words and entities in one encoder, each with a masked term.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Chars, Entities, Masked, MaskedEntities, Pair, Tokens
from models.bert import Bert, BertConfig
from models.elmo import Elmo, ElmoConfig
from models.heads import gather_columns, replace_columns
from models.layers import Dense, Init, LayerConfig, Table, attention_mask, split_key
from models.luke import Luke, LukeConfig
from models.stack import STACK_AXES, Sharing, Stack
from objectives.base import mean_losses, rate, tally
from objectives.entities import EntityObjective
from objectives.language import LanguageObjective
from objectives.losses import binary_cross_entropy, cross_entropy
from objectives.masked import MaskedObjective

VOCAB, WIDTH, LENGTH, ROWS, PREDICTIONS = 96, 32, 24, 16, 6
INIT = Init(0.1)
LAYER = LayerConfig(WIDTH, 4, 64, 0.0, 0.0, "gelu", 1e-12, INIT)
BERT = BertConfig(
  vocab_size=VOCAB, embedding=WIDTH, hidden=WIDTH, layers=2, heads=4, ffn=64, max_positions=LENGTH, types=2,
  dropout=0.0, attention_dropout=0.0, activation="gelu", norm_eps=1e-12, init=INIT, sharing=Sharing(2, 2), pooler=True,
)  # fmt: skip


class Encoder(nn.Module):
  """Embedded tokens through a stack."""

  layer: LayerConfig = LAYER
  layers: int = 2

  def setup(self):
    self.stack = Stack(self.layer, self.layers, Sharing(self.layers, self.layers), name="layers")

  def __call__(self, x, segments, key):
    return self.stack(x, attention_mask(segments), key)[0]


def _stack_rules(*prefixes):
  return tuple((f"^{prefix}/{pattern}", names) for prefix in prefixes for pattern, names in STACK_AXES)


class ReplacedModel(nn.Module):
  """Generator and discriminator on one word table (ELECTRA's shape)."""

  def setup(self):
    self.word = Table(128, WIDTH, INIT)
    self.position = Table(LENGTH, WIDTH, INIT)
    self.generator, self.discriminator = Encoder(), Encoder()
    self.detect = Dense((WIDTH,), (1,), INIT)

  def embed(self, ids, tokens):
    return self.word(ids) + self.position(tokens.positions)

  def generate(self, ids, tokens, columns, key):
    hidden = self.generator(self.embed(ids, tokens), tokens.segments, key)
    logits = jnp.einsum("BPD,VD->BPV", gather_columns(hidden, columns), self.word.embedding)
    return jnp.where(jnp.arange(128) < VOCAB, logits, -1e9)

  def discriminate(self, ids, tokens, key):
    return self.detect(self.discriminator(self.embed(ids, tokens), tokens.segments, key))[..., 0]

  def everything(self, tokens):
    self.generate(tokens.ids, tokens, tokens.ids[:, :1] * 0, None)
    self.discriminate(tokens.ids, tokens, None)


class Tables:
  """Real sizes of the tables, which are 128 rows each."""

  def table_sizes(self):
    return {"vocab": VOCAB, "entities": VOCAB}


@dataclasses.dataclass(frozen=True)
class Replaced(Tables):
  """Terms mlm (generator) and rtd (discriminator, weight 50); samples come from one key per global row."""

  model: ReplacedModel = ReplacedModel()
  separable: bool = True
  weights = {"mlm": 1.0, "rtd": 50.0}

  def init(self, key, batch):
    return self.model.init(key, batch.tokens, method="everything")["params"]

  def carry(self, batch):
    return None

  def axes(self):
    tables = (("^word/embedding$", ("vocab", "embed")), ("^position/embedding$", (None, "embed")))
    head = (("^detect/kernel$", ("embed", None)), ("^detect/bias$", (None,)))
    return (*tables, *head, *_stack_rules("generator", "discriminator"))

  def counts(self, batch):
    return {"mlm": jnp.sum(batch.weights), "rtd": jnp.sum(batch.tokens.segments > 0).astype(jnp.float32)}

  def sums(self, params, carry, batch, draws, train):
    keys = split_key(draws.dropout() if train else None, 2)
    variables, tokens = {"params": params}, batch.tokens
    masked = replace_columns(tokens.ids, batch.positions, batch.inputs, batch.weights)
    logits = self.model.apply(variables, masked, tokens, batch.positions, keys[0], method="generate")
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(draws.per_row("sample"))
    samples = jax.lax.stop_gradient(jnp.argmax(logits + noise, -1))
    corrupted = replace_columns(tokens.ids, batch.positions, samples, batch.weights)
    scores = self.model.apply(variables, corrupted, tokens, keys[1], method="discriminate")
    replaced, valid = corrupted != tokens.ids, (tokens.segments > 0).astype(jnp.float32)
    sums = {
      "mlm": jnp.sum(cross_entropy(logits, batch.labels) * batch.weights),
      "rtd": jnp.sum(binary_cross_entropy(scores, replaced) * valid),
    }
    return sums, {"rtd": tally((scores > 0) == replaced, valid)}, None

  def report(self, sums, counts, statistics):
    return mean_losses(sums, counts, self.weights) | {"rtd_accuracy": rate(statistics["rtd"])}


ELMO = ElmoConfig(
  vocab_size=VOCAB, input="characters", characters=5, char_embedding=8, filters=((1, 8), (2, 16)), activation="tanh",
  highway=1, layers=2, cell=24, projection=WIDTH, cell_clip=3.0, projection_clip=3.0, skip=True, dropout=0.0,
  recompute_gates=False, unroll=1,
)  # fmt: skip


LUKE = LukeConfig(
  **{field.name: getattr(BERT, field.name) for field in dataclasses.fields(BERT)}
  | {"types": 1, "pooler": False, "heads_on_top": ("mlm", "entity"), "position_offset": 2, "zero_padding": 1},
  entity_vocab_size=VOCAB,
  entity_embedding=WIDTH // 2,
)


# --- random batches -------------------------------------------------------------------------------------------------


def _ints(rng, low, high, shape):
  return rng.integers(low, high, shape).astype(np.int32)


def _packed_tokens(rng):
  """Rows of two packed examples and padding at the end."""
  ids = _ints(rng, 0, VOCAB, (ROWS, LENGTH))
  first, end = _ints(rng, 6, 11, (ROWS, 1)), _ints(rng, 15, LENGTH + 1, (ROWS, 1))
  columns = np.arange(LENGTH, dtype=np.int32)[None]
  segments = np.where(columns < first, 1, np.where(columns < end, 2, 0)).astype(np.int32)
  positions = np.where(columns < first, columns, columns - first).astype(np.int32) * (segments > 0)
  types = (positions > 3).astype(np.int32) * (segments > 0)
  return Tokens(ids, types, segments, positions.astype(np.int32)), first


def masked_batch(seed: int) -> Masked:
  rng = np.random.default_rng(seed)
  tokens, first = _packed_tokens(rng)
  positions = np.argsort(rng.random((ROWS, 15)), axis=1)[:, :PREDICTIONS].astype(np.int32)
  cls = np.concatenate([np.zeros_like(first), first], axis=1)
  return Masked(
    tokens, positions, _ints(rng, 0, VOCAB, positions.shape), np.take_along_axis(tokens.ids, positions, 1),
    (rng.random(positions.shape) < 0.8).astype(np.float32),
    pair=Pair(cls, _ints(rng, 0, 2, cls.shape), np.float32(rng.random(cls.shape) < 0.9)),
  )  # fmt: skip


def chars_batch(seed: int, length: int = LENGTH) -> Chars:
  rng = np.random.default_rng(seed)
  return Chars(
    _ints(rng, 0, 32, (4, 40, 5)), _ints(rng, 0, 40, (ROWS, 2, length)), _ints(rng, 0, VOCAB, (ROWS, 2, length)),
    np.float32(rng.random((ROWS, 2, length)) < 0.9),
  )  # fmt: skip


def entity_batch(seed: int) -> MaskedEntities:
  rng = np.random.default_rng(seed)
  words = dataclasses.replace(masked_batch(seed), pair=None)
  starts = _ints(rng, 0, 12, (ROWS, 4, 1))
  positions = starts + np.arange(3, dtype=np.int32)
  positions[rng.random(positions.shape) < 0.3] = -1
  segments = np.take_along_axis(words.tokens.segments, starts[..., 0], 1)
  entities = Entities(_ints(rng, 0, VOCAB, (ROWS, 4)), positions, segments)
  targets = _ints(rng, 0, 4, (ROWS, 2))
  return MaskedEntities(
    words, entities, targets, _ints(rng, 0, VOCAB, (ROWS, 2)), np.float32(rng.random((ROWS, 2)) < 0.7)
  )


TENANTS = {
  "masked": (MaskedObjective(Bert(BERT), "nsp"), masked_batch),
  "replaced": (Replaced(), masked_batch),
  "recurrent": (LanguageObjective(Elmo(ELMO), "sampled", 20, "never"), chars_batch),
  "entities": (EntityObjective(Luke(LUKE)), entity_batch),
}
