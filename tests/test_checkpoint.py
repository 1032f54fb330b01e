"""The command that looks after checkpoints."""

import shutil

import pytest
from ml_collections import ConfigDict

from onediff_jax import checkpoint as command
from onediff_jax.run.checkpoint import Checkpoints
from onediff_jax.run.workdir import Workdir
from tests.run.test_checkpoint import DATA, state


@pytest.fixture
def workdir(tmp_path):
    """Checkpoints 1 and 2, and what a killed save left."""
    folder = tmp_path / "run"
    Workdir(folder, ConfigDict({"seed": 0})).release()
    checkpoints = Checkpoints(folder, about={"versions": {"jax": "9"}})
    for step in (1, 2):
        checkpoints.save(step, state(value=float(step)), DATA)
    checkpoints.close()
    shutil.copytree(folder / "checkpoints" / "2", folder / "checkpoints" / "saving-3")
    return folder


def test_list_show_and_verify(workdir, capsys):
    assert command.main(["list", str(workdir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "saving-3"]
    assert lines[0].endswith("1 processes  jax 9") and lines[2].endswith("does not count")
    assert command.main(["show", str(workdir)]) == 0
    out = capsys.readouterr().out
    assert "params/layers/kernel  2×3  float32  " in out and "27 numbers" in out, out
    assert command.main(["verify", str(workdir)]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["whole"] * 2


def test_damage_is_found_and_set_aside(workdir, capsys):
    (workdir / "checkpoints" / "2" / "state" / "_METADATA").write_text("")
    assert command.main(["verify", str(workdir)]) == 1
    assert "2  DAMAGED: " in capsys.readouterr().out
    (workdir / "started.json").write_text("{}")
    assert command.main(["repair", str(workdir)]) == 0
    out = capsys.readouterr().out
    assert f"set aside as {workdir}/checkpoints/damaged-2" in out and "saving-3: removed" in out
    assert "started.json holds no time" in out
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "damaged-2"]


def test_nothing_there(tmp_path, workdir, capsys):
    for arguments in (["list", str(tmp_path / "none")], ["verify", str(workdir), "--step=7"]):
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        assert ended.value.code == 1
    assert "no checkpoint of step 7" in capsys.readouterr().err
