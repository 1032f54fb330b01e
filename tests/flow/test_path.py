"""The straight path: ends, derivative."""

import jax
import jax.numpy as jnp
import numpy as np

from onediff_jax.flow.path import add_noise, velocity

DATA, NOISE = jax.random.normal(jax.random.key(0), (2, 2, 3, 5))


def test_ends_and_middle():
    np.testing.assert_array_equal(add_noise(DATA, NOISE, 0.0), DATA)
    np.testing.assert_array_equal(add_noise(DATA, NOISE, 1.0), NOISE)
    sigma = jnp.array([0.25, 0.5])[:, None, None]  # per frame
    middle = add_noise(DATA, NOISE, sigma)
    np.testing.assert_allclose(middle[0], 0.75 * DATA[0] + 0.25 * NOISE[0], rtol=1e-6)
    np.testing.assert_allclose(middle[1], (DATA[1] + NOISE[1]) / 2, rtol=1e-6)


def test_velocity_is_the_derivative():
    _, slope = jax.jvp(lambda s: add_noise(DATA, NOISE, s), (0.3,), (1.0,))
    np.testing.assert_allclose(velocity(DATA, NOISE), slope, rtol=1e-6)


def test_following_the_velocity_leads_to_the_data():
    x = add_noise(DATA, NOISE, 0.7)
    np.testing.assert_allclose(x - 0.7 * velocity(DATA, NOISE), DATA, atol=1e-6)
