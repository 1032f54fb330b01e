"""The same task asked with a wrong condition: a model that uses its condition does worse on it."""

import dataclasses

import numpy as np

from onediff_jax.data.bundle import Bundle, Encoded
from onediff_jax.data.world_bundles import orbit_to_cameras
from onediff_jax.tasks.cameras import ray_frames, rays_from_cameras
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

WRONG_TURN = 120.0  # degrees by which a wrong ray's camera is off


def wrong_given(
    direction: str,
    bundle: Bundle,
    own: Encoded,
    other: Encoded,
    tasks: TaskSet = BUILT_IN,
) -> Encoded | None:
    """What is asked instead; None where a direction has nothing that could be wrong.

    Args:
      direction: e.g. "depth2image".
      bundle, own: the example, and as latents.
      other: another example of the task with frames of the same shapes.
      tasks: where the direction is looked up.
    """
    if direction == "multiview":
        return dataclasses.replace(own, frames=_turned(bundle, own))
    task, chosen = tasks.find_direction(direction)
    if task.instructs:
        return dataclasses.replace(own, prompt=other.prompt)
    if task.rays or chosen != task.directions[0] or not chosen.generates(0, task.frames[0]):
        return None
    # What is restored is compared with what was given; everything else depends on conditions.
    damaged = {"restored", "hole"} & {name for name, _ in task.measures(direction)}
    if all(task.denoise_mask(direction, task.min_frames)) or damaged:
        return None
    mask = task.denoise_mask(direction, len(own.frames))
    pairs = zip(own.frames, other.frames, mask, strict=True)
    return dataclasses.replace(own, frames=tuple(a if wanted else b for a, b, wanted in pairs))


def _turned(bundle: Bundle, own: Encoded) -> tuple[np.ndarray, ...]:
    """The frames of a multiview example, all cameras but the first moved along the orbit."""
    first, *rest = bundle.truth["orbit"]
    moved = [dataclasses.replace(c, azimuth_deg=c.azimuth_deg + WRONG_TURN) for c in rest]
    rays = rays_from_cameras(orbit_to_cameras([first, *moved]), own.frames[1].shape[:2])
    frames = list(own.frames)
    frames[1::2] = ray_frames(rays).astype(own.frames[1].dtype)
    return tuple(frames)
