"""From a scene and a camera to a picture with every ground truth."""

from dataclasses import dataclass

import numpy as np

from onediff_jax.data.world.poses import KEYPOINT_DEPTH
from onediff_jax.data.world.raycast import SKY, Rays, cast
from onediff_jax.data.world.scene import CLASSES, OrbitCamera, Scene
from onediff_jax.data.world.shade import shade


@dataclass(frozen=True)
class Box:
    """A tight box around an instance's visible pixels: x0 <= x < x1, y0 <= y < y1 in pixels."""

    label: str
    instance: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class View:
    """A picture and its ground truth.

    image (H,W,3) uint8, anti-aliased; depth (H,W) float32, z-depth in world units, inf where
    there is sky; classes (H,W) uint8, indices into CLASSES; instances (H,W) int16, indices into
    scene.objects or -1; boxes, one per instance with enough visible pixels; keypoints, one (17,3)
    float32 per figure: x, y in pixels (pixel j covers [j, j + 1)) and 1 when visible, 0 when
    hidden or outside. Depth, classes and instances are exact at pixel centres.
    """

    image: np.ndarray
    depth: np.ndarray
    classes: np.ndarray
    instances: np.ndarray
    boxes: list
    keypoints: list


def render(scene: Scene, camera: OrbitCamera, height: int, width: int) -> View:
    """Renders all of a View, on a grid with half-pixel steps whose odd points are the pixel
    centres.
    """
    geometry = scene.geometry
    rays = Rays.of(camera, height, width, halves=True)
    inverse, surface = cast(geometry, rays, scene.floor_z)
    image = _filtered(shade(scene, rays, inverse, surface))
    center = inverse[1::2, 1::2]
    depth = np.where(center > SKY, 1 / np.maximum(center, SKY), np.float32(np.inf))
    instances = geometry.owner[surface[1::2, 1::2]]
    kinds = np.array([CLASSES.index(thing.label) for thing in scene.objects] + [1], np.uint8)
    classes = kinds[instances]
    classes[np.isinf(depth)] = 0
    boxes = _boxes(scene, instances)
    keypoints = [_keypoints(scene, camera, depth, instances)] if scene.figure else []
    return View(image, depth, classes, instances, boxes, keypoints)


def _filtered(fine: np.ndarray) -> np.ndarray:
    """(3, 2H + 1, 2W + 1) in 0..1 -> (H,W,3) uint8: a tent filter one pixel wide about each pixel
    centre.
    """
    rows = fine[:, 1::2] * np.float32(2)
    rows += fine[:, :-1:2]
    rows += fine[:, 2::2]
    out = rows[:, :, 1::2] * np.float32(2)
    out += rows[:, :, :-1:2]
    out += rows[:, :, 2::2]
    out *= np.float32(255 / 16)
    out += np.float32(0.5)
    np.clip(out, 0, 255, out=out)
    return np.ascontiguousarray(out.astype(np.uint8).transpose(1, 2, 0))


def _boxes(scene: Scene, instances: np.ndarray) -> list:
    """Boxes of instances that cover at least 0.15 % of the picture."""
    fewest = max(4, round(0.0015 * instances.size))
    boxes = []
    for i, thing in enumerate(scene.objects):
        mask = instances == i
        if np.count_nonzero(mask) < fewest:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append(
            Box(
                thing.label,
                i,
                float(columns[0]),
                float(rows[0]),
                float(columns[-1] + 1),
                float(rows[-1] + 1),
            )
        )
    return boxes


def _keypoints(
    scene: Scene, camera: OrbitCamera, depth: np.ndarray, instances: np.ndarray
) -> np.ndarray:
    """(17,3): visible when the figure is what is seen there, no deeper in its body than the
    keypoint lies.
    """
    figure = scene.figure
    assert figure is not None
    height, width = depth.shape
    points = camera.project(figure.keypoints, height, width)
    columns, rows = np.floor(points[:, 0]).astype(int), np.floor(points[:, 1]).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    rows, columns = np.where(inside, rows, 0), np.where(inside, columns, 0)
    slack = KEYPOINT_DEPTH * figure.size
    seen = instances[rows, columns] == len(scene.objects) - 1
    seen &= depth[rows, columns] > points[:, 2] - slack
    points[:, 2] = inside & seen
    return points.astype(np.float32)
