"""Maps of numbers as pictures for people: depth in a perceptual colour map, errors in another."""

import numpy as np

# Points of matplotlib's viridis and of a dark-to-yellow scale (inferno), interpolated between.
_VIRIDIS = np.array(
    [
        [68, 1, 84],
        [72, 40, 120],
        [62, 74, 137],
        [49, 104, 142],
        [38, 130, 142],
        [31, 158, 137],
        [53, 183, 121],
        [109, 205, 89],
        [180, 222, 44],
        [253, 231, 37],
    ],
    np.float32,
)
_INFERNO = np.array(
    [
        [0, 0, 4],
        [27, 12, 65],
        [74, 12, 107],
        [120, 28, 109],
        [165, 44, 96],
        [207, 68, 70],
        [237, 105, 37],
        [251, 155, 6],
        [247, 209, 61],
        [252, 255, 164],
    ],
    np.float32,
)


def _colored(share: np.ndarray, points: np.ndarray) -> np.ndarray:
    at = np.clip(np.nan_to_num(share), 0, 1) * (len(points) - 1)
    low = np.minimum(at.astype(int), len(points) - 2)
    mixed = points[low] + (at - low)[..., None] * (points[low + 1] - points[low])
    return np.rint(mixed).astype(np.uint8)


def near_colors(nearness: np.ndarray) -> np.ndarray:
    """Nearness (H, W) in 0..1 as uint8 (H, W, 3): near is bright; what is below 0 is black."""
    return np.where((nearness >= 0)[..., None], _colored(nearness, _VIRIDIS), np.uint8(0))


def error_colors(error: np.ndarray, most: float) -> np.ndarray:
    """Errors (H, W) from 0 (black) to `most` (bright) as uint8 (H, W, 3)."""
    return _colored(np.asarray(error, np.float32) / max(most, 1e-9), _INFERNO)


def class_colors(classes: np.ndarray) -> np.ndarray:
    """Class indices (H, W) as uint8 (H, W, 3): a colour each, black for what is no class."""
    known = (classes >= 0) & (classes < 255)
    hue = np.where(known, classes, 0) * 0.61803399 % 1.0 * 6  # neighbours lie far apart
    steps = np.stack([np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)], -1)
    light = 0.65 + 0.35 * (np.where(known, classes, 0) % 3 / 2)[..., None]
    colors = np.rint(255 * light * np.clip(steps, 0, 1)).astype(np.uint8)
    return np.where(known[..., None], np.maximum(colors, 30), np.uint8(0))


def picture_error(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two pictures differ, uint8 (H, W, 3): 64 levels are the brightest."""
    difference = np.abs(np.int16(first) - np.int16(second)).mean(-1)
    return error_colors(difference, 64.0)
