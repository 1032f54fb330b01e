import numpy as np
import pytest

from onediff_jax.evaluation.metrics import box_scores, keypoint_scores
from tests.evaluation.metrics.golden import cases, same

pytest.importorskip("pycocotools")


@pytest.mark.parametrize("name, params, out, arrays", cases("coco_bbox"))
def test_boxes(name, params, out, arrays):
    found = box_scores(params["gt"], params["dt"])
    if "raises" in out:  # pycocotools cannot load an empty list; it is a score of 0
        assert found["AP"] == found["AR100"] == 0
        assert np.isnan(found["APs"])
        return
    for key, value in found.items():
        same(value, np.nan if out[key] < 0 else out[key], atol=1e-9)


@pytest.mark.parametrize("name, params, out, arrays", cases("coco_keypoints"))
def test_keypoints(name, params, out, arrays):
    for key, value in keypoint_scores(params["gt"], params["dt"]).items():
        same(value, np.nan if out[key] < 0 else out[key], atol=1e-9)


def test_a_detection_of_an_unknown_picture_is_refused():
    _, params, _, _ = cases("coco_bbox", "small")[0]
    with pytest.raises(ValueError, match=r"not in the truth: \[999\]"):
        box_scores(params["gt"], [params["dt"][0] | {"image_id": 999}])
