"""Degraded images to restore: blurred, low-resolution, with holes.

Images are uint8 (H, W, 3). Every length is a fraction of the smaller side, so a degradation is as
hard at every resolution; every random choice comes from the generator passed in.
"""

import functools

import numpy as np
from scipy import ndimage

from onediff_jax.tasks.conditions import check_image
from onediff_jax.tasks.draw import stroke

FACTORS = (4, 8)
MASK_SHAPES = ("box", "ellipse", "strokes")
# Black, as in the example picture published with the released model.
HOLE = 0


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur.

    Args:
      sigma: standard deviation as a fraction of the smaller side; 0.03 to 0.08 is clearly blurred.
    """
    image = check_image(image)
    if not sigma >= 0:
        raise ValueError(f"{sigma=} must not be negative")
    pixels = sigma * min(image.shape[:2])
    return _to_uint8(_box_gauss(image.astype(np.float32), pixels))


def motion_blur(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Blur along a straight line.

    Args:
      length: of the line, as a fraction of the smaller side.
      angle: degrees from the x axis.
    """
    image = check_image(image)
    if not 0 <= length <= 1:
        raise ValueError(f"{length=} must be in 0..1")
    pixels = length * min(image.shape[:2])
    # At most 33 shifted copies: larger steps are smoothed over first, so no copy shows.
    taps = int(np.clip(np.ceil(pixels), 1, 33))
    values = _box_gauss(image.astype(np.float32), 0.5 * pixels / taps if taps == 33 else 0.0)
    offsets = np.linspace(-pixels / 2, pixels / 2, taps) if taps > 1 else np.zeros(1)
    radians = np.deg2rad(angle)
    shifts = np.rint(np.stack([offsets * np.sin(radians), offsets * np.cos(radians)], -1))
    shifts, counts = np.unique(shifts.astype(int), axis=0, return_counts=True)
    reach = int(np.abs(shifts).max())
    padded = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), "edge")
    height, width = image.shape[:2]
    total = np.zeros_like(values)
    for (dy, dx), count in zip(shifts + reach, counts, strict=True):
        part = padded[dy : dy + height, dx : dx + width]
        total += part if count == 1 else np.float32(count) * part
    return _to_uint8(total / counts.sum())


def random_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian (sigma 0.03..0.08) or, half of the time, motion blur (length 0.15..0.35)."""
    if rng.random() < 0.5:
        return blur(image, rng.uniform(0.03, 0.08))
    return motion_blur(image, rng.uniform(0.15, 0.35), rng.uniform(0, 180))


def downscale(image: np.ndarray, factor: int) -> np.ndarray:
    """The image at 1 / factor of its resolution (area means), enlarged back by cubic interpolation.

    Sides that are not a multiple of `factor` are extended by their edge pixels meanwhile.
    """
    image = check_image(image)
    if not isinstance(factor, int | np.integer) or factor < 1:
        raise ValueError(f"{factor=} must be an integer of 1 or more")
    height, width = image.shape[:2]
    extra = ((0, -height % factor), (0, -width % factor), (0, 0))
    values = np.pad(image, extra, "edge").astype(np.float32)
    rows, columns = values.shape[0] // factor, values.shape[1] // factor
    # One axis at a time: numpy is several times slower over both together.
    small = values.reshape(rows, factor, -1).mean(1).reshape(rows, columns, factor, 3).mean(2)
    tall = _enlarge(rows, int(factor)) @ small.reshape(rows, -1)
    full = _enlarge(columns, int(factor)) @ tall.reshape(-1, columns, 3)
    return _to_uint8(full[:height, :width])


def random_downscale(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`downscale` by 4 or 8."""
    return downscale(image, int(rng.choice(FACTORS)))


def inpainting(
    image: np.ndarray, rng: np.random.Generator, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The image with a black hole.

    Args:
      mask: (H, W) bool, True = to be painted anew; None draws one with `random_mask`.

    Returns:
      (H, W, 3) uint8 and the mask (H, W) bool.

    Raises:
      ValueError: a mask of another shape or type, or one that selects nothing.
    """
    image = check_image(image)
    if mask is None:
        mask = random_mask(*image.shape[:2], rng)
    mask = np.asarray(mask)
    if mask.shape != image.shape[:2] or mask.dtype != bool:
        raise ValueError(f"mask must be bool {image.shape[:2]}, got {mask.dtype} {mask.shape}")
    if not mask.any():
        raise ValueError("mask selects nothing to paint")
    return np.where(mask[..., None], np.uint8(HOLE), image), mask


def random_mask(
    height: int, width: int, rng: np.random.Generator, shape: str | None = None
) -> np.ndarray:
    """(height, width) bool, 10 to 50 % True; `shape` one of MASK_SHAPES, None draws it."""
    shape = str(rng.choice(MASK_SHAPES)) if shape is None else shape
    if shape not in MASK_SHAPES:
        raise ValueError(f"unknown {shape=}; choose from {MASK_SHAPES}")
    if shape == "strokes":
        return _random_strokes(height, width, rng)
    share = rng.uniform(0.12, 0.47)
    # An ellipse covers pi / 4 of its box; neither box side may exceed the image's.
    box = share * 4 / np.pi if shape == "ellipse" else share
    longest = min(1.0, 1.6 * np.sqrt(box))
    across = rng.uniform(box / longest, longest)
    size = np.maximum(np.rint([box / across * height, across * width]), 1)
    top, left = np.floor(rng.random(2) * ([height, width] - size + 1))
    y = (np.arange(height)[:, None] - top + 0.5) / size[0] * 2 - 1
    x = (np.arange(width) - left + 0.5) / size[1] * 2 - 1
    if shape == "ellipse":
        return x**2 + y**2 < 1
    return (np.abs(x) < 1) & (np.abs(y) < 1)


def _random_strokes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Brush strokes of a few segments each, until 12 to 38 % is covered (plus the last segment)."""
    share = rng.uniform(0.12, 0.38)
    side = min(height, width)
    mask = np.zeros((height, width), bool)
    while mask.mean() < share:
        point = rng.random(2) * (width, height)
        radius = side * rng.uniform(0.04, 0.08)
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(4):
            heading += rng.uniform(-1, 1)
            step = side * rng.uniform(0.15, 0.35) * np.array([np.cos(heading), np.sin(heading)])
            where, coverage = stroke(height, width, point, point + step, radius)
            mask[where] |= coverage > 0.5
            point = point + step
            if mask.mean() >= share:
                break
    return mask


def _box_gauss(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, C), sigma in pixels, as three box blurs: time does not grow with it.

    The widths are odd and give the variance of the Gaussian as nearly as whole numbers can.
    """
    if sigma < 2:  # whole widths are too coarse there, and the exact filter is short
        return ndimage.gaussian_filter(values, (sigma, sigma, 0), mode="nearest")
    narrow = int(np.sqrt(4 * sigma**2 + 1))
    narrow -= 1 - narrow % 2
    # Three boxes of widths w have variance (w² - 1) / 4; `passes` of them stay narrow.
    passes = round((12 * sigma**2 - 3 * narrow**2 - 12 * narrow - 9) / (-4 * narrow - 4))
    for index in range(3):
        width = narrow if index < passes else narrow + 2
        for axis in (0, 1):
            values = ndimage.uniform_filter1d(values, width, axis=axis, mode="nearest")
    return values


@functools.lru_cache(maxsize=32)
def _enlarge(num: int, factor: int) -> np.ndarray:
    """(num * factor, num) float32: cubic interpolation (Keys 1981, a = -0.5), edges repeated."""
    position = (np.arange(num * factor) + 0.5) / factor - 0.5
    base = np.floor(position).astype(int)
    matrix = np.zeros((num * factor, num))
    for offset in (-1, 0, 1, 2):
        x = np.abs(position - base - offset)
        inner = 1.5 * x**3 - 2.5 * x**2 + 1
        outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weight = np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
        np.add.at(matrix, (np.arange(len(base)), np.clip(base + offset, 0, num - 1)), weight)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)  # shared by every caller
    return matrix


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
