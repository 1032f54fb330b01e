"""One mesh for every machine: replica × fsdp × tensor × sequence."""

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from onediff_jax.experiment.checks import complete

AXES = ("replica", "fsdp", "tensor", "sequence")
BATCH_AXES = ("replica", "fsdp")
# Arrays of a batch whose second axis is the chunks of a row; the others have none.
CHUNKED = ("tokens", "positions", "token_mask")
WHOLE = ("generate", "clean", "task", "text", "text_mask")


def make_mesh(config: ConfigDict, devices: list | None = None) -> Mesh:
    """The mesh of `config` (sizes by axis name; one of them may be −1: what is left).

    `config.slices` > 1 cuts the devices into as many parts joined by a slower network (TPU slices,
    GPU hosts): each holds whole fsdp, tensor and sequence axes, and only replicas span parts, so
    that the slow network carries one sum of gradients per step.

    Raises ValueError when the sizes do not multiply to the number of devices, or do not fit the
    slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    fields = complete("mesh", dict(config))
    sizes = [fields[axis] for axis in AXES]
    if sizes.count(-1) > 1 or any(n == 0 or n < -1 for n in sizes):
        raise ValueError(f"mesh {fields} must be positive sizes, at most one of them -1")
    known = math.prod(n for n in sizes if n > 0)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {fields} multiplies to {known}, but there are {len(devices)} devices"
        )
    parts = _slices(devices, fields["slices"])
    if sizes[0] % len(parts):
        raise ValueError(
            f"mesh.replica={sizes[0]} must be a multiple of mesh.slices={len(parts)}: only "
            "replicas span slices"
        )
    shape = (sizes[0] // len(parts), *sizes[1:])
    grid = np.concatenate([_grid(part, shape) for part in parts])
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(devices: list, shape: tuple[int, ...]) -> np.ndarray:
    """The devices in an order whose neighbours are close: of a TPU's torus jax knows it."""
    if devices[0].platform == "tpu":
        return jax.make_mesh(shape, AXES, devices=devices).devices
    return np.array(devices).reshape(shape)


def _slices(devices: list, count: int) -> list[list]:
    """The devices of each slice: as they say themselves, or cut in the order of processes."""
    found = sorted({getattr(device, "slice_index", 0) for device in devices})
    on_tpu = devices[0].platform == "tpu"
    if count < 1 or (on_tpu and len(found) != count) or len(devices) % count:
        lie = f"; the TPU has {len(found)}" if on_tpu else f" and divide {len(devices)} devices"
        raise ValueError(f"mesh.slices={count} must be the number of slices{lie}")
    if len(found) == count:
        return [[d for d in devices if getattr(d, "slice_index", 0) == i] for i in found]
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    each = len(devices) // count
    return [ordered[i * each : (i + 1) * each] for i in range(count)]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over replica and fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def row_shardings(mesh: Mesh, *, weighted: bool = False) -> dict[str, NamedSharding]:
    """How every array of a batch lies: rows over replica and fsdp, tokens over sequence too.

    Args:
      weighted: as in RowPacker: the batch has weights of its tokens.
    """
    chunked = NamedSharding(mesh, P(BATCH_AXES, "sequence"))
    names = (*CHUNKED, "weights") if weighted else CHUNKED
    return dict.fromkeys(names, chunked) | {name: batch_sharding(mesh) for name in WHOLE}


def batch_devices(mesh: Mesh) -> int:
    """How many ways the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, rows: int, chunks: int) -> None:
    """Raises ValueError, with the numbers, when a batch cannot be split over the mesh.

    Args:
      rows: train.batch_rows.
      chunks: of a row.
    """
    if rows % batch_devices(mesh):
        raise ValueError(
            f"train.batch_rows={rows} must be a multiple of the {batch_devices(mesh)} "
            "devices that share a batch (mesh.replica × mesh.fsdp)"
        )
    if chunks % mesh.shape["sequence"]:
        raise ValueError(
            f"mesh.sequence={mesh.shape['sequence']} must divide the {chunks} chunks of a row "
            "(tokens of all slots ÷ tokens per chunk; see rows)"
        )
