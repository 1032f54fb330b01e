"""Compiling for TPUs that are not here, with libtpu from PyPI."""

import importlib.util
import os
import re
from typing import Any

import jax

from onediff_jax.parallel.xla_flags import compiler_options
from onediff_jax.scaling.chips import GIB, Topology
from onediff_jax.scaling.program import Program

LIBTPU = "libtpu==0.0.42.1"  # what jax[tpu] of jax 0.10.2 asks for
# libtpu would look for the machine's metadata server, and wait.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_STDERR_LOG_LEVEL": "3"}


class DoesNotFit(ValueError):
    """A program needs more memory than the chip has."""


def devices_of(topology: Topology, slices: int = 1) -> list[Any]:
    """Stand-ins for the chips of `slices` such slices, to compile for.

    Raises ValueError with the command that installs libtpu where it is missing.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"compiling for a TPU needs libtpu, which runs nothing here: pip install {LIBTPU}"
        )
    os.environ.update(ENVIRONMENT)
    from jax.experimental import topologies

    options = {"num_slices": slices} if slices > 1 else {}
    found = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, **options
    ).devices
    return list(found)


def compile_program(program: Program, topology: Topology) -> jax.stages.Compiled:
    """The program as it would run there.

    Raises DoesNotFit with what is missing.
    """
    try:
        return program.lowered.compile(compiler_options=compiler_options("tpu"))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_missing(str(error), topology)) from None


def _missing(message: str, topology: Topology) -> str:
    """What to say about a program that is too large, from XLA's own words."""
    numbers = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message)
    if numbers is None:
        return f"the step does not fit a {topology.chip.name} chip: {message.splitlines()[0]}"
    scale = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    used, limit = (
        float(n) * scale[u] / GIB for n, u in (numbers.groups()[:2], numbers.groups()[2:])
    )
    return (
        f"the step needs {used:.2f} GiB of a {topology.chip.name} chip's {limit:.2f} GiB that "
        f"programs may use: {used - limit:.2f} GiB are missing. Choose a model.remat that keeps "
        "less, fewer train.batch_rows, or a larger mesh.fsdp"
    )
