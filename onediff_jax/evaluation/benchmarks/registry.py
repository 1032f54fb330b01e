"""All benchmarks by name."""

from pathlib import Path
from typing import Any

from onediff_jax.evaluation.benchmarks.base import Benchmark, LayoutError
from onediff_jax.evaluation.benchmarks.coco import COCOBoxes, COCOPose
from onediff_jax.evaluation.benchmarks.depth import DIODE, NYUv2
from onediff_jax.evaluation.benchmarks.edges import BSDS500
from onediff_jax.evaluation.benchmarks.geneval import GenEval
from onediff_jax.evaluation.benchmarks.pie import PIEBench
from onediff_jax.evaluation.benchmarks.segmentation import ADE20K, Cityscapes
from onediff_jax.evaluation.benchmarks.views import GSO30

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        *(NYUv2, DIODE, GSO30, GenEval, PIEBench),
        *(BSDS500, ADE20K, Cityscapes, COCOBoxes, COCOPose),
    )
}
# Benchmarks whose every number comes from networks that are not part of this project.
_NEED_NETWORKS = {"dreambench": "DINO and CLIP"}


def benchmark_of(text: str) -> tuple[str, Path]:
    """Name and folder of NAME:FOLDER. Raises ValueError for another form or an unknown name."""
    name, colon, folder = text.partition(":")
    if not colon or not folder:
        raise ValueError(f"--benchmark={text} must be NAME:FOLDER; names: {', '.join(BENCHMARKS)}")
    if name in _NEED_NETWORKS:
        raise ValueError(
            f"--benchmark={name}: all its numbers need {_NEED_NETWORKS[name]}, which is not "
            "supported yet; nothing can be scored without"
        )
    if name not in BENCHMARKS:
        raise ValueError(f"--benchmark={text}: {name!r} must be one of {', '.join(BENCHMARKS)}")
    if not Path(folder).is_dir():
        raise LayoutError(f"--benchmark={text}: {folder} is no folder")
    return name, Path(folder)


def open_benchmark(
    name: str, folder: Path, predictions: Path | None, options: dict[str, Any]
) -> Benchmark:
    """The benchmark's folder with its examples. Raises LayoutError where it is not that."""
    return BENCHMARKS[name](folder, predictions, options)
