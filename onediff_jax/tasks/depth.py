"""Depth maps: grey pictures in which white is near."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from onediff_jax.tasks.role import Made, Role, Truth


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """How grey stands for depth: white = near, grey 1 = far, black = nothing known (sky).

    Attributes:
      near, far: metres (or world units) at the ends; far may be infinite with kind "inverse".
      kind: "inverse", grey linear in 1 / depth (as MiDaS), or "linear", grey linear in depth.
    """

    near: float
    far: float
    kind: str = "inverse"

    def __post_init__(self):
        if self.kind not in ("inverse", "linear"):
            raise ValueError(f"unknown kind {self.kind!r}; choose from ['inverse', 'linear']")
        if not 0 < self.near <= self.far or (self.kind == "linear" and np.isinf(self.far)):
            raise ValueError(
                f"depth range needs 0 < near <= far, finite if linear, "
                f"got near={self.near}, far={self.far}, kind={self.kind}"
            )


def depth_image(
    depth: np.ndarray, *, near: float | None = None, far: float | None = None, kind: str = "inverse"
) -> tuple[np.ndarray, Normalisation]:
    """A depth map as a grey image.

    Args:
      depth: (H, W) distances along the optical axis; infinite = sky, and NaN or values <= 0 =
        unknown, become black.
      near, far: the range that grey covers, depths beyond are clipped. None: the map's own extreme.
        With a fixed range grey means the same depth in every image, so metres can be recovered
        from a generated image; with the map's own range only up to scale and shift.
      kind: see Normalisation.

    Returns:
      (H, W, 3) uint8 and the normalisation that `depth_from_image` needs.

    Raises:
      ValueError: not 2-D, no finite depth to take a missing bound from, or an empty range.
    """
    depth = np.asarray(depth, np.float32)
    if depth.ndim != 2:
        raise ValueError(f"depth must have shape (H, W), got {depth.shape}")
    valid = np.isfinite(depth) & (depth > 0)
    if near is None or far is None:
        if not valid.any():
            raise ValueError("depth has no finite positive value; give near and far")
        known = depth[valid]
        near = float(known.min()) if near is None else near
        far = float(known.max()) if far is None else far
    norm = Normalisation(near, far, kind)
    clipped = np.clip(np.where(valid, depth, norm.near), norm.near, norm.far)
    if norm.near == norm.far:
        nearness = np.ones_like(clipped)
    elif kind == "inverse":
        nearness = (1 / clipped - 1 / norm.far) / (1 / norm.near - 1 / norm.far)
    else:
        nearness = (norm.far - clipped) / (norm.far - norm.near)
    grey = np.where(valid, np.rint(1 + 254 * nearness), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1), norm


def depth_from_image(image: np.ndarray, norm: Normalisation) -> np.ndarray:
    """(H, W) float32 depth of a grey image (H, W, 3), uint8 or float in 0..255.

    Inverts `depth_image`: black is infinite. Channels are averaged, as generated ones differ.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image must have shape (H, W, 3), got {image.shape}")
    grey = image.mean(-1, dtype=np.float32)
    nearness = np.clip((grey - 1) / 254, 0, 1)
    if norm.kind == "inverse":
        inverse = 1 / norm.far + nearness * (1 / norm.near - 1 / norm.far)
        depth = 1 / np.maximum(inverse, 1e-12)
    else:
        depth = norm.far - nearness * (norm.far - norm.near)
    return np.where(grey < 0.5, np.inf, depth).astype(np.float32)


def nearness(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 in 0..1 of a grey image (H, W, 3), uint8 or float in 0..255; black is −1.

    Linear in 1 / depth or in depth, as the map was made; all that is known without its range.
    """
    grey = np.asarray(image).mean(-1, dtype=np.float32)
    return np.where(grey < 0.5, -1, np.clip((grey - 1) / 254, 0, 1)).astype(np.float32)


class Depth(Role):
    """A depth map: grey linear in 1 / depth, white near, black unknown or sky."""

    name, title = "depth", "depth map"
    grey = True
    annotation = "depth"
    measure = "depth"

    def render(self, truth: Truth, rng: np.random.Generator) -> Made | None:
        if truth.depth is None:
            return None
        near, far = truth.depth_range or (None, None)
        picture, norm = depth_image(truth.depth, near=near, far=far)
        return Made(picture, known={"depth": truth.depth, "depth_norm": norm})

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
        """(H, W) float32 depth in the units of known["depth_norm"]; infinite where it is black."""
        norm = self.need(known, "depth_norm")
        if not isinstance(norm, Normalisation):
            norm = Normalisation(**norm)
        return depth_from_image(frame, norm)
