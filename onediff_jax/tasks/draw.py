"""Conditions drawn from ground truth: class maps, boxes and skeletons, in colour on black."""

import colorsys
import math

import numpy as np

from onediff_jax.tasks import colors as palette

# Of the smaller side. A box outline is one latent pixel (8 of 512) wide, so it survives encoding.
BOX_LINE = 8 / 512
LIMB_RADIUS = 4 / 512


def paint_semantic(classes: np.ndarray, colors: dict[int, str]) -> np.ndarray:
    """A class map in colour.

    Args:
      classes: (H, W) integers.
      colors: class -> name of an allowed colour; classes without one stay black.

    Returns:
      (H, W, 3) uint8.
    """
    classes = np.asarray(classes)
    if classes.ndim != 2 or classes.dtype.kind not in "iub":
        raise ValueError(f"classes must be (H, W) integers, got {classes.dtype} {classes.shape}")
    image = np.zeros((*classes.shape, 3), np.uint8)
    for index, name in colors.items():
        image[classes == index] = palette.rgb(name)
    return image


def paint_boxes(height: int, width: int, boxes, colors) -> np.ndarray:
    """Box outlines in colour on black, the largest first, so that small boxes stay visible.

    Args:
      boxes: (N, 4) pixels x0, y0, x1, y1 (x1 and y1 exclusive); parts outside the image are cut.
      colors: N names of allowed colours.

    Returns:
      (height, width, 3) uint8.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(boxes) != len(colors):
        raise ValueError(f"{len(boxes)} boxes but {len(colors)} colors")
    sizes = boxes[:, 2:] - boxes[:, :2]
    if not (sizes > 0).all():
        bad = boxes[(~(sizes > 0)).any(1).argmax()]
        raise ValueError(f"box {bad.tolist()} must have x0 < x1 and y0 < y1")
    line = max(2, round(BOX_LINE * min(height, width)))
    image = np.zeros((height, width, 3), np.uint8)
    limits = [width, height, width, height]
    corners = np.clip(np.rint(boxes), 0, limits).astype(int)
    for index in np.argsort(-sizes.prod(1), kind="stable"):
        x0, y0, x1, y1 = corners[index]
        outline = np.ones((y1 - y0, x1 - x0), bool)
        outline[line:-line, line:-line] = False
        image[y0:y1, x0:x1][outline] = palette.rgb(colors[index])
    return image


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
    where, coverage = stroke(*image.shape[:2], start, end, radius)
    part = image[where]
    part += coverage[..., None] * (color - part)
