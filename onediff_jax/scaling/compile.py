"""Compiling for TPUs that are not here, with libtpu from PyPI."""

import re
from typing import Any

import jax
from jax.experimental import topologies

from onediff_jax.parallel.xla_flags import compiler_options
from onediff_jax.scaling.chips import GIB, Topology
from onediff_jax.scaling.program import Program


class DoesNotFit(ValueError):
    """A program needs more memory than the chip has."""


def devices_of(topology: Topology, slices: int = 1) -> list[Any]:
    """Stand-ins for the chips of `slices` such slices, to compile for."""
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
