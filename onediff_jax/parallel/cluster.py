"""How a process finds the others it runs with: read from the environment, without jax."""

import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

TIMEOUT = 300  # seconds until all processes must have met
_OURS = ("ONEDIFF_COORDINATOR", "ONEDIFF_PROCESSES", "ONEDIFF_PROCESS")
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
      found_by: what described them, for messages.
      coordinator: host:port where process 0 listens; None: JAX asks the TPU's own services, for the
        number of processes too.
      processes, index: how many, and which of them this is.
      devices: numbers of the GPUs of this host that are this process's; None: all it sees.
      timeout: seconds until all must have met.
    """

    found_by: str
    coordinator: str | None
    processes: int
    index: int
    devices: tuple[int, ...] | None = None
    timeout: int = TIMEOUT


def find_cluster(env: Mapping[str, str]) -> Cluster | None:
    """The cluster that the environment describes; None for a process on its own.

    The first that is there counts: ONEDIFF_COORDINATOR, ONEDIFF_PROCESSES and ONEDIFF_PROCESS
    (ONEDIFF_PROCESSES=1 alone: on its own, whatever else is there); a SLURM step of several tasks;
    the TPU of this machine. ONEDIFF_TIMEOUT is the patience in seconds.

    Raises ValueError for values that are missing or make no sense.
    """
    timeout = _integer(env, "ONEDIFF_TIMEOUT") if "ONEDIFF_TIMEOUT" in env else TIMEOUT
    if timeout <= 0:
        raise ValueError(f"ONEDIFF_TIMEOUT={timeout} must be a positive number of seconds")
    if any(name in env for name in _OURS):
        return _explicit(env, timeout)
    if _number(env.get("SLURM_STEP_NUM_TASKS")) > 1 and "SLURM_STEP_NODELIST" in env:
        return _slurm(env, timeout)
    if _has_tpu(env):
        return Cluster("the TPU", None, 0, 0, timeout=timeout)
    return None


def _explicit(env: Mapping[str, str], timeout: int) -> Cluster | None:
    if env.get("ONEDIFF_PROCESSES") == "1":
        return None
    if missing := [name for name in _OURS if name not in env]:
        raise ValueError(f"{', '.join(missing)} must be set too: all of {', '.join(_OURS)}")
    address = env["ONEDIFF_COORDINATOR"]
    if not re.fullmatch(r"\S+:\d+", address):
        raise ValueError(f"ONEDIFF_COORDINATOR={address!r} must be host:port")
    count, index = _integer(env, "ONEDIFF_PROCESSES"), _integer(env, "ONEDIFF_PROCESS")
    if not 0 <= index < count:
        raise ValueError(f"ONEDIFF_PROCESS={index} must be in 0..{count - 1}, below the number")
    return Cluster("ONEDIFF_COORDINATOR", address, count, index, timeout=timeout)


def _slurm(env: Mapping[str, str], timeout: int) -> Cluster:
    """A step that srun started; the coordinator is the first node's, at a port of the job's own."""
    nodes = env["SLURM_STEP_NODELIST"]
    # node7 / node7,node9 / node[007-012,020],other: what comes first, brackets resolved.
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if first is None:
        raise ValueError(f"SLURM_STEP_NODELIST={nodes!r} names no node")
    name, inside = first.groups()
    job = _integer(env, "SLURM_JOB_ID") if "SLURM_JOB_ID" in env else 0
    count, index = _integer(env, "SLURM_STEP_NUM_TASKS"), _integer(env, "SLURM_PROCID")
    devices = None
    shared = count > _number(env.get("SLURM_STEP_NUM_NODES"), 1)
    if shared and env.get("CUDA_VISIBLE_DEVICES", "").count(","):
        devices = (_integer(env, "SLURM_LOCALID"),)  # a task per GPU, and each sees all of them
    address = f"{name}{inside or ''}:{20000 + job % 20000}"
    return Cluster("SLURM", address, count, index, devices, timeout)


def _has_tpu(env: Mapping[str, str]) -> bool:
    if "tpu" not in env.get("JAX_PLATFORMS", "tpu") or importlib.util.find_spec("libtpu") is None:
        return False
    return any(Path(device).exists() for device in _TPU_DEVICES)


def _integer(env: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"-?\d+", env[name]):
        raise ValueError(f"{name}={env[name]!r} must be a whole number")
    return int(env[name])


def _number(text: str | None, default: int = 0) -> int:
    return int(text) if text and text.isdigit() else default
