"""Sample grids during training: some held-out bundles always, others by turns."""

from typing import Any

import numpy as np

from onediff_jax.evaluation.held_out import examples
from onediff_jax.evaluation.sheet import draw_sheet, example_row
from onediff_jax.experiment.build import Experiment
from onediff_jax.sampling.sampler import Sampler

_VARIED = 1024  # held-out examples that the others are of


class Preview:
    """Samples of every task and direction; call it with parameters for a contact sheet.

    One example of each direction is always the same; log.sample_examples − 1 more are others each
    time, the same ones at the same step of every run of a config.
    """

    def __init__(self, experiment: Experiment, sampler: Sampler):
        self._experiment, self._sampler = experiment, sampler
        self._more = experiment.config.log.sample_examples - 1
        self._examples = examples(experiment, 1)

    def __call__(self, params: Any, step: int = 0) -> np.ndarray:
        """uint8 (H, W, 3): cards of given, generated, truth."""
        chosen = list(self._examples)
        if self._more:
            start = int(np.random.default_rng(step).integers(1, _VARIED))
            chosen += examples(self._experiment, self._more, start=start)
            order = {e.direction: n for n, e in enumerate(self._examples)}
            chosen.sort(key=lambda e: order[e.direction])  # stable: the fixed one first
        requests = [e.request(seed) for seed, e in enumerate(chosen)]
        generated = self._sampler(params, requests)
        rows = []
        for example, frames in zip(chosen, generated, strict=True):
            roles = self._experiment.tasks.task(example.bundle.task).roles(len(frames))
            cells = example_row(example, frames, self._experiment.codec, roles)
            rows.append((example.direction, example.bundle.prompt, cells))
        return draw_sheet(rows)
