"""A request as frames of latents, in the size that the model was trained on."""

from collections.abc import Sequence

import numpy as np

from onediff_jax.data.bundle import Encoded
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.request import Plan, Request
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks.definitions import Task
from onediff_jax.tasks.pictures import fit
from onediff_jax.tasks.roles import get_role


def encode(request: Request, plan: Plan, experiment: Experiment) -> Encoded:
    """The request's frames as latents (h, w, c) float32; zeros where frames are generated.

    Raises ValueError for given latents of several sizes.
    """
    codec = experiment.codec
    if request.gives_latents:
        shapes = {image.shape for image in request.images}
        if len(shapes) > 1:
            raise ValueError(f"images are latents of several shapes: {sorted(shapes)}")
        zeros = np.zeros(shapes.pop(), np.float32)
    else:
        size = request.size or trained_size(experiment, plan.task, request.images)
        zeros = np.zeros((*(side // codec.factor for side in size), codec.channels), np.float32)
    images, frames = iter(request.images), []
    for index, (role, wanted) in enumerate(zip(plan.roles, plan.generate, strict=True)):
        if wanted:
            frames.append(zeros)
        elif request.gives_latents:
            frames.append(next(images))
        elif role == "ray":
            rays = cams.rays_from_cameras(request.cameras[index // 2], zeros.shape[:2])
            frames.append(cams.ray_frames(rays)[0])
        else:
            frames.append(codec.encode(fit(next(images), size, nearest=get_role(role).nearest)))
    frames = tuple(frame.astype(np.float32) for frame in frames)
    return Encoded(plan.task.name, plan.prompt, frames, request.text)


def trained_size(experiment: Experiment, task: Task, images: Sequence) -> tuple[int, int]:
    """(height, width): of the task's trained sizes the one most like the first image, or square."""
    sizes = experiment.sizes.get(task.group) or next(iter(experiment.sizes.values()))
    ratio = images[0].shape[1] / images[0].shape[0] if images else 1.0
    return min(sizes, key=lambda s: abs(np.log(s[1] / s[0] / ratio)))
