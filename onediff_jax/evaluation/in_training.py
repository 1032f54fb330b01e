"""A small evaluation while a run trains: a few held-out examples of every direction, as metrics."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.evaluation.results import finite
from onediff_jax.evaluation.scoring import Settings, WorldTruth, evaluate, world_truth
from onediff_jax.evaluation.stored import Evaluator, plans
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.sampler import Sampler
from onediff_jax.sampling.source import Source


class SmallEvaluation:
    """Generates and measures log.evaluate_examples of every direction; call it with parameters.

    The examples and their noise are the same each time. What is measured is what the evaluate
    command measures (docs/evaluation.md), on fewer examples: good for a curve, not for a table.

    Args:
      experiment: of the run.
      sampler: as all samples of the run.
      workdir: of the run.
    """

    def __init__(self, experiment: Experiment, sampler: Sampler, workdir: Path):
        self._experiment, self._sampler, self._workdir = experiment, sampler, workdir
        self._truth: WorldTruth | None = None

    def __call__(self, params: Any, step: int) -> dict[str, float]:
        """evaluation/DIRECTION/METRIC → value; with FOLDER behind it where there are several."""
        source = Source(self._experiment, params, step, self._workdir)
        world = self._experiment.prepared is None
        found = self._on_world(source) if world else self._on_folders(source)
        return {_key(name): value for name, value in found.items() if finite(value) is not None}

    def _on_world(self, source: Source) -> dict[str, float]:
        log = self._experiment.config.log
        settings = Settings(None, log.evaluate_examples, log.sample_steps, log.guidance)
        if self._truth is None:
            self._truth = world_truth(self._experiment, None, settings.scenes, quiet=True)
        options = {"truth": self._truth, "sampler": self._sampler, "quiet": True}
        rows = evaluate(source, settings, **options).rows
        return {f"{row.task}/{row.metric}": float(row.model) for row in rows}

    def _on_folders(self, source: Source) -> dict[str, float]:
        log, data = self._experiment.config.log, self._experiment.config.data
        folders = [PreparedFolder(Path(folder)) for folder, _ in data.folders]
        asked = ((log.sample_steps,), log.evaluate_examples)
        todo, _ = plans(source, folders, data.evaluate_on, None, *asked)
        evaluator = Evaluator(source, None, guidance=log.guidance, seed=0, sampler=self._sampler)
        found: dict[str, float] = {}
        for plan in (plan for plan in todo if plan.caption):
            for row in evaluator(plan)[0]:
                place = f"/{plan.folder.path.name}" if len(folders) > 1 else ""
                found[f"{row.task}/{row.metric}{place}"] = float(np.float64(row.value))
        return found


def _key(name: str) -> str:
    """A name that every tracker takes."""
    return "evaluation/" + re.sub(r"[^\w\-./]+", "_", name)
