"""Name tables: one table maps parameters to published tensors and back, bit for bit, and lists what does not fit."""

import jax
import ml_dtypes
import numpy as np
import pytest

from models.paths import named_leaves
from models.published.errors import WeightsError
from models.published.names import (
  KERNEL,
  KERNEL_FROM_HEADS,
  LINEAR,
  LINEAR_FROM_HEADS,
  SAME,
  VECTOR,
  VOCAB,
  Layout,
  Table,
  from_published,
  leaf,
  stacked,
  to_published,
  widened,
)

LAYERS, HIDDEN, HEADS, SIZE, WORDS, PADDED = 3, 6, 2, 5, 11, 16
SIZES = {"vocab": WORDS}
SHAPES = {
  "embeddings": {"word": {"embedding": (PADDED, HIDDEN)}, "norm": {"scale": (HIDDEN,)}},
  "layers": {
    "attention": {
      "query": {"kernel": (LAYERS, HIDDEN, HEADS, SIZE), "bias": (LAYERS, HEADS, SIZE)},
      "output": {"kernel": (LAYERS, HEADS, SIZE, HIDDEN), "bias": (LAYERS, HIDDEN)},
    }
  },
  "heads": {"mlm": {"bias": (PADDED,), "dense": {"kernel": (HIDDEN, HIDDEN)}}, "pair": {"kernel": (HIDDEN, 2)}},
}
LAYER = "encoder.layer.{}.attention"
TABLE = Table(
  (
    leaf("embeddings/word/embedding", "embeddings.word.weight", VOCAB, ["decoder.weight"]),
    leaf("embeddings/norm/scale", "embeddings.LayerNorm.weight"),
    stacked("layers/attention/query/kernel", f"{LAYER}.query.weight", LINEAR, range(LAYERS)),
    stacked("layers/attention/query/bias", f"{LAYER}.query.bias", VECTOR, range(LAYERS)),
    stacked("layers/attention/output/kernel", f"{LAYER}.output.weight", LINEAR_FROM_HEADS, range(LAYERS)),
    stacked("layers/attention/output/bias", f"{LAYER}.output.bias", SAME, range(LAYERS)),
    leaf("heads/mlm/bias", "predictions.bias", VOCAB, ["decoder.bias"]),
    leaf("heads/mlm/dense/kernel", "predictions.dense.weight", LINEAR),
    leaf("heads/pair/kernel", "pair.weight", LINEAR),
  ),
  fixed={"embeddings.type.weight": np.zeros((1, HIDDEN), np.float32)},
  ignored=(r"^embeddings\.position_ids$",),
  renames=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"^model\.", "")),
)


def structs(dtype=np.float32):
  is_shape = lambda x: isinstance(x, tuple)
  return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), SHAPES, is_leaf=is_shape)


def params(dtype=np.float32):
  """Random bits, so that NaNs and negative zeros are among the values."""
  rng = np.random.default_rng(0)
  draw = lambda s: np.frombuffer(rng.bytes(s.size * np.dtype(dtype).itemsize), dtype).reshape(s.shape)
  return jax.tree.map(draw, structs(dtype))


def load(tensors, shapes=None, **options):
  return from_published(tensors, TABLE, shapes or structs(), SIZES, source="folder", **options)


def without_padding(tree):
  cut = {"embeddings/word/embedding", "heads/mlm/bias"}
  return {path: array[:WORDS] if path in cut else array for path, array in named_leaves(tree).items()}


def bits(named):
  return {name: (str(x.dtype), x.shape, np.asarray(x).tobytes()) for name, x in named.items()}


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("layout", "shape", "stored"),
  [
    (LINEAR, (6, 2, 5), (10, 6)),
    (LINEAR_FROM_HEADS, (2, 5, 6), (6, 10)),
    (KERNEL, (6, 2, 5), (6, 10)),
    (KERNEL_FROM_HEADS, (2, 5, 6), (10, 6)),
    (VECTOR, (2, 5), (10,)),
    (SAME, (6, 4), (6, 4)),
    (VOCAB, (16, 6), (11, 6)),
    (Layout(transpose=True, padded="vocab"), (16, 6), (6, 11)),
  ],
)
def test_layouts_are_inverted_exactly(layout, shape, stored):
  own = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  tensor = layout.store(own, SIZES)
  assert tensor.shape == layout.shape(shape, SIZES) == stored and tensor.flags.c_contiguous
  back = layout.load(tensor, shape, SIZES)
  rows = WORDS if layout.padded else shape[0]
  assert back.shape == shape and back[:rows].tobytes() == own[:rows].tobytes() and not back[rows:].any()
  assert layout.store(back, SIZES).tobytes() == tensor.tobytes()


def test_kernels_compute_the_same_in_every_layout():
  """Ours by the sum over its input axes, PyTorch's W x, TensorFlow's x K."""
  rng = np.random.default_rng(1)
  x, query, output = (rng.standard_normal(shape) for shape in ((6,), (6, 2, 5), (2, 5, 6)))
  y = np.einsum("d,dnh->nh", x, query)
  np.testing.assert_allclose(LINEAR.store(query, {}) @ x, VECTOR.store(y, {}), rtol=1e-12)
  np.testing.assert_allclose(x @ KERNEL.store(query, {}), VECTOR.store(y, {}), rtol=1e-12)
  z = np.einsum("nh,nhd->d", y, output)
  np.testing.assert_allclose(LINEAR_FROM_HEADS.store(output, {}) @ VECTOR.store(y, {}), z, rtol=1e-12)
  np.testing.assert_allclose(VECTOR.store(y, {}) @ KERNEL_FROM_HEADS.store(output, {}), z, rtol=1e-12)


# --- both directions ------------------------------------------------------------------------------------------------


def test_published_tensors_have_their_names_and_shapes():
  own, got = params(), to_published(params(), TABLE, SIZES)
  shapes = {name: tensor.shape for name, tensor in got.items()}
  want = {
    "embeddings.word.weight": (WORDS, HIDDEN),
    "embeddings.LayerNorm.weight": (HIDDEN,),
    "embeddings.type.weight": (1, HIDDEN),
    "predictions.bias": (WORDS,),
    "predictions.dense.weight": (HIDDEN, HIDDEN),
    "pair.weight": (2, HIDDEN),
  }
  for i in range(LAYERS):
    layer = f"encoder.layer.{i}.attention"
    want |= {f"{layer}.query.weight": (10, 6), f"{layer}.query.bias": (10,)}
    want |= {f"{layer}.output.weight": (6, 10), f"{layer}.output.bias": (6,)}
  assert shapes == want
  kernel = own["layers"]["attention"]["query"]["kernel"]
  for i in range(LAYERS):
    stored = got[f"encoder.layer.{i}.attention.query.weight"]
    for d, n, h in np.ndindex(HIDDEN, HEADS, SIZE):
      assert stored[n * SIZE + h, d].tobytes() == kernel[i, d, n, h].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_importing_an_export_gives_the_parameters_bit_for_bit(dtype):
  """All but the rows that only pad the vocabulary, which become zeros."""
  own = params(dtype)
  got = load(to_published(own, TABLE, SIZES), structs(dtype))
  assert got.absent == () and got.dropped == ()
  assert jax.tree.structure(got.params) == jax.tree.structure(own)
  assert bits(without_padding(got.params)) == bits(without_padding(own))
  assert not got.params["embeddings"]["word"]["embedding"][WORDS:].any()
  assert not got.params["heads"]["mlm"]["bias"][WORDS:].any()


def test_exporting_an_import_gives_the_tensors_bit_for_bit():
  tensors = to_published(params(), TABLE, SIZES)
  assert bits(to_published(load(tensors).params, TABLE, SIZES)) == bits(tensors)


def test_parameters_on_devices_are_exported_alike():
  assert bits(to_published(jax.tree.map(jax.numpy.asarray, params()), TABLE, SIZES)) == bits(
    to_published(params(), TABLE, SIZES)
  )


def test_an_export_is_no_view_of_the_parameters():
  own = jax.tree.map(np.zeros_like, params())
  for tensor in to_published(own, TABLE, SIZES).values():
    tensor += 1
  assert not any(array.any() for array in named_leaves(own).values())


def test_older_spellings_and_missing_prefixes_are_renamed():
  tensors = to_published(params(), TABLE, SIZES)
  old = {f"model.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): x for name, x in tensors.items()}
  assert bits(named_leaves(load(old).params)) == bits(named_leaves(load(tensors).params))
  with pytest.raises(WeightsError, match="extra model.stranger"):
    load(old | {"model.stranger": np.zeros(1)})
  both = tensors | {"embeddings.LayerNorm.gamma": tensors["embeddings.LayerNorm.weight"]}
  with pytest.raises(WeightsError, match="embeddings.LayerNorm.weight and embeddings.LayerNorm.gamma both stand for"):
    load(both)


# --- rows that are shared -------------------------------------------------------------------------------------------


def test_copies_that_one_row_serves_are_written_out_and_must_agree():
  """Two groups of two layers, each of two blocks in a row: four published copies of attention per group of its own."""
  indices = [(group, block) for group in range(2) for block in range(2)]
  shared = stacked("a/kernel", "groups.{}.layers.{}.a", LINEAR, indices, rows=(0, 1, 0, 1))
  own = stacked("b/bias", "groups.{}.layers.{}.b", SAME, indices)
  table = Table((shared, own))
  rng = np.random.default_rng(0)
  tree = {"a": {"kernel": rng.standard_normal((2, 3, 4))}, "b": {"bias": rng.standard_normal((4, 3))}}
  tensors = to_published(tree, table, {})
  assert tensors["groups.1.layers.0.a"].tobytes() == tensors["groups.0.layers.0.a"].tobytes()
  assert tensors["groups.1.layers.0.a"].tobytes() == tree["a"]["kernel"][0].T.tobytes()
  assert tensors["groups.1.layers.0.b"].tobytes() == tree["b"]["bias"][2].tobytes()
  back = from_published(tensors, table, tree, {}, source="folder").params
  assert bits(named_leaves(back)) == bits(named_leaves(tree))
  tensors["groups.1.layers.1.a"] = -tensors["groups.1.layers.1.a"]
  with pytest.raises(WeightsError, match="groups.1.layers.1.a differs from groups.0.layers.1.a, want the same values"):
    from_published(tensors, table, tree, {}, source="folder")


def test_tied_tensors_may_be_stored_once_under_any_name_or_twice_alike():
  tensors = to_published(params(), TABLE, SIZES)
  assert "decoder.weight" not in tensors
  want = bits(named_leaves(load(tensors).params))
  word = tensors["embeddings.word.weight"]
  assert bits(named_leaves(load(tensors | {"decoder.weight": word.copy()}).params)) == want
  alone = {("decoder.weight" if x is word else name): x for name, x in tensors.items()}
  assert bits(named_leaves(load(alone).params)) == want
  with pytest.raises(WeightsError, match="decoder.weight differs from embeddings.word.weight, want the same values"):
    load(tensors | {"decoder.weight": -word})
  assert bits(named_leaves(load(tensors | {"decoder.weight": -word}, drop=(r"^decoder\.weight$",)).params)) == want


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_is_listed_in_one_line():
  tensors = to_published(params(), TABLE, SIZES)
  del tensors["encoder.layer.1.attention.query.bias"]
  tensors["pair.weight"] = tensors["pair.weight"].T
  tensors["predictions.bias"] = np.zeros(WORDS, np.float16)
  tensors["pooler.weight"] = np.zeros((2, 3), np.float32)
  tensors["embeddings.type.weight"] = np.ones((1, HIDDEN), np.float32)
  with pytest.raises(WeightsError) as error:
    load(tensors)
  text = str(error.value)
  assert text.startswith("weights folder: do not fit the model (5 problems): ") and "\n" not in text
  for problem in (
    "missing encoder.layer.1.attention.query.bias float32[10]",
    "pair.weight float32[6, 2], want float32[2, 6]",
    "predictions.bias float16[11], want float32[11]",
    "extra pooler.weight float32[2, 3]",
    "embeddings.type.weight float32[1, 6] is not the value this model implies",
  ):
    assert problem in text


def test_long_lists_end_in_a_count():
  with pytest.raises(WeightsError) as error:
    load({f"x{n:02d}": np.zeros(1) for n in range(30)})
  published = len(to_published(params(), TABLE, SIZES))
  assert f"({published + 30} problems)" in str(error.value)
  assert str(error.value).count("missing ") == 18 and str(error.value).count("extra ") == 2  # 20 in all
  assert f"; and {published + 10} more: " in str(error.value)


def test_another_vocabulary_is_a_shape_that_does_not_fit():
  tensors = to_published(params(), TABLE, SIZES)
  with pytest.raises(WeightsError, match=r"embeddings.word.weight float32\[11, 6\], want float32\[13, 6\]"):
    from_published(tensors, TABLE, structs(), {"vocab": 13}, source="folder")


def test_buffers_and_dropped_tensors_are_reported():
  tensors = to_published(params(), TABLE, SIZES)
  extra = {"model.pooler.weight": np.zeros(3), "embeddings.position_ids": np.zeros(3, np.int64)}
  got = load(tensors | extra, drop=(r"^pooler\.",))
  assert got.dropped == ("embeddings.position_ids", "model.pooler.weight")
  with pytest.raises(WeightsError, match="1 problem.: extra model.pooler.weight"):
    load(tensors | extra)


def test_optional_leaves_are_all_there_or_all_absent():
  tensors = to_published(params(), TABLE, SIZES)
  headless = {name: x for name, x in tensors.items() if not name.startswith(("predictions.", "pair."))}
  optional = ("^heads/mlm/", "^heads/pair/")
  got = load(headless, optional=optional)
  assert got.absent == ("heads/mlm/bias", "heads/mlm/dense/kernel", "heads/pair/kernel") and "heads" not in got.params
  assert load(tensors, optional=optional).absent == ()
  with_pair = load(headless | {"pair.weight": tensors["pair.weight"]}, optional=optional)
  assert with_pair.absent == ("heads/mlm/bias", "heads/mlm/dense/kernel")
  with pytest.raises(WeightsError, match="1 problem.: missing predictions.dense.weight"):
    load(headless | {"decoder.bias": tensors["predictions.bias"]}, optional=optional)
  dropped = load(tensors, optional=optional, drop=(r"^predictions\.",))
  assert dropped.absent == with_pair.absent and dropped.dropped == ("predictions.bias", "predictions.dense.weight")


def test_parameters_and_entries_must_match():
  tree = params()
  del tree["heads"]["pair"]
  tree["heads"]["span"] = {"bias": np.zeros(2)}
  want = "no entry for parameter heads/span/bias; no parameter for entry heads/pair/kernel"
  for convert in (
    lambda: to_published(tree, TABLE, SIZES),
    lambda: from_published({}, TABLE, tree, SIZES, source="folder"),
  ):
    with pytest.raises(WeightsError, match=want):
      convert()
  tree = params()
  tree["layers"]["attention"]["query"]["bias"] = np.zeros((LAYERS + 1, HEADS, SIZE))
  with pytest.raises(WeightsError, match=r"query/bias has shape \[4, 2, 5\], its entry wants 3 copies"):
    to_published(tree, TABLE, SIZES)
  with pytest.raises(WeightsError, match=r"word/embedding has shape \[16, 6\], its entry wants 17 rows"):
    to_published(params(), TABLE, {"vocab": 17})


def test_tables_refuse_contradictions():
  with pytest.raises(ValueError, match="path a stands twice"):
    Table((leaf("a", "x"), leaf("a", "y")))
  with pytest.raises(ValueError, match="name x stands twice"):
    Table((leaf("a", "x"), leaf("b", "y", aliases=["x"])))
  with pytest.raises(ValueError, match=r"entry a: got rows \(0, 2\), want every row from 0 on"):
    stacked("a", "x{}", SAME, range(2), rows=(0, 2))


# --- dtypes ---------------------------------------------------------------------------------------------------------


def test_widening_is_exact_counted_and_leaves_the_rest():
  half, brain = np.float16, ml_dtypes.bfloat16
  every = np.arange(65536, dtype=np.uint16)
  tensors = {"h": every.view(half), "b": every.view(brain), "c": np.ones(2, brain), "f": np.ones(2, np.float32)}
  tensors["ids"] = np.arange(3)
  wide, counts = widened(tensors, "folder")
  assert counts == {"bfloat16": 2, "float16": 1}
  assert [str(x.dtype) for x in wide.values()] == ["float32"] * 4 + ["int64"] and wide["f"] is tensors["f"]
  for name, dtype in (("h", half), ("b", brain)):
    finite = np.isfinite(wide[name])
    assert wide[name][finite].astype(dtype).tobytes() == tensors[name][finite].tobytes()
  with pytest.raises(WeightsError, match="weights folder: got d float64, want at most float32"):
    widened({"d": np.ones(2)}, "folder")
