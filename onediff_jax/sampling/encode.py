"""A request as frames of latents, in the size that the model was trained on."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.prepared.fit import crop_cameras
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.request import Plan, Request, given_roles
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks.definitions import Task
from onediff_jax.tasks.pictures import centre_crop, fit
from onediff_jax.tasks.roles import get_role

_REACH = 3  # pixels that resizing takes a new pixel from, to each side


def encode(request: Request, plan: Plan, experiment: Experiment) -> Encoded:
    """The request's frames as latents (h, w, c) float32; zeros where frames are generated.

    Raises ValueError for given latents of several sizes.
    """
    codec = experiment.codec
    if request.gives_latents:
        shapes = {image.shape for image in request.images}
        if len(shapes) > 1:
            raise ValueError(f"images are latents of several shapes: {sorted(shapes)}")
        height, width, channels = shapes.pop()
    else:
        size = request.size or trained_size(experiment, plan.task, request.images)
        height, width = (side // codec.factor for side in size)
        channels = codec.channels
    zeros = np.zeros((height, width, channels), np.float32)
    images, frames, cameras = iter(request.images), [], request.cameras
    if request.from_image:
        images = iter(derived(request, plan.task, size))
    if cameras is not None and request.camera_size is not None:
        box = centre_crop(request.camera_size, size)
        some = len(cameras)
        cameras = crop_cameras(cameras, [request.camera_size] * some, [box] * some, size)
    for index, (role, wanted) in enumerate(zip(plan.roles, plan.generate, strict=True)):
        if wanted:
            frames.append(zeros)
        elif request.gives_latents:
            frames.append(next(images))
        elif role == "ray":
            assert cameras is not None  # make_plan asks for those of given ray frames
            rays = cams.rays_from_cameras(cameras[index // 2], (height, width))
            frames.append(cams.ray_frames(rays)[0])
        else:
            frames.append(codec.encode(fit(next(images), size, nearest=get_role(role).nearest)))
    frames = tuple(frame.astype(np.float32) for frame in frames)
    return Encoded(plan.task.name, plan.prompt, frames, request.text)


def derived(request: Request, task: Task, size: tuple[int, int]) -> list[np.ndarray]:
    """The given frames that are made of an ordinary picture, at the size that is generated."""
    image = fit(request.images[0], size)
    hole = None if request.mask is None else _fit_mask(request.mask, size)
    frames = []
    for role in map(get_role, given_roles(task, request.direction)):
        frame = role.derive(image, mask=hole)
        if frame is None:
            raise ValueError(f"no {role.title} ({role.name}) can be made of a picture: give one")
        frames.append(frame)
    return frames


def kept_pixels(
    request: Request, plan: Plan, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The given picture (H, W, 3) and where it is to be painted anew (H, W), of an inpainting.

    None where nothing is to be kept. Without a mask the hole is what is black in the picture, and
    every pixel that resizing mixed with it.
    """
    if not request.keep_given or request.gives_latents or plan.roles != ("image", "masked"):
        return None
    if plan.generate != (True, False):
        return None
    image = request.images[0]
    if request.mask is not None:
        return fit(image, size), _fit_mask(request.mask, size)
    hole = _fit_mask(image.max(-1) == 0, size)
    if image.shape[:2] != size:
        hole = np.asarray(ndimage.binary_dilation(hole, iterations=_REACH))
    return fit(image, size), hole


def _fit_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return fit(mask.astype(np.uint8), size, nearest=True) > 0


def trained_size(experiment: Experiment, task: Task, images: Sequence) -> tuple[int, int]:
    """(height, width): of the task's trained sizes the one most like the first image, or square."""
    sizes = experiment.sizes.get(task.group) or next(iter(experiment.sizes.values()))
    ratio = images[0].shape[1] / images[0].shape[0] if images else 1.0
    return min(sizes, key=lambda s: abs(np.log(s[1] / s[0] / ratio)))
