"""Requests of one's own while a run trains: each result beside that of step 0."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.evaluation.sheet import draw_sheet
from onediff_jax.experiment.build import Experiment
from onediff_jax.files import replace_file
from onediff_jax.sampling.encode import encode, trained_size
from onediff_jax.sampling.lines import read_requests
from onediff_jax.sampling.request import Request, make_plan
from onediff_jax.sampling.sampler import Sampler, pack
from onediff_jax.sampling.show import picture

FOLDER = "prompts"  # of the workdir, and the name of the pictures


class OwnPrompts:
    """The requests of log.prompts; call it with parameters for a sheet.

    What step 0 made is kept in the workdir, for all later sheets and a run that goes on. A line
    that was not in the file then has nothing at its left.

    Args:
      experiment: of the run.
      file: log.prompts.

    Raises ValueError that names the line of a request that the run cannot sample.
    """

    def __init__(self, experiment: Experiment, file: str):
        self._experiment = experiment
        self._requests = read_requests(file, experiment.tasks)
        self._plans = [make_plan(request, experiment.tasks) for request in self._requests]
        for number, (request, plan) in enumerate(zip(self._requests, self._plans, strict=True), 1):
            if not experiment.config.data.tasks.get(plan.task.name):
                trained = [name for name, w in experiment.config.data.tasks.items() if w]
                raise ValueError(
                    f"log.prompts={file}, request {number}: this run does not train "
                    f"{plan.task.name}; it trains {trained}"
                )
            try:
                if experiment.config.text.kind == "cached":
                    experiment.packer.text_encoder([plan.prompt])
                pack([encode(request, plan, experiment)], experiment.layout.slots)
            except ValueError as error:
                raise ValueError(f"log.prompts={file}, request {number}: {error}") from None

    def __call__(
        self, sampler: Sampler, params: Any, step: int, workdir: Path, *, write: bool
    ) -> np.ndarray:
        """uint8 (H, W, 3): per request what was given, its result at step 0, and now.

        Args:
          sampler: as all samples of the run.
          workdir: where step 0's results are kept. write: whether this process writes them.
        """
        made = [
            [
                picture(frame, self._experiment.codec, role)
                for frame, role, wanted in zip(frames, plan.roles, plan.generate, strict=True)
                if wanted
            ]
            for frames, plan in zip(sampler(params, self._requests), self._plans, strict=True)
        ]
        folder = workdir / FOLDER / "step_0"
        if step == 0 and write:
            self._keep(folder, made)
        rows = []
        for request, plan, pictures in zip(self._requests, self._plans, made, strict=True):
            size = request.size or trained_size(self._experiment, plan.task, request.images)
            words = f"{plan.prompt} (seed {request.seed}, {size[1]}x{size[0]})"
            first = pictures if step == 0 else _kept(folder / _file_of(request))
            cells = {"given": list(request.images), "step 0": first, f"step {step}": pictures}
            rows.append((request.direction, words, cells))
        return draw_sheet(rows)

    def _keep(self, folder: Path, made: list[list[np.ndarray]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for request, pictures in zip(self._requests, made, strict=True):
            opened = io.BytesIO()
            np.savez_compressed(opened, *pictures)
            replace_file(folder / _file_of(request), opened.getvalue())


def _kept(file: Path) -> list[np.ndarray]:
    """What step 0 made; nothing where the request was not there."""
    if not file.is_file():
        return []
    with np.load(file) as stored:
        return [stored[name] for name in stored.files]


def _file_of(request: Request) -> str:
    """A name that is another where anything that is asked is another."""
    digest = hashlib.sha256(repr((request.direction, request.prompt, request.seed)).encode())
    cameras = () if request.cameras is None else (request.cameras.R, request.cameras.T)
    for array in (*request.images, *cameras):
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return f"{digest.hexdigest()[:16]}.npz"
