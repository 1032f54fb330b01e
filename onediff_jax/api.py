"""onediff_jax in Python: load a trained model, ask it, measure it, hand it on.

    from onediff_jax import api

    source = api.load("assets/tiny")
    [result] = api.sample(source, "depth2image", "a red cube", images=[depth])
    result.picture(0)  # uint8 (H, W, 3)

The commands do the same with the same functions; docs/python.md shows them all. Importing this
module loads nothing; jax comes when something is loaded or sampled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from onediff_jax.evaluation.scoring import Evaluation
    from onediff_jax.sampling.directions import Asking
    from onediff_jax.sampling.generate import Generated
    from onediff_jax.sampling.request import Request
    from onediff_jax.sampling.source import Source
    from onediff_jax.tasks.cameras import Cameras

__all__ = [
    "Request",
    "evaluate",
    "export",
    "generate",
    "load",
    "orbit",
    "read_cameras",
    "read_image",
    "request_of_scene",
    "sample",
    "save",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name == "Request":
        from onediff_jax.sampling.request import Request

        return Request
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str | Path, *, ema: bool = True, step: int | None = None) -> "Source":
    """A trained model, ready to be used, from the workdir of a run or an exported folder.

    Args:
      path: folder with config.json and checkpoints, or with model_index.json.
      ema: the moving average rather than the raw weights; an export holds one of them.
      step: of the checkpoint; None for the newest.

    Raises ValueError when the folder is neither, or holds no such checkpoint.
    """
    from onediff_jax.sampling.source import load_source

    return load_source(path, ema=ema, step=step)


def tasks(source: "Source") -> "dict[str, Asking]":
    """Every direction by its name: what it is given, what it generates, whether it was trained."""
    from onediff_jax.sampling.directions import directions_of

    return directions_of(source.experiment)


def sample(
    source: "Source",
    direction: str,
    prompt: str = "",
    *,
    images: "Sequence[np.ndarray]" = (),
    count: int = 1,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    **fields: Any,
) -> "list[Generated]":
    """Generates `count` results with the seeds seed, seed + 1, …

    Args:
      direction: one of `tasks(source)`.
      prompt: the plain caption, or the whole prompt when it starts with a task's [[token]].
      images: given pictures, uint8 (H, W, 3) of any size, in the order of their frames.
      steps: Euler steps; None is what the source says of the direction.
      guidance: of the prompt; 1 is off, None is what the source was sampled with in training.
      **fields: any other field of `Request`: cameras, regions, mask, size, …

    Returns results with .picture(frame), .metric_depth(frame), .cameras().

    Raises ValueError that names what does not fit.
    """
    from onediff_jax.sampling.request import Request

    if count < 1:
        raise ValueError(f"{count=} must be at least 1")
    requests = [
        Request(direction, prompt, tuple(images), seed=seed + i, **fields) for i in range(count)
    ]
    return generate(source, requests, steps=steps, guidance=guidance)


def generate(
    source: "Source", requests: "Request | Sequence[Request]", **options: Any
) -> "list[Generated]":
    """Generates any requests, each with a result; those of one shape run together.

    Args:
      **options: steps, guidance, progress, watch, watch_every of sampling.generate.generate.
    """
    from onediff_jax.sampling.generate import generate as run

    return run(source, requests, **options)


def request_of_scene(source: "Source", scene: int, request: "Request") -> "Request":
    """The request with pictures, cameras and words of a held-out scene of the embedded world."""
    from onediff_jax.sampling.scene import request_of_scene as fill

    return fill(source, scene, request)


def save(results: "Sequence[Generated]", out: str | Path) -> list[Path]:
    """Writes results as OUT.png (with what they were made with), depth (.npy), cameras (.json)."""
    from onediff_jax.sampling.write import write

    return write(results, Path(out))


def read_image(path: str | Path, role: str = "image", **options: Any) -> "np.ndarray":
    """A file as a given frame, uint8 (H, W, 3): a picture, or depth and class maps in numbers.

    Args:
      role: what it is: "image", "depth", "semanticmap", …
      **options: depth_scale, depth_near, depth_far, classes of sampling.read.FileReader.
    """
    from onediff_jax.sampling.read import FileReader

    return FileReader(**options).read(path, role)[0]


def read_cameras(path: str | Path) -> "tuple[Cameras, tuple[int, int]]":
    """The cameras of a transforms.json and the (height, width) of its pictures: the fields
    `cameras` and `camera_size` of a request."""
    from onediff_jax.sampling.read import cameras_of

    return cameras_of(path)


def orbit(
    azimuths: Sequence[float],
    elevations: float | Sequence[float] = 0.0,
    distances: float | Sequence[float] = 1.7,
    *,
    focal: float | None = None,
) -> "Cameras":
    """Cameras that look at the scene's centre from around it; angles in degrees.

    Args:
      focal: in units of the image side; None: a field of view of 39.6°.
    """
    from onediff_jax.sampling.request import FOCAL
    from onediff_jax.tasks.cameras import orbit_cameras

    return orbit_cameras(azimuths, elevations, distances, focal=focal or FOCAL)


def evaluate(source: "Source", **settings: Any) -> "Evaluation":
    """Measures a model on held-out examples, every direction beside its controls.

    Args:
      **settings: of evaluation.scoring.Settings: tasks, scenes, steps, guidance, seed.
    """
    from onediff_jax.evaluation.scoring import Settings
    from onediff_jax.evaluation.scoring import evaluate as measure

    return measure(source, Settings(**settings), quiet=True)


def export(workdir: str | Path, out: str | Path, **options: Any) -> None:
    """Turns a run into a folder that diffusers loads.

    Args:
      **options: the command's: step, ema, dtype, verify, overwrite, ….
    """
    from onediff_jax.export import Options
    from onediff_jax.export import export as run

    run(workdir, out, Options(**options), say=lambda line: None)
