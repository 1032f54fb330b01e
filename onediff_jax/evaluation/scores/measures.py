"""Measures that compare two pictures, maps or sets. Pictures are uint8 (H, W, 3)."""

import numpy as np

from onediff_jax.tasks.edges import soft_edges

# Identical pictures would have infinite PSNR; a mean over pictures needs a number.
MOST_DB = 60.0
_PAINTED = 80  # a pixel of a drawing counts as painted above this level of its brightest channel
_CHANGED = 24  # levels by which a channel differs before a pixel counts as changed


def psnr(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, at most 60; higher is better.

    Args:
      predicted, truth: (H, W, 3) uint8, or float in 0..255; predicted may broadcast.
      mask: (H, W) bool, the pixels that count; None for all.

    Raises ValueError when the mask selects nothing.
    """
    squares = np.square(np.float32(truth) - np.float32(predicted))
    if mask is not None:
        if not mask.any():
            raise ValueError("mask selects no pixel")
        squares = squares[mask]
    return float(min(MOST_DB, -10 * np.log10(max(squares.mean() / 255.0**2, 1e-12))))


def abs_rel(predicted: np.ndarray | float, truth: np.ndarray) -> float:
    """Mean of |predicted − truth| / truth over depths of any shape; predicted may broadcast."""
    return float(np.mean(np.abs(predicted - truth) / truth))


def best_constant_depth(truth: np.ndarray) -> float:
    """The one depth with the least `abs_rel` against all of `truth`: the median weighted by 1/d."""
    ordered = np.sort(np.asarray(truth, np.float64).ravel())
    weight = np.cumsum(1 / ordered)
    return float(ordered[np.searchsorted(weight, weight[-1] / 2)])


def overlap(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 when both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def jaccard(first: set, second: set) -> float:
    """Intersection over union of two sets; 1 when both are empty."""
    return len(first & second) / len(first | second) if first | second else 1.0


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, of two arrays of one size; 0 when one of them is constant."""
    a, b = (np.float64(x).ravel() - np.mean(x, dtype=np.float64) for x in (first, second))
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0


def edge_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the soft edges of two pictures."""
    return correlation(soft_edges(first)[..., 0], soft_edges(second)[..., 0])


def painted(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a drawing on black that are not black."""
    return picture.max(-1) > _PAINTED


def changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels in which two pictures clearly differ."""
    return np.abs(np.int16(first) - np.int16(second)).max(-1) > _CHANGED


def visible_colour(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(3,) float32: the mean colour outside a hole (H, W) bool."""
    visible = picture[~hole] if not hole.all() else picture.reshape(-1, 3)
    return visible.mean(0, dtype=np.float32)
