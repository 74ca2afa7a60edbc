"""BERT against transformers' BertForPreTraining in float32: outputs to 1e-5, gradients to 1e-4, dropout off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.batch import Masked, Pair, Tokens
from models.bert import Bert, BertConfig
from models.layers import Init
from models.published import tables
from models.published.names import to_published
from models.stack import Sharing
from objectives.base import Draws
from objectives.masked import MaskedObjective

pytestmark = pytest.mark.parity

VOCAB, LENGTH, ROWS, PREDICTIONS = 131, 23, 5, 4
CONFIG = BertConfig(
  vocab_size=VOCAB, embedding=48, hidden=48, layers=3, heads=3, ffn=80, max_positions=40, types=2, dropout=0.0,
  attention_dropout=0.0, activation="gelu", norm_eps=1e-12, init=Init(0.2), sharing=Sharing(3, 3), pooler=True,
)  # fmt: skip


def batch():
  """Padded rows of odd lengths with two segments. No real token is id 0: transformers gives that row no gradient."""
  rng = np.random.default_rng(0)
  lengths = np.array([23, 17, 9, 23, 5])[:, None]
  columns = np.arange(LENGTH)[None]
  real = columns < lengths
  ints = lambda x: np.asarray(x, np.int32)
  tokens = Tokens(
    ints(rng.integers(1, VOCAB, real.shape) * real),
    ints((columns >= lengths // 2) & real),
    ints(real),
    ints(columns * real),
  )
  positions = ints(np.stack([rng.permutation(n)[:PREDICTIONS] for n in lengths[:, 0]]))
  weights = np.ones(positions.shape, np.float32)
  weights[1, 2:] = 0
  inputs, labels = ints(rng.integers(1, VOCAB, positions.shape)), ints(rng.integers(0, VOCAB, positions.shape))
  pair = Pair(ints(np.zeros((ROWS, 1))), ints(rng.integers(0, 2, (ROWS, 1))), np.ones((ROWS, 1), np.float32))
  return Masked(tokens, positions, inputs, labels, weights, pair=pair)


@pytest.fixture(scope="module")
def ours():
  """hidden, mlm logits at the positions, pair logits, loss, gradients and parameters under transformers' names, ids."""
  objective, example = MaskedObjective(Bert(CONFIG), "nsp"), batch()
  params = jax.jit(objective.init)(jax.random.key(0), example)
  # zero biases and unit norms would hide a mistake in them
  keys = iter(jax.random.split(jax.random.key(1), 100))
  params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), params)
  draws = Draws(jax.random.key(0), jnp.int32(0), jnp.int32(0), jnp.arange(ROWS))
  counts = objective.counts(example)

  def loss(params):
    sums, _, _ = objective.sums(params, None, example, draws, False)
    return sum(sums[term] / counts[term] for term in sums)

  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  ids = example.tokens.ids.copy()
  np.put_along_axis(
    ids,
    example.positions,
    np.where(example.weights > 0, example.inputs, np.take_along_axis(ids, example.positions, 1)),
    1,
  )

  @jax.jit
  def outputs(params):
    apply = lambda *args, **kwargs: objective.model.apply({"params": params}, *args, **kwargs)
    hidden = apply(ids, example.tokens).hidden
    words = apply(hidden, example.positions, method="token_logits")[..., :VOCAB]
    return hidden, words, apply(hidden, example.pair.cls, method="pair_logits")[:, 0]

  host, table, sizes = jax.device_get, tables.bert(CONFIG), objective.model.table_sizes()
  return (
    *host(outputs(params)),
    float(value),
    to_published(host(grads), table, sizes),
    to_published(host(params), table, sizes),
    ids,
  )


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def theirs(request, ours):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.BertConfig(
    vocab_size=VOCAB, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=80,
    max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    attn_implementation=request.param,
  )  # fmt: skip
  model = transformers.BertForPreTraining(config)
  weights = {name: torch.from_numpy(np.array(array)) for name, array in ours[5].items()}
  missing, unexpected = model.load_state_dict(weights, strict=False)
  assert not unexpected and set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
  model.tie_weights()
  model.eval()
  example, as_long = batch(), lambda x: torch.from_numpy(np.asarray(x, np.int64))
  labels = np.full(example.tokens.ids.shape, -100)
  for row, column, label, weight in zip(
    *(
      np.ravel(x)
      for x in (np.arange(ROWS)[:, None].repeat(PREDICTIONS, 1), example.positions, example.labels, example.weights)
    )
  ):
    if weight:
      labels[row, column] = label
  out = model(
    as_long(ours[6]), as_long(example.tokens.segments), as_long(example.tokens.types), labels=as_long(labels),
    next_sentence_label=as_long(example.pair.labels[:, 0]), output_hidden_states=True,
  )  # fmt: skip
  out.loss.backward()
  grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
  picked = np.take_along_axis(out.prediction_logits.detach().numpy(), example.positions[..., None], 1)
  return (
    out.hidden_states[-1].detach().numpy(),
    picked,
    out.seq_relationship_logits.detach().numpy(),
    float(out.loss.detach()),
    grads,
  )


def test_outputs(ours, theirs):
  real = batch().tokens.segments > 0
  np.testing.assert_allclose(ours[0][real], theirs[0][real], atol=1e-5)
  np.testing.assert_allclose(ours[1], theirs[1], atol=3e-5)
  np.testing.assert_allclose(ours[2], theirs[2], atol=1e-5)
  assert abs(ours[3] - theirs[3]) < 1e-5


def test_gradients(ours, theirs):
  assert ours[4].keys() == theirs[4].keys()
  for name, want in theirs[4].items():
    # key biases have gradient 0 but for round-off: softmax does not see them
    scale = max(np.abs(want).max(), 1e-2)
    np.testing.assert_allclose(ours[4][name], want, atol=1e-4 * scale, err_msg=name)
