import numpy as np
import pytest

from onediff_jax.evaluation.metrics import segmentation_scores
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("segmentation_mmseg"))
def test_mmsegmentation(name, params, out, arrays):
    predictions, labels = (
        [arrays[f"{kind}{i}"] for i in range(params["n"])] for kind in ("pred", "label")
    )
    found = segmentation_scores(predictions, labels, num_classes=params["num_classes"])
    for ours, theirs in (("miou", "mIoU"), ("accuracy", "aAcc"), ("mean_accuracy", "mAcc")):
        same(found[ours], out[theirs], atol=1e-6)
    same(found["iou"], arrays["IoU"], atol=1e-6)


def test_nothing_to_score_is_nan():
    blank = np.full((2, 2), 255)
    found = segmentation_scores([blank], [blank], num_classes=3)
    assert np.isnan([found["miou"], found["accuracy"], *found["iou"]]).all()
