"""The least time that a step can take: by products, by memory, by the links between chips."""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from onediff_jax.scaling.chips import Topology
from onediff_jax.scaling.collectives import Collective
from onediff_jax.scaling.costs import Costs

_EVERYWHERE = (
    "products run at the chip's dense bfloat16 peak, and nothing else takes time to compute",
    "each operand and result in HBM moves once per instruction; vector memory costs nothing",
    "kernels read and write their arguments once",
    "(n−1)/n of a collective's bytes move, of an all-reduce twice that",
    "collectives over different mesh axes do not disturb each other, those over one queue",
    "asynchronous collectives cost only what exceeds products and memory; the others add up",
    "the host and the input pipeline never wait",
)
_LINKS = {
    "tpu": "a collective uses the links along the torus axes of its group: two per ring, else one",
    "gpu": "a collective within a host uses all of NVLink, between hosts every GPU's network port",
}


def assumptions(topology: Topology) -> list[str]:
    """What the bound supposes, in words."""
    return [*_EVERYWHERE, _LINKS[topology.chip.platform]]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step.

    Attributes:
      compute, memory: of products and of HBM traffic.
      interconnect: of all collectives.
      waiting: of those collectives that nothing runs beside.
      step: the bound: the largest of compute, memory and asynchronous collectives, and `waiting`.
      mfu: model FLOPs ÷ (step × peak), at most.
    """

    compute: float
    memory: float
    interconnect: float
    waiting: float
    step: float
    mfu: float


def roofline(
    costs: Costs, kernel_flops: float, model_flops: float, mesh: Mesh, topology: Topology
) -> Roofline:
    """The bound for one device's `costs`; `model_flops` are those of one device's share."""
    chip = topology.chip
    compute = (costs.flops + kernel_flops) / chip.flops
    memory = costs.hbm_bytes / chip.hbm_bandwidth
    beside: dict[tuple[str, ...], float] = {}
    waiting = 0.0
    for collective in costs.collectives:
        seconds = collective.times * link_seconds(collective, mesh, topology)
        if collective.asynchronous:
            axes = mesh_axes(collective.group, mesh)
            beside[axes] = beside.get(axes, 0.0) + seconds
        else:
            waiting += seconds
    step = max(compute, memory, *beside.values(), 0.0) + waiting
    return Roofline(
        compute,
        memory,
        sum(beside.values()) + waiting,
        waiting,
        step,
        model_flops / (step * chip.flops),
    )


def mesh_axes(group: tuple[int, ...], mesh: Mesh) -> tuple[str, ...]:
    """Names of the mesh's axes along which the devices of a group differ."""
    places = np.array(np.unravel_index(list(group), mesh.devices.shape))
    names = zip(mesh.axis_names, places, strict=True)
    return tuple(name for name, along in names if len(set(along.tolist())) > 1)


def link_seconds(collective: Collective, mesh: Mesh, topology: Topology) -> float:
    """Of one execution of a collective, limited by the links alone."""
    devices = [mesh.devices.flat[i] for i in collective.group]
    count = len(devices)
    if count < 2:
        return 0.0
    gpus = topology.chip.platform == "gpu"
    slices = len({getattr(d, "process_index" if gpus else "slice_index", 0) for d in devices})
    if collective.kind == "collective-permute":
        chip = topology.chip
        return collective.bytes / (chip.slow_bandwidth if slices > 1 else chip.link_bandwidth)
    passes = 2 if collective.kind == "all-reduce" else 1
    moved = passes * collective.bytes * (count - 1) / count
    if slices > 1:
        # Each chip of a slice (or GPU of a host) exchanges its part with the others; the rest is
        # much faster.
        return passes * collective.bytes * (slices - 1) / count / topology.chip.slow_bandwidth
    if gpus:
        return moved / topology.chip.link_bandwidth
    places = np.array([device.coords for device in devices])
    links, spanned = 0, 1
    for axis in range(len(topology.shape)):
        distinct = len(set(places[:, axis].tolist()))
        if distinct > 1:
            ring = distinct == topology.shape[axis] and topology.closed(axis)
            links += 2 if ring else 1
            spanned *= distinct
    if spanned != count:  # no box of chips: its links are shared with other groups
        links = 1
    return moved / (links * topology.chip.link_bandwidth)
