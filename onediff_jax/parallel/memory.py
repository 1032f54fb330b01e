"""Whether a run fits its devices, estimated before anything is compiled."""

import os

import jax
from jax.sharding import Mesh

GIB = 2**30
_STATE_BYTES = 4 * 5  # parameters, gradients, two moments and EMA, float32 each
_EMA_BYTES = 4  # of these, when it lies in the memory of the host


def device_bytes(device: jax.Device) -> int | None:
    """Memory of one device in bytes (the machine's for CPU devices, shared among them)."""
    if device.platform == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages // jax.local_device_count()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def needed_bytes(experiment, params: int, mesh: Mesh) -> int:
    """A lower estimate of the bytes per device: state, and activations kept for backward."""
    cfg, config = experiment.model_config, experiment.config
    shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
    rows = config.train.batch_rows / (mesh.shape["replica"] * mesh.shape["fsdp"])
    tokens = rows * experiment.layout.tokens / mesh.shape["sequence"]
    width = {"float32": 4, "bfloat16": 2}[config.model.dtype]
    # Kept numbers per token and layer, in units of the model's width.
    kept = {
        "full": 1.0,
        "kernels": 2.5,
        "attention": 4.5,
        "mixed": 4.5,
        "feed_forward": 5.5,
        "none": 10 + 4 * cfg.ffn_dim / cfg.hidden_size,
    }
    activations = tokens * cfg.depth * cfg.hidden_size * kept[config.model.remat] * width
    frozen = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(experiment.frozen_shapes)
    )
    state = _STATE_BYTES - (_EMA_BYTES if config.ema.offload else 0)
    return int((params * state + frozen) / shards + activations)


def check_memory(experiment, params: int, mesh: Mesh) -> None:
    """Raises ValueError when the estimate exceeds what a device has, with both numbers."""
    available = device_bytes(mesh.devices.flat[0])
    needed = needed_bytes(experiment, params, mesh)
    if available is not None and needed > available:
        raise ValueError(
            f"preset {experiment.config.preset!r} does not fit: {params:,} parameters and "
            f"{experiment.config.train.batch_rows} rows need at least {needed / GIB:.1f} GiB per "
            f"device, {(needed - available) / GIB:.1f} GiB more than the {available / GIB:.1f} GiB "
            f"of {mesh.devices.size} × {mesh.devices.flat[0].device_kind}. Choose a smaller "
            "preset, fewer train.batch_rows, or more devices."
        )
