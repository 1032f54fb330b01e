"""The command line: bad input ends with one clear message, no traceback, and exit code 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onediff_jax.experiment.config_flag import read_config
from onediff_jax.main import keep_compiled
from onediff_jax.run.checkpoint import Checkpoints
from onediff_jax.run.workdir import Workdir
from tests.experiments import CONFIGS, shrunken

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={CONFIGS / 't2i_multitask.py'}"
TINY = f"{CONFIG}:tiny"


def run(*arguments: str, **env: str) -> tuple[int, list[str]]:
    """Exit code, and the lines of stderr after what nobody but libraries says."""
    command = [sys.executable, "-m", "onediff_jax.main", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | env
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--config=FILE is required, e.g. --config=configs/t2i_multitask.py"),
        (["--config"], "--config=FILE is required"),
        (["--config=configs/none.py"], "--config=configs/none.py: there is no such file"),
        ([f"{CONFIG}:huge"], "unknown preset='huge'; choose from ('auto', 'tiny', 'base', '2b8')"),
        (
            [TINY, "--config.train.stepz=3"],
            "unknown field --config.train.stepz; config.train has ['accumulate', 'batch_rows',",
        ),
        (
            [TINY, "--config.data.tasks.depth=1.0"],
            "unknown field --config.data.tasks.depth; config.data.tasks has ['boundingbox2image',",
        ),
        (
            ["--config", TINY.removeprefix("--config="), "--config.modle.depth=1"],
            "unknown field --config.modle.depth; config has ['checkpoint', 'data', 'ema',",
        ),
        (
            [TINY, "--config.data.folders=(('mine',1.0),)"],
            "data.folders is a field of prepared data. Configs that train on prepared folders are",
        ),
        (
            [TINY, "--config.data.name=prepared"],
            "data.folders is missing: data.name='prepared' needs it. Configs that train on",
        ),
        ([TINY, "--config.seed.x=1"], "unknown field --config.seed.x: config.seed is a value"),
        ([TINY, "--config.train.steps=many"], "flag --config.train.steps=many: invalid literal"),
        ([TINY, "--config.train.steps=None"], "--config.train.steps=1800 cannot be None"),
        ([TINY, "--config.model.cap=None"], "unknown field --config.model.cap; config.model has"),
        ([TINY, "--steps=3"], "Unknown command line flag 'steps'"),
    ],
)
def test_bad_flags(arguments, message):
    code, lines = run(*arguments)
    assert code == 1
    assert len(lines) == 1 and lines[0].startswith(f"error: {message}"), lines


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
def test_what_is_off():
    """The soft cap may be None, as the config says."""
    config = read_config([TINY, "--config.model.attention_softcap=None", "--config.seed=3"])
    assert config.model.attention_softcap is None and config.seed == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, env, message",
    [
        ([TINY, "steps"], {}, "unexpected arguments ['steps']; fields are set by"),
        ([TINY, "--config.model.hidden_size=-4"], {}, "model.hidden_size=-4 must be positive"),
        (
            [TINY, "--config.data.aspects=('5:7',)"],
            {},
            "data.aspects=('5:7',): unknown '5:7'; choose from",
        ),
        (
            [TINY, "--config.train.batch_rows=12"],
            {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
            "train.batch_rows=12 must be a multiple of the 8 devices",
        ),
        (
            [f"{CONFIG}:2b8", "--config.train.batch_rows=99999"],
            {},
            "preset '2b8' does not fit: 2,800,389,184 parameters and 99999 rows need at least",
        ),
    ],
)
def test_bad_config(arguments, env, message, tmp_path):
    code, lines = run(*arguments, f"--workdir={tmp_path / 'run'}", **env)
    assert code == 1
    assert len(lines) == 1 and lines[0].startswith(f"error: {message}"), lines
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workdirs_that_cannot_be_used(tmp_path):
    """A file in the way; another run's folder; a damaged checkpoint."""
    (tmp_path / "file").write_text("")
    code, lines = run(TINY, f"--workdir={tmp_path / 'file'}")
    assert code == 1 and len(lines) == 1
    assert lines[0] == f"error: workdir {tmp_path / 'file'} cannot be written: File exists"

    workdir = tmp_path / "run"
    config = shrunken()
    Workdir(workdir, config).release()
    code, lines = run(TINY, f"--workdir={workdir}")
    assert code == 1
    assert lines[0] == f"error: workdir {workdir} holds the run of another config:"
    assert "  model.depth: 2 in the workdir, 4 now" in lines

    (workdir / "config.json").unlink()
    checkpoints = Checkpoints(workdir)
    checkpoints.save(3, {"step": 3}, {"batches": 3})
    checkpoints.close()
    for file in (workdir / "checkpoints" / "3" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])
    code, lines = run(TINY, f"--workdir={workdir}")
    assert code == 1 and len(lines) == 1, lines
    assert lines[0].startswith(f"error: {workdir / 'checkpoints' / '3'} cannot be read")
    assert "it may be damaged. There is no older one" in lines[0]


def test_where_compiled_programs_are_kept(monkeypatch, tmp_path):
    """In the user's cache, by kind of CPU; not where the environment says otherwise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    keep_compiled()
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / "onediff_jax" and folder.name.startswith(os.uname().machine)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == ""
