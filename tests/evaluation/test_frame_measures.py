"""Frames drawn from known truth read back as that truth; a wrong one scores worse."""

import numpy as np
import pytest

from onediff_jax.evaluation.frame_measures import FrameMeasure, measure_of
from onediff_jax.tasks.cameras import orbit_cameras, ray_frames, rays_from_cameras
from onediff_jax.tasks.depth import depth_image
from onediff_jax.tasks.pose import KEYPOINTS, LIMBS, draw_pose
from onediff_jax.tasks.regions import paint_boxes, paint_semantic
from onediff_jax.tasks.roles import get_role


def score(role, made, truth, known):
    measure = measure_of(get_role(role), known)
    return measure.summarize([measure.record(made, truth, known)])


def test_depth_of_a_known_range_is_aligned_and_in_metres():
    metres = np.linspace(1, 8, 64)[:, None] * np.ones((1, 48))
    truth, norm = depth_image(metres, near=1.0, far=10.0)
    known = {"depth": metres, "depth_norm": norm}
    right = score("depth", truth, truth, known)
    assert right["abs_rel"] < 0.01 and right["metric_abs_rel"] < 0.02 and right["delta1"] == 1
    dimmer = np.rint(truth * 0.7 + 20).astype(np.uint8)  # a scale and a shift of nearness
    wrong = score("depth", dimmer, truth, known)
    assert wrong["abs_rel"] < 0.02 < 0.15 < wrong["metric_abs_rel"]


def test_depth_without_its_range_is_compared_as_a_picture():
    assert type(measure_of(get_role("depth"), {})) is FrameMeasure


def test_a_role_that_is_not_known_is_a_picture():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (16, 16, 3), np.uint8)
    assert score("normal", truth, truth, {}) == {"psnr": 60.0, "ssim": 1.0}


def test_classes_are_pooled_by_label():
    classes = np.zeros((16, 16), int)
    classes[4:12, 4:12] = 1
    truth = paint_semantic(classes, {1: "red"})
    known = {"regions": (("red", "cube"),)}
    assert score("semanticmap", truth, truth, known) == {"miou": 1.0, "accuracy": 1.0}
    half = truth.copy()
    half[:, :8] = 0
    found = score("semanticmap", half, truth, known)
    assert found["accuracy"] == pytest.approx(1 - 32 / 256)
    assert found["miou"] == pytest.approx((192 / 224 + 0.5) / 2)


def test_edges_match_within_a_pixel():
    truth = np.zeros((32, 32, 3), np.uint8)
    truth[16] = 255
    shifted, far = np.roll(truth, 1, 0), np.roll(truth, 5, 0)
    assert score("canny", truth, truth, {}) == pytest.approx({"f": 1, "correlation": 1})
    assert score("canny", shifted, truth, {})["f"] == 1
    assert score("canny", far, truth, {})["f"] == 0


def test_a_pose_is_read_joint_by_joint():
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(30, 226, (len(KEYPOINTS), 2)), np.ones((17, 1))], 1)
    truth = draw_pose(256, 256, points, LIMBS)
    assert score("pose", truth, truth, {})["pck"] == 1
    moved = points.copy()
    moved[:, 0] = 256 - moved[:, 0]  # mirrored: left is right
    assert score("pose", draw_pose(256, 256, moved, LIMBS), truth, {})["pck"] < 0.5
    black = np.zeros_like(truth)
    measure = measure_of(get_role("pose"), {})
    assert measure.record(truth, black, {}) is None  # nobody to find


def test_boxes_are_read_and_scored_by_average_precision():
    pytest.importorskip("pycocotools")
    truth = paint_boxes(128, 128, [(8, 8, 60, 60), (70, 50, 120, 120)], ["red", "lime"])
    known = {"regions": (("red", "cup"), ("lime", "dog"))}
    assert score("boundingbox", truth, truth, known)["AP"] == pytest.approx(1)
    one = paint_boxes(128, 128, [(8, 8, 60, 60)], ["red"])
    assert score("boundingbox", one, truth, known)["AP"] == pytest.approx(0.5)


def test_cameras_are_read_from_all_ray_maps():
    cameras = orbit_cameras([0, 40, 80], [10, 20, 30], 1.7)
    maps = ray_frames(rays_from_cameras(cameras, (8, 8)))
    found = score("ray", maps, maps, {"cameras": cameras})
    assert found["rotation_accuracy_15"] == 1 and found["centre_accuracy_0.3"] == 1
    assert found["auc30"] > 0.99
    swapped = score("ray", maps[[0, 2, 1]], maps, {"cameras": cameras})
    assert swapped["rotation_accuracy_15"] < 1
