"""Cropping and resizing."""

import numpy as np
import pytest

from onediff_jax.tasks.pictures import centre_crop, fit, resize


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (333, 1000), (16, 16), (1, 999)])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (272, 208)])
def test_crop_has_the_aspect_and_fills_a_side(shape, size):
    left, top, right, bottom = centre_crop(shape, size)
    assert left >= 0 and top >= 0 and right <= shape[1] and bottom <= shape[0]
    assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0])
    assert left == pytest.approx(shape[1] - right) and top == pytest.approx(shape[0] - bottom)
    assert left == pytest.approx(0) or top == pytest.approx(0)


def test_a_picture_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, (0, 0, 64, 48), (48, 64)), image)


@pytest.mark.parametrize("height, width", [(16, 16), (32, 64), (48, 16), (7, 13)])
def test_fit_keeps_the_centre(height, width):
    image = np.zeros((30, 50, 3), np.uint8)
    image[:, 24:26], image[14:16] = 255, 255  # a cross in the middle
    out = fit(image, (height, width))
    assert out.shape == (height, width, 3)
    np.testing.assert_allclose(out, out[::-1, ::-1], atol=1)
    assert set(np.unique(fit(image, (height, width), nearest=True))) <= {0, 255}
    np.testing.assert_array_equal(fit(image, (30, 50)), image)
