"""Requests as latents: the size that was trained, the part of a picture that is used."""

import types

import numpy as np
import pytest

from onediff_jax.sampling.encode import fit, trained_size
from onediff_jax.tasks.definitions import get_task


def test_sizes_are_the_trained_ones():
    experiment = types.SimpleNamespace(sizes={"t2i": ((64, 64),), "i2i": ((64, 64), (48, 80))})
    task = get_task("depth2image")
    for height, width, expected in ((90, 100, (64, 64)), (90, 160, (48, 80)), (90, 20, (64, 64))):
        assert trained_size(experiment, task, [np.zeros((height, width, 3))]) == expected
    assert trained_size(experiment, task, []) == (64, 64)


@pytest.mark.parametrize("height, width", [(16, 16), (32, 64), (48, 16), (7, 13)])
def test_fit_keeps_the_centre(height, width):
    image = np.zeros((30, 50, 3), np.uint8)
    image[:, 24:26], image[14:16] = 255, 255  # a cross in the middle
    out = fit(image, height, width)
    assert out.shape == (height, width, 3)
    np.testing.assert_allclose(out, out[::-1, ::-1], atol=1)
    assert set(np.unique(fit(image, height, width, smooth=False))) <= {0, 255}
    np.testing.assert_array_equal(fit(image, 30, 50), image)
