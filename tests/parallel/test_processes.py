"""Two processes that meet, agree, fail together, and read each their rows; and those that do not.

Both run the same lines; what they say is compared.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding

from onediff_jax.parallel.processes import (
    Stop,
    check_same,
    gather,
    local_rows,
    place_rows,
    together,
)

ROOT = Path(__file__).parents[2]
CODE = """
import functools
import os
import sys
from ml_collections import ConfigDict
import jax
import numpy as np
from onediff_jax.parallel.cluster import find_cluster
from onediff_jax.parallel.mesh import batch_sharding, make_mesh, row_shardings
from onediff_jax.parallel.processes import *

start(find_cluster(os.environ))
index = jax.process_index()
print = functools.partial(print, file=sys.stderr)  # Gloo says things on the other
print(gather({"index": index, "text": "é" * (1 + index)}))
meet()
check_same({"config": {"seed": 0}})
print(first_says(index == 0), first_says(index == 1))
try:
    check_same({"config": {"seed": index, "steps": 5}, "code": {"train.py": "abc"}})
except ValueError as error:
    print(error)
try:
    with together():
        if index == 1:
            raise ValueError("no such folder")
except ValueError as error:
    print(error)

# Rows over both processes; then the tensor axis over both: every row is needed in both.
for sizes in ((2, 2, 1), (1, 1, 4), (1, 2, 2)):
    mesh = make_mesh(ConfigDict(dict(zip(("replica", "fsdp", "tensor"), sizes), sequence=1)))
    rows = local_rows(batch_sharding(mesh), 8)
    whole = {"tokens": np.arange(8 * 6.0).reshape(8, 6), "task": np.arange(8)}
    batch = {name: array[list(rows)] for name, array in whole.items()}
    placed = place_rows(batch, row_shardings(mesh), rows, 8)
    total = jax.jit(lambda a: (a * np.arange(1.0, 7.0)).sum(-1) @ np.arange(1.0, 9.0))
    print(rows, float(total(placed["tokens"])))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def run(count: int, code: str, **env: str) -> list[tuple[int, str]]:
    """Exit code and errors of every process."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    shared = {"ONEDIFF_COORDINATOR": f"localhost:{free_port()}", "XLA_FLAGS": flags} | env
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"ONEDIFF_PROCESSES": "2", "ONEDIFF_PROCESS": str(i)} | shared,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    errors = [process.communicate(timeout=240)[1] for process in started]
    return [(p.returncode, text) for p, text in zip(started, errors, strict=True)]


@pytest.mark.slow
def test_two_processes():
    results = run(2, CODE)
    for index, (code, errors) in enumerate(results):
        assert code == 0, errors
        lines = errors.splitlines()
        assert lines[0] == str([{"index": i, "text": "é" * (1 + i)} for i in (0, 1)])
        assert lines[1] == "True False"
        assert lines[2:4] == [
            "the processes were not started alike:",
            "  config.seed: 0 in process 0, 1 in process 1",
        ]
        assert lines[4] == ("process 1: no such folder", "no such folder")[index]
        total = float((np.arange(48.0).reshape(8, 6) @ np.arange(1, 7)) @ np.arange(1, 9))
        own = tuple(range(4 * index, 4 * index + 4))
        assert lines[5:] == [f"{own} {total}", f"{tuple(range(8))} {total}", f"{own} {total}"]


MEET = """
import os
from onediff_jax.parallel.cluster import find_cluster
from onediff_jax.parallel.processes import start
start(find_cluster(os.environ))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "index, said",
    [
        (0, "2 processes did not meet at {address} within 2 s"),
        (1, "coordinator {address} did not answer within 2 s"),
    ],
)
def test_others_that_do_not_come(index, said):
    address = f"localhost:{free_port()}"
    alone = {"ONEDIFF_COORDINATOR": address, "ONEDIFF_PROCESS": str(index)}
    ((code, errors),) = run(1, MEET, **alone, ONEDIFF_TIMEOUT="2")
    assert code == 76
    assert errors.splitlines()[-1] == f"error: {said.format(address=address)} (ONEDIFF_TIMEOUT)"


def test_one_process_is_no_special_case():
    assert gather([1]) == [[1]]
    check_same({"a": 1})
    with pytest.raises(ValueError, match="^broken$"), together():
        raise ValueError("broken")
    with Stop() as stop:
        assert not stop(0)
        os.kill(os.getpid(), 15)
        assert stop(1)


def test_rows_of_one_process():
    mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, jax.P("fsdp"))
    rows = local_rows(sharding, 3)
    assert rows == (0, 1, 2)
    placed = place_rows({"task": np.arange(3)}, {"task": sharding}, rows, 3)
    np.testing.assert_array_equal(placed["task"], [0, 1, 2])


STOPPED = """
import os, signal, sys, time
from onediff_jax.parallel import processes

processes._SAME = 0.2
with processes.Stop() as stop:
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(0.3)
    print(stop(1), stop.reason, flush=True)
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "number, name, code", [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_a_second_signal_ends_at_once(number, name, code):
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(number))],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode, ended.stdout) == (code, f"True {name}\n")
    assert f"{name}: saving a checkpoint and ending after this step" in ended.stderr
    assert f"a second signal ({name}): ended at once" in ended.stderr
