"""Draws scenes: which things, where, under which sky, seen from where. Every draw comes from the
generator passed in.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from onediff_jax.data.world.figure import Figure, random_identity
from onediff_jax.data.world.palette import PALETTE
from onediff_jax.data.world.poses import POSES
from onediff_jax.data.world.scene import OrbitCamera, Scene, Thing
from onediff_jax.data.world.shapes import KINDS

# Kinds whose whole surface has one colour: the ones that take textures.
PLAIN_KINDS = ("sphere", "cube", "cylinder", "cone", "pyramid", "egg", "dome", "prism")


@dataclass(frozen=True)
class Level:
    """What a level may draw from. counts: how many things, one entry per equally likely case;
    shares in 0..1.
    """

    kinds: tuple
    counts: tuple
    materials: tuple
    textures: tuple
    texture_share: float
    floors: tuple
    skies: tuple
    poses: tuple
    sizes: tuple
    elevations: tuple


LEVELS = {
    "simple": Level(
        kinds=("sphere", "cube", "cylinder", "cone"),
        counts=(1, 1, 2, 2, 3),
        materials=("matte", "matte", "shiny", "metal"),
        textures=("striped", "dotted"),
        texture_share=0.12,
        floors=("gray", "dark", "beige", "brown"),
        skies=("clear", "gray", "sunset"),
        poses=("standing", "waving", "walking", "arms_up", "sitting"),
        sizes=(("small", 0.155, 0.175), ("", 0.2, 0.23), ("large", 0.26, 0.29)),
        elevations=(9.0, 26.0),
    ),
    "rich": Level(
        kinds=tuple(KINDS),
        counts=(1, 2, 2, 3, 3, 4, 5),
        materials=("matte", "matte", "shiny", "metal"),
        textures=("striped", "dotted", "checkered"),
        texture_share=0.4,
        floors=(
            "gray",
            "dark",
            "beige",
            "brown",
            "pink",
            "wooden",
            "tiled",
            "checkered",
            "grass",
            "sand",
            "stone",
        ),
        skies=("clear", "clear", "gray", "sunset", "dawn", "night"),
        poses=tuple(POSES),
        sizes=(("small", 0.11, 0.135), ("", 0.155, 0.185), ("large", 0.215, 0.25)),
        elevations=(8.0, 34.0),
    ),
}

# Height of the floor below the point all cameras look at, unless a figure sets it.
FLOOR_LOW = -0.24


def pick(rng: np.random.Generator, options):
    """One of the options, equally likely."""
    return options[int(rng.random() * len(options))]


def random_camera(rng: np.random.Generator, level: Level) -> OrbitCamera:
    """An azimuth anywhere, an elevation in the level's range, low ones (with sky in view) more
    likely.
    """
    a, b = rng.random(2).tolist()
    low, high = level.elevations
    return OrbitCamera(round(360 * a, 2), round(low + (high - low) * b**1.5, 2))


def random_thing(rng: np.random.Generator, level: Level, taken=(), sizes=None) -> Thing:
    """A thing at the origin, whose colour no thing in `taken` has as long as colours last."""
    d = rng.random(8).tolist()
    used = {t.color_name for t in taken}
    colors = [c for c in PALETTE if c not in used] or list(PALETTE)
    kind = level.kinds[int(d[0] * len(level.kinds))]
    texture = "plain"
    if kind in PLAIN_KINDS and d[1] < level.texture_share:
        texture = level.textures[int(d[2] * len(level.textures))]
    choices = sizes or level.sizes
    size_name, low, high = choices[int(d[3] * len(choices))]
    material = level.materials[int(d[5] * len(level.materials))]
    color = colors[int(d[6] * len(colors))]
    size = round(low + (high - low) * d[4], 4)
    return Thing(
        kind, color, material, texture, size, size_name, (0.0, 0.0, 0.0), round(360 * d[7], 1)
    )


def place(thing, others, rng: np.random.Generator, camera: OrbitCamera, floor_z: float, tries=24):
    """The thing at a free spot in view, or None when nothing is free; hides others as little as
    it can.

    Spots are drawn in camera axes (sideways, away): things stay apart in the picture, not only on
    the floor.
    """
    rx, ry = camera.frame[1][:2].tolist()
    reach = max(0.52 - thing.radius, 0.06)
    placed = [(*other.position[:2], thing.radius + other.radius) for other in others]
    best, best_gap = None, -math.inf
    for sideways, away in ((2 * rng.random((tries, 2)) - 1) * reach).tolist():
        x, y = sideways * rx - away * ry, sideways * ry + away * rx
        gap = math.inf
        for ox, oy, both in placed:
            if math.hypot(x - ox, y - oy) < both + 0.015:
                gap = -math.inf
                break
            gap = min(gap, abs((x - ox) * rx + (y - oy) * ry) - 0.9 * both)
        if gap > best_gap:
            best, best_gap = (x, y), gap
        if best_gap > 0:
            break
    if best is None:
        return None
    return moved(thing, (round(best[0], 4), round(best[1], 4), floor_z))


def moved(thing, position):
    """The same thing (or figure) elsewhere."""
    return replace(thing, position=position)


def random_figure(
    rng, level: Level, camera: OrbitCamera, extent: float, identity=None, pose=None
) -> Figure:
    """A figure near the origin, `extent` world units tall in its pose, that more or less faces
    the camera.

    Its feet are half its extent below the origin, so that whatever its pose it fills the picture.
    """
    d = rng.random(6).tolist()
    turn = 50 * (d[0] + d[1] - 1)
    who = identity or random_identity(rng)
    pose = pose or level.poses[int(d[2] * len(level.poses))]
    sway = tuple(np.round(rng.uniform(-0.1, 0.1, 24), 3).tolist())
    yaw = round(camera.azimuth_deg + turn, 1)
    mirrored = bool(d[5] < 0.5)
    spot = (round(0.12 * (d[3] - 0.5), 4), round(0.12 * (d[4] - 0.5), 4))
    trial = Figure(who, pose, (*spot, 0.0), yaw, 1.0, sway, mirrored)
    size = round(min(extent / trial.top, 1.15 * extent), 4)
    return replace(trial, position=(*spot, round(-0.5 * size * trial.top, 4)), size=size)


def random_scene(
    rng: np.random.Generator, level: Level, figure: bool | None, at_least: int = 0
) -> Scene:
    """A whole scene of `at_least` so many things and figures; figure None puts one in a quarter of
    the scenes.
    """
    camera = random_camera(rng, level)
    with_figure = bool(rng.random() < 0.25) if figure is None else figure
    person = random_figure(rng, level, camera, 0.88) if with_figure else None
    count = int(rng.random() * 3) if with_figure else pick(rng, level.counts)
    scene = compose(rng, level, camera, person, max(count, at_least - with_figure))
    while len(scene.objects) < at_least:  # no free spot was found for one
        scene = compose(rng, level, camera, person, max(count, at_least - with_figure))
    return scene


def compose(rng, level: Level, camera: OrbitCamera, person, count: int, subject=None) -> Scene:
    """A scene around a figure or a given subject, with `count` more things where they fit."""
    floor_z = person.position[2] if person else FLOOR_LOW
    standing = [person] if person else []
    sizes = level.sizes[:2] if person else (level.sizes[1:] if count < 3 else level.sizes[:2])
    if subject is not None:
        standing.append(place(subject, standing, rng, camera, floor_z))
    for _ in range(count):
        placed = place(random_thing(rng, level, standing, sizes), standing, rng, camera, floor_z)
        if placed is not None:
            standing.append(placed)
    if person:
        standing.append(standing.pop(0))
    d = rng.random(4).tolist()
    floor = level.floors[int(d[0] * len(level.floors))]
    sky = level.skies[int(d[1] * len(level.skies))]
    # The sun stands behind the camera, to its left or right, so that what is seen is lit and
    # casts a visible shadow.
    side = 1 if d[2] < 0.5 else -1
    sun = round(camera.azimuth_deg + side * (35 + 45 * d[3]), 1)
    return Scene(tuple(standing), floor, sky, floor_z, sun, camera)
