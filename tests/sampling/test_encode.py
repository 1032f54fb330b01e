"""Requests as latents: the size that was trained."""

import types

import numpy as np

from onediff_jax.sampling.encode import trained_size
from onediff_jax.tasks.definitions import get_task


def test_sizes_are_the_trained_ones():
    experiment = types.SimpleNamespace(sizes={"t2i": ((64, 64),), "i2i": ((64, 64), (48, 80))})
    task = get_task("depth2image")
    for height, width, expected in ((90, 100, (64, 64)), (90, 160, (48, 80)), (90, 20, (64, 64))):
        assert trained_size(experiment, task, [np.zeros((height, width, 3))]) == expected
    assert trained_size(experiment, task, []) == (64, 64)
