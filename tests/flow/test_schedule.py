"""The Euler schedule against the released pipeline's numbers."""

import numpy as np
import pytest

from onediff_jax.flow.schedule import euler_schedule
from tests.models.golden import GOLDEN


@pytest.mark.parametrize("case", ["a_mask10", "c_mask100", "d_t2i"])
def test_agrees_with_the_released_pipeline(case):
    with np.load(GOLDEN / "sampler.npz") as arrays:
        length, steps = float(arrays[f"{case}__image_seq_len"]), int(arrays[f"{case}__num_steps"])
        want = arrays[f"{case}__sigmas"], arrays[f"{case}__timesteps"]
    sigmas, timesteps = euler_schedule(length, steps)
    np.testing.assert_allclose(sigmas, want[0], atol=1e-6)
    np.testing.assert_allclose(timesteps, want[1], atol=1e-3)


@pytest.mark.parametrize("length, mu", [(256, 0.5), (4096, 1.15), (2176, 0.825)])
def test_shift_is_linear_in_length(length, mu):
    """At σ = 1/2 the shifted σ is e^μ / (e^μ + 1)."""
    sigmas, _ = euler_schedule(length, 3)  # σ = 1, 2/3, 1/3
    want = np.exp(mu) / (np.exp(mu) + 1 / np.array([1, 2 / 3, 1 / 3]) - 1)
    np.testing.assert_allclose(sigmas, [*want, 0], rtol=1e-6)
    assert sigmas.dtype == np.float32


def test_one_step():
    sigmas, timesteps = euler_schedule(256, 1)
    np.testing.assert_array_equal(sigmas, [1, 0])
    np.testing.assert_array_equal(timesteps, [1000])


@pytest.mark.parametrize("length, steps", [(256, 0), (0, 8), (-5, 8)])
def test_errors(length, steps):
    with pytest.raises(ValueError, match=f"num_steps={steps} and image_seq_len={length}"):
        euler_schedule(length, steps)
