"""From a raw example to pictures of training size: crop, resize, and the conditions that follow
from the picture alone. Pure functions: the same example always gives the same pictures."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from onediff_jax.data.buckets import ASPECTS, bucket_size, nearest_aspect
from onediff_jax.data.prepared.record import Record
from onediff_jax.data.sources.base import RawExample, rng_for
from onediff_jax.tasks import conditions, degrade
from onediff_jax.tasks.cameras import Cameras
from onediff_jax.tasks.definitions import get_task

# Task whose condition is made from the picture itself → what makes it: (picture, generator) →
# condition, uint8 (H, W, 3) both. They see the picture at its training size: every length is
# relative to the smaller side, but resizing afterwards would blur sharp lines.
MAKERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "deblurring": degrade.random_blur,
    "image_inpainting": lambda image, rng: degrade.inpainting(image, rng)[0],
    "super_resolution": degrade.random_downscale,
    "canny2image": conditions.random_canny,
    "hed2img": lambda image, rng: conditions.soft_edges(image),
}
# Pictures whose colours stand for something: mixing two colours would make a third.
_NEAREST = ("semanticmap", "boundingbox")


@dataclasses.dataclass(frozen=True)
class Fitting:
    """How examples become pictures of training size.

    Attributes:
      tasks: to keep or to derive; empty: whatever the source gives.
      aspects: width:height, names of data.buckets.ASPECTS.
      tokens: per picture, at most (1 token = 16 × 16 pixels).
      given: tasks of MAKERS that the source itself makes of plain pictures: not derived here.

    Raises:
      ValueError: an unknown task or aspect, or tokens below 1.
    """

    tasks: tuple[str, ...]
    aspects: tuple[str, ...]
    tokens: int
    given: tuple[str, ...] = ()

    def __post_init__(self):
        for task in self.tasks:
            get_task(task)
        if not self.aspects:
            raise ValueError(f"aspects is empty; choose from {list(ASPECTS)}")
        sizes = {aspect: bucket_size(aspect, self.tokens) for aspect in self.aspects}
        object.__setattr__(self, "_sizes", sizes)

    def __call__(self, example: RawExample) -> list[Record]:
        """The wanted records of an example, with uint8 pictures; none if no task of it is wanted.

        A plain picture gives one record for each wanted task of MAKERS, whose draws (strength,
        thresholds, shapes) depend on its key and the task alone.
        """
        own = not self.tasks or example.task in self.tasks
        derived = []
        if example.task == "text2image":
            derived = [t for t in self.tasks if t in MAKERS and t not in self.given]
        if not own and not derived:
            return []
        fitted = self._fit(example)
        records = [fitted] if own else []
        for task in derived:
            image = fitted.frames[0]
            condition = MAKERS[task](image, rng_for(task, example.key))
            captions = (*fitted.captions, ())
            records.append(
                dataclasses.replace(fitted, task=task, captions=captions, frames=(image, condition))
            )
        return records

    def _fit(self, example: RawExample) -> Record:
        shapes = [image.shape[:2] for image in example.images]
        height, width = np.exp(np.log(shapes).mean(0))
        size = self._sizes[nearest_aspect(height, width, self.aspects)]
        boxes = [centre_crop(shape, size) for shape in shapes]
        roles = get_task(example.task).frames
        frames = tuple(
            resize(image, box, size, nearest=roles[index % len(roles)] in _NEAREST)
            for index, (image, box) in enumerate(zip(example.images, boxes, strict=True))
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
            frames=frames,
            regions=example.regions,
            item=example.item,
            group=example.group,
            cameras=cameras,
            extras=extras,
        )


def centre_crop(shape: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred box of a picture with the aspect of size.

    shape, size: (height, width) in pixels.
    """
    height, width = shape
    scale = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * scale, size[1] * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    # Rounding must not push the box out of the picture.
    return max(left, 0), max(top, 0), min(left + box_width, width), min(top + box_height, height)


def resize(
    image: np.ndarray, box: Sequence[float], size: tuple[int, int], *, nearest: bool = False
) -> np.ndarray:
    """The box of a uint8 picture (H, W, 3) at (height, width): antialiased, or nearest pixels."""
    if image.shape[:2] == size and tuple(box) == (0, 0, size[1], size[0]):
        return image
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), method, box=tuple(box)))


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
