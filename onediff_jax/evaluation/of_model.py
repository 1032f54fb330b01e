"""A model's evaluation on each kind of data: the embedded world, prepared folders, benchmarks."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.evaluation.benchmarks.base import Benchmark, Item, LayoutError
from onediff_jax.evaluation.benchmarks.registry import missing_networks, open_benchmark
from onediff_jax.evaluation.benchmarks.scoring import score_predictions
from onediff_jax.evaluation.benchmarks.views import GSO30
from onediff_jax.evaluation.galleries import gallery
from onediff_jax.evaluation.predicting import PREDICTORS
from onediff_jax.evaluation.predicting.base import predict, prepare_folder
from onediff_jax.evaluation.report import Gallery
from onediff_jax.evaluation.results import Result
from onediff_jax.evaluation.scores.case import Row
from onediff_jax.evaluation.scoring import Settings, evaluate, world_of, world_truth
from onediff_jax.evaluation.stored import Evaluator, plans, weights_hash
from onediff_jax.parallel.processes import meet
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
      kept: whether predictions stay although nobody asked, as nothing could score them.
      made: folders of predictions of this evaluation.
    """

    rows: list[Result] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    galleries: list[Gallery] = dataclasses.field(default_factory=list)
    facts: list[str] = dataclasses.field(default_factory=list)
    world: list[Row] = dataclasses.field(default_factory=list)
    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    sheet: np.ndarray | None = None
    kept: bool = False
    made: list[Path] = dataclasses.field(default_factory=list)


def on_world(source: Source, settings: Sequence[Settings]) -> Found:
    """Held-out scenes of the embedded world, once per number of steps (settings differ in it)."""
    found = Found()
    truth = world_truth(source.experiment, settings[0].tasks, settings[0].scenes)
    for each in sorted(settings, key=lambda s: s.steps):
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
    networks: dict[str, Any] | None = None,
    known_views: Sequence[int] = (1, 2, 3),
) -> Found:
    """Benchmarks whose predictions the model makes: written as files, then scored as any other's.

    Args:
      networks: option → network that a benchmark's numbers need.
      known_views: given views of gso30.

    Processes of one jax.distributed share the examples; the first one scores.

    Raises ValueError for a benchmark whose task the model was not trained on.
    """
    networks = networks or {}
    found = Found()
    for name, folder in benchmarks:
        views = known_views if name == GSO30.name else (None,)
        for number, known in itertools.product(steps, views):
            place = out / "predictions" / name / f"{number}_steps"
            place = place if known is None else place / f"N{known}M25"
            made_by = {
                "weights": weights_hash(source.params),
                "benchmark": str(folder.resolve()),
                "steps": number,
                "guidance": guidance,
                "seed": seed,
            }
            if jax.process_index() == 0 and prepare_folder(place, made_by):
                found.notes.append(f"{place} held predictions of others: made anew")
            meet()
            found.made.append(place)
            _predict_and_score(
                *(found, source, name, folder, place, networks),
                {"steps": number, "guidance": guidance, "seed": seed, "limit": limit},
            )
        found.facts.append(f"benchmark {name} in {folder}")
    found.notes = list(dict.fromkeys(found.notes))
    return found


def _predict_and_score(found, source, name, folder, place, networks, how) -> None:
    """One benchmark with one number of steps, into what was found."""
    benchmark = open_benchmark(name, folder, None, {})
    benchmark.predictions = place  # which says how many views are known
    items = benchmark.items[: how["limit"]]
    _check_pictures(benchmark, items)
    predictor = PREDICTORS[name](benchmark, source.experiment, place)
    share = (jax.process_index(), jax.process_count())
    mine = len(items[share[0] :: share[1]])
    with tqdm(total=mine, desc=f"generating {name}", dynamic_ncols=True) as bar:
        predict(source, predictor, share=share, advance=bar.update, **how)
    meet()
    if jax.process_index():
        return
    predictor.finish(items)
    options = {"align": "disparity"} | networks  # our grey is linear in 1/depth
    if needed := missing_networks(name, networks):
        found.notes.append(f"{name}: no number, as {needed} is not given; pictures in {place}")
        found.kept = True
        return
    for scored in score_predictions(
        *(name, folder, place), options=options, limit=how["limit"], steps=how["steps"]
    ):
        found.rows += [
            dataclasses.replace(row, protocol=row.protocol + predictor.protocol)
            for row in scored.rows
        ]
        found.notes += scored.notes
        found.galleries += scored.galleries


def _check_pictures(benchmark: Benchmark, items: Sequence[Item]) -> None:
    """Raises LayoutError where a picture that the model is to be given is not there."""
    wanted = [item.files[k] for item in items for k in ("image", "source") if k in item.files]
    if gone := [str(path) for path in wanted if not path.is_file()]:
        raise LayoutError(
            f"{benchmark.name}: {len(gone)} pictures are not there, among them {gone[:3]}"
        )
