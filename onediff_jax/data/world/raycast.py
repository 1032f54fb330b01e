"""The depth pass and the sun's shadows: nearest surface along each ray, and how much solid lies
towards the sun.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onediff_jax.data.world.geometry import Bounds, Geometry, bounds, rectangles

# Inverse depths up to this are sky: the floor ends 10,000 units away.
SKY = 1e-4


@dataclass(frozen=True)
class Rays:
    """A grid of camera rays: u (w,) to the right and v (h,) up, both per unit of z-depth; camera
    vectors (3,).
    """

    us: np.ndarray
    vs: np.ndarray
    position: np.ndarray
    right: np.ndarray
    up: np.ndarray
    ahead: np.ndarray

    @staticmethod
    def of(camera, height: int, width: int, halves: bool) -> "Rays":
        """Rays through pixel centres; with halves also half-way between and around them: (2H + 1,
        2W + 1).
        """
        scale = 1.0 / (camera.focal * min(height, width))
        if halves:
            us = (np.arange(2 * width + 1) - width) * (0.5 * scale)
            vs = (height - np.arange(2 * height + 1)) * (0.5 * scale)
        else:
            us = (np.arange(width) + 0.5 - width / 2) * scale
            vs = (height / 2 - np.arange(height) - 0.5) * scale
        return Rays(us, vs, *camera.frame)

    @cached_property
    def view(self) -> np.ndarray:
        """World (homogeneous) to camera X right, Y up, Z ahead: (3,4)."""
        axes = np.stack([self.right, self.up, self.ahead])
        return np.concatenate([axes, -(axes @ self.position)[:, None]], 1)

    @cached_property
    def directions(self) -> np.ndarray:
        """(4,3): directions @ (1, u, v) is the ray's direction at unit z-depth."""
        out = np.zeros((4, 3))
        out[:3, 0], out[:3, 1], out[:3, 2] = self.ahead, self.right, self.up
        return out

    def floor(self, floor_z: float) -> np.ndarray:
        """Coefficients (3,) of the floor's inverse depth over (1, u, v); the u term is zero: the
        camera does not roll.
        """
        return np.array([self.ahead[2], self.right[2], self.up[2]]) / (floor_z - self.position[2])


def cast(geometry: Geometry, rays: Rays, floor_z: float) -> tuple[np.ndarray, np.ndarray]:
    """Inverse z-depth (h,w) float32, 0 for sky, and surface id (h,w) int16, -1 for floor or sky."""
    floor = rays.floor(floor_z)
    rows = np.maximum(floor[0] + floor[2] * rays.vs, 0.0).astype(np.float32)
    inverse = np.repeat(rows[:, None], len(rays.us), 1)
    surface = np.full(inverse.shape, -1, np.int16)
    eye = np.append(rays.position, 1.0)
    limits = bounds(geometry, eye, rays.directions, rays.us, rays.vs)
    us, first_plane = rays.us.astype(np.float32), len(geometry.quads)
    with np.errstate(invalid="ignore"):
        count = len(geometry.parts)
        duals, starts = geometry.duals[: geometry.solid_duals], geometry.dual_starts[:count]
        boxes = rectangles(duals, starts, rays.view, rays.us, rays.vs)
        for part, (r0, r1, c0, c1) in zip(geometry.parts, boxes, strict=True):
            if r0 >= r1 or c0 >= c1:
                continue
            box = (slice(r0, r1), slice(c0, c1))
            near, ids, valid = _nearest(limits, part, box, us, first_plane)
            target = inverse[box]
            hit = near > target
            if valid is not None:
                hit &= valid
            np.copyto(target, near, where=hit)
            np.copyto(surface[box], ids, where=hit)
    return inverse, surface


def _quadric(limits: Bounds, i: int, rows: slice, columns: slice, us: np.ndarray):
    """Centre of the interval and the square of its half length."""
    root = limits.root_slopes[i, rows, None] * us[columns]
    root += limits.root_rows[i, rows, None]
    root += limits.root_columns[i, columns]
    return limits.center_rows[i, rows, None] + limits.center_columns[i, columns], root


def _nearest(limits: Bounds, part: tuple, box: tuple, us: np.ndarray, first_plane: int):
    """Where rays enter a part: r, surface ids, and where that is valid (None: wherever r is a
    number).
    """
    quad, p0, p1, is_open, _ = part
    rows, columns = box
    near: Any = None
    far: Any = None
    ids: Any = None
    if quad >= 0:
        center, root = _quadric(limits, quad, rows, columns, us)
        np.sqrt(root, out=root)
        if p0 == p1:
            center += root
            return center, quad, None
        if limits.inside[quad]:
            far = center + root
        else:
            near, ids = center + root, quad
            if not is_open:
                far = np.subtract(center, root, out=root)
    valid = None
    for j in range(p0, p1):
        plane = limits.plane_rows[j, rows, None] + limits.plane_columns[j, columns]
        if is_open and near is not None:
            inside = near <= plane if limits.front[j] else near >= plane
            valid = inside if valid is None else np.logical_and(valid, inside, out=valid)
        elif not limits.front[j]:
            far = plane if far is None else np.maximum(far, plane, out=far)
        elif near is None:
            near, ids = plane, first_plane + j
        else:
            ids = np.where(plane < near, np.int16(first_plane + j), ids).astype(
                np.int16, copy=False
            )
            near = np.minimum(near, plane, out=near)
    if near is None:
        near, valid = np.zeros(far.shape, np.float32), np.zeros(far.shape, bool)
        return near, -1, valid
    if far is not None:
        valid = near > far
    return near, ids, valid


def shadows(
    geometry: Geometry, rays: Rays, floor_z: float, light: np.ndarray, vs: np.ndarray, boxes: list
) -> np.ndarray:
    """Length of solid between each floor point and the sun, (h,w) float32 in world units.

    light (4,) points at the sun, homogeneous; vs (h,) are the rows below the horizon; boxes hold
    the parts' shadows. Lengths of overlapping parts add up: the result fades the light, it is not
    a distance.
    """
    floor = rays.floor(floor_z)
    g = np.append(rays.position, 1.0)[:, None] * floor[None, :] + rays.directions
    limits = bounds(geometry, light, g, rays.us, vs)
    us = rays.us.astype(np.float32)
    inverse = (1.0 / (floor[0] + floor[2] * vs)).astype(np.float32)[:, None]
    out = np.zeros((len(vs), len(us)), np.float32)
    for part, (r0, r1, c0, c1) in zip(geometry.parts, boxes, strict=True):
        if r0 >= r1 or c0 >= c1 or not part[4] or (part[0] >= 0 and limits.inside[part[0]]):
            continue
        box = (slice(r0, r1), slice(c0, c1))
        length = _through(limits, part, box, us)
        if length is not None:
            length *= inverse[box[0]]
            out[box] += length
    return out


def _through(limits: Bounds, part: tuple, box: tuple, us: np.ndarray):
    """Length in r of rays inside a part, at least 0."""
    quad, p0, p1, _, _ = part
    rows, columns = box
    high = low = None
    if quad >= 0:
        center, root = _quadric(limits, quad, rows, columns, us)
        np.maximum(root, 0, out=root)
        np.sqrt(root, out=root)
        if p0 == p1:
            root *= 2
            return root
        high, low = center + root, np.subtract(center, root, out=root)
    for j in range(p0, p1):
        plane = limits.plane_rows[j, rows, None] + limits.plane_columns[j, columns]
        if limits.front[j]:
            high = plane if high is None else np.minimum(high, plane, out=high)
        else:
            low = plane if low is None else np.maximum(low, plane, out=low)
    if high is None or low is None:
        return None
    high -= low
    return np.maximum(high, 0, out=high)


def coverage(
    geometry: Geometry, camera, floor_z: float, count: int, side: int
) -> tuple[float, ...]:
    """Shares of a side x side picture that show sky, floor, and each of `count` objects."""
    inverse, surface = cast(geometry, Rays.of(camera, side, side, halves=False), floor_z)
    owners = geometry.owner[surface] + np.int16(2)
    owners[inverse <= SKY] = 0
    return tuple((np.bincount(owners.ravel(), minlength=count + 2) / side**2).tolist())
