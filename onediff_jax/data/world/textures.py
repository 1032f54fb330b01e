"""Patterns: of things, over their own unit coordinates, and of floors, over world x and y."""

import numpy as np


def thing_pattern(texture: str, local: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Where the second colour shows: local (3,N) unit coordinates and unit normals (3,N) -> bool
    (N,).
    """
    if texture == "striped":
        return _fraction(local[2] * 1.45 + 0.2) > 0.55
    if texture == "checkered":
        inside = local - 0.02 * normal
        cells = np.floor(inside * 1.5 + 0.25).sum(0)
        return _fraction(cells * 0.5) > 0.25
    if texture == "dotted":
        # Distance to lattice lines along the normal: discs on every face, wherever the face cuts
        # the lattice.
        offset = _fraction(local * 1.55 + 0.5) - 0.5
        along = (offset * normal).sum(0)
        return (offset * offset).sum(0) - along * along < 0.085
    raise ValueError(f"{texture=} must be one of striped, checkered, dotted")


def floor_pattern(pattern: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the second colour at floor points x, y (h,w), float32 in 0..1."""
    if pattern == "checker":
        return _fraction((np.floor(x * 3.2) + np.floor(y * 3.2)) * 0.5) * 2
    if pattern == "tiles":
        seam = np.minimum(_seam(x * 3.4), _seam(y * 3.4))
        return (seam < 0.05).astype(np.float32)
    if pattern == "flagstones":
        row = np.floor(y * 2.8)
        across = x * 1.9 + 0.37 * row
        seam = np.minimum(_seam(across) * 1.5, _seam(y * 2.8))
        tone = _noise(np.floor(across) * 7.0 + row * 3.0)
        return np.where(seam < 0.05, np.float32(1.3), 0.6 * tone)
    if pattern == "planks":
        row = np.floor(y * 4.2)
        along = x * 0.9 + 0.43 * row
        seam = np.minimum(_seam(along) * 4.5, _seam(y * 4.2))
        tone = _noise(np.floor(along) * 5.0 + row * 11.0)
        grain = 0.12 * np.sin(y * 95.0 + 3.0 * np.sin(x * 5.0 + tone * 9.0))
        return np.where(seam < 0.06, np.float32(1.2), 0.6 * tone + grain + 0.12)
    if pattern == "speckle":
        wave = np.sin(x * 23.0 + 2.0 * np.sin(y * 17.0)) * np.sin(y * 29.0 + 2.0 * np.sin(x * 13.0))
        return 0.5 + 0.5 * wave
    raise ValueError(f"{pattern=} must be one of checker, tiles, flagstones, planks, speckle")


def _fraction(x):
    return x - np.floor(x)


def _seam(x):
    """Distance to the nearest whole number."""
    return np.abs(x - np.rint(x))


def _noise(cells):
    """A number in 0..1 that looks random from whole numbers."""
    return _fraction(np.sin(cells * 12.9898) * np.float32(437.58))
