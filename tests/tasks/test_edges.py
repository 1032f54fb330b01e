"""Edges: thin and soft."""

import numpy as np
import pytest

from onediff_jax.tasks import edges as edge_maps


def square(size=64, inside=(220, 60, 60), outside=(60, 90, 130)):
    image = np.empty((size, size, 3), np.uint8)
    image[:] = outside
    image[size // 4 : -size // 4, size // 4 : -size // 4] = inside
    return image


@pytest.mark.parametrize("size", [64, 256])
def test_canny_draws_one_thin_closed_outline(size):
    edges = edge_maps.canny(square(size))
    assert edges.shape == (size, size, 3) and edges.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255}
    line = edges[..., 0] > 0
    # Rows through the square's middle meet exactly its two sides, one pixel each, at the border.
    middle = line[size // 2 - 4 : size // 2 + 4]
    assert (middle.sum(1) == 2).all()
    for position in np.flatnonzero(middle[0]):
        assert min(abs(position + 0.5 - size // 4), abs(position + 0.5 - 3 * size // 4)) <= 1
    assert line.sum() == pytest.approx(4 * size / 2, rel=0.1)


def test_canny_sees_edges_between_equally_bright_colours():
    # 0.299 R + 0.587 G + 0.114 B is the same inside and out.
    image = square(inside=(200, 50, 100), outside=(40, 131, 102))
    assert (edge_maps.canny(image)[..., 0] > 0).sum() > 100


def test_canny_hysteresis_and_thresholds():
    image = np.zeros((32, 64, 3), np.uint8)
    # A vertical edge that fades from strong (top) to weak (bottom), and a weak one apart.
    image[:, 16:] = np.linspace(160, 30, 32).astype(np.uint8)[:, None, None]
    weak_only = np.zeros_like(image)
    weak_only[:, 16:] = 40
    kept = edge_maps.canny(image, 60, 200)[..., 0] > 0
    assert kept[5:28, 14:18].any(1).all()
    assert not edge_maps.canny(weak_only, 60, 200).any()
    assert edge_maps.canny(weak_only, 30, 60).any()
    assert not edge_maps.canny(np.full((16, 16, 3), 99, np.uint8), 0, 0).any()


def test_drawn_thresholds_are_a_function_of_the_generator():
    image = np.random.default_rng(5).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    image = image.repeat(8, 0).repeat(8, 1)
    results = [edge_maps.Canny().derive(image, np.random.default_rng(s)) for s in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    assert any((results[0] != other).any() for other in results[2:])


def test_soft_edges_are_white_on_edges_and_black_elsewhere():
    edges = edge_maps.soft_edges(square())
    assert edges.shape == (64, 64, 3) and edges.dtype == np.uint8
    assert (edges[..., 0] == edges[..., 1]).all()
    grey = edges[..., 0]
    assert grey[32, 15:17].min() > 180
    assert grey[32, 32] == 0 and grey[4, 4] == 0
    assert len(np.unique(grey)) > 8  # soft
    assert edge_maps.soft_edges(np.full((32, 32, 3), 77, np.uint8)).max() == 0
    faint = np.random.default_rng(0).integers(120, 124, (64, 64, 3)).astype(np.uint8)
    assert edge_maps.soft_edges(faint).max() < 40


def test_errors():
    with pytest.raises(ValueError, match="uint8"):
        edge_maps.canny(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="uint8"):
        edge_maps.soft_edges(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="low <= high"):
        edge_maps.canny(np.zeros((8, 8, 3), np.uint8), 20, 10)
