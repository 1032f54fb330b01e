"""A number per array that changes when any of its bits does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding

from onediff_jax.run.checksum import as_text, checksums


def text(array) -> str:
    return as_text(checksums({"x": array}))["x"]


def by_hand(array: np.ndarray) -> str:
    """The same in Python's integers."""
    total = 0
    for index, bits in enumerate(array.reshape(-1).view(f"u{array.itemsize}").tolist()):
        h = bits ^ ((index * 0x9E3779B9 + 1) % 2**32)
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        total += h ^ (h >> 16)
    return f"{total % 2**32:08x}"


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.uint8])
def test_value(dtype):
    array = np.random.default_rng(0).integers(0, 100, (2, 3, 5)).astype(dtype)
    assert text(jnp.asarray(array)) == by_hand(array)


def test_names():
    assert list(checksums({"a": {"b": jnp.zeros(2)}, "c": (jnp.int32(1),)})) == ["a/b", "c/0"]


def test_every_bit_and_place_counts():
    array = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    found = {text(jnp.asarray(array)), text(jnp.asarray(array[::-1].copy()))}
    for bit in range(32):
        flipped = array.copy()
        flipped.view(np.uint32)[bit] ^= 1 << bit
        found.add(text(jnp.asarray(flipped)))
    signs = array.copy()
    signs[[3, 9]] *= -1  # two flips of the same bit do not cancel
    found.add(text(jnp.asarray(signs)))
    assert len(found) == 35
    assert text(jnp.float32(0)) != text(jnp.float32(-0.0))


def test_a_sharded_array_has_the_same():
    mesh = Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2
    )
    array = jnp.arange(12.0).reshape(3, 4)
    sharded = jax.device_put(array, NamedSharding(mesh, jax.P("a", "b")))
    assert text(sharded) == text(array)
