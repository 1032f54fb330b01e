"""How processes find each other: what the environment says, and what it must not say."""

import pytest

from onediff_jax.parallel import cluster
from onediff_jax.parallel.cluster import Cluster, find_cluster

OURS = {"ONEDIFF_COORDINATOR": "h:1", "ONEDIFF_PROCESSES": "4", "ONEDIFF_PROCESS": "3"}
SLURM = {
    "SLURM_JOB_ID": "41234",
    "SLURM_STEP_NODELIST": "gpu7",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def test_alone():
    assert find_cluster({}) is None
    assert find_cluster({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert find_cluster(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_cluster(SLURM | {"ONEDIFF_PROCESSES": "1"}) is None


def test_said_by_hand():
    assert find_cluster(OURS) == Cluster("ONEDIFF_COORDINATOR", "h:1", 4, 3)
    assert find_cluster(SLURM | OURS | {"ONEDIFF_TIMEOUT": "7"}).timeout == 7


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("gpu[007-012,020],other", "gpu007"),
        ("rack-2-gpu[3,5]", "rack-2-gpu3"),
    ],
)
def test_slurm(nodes, first):
    found = find_cluster(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found == Cluster("SLURM", f"{first}:21234", 2, 1)


@pytest.mark.parametrize("visible, devices", [("0,1,2,3", (2,)), ("0", None), ("", None)])
def test_a_slurm_task_per_gpu(visible, devices):
    """Each takes its own of those it sees; bound by SLURM, it sees only that."""
    tasks = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": visible}
    assert find_cluster(SLURM | tasks).devices == devices


def test_tpu(tmp_path, monkeypatch):
    device = tmp_path / "accel0"
    monkeypatch.setattr(cluster, "_TPU_DEVICES", (str(device),))
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
    assert find_cluster({}) is None
    device.touch()
    assert find_cluster({}) == Cluster("the TPU", None, 0, 0)
    assert find_cluster({"JAX_PLATFORMS": "cpu"}) is None
    assert find_cluster({"ONEDIFF_PROCESSES": "1"}) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ONEDIFF_PROCESS": None}, "ONEDIFF_PROCESS must be set too: all of ONEDIFF_COORDINATOR"),
        ({"ONEDIFF_COORDINATOR": "h"}, "ONEDIFF_COORDINATOR='h' must be host:port"),
        ({"ONEDIFF_PROCESSES": "two"}, "ONEDIFF_PROCESSES='two' must be a whole number"),
        ({"ONEDIFF_PROCESS": "4"}, r"ONEDIFF_PROCESS=4 must be in 0\.\.3"),
        ({"ONEDIFF_TIMEOUT": "0"}, "ONEDIFF_TIMEOUT=0 must be a positive number of seconds"),
    ],
)
def test_errors(changes, message):
    env = {name: value for name, value in (OURS | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        find_cluster(env)
