"""Training noise levels: distribution, shift, independence."""

import jax
import numpy as np
import pytest
from scipy import stats

from onediff_jax.flow.times import TimeSampling, sample_sigmas, shift_sigmas

KEY = jax.random.key(0)


def test_shift():
    sigma = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(shift_sigmas(sigma, 3.0), [0, 0.5, 0.75, 1])
    np.testing.assert_array_equal(shift_sigmas(sigma, 1.0), sigma)


def test_logit_normal():
    """Undo shift and sigmoid: a normal distribution with the mean and deviation asked for."""
    sampling = TimeSampling("logit_normal", mean=-0.5, std=1.5, shift=3.0)
    sigma = np.asarray(sample_sigmas(KEY, (100, 200), sampling), float)
    assert sigma.shape == (100, 200) and 0 < sigma.min() and sigma.max() < 1
    unshifted = sigma / (3 - 2 * sigma)
    normal = np.log(unshifted / (1 - unshifted))
    assert abs(normal.mean() + 0.5) < 0.03 and abs(normal.std() - 1.5) < 0.03
    assert stats.kstest(normal.ravel(), stats.norm(-0.5, 1.5).cdf).pvalue > 1e-3


def test_uniform():
    sigma = sample_sigmas(KEY, (20000,), TimeSampling("uniform", shift=1.0))
    assert stats.kstest(np.asarray(sigma), "uniform").pvalue > 1e-3


def test_rays_have_a_shift_of_their_own():
    """Undo it: uniform; the other frames are drawn as without."""
    sampling = TimeSampling(ray_shift=30.0)
    rays = np.array([False, True])
    sigma = np.asarray(sample_sigmas(KEY, (10000, 2), sampling, rays), float)
    assert 0 < sigma.min() and sigma.max() <= 1
    unshifted = sigma[:, 1] / (30 - 29 * sigma[:, 1])
    assert stats.kstest(unshifted, "uniform").pvalue > 1e-3
    alike = np.asarray(sample_sigmas(KEY, (10000, 2), TimeSampling()))
    np.testing.assert_array_equal(sigma[:, 0], alike[:, 0])
    as_pictures = sample_sigmas(KEY, (10000, 2), TimeSampling(), rays)
    np.testing.assert_array_equal(as_pictures, alike)


def test_frames_are_independent():
    sigma = np.asarray(sample_sigmas(KEY, (5000, 4), TimeSampling()))
    correlation = np.corrcoef(sigma.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.05


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"distribution": "normal"}, "flow.distribution='normal' must be one of .*uniform"),
        ({"std": 0.0}, "flow.std=0.0"),
        ({"shift": -1.0}, "flow.shift=-1.0"),
        ({"ray_shift": 0.0}, "flow.ray_shift=0.0 must be positive, or None"),
    ],
)
def test_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        TimeSampling(**fields)
