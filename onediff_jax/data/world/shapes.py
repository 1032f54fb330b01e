"""Solids as intersections of quadrics and half-spaces, in homogeneous coordinates.

A point X = (x, y, z, 1) is inside a quadric Q (4,4) when X'QX < 0 and inside a plane p (4,) when
p.X < 0. A convex part is one optional quadric and any number of planes; a shape is a list of
parts. Both are closed under affine maps, and a ray meets a convex part in one interval that is
affine or affine ± sqrt(quadratic) in screen coordinates: that is what makes the renderer fast.
Bounds on the screen come from dual quadrics, D = cc' - S for an ellipsoid with centre c and
covariance S: a point has S = 0, a flat disc has a singular S.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """A convex solid: which quadric (-1 for none), planes and duals of its Shape, and the slot of
    its colour.

    The duals of a part end where the next part's begin. An open part shows only its quadric, its
    planes merely cut it (limbs, whose ends hide in joints).
    """

    quad: int
    first_plane: int
    end_plane: int
    first_dual: int
    slot: str
    is_open: bool = False
    casts_shadow: bool = True


@dataclass(frozen=True)
class Shape:
    """Parts in one frame: quads (Q,4,4), planes (P,4), duals (B,4,4), all in the order of the
    parts.
    """

    quads: np.ndarray
    planes: np.ndarray
    duals: np.ndarray
    parts: tuple[Part, ...]

    def moved(self, affine: np.ndarray) -> "Shape":
        """The shape under an affine map (4,4) from its frame to another."""
        inverse = np.linalg.inv(affine)
        return Shape(
            inverse.T @ self.quads @ inverse,
            self.planes @ inverse,
            affine @ self.duals @ affine.T,
            self.parts,
        )


def ellipsoid_quadrics(centers, axes, radii):
    """centers (N,3), axes (N,3,3) with unit columns, radii (N,3) -> quadrics (N,4,4), duals
    (N,4,4).
    """
    core = np.einsum("nij,nj,nkj->nik", axes, radii**-2.0, axes)
    spread = np.einsum("nij,nj,nkj->nik", axes, radii**2.0, axes)
    quads = np.empty((len(centers), 4, 4))
    pulled = np.einsum("nij,nj->ni", core, centers)
    quads[:, :3, :3] = core
    quads[:, :3, 3] = quads[:, 3, :3] = -pulled
    quads[:, 3, 3] = (pulled * centers).sum(1) - 1.0
    return quads, _duals(centers, spread)


def frustum_quadrics(a, b, ra, rb):
    """Round bars from a to b (N,3) with end radii ra, rb (N,).

    Returns quadrics (N,4,4), cutting planes (N,2,4) and the duals of both end discs (N,2,4,4).
    """
    axis = b - a
    length = np.sqrt((axis * axis).sum(1))
    axis = axis / length[:, None]
    slope = (rb - ra) / length
    outer = axis[:, :, None] * axis[:, None, :]
    core = np.eye(3) - (1 + slope**2)[:, None, None] * outer
    tilt = -(ra * slope)[:, None] * axis
    vector = tilt - np.einsum("nij,nj->ni", core, a)
    quads = np.empty((len(a), 4, 4))
    quads[:, :3, :3] = core
    quads[:, :3, 3] = quads[:, 3, :3] = vector
    quads[:, 3, 3] = ((tilt - vector) * a).sum(1) - 2 * (tilt * a).sum(1) - ra**2
    planes = np.empty((len(a), 2, 4))
    planes[:, 0, :3], planes[:, 0, 3] = -axis, (axis * a).sum(1)
    planes[:, 1, :3], planes[:, 1, 3] = axis, -(axis * b).sum(1)
    disc = np.eye(3) - outer
    ends = [_duals(p, (r**2)[:, None, None] * disc) for p, r in ((a, ra), (b, rb))]
    return quads, planes, np.stack(ends, 1)


def _duals(centers, spread):
    full = np.concatenate([centers, np.ones((len(centers), 1))], 1)
    duals = full[:, :, None] * full[:, None, :]
    duals[:, :3, :3] -= spread
    return duals


class Builder:
    """Collects parts into a Shape. A slot names the colour of a part: "main", "shade" (darker
    main) or a fixed colour.
    """

    def __init__(self):
        self.quads, self.planes, self.duals, self.parts = [], [], [], []

    def _part(self, quad, planes, duals, slot):
        index = -1
        if quad is not None:
            index = len(self.quads)
            self.quads.append(quad)
        p, d = len(self.planes), len(self.duals)
        self.planes.extend(planes)
        self.duals.extend(duals)
        self.parts.append(Part(index, p, p + len(planes), d, slot))
        return self

    def ellipsoid(self, center, radii, slot="main"):
        quads, duals = ellipsoid_quadrics(
            np.array([center], float), np.eye(3)[None], np.array([radii], float) * np.ones((1, 3))
        )
        return self._part(quads[0], [], duals, slot)

    def dome(self, center, radii, slot="main"):
        """The upper half of an ellipsoid."""
        quads, _ = ellipsoid_quadrics(
            np.array([center], float), np.eye(3)[None], np.array([radii], float)
        )
        x, y, z = radii
        corners = [(sx * x, sy * y, sz) for sx in (-1, 1) for sy in (-1, 1) for sz in (0, z)]
        points = np.array(corners) + np.asarray(center)
        return self._part(quads[0], [np.array([0, 0, -1.0, center[2]])], _points(points), slot)

    def frustum(self, a, b, ra, rb, slot="main"):
        quads, planes, duals = frustum_quadrics(
            np.array([a], float), np.array([b], float), np.array([ra], float), np.array([rb], float)
        )
        return self._part(quads[0], list(planes[0]), list(duals[0]), slot)

    def hull(self, normals, offsets, points, slot="main"):
        """A polyhedron: normals.x <= offsets, with its corner points."""
        normals = np.asarray(normals, float)
        scale = np.linalg.norm(normals, axis=1)
        planes = np.concatenate([normals, -np.asarray(offsets, float)[:, None]], 1) / scale[:, None]
        return self._part(None, list(planes), _points(np.asarray(points, float)), slot)

    def box(self, center, half, slot="main"):
        center, half = np.asarray(center, float), np.asarray(half, float) * np.ones(3)
        normals = np.concatenate([np.eye(3), -np.eye(3)])
        corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
        return self.hull(normals, normals @ center + np.tile(half, 2), corners + center, slot)

    def pyramid(self, base, half, height, slot="main"):
        """A square pyramid standing on z = base."""
        top = base + height
        normals = [
            (height, 0, half),
            (-height, 0, half),
            (0, height, half),
            (0, -height, half),
            (0, 0, -1),
        ]
        points = [
            (half, half, base),
            (half, -half, base),
            (-half, half, base),
            (-half, -half, base),
            (0, 0, top),
        ]
        return self.hull(normals, [half * top] * 4 + [-base], points, slot)

    def roof(self, base, half_x, half_y, height, slot="main"):
        """A gable roof with its ridge along x."""
        top = base + height
        normals = [(0, height, half_y), (0, -height, half_y), (1, 0, 0), (-1, 0, 0), (0, 0, -1)]
        points = [(x, y, base) for x in (-half_x, half_x) for y in (-half_y, half_y)]
        points += [(-half_x, 0, top), (half_x, 0, top)]
        return self.hull(normals, [half_y * top] * 2 + [half_x] * 2 + [-base], points, slot)

    def prism(self, sides, radius, height, slot="main"):
        angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
        normals = [(np.cos(t), np.sin(t), 0) for t in angles] + [(0, 0, 1), (0, 0, -1)]
        inner = radius * np.cos(np.pi / sides)
        corners = angles - np.pi / sides
        points = [(radius * np.cos(t), radius * np.sin(t), z) for t in corners for z in (0, height)]
        return self.hull(normals, [inner] * sides + [height, 0], points, slot)

    def build(self) -> Shape:
        quads = np.array(self.quads).reshape(-1, 4, 4)
        planes = np.array(self.planes).reshape(-1, 4)
        return Shape(quads, planes, np.array(self.duals), tuple(self.parts))


def _points(points):
    return list(_duals(points, np.zeros((len(points), 3, 3))))


def _tree(b):
    b.frustum((0, 0, 0), (0, 0, 0.7), 0.22, 0.18, "wood")
    b.frustum((0, 0, 0.55), (0, 0, 1.5), 0.85, 0.25)
    return b.frustum((0, 0, 1.25), (0, 0, 2.3), 0.66, 0.0)


def _house(b):
    b.box((0, 0, 0.5), (0.9, 0.72, 0.5), "cream")
    b.roof(1.0, 1.0, 0.88, 0.72)
    b.box((0.9, 0, 0.3), (0.03, 0.17, 0.3), "wood")
    b.box((0, 0.72, 0.55), (0.22, 0.03, 0.2), "glass")
    b.box((0, -0.72, 0.55), (0.22, 0.03, 0.2), "glass")
    return b.box((-0.45, 0.35, 1.5), (0.12, 0.12, 0.28), "wood")


def _mushroom(b):
    b.frustum((0, 0, 0), (0, 0, 0.85), 0.32, 0.24, "cream")
    return b.dome((0, 0, 0.75), (0.95, 0.95, 0.75))


def _table(b):
    b.box((0, 0, 1.05), (0.95, 0.7, 0.09))
    for x in (-0.8, 0.8):
        for y in (-0.55, 0.55):
            b.box((x, y, 0.48), (0.09, 0.09, 0.48), "shade")
    return b


def _chair(b):
    b.box((0, 0, 0.72), (0.55, 0.55, 0.08))
    b.box((-0.48, 0, 1.25), (0.07, 0.55, 0.5))
    for x in (-0.46, 0.46):
        for y in (-0.46, 0.46):
            b.box((x, y, 0.33), (0.07, 0.07, 0.33), "shade")
    return b


def _snowman(b):
    b.ellipsoid((0, 0, 0.6), 0.66).ellipsoid((0, 0, 1.42), 0.47).ellipsoid((0, 0, 2.02), 0.33)
    b.frustum((0.28, 0, 2.02), (0.68, 0, 2.0), 0.09, 0.01, "carrot")
    for y in (-0.12, 0.12):
        b.ellipsoid((0.29, y, 2.13), 0.055, "dark")
    return b.frustum((0, 0, 2.26), (0, 0, 2.62), 0.24, 0.22, "dark")


def _car(b):
    b.box((0, 0, 0.45), (1.05, 0.5, 0.24)).box((-0.12, 0, 0.85), (0.56, 0.43, 0.2), "glass")
    b.box((-0.12, 0, 1.06), (0.6, 0.46, 0.05))
    for x in (-0.62, 0.62):
        for y in (-0.5, 0.5):
            b.frustum((x, y - 0.09, 0.25), (x, y + 0.09, 0.25), 0.25, 0.25, "dark")
    return b


def _lamp(b):
    b.frustum((0, 0, 0), (0, 0, 0.12), 0.5, 0.42, "steel").frustum(
        (0, 0, 0.1), (0, 0, 1.2), 0.07, 0.07, "steel"
    )
    return b.frustum((0, 0, 1.0), (0, 0, 1.85), 0.72, 0.38)


def _cup(b):
    b.frustum((0, 0, 0), (0, 0, 1.3), 0.52, 0.68).frustum(
        (0, 0, 1.295), (0, 0, 1.305), 0.58, 0.58, "dark"
    )
    bends = [(0.62, 1.05), (0.98, 1.0), (1.05, 0.7), (0.9, 0.42), (0.58, 0.35)]
    for (x0, z0), (x1, z1) in pairwise(bends):
        b.frustum((0, x0, z0), (0, x1, z1), 0.09, 0.09).ellipsoid((0, x1, z1), 0.09)
    return b


def _rocket(b):
    b.frustum((0, 0, 0.3), (0, 0, 1.5), 0.42, 0.42).frustum(
        (0, 0, 1.5), (0, 0, 2.3), 0.42, 0.02, "shade"
    )
    b.ellipsoid((0.4, 0, 1.15), (0.08, 0.17, 0.17), "glass").frustum(
        (0, 0, 0.12), (0, 0, 0.32), 0.3, 0.38, "dark"
    )
    b.box((0, 0.55, 0.38), (0.05, 0.2, 0.38), "shade").box(
        (0, -0.55, 0.38), (0.05, 0.2, 0.38), "shade"
    )
    return b.box((0.55, 0, 0.38), (0.2, 0.05, 0.38), "shade").box(
        (-0.55, 0, 0.38), (0.2, 0.05, 0.38), "shade"
    )


# kind -> (builder, radius of the footprint, height): unit shapes stand on z = 0 about the z axis.
KINDS = {
    "sphere": (lambda b: b.ellipsoid((0, 0, 1), 1.0), 1.0, 2.0),
    "cube": (lambda b: b.box((0, 0, 0.84), 0.84), 1.19, 1.68),
    "cylinder": (lambda b: b.frustum((0, 0, 0), (0, 0, 1.9), 0.76, 0.76), 0.76, 1.9),
    "cone": (lambda b: b.frustum((0, 0, 0), (0, 0, 2.2), 0.98, 0.0), 0.98, 2.2),
    "pyramid": (lambda b: b.pyramid(0, 0.95, 1.8), 1.34, 1.8),
    "egg": (lambda b: b.ellipsoid((0, 0, 1.15), (0.82, 0.82, 1.15)), 0.82, 2.3),
    "dome": (lambda b: b.dome((0, 0, 0), (1.1, 1.1, 1.1)), 1.1, 1.1),
    "prism": (lambda b: b.prism(6, 0.95, 1.7), 0.95, 1.7),
    "tree": (_tree, 0.85, 2.3),
    "house": (_house, 1.34, 1.78),
    "mushroom": (_mushroom, 0.95, 1.5),
    "table": (_table, 1.18, 1.14),
    "chair": (_chair, 0.78, 1.75),
    "snowman": (_snowman, 0.68, 2.62),
    "car": (_car, 1.2, 1.1),
    "lamp": (_lamp, 0.72, 1.85),
    "cup": (_cup, 1.14, 1.305),
    "rocket": (_rocket, 0.76, 2.3),
}


@cache
def unit_shape(kind: str) -> Shape:
    """The unit shape of a kind; ValueError for an unknown one."""
    if kind not in KINDS:
        raise ValueError(f"{kind=} must be one of {', '.join(KINDS)}")
    return KINDS[kind][0](Builder()).build()
