"""A jointed human-like figure: who it is (Identity), what it does (POSES), its joints and its
solid parts.

Body frame: x forward, y to the figure's left, z up, about one unit tall, standing on z = 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onediff_jax.data.world.palette import HAIR, PALETTE, SKIN, TROUSERS
from onediff_jax.data.world.poses import POSES
from onediff_jax.data.world.shapes import Part, Shape, ellipsoid_quadrics, frustum_quadrics

HAIR_STYLES = ("short", "long", "bun", "tails", "bald", "hat")


@dataclass(frozen=True)
class Identity:
    """Everything that stays the same when the same person appears in another scene."""

    skin: str
    hair: str
    hair_style: str
    shirt: str
    trousers: str
    bottom: str
    sleeves: str
    shoes: str
    height: float
    build: float


def random_identity(rng: np.random.Generator) -> Identity:
    """Draws a person; the shirt never has the trousers' colour name."""
    d = rng.random(10).tolist()

    def pick(u, options):
        return list(options)[int(u * len(options))]

    shirt = pick(d[3], PALETTE)
    return Identity(
        skin=pick(d[0], SKIN),
        hair=pick(d[1], HAIR),
        hair_style=pick(d[2], HAIR_STYLES),
        shirt=shirt,
        trousers=pick(d[4], [name for name in TROUSERS if name != shirt]),
        bottom=pick(d[5], ("trousers", "trousers", "shorts", "skirt")),
        sleeves=pick(d[6], ("long", "short")),
        shoes=pick(d[7], ("dark", "white", "red", "brown")),
        height=round(0.94 + 0.12 * d[8], 3),
        build=round(0.88 + 0.34 * d[9], 3),
    )


@dataclass(frozen=True)
class Figure:
    """A person in a scene. position is the point of the floor it stands on; yaw in degrees, 0
    faces +x; size its height.
    """

    identity: Identity
    pose: str
    position: tuple[float, float, float]
    yaw: float
    size: float
    sway: tuple[float, ...]
    mirrored: bool = False
    kind: str = "person"
    material: str = "matte"
    texture: str = "plain"
    size_name: str = ""

    @property
    def label(self) -> str:
        return self.kind

    @property
    def color_name(self) -> str:
        return self.identity.shirt

    @property
    def action(self) -> str:
        return POSES[self.pose][0]

    @property
    def radius(self) -> float:
        return 0.26 * self.size

    @property
    def height(self) -> float:
        return self.size * self.top

    @cached_property
    def joints(self) -> dict:
        """Points of the body frame by name: pelvis, head, and per side (0 left, 1 right) the four
        limbs' joints.
        """
        _, arms, legs = POSES[self.pose]
        directions = np.array(arms + legs, float).reshape(4, 2, 3)
        if self.mirrored:
            directions = directions[[1, 0, 3, 2]] * [1, -1, 1]
        directions = directions + np.asarray(self.sway).reshape(4, 2, 3)
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        width = self.identity.build
        roots = np.array([[0, 0.148 * width, 0.27], [0, -0.148 * width, 0.27]])
        hips = np.array([[0, 0.062 * width, -0.01], [0, -0.062 * width, -0.01]])
        roots = np.concatenate([roots, hips])
        middles = roots + directions[:, 0] * [[0.165], [0.165], [0.235], [0.235]]
        ends = middles + directions[:, 1] * [[0.155], [0.155], [0.23], [0.23]]
        lowest = min(ends[2:, 2].min() - 0.045, middles[2:, 2].min() - 0.05, -0.085)
        lift = np.array([0, 0, -lowest])
        head = lift + (0, 0, 0.52)
        return {
            "head": head,
            "roots": roots + lift,
            "middles": middles + lift,
            "ends": ends + lift,
            "pelvis": lift,
        }

    @property
    def top(self) -> float:
        """Height of the highest point above the floor, in units of size."""
        j = self.joints
        highest = max(j["pelvis"][2] + 0.53, j["ends"][:, 2].max() + 0.05)
        return self.identity.height * float(highest)

    @cached_property
    def affine(self) -> np.ndarray:
        """Body frame to world (4,4)."""
        c, s = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        scale = self.size * self.identity.height
        out = np.eye(4)
        out[:3, :3] = scale * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        out[:3, 3] = self.position
        return out

    @cached_property
    def keypoints(self) -> np.ndarray:
        """World positions (17,3) of KEYPOINTS."""
        j = self.joints
        face = np.array(
            [
                (0.088, 0, 0.4),
                (0.075, 0.03, 0.425),
                (0.075, -0.03, 0.425),
                (0, 0.074, 0.41),
                (0, -0.074, 0.41),
            ]
        )
        limbs = [
            np.stack([j[k][i], j[k][i + 1]]) for i in (0, 2) for k in ("roots", "middles", "ends")
        ]
        points = np.concatenate([face + j["pelvis"], *limbs])
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    @property
    def _skirt_hangs(self) -> bool:
        """A skirt is a cone on a standing figure; on one that sits or kneels it lies on the
        thighs.
        """
        j = self.joints
        return self.identity.bottom == "skirt" and bool(
            j["middles"][2:, 2].mean() < j["pelvis"][2] - 0.17
        )

    def colors(self) -> dict:
        """Slot of a part -> RGB bytes."""
        who = self.identity
        return {
            "skin": SKIN[who.skin],
            "hair": HAIR[who.hair],
            "shirt": PALETTE[who.shirt],
            "trousers": TROUSERS[who.trousers],
            "shoes": TROUSERS[who.shoes],
            "sleeve": PALETTE[who.shirt] if who.sleeves == "long" else SKIN[who.skin],
            "shin": TROUSERS[who.trousers] if who.bottom == "trousers" else SKIN[who.skin],
            "thigh": SKIN[who.skin] if self._skirt_hangs else TROUSERS[who.trousers],
            "hat": TROUSERS[who.shoes],
            "white": (244, 242, 238),
            "eye": (28, 26, 30),
            "mouth": (168, 62, 62),
        }

    @cached_property
    def shape(self) -> Shape:
        """The solid parts, in the world."""
        balls, bars = _trunk(self.identity)
        j = self.joints
        p, width = j["pelvis"], self.identity.build
        balls = [(p + center, radii, slot, casts) for center, radii, slot, casts in balls]
        bars = [(p + a, p + b, *rest) for a, b, *rest in bars]
        for i in range(4):
            arm = i < 2
            root, middle, end = (j[k][i] for k in ("roots", "middles", "ends"))
            thick = (0.039, 0.032, 0.027) if arm else (0.062, 0.047, 0.036)
            r0, r1, r2 = (r * (0.5 + 0.5 * width) for r in thick)
            upper, lower = ("shirt", "sleeve") if arm else ("thigh", "shin")
            bars += [(root, middle, r0, r1, upper, 1), (middle, end, r1, r2, lower, 1)]
            hip = upper if arm else "trousers"
            balls += [(root, (r0,) * 3, hip, False), (middle, (r1,) * 3, lower, False)]
            if arm:
                balls.append((end + 0.12 * (end - middle), (0.036,) * 3, "skin", True))
            else:
                balls.append((end + (0.03, 0, -0.012), (0.072, 0.036, 0.033), "shoes", True))
        if self._skirt_hangs:
            knees = (j["middles"][2] + j["middles"][3]) / 2
            hem = p + 0.85 * (knees - p)
            bars.append((p + (0, 0, 0.07), hem, 0.1 * width, 0.155 * width, "trousers", 1))
        return _solid(balls, bars).moved(self.affine)


def _trunk(who: Identity) -> tuple[list, list]:
    """Torso, head, face and hair, relative to the pelvis.

    Returns balls (centre, radii, slot, casts a shadow) and bars (end, end, radius, radius, slot,
    flatness along x).
    """
    w = who.build
    balls = [
        ((0, 0, 0.25), (0.078 * w, 0.138 * w, 0.05), "shirt", True),
        ((0, 0, 0.0), (0.076 * w, 0.11 * w, 0.085), "trousers", True),
        ((0, 0, 0.415), (0.079, 0.074, 0.094), "skin", True),
        ((0.081, 0, 0.4), (0.015, 0.013, 0.016), "skin", False),
        ((0.069, 0, 0.365), (0.01, 0.026, 0.008), "mouth", False),
    ]
    for y in (0.031, -0.031):
        balls.append(((0.065, y, 0.43), (0.012, 0.02, 0.017), "white", False))
        balls.append(((0.0745, y, 0.43), (0.008, 0.01, 0.0125), "eye", False))
    bars = [
        ((0, 0, 0.02), (0, 0, 0.25), 0.095 * w, 0.135 * w, "shirt", 0.62),
        ((0, 0, 0.27), (0, 0, 0.36), 0.036, 0.033, "skin", 1),
    ]
    style = who.hair_style
    if style != "bald":
        balls.append(((-0.022, 0, 0.44), (0.083, 0.084, 0.09), "hair", True))
    if style == "long":
        balls.append(((-0.05, 0, 0.345), (0.048, 0.088, 0.135), "hair", True))
    if style == "bun":
        balls.append(((-0.05, 0, 0.54), (0.045, 0.045, 0.045), "hair", True))
    if style == "tails":
        balls += [((-0.02, y, 0.36), (0.034, 0.032, 0.08), "hair", True) for y in (0.098, -0.098)]
    if style == "hat":
        bars.append(((-0.008, 0, 0.465), (-0.008, 0, 0.479), 0.14, 0.135, "hat", 1))
        bars.append(((-0.008, 0, 0.475), (-0.008, 0, 0.55), 0.086, 0.07, "hat", 1))
    return balls, bars


# Bars whose ends show; all others are open: their ends hide in balls.
_CLOSED = ("trousers", "hat")


def _solid(balls: list, bars: list) -> Shape:
    """One Shape of all balls and bars."""
    n, m = len(balls), len(bars)
    centers, radii = (np.array([ball[k] for ball in balls], float) for k in (0, 1))
    quads, duals = ellipsoid_quadrics(centers, np.broadcast_to(np.eye(3), (n, 3, 3)), radii)
    a, b, ra, rb, flat = (np.array([bar[k] for bar in bars], float) for k in (0, 1, 2, 3, 5))
    more, planes, more_duals = frustum_quadrics(a, b, ra, rb)
    # Flat bars are round ones squeezed along x, about x = 0.
    squeeze = np.ones((m, 4))
    squeeze[:, 0] = flat
    more /= squeeze[:, :, None] * squeeze[:, None, :]
    planes /= squeeze[:, None]
    more_duals *= (squeeze[:, :, None] * squeeze[:, None, :])[:, None]
    parts = [Part(i, 0, 0, i, slot, False, casts) for i, (*_, slot, casts) in enumerate(balls)]
    for i, (*_, slot, _) in enumerate(bars):
        parts.append(Part(n + i, 2 * i, 2 * i + 2, n + 2 * i, slot, slot not in _CLOSED))
    return Shape(
        np.concatenate([quads, more]),
        planes.reshape(-1, 4),
        np.concatenate([duals, more_duals.reshape(-1, 4, 4)]),
        tuple(parts),
    )
