"""Edges and depth maps."""

import numpy as np
import pytest

from onediff_jax.tasks import conditions


def square(size=64, inside=(220, 60, 60), outside=(60, 90, 130)):
    image = np.empty((size, size, 3), np.uint8)
    image[:] = outside
    image[size // 4 : -size // 4, size // 4 : -size // 4] = inside
    return image


@pytest.mark.parametrize("size", [64, 256])
def test_canny_draws_one_thin_closed_outline(size):
    edges = conditions.canny(square(size))
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
    assert (conditions.canny(image)[..., 0] > 0).sum() > 100


def test_canny_hysteresis_and_thresholds():
    image = np.zeros((32, 64, 3), np.uint8)
    # A vertical edge that fades from strong (top) to weak (bottom), and a weak one apart.
    image[:, 16:] = np.linspace(160, 30, 32).astype(np.uint8)[:, None, None]
    weak_only = np.zeros_like(image)
    weak_only[:, 16:] = 40
    kept = conditions.canny(image, 60, 200)[..., 0] > 0
    assert kept[5:28, 14:18].any(1).all()
    assert not conditions.canny(weak_only, 60, 200).any()
    assert conditions.canny(weak_only, 30, 60).any()
    assert not conditions.canny(np.full((16, 16, 3), 99, np.uint8), 0, 0).any()


def test_random_canny_is_a_function_of_the_generator():
    image = np.random.default_rng(5).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    image = image.repeat(8, 0).repeat(8, 1)
    results = [conditions.random_canny(image, np.random.default_rng(s)) for s in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(results[0], results[1])
    assert any((results[0] != other).any() for other in results[2:])


def test_soft_edges_are_white_on_edges_and_black_elsewhere():
    edges = conditions.soft_edges(square())
    assert edges.shape == (64, 64, 3) and edges.dtype == np.uint8
    assert (edges[..., 0] == edges[..., 1]).all()
    grey = edges[..., 0]
    assert grey[32, 15:17].min() > 180
    assert grey[32, 32] == 0 and grey[4, 4] == 0
    assert len(np.unique(grey)) > 8  # soft
    assert conditions.soft_edges(np.full((32, 32, 3), 77, np.uint8)).max() == 0
    faint = np.random.default_rng(0).integers(120, 124, (64, 64, 3)).astype(np.uint8)
    assert conditions.soft_edges(faint).max() < 40


def test_depth_exact_values():
    depth = np.array([[1.0, 2.0, 4.0, np.inf, 0.0, np.nan, 0.5, 9.0]])
    image, norm = conditions.depth_image(depth, near=1, far=4)
    assert norm == conditions.Normalisation(1, 4, "inverse")
    # 1 + 254 (1/d - 1/4) / (1 - 1/4); beyond the range is clipped, unknown is black.
    assert image[0, :, 0].tolist() == [255, 86, 1, 0, 0, 0, 255, 1]
    linear, _ = conditions.depth_image(depth, near=1, far=4, kind="linear")
    assert linear[0, :3, 1].tolist() == [255, 170, 1]
    unbounded, _ = conditions.depth_image(depth, near=1, far=np.inf)
    assert unbounded[0, :4, 0].tolist() == [255, 128, 64, 0]  # 64.5 rounds to even


@pytest.mark.parametrize(
    "kwargs", [{}, {"near": 0.5, "far": np.inf}, {"near": 0.5, "far": 6.0}, {"kind": "linear"}]
)
def test_depth_round_trip(kwargs):
    depth = np.random.default_rng(0).uniform(0.5, 5, (16, 24))
    depth[:3] = np.inf
    image, norm = conditions.depth_image(depth, **kwargs)
    recovered = conditions.depth_from_image(image, norm)
    assert recovered.dtype == np.float32
    assert np.isinf(recovered[:3]).all()
    depth, recovered = depth[3:], recovered[3:]
    # Half a grey level, in the quantity that grey is linear in.
    if norm.kind == "linear":
        error, step = np.abs(recovered - depth), (norm.far - norm.near) / 254
    else:
        error, step = (np.abs(1 / recovered - 1 / depth), (1 / norm.near - 1 / norm.far) / 254)
    assert error.max() <= 0.501 * step


def test_constant_depth_is_white_and_comes_back():
    image, norm = conditions.depth_image(np.full((4, 4), 2.5))
    assert (image == 255).all()
    np.testing.assert_allclose(conditions.depth_from_image(image, norm), 2.5)


def test_errors():
    with pytest.raises(ValueError, match="uint8"):
        conditions.canny(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="uint8"):
        conditions.soft_edges(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="low <= high"):
        conditions.canny(np.zeros((8, 8, 3), np.uint8), 20, 10)
    with pytest.raises(ValueError, match="no finite"):
        conditions.depth_image(np.full((4, 4), np.inf))
    with pytest.raises(ValueError, match="near=5"):
        conditions.depth_image(np.ones((4, 4)), near=5, far=2)
    with pytest.raises(ValueError, match="choose from"):
        conditions.depth_image(np.ones((4, 4)), kind="log")
    with pytest.raises(ValueError, match="finite if linear"):
        conditions.depth_image(np.ones((4, 4)), far=np.inf, kind="linear")
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        conditions.depth_image(np.ones((4, 4, 1)))
