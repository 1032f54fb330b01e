"""The mesh: sizes, the size that is left over, and what cannot be."""

import jax
import pytest
from ml_collections import ConfigDict

from onediff_jax.parallel.mesh import AXES, batch_devices, batch_sharding, make_mesh


def sizes(replica=1, fsdp=-1, tensor=1, sequence=1) -> ConfigDict:
    return ConfigDict({"replica": replica, "fsdp": fsdp, "tensor": tensor, "sequence": sequence})


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
