"""Blur, low resolution and holes."""

import numpy as np
import pytest
from scipy import ndimage

from onediff_jax.tasks import degraded
from onediff_jax.tasks.degraded import Blurred, LowResolution


def picture(height=64, width=64, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3))
    return coarse.astype(np.uint8).repeat(4, 0).repeat(4, 1)


@pytest.mark.parametrize("sigma", [0.02, 0.03, 0.05, 0.08])
def test_blur_is_a_gaussian(sigma):
    image = picture(64, 96)
    pixels = sigma * 64
    exact = ndimage.gaussian_filter(image.astype(float), (pixels, pixels, 0), mode="nearest")
    error = np.abs(degraded.blur(image, sigma) - exact)
    # Near the border three passes repeat the edge pixels a little differently than one does.
    assert error.mean() < 2 and error[16:-16, 16:-16].max() < 6


def test_blur_of_nothing():
    image = picture()
    np.testing.assert_array_equal(degraded.blur(image, 0), image)
    np.testing.assert_array_equal(degraded.motion_blur(image, 0, 30), image)
    flat = np.full((32, 48, 3), 77, np.uint8)
    np.testing.assert_array_equal(degraded.blur(flat, 0.08), flat)
    np.testing.assert_array_equal(degraded.motion_blur(flat, 0.3, 70), flat)
    np.testing.assert_array_equal(degraded.downscale(flat, 8), flat)


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("angle", [0, 90])
def test_motion_smears_along_its_direction_alone(size, angle):
    image = np.zeros((size, size, 3), np.uint8)
    dot = slice(size // 2, size // 2 + size // 32)
    image[dot, dot] = 255
    result = degraded.motion_blur(image, 0.25, angle)[..., 0].astype(float)
    spread = [result.sum(axis).nonzero()[0] for axis in (0, 1)]  # across, down
    along, aside = spread if angle == 0 else spread[::-1]
    assert np.ptp(along) == pytest.approx(0.25 * size + size / 32, abs=0.05 * size)
    assert np.ptp(aside) < 0.1 * size
    assert result.sum() == pytest.approx(255 * (size // 32) ** 2, rel=0.2)


def test_random_blur_clearly_degrades_and_repeats():
    image = picture()
    for seed in range(8):
        result = Blurred().derive(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(result, Blurred().derive(image, np.random.default_rng(seed)))
        assert np.abs(result.astype(float) - image).mean() > 10


@pytest.mark.parametrize("factor", [4, 8])
def test_downscale_keeps_block_means_of_smooth_images(factor):
    y, x = np.mgrid[:64, :96]
    ramp = np.repeat((2 * x + y)[..., None], 3, -1).astype(np.uint8)
    inner = (slice(16, -16), slice(16, -16))
    # Cubic interpolation of area means reproduces a plane (rounding aside) away from the edges.
    assert np.abs(degraded.downscale(ramp, factor).astype(int) - ramp)[inner].max() <= 1


def test_downscale_forgets_detail_below_the_factor():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    board = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    result = degraded.downscale(board, 4)
    assert (
        result.shape == board.shape and np.ptp(result) == 0 and abs(int(result[0, 0, 0]) - 128) < 2
    )


def test_downscale_any_size_and_random_factor():
    image = picture(60, 100)
    assert degraded.downscale(image, 8).shape == (60, 100, 3)
    np.testing.assert_array_equal(degraded.downscale(image, 1), image)
    options = [degraded.downscale(image, f) for f in degraded.FACTORS]
    seen = set()
    for seed in range(12):
        result = LowResolution().derive(image, np.random.default_rng(seed))
        seen.add(next(i for i, option in enumerate(options) if (option == result).all()))
    assert seen == {0, 1}


@pytest.mark.parametrize("shape", degraded.MASK_SHAPES)
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (256, 128)])
def test_masks_cover_ten_to_fifty_percent(shape, size):
    shares = [
        degraded.random_mask(*size, np.random.default_rng(seed), shape).mean() for seed in range(60)
    ]
    assert 0.1 <= min(shares) and max(shares) <= 0.5
    assert max(shares) - min(shares) > 0.15


def test_inpainting_hides_the_mask_and_nothing_else():
    image = np.maximum(picture(), 1)
    hidden, mask = degraded.inpainting(image, np.random.default_rng(3))
    np.testing.assert_array_equal(hidden[~mask], image[~mask])
    assert (hidden[mask] == 0).all() and mask.any() and image.min() == 1
    again, _ = degraded.inpainting(image, np.random.default_rng(3))
    np.testing.assert_array_equal(hidden, again)
    own = np.zeros((64, 64), bool)
    own[5, 7] = True
    hidden, mask = degraded.inpainting(image, np.random.default_rng(3), own)
    assert (hidden != image).any(-1).sum() == 1 and (mask == own).all()


def test_errors():
    image, rng = picture(), np.random.default_rng(0)
    with pytest.raises(ValueError, match="selects nothing"):
        degraded.inpainting(image, rng, np.zeros((64, 64), bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        degraded.inpainting(image, rng, np.ones((64, 64), np.uint8))
    with pytest.raises(ValueError, match="mask must be bool"):
        degraded.inpainting(image, rng, np.ones((32, 64), bool))
    with pytest.raises(ValueError, match="choose from"):
        degraded.random_mask(64, 64, rng, "star")
    with pytest.raises(ValueError, match="factor=0"):
        degraded.downscale(image, 0)
    with pytest.raises(ValueError, match="negative"):
        degraded.blur(image, -0.1)
    with pytest.raises(ValueError, match="length=2"):
        degraded.motion_blur(image, 2, 0)
    with pytest.raises(ValueError, match="uint8"):
        degraded.blur(image / 255, 0.1)
