"""Our own predictions of a benchmark's examples, as files in its layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from onediff_jax.data.codec import to_uint8
from onediff_jax.evaluation.benchmarks.base import Item
from onediff_jax.evaluation.benchmarks.depth import DepthBenchmark
from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS
from onediff_jax.sampling.request import Request
from onediff_jax.sampling.sampler import Sampler
from onediff_jax.sampling.source import Source
from onediff_jax.tasks.depth import nearness

_PART = 16  # examples generated at a time; each is a file afterwards


def can_predict(name: str) -> bool:
    """Whether a model's own predictions of that benchmark can be made."""
    return issubclass(BENCHMARKS[name], DepthBenchmark)


def predict_depth(
    source: Source,
    benchmark: DepthBenchmark,
    out: Path,
    *,
    steps: int,
    guidance: float,
    seed: int,
    limit: int | None = None,
    advance: Callable[[int], Any] = lambda count: None,
) -> None:
    """Writes pred_<n>.png, 16-bit grey linear in 1/depth, for every picture; goes on with the rest.

    The picture is resized to the trained size of its shape, and the map back to the picture's.
    """
    experiment = source.experiment
    sampler = Sampler(
        experiment, rows=experiment.config.log.sample_rows, steps=steps, guidance=guidance
    )
    items = list(enumerate(benchmark.items[:limit]))
    for first in range(0, len(items), _PART):
        part = items[first : first + _PART]
        asked = [(i, item) for i, item in part if not _file(benchmark, item, out).exists()]
        if asked:
            _predict(source, sampler, benchmark, asked, out, seed)
        advance(len(part))


def _predict(source, sampler, benchmark, asked, out: Path, seed: int) -> None:
    pictures = [np.asarray(Image.open(item.files["image"]).convert("RGB")) for _, item in asked]
    requests = [
        Request("image2depth", images=(picture,), seed=seed * 2**20 + index)
        for (index, _), picture in zip(asked, pictures, strict=True)
    ]
    generated = sampler(source.params, requests)
    for (_, item), picture, frames in zip(asked, pictures, generated, strict=True):
        grey = np.maximum(nearness(to_uint8(source.experiment.codec.decode(frames[1]))), 0)
        height, width = picture.shape[:2]
        whole = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
        file = _file(benchmark, item, out)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}")
        Image.fromarray(np.rint(whole * 65535).astype(np.uint16)).save(beside, "png")
        beside.replace(file)


def _file(benchmark: DepthBenchmark, item: Item, out: Path) -> Path:
    return out / Path(item.name).parent / f"pred_{benchmark.stem(item)}.png"
