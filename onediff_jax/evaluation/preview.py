"""Sample grids during training: the same held-out bundles every time."""

from typing import Any

import numpy as np
from jax.sharding import Mesh

from onediff_jax.evaluation.held_out import examples
from onediff_jax.evaluation.sheet import draw_sheet, example_row
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.sampler import Sampler


class Preview:
    """One bundle of every task and direction; call it with parameters for a contact sheet."""

    def __init__(self, experiment: Experiment, mesh: Mesh):
        log = experiment.config.log
        self._experiment = experiment
        self._examples = examples(experiment, 1)
        self._sampler = Sampler(
            experiment,
            rows=log.sample_rows,
            steps=log.sample_steps,
            guidance=log.guidance,
            mesh=mesh,
        )

    def __call__(self, params: Any) -> np.ndarray:
        """uint8 (H, W, 3): a row per direction, given, generated, truth."""
        requests = [e.request(seed) for seed, e in enumerate(self._examples)]
        generated = self._sampler(params, requests)
        rows = []
        for example, frames in zip(self._examples, generated, strict=True):
            roles = self._experiment.tasks.task(example.bundle.task).roles(len(frames))
            cells = example_row(example, frames, self._experiment.codec, roles)
            rows.append((example.direction, example.bundle.prompt, cells))
        return draw_sheet(rows)
