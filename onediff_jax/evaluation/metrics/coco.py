"""Boxes and keypoints by COCO's average precision, with pycocotools."""

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

BOX_NAMES = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)
KEYPOINT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_EXTRA = "COCO's average precision needs pycocotools: pip install 'onediff-jax[evaluate]'"


def box_scores(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict:
    """COCO's twelve numbers of detected boxes.

    Args:
      truth: COCO's annotation dictionary: images, annotations (bbox [x, y, w, h], area, iscrowd),
        categories.
      detections: COCO's list of results: image_id, category_id, bbox, score.

    Returns AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl in 0..1; NaN where the
    truth has nothing to find (pycocotools says −1). Without detections what can be found scores 0.

    Raises ValueError for a detection of a picture that the truth does not have.
    """
    return summary(evaluation(truth, detections, "bbox"), "bbox")


def keypoint_scores(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict:
    """COCO's ten numbers of detected people, by object keypoint similarity.

    Args:
      truth: COCO's annotation dictionary: annotations with keypoints [x, y, v] × 17, area, bbox.
      detections: COCO's list of results: image_id, category_id, keypoints, score.

    Returns AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl in 0..1, as `box_scores` does.
    """
    return summary(evaluation(truth, detections, "keypoints"), "keypoints")


def evaluation(truth, detections, kind: Literal["bbox", "keypoints"]):
    """pycocotools' COCOeval of the whole set, with every picture matched.

    Args:
      kind: "bbox" or "keypoints".
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(_EXTRA) from error
    truth = copy.deepcopy(dict(truth))
    for annotation in truth["annotations"]:
        annotation.setdefault("iscrowd", 0)
        if kind == "keypoints" and "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    known = {image["id"] for image in truth["images"]}
    if unknown := {d["image_id"] for d in detections} - known:
        raise ValueError(f"detections of pictures that are not in the truth: {sorted(unknown)[:5]}")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs: Any = COCO()
        theirs.dataset = truth
        theirs.createIndex()
        if len(detections):
            ours = theirs.loadRes(copy.deepcopy([dict(d) for d in detections]))
        else:  # loadRes looks at the first result
            ours: Any = COCO()
            ours.dataset = {k: truth[k] for k in ("images", "categories")} | {"annotations": []}
            ours.createIndex()
        found = COCOeval(theirs, ours, kind)
        found.evaluate()
    return found


def summary(found, kind: str) -> dict[str, float]:
    """COCO's numbers of an `evaluation`."""
    with contextlib.redirect_stdout(io.StringIO()):
        found.accumulate()
        found.summarize()
    names = BOX_NAMES if kind == "bbox" else KEYPOINT_NAMES
    return {
        name: float(np.nan if value < 0 else value)
        for name, value in zip(names, found.stats, strict=True)
    }
