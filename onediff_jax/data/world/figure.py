"""A jointed human-like figure: who it is (Identity), what it does (POSES), its joints and its solid parts.

Body frame: x forward, y to the figure's left, z up, about one unit tall, standing on z = 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onediff_jax.data.world.palette import HAIR, PALETTE, SKIN, TROUSERS
from onediff_jax.data.world.shapes import Shape, ellipsoid_quadrics, frustum_quadrics

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

# How deep under the skin each keypoint lies, in body units: a keypoint nearer to the visible surface than this is seen.
KEYPOINT_DEPTH = np.array(
    [0.04] * 3 + [0.06] * 2 + [0.09] * 2 + [0.06] * 4 + [0.13] * 2 + [0.08] * 4
)

# pose -> (what a caption says, then directions of upper and lower left arm, right arm, left leg, right leg)
POSES = {
    "standing": (
        "standing",
        ((0.05, 0.28, -1), (0.18, 0.08, -1), (0.05, -0.28, -1), (0.18, -0.08, -1)),
        ((0, 0.1, -1), (0, 0.05, -1), (0, -0.1, -1), (0, -0.05, -1)),
    ),
    "waving": (
        "waving",
        ((0.05, 0.3, -1), (0.15, 0.1, -1), (0.1, -1, 0.45), (0.15, -0.25, 1)),
        ((0, 0.12, -1), (0, 0.05, -1), (0, -0.12, -1), (0, -0.05, -1)),
    ),
    "walking": (
        "walking",
        ((0.6, 0.2, -1), (1, 0, -0.4), (-0.6, -0.2, -1), (-0.1, -0.1, -1)),
        ((-0.5, 0.05, -1), (-0.9, 0, -1), (0.6, -0.05, -1), (0.1, 0, -1)),
    ),
    "running": (
        "running",
        ((0.9, 0.25, -0.8), (1, -0.2, 0.6), (-1, -0.25, -0.5), (0.3, -0.1, -1)),
        ((-0.75, 0.05, -1), (-1, 0, 0.15), (1, -0.05, -0.75), (-0.15, 0, -1)),
    ),
    "arms_up": (
        "raising both arms",
        ((0, 0.65, 1), (0, 0.1, 1), (0, -0.65, 1), (0, -0.1, 1)),
        ((0, 0.25, -1), (0, 0.15, -1), (0, -0.25, -1), (0, -0.15, -1)),
    ),
    "arms_out": (
        "stretching out both arms",
        ((0, 1, 0.02), (0, 1, 0), (0, -1, 0.02), (0, -1, 0)),
        ((0, 0.2, -1), (0, 0.12, -1), (0, -0.2, -1), (0, -0.12, -1)),
    ),
    "sitting": (
        "sitting on the ground",
        ((0.45, 0.35, -1), (0.9, 0, -0.25), (0.45, -0.35, -1), (0.9, 0, -0.25)),
        ((1, 0.3, 0.55), (0.5, 0.05, -1), (1, -0.3, 0.55), (0.5, -0.05, -1)),
    ),
    "kneeling": (
        "kneeling",
        ((0.2, 0.3, -1), (0.7, -0.1, -0.7), (0.2, -0.3, -1), (0.7, 0.1, -0.7)),
        ((0.2, 0.15, -1), (-1, 0, -0.12), (1, -0.15, -0.05), (0, 0, -1)),
    ),
    "pointing": (
        "pointing to one side",
        ((0.15, 1, 0.1), (0.15, 1, 0.1), (0.05, -0.3, -1), (0.15, -0.1, -1)),
        ((0, 0.12, -1), (0, 0.06, -1), (0, -0.12, -1), (0, -0.06, -1)),
    ),
    "hands_on_hips": (
        "standing with hands on hips",
        ((-0.1, 0.95, -0.85), (0.25, -1, -0.7), (-0.1, -0.95, -0.85), (0.25, 1, -0.7)),
        ((0, 0.2, -1), (0, 0.1, -1), (0, -0.2, -1), (0, -0.1, -1)),
    ),
    "kicking": (
        "kicking",
        ((-0.3, 0.8, -0.6), (0, 0.6, -0.3), (0.3, -0.8, -0.6), (0.3, -0.6, -0.3)),
        ((-0.1, 0.1, -1), (-0.1, 0.03, -1), (1, -0.05, -0.5), (1, 0, -0.15)),
    ),
}

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
    d = rng.random(10)

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
    """A person in a scene. position is the point of the floor it stands on; yaw in degrees, 0 faces +x; size its height."""

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
        return self.size

    @cached_property
    def joints(self) -> dict:
        """Points of the body frame by name: pelvis, head, and per side (0 left, 1 right) the four limbs' joints."""
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
        return {
            "roots": roots + lift,
            "middles": middles + lift,
            "ends": ends + lift,
            "pelvis": lift,
        }

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
            "thigh": SKIN[who.skin] if who.bottom == "skirt" else TROUSERS[who.trousers],
            "eye": (28, 26, 30),
            "mouth": (168, 62, 62),
        }

    @cached_property
    def shape(self) -> Shape:
        """The solid parts, in the world."""
        balls, bars = _trunk(self.identity), []
        j = self.joints
        p, width = j["pelvis"], self.identity.build
        for i in range(4):
            arm = i < 2
            root, middle, end = (j[k][i] for k in ("roots", "middles", "ends"))
            r = np.array((0.039, 0.032, 0.027) if arm else (0.062, 0.047, 0.036)) * (
                0.5 + 0.5 * width
            )
            upper, lower = ("shirt", "sleeve") if arm else ("thigh", "shin")
            bars += [(root, middle, r[0], r[1], upper), (middle, end, r[1], r[2], lower)]
            balls += [(root - p, (r[0],) * 3, upper), (middle - p, (r[1],) * 3, lower)]
            if arm:
                balls.append((end - p + 0.12 * (end - middle), (0.036,) * 3, "skin"))
            else:
                balls.append((end - p + (0.03, 0, -0.012), (0.072, 0.036, 0.033), "shoes"))
        bars.append((p + (0, 0, 0.25), p + (0, 0, 0.36), 0.036, 0.033, "skin"))
        if self.identity.bottom == "skirt":
            ends = (j["middles"][2] + j["middles"][3]) / 2
            bars.append(
                (p + (0, 0, 0.06), p + 0.85 * (ends - p), 0.088 * width, 0.15 * width, "trousers")
            )
        if self.identity.hair_style == "hat":
            crown = p + (-0.008, 0, 0.465)
            bars.append((crown, crown + (0, 0, 0.014), 0.14, 0.135, "trousers"))
            bars.append((crown + (0, 0, 0.01), crown + (0, 0, 0.085), 0.086, 0.07, "trousers"))
        return _solid(balls, bars, p).moved(self.affine)


def _trunk(who: Identity) -> list:
    """Torso, head, face and hair as (centre relative to the pelvis, radii, slot)."""
    w = who.build
    balls = [
        ((0, 0, 0.19), (0.082 * w, 0.135 * w, 0.145), "shirt"),
        ((0, 0, 0.09), (0.077 * w, 0.106 * w, 0.12), "shirt"),
        ((0, 0, 0.0), (0.082 * w, 0.112 * w, 0.085), "trousers"),
        ((0, 0, 0.415), (0.079, 0.074, 0.094), "skin"),
        ((0.081, 0, 0.4), (0.015, 0.013, 0.016), "skin"),
        ((0.071, 0.03, 0.428), (0.012, 0.014, 0.017), "eye"),
        ((0.071, -0.03, 0.428), (0.012, 0.014, 0.017), "eye"),
        ((0.069, 0, 0.367), (0.01, 0.026, 0.008), "mouth"),
    ]
    style = who.hair_style
    if style != "bald":
        balls.append(((-0.022, 0, 0.44), (0.083, 0.084, 0.09), "hair"))
    if style == "long":
        balls.append(((-0.05, 0, 0.345), (0.048, 0.088, 0.135), "hair"))
    if style == "bun":
        balls.append(((-0.05, 0, 0.54), (0.045, 0.045, 0.045), "hair"))
    if style == "tails":
        balls += [((-0.02, y, 0.36), (0.034, 0.032, 0.08), "hair") for y in (0.098, -0.098)]
    return balls


def _solid(balls: list, bars: list, pelvis: np.ndarray) -> Shape:
    n, m = len(balls), len(bars)
    centers = np.array([b[0] for b in balls]) + pelvis
    quads, duals = ellipsoid_quadrics(
        centers, np.broadcast_to(np.eye(3), (n, 3, 3)), np.array([b[1] for b in balls])
    )
    ends = [np.array([b[k] for b in bars]) for k in range(4)]
    more, planes, more_duals = frustum_quadrics(*ends)
    parts = [(i, 0, 0, i, i + 1, balls[i][2], False) for i in range(n)]
    closed = ("trousers",)
    parts += [
        (n + i, 2 * i, 2 * i + 2, n + 2 * i, n + 2 * i + 2, bars[i][4], bars[i][4] not in closed)
        for i in range(m)
    ]
    return Shape(
        np.concatenate([quads, more]),
        planes.reshape(-1, 4),
        np.concatenate([duals, more_duals.reshape(-1, 4, 4)]),
        tuple(parts),
    )
