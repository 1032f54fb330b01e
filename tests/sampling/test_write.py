"""Cameras as files: the orbit they stand on."""

import numpy as np
import pytest

from onediff_jax.sampling.write import orbit_of
from onediff_jax.tasks.cameras import orbit_cameras


@pytest.mark.parametrize("elevation", [0.0, 35.0])
def test_orbits_are_recovered(elevation):
    azimuths, elevations = np.array([20.0, 50, 110, -40]), elevation + np.array([0.0, 10, -5, 3])
    cameras = orbit_cameras(azimuths, elevations, [1.7, 2.0, 1.7, 1.5])
    found = orbit_of(cameras, elevation)
    np.testing.assert_allclose(found["azimuth"], azimuths - 20, atol=1e-6)
    np.testing.assert_allclose(found["elevation"], elevations - elevation, atol=1e-6)
    np.testing.assert_allclose(found["distance"], [1.7, 2.0, 1.7, 1.5], atol=1e-6)


def test_cameras_that_look_the_same_way_have_no_orbit():
    assert orbit_of(orbit_cameras([10, 10], 0, [1.7, 2.0])) is None
