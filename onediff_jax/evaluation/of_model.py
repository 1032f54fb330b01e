"""A model's evaluation on each kind of data: the embedded world, prepared folders, benchmarks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.evaluation.benchmark_predictions import can_predict, predict_depth
from onediff_jax.evaluation.benchmarks.depth import DepthBenchmark
from onediff_jax.evaluation.benchmarks.registry import BENCHMARKS, open_benchmark
from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.galleries import gallery
from onediff_jax.evaluation.report import Gallery
from onediff_jax.evaluation.results import Result
from onediff_jax.evaluation.scores.case import Row
from onediff_jax.evaluation.scoring import Settings, evaluate, world_of, world_truth
from onediff_jax.evaluation.stored import Evaluator, plans
from onediff_jax.sampling.source import Source

_KINDS = {"first": "first examples", "best": "best", "worst": "worst"}


@dataclasses.dataclass
class Found:
    """What an evaluation found: numbers, notes, pictures.

    Attributes:
      rows, notes, galleries: of the report.
      facts: a line about the data.
      world: the world's own rows, of the largest number of steps, for what is required.
      missing: data → what had no prediction.
      sheet: the world's contact sheet, uint8 (H, W, 3).
    """

    rows: list[Result] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    galleries: list[Gallery] = dataclasses.field(default_factory=list)
    facts: list[str] = dataclasses.field(default_factory=list)
    world: list[Row] = dataclasses.field(default_factory=list)
    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    sheet: np.ndarray | None = None


def on_world(source: Source, settings: Sequence[Settings]) -> Found:
    """Held-out scenes of the embedded world, once per number of steps (settings differ in it)."""
    found = Found()
    truth = world_truth(source.experiment, settings[0].tasks, settings[0].scenes)
    for each in settings:
        evaluation = evaluate(source, each, truth=truth)
        for row in evaluation.rows:
            n, interval, items = evaluation.spread[row.task, row.metric]
            found.rows.append(
                Result(
                    task=row.task,
                    data="world",
                    protocol="the embedded world's exact truth, beside its controls",
                    metric=row.metric,
                    value=row.model,
                    n=n,
                    interval=interval,
                    better="higher" if row.higher else "lower",
                    controls=row.controls,
                    upper_bound=row.ceilings,
                    steps=each.steps,
                    items=items,
                )
            )
        found.world, found.sheet = evaluation.rows, evaluation.sheet
        found.galleries = [gallery(f"{d}, world", shown) for d, shown in evaluation.shown.items()]
    level = world_of(source.experiment)[1]
    found.facts = [f"{settings[0].scenes} held-out scenes per task, world level {level}"]
    return found


def on_folders(
    source: Source,
    folders: Sequence[Path],
    out: Path,
    *,
    split: str,
    tasks: Sequence[str] | None,
    steps: Sequence[int],
    guidance: float,
    seed: int,
    limit: int,
) -> Found:
    """Examples of prepared folders; every generated frame is measured as its role says.

    Raises ValueError where there is nothing to evaluate.
    """
    opened = [PreparedFolder(path) for path in folders]
    todo, notes = plans(source, opened, split, tasks, steps, limit)
    found = Found(notes=notes)
    if split == "train":
        found.notes.append("these are training examples: the folder spares none (evaluate_on)")
    evaluator = Evaluator(source, out, guidance=guidance, seed=seed)
    total = sum(plan.count for plan in todo)
    with tqdm(total=total, desc="generating and scoring", dynamic_ncols=True) as bar:
        for plan in todo:
            rows, shown = evaluator(plan, bar.update)
            found.rows += rows
            if not rows:
                name = plan.direction.name
                found.notes.append(f"{name} on {plan.label}: shown only, many pictures are right")
            if plan.steps != max(steps) or not plan.caption:
                continue  # its numbers are in the table; its pictures are alike
            for kind, examples in shown.items():
                title = f"{plan.direction.name} on {plan.label}, {plan.steps} steps: {_KINDS[kind]}"
                found.galleries.append(gallery(title, examples))
    found.notes = list(dict.fromkeys(found.notes))
    names = ", ".join(str(path) for path in folders)
    found.facts = [f"{split} examples of {names}, at most {limit} each"]
    return found


def on_benchmarks(
    source: Source,
    benchmarks: Sequence[tuple[str, Path]],
    out: Path,
    *,
    steps: Sequence[int],
    guidance: float,
    seed: int,
    limit: int | None,
) -> Found:
    """Benchmarks whose predictions the model makes: written as files, then scored as any other's.

    Raises ValueError for one that is scored from files alone.
    """
    if cannot := [name for name, _ in benchmarks if not can_predict(name)]:
        able = [name for name in BENCHMARKS if can_predict(name)]
        raise ValueError(
            f"benchmarks {cannot} are scored from files (--predictions); with a model: {able}"
        )
    found = Found()
    for name, folder in benchmarks:
        for number in steps:
            place = out / "predictions" / name / f"{number}_steps"
            place.mkdir(parents=True, exist_ok=True)
            benchmark = open_benchmark(name, folder, place, {})
            assert isinstance(benchmark, DepthBenchmark)  # the kind that can be predicted
            total = len(benchmark.items[:limit])
            with tqdm(total=total, desc=f"generating {name}", dynamic_ncols=True) as bar:
                predict_depth(
                    *(source, benchmark, place),
                    steps=number,
                    guidance=guidance,
                    seed=seed,
                    limit=limit,
                    advance=bar.update,
                )
            (scored,) = score_predictions(
                *(name, folder, place),
                options={"align": "disparity"},  # our grey is linear in 1/depth
                limit=limit,
                steps=number,
            )
            found.rows += scored.rows
            found.notes += scored.notes
        found.facts.append(f"benchmark {name} in {folder}")
    found.notes = list(dict.fromkeys(found.notes))
    return found
