"""ELECTRA (Clark et al. 2020): a generator fills masked positions, a discriminator of BERT's shape reads the result.

Users keep the discriminator: `__call__` is its encoder. What the networks share is a choice of `tie`:

- `embeddings` (published): word, position and type tables with their layer norm; each network projects them to its
  own width.
- `all`: one network, of the discriminator's name, in both roles.
- `none`: the generator has tables of its own, `generator/embeddings`, of the same width, so that a generator as large
  as the discriminator can be copied onto it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from data.batch import Tokens
from models.encoded import Encoded
from models.encoder import (
  MLM_AXES,
  PROJECTION_AXES,
  Embeddings,
  EncoderConfig,
  Trunk,
  common_fields,
  embedding_axes,
  masked_token_head,
)
from models.heads import gather_columns
from models.layers import ACTIVATIONS, Array, Dense, attention_mask, split_key
from models.stack import STACK_AXES, Sharing, Stack
from models.task_heads import (
  TASK_HEADS,
  HeadedConfig,
  TaskLogits,
  fine_tunes,
  task_axes,
  task_fields,
  task_heads,
)

glorot_uniform = nn.initializers.glorot_uniform()  # of layers to which the released code gives no initialiser


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElectraConfig(HeadedConfig):
  """The discriminator's sizes, and what stands beside it.

  Attributes:
    generator: sizes of the generator; None = tokens are replaced by frequency, and there is none.
    tie: what the networks share; see the module.
    two_towers: the generator reads the unmasked text, what is left and what is right of a token apart (Electric).
    heads_on_top: of `mlm` (generator: the masked token), `baseline` (generator: what a slot will cost the
      discriminator), `rtd` (discriminator: replaced or not), `restore` (discriminator: the original token), `gate`
      (discriminator: whether the token is the original), and tasks (discriminator).
  """

  generator: EncoderConfig | None
  tie: str
  two_towers: bool = False
  heads_on_top: tuple[str, ...] = ("mlm", "rtd")

  @property
  def generator_states(self) -> int:
    """Width of the states that the generator predicts from."""
    return self.generator.hidden * (2 if self.two_towers else 1)

  @property
  def pooler(self) -> bool:
    """There is none: the state of [CLS] itself stands for a text."""
    return False

  @property
  def task_init(self) -> Any:
    return glorot_uniform


class Network(Trunk):
  """A network without the shared tables; its projection is drawn Glorot uniform. own_tables: it has its own."""

  own_tables: bool = False

  def setup(self):
    c = self.config
    if self.own_tables:
      self.embeddings = Embeddings(c)
    if c.projection:
      self.projection = Dense((c.embedding,), (c.hidden,), glorot_uniform, c.dtype)
    self.layers = Stack(c.layer, c.layers, c.sharing, c.unroll, c.remat)


class Generator(Network):
  """The generator of masked text. Embedded tokens x [B, L, E] -> states [B, L, D] that words are predicted from."""

  def __call__(self, x: Array, segments: Array, key: Array | None) -> Array:
    return self.contextualize(x, segments, key).hidden


class Tower(Network):
  """Half of a two-tower generator: tokens see their own example in one direction. [B, L, E] -> [B, L, D]."""

  def __call__(self, x: Array, mask: Array, key: Array | None) -> Array:
    return self.layers(self.projection(x) if self.config.projection else x, mask, key)[0]


class Towers(nn.Module):
  """Electric's generator of unmasked text (Clark et al. 2020b, section 2.2): what precedes a token and what follows it.

  [B, L, E] -> [B, L, 2D]: the state of `before` one column to the left and that of `after` one to the right. At the
  edges of an example, its [CLS] and last [SEP], they are of no meaning.
  """

  config: EncoderConfig
  own_tables: bool = False

  def setup(self):
    if self.own_tables:
      self.embeddings = Embeddings(self.config)
    self.before, self.after = Tower(self.config), Tower(self.config)

  def __call__(self, x: Array, segments: Array, key: Array | None) -> Array:
    keys, example, column = split_key(key, 2), attention_mask(segments), jnp.arange(segments.shape[1])
    earlier = column[:, None] >= column
    before = self.before(x, example & earlier, keys[0])
    after = self.after(x, example & earlier.T, keys[1])
    return jnp.concatenate([jnp.roll(before, 1, axis=1), jnp.roll(after, -1, axis=1)], axis=-1)


class DetectionHead(nn.Module):
  """Dense, activation, dense: is the token replaced? x [B, L, D] -> float32 logits [B, L]."""

  config: ElectraConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    x = ACTIVATIONS[c.activation](Dense((c.hidden,), (c.hidden,), c.init, c.dtype, name="dense")(x))
    return Dense((c.hidden,), (1,), glorot_uniform, jnp.float32, name="output")(x)[..., 0]


class Heads(nn.Module):
  """The heads of both networks, and those of tasks on the discriminator."""

  config: ElectraConfig

  def setup(self):
    c, on_top = self.config, self.config.heads_on_top
    if "mlm" in on_top:
      self.mlm = masked_token_head(dataclasses.replace(c.generator, hidden=c.generator_states))
    if "baseline" in on_top:
      self.baseline = Dense((c.generator_states,), (1,), glorot_uniform, jnp.float32)
    if "rtd" in on_top:
      self.rtd = DetectionHead(c)
    if "restore" in on_top:
      self.restore = masked_token_head(c)
    if "gate" in on_top:
      self.gate = Dense((c.hidden,), (1,), glorot_uniform, jnp.float32)
    for name, head in task_heads(c).items():
      setattr(self, name, head)


class Electra(TaskLogits):
  """Both networks, as pure `init`/`apply`."""

  config: ElectraConfig

  def setup(self):
    c = self.config
    self.embeddings = Embeddings(c)
    self.discriminator = Network(c)
    if c.generator is not None and c.tie != "all":
      kind = Towers if c.two_towers else Generator
      self.generator = kind(c.generator, own_tables=c.tie == "none")
    self.heads = Heads(c)

  def __call__(self, ids: Array, tokens: Tokens, key: Array | None = None, collect: bool = False) -> Encoded:
    """The discriminator's encoding of `ids` [B, L] in the layout of `tokens`; `key` switches dropout on."""
    embedding_key, layer_key = split_key(key, 2)
    x = self.embeddings(ids, tokens, embedding_key)
    return self.discriminator.contextualize(x, tokens.segments, layer_key, collect)

  def generate(self, ids: Array, tokens: Tokens, key: Array | None = None) -> Array:
    """The generator's states [B, L, D] of `ids` [B, L]."""
    if self.config.tie == "all":
      return self(ids, tokens, key).hidden
    tables = self.generator.embeddings if self.config.tie == "none" else self.embeddings
    embedding_key, layer_key = split_key(key, 2)
    return self.generator(tables(ids, tokens, embedding_key), tokens.segments, layer_key)

  def generator_logits(self, states: Array) -> Array:
    """float32 logits [..., V'] of the words at the generator's states [..., D]."""
    tables = self.generator.embeddings if self.config.tie == "none" else self.embeddings
    return self.heads.mlm(states, tables.word.embedding)

  def fill_logits(self, ids: Array, tokens: Tokens, columns: Array) -> Array:
    """float32 logits [B, P, V'] of the generator for columns [B, P] of `ids` [B, L], masked there."""
    return self.generator_logits(gather_columns(self.generate(ids, tokens), columns))

  def baseline_logits(self, states: Array) -> Array:
    """float32 [...]: the sigmoid is the share of replaced or kept tokens that the discriminator tells right."""
    return self.heads.baseline(states)[..., 0]

  def replaced_logits(self, hidden: Array) -> Array:
    """float32 logits [B, L] of the discriminator's states: above 0 = replaced."""
    return self.heads.rtd(hidden)

  def detect_logits(self, ids: Array, tokens: Tokens) -> Array:
    """float32 logits [B, L] that tokens of `ids` [B, L] are replaced."""
    return self.replaced_logits(self(ids, tokens).hidden)

  def restored_logits(self, hidden: Array) -> Array:
    """float32 logits [..., V'] of the original tokens at the discriminator's states [..., D]."""
    return self.heads.restore(hidden, self.embeddings.word.embedding)

  def gate_logits(self, hidden: Array) -> Array:
    """float32 [...]: logits that the tokens at the discriminator's states [..., D] are the originals."""
    return self.heads.gate(hidden)[..., 0]

  def everything(self, tokens: Tokens) -> None:
    """Touches every parameter once, for `init`."""
    on_top, hidden = self.config.heads_on_top, self(tokens.ids, tokens).hidden[:, :1]
    states = self.generate(tokens.ids, tokens)[:, :1] if "mlm" in on_top else None
    self.touch_tasks(hidden, tokens.ids[:, :1] * 0)
    uses = {
      "mlm": lambda: self.generator_logits(states),
      "baseline": lambda: self.baseline_logits(states),
      "rtd": lambda: self.replaced_logits(hidden),
      "restore": lambda: self.restored_logits(hidden),
      "gate": lambda: self.gate_logits(hidden),
    }
    for name in on_top:
      if name in uses:
        uses[name]()

  def axes(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """Parameter path -> axis names, first match; every leaf has a rule and every rule a leaf."""
    c = self.config
    projects = c.projection or (c.generator is not None and c.generator.projection)
    heads = (rule for name in c.heads_on_top if name not in TASK_HEADS for rule in HEAD_AXES[name])
    return (*embedding_axes(c), *(PROJECTION_AXES if projects else ()), *STACK_AXES, *heads, *task_axes(c))

  def table_sizes(self) -> dict[str, int]:
    """Real sizes of the axes that are padded."""
    return {"vocab": self.config.vocab_size}


def _logit_axes(name: str) -> tuple:
  return ((f"^heads/{name}/kernel$", ("embed", None)), (f"^heads/{name}/bias$", (None,)))


HEAD_AXES = {
  "mlm": MLM_AXES,
  "restore": tuple((pattern.replace("/mlm/", "/restore/"), names) for pattern, names in MLM_AXES),
  "rtd": _logit_axes("rtd/(dense|output)"),
  "baseline": _logit_axes("baseline"),
  "gate": _logit_axes("gate"),
}

# objective.target -> heads of the discriminator
TARGET_HEADS = {
  "all_tokens": ("rtd",),
  "masked": ("rtd",),
  "replace_mlm": ("restore",),
  "all_tokens_mlm": ("restore", "gate"),
}


def build(config: Any, dtype: Any) -> Electra:
  """The Electra of a resolved config: the discriminator alone under the head of a task; else with the heads of its
  pretraining, and with a generator if `objective.generator` names one that learns.
  """
  model, objective = config.model, config.objective
  common = common_fields(model, dtype) | {"embedding": model.embedding}
  own = common | {"projection": model.embedding != model.hidden, "sharing": Sharing(model.layers, model.layers)}
  if fine_tunes(config):
    return Electra(ElectraConfig(**own, **task_fields(config), generator=None, tie="embeddings"))
  sizes = {
    "layers": model.generator_layers,
    "hidden": model.generator_hidden,
    "heads": model.generator_heads,
    "ffn": model.generator_ffn,
  }
  learns = objective.generator in ("mlm", "electric")
  generator = EncoderConfig(
    **common | sizes,
    projection=model.embedding != model.generator_hidden,
    sharing=Sharing(model.generator_layers, model.generator_layers),
  )
  heads = ("mlm", *(("baseline",) if objective.adversarial else ())) if learns else ()
  return Electra(
    ElectraConfig(
      **own,
      generator=generator if learns else None,
      tie=model.tie,
      two_towers=objective.generator == "electric",
      heads_on_top=(*heads, *TARGET_HEADS[objective.target]),
    )
  )
