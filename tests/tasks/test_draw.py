"""Class maps, boxes and skeletons."""

import numpy as np
import pytest

from onediff_jax.tasks import colors, draw

LIMBS = [(0, 1), (1, 2)]


def test_semantic_map_classifies_back():
    classes = np.random.default_rng(0).integers(0, 4, (16, 24))
    image = draw.paint_semantic(classes, {1: "cyan", 2: "red", 3: "green"})
    np.testing.assert_array_equal(colors.classify(image, ["cyan", "red", "green"]), classes - 1)
    assert (image[classes == 0] == 0).all()


@pytest.mark.parametrize("size,line", [(64, 2), (512, 8)])
def test_boxes_are_outlines(size, line):
    box = np.array([0.25, 0.125, 0.75, 0.875]) * size
    image = draw.paint_boxes(size, size, [box], ["cyan"])
    painted = (image == colors.rgb("cyan")).all(-1)
    assert (image[~painted] == 0).all()
    x0, y0, x1, y1 = box.astype(int)
    assert painted[y0:y1, x0 : x0 + line].all() and painted[y0 : y0 + line, x0:x1].all()
    assert painted[y0:y1, x1 - line : x1].all() and painted[y1 - line : y1, x0:x1].all()
    height, width = y1 - y0, x1 - x0
    assert painted.sum() == height * width - (height - 2 * line) * (width - 2 * line)


def test_small_boxes_stay_on_top_and_large_ones_are_cut():
    image = draw.paint_boxes(32, 48, [[8, 8, 11, 11], [8, 8, 100, 40]], ["red", "lime"])
    assert (image[8:11, 8:11] == colors.rgb("red")).all()
    assert (image[20, 8] == colors.rgb("lime")).all()
    assert (image[20, 47] == colors.rgb("lime")).all()
    assert not draw.paint_boxes(32, 32, [], []).any()


def test_pose_draws_visible_joints_and_limbs_only():
    points = np.array([[10.0, 32, 1], [32, 32, 1], [54, 32, 0]])
    image = draw.draw_pose(64, 64, points, LIMBS)
    assert image.dtype == np.uint8 and image.shape == (64, 64, 3)
    assert image[32, 10].tolist() == [255, 0, 0]  # joint 0: the first hue
    assert image[32, 20].tolist() == [153, 0, 0]  # limb 0: 60 % of the first hue
    assert image[32, 32].tolist() == [0, 255, 0]  # joint 1 of 3: a third around the wheel
    assert not image[:, 40:].any() and not image[:28].any()
    # Anti-aliased: the thickness of a limb, coverage summed over a column, is about 2 radius.
    assert image[:, 20, 0].sum() / 153 == pytest.approx(1.8, abs=0.3)
    assert not draw.draw_pose(64, 64, points * [1, 1, 0], LIMBS).any()


def test_pose_scales_with_the_image_and_takes_colours():
    points = np.array([[0.2, 0.3, 1], [0.5, 0.6, 1], [0.8, 0.2, 1]])
    shares = []
    for size in (256, 512):
        image = draw.draw_pose(size, size, points * [size, size, 1], LIMBS)
        shares.append((image.max(-1) > 60).mean())
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
    points = np.array([[16, 16, 1], [32, 32, 1], [48, 16, 1]])
    custom = draw.draw_pose(64, 64, points, LIMBS, [[0, 0, 200], [0, 200, 200]])
    assert custom[24, 24].tolist() == [0, 0, 120]
    assert custom[24, 40].tolist() == [0, 120, 120]


def test_strokes_may_leave_the_image():
    where, coverage = draw.stroke(16, 16, (-50, -50), (-40, -40), 2)
    assert coverage.size == 0 and np.zeros((16, 16))[where].size == 0
    where, coverage = draw.stroke(16, 16, (-5, 8), (50, 8), 2)
    assert coverage.shape[1] == 16 and coverage.max() == 1
    where, coverage = draw.stroke(32, 32, (16, 16), (16, 16), 6)
    assert coverage.sum() == pytest.approx(np.pi * 36, rel=0.02)


def test_errors():
    with pytest.raises(ValueError, match="integers"):
        draw.paint_semantic(np.zeros((4, 4)), {})
    with pytest.raises(ValueError, match="unknown colour 'grey'"):
        draw.paint_semantic(np.zeros((4, 4), int), {0: "grey"})
    with pytest.raises(ValueError, match="1 boxes but 2 colors"):
        draw.paint_boxes(8, 8, [[0, 0, 4, 4]], ["red", "cyan"])
    with pytest.raises(ValueError, match=r"\[5.0, 0.0, 4.0, 4.0\]"):
        draw.paint_boxes(8, 8, [[0, 0, 4, 4], [5, 0, 4, 4]], ["red", "cyan"])
    with pytest.raises(ValueError, match=r"\(K, 3\)"):
        draw.draw_pose(8, 8, np.zeros((3, 2)), LIMBS)
    with pytest.raises(ValueError, match="indices below 2"):
        draw.draw_pose(8, 8, np.zeros((2, 3)), LIMBS)
    with pytest.raises(ValueError, match=r"colors must have shape \(2, 3\)"):
        draw.draw_pose(8, 8, np.zeros((3, 3)), LIMBS, [[0, 0, 0]])
