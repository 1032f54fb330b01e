"""Generating frames from pictures, cameras and a prompt: what the sample command does.

    source = load_source("runs/t2i_multitask")
    result = generate(source, SampleRequest("depth2image", "a red cube", images=(depth,)))
    result.picture(0, 0)  # uint8 (H, W, 3): of image 0, frame 0

Planning needs numpy only; jax loads when something is generated.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks import prompts
from onediff_jax.tasks.definitions import Task, find_direction, mask_generating
from onediff_jax.tasks.depth import Normalisation
from onediff_jax.tasks.pictures import fit
from onediff_jax.tasks.roles import get_role

if TYPE_CHECKING:
    from onediff_jax.experiment.build import Experiment
    from onediff_jax.sampling.source import Source

UNIT = 16  # pixels per token side: 8 per latent, 2 latents per token
FOCAL = 1.3887  # of cameras whose focal length is not told, in units of the smaller image side


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """What to generate, and what from.

    Attributes:
      direction: a name that tasks.find_direction knows.
      prompt: the plain caption, or the whole prompt when it starts with a task's [[token]].
      images: uint8 (H, W, 3) of any size, for the given picture frames in their order.
      generate: frames to generate, counted from 0; None: as the direction says. In direction
        multiview every view that has no picture is generated.
      cameras: of all views, for the multiview task; None where no ray is given.
      focal: in units of the smaller image side, of cameras that are to be found.
      elevation: degrees above the floor of the first of those; it only says which way is up.
      size: (height, width) in pixels, multiples of 16; None: the trained size nearest in shape.
      regions, item, sources: as in tasks.prompts.build.
      steps: Euler steps.
      guidance: of the prompt; 1 is off, None is what the source was sampled with in training.
      negative_prompt: what guidance leads away from.
      seed: of the starting noise; image i of `count` has seed + i, whatever the count.
    """

    direction: str
    prompt: str = ""
    images: tuple[np.ndarray, ...] = ()
    generate: tuple[int, ...] | None = None
    cameras: cams.Cameras | None = None
    focal: float = FOCAL
    elevation: float = 0.0
    size: tuple[int, int] | None = None
    regions: tuple[tuple[str, str], ...] = ()
    item: str | None = None
    sources: tuple[str, ...] = ()
    steps: int = 20
    guidance: float | None = None
    negative_prompt: str = ""
    seed: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """A request that has been checked: its task, whole prompt, and per frame role and mask."""

    task: Task
    prompt: str
    roles: tuple[str, ...]
    generate: tuple[bool, ...]


def make_plan(request: SampleRequest) -> Plan:
    """Checks everything that does not depend on the model.

    Raises ValueError that names the field, its value and the choices.
    """
    task, _ = find_direction(request.direction)
    for name, least in (("steps", 1), ("count", 1), ("seed", 0), ("focal", 1e-6)):
        if not getattr(request, name) >= least:
            raise ValueError(f"{name}={getattr(request, name)} must be at least {least}")
    if request.guidance is not None and not 0 <= request.guidance < np.inf:
        raise ValueError(f"guidance={request.guidance} must not be negative; 1 is off")
    if request.size and any(side < UNIT or side % UNIT for side in request.size):
        raise ValueError(f"height and width {request.size} must be positive multiples of {UNIT}")
    roles, mask = _frames(request, task)
    _check_given(request, task, roles, mask)
    return Plan(task, _prompt(request, task), roles, mask)


def _frames(request: SampleRequest, task: Task) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """How many frames there are, their roles, and which are generated."""
    name, images = request.direction, len(request.images)
    chosen = request.generate
    if task.min_frames == task.max_frames:
        count = task.min_frames
    elif not task.rays:
        count = images + (1 if chosen is None else len(set(chosen)))
        if count < task.min_frames:
            raise ValueError(f"{name} needs {task.min_frames - 1} or more images; got {images}")
        if count > task.max_frames:
            raise ValueError(f"{name} takes at most {task.max_frames - 1} images; got {images}")
    else:
        views = max([images, *(i // 2 + 1 for i in chosen or ())])
        if request.cameras is not None:
            if name == "image2camera" and chosen is None:
                raise ValueError("image2camera finds the cameras: give no azimuths or distances")
            views = len(request.cameras)
        if 2 * views < task.min_frames:
            what = "images" if name == "image2camera" else "cameras (azimuths)"
            raise ValueError(f"{name} needs {task.min_frames // 2} or more {what}; got {views}")
        count = 2 * views
    roles = task.roles(count)
    if chosen is not None:
        mask = mask_generating(chosen, count)
    elif name == "multiview":
        if not 1 <= images < count // 2:
            raise ValueError(
                f"multiview of {count // 2} cameras needs 1 to {count // 2 - 1} images, of the "
                f"first views; got {images}"
            )
        mask = [role == "image" and i >= 2 * images for i, role in enumerate(roles)]
    else:
        mask = task.denoise_mask(name, count)
    return roles, tuple(map(bool, mask))


def _check_given(request: SampleRequest, task: Task, roles, mask) -> None:
    name = request.direction
    given = [(i, r) for i, (r, wanted) in enumerate(zip(roles, mask, strict=True)) if not wanted]
    pictures = [f"{role} (frame {i})" for i, role in given if role != "ray"]
    if len(pictures) != len(request.images):
        need = f"needs {len(pictures)}: {', '.join(pictures)}" if pictures else "takes none"
        raise ValueError(f"{len(request.images)} images were given, but {name} {need}")
    if request.cameras is None and any(role == "ray" for _, role in given):
        raise ValueError(f"{name} needs the cameras (azimuths) of all views")
    if request.cameras is not None and not task.rays:
        raise ValueError(f"{name} has no cameras (azimuths, elevations, distances)")


def _prompt(request: SampleRequest, task: Task) -> str:
    """The whole prompt."""
    text = request.prompt.strip()
    if text.startswith("[["):
        named, rest = prompts.split_token(text)
        if named != task.name:
            raise ValueError(f"the prompt is for {named}, the task is {task.name}: {text!r}")
        if request.regions or request.item or request.sources:
            raise ValueError(f"{text!r} is whole: give no regions, item or source prompts with it")
        prompts.parse_regions(rest)
        return text
    if not text and task.needs_prompt(request.direction):
        raise ValueError(f"{request.direction} needs a prompt")
    sources = list(request.sources)
    if task.group == "identity":
        if len(sources) > len(request.images):
            raise ValueError(f"{len(sources)} source prompts, but {len(request.images)} images")
        if text or sources:  # every source has its place in the prompt, with words or without
            sources += [""] * (len(request.images) - len(sources))
    return prompts.build(
        task.name, text, regions=request.regions, item=request.item, sources=sources or None
    )


def request_of_scene(source: "Source", scene: int, request: SampleRequest) -> SampleRequest:
    """The request with what it lacks taken from a held-out scene of the run's embedded world.

    Pictures of the given frames always, the prompt when it is empty, cameras when there are none;
    with other cameras, only the picture of the first view.

    Raises ValueError when the source has no such world.
    """
    task, _ = find_direction(request.direction)
    data = source.experiment.config.data.name
    if data != "world" or scene < 0:
        raise ValueError(f"{scene=} must be 0 or more, of a source trained on 'world': {data!r}")
    if request.images:
        raise ValueError("a scene brings its own pictures: give no images with it")
    bundle = source.experiment.bundles(task.name, held_out=True, scenes=scene + 1)[scene]
    count, roles = len(bundle.frames), task.roles(len(bundle.frames))
    mask = task.denoise_mask(request.direction, count)
    if request.generate is not None:
        mask = mask_generating(request.generate, count)
    known = [i for i in range(count) if not mask[i]]
    images = tuple(bundle.frames[i] for i in known if roles[i] != "ray")
    fill = {"images": images}
    if request.cameras is not None:
        fill["images"] = images[:1]
    elif "orbit" in bundle.truth:
        first = bundle.truth["orbit"][0]
        fill |= {"focal": first.focal, "elevation": first.elevation_deg}
        if any(roles[i] == "ray" for i in known):
            fill["cameras"] = bundle.truth["cameras"]
    if not (request.prompt.strip() or request.regions or request.item or request.sources):
        fill["prompt"] = bundle.prompt
    return dataclasses.replace(request, **fill)


@dataclasses.dataclass(frozen=True)
class Generated:
    """What came out.

    Attributes:
      request, plan: what was asked.
      latents: (count, frames, h, w, channels) float32, given frames included.
      codec: decodes them.
      depth: of a generated depth map, where the source fixes its range; else None.
      guidance: that was used.
      notes: what the user should know, in sentences.
    """

    request: SampleRequest
    plan: Plan
    latents: np.ndarray
    codec: object
    depth: Normalisation | None
    guidance: float
    notes: tuple[str, ...]

    def picture(self, image: int, frame: int) -> np.ndarray:
        """uint8 (H, W, 3) of one frame; rays as the colours of their directions."""
        from onediff_jax.evaluation.sheet import picture

        return picture(self.latents[image, frame], self.codec, self.plan.roles[frame])

    def metric_depth(self, image: int, frame: int) -> np.ndarray | None:
        """(H, W) float32 in world units, inf for sky; None when the range is not known."""
        if self.depth is None or self.plan.roles[frame] != "depth":
            return None
        values = (self.codec.decode(self.latents[image, frame]) + 1) * 127.5
        return get_role("depth").read(np.asarray(values), {"depth_norm": self.depth})

    def cameras(self, image: int) -> cams.Cameras:
        """The cameras of all views, read off the ray frames, relative to the first."""
        rays = [f for f, role in enumerate(self.plan.roles) if role == "ray"]
        values = cams.rays_from_frames(self.latents[image, rays])
        intrinsics = self.request.cameras or ([2 * self.request.focal] * 2, [0.0, 0.0])
        return cams.rebase(cams.cameras_from_rays(values, intrinsics))


def generate(
    source: "Source", request: SampleRequest, progress: Callable = lambda steps: steps
) -> Generated:
    """Generates what the request asks for; `progress` wraps the range of steps (such as tqdm).

    Raises ValueError when the request does not fit its task or the source.
    """
    import jax

    from onediff_jax.flow import denoise

    plan = make_plan(request)
    experiment = source.experiment
    size = request.size or trained_size(experiment, plan.task, request.images)
    given = _given_latents(request, plan, size, experiment.codec)
    seeds = range(request.seed, request.seed + request.count)
    noise = [np.random.default_rng(s).standard_normal(given.shape, np.float32) for s in seeds]
    text, text_mask = experiment.text_encoder([plan.prompt])
    null, null_mask = experiment.text_encoder([request.negative_prompt])
    guidance = experiment.config.log.guidance if request.guidance is None else request.guidance

    latents = denoise(
        functools.partial(_network(experiment.graphdef), source.params),
        # Placed as the network's results will be, so that the second step compiles nothing new.
        jax.device_put(np.stack(noise), jax.devices()[0]),
        np.stack([given] * request.count),
        plan.generate,
        *(np.repeat(a, request.count, axis=0) for a in (text, text_mask, null, null_mask)),
        num_steps=request.steps,
        guidance=guidance,
        patch=experiment.model_config.patch_size,
        progress=progress,
    )
    return Generated(
        request,
        plan,
        np.asarray(latents),
        experiment.codec,
        _depth_range(experiment),
        guidance,
        tuple(_notes(experiment, plan, bool(text_mask[0, -1]))),
    )


@functools.cache
def _network(graphdef) -> Callable:
    """The compiled network, one for all requests: (params, latents, timesteps, text, mask)."""
    import jax
    from flax import nnx

    return jax.jit(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))


def trained_size(experiment: "Experiment", task: Task, images: Sequence) -> tuple[int, int]:
    """(height, width): of the task's trained sizes the one most like the first image, or square."""
    sizes = experiment.sizes.get(task.group) or next(iter(experiment.sizes.values()))
    ratio = images[0].shape[1] / images[0].shape[0] if images else 1.0
    return min(sizes, key=lambda s: abs(np.log(s[1] / s[0] / ratio)))


def _given_latents(request: SampleRequest, plan: Plan, size: tuple[int, int], codec) -> np.ndarray:
    """(frames, h, w, channels) float32: the given frames, zeros for those to generate."""
    images = iter(request.images)
    zeros = np.zeros_like(codec.encode(np.zeros((*size, 3), np.uint8)))
    latents = [zeros] * len(plan.roles)
    for index, (role, wanted) in enumerate(zip(plan.roles, plan.generate, strict=True)):
        if role == "ray" and not wanted:
            rays = cams.rays_from_cameras(request.cameras[index // 2], zeros.shape[:2])
            latents[index] = cams.ray_frames(rays)[0]
        elif not wanted:
            latents[index] = codec.encode(fit(next(images), size, nearest=get_role(role).nearest))
    return np.stack(latents).astype(np.float32)


def _depth_range(experiment) -> Normalisation | None:
    from onediff_jax.data.world_bundles import DEPTH_RANGE

    if experiment.config.data.name != "world":
        return None
    return Normalisation(**DEPTH_RANGE)


def _notes(experiment, plan: Plan, full: bool):
    name, group = plan.task.name, plan.task.group
    if not experiment.config.data.tasks.get(name, 0):
        yield f"the source was not trained on {name}"
    most = max((s.frames for s in experiment.layout.slots if s.group == group), default=0)
    if most and len(plan.roles) > most:
        yield f"{len(plan.roles)} frames; the source was trained on at most {most} of {name}"
    if full:
        yield "the prompt is as long as the text encoder takes; words beyond that were cut"
