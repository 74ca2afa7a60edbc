"""What a checkpoint is: the state that was saved, under its step, as long as the run may need it."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.saved_states import abstract, expect, make_state, save_all
from trainer import checkpoints as command
from trainer.checkpoints import Checkpoints
from trainer.manifest import CheckpointError, MismatchError, named_leaves, state_digest
from trainer.restore import Reader


def mesh(*shape):
  return Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), ("data", "model"))


def sharded(state, on):
  """Shardings on the mesh `on`: the last two dimensions over its two axes, leaves with fewer replicated."""
  spec = lambda leaf: NamedSharding(on, P(*[None] * (leaf.ndim - 2), "data", "model") if leaf.ndim >= 2 else P())  # noqa: E731
  return jax.tree.map(spec, state)


def test_digest_covers_every_bit_name_type_shape_and_place():
  state = make_state()
  seen = {state_digest(state)}

  def differs(other):
    seen.add(state_digest(other))
    return len(seen)

  kernel = state.params["embed"]["kernel"]
  with_kernel = lambda array: dataclasses.replace(state, params=state.params | {"embed": {"kernel": array}})  # noqa: E731
  flipped = kernel.copy()
  flipped.view(np.uint32)[7, 3] ^= 1
  assert differs(with_kernel(flipped)) == 2
  assert differs(with_kernel(kernel.reshape(8, 16))) == 3
  assert differs(with_kernel(kernel.view(np.int32))) == 4
  assert differs(dataclasses.replace(state, params=state.params | {"embed": {"weight": kernel}})) == 5
  assert differs(with_kernel(kernel[::-1])) == 6
  assert differs(dataclasses.replace(state, carry=None)) == 7
  for name in ("step", "cursor", "skipped"):
    differs(dataclasses.replace(state, **{name: np.asarray(5, np.int32)}))
  assert len(seen) == 10
  zero, minus_zero = (with_kernel(np.full((16, 8), x, np.float32)) for x in (0.0, -0.0))
  assert state_digest(zero) != state_digest(minus_zero)
  turned = dataclasses.replace(state, params=dict(reversed(state.params.items())))
  assert state_digest(turned) == state_digest(state)  # paths are sorted: the order of insertion is no part of a state
  assert state_digest(jax.device_put(state, sharded(state, mesh(4, 2)))) == state_digest(state)


def test_two_leaves_of_one_name_are_refused():
  with pytest.raises(CheckpointError, match="two leaves called params/a/b"):
    named_leaves({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}, "params")


@pytest.mark.parametrize("there", [(2, 4), (8, 1), (1, 2), (1, 1)], ids=str)
def test_restores_bit_equal_onto_another_mesh(tmp_path, there):
  state = jax.device_put(make_state(), sharded(make_state(), mesh(4, 2)))
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(state, {"config": {"lr": 1e-4}, "data": "ab12"}, scheduled=True)
  target = sharded(state, mesh(*there))
  want = jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), state, target)
  restored, meta = Reader(tmp_path).restore(lambda step: want)
  assert state_digest(restored) == state_digest(make_state())
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert jax.tree.all(jax.tree.map(lambda leaf, s: leaf.sharding == s, restored, target))
  assert meta == {"config": {"lr": 1e-4}, "data": "ab12"} | {
    "step": 100, "cursor": 100, "skipped": 0, "generation": 0, "scheduled": True, "permanent": False
  }  # fmt: skip


def test_buffers_may_be_donated_right_after_save_and_after_restore(tmp_path):
  advance = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), s), donate_argnums=0)
  state = jax.device_put(make_state(), sharded(make_state(), mesh(4, 2)))
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(state, {}, scheduled=True)
    after = advance(state)
    restored, _ = checkpoints.restore(expect(make_state()))
  assert state_digest(restored) == state_digest(make_state())
  assert state_digest(advance(restored)) == state_digest(after)


def test_arrays_may_change_on_the_host_while_they_are_written(tmp_path):
  state = make_state()
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(state, {}, scheduled=True)
    for leaf in jax.tree.leaves(state):
      leaf[...] = 0
    restored, _ = checkpoints.restore(expect(make_state()))
  assert state_digest(restored) == state_digest(make_state())


@pytest.mark.parametrize("carry", [None, np.arange(6, dtype=np.float32)], ids=["none", "bare array"])
def test_carry_may_be_nothing_or_one_array(tmp_path, carry):
  state = dataclasses.replace(make_state(), carry=carry, opt=())
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(state, {}, scheduled=True)
  assert state_digest(Reader(tmp_path).restore(expect(state))[0]) == state_digest(state)


def test_each_step_is_held_against_the_leaves_of_its_own_stage(tmp_path):
  first, second = dataclasses.replace(make_state(100), opt=()), make_state(200)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for state in (first, second):
      checkpoints.save(state, {}, scheduled=True, wait=True)
    stage_of = lambda step: abstract(first if step <= 100 else second)  # noqa: E731
    assert state_digest(checkpoints.restore(stage_of)[0]) == state_digest(second)
    (tmp_path / "200" / "opt" / "_METADATA").unlink()  # the step to fall back to belongs to the stage before
    assert state_digest(checkpoints.restore(stage_of)[0]) == state_digest(first)


def test_nothing_saved_is_none_and_not_an_error(tmp_path):
  (tmp_path / "300.tmp").mkdir()
  for checkpoints in (Reader(tmp_path), Reader(tmp_path / "none"), Checkpoints(tmp_path, keep=1)):
    assert checkpoints.restore(expect(make_state())) is None
    assert checkpoints.restore_params(abstract(make_state().params)) is None
    assert checkpoints.read_meta() is None
    assert checkpoints.good_steps() == []
  assert not (tmp_path / "300.tmp").exists()


def test_params_restore_alone_when_the_rest_is_gone(tmp_path):
  save_all(tmp_path, [100])
  shutil.rmtree(tmp_path / "100" / "opt")
  shutil.rmtree(tmp_path / "100" / "carry")
  params, meta = Reader(tmp_path).restore_params(abstract(make_state().params))
  assert jax.tree.all(jax.tree.map(np.array_equal, params, make_state().params))
  assert meta["config"] == {"lr": 0.5} and meta["step"] == 100
  with pytest.raises(CheckpointError, match=r"no good checkpoint among \[100\].*100 is damaged: .*No such file"):
    Reader(tmp_path).restore(expect(make_state()))


def test_a_state_that_stands_is_not_written_twice_but_gains_flags(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(make_state(100), {"n": 1}, scheduled=False, wait=True)
    first = (tmp_path / "100" / "params").stat().st_ino
    checkpoints.save(make_state(100, cursor=102, skipped=2), {"n": 2}, scheduled=True, permanent=True, wait=True)
    assert (tmp_path / "100" / "params").stat().st_ino == first
    meta = checkpoints.read_meta(100)
    assert (meta["scheduled"], meta["permanent"], meta["cursor"], meta["n"]) == (True, True, 100, 1)
    checkpoints.save(make_state(100, seed=1), {"n": 3}, scheduled=True, wait=True)  # another timeline: replaced
    assert checkpoints.read_meta(100)["n"] == 3 and checkpoints.verify(100) == []


def test_retention_keeps_the_newest_the_permanent_and_the_newest_scheduled(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step, scheduled, permanent in [(1, 1, 0), (2, 0, 1), (3, 1, 0), (4, 0, 0), (5, 0, 0), (6, 0, 0)]:
      checkpoints.save(make_state(step), {}, scheduled=bool(scheduled), permanent=bool(permanent), wait=True)
    assert checkpoints.good_steps() == [2, 3, 5, 6]
    assert checkpoints.rollback_target() == 3
    checkpoints.save(make_state(7), {}, scheduled=True, wait=True)
    assert checkpoints.good_steps() == [2, 6, 7]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "6", "7"]


def replace_param(state, name, array):
  return dataclasses.replace(state, params=state.params | {name: array})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s: replace_param(s, "embed", {"kernel": np.zeros((17, 8), np.float32)}),
     "params/embed/kernel: got float32[16, 8], want float32[17, 8]"),
    (lambda s: replace_param(s, "embed", {"kernel": np.zeros((16, 8), np.float16)}),
     "params/embed/kernel: got float32[16, 8], want float16[16, 8]"),
    (lambda s: replace_param(s, "head", np.zeros(3, np.float32)), "params/head: got missing, want float32[3]"),
    (lambda s: dataclasses.replace(s, params={"embed": s.params["embed"]}),
     "params/layers/bias: got float32[8, 8], want no such leaf"),
    (lambda s: dataclasses.replace(s, opt=()), "opt/0/count: got int32[], want no such leaf"),
    (lambda s: dataclasses.replace(s, carry={"h": np.zeros((4, 8), np.float32)}),
     "carry/h: got float32[8, 8], want float32[4, 8]"),
    (lambda s: dataclasses.replace(s, step=np.asarray(1, np.int64)), "step: got int32[], want int64[]"),
  ],
)  # fmt: skip
def test_another_model_is_refused_by_name_and_is_no_reason_to_fall_back(tmp_path, change, message):
  save_all(tmp_path, [100, 200])
  with Checkpoints(tmp_path, keep=2) as checkpoints, pytest.raises(MismatchError) as refusal:
    checkpoints.restore(expect(change(make_state())))
  assert f"{tmp_path / '200'} does not fit this run: " in str(refusal.value)
  assert message in str(refusal.value) and "\n" not in str(refusal.value)
  assert Reader(tmp_path).good_steps() == [100, 200]


def position(checkpoints):
  state, meta = checkpoints.restore(expect(make_state()))
  assert meta["cursor"] == int(state.cursor)
  return int(state.step), int(state.cursor), meta["generation"]


def test_rollback_voids_what_is_newer_and_moves_the_cursor(tmp_path):
  save_all(tmp_path, [100, 200, 300])
  with Checkpoints(tmp_path, keep=9) as checkpoints:
    checkpoints.save(make_state(310), {}, scheduled=False)
    assert checkpoints.rollback_target() == 300  # 310 stands too, but no uninterrupted run would have it
    checkpoints.rollback(200, cursor=350)
    assert position(checkpoints) == (200, 350, 0)
    assert checkpoints.good_steps() == [100, 200] and checkpoints.rollback_target() == 200
  with Checkpoints(tmp_path, keep=9) as checkpoints:  # a restart, before anything was saved
    assert position(checkpoints) == (200, 350, 0)
    checkpoints.save(make_state(200, 350), {}, scheduled=False, wait=True)  # preempted at once: the target still stands
    assert position(checkpoints) == (200, 350, 0) and checkpoints.rollback_target() == 200
    checkpoints.rollback(200, cursor=360)  # a second one in a row, to the same step
    assert position(checkpoints) == (200, 360, 0)
    checkpoints.save(make_state(300, 460), {}, scheduled=True, wait=True)  # the void 300 gives way
    assert position(checkpoints) == (300, 460, 2)
    assert checkpoints.good_steps() == [100, 200, 300]
    checkpoints.rollback(100, cursor=500)
    assert position(checkpoints) == (100, 500, 0)
    checkpoints.save(make_state(150, 550), {}, scheduled=True, wait=True)
    assert position(checkpoints) == (150, 550, 3)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "150", "rollbacks.json"]
  entries = json.loads((tmp_path / "rollbacks.json").read_text())["body"]
  assert [tuple(entry.values()) for entry in entries] == [(200, 350, 1), (200, 360, 2), (100, 500, 3)]


def test_impossible_rollbacks_are_refused(tmp_path):
  save_all(tmp_path, [100, 200])
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    with pytest.raises(CheckpointError, match=r"got step 150, want one of \[100, 200\]"):
      checkpoints.rollback(150, cursor=300)
    with pytest.raises(CheckpointError, match="got cursor 100, want more than its own 100"):
      checkpoints.rollback(100, cursor=100)
    checkpoints.rollback(100, cursor=300)
    with pytest.raises(CheckpointError, match=r"got step 200, want one of \[100\]"):
      checkpoints.rollback(200, cursor=400)
    with pytest.raises(CheckpointError, match="200 was left behind by a rollback"):
      checkpoints.restore(expect(make_state()), step=200)
  assert len(Reader(tmp_path).rollbacks.entries) == 1


def test_a_damaged_or_lost_ledger_is_refused(tmp_path):
  save_all(tmp_path, [100, 200])
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.rollback(100, cursor=250)
    checkpoints.save(make_state(150, 300), {}, scheduled=True)
  ledger = tmp_path / "rollbacks.json"
  text = ledger.read_text()
  ledger.write_text(text.replace("250", "251"))
  with pytest.raises(CheckpointError, match="rollback ledger .* is damaged"):
    Checkpoints(tmp_path, keep=2)
  ledger.unlink()
  with pytest.raises(CheckpointError, match="lists 0 rollbacks, checkpoint 150 was saved after 1"):
    Checkpoints(tmp_path, keep=2).restore(expect(make_state()))


def test_a_rollback_whose_target_is_gone_never_starts_afresh(tmp_path):
  save_all(tmp_path, [100, 200])
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.rollback(100, cursor=250)
    shutil.rmtree(tmp_path / "100")
    with pytest.raises(CheckpointError, match=r"left all of \[200\] behind"):
      checkpoints.restore(expect(make_state()))


def test_command_lists_and_verifies(tmp_path, capsys):
  save_all(tmp_path, [100, 200])
  assert command.main(["ls", str(tmp_path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert json.loads(lines[-1]) == {"directory": str(tmp_path), "steps": [100, 200], "good": [100, 200]}
  assert len(lines) == 3 and "scheduled" in lines[0]
  assert command.main(["verify", str(tmp_path)]) == 0
  assert json.loads(capsys.readouterr().out.splitlines()[-1])["damaged"] == {}
  (tmp_path / "200" / "opt" / "_METADATA").write_text("{}")
  assert command.main(["verify", str(tmp_path)]) == 1
  assert list(json.loads(capsys.readouterr().out.splitlines()[-1])["damaged"]) == ["200"]
  assert command.main(["verify", str(tmp_path / "none")]) == 2
  assert "is no directory" in capsys.readouterr().err
