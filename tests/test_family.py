"""RoBERTa, ALBERT and SpanBERT: published parameter counts to the unit, and what each changes in BERT, by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from configs import albert, roberta, spanbert
from data.batch import Masked
from models.albert import sharing
from models.bert import Bert
from models.layers import Init
from models.paths import named_leaves
from models.sharding import count_parameters
from models.spanbert import SpanBert, SpanBertConfig
from models.stack import Sharing
from objectives.losses import cross_entropy
from objectives.masked import MaskedObjective
from tests.by_hand import apply, dense, embedded, gelu, gelu_tanh, normalised, random_params, terms
from tests.tenants import BERT, ROWS, VOCAB, WIDTH, masked_batch
from tests.test_packing_equivalence import inside_examples, unpack


@functools.cache
def counts(recipe, variant):
  """{path: parameters} of a recipe's variant, without making any."""
  objective = objectives.build(recipe.get_config(variant))
  params = jax.eval_shape(lambda: objective.init(jax.random.key(0), masked_batch(0)))
  return count_parameters(params, objective.axes(), objective.table_sizes())


def total(recipe, variant, prefix=""):
  return sum(number for path, number in counts(recipe, variant).items() if path.startswith(prefix))


def encoder(recipe, variant):
  return total(recipe, variant) - total(recipe, variant, "heads/")


# --- ALBERT -----------------------------------------------------------------------------------------------------------

ATTENTION = 4 * 768 * 768 + 4 * 768 + 2 * 768  # of one layer of the base size, with the layer norm behind it
FFN = 2 * 768 * 3072 + 3072 + 768 + 2 * 768
POOLER = 768 * 768 + 768
TABLE_4 = {  # share, width of the tables -> copies of attention and feed-forward, millions as printed
  ("all", 768): (1, 1, 31),
  ("attention", 768): (1, 12, 83),
  ("ffn", 768): (12, 1, 57),
  ("none", 768): (12, 12, 108),
  ("all", 128): (1, 1, 12),
  ("attention", 128): (1, 12, 64),
  ("ffn", 128): (12, 1, 38),
  ("none", 128): (12, 12, 89),
}


@pytest.mark.parametrize(
  "size, body, whole",
  [
    ("base", 11_683_584, 11_813_810),
    ("large", 17_683_968, 17_847_474),
    ("xlarge", 58_724_864, 59_021_490),
    ("xxlarge", 222_595_584, 223_158_450),
  ],
)
def test_albert_counts_with_pooler_and_with_both_heads(size, body, whole):
  assert (encoder(albert, size), total(albert, size)) == (body, whole)


@pytest.mark.parametrize("share, width", TABLE_4)
def test_albert_counts_of_every_way_of_sharing(share, width):
  """Table 4, exactly by the sum of its parts; the paper prints millions, with or without the pooler."""
  attention, ffn, printed = TABLE_4[share, width]
  tables = (30_000 + 512 + 2) * width + 2 * width
  projection = 0 if width == 768 else 768 * width + 768
  got = encoder(albert, f"base,share={share},embedding={width}")
  assert got == tables + projection + attention * ATTENTION + ffn * FFN + POOLER
  assert printed in (round(got / 1e6), round((got - POOLER) / 1e6))


@pytest.mark.parametrize("groups, inner", [(1, 1), (1, 2), (3, 2), (12, 1)])
def test_albert_groups_store_a_block_for_each_of_their_inner_layers(groups, inner):
  assert total(albert, f"base,groups={groups},inner={inner}", "layers/") == groups * inner * (ATTENTION + FFN)


def test_albert_groups_of_one_layer_share_nothing():
  assert sharing("all", 12, 12, 1) == sharing("none", 12, 1, 1) == Sharing(12, 12)
  assert sharing("all", 12, 1, 1) == Sharing(1, 1)
  assert sharing("attention", 12, 1, 1) == Sharing(1, 12) and sharing("ffn", 12, 1, 1) == Sharing(12, 1)
  assert counts(albert, "base,groups=12") == counts(albert, "base,share=none")


def test_albert_factorises_the_word_table():
  """V x H = 23,040,000 becomes V x E + E x H = 3,938,304."""
  assert counts(albert, "base,embedding=768")["embeddings/word/embedding"] == 23_040_000
  factors = counts(albert, "base")
  assert factors["embeddings/word/embedding"] + factors["projection/kernel"] == 3_938_304
  assert "projection/kernel" not in counts(albert, "base,embedding=768")


NARROW = 16
ALBERT = dataclasses.replace(
  BERT, embedding=NARROW, projection=True, layers=4, sharing=sharing("all", 4, 1, 1), activation="gelu_tanh"
)


def test_albert_normalises_embeddings_at_their_width_and_then_projects():
  objective, batch = MaskedObjective(Bert(ALBERT)), masked_batch(0)
  p, tokens = random_params(objective, batch), batch.tokens
  tables = {name: table["embedding"] for name, table in p["embeddings"].items() if name != "norm"}
  x = tables["word"][tokens.ids] + tables["position"][tokens.positions] + tables["type"][tokens.types]
  want = dense(normalised(x, p["embeddings"]["norm"], 1e-12), p["projection"])
  assert p["embeddings"]["norm"]["scale"].shape == (NARROW,)
  got, states = embedded(objective, p, tokens)
  assert states == 1 + ALBERT.layers
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_albert_predicts_words_at_the_width_of_the_tables():
  """D -> E, tanh GELU, layer norm at width E, times the [V, E] table, and a bias per word."""
  objective, batch = MaskedObjective(Bert(ALBERT)), masked_batch(0)
  p, hidden = random_params(objective, batch), np.random.default_rng(1).normal(size=(ROWS, 5, WIDTH))
  head = p["heads"]["mlm"]
  assert head["dense"]["kernel"].shape == (WIDTH, NARROW) and head["norm"]["scale"].shape == (NARROW,)
  x = normalised(gelu_tanh(dense(hidden[:, [3, 1]], head["dense"])), head["norm"], 1e-12)
  want = x @ p["embeddings"]["word"]["embedding"].T + head["bias"]
  columns = np.tile(np.int32([3, 1]), (ROWS, 1))
  got = apply(objective, p, np.float32(hidden), columns, method="token_logits")
  np.testing.assert_allclose(got[..., :VOCAB], want[..., :VOCAB], rtol=1e-4, atol=1e-4)


def test_albert_shared_gradients_are_the_sums_over_its_layers():
  """Through the whole loss: shared leaves get the sum of what each layer's own copy gets, all others the same."""
  batch = masked_batch(0)
  shared = MaskedObjective(Bert(ALBERT), "sop")
  apart = MaskedObjective(Bert(dataclasses.replace(ALBERT, sharing=sharing("none", 4, 1, 1))), "sop")
  params = random_params(shared, batch)
  copies = params | {"layers": jax.tree.map(lambda leaf: jnp.repeat(leaf, 4, axis=0), params["layers"])}
  sums, gradient, _ = terms(shared, params, batch)
  want_sums, per_layer, _ = terms(apart, copies, batch)
  np.testing.assert_allclose([sums["mlm"], sums["sop"]], [want_sums["mlm"], want_sums["sop"]], rtol=1e-5)
  for (path, got), want in zip(named_leaves(gradient).items(), jax.tree.leaves(per_layer), strict=True):
    want = want.sum(0, keepdims=True) if path.startswith("layers/") else want
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * float(jnp.abs(want).max()) + 1e-5, err_msg=path)


# --- RoBERTa ----------------------------------------------------------------------------------------------------------

ROBERTA = dataclasses.replace(BERT, types=0, position_offset=2, zero_padding=1, pooler=False, heads_on_top=("mlm",))


@pytest.mark.parametrize("size, whole", [("base", 124_696_665), ("large", 355_411_033)])
def test_roberta_counts_as_fairseq(size, whole):
  """Without token types and pooler; 514 rows of positions."""
  assert total(roberta, size) == whole
  width = counts(roberta, size)["embeddings/norm/scale"]
  assert counts(roberta, size)["embeddings/position/embedding"] == 514 * width
  assert not [path for path in counts(roberta, size) if "type" in path or path.startswith("pooler")]


def test_roberta_positions_begin_at_row_two():
  """Column c of an example reads row c + 2, also behind another example; rows 0 and 1 are never read."""
  objective, batch = MaskedObjective(Bert(ROBERTA)), masked_batch(0)
  p, tokens = random_params(objective, batch), batch.tokens
  position = p["embeddings"]["position"]["embedding"]
  assert tokens.positions[0, 0] == 0 and len(position) == BERT.max_positions + 2
  x = p["embeddings"]["word"]["embedding"][tokens.ids] + position[tokens.positions + 2]
  got, _ = embedded(objective, p, tokens)
  np.testing.assert_allclose(got, normalised(x, p["embeddings"]["norm"], 1e-12), atol=2e-5)


def test_roberta_starts_from_a_plain_normal_and_zero_padding_rows():
  """Standard deviation 0.02 with tails beyond two sigma (4.6 %); row 1 of words and positions is zero."""
  config = dataclasses.replace(ROBERTA, vocab_size=8000, init=Init(0.02, truncated=False))
  init = MaskedObjective(Bert(config)).init
  tables = jax.jit(lambda: init(jax.random.key(0), masked_batch(0))["embeddings"])()
  for name in ("word", "position"):
    table = np.asarray(tables[name]["embedding"])[:8000]  # the rows behind only pad the vocabulary
    np.testing.assert_array_equal(table[1], 0.0)
    assert np.abs(np.delete(table, 1, axis=0)).max(axis=1).min() > 0
  words = np.delete(np.asarray(tables["word"]["embedding"])[:8000], 1, axis=0)
  assert abs(words.std() - 0.02) < 1e-4 and abs((np.abs(words) > 0.04).mean() - 0.0455) < 0.002
  assert roberta.get_config("base").model.init == "normal"


# --- SpanBERT ---------------------------------------------------------------------------------------------------------

POSITIONS, SPAN_WIDTH = 4, 12
SPANBERT = SpanBertConfig(
  **{field.name: getattr(BERT, field.name) for field in dataclasses.fields(BERT)}
  | {"pooler": False, "heads_on_top": ("mlm", "sbo")},
  span_positions=POSITIONS,
  span_width=SPAN_WIDTH,
)  # fmt: skip
SPANS = MaskedObjective(SpanBert(SPANBERT), sbo=0.5)


def span_batch(seed):
  """Two packed examples a row with a span each, of three tokens and of two, and one prediction without boundaries."""
  batch = masked_batch(seed)
  first = batch.pair.cls[:, 1:]
  columns = np.concatenate([np.tile([2, 3, 4], (ROWS, 1)), first + [2, 3], first], axis=1).astype(np.int32)
  left = np.concatenate([np.tile([1, 1, 1], (ROWS, 1)), first + [1, 1], first * 0 - 1], axis=1)
  right = np.concatenate([np.tile([5, 5, 5], (ROWS, 1)), first + [4, 4], first * 0 - 1], axis=1)
  offsets = np.tile(np.int32([0, 1, 2, 0, 1, 0]), (ROWS, 1))
  labels = np.take_along_axis(batch.tokens.ids, columns, 1)
  edges = np.stack([left, right], -1).astype(np.int32)
  return Masked(batch.tokens, columns, batch.inputs, labels, batch.weights, edges, offsets)


@pytest.mark.parametrize("size, body, mlm, sbo", [
  ("base", 107_719_680, 621_124, 1_959_676), ("large", 332_529_664, 1_080_644, 3_388_668),
])  # fmt: skip
def test_spanbert_counts_without_pooler_and_of_both_heads(size, body, mlm, sbo):
  """The boundary head has the table of 15 places, 200 wide, two layers and a bias of its own."""
  parts = [total(spanbert, size, f"heads/{head}/") for head in ("mlm", "sbo")]
  assert (encoder(spanbert, size), *parts) == (body, mlm, sbo)
  assert counts(spanbert, size)["heads/sbo/place/embedding"] == 15 * 200


def test_spanbert_boundary_head_by_hand():
  """[left; right; place] -> dense, GELU, layer norm, twice -> the word table and the head's own bias."""
  batch = span_batch(0)
  p, hidden = random_params(SPANS, batch), np.random.default_rng(1).normal(size=batch.tokens.ids.shape + (WIDTH,))
  head, rows = p["heads"]["sbo"], np.arange(ROWS)[:, None]
  inside = batch.edges[..., 0] >= 0
  left, right = (hidden[rows, batch.edges[..., side]] for side in (0, 1))
  x = np.concatenate([left, right, head["place"]["embedding"][batch.offsets]], -1)
  assert head["dense_0"]["kernel"].shape == (2 * WIDTH + SPAN_WIDTH, WIDTH)
  for layer in "01":
    x = normalised(gelu(dense(x, head[f"dense_{layer}"])), head[f"norm_{layer}"], 1e-12)
  want = x @ p["embeddings"]["word"]["embedding"].T + head["bias"]
  got = apply(SPANS, p, np.float32(hidden), batch.edges, batch.offsets, method="boundary_logits")
  np.testing.assert_allclose(got[inside][:, :VOCAB], want[inside][:, :VOCAB], rtol=1e-4, atol=1e-4)
  assert np.isfinite(got).all() and not np.allclose(head["bias"], p["heads"]["mlm"]["bias"])


def test_spanbert_predictions_without_boundaries_have_no_boundary_term():
  """The count and the sum are those of the five tokens of spans, whatever the sixth is; its word term stays."""
  batch = span_batch(0)
  params = random_params(SPANS, batch)
  sums, _, counted = terms(SPANS, params, batch)
  assert counted["sbo"] == batch.weights[:, :5].sum() < counted["mlm"] == batch.weights.sum()
  ids = np.array(batch.tokens.ids)
  for row, slot in np.argwhere(batch.weights > 0):
    ids[row, batch.positions[row, slot]] = batch.inputs[row, slot]
  spans = apply(SPANS, params, ids, batch.tokens).hidden, batch.edges[:, :5], batch.offsets[:, :5]
  losses = cross_entropy(apply(SPANS, params, *spans, method="boundary_logits"), batch.labels[:, :5])
  np.testing.assert_allclose(sums["sbo"], np.sum(losses * batch.weights[:, :5]), rtol=1e-5)


def test_spanbert_without_any_boundary_is_finite_and_trains_no_boundary_head():
  batch = dataclasses.replace(span_batch(0), edges=np.full((ROWS, 6, 2), -1, np.int32))
  sums, gradient, counted = terms(SPANS, random_params(SPANS, batch), batch)
  assert sums["sbo"] == counted["sbo"] == 0 < counted["mlm"]
  for path, leaf in named_leaves(gradient).items():
    assert np.isfinite(leaf).all(), path
    assert path.startswith("heads/sbo/") == (not leaf.any()), path


def test_spanbert_boundary_term_trains_its_head_and_what_lies_below():
  """The term alone: every leaf of its head, the places that were read, the encoder; nothing of the word head."""
  batch = span_batch(0)
  _, gradient, _ = terms(SPANS, random_params(SPANS, batch), batch, sbo=1.0)
  for path, leaf in named_leaves(gradient).items():
    assert path.startswith("heads/mlm/") == (not leaf.any()), path
  places = np.abs(gradient["heads"]["sbo"]["place"]["embedding"]).max(1) > 0
  assert places.tolist() == [True, True, True, False]  # no span of four tokens
  assert SPANS.weights == {"mlm": 1.0, "sbo": 0.5}


# --- packing ----------------------------------------------------------------------------------------------------------


def unpack_spans(batch):
  """`unpack` with the boundaries of each example's spans moved along; other examples' slots have none."""
  alone, segments = unpack(batch), batch.tokens.segments
  rows, numbers = np.repeat(np.arange(len(segments)), 2), np.tile([1, 2], len(segments))
  first = (segments[rows] == numbers[:, None]).argmax(1)[:, None, None]
  mine = np.take_along_axis(segments[rows], batch.positions[rows], 1) == numbers[:, None]
  edges = np.where((batch.edges[rows] >= 0) & mine[..., None], batch.edges[rows] - first, -1).astype(np.int32)
  return dataclasses.replace(alone, edges=edges, offsets=batch.offsets[rows])


PACKED = {
  "positions from row two": (
    MaskedObjective(Bert(ROBERTA)), lambda: inside_examples(dataclasses.replace(masked_batch(4), pair=None)), unpack
  ),
  "span boundaries": (SPANS, lambda: span_batch(4), unpack_spans),
}  # fmt: skip


@pytest.mark.parametrize("case", PACKED)
def test_packed_rows_equal_their_examples_alone(case):
  """Half a batch of packed rows, filled up with empty ones so that one program serves both."""
  objective, make, take_apart = PACKED[case]
  half = jax.tree.map(lambda leaf: leaf[: ROWS // 2], make())
  params = random_params(objective, half)
  packed = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf * 0]), half)
  sums, gradient, counted = terms(objective, params, packed)
  alone, alone_gradient, alone_counted = terms(objective, params, take_apart(half))
  for term in objective.weights:
    assert counted[term] == alone_counted[term] > 0
    np.testing.assert_allclose(sums[term], alone[term], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(alone_gradient), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
