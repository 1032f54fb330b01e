"""Tasks whose condition is made from the picture itself: any captioned picture teaches them.

Prefer pictures that are already resized for training: every length of a condition is relative to
the smaller side, but a condition that is resized afterwards loses its sharp lines.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from onediff_jax.data.sources.base import RawExample, rng_for
from onediff_jax.tasks import conditions, degrade

# Task → (picture, generator) → condition picture; uint8 (H, W, 3) both.
MAKERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "deblurring": degrade.random_blur,
    "image_inpainting": lambda image, rng: degrade.inpainting(image, rng)[0],
    "super_resolution": degrade.random_downscale,
    "canny2image": conditions.random_canny,
    "hed2img": lambda image, rng: conditions.soft_edges(image),
}


def make_condition(task: str, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The condition of a picture, with strength, thresholds and shapes drawn from `rng`.

    Args:
      task: one of MAKERS.
      image: uint8 (H, W, 3).

    Returns:
      uint8 (H, W, 3).

    Raises:
      ValueError: a task whose condition needs more than the picture; lists the choices.
    """
    if task not in MAKERS:
        raise ValueError(f"no condition for {task!r} from a picture; choose from {list(MAKERS)}")
    return MAKERS[task](image, rng)


def derive(
    example: RawExample, tasks: Sequence[str], *, seed: int = 0, count: int | None = None
) -> list[RawExample]:
    """A captioned picture as examples of other tasks.

    Args:
      example: of task text2image.
      tasks: of MAKERS, or "text2image" for the picture itself.
      seed: with the key and the task it decides every draw, so a record always gives the same.
      count: so many of the tasks, drawn per picture; None: all.

    Returns:
      One example per task, in the order of `tasks`, all with the picture's key.

    Raises:
      ValueError: an example or task of another kind, a task named twice, or a count out of range.
    """
    if example.task != "text2image":
        raise ValueError(f"{example.key}: conditions come from text2image, not {example.task}")
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"{tasks=} names a task twice")
    if count is not None and not 0 <= count <= len(tasks):
        raise ValueError(f"{count=} must be in 0..{len(tasks)}")
    chosen = range(len(tasks))
    if count is not None:
        order = rng_for("tasks", seed, example.key).permutation(len(tasks))
        chosen = sorted(order[:count].tolist())
    return [_derive_one(example, tasks[index], seed) for index in chosen]


def _derive_one(example: RawExample, task: str, seed: int) -> RawExample:
    if task == "text2image":
        return example
    image = example.images[0]
    condition = make_condition(task, image, rng_for("condition", seed, task, example.key))
    return dataclasses.replace(
        example,
        task=task,
        images=(image, condition),
        captions=(example.captions[0], ()),
    )
