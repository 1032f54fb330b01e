"""The folder of a run: one process, one config, whole files."""

import json
import os
import subprocess
import sys
import time

import pytest
from etils.epath.testing import mock_epath
from ml_collections import ConfigDict

from onediff_jax.experiment.checks import upgrade
from onediff_jax.files import write_json
from onediff_jax.run.surroundings import changes
from onediff_jax.run.workdir import (
    Workdir,
    WorkdirError,
    await_claim,
    differences,
    fingerprint,
    load_config,
)

CONFIG = {
    "seed": 0,
    "rows": (("t2i", 1, 1, 16),),
    "log": {"every_steps": 5},
    "model": {"depth": 2, "attention_softcap": None},
}


def config(**changes) -> ConfigDict:
    found = ConfigDict(CONFIG)
    found.update_from_flattened_dict(changes)
    return found


def test_one_process_at_a_time(tmp_path):
    code = (
        "import sys; from ml_collections import ConfigDict; from onediff_jax.run.workdir import *\n"
        "try: Workdir(sys.argv[1], ConfigDict())\n"
        "except WorkdirError as error: print(error)"
    )

    def other_process() -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    first = Workdir(tmp_path, ConfigDict())
    assert other_process().strip() == f"workdir {tmp_path} is in use by another process"
    with pytest.raises(WorkdirError, match="in use by another process"):
        Workdir(tmp_path, ConfigDict())
    first.release()
    assert other_process() == ""


def test_another_config_is_refused_by_field(tmp_path):
    Workdir(tmp_path, config()).release()
    changes = {"seed": 1, "model.depth": 3, "rows": (("t2i", 2, 1, 16),)}
    with pytest.raises(WorkdirError) as error:
        Workdir(tmp_path, config(**changes))
    lines = str(error.value).splitlines()
    assert lines[1:4] == [
        "  model.depth: 2 in the workdir, 3 now",
        "  rows: (('t2i', 1, 1, 16),) in the workdir, (('t2i', 2, 1, 16),) now",
        "  seed: 0 in the workdir, 1 now",
    ]
    # Refused means untouched, and free again.
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
    Workdir(tmp_path, config()).release()


def test_what_does_not_change_the_result_may_change(tmp_path):
    Workdir(tmp_path, config()).release()
    Workdir(tmp_path, config(**{"log.every_steps": 7})).release()
    assert load_config(tmp_path).log.every_steps == 7


def test_more_steps(tmp_path):
    def longer(steps, **optim):
        found = config()
        found.train = ConfigDict({"steps": steps})
        found.optim = ConfigDict({"schedule": "cosine", "learning_rate": 0.1} | optim)
        return found

    Workdir(tmp_path, longer(40)).release()
    with pytest.raises(WorkdirError, match=r"train.steps: 40 .*60 now \(--extend goes on to 60"):
        Workdir(tmp_path, longer(60))
    claimed = Workdir(tmp_path, longer(60), extend=True)
    claimed.release()
    assert claimed.steps_before == 40 and load_config(tmp_path).train.steps == 60
    again = Workdir(tmp_path, longer(60))  # the flag is for the start that asks for more
    again.release()
    assert again.steps_before is None
    with pytest.raises(WorkdirError, match="train.steps: 60 in the workdir, 50 now\n"):
        Workdir(tmp_path, longer(50), extend=True)
    with pytest.raises(WorkdirError, match="learning_rate: 0.1 in the workdir, 1.0 now\n"):
        Workdir(tmp_path, longer(70, learning_rate=1.0), extend=True)


def test_config_round_trip(tmp_path):
    Workdir(tmp_path, config()).release()
    assert load_config(tmp_path).to_dict() == upgrade(CONFIG, "")
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["jax"] and versions["python"].startswith("3.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkdirError, match="cannot be written: Permission denied"):
        Workdir(tmp_path / "run", config())


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"):
        Workdir(tmp_path / "file" / "run", config())
    with pytest.raises(WorkdirError, match="cannot be written"):
        Workdir(tmp_path / "file", config())


def test_damaged_config(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(WorkdirError, match=r"config\.json cannot be read: it is cut off"):
        Workdir(tmp_path, config())


def test_a_config_that_is_gone(tmp_path):
    """Its copy in the newest checkpoint is compared; without a checkpoint there is no run yet."""
    Workdir(tmp_path, config()).release()
    copy = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    Workdir(tmp_path, config(seed=1), write=False).release()
    write_json(made(tmp_path / "checkpoints" / "3") / "sums.json", {"config": copy})
    with pytest.raises(WorkdirError, match="seed: 0 in the workdir, 1 now"):
        Workdir(tmp_path, config(seed=1))
    workdir = Workdir(tmp_path, config())
    workdir.release()
    assert workdir.notes[0].endswith("recovered from the newest checkpoint")


def test_what_a_run_depended_on_that_is_gone_is_said(tmp_path):
    start(tmp_path, {"code": {"a.py": "0"}})
    made(tmp_path / "checkpoints" / "3")
    (tmp_path / "surroundings.json").unlink()
    (note,) = start(tmp_path, {"code": {"a.py": "1"}})
    assert "surroundings.json is missing" in note and "could not be compared" in note
    assert start(tmp_path, {"code": {"a.py": "1"}}) == []


@pytest.mark.parametrize("content", ["", "\0" * 30, '{"seed": ', "{}", "[]"])
def test_a_config_that_a_power_cut_emptied(tmp_path, content):
    """Its copy in the newest checkpoint is compared and written again."""
    Workdir(tmp_path, config()).release()
    copy = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WorkdirError, match="No checkpoint holds a copy of it"):
        Workdir(tmp_path, config())
    write_json(made(tmp_path / "checkpoints" / "3") / "sums.json", {"config": copy})
    with pytest.raises(WorkdirError, match="seed: 0 in the workdir, 1 now"):
        Workdir(tmp_path, config(seed=1))
    assert load_config(tmp_path).to_dict() == upgrade(CONFIG, "")
    workdir = Workdir(tmp_path, config())
    workdir.release()
    assert workdir.notes[0].endswith("recovered from the newest checkpoint")
    assert json.loads((tmp_path / "config.json").read_text()) == copy


@pytest.mark.parametrize("content", ["", "{}", "null", '{"unix_time": "x"}'])
def test_a_start_that_cannot_be_read(tmp_path, content):
    Workdir(tmp_path, config()).release()
    (tmp_path / "started.json").write_text(content)
    workdir = Workdir(tmp_path, config())
    workdir.release()
    assert abs(workdir.first_start - time.time()) < 60
    assert workdir.notes == [f"{tmp_path / 'started.json'} holds no time and is written again"]
    assert Workdir(tmp_path, config()).notes == []


def made(folder):
    folder.mkdir(parents=True)
    return folder


def test_a_refused_start_leaves_nothing(tmp_path):
    workdir = Workdir(tmp_path / "run", config(), write=False)
    (workdir.path / "metrics.jsonl").write_text("")
    workdir.release()
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    Workdir(tmp_path / "mine", config(), write=False).release()
    assert list((tmp_path / "mine").iterdir()) == []
    (tmp_path / "mine" / "notes.txt").write_text("")
    Workdir(tmp_path / "mine", config(), write=False).release()
    assert (tmp_path / "mine" / "notes.txt").exists()


def start(folder, found, accept=False, **fields) -> list[str]:
    """Notes of a start on which the run depends on `found`."""
    workdir = Workdir(folder, config(**fields), write=False, accept=accept)
    try:
        workdir.check_surroundings(found, changes)
        workdir.begin()
    finally:
        workdir.release()
    return workdir.notes


def test_what_a_run_depends_on_is_compared(tmp_path):
    first = {"versions": {"jax": "1"}, "code": {"a.py": "0", "b.py": "1"}, "base": {"w": "2"}}
    other = {"versions": {"jax": "2"}, "code": {"a.py": "9", "c.py": "1"}}
    assert start(tmp_path, first) == []
    with pytest.raises(WorkdirError) as error:
        start(tmp_path, other)
    assert str(error.value).splitlines()[1:3] == [
        "  the package's code: a.py changed, b.py is gone, c.py is new",
        "  versions: jax 1 → 2",
    ]
    assert "--accept_changes" in str(error.value)
    assert start(tmp_path, first) == []  # nothing was written
    assert len(start(tmp_path, other, accept=True)) == 2
    assert start(tmp_path, other) == []
    with pytest.raises(WorkdirError, match="the weights of init_from: w changed"):
        start(tmp_path, other | {"base": {"w": "3"}})  # known since the first start
    history = json.loads((tmp_path / "surroundings.json").read_text())["accepted"]
    assert len(history) == 1 and history[0]["changes"][1] == "versions: jax 1 → 2"


def test_what_changes_rounding_alone_may_change_when_accepted(tmp_path):
    found, other = {"versions": {"jax": "1"}}, {"model.dtype": "bfloat16"}
    start(tmp_path, found, **{"model.dtype": "float32"})
    with pytest.raises(WorkdirError, match=r"model.dtype: 'float32' .*\(--accept_changes goes on"):
        start(tmp_path, found, **other)
    line = "model.dtype: 'float32' in the workdir, 'bfloat16' now"
    assert start(tmp_path, found, accept=True, **other) == [f"accepted: {line}"]
    assert start(tmp_path, found, **other) == []
    (accepted,) = json.loads((tmp_path / "surroundings.json").read_text())["accepted"]
    assert accepted["changes"] == [line]
    with pytest.raises(WorkdirError, match="seed: 0 in the workdir, 1 now"):
        start(tmp_path, found, accept=True, **other, seed=1)


def test_versions_of_an_older_run_are_compared(tmp_path):
    Workdir(tmp_path, config()).release()
    write_json(tmp_path / "versions.json", {"jax": "0.1"})
    with pytest.raises(WorkdirError, match="versions: jax 0.1 → 1"):
        start(tmp_path, {"versions": {"jax": "1"}})
    (tmp_path / "versions.json").write_text("")
    notes = start(tmp_path, {"versions": {"jax": "1"}})
    assert "it is empty, as after a power cut; it is written again" in notes[0]


def test_not_a_workdir(tmp_path):
    with pytest.raises(WorkdirError, match=r"holds no config\.json: not a workdir"):
        load_config(tmp_path)


def test_differences():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(old, new) == [("a.c", 2, 4), ("d", 3, None), ("e", None, 5)]
    assert differences(old, old) == []


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Makes gs://… a folder of this machine."""

    def local(path):
        return str(path).replace("gs://", f"{tmp_path}/")

    def mapped(original, *paths, **options):
        return original(*(local(p) if "gs://" in str(p) else p for p in paths), **options)

    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    names = ("open", "exists", "isdir", "listdir", "makedirs", "mkdir", "replace", "stat")
    with mock_epath(**dict.fromkeys(names, mapped)):
        yield tmp_path


def test_object_store(bucket):
    """The same files; nobody can claim it, but another config is still refused."""
    claimed = Workdir("gs://runs/one", config())
    Workdir("gs://runs/one", config()).release()
    claimed.release()
    assert str(claimed.path) == "gs://runs/one"
    names = sorted(p.name for p in (bucket / "runs" / "one").iterdir())
    assert names == ["config.json", "started.json", "versions.json"]
    assert load_config("gs://runs/one").to_dict() == upgrade(CONFIG, "")
    with pytest.raises(WorkdirError, match="seed: 0 in the workdir, 1 now"):
        Workdir("gs://runs/one", config(seed=1))
    assert str(await_claim("gs://runs/one")) == "gs://runs/one"


def test_other_stores_are_refused():
    with pytest.raises(WorkdirError, match=r"s3://runs/one: .* only gs:// .* mount others"):
        Workdir("s3://runs/one", config())


def test_what_the_claiming_process_wrote_must_be_seen(tmp_path):
    with pytest.raises(WorkdirError, match="must lie on storage that all processes share"):
        await_claim(tmp_path / "elsewhere", seconds=0)
    Workdir(tmp_path, config()).release()
    assert await_claim(tmp_path, seconds=0) == tmp_path


def test_the_first_start_stays(tmp_path):
    first = Workdir(tmp_path, config())
    first.release()
    again = Workdir(tmp_path, config())
    again.release()
    assert first.first_start == again.first_start
    assert abs(first.first_start - time.time()) < 60


def test_fingerprint():
    """Settings, versions, and a hash of every source file."""
    found = fingerprint(config(), "runs/x")
    assert found["config"]["seed"] == 0 and found["workdir"] == "runs/x"
    assert found["versions"]["jax"] and len(found["code"]["parallel/mesh.py"]) == 12
    assert found == fingerprint(config(), "runs/x")
    assert differences(found, fingerprint(config(seed=3), "runs/x")) == [("config.seed", 0, 3)]
