"""Chips that are not there, and a program that was compiled for four of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from onediff_jax.parallel.mesh import AXES
from onediff_jax.scaling.chips import topology_of
from onediff_jax.scaling.hlo import Module, parse

# Three layers of one attention and one feed-forward, 8 × 256 tokens of 512 channels, over
# replica × fsdp = 2 × 2 of v5e:2x2, as XLA compiled them; what is not read here is cut out.
LAYERS = Path(__file__).parent / "layers_v5e_2x2.hlo.txt"


def layers() -> Module:
    """The program of LAYERS."""
    return parse(LAYERS.read_text())


def mesh(name: str, replica: int, fsdp: int, slices: int = 1) -> SimpleNamespace:
    """Chips in the order of their coordinates, the last axis of the torus fastest."""
    topology = topology_of(name)
    shape = topology.shape
    gpus = topology.chip.platform == "gpu"
    chips = [
        SimpleNamespace(process_index=place[0] if len(shape) > 1 else 0)
        if gpus
        else SimpleNamespace(coords=(*place, *[0] * (3 - len(shape))), slice_index=part)
        for part in range(slices)
        for place in np.ndindex(shape)
    ]
    devices = np.array(chips).reshape(replica, fsdp, 1, 1)
    shape = dict(zip(AXES, devices.shape, strict=True))
    return SimpleNamespace(devices=devices, axis_names=AXES, shape=shape)
