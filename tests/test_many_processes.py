"""A run that moves between 1 device, 4 and 2 of 2 processes, and 1; learns as if nothing had been.

It is started by the launchers themselves: launch/local.sh, and launch/slurm.sbatch with stand-ins
for srun and scontrol.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onediff_jax.run.loop import train
from tests import small_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'tests' / 'small_run.py'}"
SRUN = """#!/usr/bin/env bash
# Two tasks on two hosts that are this one; ends with the highest of their exit codes.
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=localhost
tasks=()
for i in 0 1; do
    SLURM_PROCID=$i SLURM_LOCALID=0 "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do
    wait "$task"
    ended=$?
    ((code = ended > code ? ended : code))
done
exit "$code"
"""
TIMEOUT = 240  # seconds; a process takes ten to start, where others do too much longer
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> "$SCONTROL_LOG"\n'


@pytest.fixture
def start(tmp_path):
    """Starts a command in a process group of its own; ended with the test."""
    groups = []

    def start(name: str, *command: str, devices: int, **env: str) -> subprocess.Popen:
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        # The stand-ins first, then the interpreter of this test.
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        output = open(tmp_path / f"{name}.txt", "w")  # noqa: SIM115 - closed below
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "PATH": path} | env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        groups.append((process, output))
        return process

    yield start
    for process, output in groups:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.close()


def lines(workdir: Path) -> list[dict]:
    """What metrics.jsonl says about steps, whole lines only."""
    file = workdir / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    return [values for values in found if "loss" in values]


def wait_until(process: subprocess.Popen, found: Callable[[], Any]) -> Any:
    """What `found` returns, as soon as that is something; the process must be alive until then."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if result := found():
            return result
        assert process.poll() is None, "the run ended early"
        time.sleep(0.01)
    raise AssertionError("nothing happened for 300 s")


def tasks(launcher: subprocess.Popen) -> list[int]:
    """The training processes of a launcher, in the order of their start."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            group = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[2])
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if group == launcher.pid and b"onediff_jax.main" in arguments:
                found.append(int(folder.name))
    return sorted(found)


def saved(workdir: Path) -> int:
    """The newest checkpoint; 0 where there is none."""
    return max((int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()), default=0)


def test_a_run_that_moves(start, tmp_path):
    workdir = tmp_path / "run"
    arguments = (CONFIG, f"--workdir={workdir}")

    def says(name: str, pattern: str) -> re.Match | None:
        return re.search(pattern, (tmp_path / f"{name}.txt").read_text())

    def alone(name: str, *, steps: int) -> int:
        """One process with one device, stopped after at least so many steps; the last of them."""
        program = (sys.executable, "-m", "onediff_jax.main", "--exit_when_stopped=75")
        one = start(name, *program, *arguments, devices=1)
        wait_until(one, lambda: saved(workdir) >= steps)
        one.terminate()
        assert one.wait(TIMEOUT) == 75
        return saved(workdir)

    first = alone("before", steps=4)

    # Two processes with two devices each. One is killed: the other ends within a minute, and both
    # are started again; then all is stopped, maybe before there is anything to save.
    local = start("local", str(ROOT / "launch/local.sh"), "2", *arguments, devices=2)
    wait_until(local, lambda: saved(workdir) >= first + 4)
    began = time.monotonic()
    os.kill(tasks(local)[1], signal.SIGKILL)
    wait_until(local, lambda: says("local", r"ended with code \d+; starting again, 4 more times"))
    assert time.monotonic() - began < 60
    assert says("local", r"continuing from the checkpoint of step (\d+)\n")[1] == str(first)
    local.send_signal(signal.SIGTERM)
    assert local.wait(TIMEOUT) == 75
    killed = saved(workdir)

    # A process with one device on each of two hosts, under SLURM. SIGTERM to one of them saves on
    # all, and the job is queued again.
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(os.getpid()), "SCONTROL_LOG": str(tmp_path / "scontrol.log")}
    job["ONEDIFF_HEARTBEAT"] = "200"  # two cores that run other tests too
    batch = start("slurm", "bash", str(ROOT / "launch/slurm.sbatch"), *arguments, devices=1, **job)
    wait_until(batch, lambda: saved(workdir) >= killed + 4)
    assert says("slurm", rf"continuing from the checkpoint of step {killed}\n")
    os.kill(tasks(batch)[1], signal.SIGTERM)
    assert batch.wait(TIMEOUT) == 75
    stopped = saved(workdir)
    assert lines(workdir)[-1]["step"] == stopped
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {os.getpid()}\n"

    # One process again; then the same number of steps in one go.
    last = alone("after", steps=stopped + 4)
    config = small_run.get_config()
    with config.unlocked():
        config.train.steps = last
    train(config, tmp_path / "straight")
    moved, want = ({v["step"]: v for v in lines(f)} for f in (workdir, tmp_path / "straight"))
    assert sorted(moved) == sorted(want) == list(range(1, last + 1))
    for name in ("loss", "grad_norm"):
        found, expected = ([run[step][name] for step in sorted(want)] for run in (moved, want))
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)
