"""Condition pictures that people have already: depth maps, class maps, edges, poses."""

import dataclasses
from typing import Any

import numpy as np

from onediff_jax.data.sources.base import BadData
from onediff_jax.data.sources.images import ImageReader
from onediff_jax.data.sources.labels import ClassList, choose_colors
from onediff_jax.tasks.depth import Normalisation, depth_image
from onediff_jax.tasks.regions import paint_semantic

# Two pictures belong together when their aspect ratios differ by less than this (rounded sizes).
_ASPECT_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition as a picture (H, W, 3) uint8, and what the record keeps with it."""

    image: np.ndarray
    regions: tuple[tuple[str, str], ...] = ()
    depth_norm: dict[str, Any] | None = None
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ConditionReader:
    """Reads the condition file of a pair.

    Attributes:
      classes: what the numbers (or colours) of class maps mean; None: class maps are painted in
        allowed colours already.
      depth_scale: metres per unit of 16-bit depth files (0.001: millimetres) and of .npy files
        that hold integers; floats in .npy files are metres.
      depth_near, depth_far: metres, the range that grey covers; None: each map's own extremes.
      depth_kind: "inverse" or "linear", see tasks.depth.Normalisation.
      images: how pictures are decoded.

    Raises:
      ValueError: a depth scale or range that is not positive, or an unknown kind.
    """

    classes: ClassList | None = None
    depth_scale: float = 0.001
    depth_near: float | None = None
    depth_far: float | None = None
    depth_kind: str = "inverse"
    images: ImageReader = dataclasses.field(default_factory=ImageReader)

    def __post_init__(self):
        if not self.depth_scale > 0:
            raise ValueError(f"depth_scale={self.depth_scale} must be positive")
        near = 1e-3 if self.depth_near is None else self.depth_near
        far = max(near, 1e3) if self.depth_far is None else self.depth_far
        Normalisation(near, far, self.depth_kind)  # raises for what it cannot be

    def read(self, role: str, data: bytes, size: tuple[int, int] | None, key: str) -> Condition:
        """The condition of a role from the bytes of its file.

        Args:
          size: (height, width) of the target, whose aspect ratio the condition must have; None:
            there is no target.
          key: of the record; decides the colours of class maps.

        Raises:
          BadData: with the reason.
        """
        if role == "depth":
            condition = self._depth(data)
        elif role == "semanticmap" and self.classes is not None:
            condition = self._class_map(data, key)
        elif role == "semanticmap":
            condition = Condition(self._painted(data))
        else:
            condition = Condition(self.images.decode(data))
        if size is not None:
            check_aspect(condition.image.shape[:2], size)
        return condition

    def _depth(self, data: bytes) -> Condition:
        values, palette = self.images.values(data)
        if values.ndim == 3 or palette is not None or values.dtype == np.uint8:
            # Eight bits cannot be metres: the file is a depth picture, white = near, as it is.
            return Condition(self.images.decode(data))
        metres = values.astype(np.float32)
        if values.dtype.kind != "f":
            metres *= self.depth_scale
        try:
            image, norm = depth_image(
                metres, near=self.depth_near, far=self.depth_far, kind=self.depth_kind
            )
        except ValueError as error:
            raise BadData("bad_labels", f"depth: {error}") from None
        return Condition(image, depth_norm=dataclasses.asdict(norm))

    def _painted(self, data: bytes) -> np.ndarray:
        """A map that is painted already; raises BadData for one of class numbers: without the list
        nothing tells what they are, and as colours they are nearly black."""
        values, palette = self.images.values(data)
        if values.ndim == 2 and palette is None and values.any():
            raise BadData(
                "bad_labels",
                f"a map of the class numbers {values.min():g}…{values.max():g} needs their class "
                "list (classes); without one a map is painted in allowed colours",
            )
        return self.images.decode(data)

    def _class_map(self, data: bytes, key: str) -> Condition:
        values, _ = self.images.values(data)
        assert self.classes is not None  # class maps are read where there is a list
        if values.ndim == 3:
            values = self.classes.indices(values)
        if values.dtype.kind == "f":
            raise BadData("bad_labels", "a class map must hold integers")
        labels = self.classes.labels(values)
        chosen, left_out = choose_colors(list(labels), key)
        painted = {index: color for label, color in chosen.items() for index in labels[label]}
        regions = tuple((color, label) for label, color in chosen.items())
        extras = {"labels_left_out": left_out} if left_out else {}
        return Condition(paint_semantic(values, painted), regions, extras=extras)


def check_aspect(size: tuple[int, int], target: tuple[float, float]) -> None:
    """Raises BadData ("size_mismatch") unless two (height, width) have about the same shape."""
    ratio = size[0] * target[1] / (size[1] * target[0])
    if abs(ratio - 1) > _ASPECT_TOLERANCE:
        raise BadData("size_mismatch", f"{size[1]}x{size[0]} for {target[1]:g}x{target[0]:g}")
