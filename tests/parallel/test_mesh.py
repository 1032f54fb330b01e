"""The mesh: sizes, the size that is left over, and what cannot be."""

import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from onediff_jax.parallel.mesh import (
    AXES,
    batch_devices,
    batch_sharding,
    check_batch,
    make_mesh,
    row_shardings,
)
from tests.experiments import batches


def sizes(replica=1, fsdp=-1, tensor=1, sequence=1, slices=1) -> ConfigDict:
    return ConfigDict(
        dict(zip(AXES, (replica, fsdp, tensor, sequence), strict=True), slices=slices)
    )


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh needs to know of a device."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    platform: str = "gpu"
    device_kind: str = "NVIDIA H200"


def ids(mesh) -> list:
    return np.vectorize(lambda device: device.id)(mesh.devices).squeeze().tolist()


def test_one_device():
    mesh = make_mesh(sizes(), jax.devices()[:1])
    assert dict(mesh.shape) == {"replica": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert mesh.axis_names == AXES
    assert batch_devices(mesh) == 1
    assert batch_sharding(mesh).spec == jax.P(("replica", "fsdp"))


@pytest.mark.parametrize(
    "wrong", [sizes(tensor=-1), sizes(fsdp=0), sizes(fsdp=1, tensor=-2), sizes(sequence=-1)]
)
def test_impossible_sizes(wrong):
    with pytest.raises(ValueError, match="must be positive sizes, at most one of them -1"):
        make_mesh(wrong)


@pytest.mark.parametrize("wrong", [sizes(fsdp=2), sizes(tensor=3), sizes(replica=5, fsdp=7)])
def test_sizes_that_do_not_multiply_to_the_devices(wrong):
    with pytest.raises(ValueError, match=r"multiplies to \d+, but there are 1 devices"):
        make_mesh(wrong, jax.devices()[:1])


def test_every_array_of_a_batch_has_its_sharding():
    mesh = make_mesh(sizes(), jax.devices()[:1])
    (batch,) = batches()
    assert row_shardings(mesh).keys() == batch.keys()
    assert row_shardings(mesh)["tokens"].spec == jax.P(("replica", "fsdp"), "sequence")
    assert row_shardings(mesh)["text"].spec == jax.P(("replica", "fsdp"))


def test_only_replicas_span_slices():
    """Two hosts of four GPUs: as they say themselves, and cut in the order of the processes."""
    hosts = [Device(i, i // 4, i // 4) for i in (5, 0, 4, 1, 6, 2, 7, 3)]
    same = [dataclasses.replace(device, slice_index=0) for device in hosts]
    for devices in (hosts, same):
        mesh = make_mesh(sizes(replica=2, slices=2), devices)
        assert dict(mesh.shape) == {"replica": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
        assert [sorted(part) for part in ids(mesh)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    mesh = make_mesh(sizes(replica=4, tensor=2, fsdp=1, slices=2), same)
    assert [sorted(part) for part in ids(mesh)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    "config, platform, message",
    [
        (sizes(fsdp=4, slices=2), "gpu", "mesh.replica=1 must be a multiple of mesh.slices=2"),
        (sizes(replica=4, slices=3), "gpu", "mesh.slices=3 must be .* and divide 4 devices"),
        (sizes(replica=4, slices=0), "gpu", "mesh.slices=0 must be the number of slices"),
        (sizes(replica=4, slices=4), "tpu", "mesh.slices=4 must be .*; the TPU has 2"),
        (sizes(replica=4), "tpu", "mesh.slices=1 must be .*; the TPU has 2"),
    ],
)
def test_slices_that_do_not_fit(config, platform, message):
    devices = [Device(i, i // 2, i // 2, platform) for i in range(4)]
    with pytest.raises(ValueError, match=message):
        make_mesh(config, devices)


def test_batches_that_cannot_be_split():
    eight = make_mesh(sizes(replica=2, fsdp=2, sequence=2), [Device(i) for i in range(8)])
    check_batch(eight, 4, 6)
    with pytest.raises(ValueError, match=r"batch_rows=6 must be a multiple of the 4 devices"):
        check_batch(eight, 6, 6)
    with pytest.raises(ValueError, match=r"mesh.sequence=2 must divide the 7 chunks of a row"):
        check_batch(eight, 4, 7)
