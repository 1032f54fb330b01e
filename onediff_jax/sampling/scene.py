"""Requests about held-out scenes of the embedded world: pictures, cameras and words to try with."""

import dataclasses

from onediff_jax.sampling.request import Request
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.definitions import mask_generating


def request_of_scene(source: Source, scene: int, request: Request) -> Request:
    """The request with what it lacks taken from a held-out scene of the run's embedded world.

    Pictures of the given frames always, the prompt when it is empty, cameras when there are none;
    with other cameras, only the picture of the first view.

    Raises ValueError when the source has no such world.
    """
    task, _ = source.experiment.tasks.find_direction(request.direction)
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
