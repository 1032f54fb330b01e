"""What a run saves, when, and what it goes on from."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from onediff_jax.run import saves as module
from onediff_jax.run.checkpoint import CheckpointError
from onediff_jax.run.saves import Saves
from tests.experiments import shrunken

STATE = {"weights": jnp.arange(4.0)}


@pytest.fixture
def made(tmp_path):
    """Makes the saves of one workdir, local ones included; closed with the test."""
    with contextlib.ExitStack() as opened:

        def make(**changes) -> Saves:
            changes = {"checkpoint__local_folder": str(tmp_path / "local")} | changes
            settings = {"checkpoint__every_steps": 6, "checkpoint__local_every": 2}
            config = shrunken(**settings | changes)
            return Saves(tmp_path / "run", config, 1.0, opened)

        yield make


def newest(saves: Saves, **options):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), STATE)
    return saves.newest(wanted, **{"strict": False, "say": print} | options)


def test_what_is_due(made, monkeypatch):
    """A checkpoint by steps or by minutes, whichever comes first; local saves in between."""
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    saves = made(checkpoint__every_minutes=2.0)
    saves.begin(0)
    kinds = {saves.save: "checkpoint", saves.save_locally: "local", None: ""}
    found = [kinds[saves.due(step)] for step in range(8)]
    assert found == ["", "", "local", "", "local", "", "checkpoint", ""]
    now = 121.0
    assert kinds[saves.due(7)] == "checkpoint"
    saves.begin(7)
    assert [kinds[saves.due(step)] for step in (7, 8)] == ["", "local"]
    assert made(checkpoint__local_folder="").due(2) is None


def test_of_several_processes_the_time_is_asked_on_log_steps(made, monkeypatch):
    monkeypatch.setattr(module, "many", lambda: True)
    saves = made(checkpoint__every_minutes=1e-9, checkpoint__local_folder="", log__every_steps=4)
    saves.begin(0)
    assert [bool(saves.due(step)) for step in range(7)] == [False] * 4 + [True, False, True]


def test_the_newest_is_gone_on_from(made):
    saves = made()
    assert newest(saves) is None
    saves.save(3, STATE, {"batches": 3})
    saves.checkpoints.wait()
    assert newest(saves)[:2] == ("checkpoint", 3)
    saves.save_locally(4, {"weights": STATE["weights"] + 1}, {"batches": 4})
    saves._local.wait()
    where, step, state, data = newest(saves)
    assert (where, step, data) == ("local saves", 4, {"batches": 4})
    assert state["weights"].tolist() == [1, 2, 3, 4]
    saves.forget_local()
    where, step, state, data = newest(saves)
    assert (where, step, data) == ("checkpoint", 3, {"batches": 3})
    assert state["weights"].tolist() == [0, 1, 2, 3]


def test_a_full_local_disk_stops_no_run(made, monkeypatch, capfd):
    saves = made()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saves._local, "save", full)
    saves.save_locally(2, STATE, {})
    assert (
        "WARNING: process 0 makes no more local saves: [Errno 28] No space"
        in capfd.readouterr().err
    )
    saves.save(3, STATE, {})
    saves.finish()
    assert saves.steps() == [3]


def test_processes_that_see_different_checkpoints(made, monkeypatch):
    saves = made(checkpoint__local_folder="")
    monkeypatch.setattr(module, "gather", lambda value: [[3], []])
    with pytest.raises(CheckpointError, match=r"see different checkpoints in .*\[\[3\], \[\]\]"):
        newest(saves)
