"""Skeletons."""

import numpy as np
import pytest

from onediff_jax.tasks import pose

LIMBS = [(0, 1), (1, 2)]


def test_pose_draws_visible_joints_and_limbs_only():
    points = np.array([[10.0, 32, 1], [32, 32, 1], [54, 32, 0]])
    image = pose.draw_pose(64, 64, points, LIMBS)
    assert image.dtype == np.uint8 and image.shape == (64, 64, 3)
    assert image[32, 10].tolist() == [255, 0, 0]  # joint 0: the first hue
    assert image[32, 20].tolist() == [153, 0, 0]  # limb 0: 60 % of the first hue
    assert image[32, 32].tolist() == [0, 255, 0]  # joint 1 of 3: a third around the wheel
    assert not image[:, 40:].any() and not image[:28].any()
    # Anti-aliased: the thickness of a limb, coverage summed over a column, is about 2 radius.
    assert image[:, 20, 0].sum() / 153 == pytest.approx(1.8, abs=0.3)
    assert not pose.draw_pose(64, 64, points * [1, 1, 0], LIMBS).any()


def test_pose_scales_with_the_image_and_takes_colours():
    points = np.array([[0.2, 0.3, 1], [0.5, 0.6, 1], [0.8, 0.2, 1]])
    shares = []
    for size in (256, 512):
        image = pose.draw_pose(size, size, points * [size, size, 1], LIMBS)
        shares.append((image.max(-1) > 60).mean())
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
    points = np.array([[16, 16, 1], [32, 32, 1], [48, 16, 1]])
    custom = pose.draw_pose(64, 64, points, LIMBS, [[0, 0, 200], [0, 200, 200]])
    assert custom[24, 24].tolist() == [0, 0, 120]
    assert custom[24, 40].tolist() == [0, 120, 120]


def test_strokes_may_leave_the_image():
    where, coverage = pose.stroke(16, 16, (-50, -50), (-40, -40), 2)
    assert coverage.size == 0 and np.zeros((16, 16))[where].size == 0
    where, coverage = pose.stroke(16, 16, (-5, 8), (50, 8), 2)
    assert coverage.shape[1] == 16 and coverage.max() == 1
    where, coverage = pose.stroke(32, 32, (16, 16), (16, 16), 6)
    assert coverage.sum() == pytest.approx(np.pi * 36, rel=0.02)


def test_errors():
    with pytest.raises(ValueError, match=r"\(K, 3\)"):
        pose.draw_pose(8, 8, np.zeros((3, 2)), LIMBS)
    with pytest.raises(ValueError, match="indices below 2"):
        pose.draw_pose(8, 8, np.zeros((2, 3)), LIMBS)
    with pytest.raises(ValueError, match=r"colors must have shape \(2, 3\)"):
        pose.draw_pose(8, 8, np.zeros((3, 3)), LIMBS, [[0, 0, 0]])


def test_joints_are_read_back():
    numbers = np.arange(17)
    points = np.stack([20 + 50 * (numbers % 5), 20 + 60 * (numbers // 5), 1 + 0 * numbers], 1)
    points[3, 2] = 0
    image = pose.draw_pose(256, 256, points - [0.5, 0.5, 0], [])
    found = pose.Pose().read(image, {})
    assert found[3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found[points[:, 2] > 0], points[points[:, 2] > 0], atol=1)
