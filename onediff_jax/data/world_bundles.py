"""The embedded world as training examples: every task's frames with exact ground truth."""

import dataclasses
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np

from onediff_jax.data.bundle import Bundle
from onediff_jax.data.cache import Cache
from onediff_jax.data.world import CLASSES, OrbitCamera, Scene, View, World
from onediff_jax.tasks import cameras, colors, prompts
from onediff_jax.tasks.definitions import BUILT_IN, Task, TaskSet
from onediff_jax.tasks.role import Made, Role, Truth
from onediff_jax.tasks.roles import get_role

# Raise it when the same scene starts to give other frames or another prompt.
WORLD_VERSION = 2

# The depth range that grey covers, in world units: fixed, so that a generated map is metric.
# Nothing in a scene is nearer; the floor beyond is clipped.
DEPTH_RANGE = {"near": 1.0, "far": 4.0}
_LATENT = 8  # pixels per latent
_VIEW = 2000  # bytes of Python's objects around the pixels of a view, boxes included


class WorldBundles:
    """Random access to the bundles of one task: scenes first … first + count − 1 of the world.

    Args:
      task: name in tasks.TASKS.
      sizes: (height, width) in pixels to choose from; a scene always has the same one.
      seed, level: of the world.
      first, count: which scenes.
      max_frames: room for identity and multiview bundles, whose length varies.
      tasks: where the task is looked up.
      world: of that seed and level, where it is shared.
      views: keeps what scenes look like for the other tasks that show them; same seed and level.

    Raises ValueError for an unknown task or level, no room for the task's frames, or a task with a
    role that the world does not know.
    """

    def __init__(
        self,
        task: str,
        sizes: tuple[tuple[int, int], ...],
        *,
        seed: int,
        level: str,
        first: int,
        count: int,
        max_frames: int,
        tasks: TaskSet = BUILT_IN,
        world: World | None = None,
        views: Cache | None = None,
    ):
        self.task, self._tasks = tasks.task(task), tasks
        if not sizes or max_frames < self.task.min_frames:
            raise ValueError(
                f"{task} needs a size and {self.task.min_frames} frames: {max_frames=}"
            )
        if not renders(self.task):
            unknown = [name for name in self.task.frames if not get_role(name).rendered]
            raise ValueError(f"the embedded world has no frames of role {unknown[0]!r} ({task})")
        self._world = world or World(seed=seed, level=level)
        self._views = views or Cache(0)
        self._seed, self._first, self._count = seed, first, count
        self._sizes = tuple(sizes)
        self._max_frames = min(max_frames, self.task.max_frames)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: SupportsIndex) -> Bundle:
        index = int(index)
        if not 0 <= index < self._count:
            raise IndexError(f"scene {index} of {self._count}")
        number = self._first + index
        rng = np.random.default_rng((self._seed, self._tasks.names.index(self.task.name), number))
        height, width = self._sizes[rng.integers(len(self._sizes))]
        if self.task.name in _OTHERS:
            return _OTHERS[self.task.name](self, number, height, width, rng)
        return self._with_conditions(number, height, width, rng)

    def _bundle(self, frames: list, caption: str, truth: dict[str, Any], **parts) -> Bundle:
        prompt = prompts.build(self.task.name, caption, tasks=self._tasks, **parts)
        return Bundle(self.task.name, prompt, tuple(frames), truth)

    def _with_conditions(self, number, height, width, rng) -> Bundle:
        """One view of one scene, and what the roles of the other frames make of it."""
        roles = [get_role(name) for name in self.task.frames]
        if "pose" in self.task.frames:
            scene = self._world.scene(number, figure=True)
            view = self._world.render(scene, height, width)
        else:
            scene, view = self._shared(number, height, width)
        truth: dict[str, Any] = {"scene": scene, "view": view}
        chosen = _region_colors(view, rng, self._world.level) if self.task.region_word else {}
        made = [_rendered(role, _truth(view, chosen), rng) for role in roles]
        for frame in made:
            truth |= frame.known
        regions = next((frame.regions for frame in made if frame.regions), None)
        caption = self._world.caption(scene, rng)
        return self._bundle([frame.picture for frame in made], caption, truth, regions=regions)

    def _shared(self, number: int, height: int, width: int) -> tuple[Scene, View]:
        """A scene and its view; what was rendered for another task is not rendered again."""
        scene = self._world.scene(number)

        def render() -> tuple[View, tuple[float, ...]]:
            view = self._world.render(scene, height, width)
            for pixels in _pixels(view):
                pixels.flags.writeable = False  # several examples have them
            return view, scene.shares

        def size_of(made: tuple[View, tuple[float, ...]]) -> int:
            return _VIEW + sum(pixels.nbytes for pixels in _pixels(made[0]))

        view, shares = self._views.get(("view", number, height, width), render, size_of)
        return scene.knowing(shares), view

    def _editing(self, number, height, width, rng) -> Bundle:
        source = self._world.scene(number)
        edited, instruction = self._world.edited(source, rng)
        views = [self._world.render(scene, height, width) for scene in (edited, source)]
        truth = {"scene": edited, "source": source, "view": views[0]}
        return self._bundle([view.image for view in views], instruction, truth)

    def _faceid(self, number, height, width, rng) -> Bundle:
        count = int(rng.integers(self.task.min_frames, self._max_frames + 1))
        scenes = self._world.figure_scenes(number, count)
        frames = [self._world.render(scene, height, width).image for scene in scenes]
        captions = [self._world.figure_caption(scene, rng) for scene in scenes]
        return self._bundle(frames, captions[0], {"scene": scenes[0]}, sources=captions[1:])

    def _subject(self, number, height, width, rng) -> Bundle:
        item, scenes = self._world.subject_scenes(number, self.task.min_frames)
        frames = [self._world.render(scene, height, width).image for scene in scenes]
        captions = [self._world.caption(scene, rng) for scene in scenes]
        truth = {"scene": scenes[0], "item": item}
        return self._bundle(frames, captions[0], truth, item=item, sources=captions[1:])

    def _multiview(self, number, height, width, rng) -> Bundle:
        pairs = int(rng.integers(self.task.min_frames // 2, self._max_frames // 2 + 1))
        scene, orbit = self._world.orbit_views(number, pairs)
        images = [self._world.render(scene, height, width, camera).image for camera in orbit]
        known = orbit_to_cameras(orbit)
        rays = cameras.rays_from_cameras(known, (height // _LATENT, width // _LATENT))
        frames = cameras.ray_frames(rays).astype(np.float32)
        interleaved = [frame for pair in zip(images, frames, strict=True) for frame in pair]
        caption = self._world.caption(scene, rng)
        truth = {"scene": scene, "cameras": known, "orbit": orbit}
        return self._bundle(interleaved, caption, truth)


# Tasks with more than one picture of the world.
_OTHERS: dict[str, Callable] = {
    "image_editing": WorldBundles._editing,
    "faceid": WorldBundles._faceid,
    "subject_driven": WorldBundles._subject,
    "multiview": WorldBundles._multiview,
}


def _pixels(view: View) -> list[np.ndarray]:
    fields = (getattr(view, field.name) for field in dataclasses.fields(view))
    return [value for value in fields if isinstance(value, np.ndarray)]


def renders(task: Task) -> bool:
    """Whether the world has examples of a task."""
    return task.name in _OTHERS or all(get_role(name).rendered for name in task.frames)


def orbit_to_cameras(orbit: list[OrbitCamera]) -> cameras.Cameras:
    """The world's cameras in the convention of rays, the first one made identity."""
    return cameras.orbit_cameras(
        [c.azimuth_deg for c in orbit],
        [c.elevation_deg for c in orbit],
        [c.distance for c in orbit],
        focal=orbit[0].focal,
    )


def _region_colors(view: View, rng: np.random.Generator, level: str) -> dict[str, str]:
    """A colour for the label of each visible thing.

    At level "simple" a class always has the same colour, which a small model learns in minutes;
    otherwise colours are drawn, as in the paper's data, and only the prompt tells them.
    """
    present = np.unique(view.classes)
    labels = [CLASSES[c] for c in present if CLASSES[c] not in ("sky", "floor")]
    if level == "simple":
        names = list(colors.COLORS)
        return {label: names[CLASSES.index(label) % len(names)] for label in labels}
    return colors.assign(labels, rng)


def _rendered(role: Role, truth: Truth, rng: np.random.Generator) -> Made:
    """The role's frame. Raises ValueError where the world does not tell what it shows."""
    made = role.render(truth, rng)
    if made is None:
        raise ValueError(f"the embedded world does not tell {role.title} ({role.name})")
    return made


def _truth(view: View, chosen: dict[str, str]) -> Truth:
    """What the view knows, for roles to draw."""
    return Truth(
        view.image,
        depth=view.depth,
        depth_range=(DEPTH_RANGE["near"], DEPTH_RANGE["far"]),
        classes=view.classes,
        labels=dict(enumerate(CLASSES)),
        colors=chosen,
        boxes=tuple((box.label, (box.x0, box.y0, box.x1, box.y1)) for box in view.boxes),
        keypoints=view.keypoints[0] if view.keypoints else None,
    )
