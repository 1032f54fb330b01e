"""Regions in the colours that the prompt names: class maps and bounding boxes, on black."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from onediff_jax.tasks import colors as palette
from onediff_jax.tasks.role import Made, Role, Truth

# Of the smaller side. A box outline is one latent pixel (8 of 512) wide, so it survives encoding.
BOX_LINE = 8 / 512


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


def region_index(frame: np.ndarray, regions) -> np.ndarray:
    """(H, W) which of the (colour name, label) pairs each pixel is painted as; −1: none."""
    names = [color for color, _ in regions]
    return palette.classify(frame, names) if names else np.full(frame.shape[:2], -1)


class SemanticMap(Role):
    """Each class in its region's colour, on black."""

    name, title = "semanticmap", "class map"
    nearest = True
    annotation = "segmentation"
    region_word = "mask"
    measure = "classes"

    def render(self, truth: Truth, rng: np.random.Generator) -> Made | None:
        if truth.classes is None:
            return None
        present = [truth.labels[c] for c in np.unique(truth.classes) if c in truth.labels]
        regions = [(truth.colors[label], label) for label in present if label in truth.colors]
        index = {label: c for c, label in truth.labels.items()}
        painted = {index[label]: color for color, label in regions}
        picture = paint_semantic(truth.classes, painted)
        return Made(picture, tuple(regions), {"regions": regions, "painted": painted})

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """(H, W) integers: the place in known["regions"] of each pixel's class; −1: none."""
        return region_index(np.asarray(frame), self.need(known, "regions"))


class BoundingBoxes(Role):
    """Box outlines in their region's colour, on black."""

    name, title = "boundingbox", "picture of bounding boxes"
    annotation = "boxes"
    nearest = True
    region_word = "boundingbox"
    measure = "painted"

    def render(self, truth: Truth, rng: np.random.Generator) -> Made | None:
        if truth.classes is None:
            return None
        boxes = [(label, box) for label, box in truth.boxes if label in truth.colors]
        names = [truth.colors[label] for label, _ in boxes]
        height, width = truth.image.shape[:2]
        picture = paint_boxes(height, width, [box for _, box in boxes], names)
        regions = [(truth.colors[label], label) for label in dict.fromkeys(dict(boxes))]
        return Made(picture, tuple(regions), {"regions": regions, "boxes": boxes})

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> list[tuple[int, np.ndarray]]:
        """The boxes as (place in known["regions"], (x0, y0, x1, y1) in pixels), largest first.

        Outlines of one colour that touch are read as one box.
        """
        index = region_index(np.asarray(frame), self.need(known, "regions"))
        line = max(2, round(BOX_LINE * min(index.shape)))
        found = []
        for place in range(len(known["regions"])):
            mask = (index == place).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            for x, y, width, height, _ in stats[1:]:  # the first one is the background
                if min(width, height) > line:  # a box has an inside
                    found.append((place, np.array([x, y, x + width, y + height])))
        return sorted(found, key=lambda item: -np.prod(item[1][2:] - item[1][:2]))
