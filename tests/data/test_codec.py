"""The light codec: orthonormal, exact on what it keeps, good on pictures, fixed for ever."""

import numpy as np
import pytest

from onediff_jax.data.codec import LightCodec, to_uint8
from onediff_jax.data.world import World

CODEC = LightCodec()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


def test_basis_is_orthonormal():
    assert CODEC.basis.shape == (16, 192)
    basis = CODEC.basis.astype(float)
    np.testing.assert_allclose(basis @ basis.T, np.eye(16), atol=1e-6)


def test_inverse_on_what_it_keeps():
    latents = np.random.default_rng(0).normal(size=(2, 3, 5, 16)).astype(np.float32) * 0.1
    images = CODEC.decode(latents)
    assert images.shape == (2, 24, 40, 3) and np.abs(images).max() < 1  # nothing is clipped
    np.testing.assert_allclose(CODEC.encode(images), latents, atol=1e-5)
    np.testing.assert_allclose(CODEC.decode(CODEC.encode(images)), images, atol=1e-5)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (219, 35, 32), (1, 254, 128)])
def test_flat_colours_survive(color):
    image = np.broadcast_to(np.uint8(color), (16, 8, 3))
    np.testing.assert_array_equal(to_uint8(CODEC.decode(CODEC.encode(image))), image)


def test_flattening_is_row_column_rgb():
    """One bright pixel at row 3, column 5 of block (1, 0), green."""
    image = np.zeros((16, 16, 3), np.float32)
    image[11, 5, 1] = 1.0
    latents = CODEC.encode(image)
    place = (3 * 8 + 5) * 3 + 1
    want = (CODEC.basis[:, place] - CODEC.mean) / CODEC.scale
    np.testing.assert_allclose(latents[1, 0], want, atol=1e-6)
    np.testing.assert_allclose(latents[0, 1], -CODEC.mean / CODEC.scale, atol=1e-6)


def test_uint8_and_float_agree():
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    as_float = image.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(CODEC.encode(image), CODEC.encode(as_float))
    np.testing.assert_array_equal(to_uint8(as_float), image)
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 3.0])), [0, 255])


@pytest.mark.parametrize("level, mean, least", [("simple", 31.0, 28.5), ("rich", 27.5, 24.0)])
def test_pictures_survive(level, mean, least):
    world = World(0, level)
    found = []
    for index in range(8):
        image = world.render(world.scene(index), 64, 96).image
        found.append(psnr(to_uint8(CODEC.decode(CODEC.encode(image))), image))
    assert np.mean(found) > mean and min(found) > least, np.round(found, 1)


def test_values_never_change():
    """Weights are trained on these latents: other numbers would be another codec."""
    image = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (32, 48, 3), np.uint8)
    want = """0.69362783 0.03381561 0.27420491 0.00792942 -0.08944315 0.20820660
        0.45417240 0.43240380 -1.44778020 1.07463000 -0.61143900 0.21908040
        0.47816040 0.27356820 -0.88672620 -0.09756240"""
    np.testing.assert_allclose(CODEC.encode(image)[2, 3], np.array(want.split(), float), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 16, 3), (16, 12, 3), (16, 16, 4), (0, 16, 3), (2, 8, 8, 1)])
def test_bad_images(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        CODEC.encode(np.zeros(shape, np.uint8))


def test_bad_latents():
    with pytest.raises(ValueError, match="channels=4; this codec has 16"):
        CODEC.decode(np.zeros((4, 4, 4)))
