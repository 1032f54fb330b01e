"""The bound of a step: links along the axes of a group, what runs beside what."""

import pytest

from onediff_jax.scaling.chips import topology_of
from onediff_jax.scaling.collectives import Collective
from onediff_jax.scaling.costs import Costs, Kernel
from onediff_jax.scaling.roofline import assumptions, link_seconds, mesh_axes, roofline
from tests.scaling.fakes import mesh


def collective(kind: str, group, megabytes: float = 160.0, **fields) -> Collective:
    fields = {"times": 1, "loop": "", "asynchronous": False} | fields
    return Collective(kind, (1,), megabytes * 1e6, group=tuple(group), **fields)


POD, ROW, COLUMN = "v5e:16x16", range(16), range(0, 256, 16)


def test_axes_of_groups():
    pod = mesh(POD, 16, 16)
    assert mesh_axes(tuple(ROW), pod) == ("fsdp",)
    assert mesh_axes(tuple(COLUMN), pod) == ("replica",)
    assert mesh_axes(tuple(range(256)), pod) == ("replica", "fsdp")
    assert mesh_axes((0,), pod) == ()


@pytest.mark.parametrize(
    "kind, group, milliseconds",
    [
        ("all-gather", ROW, 1.5),  # 15/16 of 160 MB over two links of 50 GB/s
        ("reduce-scatter", COLUMN, 1.5),
        ("all-reduce", ROW, 3.0),
        ("all-gather", range(256), 160 * 255 / 256 / 200),  # four links
        ("all-gather", range(8), 160 * 7 / 8 / 50),  # half a ring is a line
        ("collective-permute", (0, 1), 3.2),
        ("all-gather", (0,), 0.0),
    ],
)
def test_links(kind, group, milliseconds):
    found = link_seconds(collective(kind, group), mesh(POD, 16, 16), topology_of(POD))
    assert found == pytest.approx(milliseconds / 1000)


def test_between_slices():
    """Two slices of 16 chips: each chip sends half of its sixteenth, and receives the sum."""
    name = "v5e:4x4"
    found = link_seconds(
        collective("all-reduce", range(32)), mesh(name, 2, 16, slices=2), topology_of(name)
    )
    assert found == pytest.approx(2 * 160e6 / 32 / topology_of(name).chip.slow_bandwidth)


@pytest.mark.parametrize(
    "kind, group, milliseconds",
    [
        ("all-gather", range(8), 160 * 7 / 8 / 450),  # a host: NVLink
        ("all-reduce", range(8), 2 * 160 * 7 / 8 / 450),
        ("all-gather", range(32), 160 * 3 / 32 / 50),  # 8 ports bring what 3 other hosts have
        ("all-reduce", range(0, 32, 8), 2 * 160 * 3 / 4 / 50),  # each over its own port
        ("collective-permute", (0, 1), 160 / 450),
        ("collective-permute", (7, 8), 160 / 50),
    ],
)
def test_links_of_gpus(kind, group, milliseconds):
    name = "h100:4x8"
    found = link_seconds(collective(kind, group), mesh(name, 4, 8), topology_of(name))
    assert found == pytest.approx(milliseconds / 1000)


def test_assumptions_are_of_the_machine():
    assert any("torus" in one for one in assumptions(topology_of(POD)))
    assert any("NVLink" in one for one in assumptions(topology_of("h100:8")))


def test_what_is_asynchronous_hides_behind_the_rest():
    costs = Costs(flops=150e12, hbm_bytes=81.9e9, kernels=[Kernel("k", 1e12, 47)])
    costs.collectives = [
        collective("all-gather", ROW, times=100, asynchronous=True),
        collective("all-reduce", COLUMN, times=100, asynchronous=True),
        collective("reduce-scatter", ROW, times=10),
    ]
    bound = roofline(costs, 47e12, 98.5e12, mesh(POD, 16, 16), topology_of(POD))
    assert (bound.compute, bound.memory) == (pytest.approx(1.0), pytest.approx(0.1))
    assert bound.interconnect == pytest.approx(0.15 + 0.3 + 0.015)
    assert bound.waiting == pytest.approx(0.015)
    assert bound.step == pytest.approx(1.015)
    assert bound.mfu == pytest.approx(0.5 / 1.015)
    costs.flops = 0.0
    assert roofline(costs, 0.0, 0.0, mesh(POD, 16, 16), topology_of(POD)).step == pytest.approx(
        0.315  # the axis that is busier, and what nothing runs beside
    )
