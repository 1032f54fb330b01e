"""Files of predictions → rows: the same way for another system's pictures and for our own."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from onediff_jax.evaluation.benchmarks.base import Benchmark, Item
from onediff_jax.evaluation.benchmarks.registry import open_benchmark
from onediff_jax.evaluation.benchmarks.views import GSO30, settings_of
from onediff_jax.evaluation.report import Card, Gallery, number
from onediff_jax.evaluation.results import Result, finite

_SHOWN = 10  # names in a message
_CONTROLLED = 100  # examples that controls are measured on
_CARDS = 4  # examples of a kind in the report
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclasses.dataclass(frozen=True)
class Scored:
    """What was found in the files of predictions.

    rows: the numbers. missing: items without prediction. notes: what a reader must know.
    galleries: examples to look at.
    """

    rows: list[Result]
    missing: list[str]
    notes: list[str]
    galleries: list[Gallery]


def score_predictions(
    name: str,
    folder: Path,
    predictions: Path,
    *,
    options: dict[str, Any] | None = None,
    allow_missing: bool = False,
    limit: int | None = None,
    steps: int | None = None,
    progress: Progress = lambda things, total: things,
) -> list[Scored]:
    """Scores a folder of predictions against a benchmark's folder.

    Args:
      options: align (depth benchmarks).
      allow_missing: score although predictions are missing; they count as the protocol has it.
      limit: only the first so many examples; the rows say so.
      steps: Euler steps that made the predictions.
      progress: wraps the scores as they come.

    Raises ValueError for missing predictions (listed) or ones that do not fit (all named), and
    LayoutError for a folder of another layout.
    """
    if not predictions.exists():
        raise ValueError(f"--predictions={predictions} does not exist")
    folders = settings_of(predictions) if name == GSO30.name else [predictions]
    found = []
    for place in folders:
        benchmark = open_benchmark(name, folder, place, options or {})
        found.append(_score(benchmark, allow_missing, limit, steps, progress))
    return found


def _score(benchmark: Benchmark, allow_missing, limit, steps, progress) -> Scored:
    items = benchmark.items[:limit]
    pairs = [(item, benchmark.prediction(item)) for item in items]
    missing = [item.name for item, prediction in pairs if prediction is None]
    _check_missing(benchmark, missing, len(items), allow_missing)
    benchmark.prepare(items)
    faults: list[str] = []

    def score(pair: tuple[Item, Any]):
        item, prediction = pair
        if prediction is None:
            return benchmark.score_of_missing(item)
        try:
            return benchmark.score(item, prediction)
        except (ValueError, OSError) as error:
            faults.append(f"{prediction}: {error}")
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        every = list(progress(pool.map(score, pairs), len(pairs)))
    if faults:
        more = f"\n  … and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        listed = "\n  ".join(faults[:_SHOWN])
        raise ValueError(
            f"{len(faults)} of {len(pairs)} predictions cannot be scored:\n  {listed}{more}"
        )
    scores = [s for s in every if s is not None]
    if not scores:
        raise ValueError(f"{benchmark.name}: none of {len(items)} examples has a prediction")
    per_item = {
        item.name: {key: finite(s[key]) for key in benchmark.measures}
        for item, s in zip(items, every, strict=True)
        if isinstance(s, dict)
    }
    rows = _rows(benchmark, scores, steps, per_item, _controls(benchmark, pairs))
    notes = _notes(benchmark, items, missing, rows, per_item)
    galleries = _galleries(benchmark, rows[0], pairs, per_item)
    return Scored(rows, missing, notes, galleries)


def _galleries(benchmark: Benchmark, row: Result, pairs, per_item) -> list[Gallery]:
    """The first examples, and those of the best and the worst first number of their own."""
    known = [(item, prediction) for item, prediction in pairs if prediction is not None]
    found = {"first": known[:_CARDS]}
    values = {name: scores.get(row.metric) for name, scores in per_item.items()}
    ranked = [pair for pair in known if values.get(pair[0].name) is not None]
    if len(ranked) > _CARDS:
        ranked.sort(key=lambda pair: values[pair[0].name] or 0.0, reverse=row.better == "higher")
        found |= {"best": ranked[:_CARDS], "worst": ranked[: -_CARDS - 1 : -1]}
    galleries = []
    for kind, chosen in found.items():
        cards = []
        for item, prediction in chosen:
            value = values.get(item.name)
            told = [] if value is None else [f"{row.metric} {number(value)}"]
            words = " · ".join([*told, *filter(None, [benchmark.words(item)])])
            cards.append(Card(item.name, words, tuple(benchmark.pictures(item, prediction))))
        galleries.append(Gallery(f"{row.data}: the {kind}", tuple(cards)))
    return galleries


def _check_missing(benchmark: Benchmark, missing, total: int, allowed: bool) -> None:
    if not missing or allowed:
        return
    listed = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
    raise ValueError(
        f"{benchmark.name}: {len(missing)} of {total} predictions are missing in "
        f"{benchmark.predictions}: {listed}. --allow_missing scores the rest; a missing one "
        f"then counts as: {benchmark.missing_counts}"
    )


def _controls(benchmark: Benchmark, pairs) -> dict[str, dict[str, float]]:
    """Control → its summary, over some examples spread evenly over the set."""
    known = [(item, prediction) for item, prediction in pairs if prediction is not None]
    if len(known) < 2:
        return {}
    chosen = range(0, len(known), -(-len(known) // _CONTROLLED))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(
            lambda i: benchmark.controls(known[i][0], known[(i + 1) % len(known)][1]), chosen
        )
        every = list(found)
    names = dict.fromkeys(name for scores in every for name in scores)
    return {
        name: benchmark.summarize([scores[name] for scores in every if name in scores])
        for name in names
    }


def _rows(
    benchmark: Benchmark, scores: list, steps: int | None, per_item, controls
) -> list[Result]:
    summary = benchmark.summarize(scores)
    intervals = benchmark.intervals(scores)
    labels = benchmark.labels()
    part = None
    if len(scores) != benchmark.official:
        part = f"{len(scores)} of {benchmark.official}"
    return [
        Result(
            task=benchmark.task,
            data=labels.get("data", benchmark.name),
            protocol=labels.get("protocol", benchmark.protocol),
            metric=key,
            value=value,
            n=len(scores),
            interval=intervals.get(key),
            better=benchmark.measure(key).better,
            controls={
                name: values[key]
                for name, values in controls.items()
                if finite(values.get(key, math.nan)) is not None
            },
            paper=benchmark.measure(key).paper,
            steps=steps,
            part=part,
            items={name: values[key] for name, values in per_item.items() if key in values},
        )
        for key, value in summary.items()
    ]


def _notes(benchmark, items, missing, rows, per_item) -> list[str]:
    notes = []
    label = rows[0].data
    if rows[0].part:
        notes.append(f"{label}: {rows[0].part} official examples; not the published set")
    if missing:
        notes.append(
            f"{label}: {len(missing)} of {len(items)} predictions are missing; "
            f"each counts as: {benchmark.missing_counts}"
        )
    undefined = [n for n, values in per_item.items() if None in values.values()]
    if undefined:
        listed = ", ".join(undefined[:_SHOWN])
        notes.append(f"{label}: no finite value for {len(undefined)} examples, among them {listed}")
    return notes
