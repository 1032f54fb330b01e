"""Topologies: names that exist, which of their axes are rings, what a chip has."""

import pytest

from onediff_jax.scaling.chips import CHIPS, GIB, topology_of


def test_names():
    pod = topology_of("v5e:16x16")
    assert (pod.name, pod.shape, pod.chips) == ("v5e:16x16", (16, 16), 256)
    assert topology_of("v5p:4x4x8").chips == 128
    for chip in CHIPS.values():
        for shape in chip.topologies:
            assert topology_of(f"{chip.name}:{shape}").name == f"{chip.name}:{shape}"


@pytest.mark.parametrize("name", ["v5e:16x17", "v5e", "v9:2x2", "16x16", "v5p:16x16", "h100:3", ""])
def test_others_list_those_that_exist(name):
    with pytest.raises(ValueError, match=f"--topology={name} does not exist") as error:
        topology_of(name)
    for known in ("v5e:2x2", "v5e:16x16", "v5p:4x4x4", "v6e:8x16", "h100:8", "h200:4x8"):
        assert known in str(error.value)


def test_rings():
    """Only the whole side of a pod is closed on v5e and v6e, every cube on v5p."""
    assert [topology_of("v5e:8x16").closed(axis) for axis in (0, 1)] == [False, True]
    assert [topology_of("v5p:4x4x8").closed(axis) for axis in (0, 1, 2)] == [True] * 3
    assert not topology_of("v5p:2x2x1").closed(0)
    assert not topology_of("h100:8").closed(0)


def test_documented_figures_of_gpus():
    """bfloat16 peak, memory bandwidth, NVLink in both directions, network in Gbit/s."""
    found = {
        name: (chip.flops, chip.hbm_bandwidth, 2 * chip.link_bandwidth, 8 * chip.slow_bandwidth)
        for name, chip in CHIPS.items()
        if chip.platform == "gpu"
    }
    assert found == {
        "a100-40": (312e12, 1555e9, 600e9, 200e9),
        "a100-80": (312e12, 2039e9, 600e9, 200e9),
        "h100": (989e12, 3352e9, 900e9, 400e9),
        "h200": (989e12, 4800e9, 900e9, 400e9),
        "b200": (2250e12, 8000e9, 1800e9, 400e9),
        # On PCIe, 16 lanes: of generation 4, and of generation 5.
        "l4": (121e12, 300e9, 64e9, 256e9),
        "l40s": (362e12, 864e9, 64e9, 256e9),
        "rtx4090": (165.2e12, 1008e9, 64e9, 256e9),
        "rtx6000ada": (364.2e12, 960e9, 64e9, 256e9),
        "rtx5090": (209.5e12, 1792e9, 128e9, 512e9),
    }
    assert topology_of("h100:4x8").chips == 32 and topology_of("h200:8").shape == (8,)


def test_documented_figures():
    """Per TPU chip: bfloat16 peak, memory, its bandwidth, all links in both directions."""
    found = {}
    for name, chip in CHIPS.items():
        if chip.platform == "gpu":
            continue
        ports = 2 * len(topology_of(f"{name}:{chip.topologies[-1]}").shape)
        links = 2 * ports * chip.link_bandwidth
        found[name] = (chip.flops, chip.hbm_bytes / GIB, chip.hbm_bandwidth, links)
    assert found == {
        "v4": (275e12, 32, 1228e9, 600e9),
        "v5e": (197e12, 16, 819e9, 400e9),
        "v5p": (459e12, 95, 2765e9, 1200e9),
        "v6e": (918e12, 32, 1638e9, 800e9),
    }
