"""Class maps and boxes."""

import numpy as np
import pytest

from onediff_jax.tasks import colors, regions


def test_semantic_map_classifies_back():
    classes = np.random.default_rng(0).integers(0, 4, (16, 24))
    image = regions.paint_semantic(classes, {1: "cyan", 2: "red", 3: "green"})
    np.testing.assert_array_equal(colors.classify(image, ["cyan", "red", "green"]), classes - 1)
    assert (image[classes == 0] == 0).all()


@pytest.mark.parametrize("size,line", [(64, 2), (512, 8)])
def test_boxes_are_outlines(size, line):
    box = np.array([0.25, 0.125, 0.75, 0.875]) * size
    image = regions.paint_boxes(size, size, [box], ["cyan"])
    painted = (image == colors.rgb("cyan")).all(-1)
    assert (image[~painted] == 0).all()
    x0, y0, x1, y1 = box.astype(int)
    assert painted[y0:y1, x0 : x0 + line].all() and painted[y0 : y0 + line, x0:x1].all()
    assert painted[y0:y1, x1 - line : x1].all() and painted[y1 - line : y1, x0:x1].all()
    height, width = y1 - y0, x1 - x0
    assert painted.sum() == height * width - (height - 2 * line) * (width - 2 * line)


def test_small_boxes_stay_on_top_and_large_ones_are_cut():
    image = regions.paint_boxes(32, 48, [[8, 8, 11, 11], [8, 8, 100, 40]], ["red", "lime"])
    assert (image[8:11, 8:11] == colors.rgb("red")).all()
    assert (image[20, 8] == colors.rgb("lime")).all()
    assert (image[20, 47] == colors.rgb("lime")).all()
    assert not regions.paint_boxes(32, 32, [], []).any()


def test_errors():
    with pytest.raises(ValueError, match="integers"):
        regions.paint_semantic(np.zeros((4, 4)), {})
    with pytest.raises(ValueError, match="unknown colour 'grey'"):
        regions.paint_semantic(np.zeros((4, 4), int), {0: "grey"})
    with pytest.raises(ValueError, match="1 boxes but 2 colors"):
        regions.paint_boxes(8, 8, [[0, 0, 4, 4]], ["red", "cyan"])
    with pytest.raises(ValueError, match=r"\[5.0, 0.0, 4.0, 4.0\]"):
        regions.paint_boxes(8, 8, [[0, 0, 4, 4], [5, 0, 4, 4]], ["red", "cyan"])


def test_boxes_are_read_back():
    boxes = [[4, 4, 60, 50], [20, 10, 40, 30], [70, 20, 90, 60]]
    image = regions.paint_boxes(96, 96, boxes, ["cyan", "red", "cyan"])
    known = {"regions": [("cyan", "car"), ("red", "dog")]}
    found = regions.BoundingBoxes().read(image, known)
    assert [(place, box.tolist()) for place, box in found] == [
        (0, boxes[0]),
        (0, boxes[2]),
        (1, boxes[1]),
    ]
    with pytest.raises(ValueError, match="read with regions"):
        regions.BoundingBoxes().read(image, {})
