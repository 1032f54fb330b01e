"""Checkpoints: whole or not at all, and clear about what is wrong."""

import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onediff_jax.run.checkpoint import CheckpointError, Checkpoints
from onediff_jax.run.state import TrainState

DATA = {"batches": 7, "stream_hash": "abc", "stream": {"rows": [["t2i", 1, 1, 16]], "w": 0.1}}


def state(width: int = 3, value: float = 1.5) -> TrainState:
    params = {"layers": {"kernel": jnp.full((2, width), value), "bias": jnp.arange(2.0)}}
    return TrainState(jnp.int32(5), params, params, ({"mu": params},), jnp.int32(1), jnp.int32(0))


def abstract(like: TrainState) -> TrainState:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), like)


@pytest.fixture
def saved(tmp_path):
    """A workdir with checkpoints of steps 1 and 2, values 1 and 2."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(value=float(step)), DATA | {"batches": step})
    checkpoints.close()
    return tmp_path


def restore(folder, like=None, step=None):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(abstract(like or state()), step)
    finally:
        checkpoints.close()


def test_round_trip(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, state(), DATA)
    checkpoints.wait()
    step, found, data = checkpoints.restore(abstract(state()))
    checkpoints.close()
    assert step == 5 and data == DATA
    assert isinstance(found, TrainState)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state()), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_newest_or_the_one_asked_for(saved):
    assert restore(saved)[1].params["layers"]["kernel"][0, 0] == 2
    step, found, data = restore(saved, step=1)
    assert (step, data["batches"], float(found.params["layers"]["kernel"][0, 0])) == (1, 1, 1.0)


def test_saving_a_step_twice_is_harmless(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(value=1.0), DATA)
    checkpoints.wait()
    checkpoints.save(1, state(value=2.0), DATA)
    checkpoints.close()
    assert restore(tmp_path)[1].params["layers"]["kernel"][0, 0] == 1


def test_which_ones_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=3)
    for step in range(1, 9):
        checkpoints.save(step, state(), DATA)
    checkpoints.wait()
    assert checkpoints.steps() == [3, 6, 7, 8]
    checkpoints.close()


def test_missing(tmp_path, saved):
    with pytest.raises(CheckpointError, match=r"no checkpoint 7 in .*; there are \[1, 2\]"):
        restore(saved, step=7)
    empty = tmp_path / "empty"
    with pytest.raises(CheckpointError, match=r"no checkpoint .*; there are \[\]"):
        restore(empty)


def test_other_shapes_are_named(saved):
    with pytest.raises(CheckpointError, match="another model or optimizer") as error:
        restore(saved, like=state(width=4))
    assert "params/layers/kernel: saved (2, 3), this config (2, 4)" in str(error.value)


def test_other_leaves_are_named(saved):
    like = state()
    like.params["layers"] = {"kernel": like.params["layers"]["kernel"], "gate": jnp.zeros(3)}
    with pytest.raises(CheckpointError) as error:
        restore(saved, like=like)
    assert "params/layers/gate: saved None, this config (3,)" in str(error.value)


@pytest.mark.parametrize("what", ["truncated", "missing"])
def test_damage(saved, what):
    """The message says which checkpoint, where, and how to go on from the one before."""
    folder = saved / "checkpoints" / "2"
    arrays = [p for p in (folder / "state").rglob("*") if p.is_file() and "/d/" in str(p)]
    assert arrays
    for file in arrays:
        if what == "truncated":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            file.unlink()
    with pytest.raises(CheckpointError, match="it may be damaged") as error:
        restore(saved)
    assert str(error.value).startswith(f"checkpoint 2 in {saved / 'checkpoints'} cannot be read")
    assert "Other checkpoints: [1]" in str(error.value)
    assert f"remove the folder {folder} to continue from the one before" in str(error.value)
    shutil.rmtree(folder)
    assert restore(saved)[0] == 1


def test_an_unfinished_checkpoint_does_not_count(saved):
    """What a kill during saving leaves behind is not read, and swept away."""
    unfinished = saved / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(saved / "checkpoints" / "2", unfinished)
    assert restore(saved)[0] == 2
    until = time.monotonic() + 30  # swept in the background
    while unfinished.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not unfinished.exists()


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_every": -1}])
def test_errors(tmp_path, options):
    with pytest.raises(ValueError, match="must be ≥"):
        Checkpoints(tmp_path, **options)
