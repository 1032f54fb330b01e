"""One mesh for every machine: replica × fsdp × tensor × sequence."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

AXES = ("replica", "fsdp", "tensor", "sequence")
BATCH_AXES = ("replica", "fsdp")


def make_mesh(config: ConfigDict, devices: list | None = None) -> Mesh:
    """The mesh of `config` (sizes by axis name; one of them may be −1: what is left).

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config[axis] for axis in AXES]
    if sizes.count(-1) > 1 or any(n == 0 or n < -1 for n in sizes):
        raise ValueError(f"mesh {dict(config)} must be positive sizes, at most one of them -1")
    known = math.prod(n for n in sizes if n > 0)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {dict(config)} multiplies to {known}, but there are {len(devices)} devices"
        )
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over replica and fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def batch_devices(mesh: Mesh) -> int:
    """How many ways the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
