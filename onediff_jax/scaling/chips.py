"""TPU chips and GPUs, and how many of them jax compiles for together: peaks, memory, links.

Figures of TPUs are of Google Cloud's documentation (docs.cloud.google.com/tpu/docs/v5e, v5p, v6e):
peak of dense bfloat16 products, HBM per chip and its bandwidth, and the bandwidth of the links
between chips, which it gives for all ports of a chip and both directions. Figures of GPUs are of
NVIDIA's data sheets of H100 SXM and H200 SXM, in hosts with NVSwitch and 400 Gbit/s per GPU.
"""

import dataclasses
import math
import re

from onediff_jax.scaling.peaks import peak_flops

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU generation, or one GPU.

    Attributes:
      name: as in topology names.
      kind: what jax calls the device.
      flops: bfloat16 products per second.
      hbm_bytes, hbm_bandwidth: memory and bytes per second.
      link_bandwidth: bytes per second in one direction: of one link between TPU chips; of a GPU to
        all others of its host.
      slow_bandwidth: bytes per second and chip over the data-centre network: between slices of
        TPUs, between hosts of GPUs.
      topologies: shapes that exist: TPU chips along each axis; hosts × GPUs, or GPUs of one host.
      torus: an axis of at least so many chips is closed to a ring; 0: nothing is.
      platform: "tpu" or "gpu".
    """

    name: str
    kind: str
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float
    topologies: tuple[str, ...]
    torus: int
    platform: str = "tpu"

    @property
    def flops(self) -> float:
        """Dense bfloat16 products per second."""
        return peak_flops(self.kind)


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
    *("8x16x16", "16x16x16", "16x16x24"),
)
_HOSTS = ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8", "32x8")
CHIPS = {
    # Links: 400, 1200 and 800 GB/s over 4, 6 and 4 ports and both directions. To other slices: 6.4
    # Tbit/s for 256 chips, 50 Gbit/s for one, 25.6 Tbit/s for 256.
    chip.name: chip
    for chip in (
        Chip("v5e", "TPU v5e", 16 * GIB, 819e9, 50e9, 200e9 / 8 / 8, _FLAT, 16),
        Chip("v5p", "TPU v5p", 95 * GIB, 2765e9, 100e9, 200e9 / 8 / 4, _CUBES, 4),
        Chip("v6e", "TPU v6e", 32 * GIB, 1638e9, 100e9, 800e9 / 8 / 8, _FLAT, 16),
        Chip("h100", "NVIDIA H100 80GB HBM3", 84929347584, 3352e9, 450e9, 50e9, _HOSTS, 0, "gpu"),
        Chip("h200", "NVIDIA H200", 150754820096, 4800e9, 450e9, 50e9, _HOSTS, 0, "gpu"),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of a generation, or hosts of GPUs; `shape` are its chips along each axis."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As topology_of takes it, e.g. v5e:16x16; for TPUs also libtpu's name."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """In the slice."""
        return math.prod(self.shape)

    def closed(self, axis: int) -> bool:
        """Whether the chips along an axis form a ring; what is in the middle of a pod does not."""
        return bool(self.chip.torus) and self.shape[axis] % self.chip.torus == 0


def topology_of(name: str) -> Topology:
    """The topology of a name like v5e:16x16, h100:8 or h100:4x8 (4 hosts of 8).

    Raises ValueError, listing those that exist.
    """
    known = {f"{chip.name}:{shape}" for chip in CHIPS.values() for shape in chip.topologies}
    if name not in known:
        lines = [
            f"  {chip.name}: " + ", ".join(f"{chip.name}:{shape}" for shape in chip.topologies)
            for chip in CHIPS.values()
        ]
        raise ValueError(f"--topology={name} does not exist; choose from\n" + "\n".join(lines))
    chip, shape = re.fullmatch(r"(\w+):([\dx]+)", name).groups()
    return Topology(CHIPS[chip], tuple(int(n) for n in shape.split("x")))
