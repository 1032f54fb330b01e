"""From a benchmark's examples to files of predictions: what every benchmark shares.

Examples → requests → sampled pictures → files. Files that are there are kept, so that a killed
evaluation goes on; they are made anew where other weights or settings made them.
"""

import abc
import dataclasses
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from onediff_jax.data.codec import to_uint8
from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.evaluation.benchmarks.base import Benchmark, Item
from onediff_jax.experiment.build import Experiment
from onediff_jax.files import read_json, replace_file, write_json
from onediff_jax.sampling.encode import trained_size
from onediff_jax.sampling.request import UNIT, Request, make_plan
from onediff_jax.sampling.sampler import Sampler
from onediff_jax.sampling.source import Source

MADE_BY = "made_by.json"
_PART = 16  # examples generated at a time; each is a file afterwards
_REQUESTS = 64  # at most so many of one example have noise of their own
Made = list[np.ndarray]  # the pictures that a request generated, uint8 (H, W, 3)


class Predictor(abc.ABC):
    """How a model answers the examples of one benchmark.

    Attributes:
      direction: that is asked.
      protocol: what the rows' protocol says besides, where the model is told more than pictures.

    Args:
      benchmark: whose examples are predicted.
      experiment: of the model.
      out: folder of the predictions.
    """

    direction: ClassVar[str]
    protocol: ClassVar[str] = ""

    def __init__(self, benchmark: Benchmark, experiment: Experiment, out: Path):
        self.benchmark, self.experiment, self.out = benchmark, experiment, out
        self.task, _ = experiment.tasks.find_direction(self.direction)
        if not experiment.config.data.tasks.get(self.task.name):
            trained = [name for name, weight in experiment.config.data.tasks.items() if weight]
            raise ValueError(
                f"{benchmark.name} asks for {self.direction}, which this model was not trained on: "
                f"{trained}"
            )

    @abc.abstractmethod
    def requests(self, item: Item) -> list[Request]:
        """What is asked of the model for an example; seeds are set by `predict`."""

    @abc.abstractmethod
    def write(self, item: Item, made: list[Made]) -> None:
        """Writes an example's files, each whole or not at all; `made` is in the requests' order."""

    @abc.abstractmethod
    def done(self, item: Item) -> bool:
        """Whether all of an example's files are there."""

    def finish(self, items: Sequence[Item]) -> None:  # noqa: B027 most need nothing
        """What is written when every example has its files."""

    def stretched(self, picture: np.ndarray) -> np.ndarray:
        """A whole picture at the trained size nearest in shape: nothing is cropped away."""
        height, width = trained_size(self.experiment, self.task, [picture])
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(resized)


def predict(
    source: Source,
    predictor: Predictor,
    *,
    steps: int,
    guidance: float,
    seed: int,
    limit: int | None = None,
    share: tuple[int, int] = (0, 1),
    advance: Callable[[int], Any] = lambda count: None,
) -> None:
    """Writes the files of every example that has none yet.

    Noise depends on the seed and the example alone.

    Args:
      limit: only the first so many examples.
      share: (which, of how many) processes this one is; each takes every so-manieth example.
      advance: called with the number of examples after every part.
    """
    sampler = _Samplers(source, steps, guidance)
    items = list(enumerate(predictor.benchmark.items[:limit]))[share[0] :: share[1]]
    for first in range(0, len(items), _PART):
        part = items[first : first + _PART]
        asked = [
            (item, place, dataclasses.replace(request, seed=_seed(seed, index, place)))
            for index, item in part
            if not predictor.done(item)
            for place, request in enumerate(predictor.requests(item))
        ]
        made = sampler(source.params, [request for _, _, request in asked])
        of_item: dict[str, list[Made]] = {}
        for (item, _, _), pictures in zip(asked, made, strict=True):
            of_item.setdefault(item.name, []).append(pictures)
        for _, item in part:
            if not predictor.done(item):
                predictor.write(item, of_item.get(item.name, []))
        advance(len(part))


def _seed(seed: int, index: int, place: int) -> int:
    return (seed * 2**20 + index) * _REQUESTS + place


class _Samplers:
    """Generates requests of any shape; one compiled program per shape, of as many rows always."""

    def __init__(self, source: Source, steps: int, guidance: float):
        self._experiment = source.experiment
        self._options = {
            **{"steps": steps, "guidance": guidance},
            **{"rows": source.rows, "mesh": source.mesh},
        }
        self._made: dict[Slot, Sampler] = {}

    def __call__(self, params: Any, requests: Sequence[Request]) -> list[Made]:
        slots: dict[Slot, list[int]] = {}
        plans = [make_plan(request, self._experiment.tasks) for request in requests]
        for place, (request, plan) in enumerate(zip(requests, plans, strict=True)):
            size = request.size or trained_size(self._experiment, plan.task, request.images)
            slot = Slot(plan.task.group, len(plan.roles), size[0] * size[1] // UNIT**2)
            slots.setdefault(slot, []).append(place)
        found: list = [None] * len(requests)
        for slot, places in slots.items():
            frames = self._sampler(slot)(params, [requests[place] for place in places])
            for place, latents in zip(places, frames, strict=True):
                found[place] = [
                    to_uint8(self._experiment.codec.decode(frame))
                    for frame, wanted in zip(latents, plans[place].generate, strict=True)
                    if wanted
                ]
        return found

    def _sampler(self, slot: Slot) -> Sampler:
        if slot not in self._made:
            layout = RowLayout((slot,))
            self._made[slot] = Sampler(self._experiment, layout=layout, **self._options)
        return self._made[slot]


def prepare_folder(out: Path, made_by: dict[str, Any]) -> bool:
    """Makes the folder ready for predictions of these weights and settings.

    Returns whether predictions of others were there, which are gone then.

    Raises ValueError for a folder with files that no evaluation wrote.
    """
    file, others = out / MADE_BY, False
    if file.is_file():
        if read_json(file) == made_by:
            return False
        shutil.rmtree(out)
        others = True
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} holds files that this command did not write; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, made_by)
    return others


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """A PNG, whole or not at all; uint8 or uint16, one channel or three."""
    opened = io.BytesIO()
    Image.fromarray(pixels).save(opened, "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, opened.getvalue())
