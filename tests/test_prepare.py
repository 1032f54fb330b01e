"""The prepare command on a folder of pictures, and training on what it wrote."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onediff_jax import exits
from tests.data.prepared.fake import contents

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """120 pictures with captions, one of them empty."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(120):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        small.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def command(*flags, **kwargs):
    """Starts prepare in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "onediff_jax.prepare", *map(str, flags)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def run(*flags):
    """(exit code, stdout, stderr) of the command."""
    process = command(*flags)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def flags_for(photos, out, *more):
    tasks = "--tasks=text2image,canny2image"
    return (f"--input={photos}", "--format=folder", f"--out={out}", tasks, "--aspects=4:3",
            "--tokens=48", "--option=shard_size=10", "--held_out=0.1", *more)  # fmt: skip


@pytest.fixture(scope="module")
def prepared(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    code, text, errors = run(*flags_for(photos, out, "--workers=2"))
    assert code == 0, errors
    return out, text, errors


def test_prints_a_table_and_its_progress(prepared):
    _, text, errors = prepared
    assert "240 records" in text and "{'empty_file': 1}" in text
    assert "13/13 parts  121 examples" in errors and "left 0:00:00" in errors


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(photos, prepared, tmp_path):
    flags = flags_for(photos, tmp_path, "--workers=2")
    process = command(*flags, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "parts").glob("*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()  # the parent alone: its workers must end by themselves
    process.communicate()
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid), "workers outlived their parent"
    done = len(list((tmp_path / "parts").glob("*.json")))
    code, text, errors = run(*flags)
    assert code == 0, errors
    assert 3 <= done < 13 and "0 of them done" not in text
    assert contents(tmp_path) == contents(prepared[0])


def alive(group):
    """Whether any process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_check_and_show(prepared, tmp_path):
    folder = prepared[0]
    code, text, errors = run(f"--check={folder}")
    assert code == 0 and "is whole" in text, errors
    code, _, errors = run(f"--show={folder}", f"--out={tmp_path}/sheet.png")
    assert code == 0, errors
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] > 200 and sheet.std() > 20


def test_check_of_a_damaged_folder_fails(prepared, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "copy")
    victim = next((tmp_path / "copy" / "records" / "text2image").iterdir())
    victim.unlink()
    code, _, errors = run(f"--check={tmp_path / 'copy'}")
    assert code == 1 and "missing" in errors


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--format=folder", "--out=x"], "--input is required"),
        (["--input=/nowhere", "--format=folder", "--out=x"], "not a folder"),
        (["--input=.", "--format=zip", "--out=x"], "choose from"),
        (["--input=.", "--format=folder", "--out=x", "--tokens=4", "--resolution=32"], "give one"),
        (["--input=.", "--format=folder", "--out=x", "--resolution=100"], "multiple of 16"),
        (["--check=/nowhere"], "is no prepared folder"),
    ],
)
def test_bad_flags_end_with_one_message(flags, message):
    code, _, errors = run(*flags)
    assert code == 1 and errors.startswith("error: ") and message in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.slow
def test_trains_on_prepared_folders_and_resumes(prepared, tmp_path):
    import jax

    from onediff_jax.run.loop import train
    from tests.experiments import shrunken

    config = shrunken(rows=(("i2i", 1, 2, 48),))
    config.unlock()
    for field in ("scenes", "level", "aspects", "seed", "cache_gib"):
        del config.data[field]
    config.data.update({"name": "prepared", "folders": (str(prepared[0]),), "encoder": "light"})
    config.data.evaluate_on = "held_out"
    for task in config.data.tasks:
        config.data.tasks[task] = float(task == "canny2image")
    config.train.steps = 5
    straight = train(config, tmp_path / "straight")
    assert int(straight.step) == 5
    shutil.copytree(tmp_path / "straight", tmp_path / "again")
    checkpoints = tmp_path / "again" / "checkpoints"
    steps = sorted(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit())
    assert steps == [3, 5]
    shutil.rmtree(checkpoints / "5")
    again = train(config, tmp_path / "again")
    for one, other in zip(jax.tree.leaves(straight), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ctrl_c_ends_all_workers_with_one_line(photos, tmp_path):
    flags = flags_for(photos, tmp_path, "--workers=2", "--option=shard_size=1", "--tokens=1024")
    process = command(*flags, start_new_session=True)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "parts").glob("*.json")):  # both workers have started, or one has
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == exits.INTERRUPTED.code and "Traceback" not in errors
    assert errors.strip().endswith("interrupted; the same command goes on where it was")
    assert not list(tmp_path.rglob(".*.tmp"))
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)
