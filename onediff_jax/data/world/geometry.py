"""A scene's solids as flat arrays, and their projection to screen coordinates.

Both the camera's rays and the sun's rays on the floor are written X = r e + G w, with w = (1, u,
v) the screen coordinates, e (4,) a point (the eye, or the sun at infinity) and r the position
along the ray. The camera's r is the inverse z-depth. A quadric bounds r by m.w ± sqrt(w'Kw), a
plane by m.w, so a convex part is an interval in r.
"""

from dataclasses import dataclass

import numpy as np

from onediff_jax.data.world.palette import MATERIALS

# The floor darkens around a thing out to this many times its radius.
CONTACT = 1.6


@dataclass(frozen=True)
class Geometry:
    """All parts of a scene, in the world.

    Surface ids: quadric i -> i, plane j -> Q + j, floor or sky -> -1. parts: (quadric or -1,
    first plane, last plane + 1, open, casts a shadow) per part. duals: those of the parts, then
    one disc on the floor around each object; dual_starts: the first of each part and disc;
    solid_duals: how many belong to parts. Tables by surface id, the last row standing for the
    floor: owner (S,) instance; look (6,S) RGB in 0..1 and Material's soft, sharp, mirror;
    textured (S,) whether the thing's texture shows there; gradient (9,S), the normal at p being
    [[0,1,2],[1,3,4],[2,4,5]] p + [6,7,8].
    """

    quads: np.ndarray
    planes: np.ndarray
    duals: np.ndarray
    dual_starts: np.ndarray
    solid_duals: int
    parts: list
    owner: np.ndarray
    look: np.ndarray
    gradient: np.ndarray
    textured: np.ndarray
    mirrors: bool

    @staticmethod
    def of(scene) -> "Geometry":
        shapes = [thing.shape for thing in scene.objects]
        quads = np.concatenate([np.zeros((0, 4, 4)), *(s.quads for s in shapes)])
        planes = np.concatenate([np.zeros((0, 4)), *(s.planes for s in shapes)])
        discs = _discs(scene.objects)
        duals = np.concatenate([*(s.duals for s in shapes), discs])
        nq, total = len(quads), len(quads) + len(planes)
        owner = np.full(total + 1, -1, np.int16)
        parts, starts, q0, p0, d0 = [], [], 0, 0, 0
        quad_rows, plane_rows = [], []
        for instance, (thing, shape) in enumerate(zip(scene.objects, shapes, strict=True)):
            looks = _looks(thing)
            for quad, p, p_end, d, slot, is_open, casts in shape.parts:
                parts.append((q0 + quad if quad >= 0 else -1, p0 + p, p0 + p_end, is_open, casts))
                starts.append(d0 + d)
                plane_rows.extend([looks[slot]] * (p_end - p))
                if quad >= 0:
                    quad_rows.append(looks[slot])
            owner[q0 : q0 + len(shape.quads)] = instance
            owner[nq + p0 : nq + p0 + len(shape.planes)] = instance
            q0, p0, d0 = q0 + len(shape.quads), p0 + len(shape.planes), d0 + len(shape.duals)
        starts = np.concatenate([np.array(starts, int), d0 + np.arange(len(discs))])
        table = np.array([*quad_rows, *plane_rows, [0.0] * 7], np.float32)
        look, textured = np.ascontiguousarray(table[:, :6].T), table[:, 6] > 0
        gradient = np.zeros((9, total + 1), np.float32)
        gradient[:6, :nq] = quads[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].T
        gradient[6:, :nq] = quads[:, :3, 3].T
        gradient[6:, nq:total] = planes[:, :3].T
        mirrors = any(thing.material != "matte" for thing in scene.objects)
        return Geometry(
            quads, planes, duals, starts, d0, parts, owner, look, gradient, textured, mirrors
        )


def _looks(thing) -> dict:
    """Slot -> (red, green, blue in 0..1, soft, sharp, mirror, textured).

    Only what has the thing's own colour has its material, and its texture.
    """
    material = MATERIALS[thing.material]
    answer = (material.soft, material.sharp, material.mirror)
    looks = {}
    for slot, (red, green, blue) in thing.colors().items():
        own = answer if slot in ("main", "shade") else (0.0, 0.0, 0.0)
        textured = float(slot == "main" and thing.texture != "plain")
        looks[slot] = (red / 255, green / 255, blue / 255, *own, textured)
    return looks


def _discs(objects) -> np.ndarray:
    """Dual quadrics (N,4,4) of the discs on the floor that things darken."""
    centers = np.array([[*thing.position, 1.0] for thing in objects]).reshape(-1, 4)
    duals = centers[:, :, None] * centers[:, None, :]
    reach = np.array([(CONTACT * thing.radius) ** 2 for thing in objects])
    duals[:, 0, 0] -= reach
    duals[:, 1, 1] -= reach
    return duals


@dataclass(frozen=True)
class Bounds:
    """Bounds in r over a grid of screen coordinates, separated in rows and columns, float32.

    Quadrics: roots (Q,h) + (Q,h)*u + (Q,w) under the square root, centres (Q,h) + (Q,w), inside
    (Q,) whether the eye is inside. Planes: (P,h) + (P,w), front (P,) whether the plane bounds r
    from above.
    """

    root_rows: np.ndarray
    root_slopes: np.ndarray
    root_columns: np.ndarray
    center_rows: np.ndarray
    center_columns: np.ndarray
    inside: list
    plane_rows: np.ndarray
    plane_columns: np.ndarray
    front: list


def bounds(
    geometry: Geometry, e: np.ndarray, g: np.ndarray, us: np.ndarray, vs: np.ndarray
) -> Bounds:
    """Bounds for rays X = r e + g w, e (4,), g (4,3), over columns us (w,) and rows vs (h,)."""
    f = np.float32
    towards = geometry.quads @ e
    scale = towards @ e
    scale = np.where(np.abs(scale) < 1e-9, 1e-9, scale)
    b = (towards @ g) / scale[:, None]
    k = b[:, :, None] * b[:, None, :] - (g.T @ geometry.quads @ g) / scale[:, None, None]
    v = vs[None, :]
    root_rows = k[:, 0, 0, None] + v * (2 * k[:, 0, 2, None] + v * k[:, 2, 2, None])
    root_slopes = 2 * (k[:, 0, 1, None] + v * k[:, 1, 2, None])
    root_columns = k[:, 1, 1, None] * (us * us)[None]
    facing = geometry.planes @ e
    facing = np.where(np.abs(facing) < 1e-9, 1e-9, facing)
    planes = (geometry.planes @ g) / -facing[:, None]
    return Bounds(
        root_rows.astype(f),
        root_slopes.astype(f),
        root_columns.astype(f),
        (-b[:, 0, None] - b[:, 2, None] * v).astype(f),
        (-b[:, 1, None] * us).astype(f),
        (scale < 0).tolist(),
        (planes[:, 0, None] + planes[:, 2, None] * v).astype(f),
        (planes[:, 1, None] * us).astype(f),
        (facing > 0).tolist(),
    )


def rectangles(
    duals: np.ndarray, starts: np.ndarray, view: np.ndarray, us: np.ndarray, vs: np.ndarray
) -> list:
    """Grid rectangles (row, row end, column, column end) around groups of dual quadrics (B,4,4).

    starts (N,) is the first dual of each group; view (3,4) maps the world to camera (X, Y, Z).
    """
    if not len(starts):
        return []
    c = view @ duals @ view.T
    zz = c[:, 2, 2]
    behind = zz <= 1e-6
    zz = np.where(behind, 1.0, zz)
    limits = []
    for axis in (0, 1):
        cross, own = c[:, axis, 2], c[:, axis, axis]
        spread = np.sqrt(np.maximum(cross * cross - zz * own, 0.0))
        low, high = (cross - spread) / zz, (cross + spread) / zz
        low, high = np.where(behind, -9.0, low), np.where(behind, 9.0, high)
        limits.append(np.minimum.reduceat(low, starts))
        limits.append(np.maximum.reduceat(high, starts))
    columns = np.searchsorted(us, limits[0]), np.searchsorted(us, limits[1], side="right")
    rows = np.searchsorted(-vs, -limits[3]), np.searchsorted(-vs, -limits[2], side="right")
    return np.stack([*rows, *columns], 1).tolist()
