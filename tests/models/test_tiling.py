"""Tiles: exact where the function is local, and no seam where tiles disagree."""

import itertools

import numpy as np
import pytest

from onediff_jax.models.tiling import blend_tiles, tile_starts, tile_weights


@pytest.mark.parametrize(
    "size, tile, overlap", [(100, 32, 8), (33, 32, 8), (64, 64, 16), (57, 10, 0)]
)
def test_starts_and_weights_cover(size, tile, overlap):
    starts = tile_starts(size, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile == size
    assert all(a + tile - b >= overlap for a, b in itertools.pairwise(starts))
    weights = tile_weights(starts, tile)
    total = np.zeros(size)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (weights > 0).all()


def test_local_function_is_exact():
    """Doubling the size by nearest neighbours needs no context: tiles must reproduce it."""
    x = np.random.default_rng(0).normal(size=(2, 37, 50, 3)).astype(np.float32)

    def double(x):
        return x.repeat(2, axis=1).repeat(2, axis=2), -x.repeat(2, axis=1).repeat(2, axis=2)

    up, negative = blend_tiles(double, x, 16, 5)
    np.testing.assert_allclose(up, double(x)[0], atol=1e-6)
    np.testing.assert_allclose(negative, double(x)[1], atol=1e-6)


def test_reducing_function_is_exact():
    x = np.random.default_rng(0).normal(size=(1, 48, 72, 2)).astype(np.float32)

    def pool(x):
        b, height, width, c = x.shape
        return x.reshape(b, height // 8, 8, width // 8, 8, c).mean((2, 4))

    np.testing.assert_allclose(blend_tiles(pool, x, 32, 16, unit=8), pool(x), atol=1e-6)


def test_disagreeing_tiles_blend_in_a_slope():
    """Each call returns its own number: the steps between them stay below 1/overlap each."""
    calls = []

    def constant(x):
        calls.append(x.shape)
        return np.full(x.shape, float(len(calls)), np.float32)

    line = np.asarray(blend_tiles(constant, np.zeros((1, 8, 100, 1), np.float32), 40, 10))[
        0, 0, :, 0
    ]
    assert calls == [(1, 8, 40, 1)] * 3
    assert line[0] == 1 and line[-1] == 3
    assert (np.diff(line) >= 0).all() and np.diff(line).max() <= 1 / 10 + 1e-6


@pytest.mark.parametrize("tile, overlap, unit", [(16, 16, 1), (16, -1, 1), (12, 8, 8), (16, 4, 8)])
def test_wrong_sizes(tile, overlap, unit):
    with pytest.raises(ValueError, match="overlap"):
        blend_tiles(lambda x: x, np.zeros((1, 64, 64, 1), np.float32), tile, overlap, unit=unit)
