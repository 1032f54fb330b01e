"""3-D rotary embedding: exact numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from onediff_jax.models.rope import apply_rope, cos_sin, grid_positions, rope_angles


def test_positions():
    grid = np.asarray(grid_positions(2, 2, 3))
    assert grid.shape == (12, 3)
    np.testing.assert_array_equal(
        grid[[0, 1, 3, 6, 11]], [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 2]]
    )


def test_angles():
    """Head dim 12: two frequencies per axis, 10000^0 and 10000^(−6/12) = 0.01."""
    angles = rope_angles(jnp.array([[[3, 5, 7]]]), 12)
    assert angles.dtype == jnp.float32
    np.testing.assert_allclose(angles[0, 0], [3, 0.03, 5, 0.05, 7, 0.07], rtol=1e-6)


def test_released_head():
    """Head dim 120: 20 frequencies per axis, the last 10000^(−114/120)."""
    angles = rope_angles(jnp.array([[[1, 0, 2]]]), 120)[0, 0]
    assert angles.shape == (60,)
    np.testing.assert_allclose(angles[:20], 10000 ** (-np.arange(0, 120, 6) / 120), rtol=1e-5)
    assert not angles[20:40].any()
    np.testing.assert_allclose(angles[40:], 2 * angles[:20], rtol=1e-6)


@pytest.mark.parametrize(
    "max_timestep, want",
    [(299.0, [2, 0.02]), (300.0, [4, 4 * 20000**-0.5])],  # positions / 2, or θ · 2
)
def test_scaling(max_timestep, want):
    options = {"scale": 2.0, "watershed": 300.0, "max_timestep": jnp.float32(max_timestep)}
    angles = rope_angles(jnp.array([[[4, 0, 0]]]), 12, **options)
    np.testing.assert_allclose(angles[0, 0, :2], want, rtol=1e-6)


def test_rotation_of_adjacent_pairs():
    """A quarter turn of pair 1 only: (x2, x3) → (−x3, x2), in both heads."""
    angles = jnp.array([[[0.0, np.pi / 2, 0.0]]])
    x = jnp.arange(12.0).reshape(1, 1, 2, 6)
    turned = apply_rope(x, *cos_sin(angles))
    np.testing.assert_allclose(turned[0, 0, 0], [0, 1, -3, 2, 4, 5], atol=1e-6)
    np.testing.assert_allclose(turned[0, 0, 1], [6, 7, -9, 8, 10, 11], atol=1e-6)
    assert apply_rope(x.astype(jnp.bfloat16), *cos_sin(angles)).dtype == jnp.bfloat16


def test_only_distances_matter():
    """q·k after rotation depends on the difference of positions, on every axis."""
    rng = np.random.default_rng(0)
    q, k = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 24)), jnp.float32)

    def product(a, b):
        turned = [
            apply_rope(x, *cos_sin(rope_angles(jnp.array([[p]]), 24))) for x, p in ((q, a), (k, b))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        near, far = product([1, 2, 3], [1, 2, 3] + step), product([9, 7, 8], [9, 7, 8] + step)
        assert abs(near - far) < 1e-4
        assert abs(near - product([1, 2, 3], [1, 2, 3])) > 1e-2


def test_errors():
    with pytest.raises(ValueError, match="head_dim=20 must be a multiple of 6"):
        rope_angles(jnp.zeros((1, 1, 3), int), 20)
    with pytest.raises(ValueError, match=r"scale=2\.0 needs the timesteps"):
        rope_angles(jnp.zeros((1, 1, 3), int), 12, scale=2.0)
