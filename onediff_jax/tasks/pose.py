"""Skeletons of people, as OpenPose draws them: rainbow colours on black."""

import colorsys
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onediff_jax.tasks.role import Made, Role, Truth

# Of the smaller side.
LIMB_RADIUS = 4 / 512

# COCO's keypoints, in its order.
KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

# Pairs of indices into KEYPOINTS, the bones of a drawn skeleton.
LIMBS = (
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)

_JOINT_TOLERANCE = 40  # levels per channel by which a joint's pixel may differ from its colour


def draw_pose(height: int, width: int, keypoints, limbs, colors=None) -> np.ndarray:
    """A skeleton as OpenPose draws it: limbs and joints in rainbow colours on black.

    Args:
      keypoints: (K, 3) x, y in pixels (pixel centres at whole numbers) and visibility; a joint is
        drawn when its visibility is positive, a limb when both its joints are.
      limbs: pairs of keypoint indices.
      colors: (len(limbs), 3) RGB 0..255; None: hues around the wheel.

    Returns:
      (height, width, 3) uint8, anti-aliased.
    """
    keypoints = np.asarray(keypoints, np.float64)
    if keypoints.ndim != 2 or keypoints.shape[1] != 3:
        raise ValueError(f"keypoints must have shape (K, 3), got {keypoints.shape}")
    if len(limbs) and not (0 <= np.min(limbs) and np.max(limbs) < len(keypoints)):
        raise ValueError(f"{limbs=} must be pairs of indices below {len(keypoints)}")
    colors = rainbow(len(limbs)) if colors is None else np.asarray(colors, np.float32)
    if colors.shape != (len(limbs), 3):
        raise ValueError(f"colors must have shape {(len(limbs), 3)}, got {colors.shape}")
    visible = keypoints[:, 2] > 0
    radius = max(0.9, LIMB_RADIUS * min(height, width))
    image = np.zeros((height, width, 3), np.float32)
    for (start, end), color in zip(limbs, colors, strict=True):
        if visible[start] and visible[end]:
            # Joints, drawn next, are brighter: limbs carry 60 % of their colour.
            _blend(image, keypoints[start, :2], keypoints[end, :2], radius, 0.6 * color)
    for point, color in zip(keypoints[visible], rainbow(len(keypoints))[visible], strict=True):
        _blend(image, point[:2], point[:2], 1.2 * radius, color)
    return np.rint(image).astype(np.uint8)


def rainbow(num: int) -> np.ndarray:
    """(num, 3) float32 saturated colours 0..255, evenly around the hue circle from red."""
    hues = [colorsys.hsv_to_rgb(index / max(num, 1), 1.0, 1.0) for index in range(num)]
    return np.asarray(hues, np.float32).reshape(num, 3) * 255


def stroke(height: int, width: int, start, end, radius: float):
    """A thick line with round ends, anti-aliased.

    Args:
      start, end: (2,) x, y in pixels; may lie outside.
      radius: half the thickness, pixels.

    Returns:
      (rows, columns) slices of the part of the image it touches, and its coverage there in 0..1.
    """
    # Plain floats: dozens of short strokes make a skeleton, and numpy is slow on two numbers.
    (x0, y0), (x1, y1) = map(float, start), map(float, end)
    reach = radius + 1
    left, top = (max(0, math.floor(min(x0, x1) - reach)), max(0, math.floor(min(y0, y1) - reach)))
    right = max(left, min(width, math.ceil(max(x0, x1) + reach) + 1))
    bottom = max(top, min(height, math.ceil(max(y0, y1) + reach) + 1))
    x = np.arange(left, right, dtype=np.float32) - x0
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - y0
    along_x, along_y = x1 - x0, y1 - y0
    length = along_x**2 + along_y**2
    if length > 0:
        share = x * (along_x / length) + y * (along_y / length)
        share = np.minimum(np.maximum(share, 0), 1)
        x, y = x - share * along_x, y - share * along_y
    distance = np.sqrt(x * x + y * y)
    coverage = np.minimum(np.maximum(radius + 0.5 - distance, 0), 1)
    return (slice(top, bottom), slice(left, right)), coverage


def _blend(image: np.ndarray, start, end, radius: float, color: np.ndarray):
    """Paints a stroke over the float image, in place."""
    height, width = image.shape[:2]
    where, coverage = stroke(height, width, start, end, radius)
    part = image[where]
    part += coverage[..., None] * (color - part)


class Pose(Role):
    """A skeleton of COCO's 17 keypoints."""

    name, title = "pose", "skeleton"
    annotation = "pose"
    mirrors = False  # its colours tell the left arm from the right
    measure = "painted"

    def render(self, truth: Truth, rng: np.random.Generator) -> Made | None:
        if truth.keypoints is None:
            return None
        centred = truth.keypoints - np.array([0.5, 0.5, 0.0], np.float32)  # whole numbers
        height, width = truth.image.shape[:2]
        picture = draw_pose(height, width, centred, LIMBS)
        return Made(picture, known={"keypoints": [truth.keypoints]})

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """(17, 3) float32 x, y in pixels (pixel j covers j to j + 1) and 1 where a joint is seen.

        A joint is where its colour is: of several people their middle.
        """
        pixels = np.asarray(frame, np.float32)
        found = np.zeros((len(KEYPOINTS), 3), np.float32)
        for number, color in enumerate(rainbow(len(KEYPOINTS))):
            near = np.abs(pixels - color).max(-1) < _JOINT_TOLERANCE
            if near.any():
                rows, columns = np.nonzero(near)
                found[number] = columns.mean() + 0.5, rows.mean() + 0.5, 1
        return found
