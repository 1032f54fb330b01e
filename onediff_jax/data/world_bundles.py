"""The embedded world as training examples: every task's frames with exact ground truth."""

from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np

from onediff_jax.data.bundle import Bundle
from onediff_jax.data.world import CLASSES, LIMBS, OrbitCamera, View, World
from onediff_jax.tasks import cameras, colors, conditions, degrade, draw, prompts
from onediff_jax.tasks.definitions import TASKS, get_task

# The depth range that grey covers, in world units: fixed, so that a generated map is metric.
# Nothing in a scene is nearer; the floor beyond is clipped.
DEPTH_RANGE = {"near": 1.0, "far": 4.0}
_LATENT = 8  # pixels per latent


class WorldBundles:
    """Random access to the bundles of one task: scenes first … first + count − 1 of the world.

    Args:
      task: name in tasks.TASKS.
      sizes: (height, width) in pixels to choose from; a scene always has the same one.
      seed, level: of the world.
      first, count: which scenes.
      max_frames: room for identity and multiview bundles, whose length varies.

    Raises ValueError for an unknown task or level, or no room for the task's frames.
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
    ):
        self.task = get_task(task)
        if not sizes or max_frames < self.task.min_frames:
            raise ValueError(
                f"{task} needs a size and {self.task.min_frames} frames: {max_frames=}"
            )
        self._world = World(seed=seed, level=level)
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
        rng = np.random.default_rng((self._seed, list(TASKS).index(self.task.name), number))
        height, width = self._sizes[rng.integers(len(self._sizes))]
        if self.task.name in _MAKERS:
            return _MAKERS[self.task.name](self, number, height, width, rng)
        return self._restoration_or_condition(number, height, width, rng)

    def _bundle(self, frames: list, caption: str, truth: dict[str, Any], **parts) -> Bundle:
        prompt = prompts.build(self.task.name, caption, **parts)
        return Bundle(self.task.name, prompt, tuple(frames), truth)

    def _restoration_or_condition(self, number, height, width, rng) -> Bundle:
        """Tasks whose condition is made from one view of one scene."""
        name = self.task.name
        scene = self._world.scene(number, figure=True if name == "pose2image" else None)
        view = self._world.render(scene, height, width)
        truth = {"scene": scene, "view": view}
        condition, extra, parts = _CONDITIONS[name](view, rng, self._world.level)
        caption = self._world.caption(scene, rng)
        return self._bundle([view.image, condition], caption, truth | extra, **parts)

    def _text2image(self, number, height, width, rng) -> Bundle:
        scene = self._world.scene(number)
        view = self._world.render(scene, height, width)
        caption = self._world.caption(scene, rng)
        return self._bundle([view.image], caption, {"scene": scene, "view": view})

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


_MAKERS: dict[str, Callable] = {
    "text2image": WorldBundles._text2image,
    "image_editing": WorldBundles._editing,
    "faceid": WorldBundles._faceid,
    "subject_driven": WorldBundles._subject,
    "multiview": WorldBundles._multiview,
}


def orbit_to_cameras(orbit: list[OrbitCamera]) -> cameras.Cameras:
    """The world's cameras in the convention of rays, the first one made identity."""
    return cameras.orbit_cameras(
        [c.azimuth_deg for c in orbit],
        [c.elevation_deg for c in orbit],
        [c.distance for c in orbit],
        focal=orbit[0].focal,
    )


def _labelled(view: View, rng: np.random.Generator, level: str) -> tuple[list[str], dict]:
    """Labels of the visible things, and a colour for each.

    At level "simple" a class always has the same colour, which a small model learns in minutes;
    otherwise colours are drawn, as in the paper's data, and only the prompt tells them.
    """
    present = np.unique(view.classes)
    labels = [CLASSES[c] for c in present if CLASSES[c] not in ("sky", "floor")]
    if level == "simple":
        names = list(colors.COLORS)
        return labels, {label: names[CLASSES.index(label) % len(names)] for label in labels}
    return labels, colors.assign(labels, rng)


def _canny(view, rng, level):
    return conditions.random_canny(view.image, rng), {}, {}


def _depth(view, rng, level):
    image, norm = conditions.depth_image(view.depth, **DEPTH_RANGE)
    return image, {"depth": view.depth, "depth_norm": norm}, {}


def _hed(view, rng, level):
    return conditions.soft_edges(view.image), {}, {}


def _pose(view, rng, level):
    points = view.keypoints[0] - np.array([0.5, 0.5, 0.0], np.float32)  # centres at whole numbers
    return draw.draw_pose(*view.image.shape[:2], points, LIMBS), {"keypoints": view.keypoints}, {}


def _semantic(view, rng, level):
    labels, chosen = _labelled(view, rng, level)
    painted = {CLASSES.index(label): chosen[label] for label in labels}
    regions = [(chosen[label], label) for label in labels]
    truth = {"regions": regions, "painted": painted}
    return draw.paint_semantic(view.classes, painted), truth, {"regions": regions}


def _boxes(view, rng, level):
    _, chosen = _labelled(view, rng, level)
    boxes = [box for box in view.boxes if box.label in chosen]
    corners = [(box.x0, box.y0, box.x1, box.y1) for box in boxes]
    image = draw.paint_boxes(*view.image.shape[:2], corners, [chosen[b.label] for b in boxes])
    labels = dict.fromkeys(box.label for box in boxes)
    return image, {"boxes": boxes}, {"regions": [(chosen[label], label) for label in labels]}


def _blurred(view, rng, level):
    """Twice the usual strength: weaker blur hardly shows in pictures of 64 pixels."""
    if rng.random() < 0.5:
        return degrade.blur(view.image, rng.uniform(0.07, 0.13)), {}, {}
    return degrade.motion_blur(view.image, rng.uniform(0.35, 0.6), rng.uniform(0, 180)), {}, {}


def _masked(view, rng, level):
    image, mask = degrade.inpainting(view.image, rng)
    return image, {"mask": mask}, {}


def _low_resolution(view, rng, level):
    return degrade.downscale(view.image, max(degrade.FACTORS)), {}, {}


# Task → (view, rng, level) → condition picture, truth, prompt parts.
_CONDITIONS: dict[str, Callable] = {
    "deblurring": _blurred,
    "image_inpainting": _masked,
    "super_resolution": _low_resolution,
    "canny2image": _canny,
    "depth2image": _depth,
    "hed2img": _hed,
    "pose2image": _pose,
    "semanticmap2image": _semantic,
    "boundingbox2image": _boxes,
}
