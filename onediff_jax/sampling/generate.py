"""From requests to pictures, depth and cameras: what `sample`, the page and the API call.

source = load_source("runs/t2i_multitask")
[result] = generate(source, Request("depth2image", "a red cube", images=(depth,)))
result.picture(0)  # uint8 (H, W, 3)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.encode import kept_pixels, trained_size
from onediff_jax.sampling.request import UNIT, Plan, Request, make_plan
from onediff_jax.sampling.sampler import Frames, Sampler
from onediff_jax.sampling.show import picture
from onediff_jax.sampling.source import Source
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks.depth import Normalisation
from onediff_jax.tasks.roles import get_role

_TOGETHER = 8  # requests per call of the compiled program


@dataclasses.dataclass(frozen=True)
class Generated:
    """What came out of one request.

    Attributes:
      request, plan: what was asked.
      latents: frames (h, w, c) float32, given frames included.
      codec: decodes them.
      depth: of a generated depth map, where the source fixes its range; else None.
      steps, guidance: that were used.
      notes: what the user should know, in sentences.
    """

    request: Request
    plan: Plan
    latents: Frames
    codec: Any
    depth: Normalisation | None
    steps: int
    guidance: float
    notes: tuple[str, ...] = ()

    @property
    def generated(self) -> list[int]:
        """Numbers of the frames that were generated."""
        return [f for f, wanted in enumerate(self.plan.generate) if wanted]

    def picture(self, frame: int) -> np.ndarray:
        """uint8 (H, W, 3) of one frame, as its role is shown; inpainting keeps given pixels."""
        drawn = picture(self.latents[frame], self.codec, self.plan.roles[frame])
        kept = kept_pixels(self.request, self.plan, drawn.shape[:2]) if frame == 0 else None
        return drawn if kept is None else np.where(kept[1][..., None], drawn, kept[0])

    def metric_depth(self, frame: int) -> np.ndarray | None:
        """(H, W) float32 in world units, inf for sky; None when the range is not known."""
        if self.depth is None or self.plan.roles[frame] != "depth":
            return None
        values = (self.codec.decode(self.latents[frame]) + 1) * 127.5
        return get_role("depth").read(np.asarray(values), {"depth_norm": self.depth})

    def cameras(self) -> cams.Cameras:
        """The cameras of all views, read off the ray frames, relative to the first."""
        rays = [a for a, role in zip(self.latents, self.plan.roles, strict=True) if role == "ray"]
        intrinsics = self.request.cameras or ([2 * self.request.focal] * 2, [0.0, 0.0])
        return cams.rebase(
            cams.cameras_from_rays(cams.rays_from_frames(np.stack(rays)), intrinsics)
        )


def generate(
    source: Source,
    requests: Request | Sequence[Request],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    progress: Callable | None = None,
    watch: Callable[[int, list[Generated]], Any] | None = None,
    watch_every: int = 1,
) -> list[Generated]:
    """Generates what is asked for. Requests of one shape run together.

    Args:
      requests: one or several.
      steps: Euler steps; None is what the source says of each direction.
      guidance: of the prompt; 1 is off, None is what the source was sampled with in training.
      progress: wraps the iteration over steps (such as tqdm).
      watch: called as (steps done, results so far) after every `watch_every` steps, with what is
        being generated as far as it shows.

    Raises ValueError when a request does not fit its task or the source.
    """
    requests = [requests] if isinstance(requests, Request) else list(requests)
    experiment = source.experiment
    guided: float = experiment.config.log.guidance if guidance is None else guidance
    plans = [make_plan(request, experiment.tasks) for request in requests]
    results: list = [None] * len(requests)
    counts = [source.steps_of(r.direction) if steps is None else steps for r in requests]

    def result(index: int, frames: Frames, notes: tuple[str, ...] = ()) -> Generated:
        depth = experiment.depth
        one = (requests[index], plans[index], frames, experiment.codec, depth)
        return Generated(*one, counts[index], guided, notes)

    shapes: dict[tuple, list[int]] = {}
    for index, (request, plan) in enumerate(zip(requests, plans, strict=True)):
        shape = _shape(experiment, request, plan)
        shapes.setdefault((*shape, counts[index]), []).append(index)
    for (group, frames, tokens, count), indices in shapes.items():
        sampler = Sampler(
            experiment,
            rows=min(len(indices), _TOGETHER),
            steps=count,
            guidance=guided,
            layout=RowLayout((Slot(group, frames, tokens),)),
            mesh=source.mesh,
        )

        def show(step, found, indices=indices):
            assert watch is not None  # else nobody is shown anything
            pairs = zip(indices, found, strict=True)
            watch(step, [result(index, frames) for index, frames in pairs if frames])

        found = sampler(
            source.params,
            [requests[index] for index in indices],
            progress or (lambda steps: steps),
            stepwise=True,  # one program for any number of steps
            watch=show if watch else None,
            watch_every=watch_every,
        )
        for index, frames in zip(indices, found, strict=True):
            notes = tuple(_notes(experiment, requests[index], plans[index]))
            results[index] = result(index, frames, notes)
    return results


def _shape(experiment: Experiment, request: Request, plan: Plan) -> tuple[str, int, int]:
    """Group, frames and tokens per frame of a slot that just holds the request."""
    if request.gives_latents:
        height, width = (side * UNIT // 2 for side in request.images[0].shape[:2])
    else:
        height, width = request.size or trained_size(experiment, plan.task, request.images)
    return plan.task.group, len(plan.roles), height * width // UNIT**2


def _notes(experiment: Experiment, request: Request, plan: Plan):
    name, group = plan.task.name, plan.task.group
    if not experiment.config.data.tasks.get(name, 0):
        yield f"the source was not trained on {name}"
    most = max((s.frames for s in experiment.layout.slots if s.group == group), default=0)
    if most and len(plan.roles) > most:
        yield f"{len(plan.roles)} frames; the source was trained on at most {most} of {name}"
    if request.text is None and experiment.packer.text_encoder([plan.prompt])[1][0, -1]:
        yield "the prompt is as long as the text encoder takes; words beyond that were cut"
