"""Whether a run fits its devices, estimated before anything is compiled."""

import dataclasses
import math
import os
from typing import Any

import jax
from jax.sharding import Mesh

GIB = 2**30
_STATE_BYTES = 4 * 3  # parameters, gradients and EMA, float32 each
# First and second moments of the optimizers, in numbers per parameter.
_MOMENTS = {"adamw": (1, 1), "muon": (1, 0), "adafactor": (0, 0), "lion": (1, 0), "sgd": (1, 0)}
_EMA_BYTES = 4  # of these, when it lies in the memory of the host


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a device holds during a step, in bytes; lower estimates.

    Attributes:
      state: parameters, gradients, optimizer, average, and the frozen weights beside adapters.
      activations: what is kept of the forward pass for the backward pass.
    """

    state: int
    activations: int

    @property
    def total(self) -> int:
        return self.state + self.activations


def device_bytes(device: Any) -> int | None:
    """Memory of one device in bytes (the machine's for CPU devices, shared among them)."""
    if device.platform == "cpu":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages // jax.local_device_count()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def state_bytes(experiment) -> int:
    """Bytes of state per trained parameter that lie on devices."""
    optim = experiment.config.optim
    first, second = _MOMENTS[optim.name]
    moments = first * (2 if optim.moments_dtype == "bfloat16" else 4) + second * 4
    return _STATE_BYTES + moments - (_EMA_BYTES if experiment.config.ema.offload else 0)


def estimate(experiment, params: int, mesh: Mesh) -> Memory:
    """A lower estimate per device; `params` are trained."""
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
    state = (params * state_bytes(experiment) + frozen) / shards
    return Memory(int(state), int(activations))


def needed_bytes(experiment, params: int, mesh: Mesh) -> int:
    """A lower estimate of the bytes per device: state, and activations kept for backward."""
    return estimate(experiment, params, mesh).total


def check_memory(experiment, params: int, mesh: Mesh) -> None:
    """Raises ValueError when the estimate exceeds what a device has: with both numbers, what they
    are made of, and what would help.
    """
    available = device_bytes(mesh.devices.flat[0])
    needed = estimate(experiment, params, mesh)
    if available is None or needed.total <= available:
        return
    config = experiment.config
    label = f"preset {config.preset!r}" if config.preset else f"{config.name!r}"
    raise ValueError(
        f"{label} does not fit: {params:,} parameters and {config.train.batch_rows} rows need at "
        f"least {needed.total / GIB:.1f} GiB per device ({needed.state / GIB:.1f} of state, "
        f"{needed.activations / GIB:.1f} of activations), "
        f"{(needed.total - available) / GIB:.1f} GiB more than the {available / GIB:.1f} GiB of "
        f"{mesh.devices.size} × {mesh.devices.flat[0].device_kind}. "
        + _advice(config, needed, available, mesh)
    )


def _advice(config, needed: Memory, available: int, mesh: Mesh) -> str:
    """What makes it fit."""
    if needed.state >= available:
        shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
        several = math.ceil(needed.state * shards / available)
        ways = [f"{several} or more such devices along mesh.fsdp (state is split over them)"]
        if config.init_from and "lora" not in config:
            ways.append("adapters alone (configs/finetune_pretrained.py:lora)")
        return f"Choose a smaller preset or model, or {', or '.join(ways)}."
    ways = ["fewer train.batch_rows (train.accumulate makes up for them)", "more devices"]
    if config.model.remat != "full":
        ways.insert(0, "model.remat=full")
    return f"Choose a smaller preset, {', or '.join(ways)}."
