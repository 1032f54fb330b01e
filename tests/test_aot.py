"""The command that compiles for machines elsewhere: bad input; whole where the compilers are."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onediff_jax import aot
from onediff_jax.scaling.compilers import CUDA, LIBTPU
from tests.experiments import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
ROOT = Path(__file__).parents[1]
CONFIG = f"--config={CONFIGS}/t2i_multitask.py:tiny"
# Of the installed package 0.7 GB: too much for every test run.
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason=f"libtpu is not installed: pip install {LIBTPU}",
)


needs_cuda = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)),
    reason=f"jax's CUDA plugin is not installed: pip install '{CUDA}'",
)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            [CONFIG, "--topology=v5e:3x3"],
            r"--topology=v5e:3x3 does not exist; choose from\n(.*\n)*.*v5e:16x16",
        ),
        ([CONFIG, "--topology=v5e:2x2", "--batch=0"], "--batch=0 must be positive"),
        (["--topology=v5e:2x2"], "--config=FILE is required"),
        (["--config=none.py", "--topology=v5e:2x2"], "--config=none.py: there is no such file"),
        (
            [CONFIG, "--topology=v5e:2x2", "--config.model.size=3"],
            "unknown field --config.model.size; config.model has .*'hidden_size'",
        ),
        ([CONFIG, "--topology=v5e:2x2", "more"], r"unexpected arguments \['more'\]"),
        ([CONFIG, "--topology=v5e:2x2", "--search=speed"], "--search=speed must be some of batch"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        aot.main(arguments)


def test_without_libtpu_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs libtpu, .*: pip install libtpu=="):
        aot.main([CONFIG, "--topology=v5e:2x2"])


def command(*arguments: str, topology: str = "v5e:2x2") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "onediff_jax.aot", CONFIG, f"--topology={topology}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_libtpu
@pytest.mark.slow
def test_compiles_the_train_step(tmp_path):
    """A small bfloat16 model, scanned, over replica × fsdp = 2 × 2."""
    fields = {
        "model.dtype": "bfloat16",
        "model.unroll": 1,
        "model.remat": "mixed",
        "rows": "(('t2i',1,1,256),)",
        "mesh.replica": 2,
        "mesh.fsdp": 2,
    }
    out = tmp_path / "report.json"
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    done = command(*arguments, "--batch=8", f"--out={out}")
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["mesh"] == {"replica": 2, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert report["attention"] == {"256 × 256": "splash", "256 × 48": "splash"}
    assert report["flops"]["kernels_not_counted"] == []
    # What "mixed" recomputes: wo, w1 and w3, of all that a layer multiplies.
    assert 1.1 < report["flops"]["executed_dense_over_model_dense"] < 1.35
    assert {c["where"] for c in report["collectives"]} >= {"forward", "backward"}
    assert {c["passes"] for c in report["collectives"] if c["where"] == "forward"} == {4}
    assert report["memory"]["arguments"] > 16 * report["parameters"] / 2
    assert "| MFU, at most |" in done.stdout


@needs_cuda
@pytest.mark.slow
def test_compiles_for_gpus(tmp_path):
    """The same over two GPUs: cuDNN's attention, all products found."""
    fields = {
        "model.dtype": "bfloat16",
        "model.unroll": 1,
        "model.attention_softcap": "None",
        "rows": "(('t2i',1,1,256),)",
        "mesh.fsdp": 2,
    }
    out = tmp_path / "report.json"
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    done = command(*arguments, "--batch=8", f"--out={out}", topology="h100:2")
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["attention"] == {"256 × 256": "cudnn", "256 × 48": "cudnn"}
    assert report["flops"]["kernels_not_counted"] == []
    assert report["flops"]["executed_dense_over_model_dense"] == pytest.approx(1, abs=0.05)
    assert {c["where"] for c in report["collectives"]} >= {"forward", "backward"}


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.mesh.fsdp=3"], "multiplies to 3, but there are 4 devices"),
        (["--batch=6"], "train.batch_rows=6 must be a multiple of the 4 devices"),
    ],
)
def test_what_training_would_refuse(arguments, message):
    done = command(*arguments)
    assert done.returncode == 1 and message in done.stderr
