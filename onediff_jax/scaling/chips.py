"""TPU chips and GPUs, and how many of them jax compiles for together: peaks, memory, links.

Figures of TPUs are of Google Cloud's documentation (docs.cloud.google.com/tpu/docs/v5e, v5p, v6e):
peak of dense bfloat16 products, HBM per chip and its bandwidth, and the bandwidth of the links
between chips, which it gives for all ports of a chip and both directions. Figures of GPUs are of
NVIDIA's data sheets and architecture white papers: A100, H100, H200 and B200 in SXM hosts with
NVSwitch and 200 (A100) or 400 Gbit/s of network per GPU, the others on PCIe in one host.
"""

import dataclasses
import math

from onediff_jax.scaling.peaks import peak_flops

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA's compiler asks of a GPU beside memory.

    Attributes:
      capability: compute capability, major and minor.
      cores: streaming multiprocessors, of `units` float32 units and `threads` resident threads.
      clock: GHz, boosted.
      shared: bytes of shared memory that one block may have.
      cache: bytes of the L2 cache.
    """

    capability: tuple[int, int]
    cores: int
    units: int
    threads: int
    clock: float
    shared: int
    cache: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU generation, or one GPU.

    Attributes:
      name: as in topology names.
      kind: what jax calls the device.
      hbm_bytes, hbm_bandwidth: memory and bytes per second.
      link_bandwidth: bytes per second in one direction: of one link between TPU chips; of a GPU to
        all others of its host.
      slow_bandwidth: bytes per second and chip over the data-centre network: between slices of
        TPUs, between hosts of GPUs.
      topologies: shapes that exist: TPU chips along each axis; hosts × GPUs, or GPUs of one host.
      torus: an axis of at least so many chips is closed to a ring; 0: nothing is.
      gpu: figures of a GPU; None for TPUs.
    """

    name: str
    kind: str
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float
    topologies: tuple[str, ...]
    torus: int = 0
    gpu: Gpu | None = None

    @property
    def platform(self) -> str:
        """ "tpu" or "gpu"."""
        return "gpu" if self.gpu else "tpu"

    @property
    def flops(self) -> float:
        """The peak of dense bfloat16 products, in FLOP/s."""
        peak = peak_flops(self.kind)
        assert peak is not None, self.kind  # a test looks at every chip
        return peak


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
    *("8x16x16", "16x16x16", "16x16x24"),
)
_HOSTS = ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8", "32x8")
_PCIE = ("1", "2", "4", "8")
_MIB = 2**20


def _ampere(name: str, kind: str, memory: int, bandwidth: float) -> Chip:
    gpu = Gpu((8, 0), 108, 64, 2048, 1.41, 166912, 40 * _MIB)
    return Chip(name, kind, memory * _MIB, bandwidth, 300e9, 25e9, _HOSTS, gpu=gpu)


def _hopper(name: str, kind: str, memory: int, bandwidth: float) -> Chip:
    gpu = Gpu((9, 0), 132, 128, 2048, 1.98, 232448, 50 * _MIB)
    return Chip(name, kind, memory, bandwidth, 450e9, 50e9, _HOSTS, gpu=gpu)


def _ada(name: str, kind: str, memory: int, bandwidth: float, cores: int, cache: int) -> Chip:
    gpu = Gpu((8, 9), cores, 128, 1536, 2.5, 101376, cache * _MIB)
    return Chip(name, kind, memory * _MIB, bandwidth, 32e9, 32e9, _PCIE, gpu=gpu)


# Of GPUs the memory that the driver shows (nvidia-smi), in MiB, of Hopper that jax does, in bytes.
CHIPS = {
    chip.name: chip
    for chip in (
        # Links: 300, 400, 1200 and 800 GB/s over 6, 4, 6 and 4 ports and both directions. To other
        # slices: 6.4 Tbit/s for 256 chips, 50 Gbit/s for one, 25.6 Tbit/s for 256.
        Chip("v4", "TPU v4", 32 * GIB, 1228e9, 50e9, 200e9 / 8 / 4, _CUBES, 4),
        Chip("v5e", "TPU v5e", 16 * GIB, 819e9, 50e9, 200e9 / 8 / 8, _FLAT, 16),
        Chip("v5p", "TPU v5p", 95 * GIB, 2765e9, 100e9, 200e9 / 8 / 4, _CUBES, 4),
        Chip("v6e", "TPU v6e", 32 * GIB, 1638e9, 100e9, 800e9 / 8 / 8, _FLAT, 16),
        _ampere("a100-40", "NVIDIA A100-SXM4-40GB", 40960, 1555e9),
        _ampere("a100-80", "NVIDIA A100-SXM4-80GB", 81920, 2039e9),
        _hopper("h100", "NVIDIA H100 80GB HBM3", 84929347584, 3352e9),
        _hopper("h200", "NVIDIA H200", 150754820096, 4800e9),
        Chip(
            *("b200", "NVIDIA B200", 183359 * _MIB, 8000e9, 900e9, 50e9, _HOSTS),
            gpu=Gpu((10, 0), 148, 128, 2048, 1.965, 232448, 126 * _MIB),
        ),
        _ada("l4", "NVIDIA L4", 23034, 300e9, 58, 48),
        _ada("l40s", "NVIDIA L40S", 46068, 864e9, 142, 96),
        _ada("rtx4090", "NVIDIA GeForce RTX 4090", 24564, 1008e9, 128, 72),
        _ada("rtx6000ada", "NVIDIA RTX 6000 Ada Generation", 49140, 960e9, 142, 96),
        Chip(
            *("rtx5090", "NVIDIA GeForce RTX 5090", 32607 * _MIB, 1792e9, 64e9, 64e9, _PCIE),
            gpu=Gpu((12, 0), 170, 128, 1536, 2.407, 101376, 96 * _MIB),
        ),
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
        """The number of chips in the slice."""
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
    chip, shape = name.split(":")
    return Topology(CHIPS[chip], tuple(int(n) for n in shape.split("x")))
