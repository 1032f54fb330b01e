"""From a raw example to pictures of training size: crop, resize, and the conditions that follow
from the picture alone. Pure functions: the same example always gives the same pictures."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from onediff_jax.data.buckets import ASPECTS, bucket_size, nearest_aspect
from onediff_jax.data.prepared.augment import LATENT
from onediff_jax.data.prepared.record import Record
from onediff_jax.data.sources.base import RawExample, rng_for
from onediff_jax.tasks.cameras import Cameras
from onediff_jax.tasks.definitions import BUILT_IN, Task, TaskSet
from onediff_jax.tasks.pictures import centre_crop, resize
from onediff_jax.tasks.roles import get_role


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How examples become pictures of training size.

    Attributes:
      tasks: to keep or to derive; empty: whatever the source gives.
      aspects: width:height, names of data.buckets.ASPECTS.
      tokens: per picture, at most (1 token = 16 × 16 pixels).
      given: tasks that the source itself makes of plain pictures: not derived here.
      definitions: the built-in tasks, and those of one's own.

    Raises:
      ValueError: an unknown task or aspect, or tokens below 1.
    """

    tasks: tuple[str, ...]
    aspects: tuple[str, ...]
    tokens: int
    given: tuple[str, ...] = ()
    definitions: TaskSet = BUILT_IN

    def __post_init__(self):
        for task in self.tasks:
            self.definitions.task(task)
        if not self.aspects:
            raise ValueError(f"aspects is empty; choose from {list(ASPECTS)}")
        for aspect in self.aspects:
            bucket_size(aspect, self.tokens)  # refuses what it does not know

    def __call__(self, example: RawExample) -> list[Record]:
        """The wanted records of an example, with uint8 pictures; none if no task of it is wanted.

        A plain picture gives one record for each wanted task whose other frames can be derived
        from it; the draws (strength, thresholds, shapes) depend on its key and the task alone.
        """
        own = not self.tasks or example.task in self.tasks
        derived = []
        if example.task == "text2image":
            wanted = [self.definitions.task(t) for t in self.tasks if t not in self.given]
            derived = [task for task in wanted if derivable(task)]
        if not own and not derived:
            return []
        fitted = self._fit(example)
        records = [fitted] if own else []
        for task in derived:
            empty = [None] * (len(task.frames) - 1)
            frames = _derived(task, (fitted.frames[0], *empty), example.key)
            captions = (*fitted.captions, *[()] * len(empty))
            records.append(
                dataclasses.replace(fitted, task=task.name, captions=captions, frames=frames)
            )
        return records

    def _fit(self, example: RawExample) -> Record:
        task = example.definition
        shapes = [image.shape[:2] for image in example.images if image is not None]
        height, width = np.exp(np.log(shapes).mean(0))
        size = bucket_size(nearest_aspect(height, width, self.aspects), self.tokens)
        boxes = [centre_crop(shape, size) for shape in shapes]
        box_of = iter(boxes)
        frames = tuple(
            image
            if image is None
            else resize(image, next(box_of), size, nearest=get_role(role).nearest)
            for image, role in zip(
                example.images, task.picture_roles(len(example.images)), strict=True
            )
        )
        cameras = example.cameras
        extras = dict(example.extras)
        if cameras is not None:
            cameras = crop_cameras(cameras, shapes, boxes, size)
        if example.depth_norm is not None:
            extras["depth_norm"] = example.depth_norm
        return Record(
            key=example.key,
            task=example.task,
            captions=example.captions,
            frames=_derived(task, frames, example.key),
            regions=example.regions,
            item=example.item,
            group=example.group,
            cameras=cameras,
            extras=extras,
            mask=_mask(example.mask, boxes[0], size),
            repeats=example.repeats,
            is_reg=example.is_reg,
        )


def _mask(
    mask: np.ndarray | None, box: Sequence[float], size: tuple[int, int]
) -> np.ndarray | None:
    """The mask of a picture's loss per latent, (H/8, W/8) uint8: the share of it that counts.

    Raises ValueError where nothing is left of it in the box.
    """
    if mask is None:
        return None
    fitted = resize(np.repeat(mask[..., None], 3, -1), box, size)[..., 0]
    height, width = size[0] // LATENT, size[1] // LATENT
    means = fitted.reshape(height, LATENT, width, LATENT).mean((1, 3))
    if not means.any():
        raise ValueError("the mask leaves nothing of the picture")
    return np.rint(means).astype(np.uint8)


def _derived(task: Task, frames: tuple[np.ndarray | None, ...], key: str) -> tuple:
    """The frames, those that are None made from the first, which has its training size."""
    rng = rng_for(task.name, key)
    first, made = frames[0], []
    for role, frame in zip(map(get_role, task.picture_roles(len(frames))), frames, strict=True):
        if frame is None and first is not None:
            frame = role.derive(first, rng)
        if frame is None:
            raise ValueError(f"no {role.title} ({role.name}), and none can be made of a picture")
        made.append(frame)
    return tuple(made)


def derivable(task: Task) -> bool:
    """Whether all other frames of a task can be made from its ordinary picture."""
    others = task.frames[1:]
    return task.group == "i2i" and all(get_role(name).derived for name in others)


def crop_cameras(
    cameras: Cameras,
    shapes: Sequence[tuple[int, int]],
    boxes: Sequence[Sequence[float]],
    size: tuple[int, int],
) -> Cameras:
    """The cameras of pictures after the box of each was resized to size.

    Args:
      cameras: N, in normalised coordinates: origin in the picture's centre, x left, y up, unit half
        of the smaller side.
      shapes: per picture its old (height, width).
      boxes: per picture (left, top, right, bottom).
      size: new (height, width).
    """
    half = np.array([min(shape) / 2 for shape in shapes])[:, None]
    centre = np.array(shapes)[:, ::-1] / 2 - cameras.principal * half  # pixels: x right, y down
    left, top, right, bottom = np.array(boxes).T
    scale = np.stack([size[1] / (right - left), size[0] / (bottom - top)], -1)
    moved = (centre - np.stack([left, top], -1)) * scale
    new_half = min(size) / 2
    return dataclasses.replace(
        cameras,
        focal=cameras.focal * half * scale / new_half,
        principal=(np.array(size)[::-1] / 2 - moved) / new_half,
    )
