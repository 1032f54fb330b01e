"""Pictures as they are: checks, cropping and resizing, and the roles that are plain pictures.

Images are uint8 (H, W, 3).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from onediff_jax.tasks.role import Made, Role, Truth

# Whoever calls runs a process or thread per core already; more threads within one would only wait
# for each other, and those of OpenCV do not survive a fork.
cv2.setNumThreads(0)


def check_image(image: np.ndarray) -> np.ndarray:
    """The image itself.

    Raises:
      ValueError: not uint8, not (H, W, 3), or empty.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def centre_crop(shape: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred box of a picture with the aspect of size.

    shape, size: (height, width) in pixels.
    """
    height, width = shape
    scale = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * scale, size[1] * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    # Rounding must not push the box out of the picture.
    return max(left, 0), max(top, 0), min(left + box_width, width), min(top + box_height, height)


def resize(
    image: np.ndarray, box: Sequence[float], size: tuple[int, int], *, nearest: bool = False
) -> np.ndarray:
    """The box of a uint8 picture at (height, width): antialiased, or nearest pixels.

    Args:
      image: (H, W, 3), or (H, W).
      box: (left, top, right, bottom) in pixels.
    """
    left, top, right, bottom = box
    if image.shape[:2] == tuple(size) and (left, top, right, bottom) == (0, 0, size[1], size[0]):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), method, box=(left, top, right, bottom)))


def fit(image: np.ndarray, size: tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """A picture cropped about its centre to the shape of size (height, width), and resized."""
    return resize(image, centre_crop(image.shape[:2], size), size, nearest=nearest)


class PlainPicture(Role):
    """A plain picture under a name of one's own, such as a map of normals."""

    title = "picture"
    mirrors = False  # a map of normals would not

    def __init__(self, name: str):
        self.name = name


class OrdinaryPicture(Role):
    """The picture itself: what is to be made, or what is known."""

    name, title = "image", "picture"

    def render(self, truth: Truth, rng: np.random.Generator) -> Made:
        return Made(truth.image)


class Source(Role):
    """The picture before an edit: the prompt is the instruction that leads to the target."""

    name, title = "source", "picture before the edit"
    instructs = True
    given_measures = ("edit",)
