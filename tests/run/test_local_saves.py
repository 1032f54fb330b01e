"""Saves on local disks: whole, checked, and the newest that all processes have."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError

from onediff_jax.run import local_saves
from onediff_jax.run.local_saves import LocalSaveError, LocalSaves, restore_local, run_identity

DATA = {"batches": 7, "stream": {"w": 0.1}, "losses": {"losses": {"faceid": [1 / 3]}}}


def state(value: float = 1.5) -> dict:
    return {
        "step": jnp.int32(5),
        "params": {"kernel": jnp.full((2, 3), value), "half": jnp.arange(4, dtype=jnp.bfloat16)},
    }


def abstract() -> dict:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), state())


def saved(folder, steps, **process) -> LocalSaves:
    saves = LocalSaves(folder, "run", **process)
    for step in steps:
        saves.save(step, state(float(step)), DATA | {"batches": step})
    saves.wait()
    return saves


def test_round_trip(tmp_path):
    """Bit for bit, data too; the last two stay; at the end of a run none does."""
    saves = saved(tmp_path, (1, 2, 3))
    assert saves.steps() == [2, 3]
    found, data = saves.load(3, abstract())
    assert data == DATA | {"batches": 3}
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state(3.0)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    saves.forget(after=2)
    assert saves.steps() == [2]
    saves.finish()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_is_saved_is_what_it_was(tmp_path):
    """The step takes the memory of the state as soon as `save` returns."""
    saves, kept = LocalSaves(tmp_path, "run"), state(2.0)
    change = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)
    saves.save(1, kept, DATA)
    change(kept)
    saves.wait()
    assert saves.load(1, abstract())[0]["params"]["kernel"][0, 0] == 2
    saves.close()


def test_the_newest_that_all_have(tmp_path, monkeypatch):
    """Two processes as one after the other: the second was killed before its save of step 6."""
    first = saved(tmp_path, (3, 6), index=0, count=2)
    second = saved(tmp_path, (2, 3), index=1, count=2)
    answers = itertools.chain([[first.steps(), second.steps()]], itertools.repeat([None, None]))
    monkeypatch.setattr(local_saves, "gather", lambda value: next(answers))
    assert restore_local(second, abstract(), after=0)[0] == 3
    answers = itertools.chain([[first.steps(), second.steps()]], itertools.repeat([None, None]))
    assert restore_local(first, abstract(), after=3) is None  # the checkpoint is as new
    answers = iter([[first.steps(), second.steps()], [None, "damaged there"]])
    said = []
    assert restore_local(first, abstract(), after=0, say=said.append) is None
    assert said == ["WARNING: the local saves of step 3 are not used: damaged there"]


def test_a_disk_that_fails(tmp_path, monkeypatch):
    """It is raised where the next save begins; what was saved stays, and the end is an end."""
    saves = saved(tmp_path, (1,))

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(local_saves, "save_file", full)
    saves.save(2, state(), DATA)
    with pytest.raises(OSError, match="No space left on device"):
        saves.save(3, state(), DATA)
    saves.give_up()
    saves.save(4, state(), DATA)
    saves.wait()
    assert saves.steps() == [1] and not list(tmp_path.rglob(".*.tmp"))
    saves.finish()
    assert not list(tmp_path.iterdir())


def test_every_flip_is_seen(tmp_path):
    """Or it makes no difference to what is read."""
    saves, rng = saved(tmp_path, (3,)), np.random.default_rng(0)
    (file,) = tmp_path.rglob("3.safetensors")
    content, want, seen = file.read_bytes(), state(3.0), 0
    for place in {*rng.integers(len(content), size=60), *range(len(content) - 36, len(content))}:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        try:
            found, data = saves.load(3, abstract())
        except LocalSaveError:
            seen += 1
        else:
            assert data == DATA | {"batches": 3}
            jax.tree.map(np.testing.assert_array_equal, found, want)
    assert seen > 80
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(LocalSaveError, match=r"3.safetensors cannot be read"):
        saves.load(3, abstract())


def test_others(tmp_path):
    """Another model is refused; another run, in the same workdir too, has other saves."""
    saves = saved(tmp_path, (3,))
    other = abstract() | {"more": abstract()["step"]}
    with pytest.raises(LocalSaveError, match="another model or optimizer"):
        saves.load(3, other)
    assert run_identity(tmp_path, 1.5) != run_identity(tmp_path, 2.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalSaveError, match="checkpoint.local_folder='.*file' cannot be written"):
        LocalSaves(tmp_path / "file", "run")
