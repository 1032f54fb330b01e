"""Degraded pictures to restore: blurred, low-resolution, with holes.

Images are uint8 (H, W, 3). Every length is a fraction of the smaller side, so a degradation is as
hard at every resolution; every random choice comes from the generator passed in.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFilter

from onediff_jax.tasks.pictures import check_image
from onediff_jax.tasks.pose import stroke
from onediff_jax.tasks.role import Made, Role, Truth

# The one range of each degradation, in training and in use.
BLUR_SIGMA = (0.03, 0.13)  # of the smaller side
BLUR_LENGTH = (0.15, 0.6)  # of a motion, of the smaller side; half of all blurs are motions
FACTORS = (4, 8)  # by which the resolution is lower
MASK_SHAPES = ("box", "ellipse", "strokes")
# Black, as in the example picture published with the released model.
HOLE = 0


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur (Pillow's, whose time does not grow with sigma).

    Args:
      sigma: standard deviation as a fraction of the smaller side.
    """
    image = check_image(image)
    if not sigma >= 0:
        raise ValueError(f"{sigma=} must not be negative")
    pixels = sigma * min(image.shape[:2])
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(pixels)))


def motion_blur(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Blur along a straight line.

    Args:
      length: of the line, as a fraction of the smaller side.
      angle: degrees from the x axis, downwards.
    """
    image = check_image(image)
    if not 0 <= length <= 1:
        raise ValueError(f"{length=} must be in 0..1")
    half = length * min(image.shape[:2]) / 2
    reach = int(np.ceil(half))
    line = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    line[reach] = np.clip(half + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    turn = cv2.getRotationMatrix2D((reach, reach), -angle, 1.0)
    kernel = cv2.warpAffine(line, turn, line.shape[::-1])
    kernel /= kernel.sum()
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def downscale(image: np.ndarray, factor: int) -> np.ndarray:
    """The image at 1 / factor of its resolution (area means), enlarged back by cubic interpolation.

    At sides that are not a multiple of `factor` the last means are over fewer pixels.
    """
    image = check_image(image)
    if not isinstance(factor, int | np.integer) or factor < 1:
        raise ValueError(f"{factor=} must be an integer of 1 or more")
    height, width = image.shape[:2]
    small = Image.fromarray(image).reduce(int(factor))
    box = (0, 0, width / factor, height / factor)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC, box=box))


def inpainting(
    image: np.ndarray, rng: np.random.Generator | None, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The image with a black hole.

    Args:
      mask: (H, W) bool, True = to be painted anew; None draws one with `random_mask`.

    Returns:
      (H, W, 3) uint8 and the mask (H, W) bool.

    Raises:
      ValueError: a mask of another shape or type, one that selects nothing, or neither mask nor
        generator.
    """
    image = check_image(image)
    if mask is None:
        if rng is None:
            raise ValueError("a picture with a hole needs a mask, or a generator to draw one")
        height, width = image.shape[:2]
        mask = random_mask(height, width, rng)
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


class Blurred(Role):
    """A blurred picture: Gaussian or, half of the time, along a line."""

    name, title = "blurred", "blurred picture"
    derived = True
    given_measures = ("restored",)

    def derive(self, image, rng=None, *, mask=None) -> np.ndarray:
        if rng is None:
            return blur(image, sum(BLUR_SIGMA) / 2)
        if rng.random() < 0.5:
            return blur(image, rng.uniform(*BLUR_SIGMA))
        return motion_blur(image, rng.uniform(*BLUR_LENGTH), rng.uniform(0, 180))


class LowResolution(Role):
    """A picture of a quarter or an eighth of the resolution, enlarged again."""

    name, title = "low_resolution", "low-resolution picture"
    derived = True
    given_measures = ("restored",)

    def derive(self, image, rng=None, *, mask=None) -> np.ndarray:
        return downscale(image, max(FACTORS) if rng is None else int(rng.choice(FACTORS)))


class Masked(Role):
    """A picture with a black hole."""

    name, title = "masked", "picture with a black hole"
    derived = needs_mask = True
    given_measures = ("hole",)

    def derive(self, image, rng=None, *, mask=None) -> np.ndarray:
        return inpainting(image, rng, mask)[0]

    def render(self, truth: Truth, rng: np.random.Generator) -> Made:
        picture, mask = inpainting(truth.image, rng)
        return Made(picture, known={"mask": mask})

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """(H, W) bool, True in the hole; dark pixels of the picture count as well."""
        return np.asarray(frame).max(-1) < 16
