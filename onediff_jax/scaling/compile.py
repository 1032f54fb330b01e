"""Compiling for TPUs and GPUs that are not here, with the compilers that PyPI has for them."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from onediff_jax.parallel.xla_flags import GPU_MEMORY, compiler_options
from onediff_jax.scaling.chips import GIB, Chip, Topology
from onediff_jax.scaling.compilers import UNTRIED
from onediff_jax.scaling.program import Program


class DoesNotFit(ValueError):
    """A program needs more memory than the chip has."""


def devices_of(topology: Topology, slices: int = 1) -> list[Any]:
    """Stand-ins for the chips of `slices` such slices, to compile for; all hosts of GPUs are in the
    topology, whatever the mesh calls slices."""
    chip = topology.chip
    if chip.platform == "gpu":
        hosts, gpus = (1, *topology.shape)[-2:]
        found = topologies.get_topology_desc(
            platform="cuda", target_config=_gpu_target(chip), topology=f"1x{hosts}x{gpus}"
        )
        return list(found.devices)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.name == "v4":  # its two cores as one device, as jax drives it
        options["chip_config_name"] = "megacore"
    found = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, **options
    ).devices
    return list(found)


def _gpu_target(chip: Chip) -> str:
    """What XLA's compiler asks of a GPU."""
    gpu = chip.gpu
    assert gpu is not None
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  clock_rate_ghz: {gpu.clock}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {gpu.threads}
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared}
  shared_memory_per_core: {gpu.shared + 1024}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: {gpu.cache}
  device_memory_size: {chip.hbm_bytes}
  memory_bandwidth: {int(chip.hbm_bandwidth)}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "{chip.kind}"
"""


@contextlib.contextmanager
def as_if_on(device: Any, platform: str) -> Iterator[None]:
    """While tracing: kernels of GPUs ask the default device what it can do."""
    with jax.default_device(device) if platform == "gpu" else contextlib.nullcontext():
        yield


def compile_program(program: Program, topology: Topology) -> jax.stages.Compiled:
    """The program as it would run there.

    Raises DoesNotFit with what is missing.
    """
    platform = topology.chip.platform
    options: dict[str, Any] = dict(compiler_options(platform))
    options |= UNTRIED if platform == "gpu" else {}
    try:
        compiled = program.lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_missing(str(error), topology)) from None
    if platform == "gpu":  # XLA compiles for GPUs what they cannot hold
        needed, limit = peak_bytes(compiled), GPU_MEMORY * topology.chip.hbm_bytes
        if needed > limit:
            raise DoesNotFit(_too_large(needed / GIB, limit / GIB, topology))
    return compiled


def memory_of(compiled: jax.stages.Compiled) -> Any:
    """XLA's own count; both compilers used here have one."""
    found = compiled.memory_analysis()
    assert found is not None
    return found


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory of one device: arguments, temporaries, and results that have none of these places."""
    found = memory_of(compiled)
    needed = found.argument_size_in_bytes + found.temp_size_in_bytes
    needed += found.output_size_in_bytes - found.alias_size_in_bytes
    return max(found.peak_memory_in_bytes, needed)


def _missing(message: str, topology: Topology) -> str:
    """What to say about a program that is too large, from XLA's own words."""
    numbers = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message)
    if numbers is None:
        return f"the step does not fit a {topology.chip.name} chip: {message.splitlines()[0]}"
    scale = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    used, limit = (
        float(n) * scale[u] / GIB for n, u in (numbers.groups()[:2], numbers.groups()[2:])
    )
    return _too_large(used, limit, topology)


def _too_large(used: float, limit: float, topology: Topology) -> str:
    return (
        f"the step needs {used:.2f} GiB of a {topology.chip.name} chip's {limit:.2f} GiB that "
        f"programs may use: {used - limit:.2f} GiB are missing. Choose a model.remat that keeps "
        "less, fewer train.batch_rows, or a larger mesh.fsdp"
    )
