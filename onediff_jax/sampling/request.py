"""What is asked of a model: a direction, what is given, a prompt, a seed.

Everything that samples says it with a `Request`: the commands, the page, previews and evaluation.
`make_plan` checks one against its task; numpy only.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from onediff_jax.data.bundle import Encoded
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks import prompts
from onediff_jax.tasks.definitions import BUILT_IN, Task, TaskSet, mask_generating
from onediff_jax.tasks.roles import get_role

UNIT = 16  # pixels per token side: 8 per latent, 2 latents per token
FOCAL = 1.3887  # of cameras whose focal length is not told, in units of the smaller image side


@dataclasses.dataclass(frozen=True)
class Request:
    """What to generate, and what from.

    Attributes:
      direction: a name that tasks.find_direction knows.
      prompt: the plain caption, or the whole prompt when it starts with a task's [[token]].
      images: the given pictures in the order of their frames: uint8 (H, W, 3) of any size. Or all
        given frames, ray maps too, as latents (h, w, c) of one size, which are taken as they are.
      from_image: the one of `images` is an ordinary picture, and the given frames are made of it as
        their roles say (edges, blur, …).
      mask: (H, W) bool of that picture, for image_inpainting: True is painted anew.
      keep_given: whether inpainting puts the given pixels back into the result.
      generate: frames to generate, counted from 0; None: as the direction says. In direction
        multiview every view that has no picture is generated.
      cameras: of all views, for the multiview task; None where no ray is given.
      camera_size: (height, width) of the pictures that `cameras` belong to, which are cropped to
        what is generated; None: they belong to what is generated.
      focal: in units of the smaller image side, of cameras that are to be found.
      elevation: degrees above the floor of the first of those; it only says which way is up.
      size: (height, width) in pixels, multiples of 16; None: that of given latents, or the trained
        size nearest in shape to the first picture.
      regions, item, sources: as in tasks.prompts.build.
      negative_prompt: what guidance leads away from.
      seed: of the starting noise: a result does not depend on what else is generated.
      text: (l, d) embedding of the whole prompt, where it was computed beforehand.
    """

    direction: str
    prompt: str = ""
    images: tuple[np.ndarray, ...] = ()
    from_image: bool = False
    mask: np.ndarray | None = dataclasses.field(default=None, repr=False)
    keep_given: bool = True
    generate: tuple[int, ...] | None = None
    cameras: cams.Cameras | None = None
    camera_size: tuple[int, int] | None = None
    focal: float = FOCAL
    elevation: float = 0.0
    size: tuple[int, int] | None = None
    regions: tuple[tuple[str, str], ...] = ()
    item: str | None = None
    sources: tuple[str, ...] = ()
    negative_prompt: str = ""
    seed: int = 0
    text: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def gives_latents(self) -> bool:
        """Whether `images` are latents of all given frames."""
        return any(image.dtype != np.uint8 for image in self.images)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A request that has been checked: its task, whole prompt, and per frame role and mask."""

    task: Task
    prompt: str
    roles: tuple[str, ...]
    generate: tuple[bool, ...]


def request_of_example(
    direction: str, example: Encoded, generate: Sequence[bool], seed: int = 0
) -> Request:
    """A request for some frames of an encoded example, the others given as they are.

    Args:
      direction: what generating those frames is called.
      generate: per frame; the content of generated frames is ignored.
    """
    given = [f for f, wanted in zip(example.frames, generate, strict=True) if not wanted]
    height, width = example.frames[0].shape[:2]
    return Request(
        direction,
        example.prompt,
        images=tuple(given),
        generate=tuple(i for i, wanted in enumerate(generate) if wanted),
        size=(height * UNIT // 2, width * UNIT // 2),
        text=example.text,
        seed=seed,
    )


def given_roles(task: Task, direction: str) -> list[str]:
    """The roles of the frames that a direction is given in its shortest bundle, in their order."""
    mask = task.denoise_mask(direction, task.min_frames)
    roles = zip(task.roles(task.min_frames), mask, strict=True)
    return [role for role, wanted in roles if not wanted]


def derivable(tasks: TaskSet = BUILT_IN) -> list[str]:
    """The directions whose given frames an ordinary picture is enough to make."""
    pairs = ((found.name, given_roles(task, found.name)) for task, found in tasks.directions())
    return [name for name, roles in pairs if roles and all(get_role(r).derived for r in roles)]


def make_plan(request: Request, tasks: TaskSet = BUILT_IN) -> Plan:
    """Checks everything that does not depend on the model.

    Args:
      tasks: where the direction is looked up: those of the source's experiment.

    Raises ValueError that names the field, its value and the choices.
    """
    task, _ = tasks.find_direction(request.direction)
    for name, least in (("seed", 0), ("focal", 1e-6)):
        if not getattr(request, name) >= least:
            raise ValueError(f"{name}={getattr(request, name)} must be at least {least}")
    if request.size and any(side < UNIT or side % UNIT for side in request.size):
        raise ValueError(f"height and width {request.size} must be positive multiples of {UNIT}")
    _check_from_image(request, task, tasks)
    roles, mask = _frames(request, task)
    _check_given(request, task, roles, mask)
    return Plan(task, _prompt(request, task, tasks), roles, mask)


def _check_from_image(request: Request, task: Task, tasks: TaskSet) -> None:
    name = request.direction
    if not request.from_image:
        if request.mask is not None:
            raise ValueError(
                "a mask says where an ordinary picture is painted: it needs from_image"
            )
        return
    if name not in derivable(tasks) or request.generate is not None or request.gives_latents:
        raise ValueError(
            f"from_image works for {derivable(tasks)}, without a choice of frames. Otherwise "
            f"give the condition of {name} itself as image"
        )
    if len(request.images) != 1:
        raise ValueError(f"from_image takes one image; got {len(request.images)}")
    needs = any(get_role(role).needs_mask for role in given_roles(task, name))
    if (request.mask is not None) != needs:
        raise ValueError("a mask is needed to inpaint an ordinary image, and for nothing else")
    if request.mask is None:
        return
    if request.mask.shape != request.images[0].shape[:2]:
        sizes = [f"{s[1]}x{s[0]}" for s in (request.mask.shape, request.images[0].shape)]
        raise ValueError(f"mask has {sizes[0]} pixels, the image {sizes[1]}: they must agree")
    if not request.mask.any():
        raise ValueError("mask is black everywhere: nothing is to be painted anew")


def _given_images(request: Request, task: Task) -> int:
    """How many given pictures the request's images stand for."""
    return len(given_roles(task, request.direction) if request.from_image else request.images)


def _frames(request: Request, task: Task) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """How many frames there are, their roles, and which are generated."""
    name, images = request.direction, _given_images(request, task)
    chosen = request.generate
    if request.gives_latents:
        count = images + len(set(chosen or ()))
    elif task.min_frames == task.max_frames:
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


def _check_given(request: Request, task: Task, roles, mask) -> None:
    name = request.direction
    given = [(i, r) for i, (r, wanted) in enumerate(zip(roles, mask, strict=True)) if not wanted]
    if request.gives_latents and request.cameras is not None:
        raise ValueError(f"latents of given frames hold the ray maps: {name} takes no cameras too")
    listed = [(i, role) for i, role in given if role != "ray" or request.gives_latents]
    pictures = [f"{role} (frame {i})" for i, role in listed]
    if len(pictures) != _given_images(request, task):
        need = f"needs {len(pictures)}: {', '.join(pictures)}" if pictures else "takes none"
        raise ValueError(f"{len(request.images)} images were given, but {name} {need}")
    if request.cameras is None and len(listed) < len(given):
        raise ValueError(f"{name} needs the cameras (azimuths) of all views")
    if request.cameras is not None and not task.rays:
        raise ValueError(f"{name} has no cameras (azimuths, elevations, distances)")


def _prompt(request: Request, task: Task, tasks: TaskSet) -> str:
    """The whole prompt."""
    text = request.prompt.strip()
    if text.startswith("[["):
        named, rest = prompts.split_token(text, tasks)
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
        task.name,
        text,
        regions=request.regions,
        item=request.item,
        sources=sources or None,
        tasks=tasks,
    )
