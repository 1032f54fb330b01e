"""Large images a tile at a time, blended linearly where tiles overlap."""

import fractions
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where equal tiles start: evenly spread over `size`, overlapping by at least `overlap`."""
    if size <= tile:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def tile_weights(starts: list[int], tile: int) -> np.ndarray:
    """Weight of each tile's positions, (tiles, tile) float32: they sum to 1 at every position.

    Between two tiles the weight moves linearly over all they share, so that a difference between
    them becomes a gentle slope instead of a seam.
    """
    weights = np.ones((len(starts), tile))
    for i in range(1, len(starts)):
        shared = starts[i - 1] + tile - starts[i]
        ramp = (np.arange(shared) + 0.5) / shared if shared else np.zeros(0)
        weights[i, :shared] *= ramp
        weights[i - 1, tile - shared :] *= ramp[::-1]
    total = np.zeros(starts[-1] + tile)  # differs from 1 where three tiles meet
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    weights /= [total[start : start + tile] for start in starts]
    return weights.astype(np.float32)


def blend_tiles(
    function: Callable, x: Float[Array, "b h w c"], tile: int, overlap: int, *, unit: int = 1
):
    """function(x) computed on square tiles of the image x (B, H, W, C), then blended.

    function maps (B, h, w, C) to one array (B, s·h, s·w, C') or a tuple of them, with a fixed
    ratio s; every call has the same shape. tile, overlap: in positions of x, multiples of `unit`.
    The results are gathered on the host, so that the device never holds more than one tile.
    """
    if tile % unit or overlap % unit or not 0 <= overlap < tile:
        raise ValueError(f"need 0 <= {overlap=} < {tile=}, both multiples of {unit=}")
    size = x.shape[1:3]
    tiles = [min(tile, n) for n in size]
    starts = [
        [unit * start for start in tile_starts(n // unit, t // unit, overlap // unit)]
        for n, t in zip(size, tiles, strict=True)
    ]
    canvases, tree = None, None
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            result = function(x[:, top : top + tiles[0], left : left + tiles[1]])
            parts, tree = jax.tree.flatten(result)
            if canvases is None:
                scale = fractions.Fraction(parts[0].shape[1], tiles[0])
                weights = [
                    tile_weights([int(scale * start) for start in s], int(scale * t))
                    for s, t in zip(starts, tiles, strict=True)
                ]
                shape = (x.shape[0], int(scale * size[0]), int(scale * size[1]))
                canvases = [np.zeros((*shape, part.shape[-1]), np.float32) for part in parts]
            window = weights[0][i][:, None, None] * weights[1][j][:, None]
            top_out, left_out = int(scale * top), int(scale * left)
            rows = slice(top_out, top_out + window.shape[0])
            columns = slice(left_out, left_out + window.shape[1])
            assert canvases is not None
            for canvas, part in zip(canvases, parts, strict=True):
                canvas[:, rows, columns] += np.asarray(part) * window
    assert canvases is not None  # there is at least one tile
    return jax.tree.unflatten(tree, [jnp.asarray(canvas) for canvas in canvases])
