"""Checkpoints: whole or not at all, and clear about what is wrong."""

import errno
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from onediff_jax.experiment.build import make_experiment
from onediff_jax.run import checkpoint
from onediff_jax.run.checkpoint import CheckpointError, Checkpoints, SavedState, set_aside
from onediff_jax.run.optimizer import make_optimizer
from onediff_jax.run.state import TrainState, new_state
from tests.experiments import shrunken

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


def restore(folder, like=None, step=None, **options):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(abstract(like or state()), step, **options)
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


def test_the_first_version_with_checksums_is_read_for_ever(tmp_path):
    """A checkpoint that was stored when this format was new; never made again."""
    stored = Path(__file__).parents[1] / "golden" / "checkpoint"
    shutil.copytree(stored, tmp_path / "run")
    step, found, data = restore(tmp_path / "run", strict=True)
    assert step == 5 and data == DATA
    jax.tree.map(np.testing.assert_array_equal, found, state())
    ema = SavedState(tmp_path / "run").read({"ema": abstract(state()).ema})["ema"]
    jax.tree.map(np.testing.assert_array_equal, ema, state().ema)


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


def test_the_moments_of_another_optimizer_are_named(saved):
    like = state()
    like = like._replace(opt_state=({"mu": like.params, "nu": like.params},))
    with pytest.raises(CheckpointError, match="has the moments of another optimizer: optim.name"):
        restore(saved, like=like)


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
        restore(saved, strict=True)
    assert str(error.value).startswith(f"{folder} cannot be read")
    assert "Older checkpoints: [1]; without --strict the run goes on there" in str(error.value)
    said = []
    assert restore(saved, say=said.append)[0] == 1
    assert said[-1].startswith(f"WARNING: checkpoint 2 is set aside as {folder.parent}/damaged-2")
    assert "goes on from step 1, and trains the steps after it again" in said[-1]
    names = sorted(p.name for p in folder.parent.iterdir())
    assert names == ["1", "damaged-2"]
    assert restore(saved, say=said.append)[0] == 1 and len(said) == 2


def change_arrays(folder, name: str):
    """Stores the checkpoint of a folder again with one bit of one array changed."""
    about = (folder / "sums.json").read_bytes()
    loaded, data = checkpoint.read(folder, abstract(state()))
    array = np.asarray(loaded.params["layers"][name]).copy()
    array.view(np.uint32).reshape(-1)[1] ^= 1 << 30
    loaded.params["layers"][name] = jnp.asarray(array)
    shutil.rmtree(folder)
    ocp.save_checkpointables(folder, {"state": loaded, "data": {**data, "checksums": True}})
    (folder / "sums.json").write_bytes(about)


def test_a_flipped_bit_is_named(saved):
    """Whatever reads it: a run that goes on, and what reads a part."""
    folder = saved / "checkpoints" / "2"
    change_arrays(folder, "kernel")
    with pytest.raises(CheckpointError) as error:
        restore(saved, strict=True)
    assert f"{folder} is damaged: the checksums of params/layers/kernel do not" in str(error.value)
    like = abstract(state())
    with pytest.raises(CheckpointError, match="checksums of params/layers/kernel do not fit"):
        SavedState(saved).read({"params": like.params})
    assert SavedState(saved).read({"ema": like.ema})["ema"]["layers"]["kernel"][0, 0] == 2
    assert restore(saved)[0] == 1


def test_every_flip_of_a_file_is_seen(saved):
    """In any file of a checkpoint; or it makes no difference to what is read."""
    folder, rng = saved / "checkpoints" / "2", np.random.default_rng(0)
    _, want, data = restore(saved)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    large = [p for p in files if "/d/" in str(p)]
    seen = 0
    for file in [*large, *files[::3]]:
        content = file.read_bytes()
        place = int(rng.integers(len(content)))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        try:
            _, found, found_data = restore(saved, strict=True)
        except CheckpointError:
            seen += 1
        else:
            assert found_data == data
            jax.tree.map(np.testing.assert_array_equal, found, want)
        file.write_bytes(content)
    assert seen  # others hit bytes that nothing reads


@pytest.mark.parametrize("what", ["sums.json", "state", "data", "state/_METADATA"])
def test_a_part_that_is_missing(saved, what):
    part = saved / "checkpoints" / "2" / what
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    assert restore(saved)[0] == 1
    assert (saved / "checkpoints" / "damaged-2").is_dir()


def test_without_any_that_can_be_read_nothing_changes(saved):
    for step in (1, 2):
        (saved / "checkpoints" / str(step) / "sums.json").write_text("")
    with pytest.raises(
        CheckpointError, match="no older one; damaged too: .2.. Nothing was changed"
    ):
        restore(saved)
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2"]


def test_a_run_whose_checkpoints_were_all_set_aside_does_not_begin_again(saved):
    checkpoints = Checkpoints(saved)
    checkpoints.check_fresh()
    for step in (1, 2):
        set_aside(saved / "checkpoints" / str(step))
    assert checkpoints.steps() == []
    with pytest.raises(CheckpointError, match=r"only \['damaged-1', 'damaged-2'\]"):
        checkpoints.check_fresh()
    checkpoints.close()


def test_it_counts_when_it_is_on_the_disk(tmp_path, monkeypatch):
    """All of it is synced, its checksums are written, it gets its name, an older one goes."""
    events = []
    sync, write, remove = checkpoint.sync_tree, checkpoint.write_json, checkpoint._remove

    def steps():
        return sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())

    def synced(folder):
        events.append(("synced", folder.name, steps()))
        sync(folder)

    def wrote(file, value):
        events.append(("wrote", file.parent.name, file.name, steps()))
        write(file, value)

    monkeypatch.setattr(checkpoint, "sync_tree", synced)
    monkeypatch.setattr(checkpoint, "write_json", wrote)
    monkeypatch.setattr(
        checkpoint, "_remove", lambda folder: (events.append(steps()), remove(folder))
    )
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    for step in (1, 2):
        checkpoints.save(step, state(), DATA)
    checkpoints.close()
    assert events == [
        ("synced", "saving-1", []),
        ("wrote", "saving-1", "sums.json", []),
        ("synced", "saving-2", ["1"]),
        ("wrote", "saving-2", "sums.json", ["1"]),
        ["1", "2"],
    ]
    assert steps() == ["2"]


def test_a_full_disk_is_raised_and_the_older_one_stays(saved, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_tree", full)
    checkpoints = Checkpoints(saved, keep_last=1)
    checkpoints.save(3, state(), DATA)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.wait()
    checkpoints.close()
    assert restore(saved)[0] == 2


def test_an_error_of_a_save_is_told_once(tmp_path, caplog):
    """Not by orbax's threads too, of which each would log its stack. Files may not grow here."""
    noise = np.random.default_rng(0).standard_normal((2, 200_000), np.float32)
    large = state()._replace(params={"kernel": jnp.asarray(noise)})
    checkpoints, limits = Checkpoints(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        checkpoints.save(1, large, DATA)
        with pytest.raises(Exception, match="Failed to write|File too large"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in caplog.text and checkpoints.steps() == []
    checkpoints.close()


def test_an_unfinished_checkpoint_does_not_count(saved):
    """What a kill during saving leaves behind is not read, and swept away."""
    names = ("3.orbax-checkpoint-tmp", "saving-3", "saving-3.orbax-checkpoint-tmp", "removing-1")
    for name in names:
        shutil.copytree(saved / "checkpoints" / "2", saved / "checkpoints" / name)
    assert restore(saved)[0] == 2
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2"]


def test_the_dtype_of_compute_is_not_in_a_checkpoint():
    """What is saved is float32 whatever activations are: one can be restored under the other."""
    states = []
    for dtype in ("float32", "bfloat16"):
        config = shrunken(model__dtype=dtype)
        experiment, (tx, _) = make_experiment(config), make_optimizer(config.optim, 8)
        states.append(jax.eval_shape(lambda e=experiment, t=tx: new_state(e.init_params(), t)))
    assert states[0] == states[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(states[0].params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_every": -1}])
def test_errors(tmp_path, options):
    with pytest.raises(ValueError, match="must be ≥"):
        Checkpoints(tmp_path, **options)
