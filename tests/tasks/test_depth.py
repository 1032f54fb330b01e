"""Depth maps."""

import numpy as np
import pytest

from onediff_jax.tasks import depth as depth_maps


def test_depth_exact_values():
    depth = np.array([[1.0, 2.0, 4.0, np.inf, 0.0, np.nan, 0.5, 9.0]])
    image, norm = depth_maps.depth_image(depth, near=1, far=4)
    assert norm == depth_maps.Normalisation(1, 4, "inverse")
    # 1 + 254 (1/d - 1/4) / (1 - 1/4); beyond the range is clipped, unknown is black.
    assert image[0, :, 0].tolist() == [255, 86, 1, 0, 0, 0, 255, 1]
    linear, _ = depth_maps.depth_image(depth, near=1, far=4, kind="linear")
    assert linear[0, :3, 1].tolist() == [255, 170, 1]
    unbounded, _ = depth_maps.depth_image(depth, near=1, far=np.inf)
    assert unbounded[0, :4, 0].tolist() == [255, 128, 64, 0]  # 64.5 rounds to even


@pytest.mark.parametrize(
    "kwargs", [{}, {"near": 0.5, "far": np.inf}, {"near": 0.5, "far": 6.0}, {"kind": "linear"}]
)
def test_depth_round_trip(kwargs):
    depth = np.random.default_rng(0).uniform(0.5, 5, (16, 24))
    depth[:3] = np.inf
    image, norm = depth_maps.depth_image(depth, **kwargs)
    recovered = depth_maps.depth_from_image(image, norm)
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
    image, norm = depth_maps.depth_image(np.full((4, 4), 2.5))
    assert (image == 255).all()
    np.testing.assert_allclose(depth_maps.depth_from_image(image, norm), 2.5)


def test_errors():
    with pytest.raises(ValueError, match="no finite"):
        depth_maps.depth_image(np.full((4, 4), np.inf))
    with pytest.raises(ValueError, match="near=5"):
        depth_maps.depth_image(np.ones((4, 4)), near=5, far=2)
    with pytest.raises(ValueError, match="choose from"):
        depth_maps.depth_image(np.ones((4, 4)), kind="log")
    with pytest.raises(ValueError, match="finite if linear"):
        depth_maps.depth_image(np.ones((4, 4)), far=np.inf, kind="linear")
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        depth_maps.depth_image(np.ones((4, 4, 1)))


def test_reading():
    image, norm = depth_maps.depth_image(np.array([[1.0, 2.0], [4.0, np.inf]]))
    role = depth_maps.Depth()
    np.testing.assert_allclose(role.read(image, {"depth_norm": norm}), [[1, 2], [4, np.inf]], 0.01)
    told = {"near": norm.near, "far": norm.far, "kind": norm.kind}  # as a record stores it
    np.testing.assert_allclose(role.read(image, {"depth_norm": told})[0], [1, 2], rtol=0.01)
    np.testing.assert_allclose(depth_maps.nearness(image), [[1, 1 / 3], [0, -1]], atol=0.01)
    with pytest.raises(ValueError, match="depth map is read with depth_norm"):
        role.read(image, {})
