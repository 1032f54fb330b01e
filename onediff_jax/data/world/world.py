"""World: the embedded dataset. Any index at random, any resolution, the same bits in every
process.
"""

from dataclasses import replace

import numpy as np

from onediff_jax.data.world import captions, edits
from onediff_jax.data.world.figure import random_identity
from onediff_jax.data.world.layout import (
    LEVELS,
    PLAIN_KINDS,
    compose,
    pick,
    random_camera,
    random_figure,
    random_scene,
    random_thing,
)
from onediff_jax.data.world.render import View, render
from onediff_jax.data.world.scene import OrbitCamera, Scene

# The purposes of random streams: each (seed, purpose, index) has its own.
_SCENE, _FIGURE, _SUBJECT, _ORBIT = range(4)


class World:
    """Seeded procedural scenes with exact ground truth.

    level: "simple" (1-3 large plain things, learnable in minutes by a tiny model) or "rich" (more
    of everything).
    """

    def __init__(self, seed: int = 0, level: str = "simple"):
        if level not in LEVELS:
            raise ValueError(f"{level=} must be one of {', '.join(LEVELS)}")
        self.seed, self.level = int(seed), level
        self._level = LEVELS[level]

    def __repr__(self) -> str:
        return f"World(seed={self.seed}, level={self.level!r})"

    def _rng(self, purpose: int, index: int) -> np.random.Generator:
        index = int(index)
        if index < 0:
            raise ValueError(f"{index=} must be at least 0")
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence((self.seed, purpose, index)))
        )

    def scene(self, index: int, figure: bool | None = None) -> Scene:
        """Scene number `index` >= 0. figure: True or False forces one in or out, None puts one in
        a quarter of them.
        """
        return random_scene(self._rng(_SCENE, index), self._level, figure)

    def render(
        self, scene: Scene, height: int, width: int, camera: OrbitCamera | None = None
    ) -> View:
        """The scene from its own camera, or another, at any size in pixels. View says what comes
        back.
        """
        return render(scene, camera or scene.camera, int(height), int(width))

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """At most 24 words about what the scene's own camera sees."""
        return captions.caption(scene, rng)

    def figure_caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """What the figure of a scene does and where, not who it is."""
        if scene.figure is None:
            raise ValueError("figure_caption needs a scene with a figure")
        return captions.figure_caption(scene, rng)

    def edited(self, scene: Scene, rng: np.random.Generator) -> tuple[Scene, str]:
        """A twin with the same camera and one visible change, and the instruction that says it."""
        return edits.edited(scene, rng, self._level)

    def figure_scenes(self, index: int, count: int) -> list[Scene]:
        """`count` scenes with one and the same person, large in the picture: other poses, places
        and viewpoints.
        """
        rng = self._rng(_FIGURE, index)
        who = random_identity(rng)
        poses = rng.permutation(len(self._level.poses))
        scenes = []
        for i in range(count):
            camera = random_camera(rng, self._level)
            pose = self._level.poses[poses[i % len(poses)]]
            camera = replace(camera, elevation_deg=min(camera.elevation_deg, 20.0))
            person = random_figure(rng, self._level, camera, 1.0, who, pose)
            things = int(rng.random() * 2)
            scenes.append(compose(rng, self._level, camera, person, things))
        return scenes

    def subject_scenes(self, index: int, count: int) -> tuple[str, list[Scene]]:
        """A name such as "striped red cube" and `count` scenes with that very thing first among
        others.
        """
        rng = self._rng(_SUBJECT, index)
        level = self._level
        thing = random_thing(rng, level, sizes=level.sizes[1:])
        if thing.kind in PLAIN_KINDS:
            thing = replace(thing, texture=pick(rng, ("plain", *level.textures)))
        texture = "" if thing.texture == "plain" else thing.texture + " "
        scenes = []
        for _ in range(count):
            camera = random_camera(rng, level)
            turned = replace(thing, yaw=round(360 * rng.random(), 1))
            count = int(rng.random() * 3)
            alone = compose(rng, level, camera, None, 0, turned)
            scene = compose(rng, level, camera, None, count, turned)
            hidden = scene.visible[0] < 0.6 * alone.visible[0]
            scenes.append(alone if hidden else scene)
        return f"{texture}{thing.color_name} {thing.kind}", scenes

    def orbit(self, scene: Scene, azimuths, elevations) -> list[OrbitCamera]:
        """Cameras about a scene at azimuths and elevations in degrees (world angles), at its
        camera's distance.
        """
        if len(azimuths) != len(elevations):
            raise ValueError(f"{len(azimuths)=} must equal {len(elevations)=}")
        own = scene.camera
        return [
            OrbitCamera(float(a), float(e), own.distance, own.focal)
            for a, e in zip(azimuths, elevations, strict=True)
        ]

    def orbit_views(self, index: int, count: int) -> tuple[Scene, list[OrbitCamera]]:
        """A scene of two things or more and `count` cameras on one orbit about it, the scene's own
        first, spread 20 to 360 degrees. A single thing would look the same from everywhere.
        """
        rng = self._rng(_ORBIT, index)
        scene = random_scene(rng, self._level, None, at_least=2)
        own = scene.camera
        span = pick(rng, (60.0, 120.0, 180.0, 360.0))
        steps = np.arange(count) * span / max(count, 1) * (1 if rng.random() < 0.5 else -1)
        azimuths = own.azimuth_deg + steps
        low, high = self._level.elevations
        wobble = rng.uniform(-6, 6, count) * (np.arange(count) > 0)
        elevations = np.clip(own.elevation_deg + wobble, low, high)
        return scene, self.orbit(scene, np.round(azimuths, 2), np.round(elevations, 2))
