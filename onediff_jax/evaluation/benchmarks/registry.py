"""All benchmarks by name."""

from pathlib import Path
from typing import Any

from onediff_jax.evaluation.benchmarks.base import Benchmark, LayoutError
from onediff_jax.evaluation.benchmarks.coco import COCOBoxes, COCOPose
from onediff_jax.evaluation.benchmarks.depth import DIODE, NYUv2
from onediff_jax.evaluation.benchmarks.dreambench import DreamBench
from onediff_jax.evaluation.benchmarks.edges import BSDS500
from onediff_jax.evaluation.benchmarks.geneval import GenEval
from onediff_jax.evaluation.benchmarks.pie import PIEBench
from onediff_jax.evaluation.benchmarks.segmentation import ADE20K, Cityscapes
from onediff_jax.evaluation.benchmarks.views import GSO30

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        *(NYUv2, DIODE, GSO30, GenEval, PIEBench),
        *(BSDS500, ADE20K, Cityscapes, COCOBoxes, COCOPose, DreamBench),
    )
}


def benchmark_of(text: str) -> tuple[str, Path]:
    """Name and folder of NAME:FOLDER. Raises ValueError for another form or an unknown name."""
    name, colon, folder = text.partition(":")
    if not colon or not folder:
        raise ValueError(f"--benchmark={text} must be NAME:FOLDER; names: {', '.join(BENCHMARKS)}")
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


def missing_networks(name: str, networks: dict[str, Any]) -> str:
    """The flags without which a benchmark has no number at all; empty where it has some."""
    if name == GenEval.name and not networks.get("detector"):
        return "--detector (with --clip)"
    if name == DreamBench.name and not (networks.get("clip") or networks.get("dino")):
        return "--dino or --clip"
    return ""
