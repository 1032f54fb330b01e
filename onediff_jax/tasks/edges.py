"""Edge maps: Canny's thin lines and soft, thick edges, white on black."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from onediff_jax.tasks.pictures import check_image
from onediff_jax.tasks.role import Role

# Canny's thresholds on the length of the gradient: the low one's range, and what the high one is of
# it. In their middle lie 100 and 200, the values that released condition models are used with.
CANNY_LOW = (40.0, 160.0)
CANNY_RATIO = (1.5, 2.5)


def canny(image: np.ndarray, low: float = 100.0, high: float = 200.0) -> np.ndarray:
    """Canny edges as OpenCV finds them, one pixel thin, white on black.

    Args:
      image: (H, W, 3) uint8.
      low, high: hysteresis thresholds on |across| + |down| of the 3x3 Sobel gradient, of the
        channel where it is largest: an edge between colours of equal brightness counts.

    Returns:
      (H, W, 3) uint8, 0 or 255.
    """
    if not 0 <= low <= high:
        raise ValueError(f"thresholds must satisfy 0 <= low <= high, got {low=}, {high=}")
    return np.repeat(cv2.Canny(check_image(image), low, high)[..., None], 3, -1)


def soft_edges(image: np.ndarray) -> np.ndarray:
    """Thick soft edges, white on black: what HED draws, without its network.

    Gradient lengths at two scales, multiplied (an edge shows at both, texture and shading at one)
    and squashed so that a clear edge is white; colours count, not only brightness.

    Returns:
      (H, W, 3) uint8, grey.
    """
    pixels = check_image(image).astype(np.float32)
    side = min(pixels.shape[:2])
    fine, coarse = (_squared_strength(pixels, max(0.6, scale * side)) for scale in (0.003, 0.01))
    square = np.sqrt(fine * coarse)
    # The floor keeps faint noise dark in images without edges.
    half = max(16.0**2, 0.25 * float(np.percentile(square, 97)))
    grey = np.rint(255 * square / (square + half)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def _squared_strength(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) squared gradient length at a scale, of the channel where it is longest.

    Times sigma squared, so that a step edge has the same strength at every scale.
    """
    width = 2 * int(2.5 * sigma + 0.5) + 1
    smooth = cv2.GaussianBlur(pixels, (width, width), sigma, borderType=cv2.BORDER_REFLECT)
    across, down = (
        cv2.Sobel(smooth, cv2.CV_32F, *axis, ksize=1, borderType=cv2.BORDER_REPLICATE)
        for axis in ((1, 0), (0, 1))
    )
    return np.float32(sigma**2) * (across * across + down * down).max(-1)


class Canny(Role):
    """Canny edges, one pixel thin."""

    name, title = "canny", "map of Canny edges"
    grey = derived = True
    measure, given_measures = "painted", ("picture", "edges")

    def derive(self, image, rng=None, *, mask=None) -> np.ndarray:
        if rng is None:
            return canny(image)
        low = rng.uniform(*CANNY_LOW)
        return canny(image, low, low * rng.uniform(*CANNY_RATIO))

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """(H, W) bool, True on an edge."""
        return np.asarray(frame).mean(-1) > 127


class SoftEdges(Role):
    """Soft edges, as HED draws them."""

    name, title = "hed", "map of soft edges"
    grey = derived = True
    annotation = "hed"
    measure, given_measures = "strength", ("picture", "edges")

    def derive(self, image, rng=None, *, mask=None) -> np.ndarray:
        return soft_edges(image)

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """(H, W) float32 in 0..1, the strength of the edge."""
        return np.asarray(frame).mean(-1, dtype=np.float32) / 255
