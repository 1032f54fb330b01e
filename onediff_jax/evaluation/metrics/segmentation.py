"""Semantic maps, as mmsegmentation measures them (IoUMetric): one count over the whole set."""

from collections.abc import Iterable, Sequence

import numpy as np


def segmentation_scores(
    predictions: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    num_classes: int,
    ignore: int = 255,
) -> dict[str, float | np.ndarray]:
    """Mean IoU and accuracies of a set of maps.

    Args:
      predictions, labels: (H, W) class indices each, pairs of one size.
      num_classes: classes 0 … C−1; predictions outside are misses.
      ignore: pixels with this label are left out.

    Returns miou (over classes that appear in labels or predictions), accuracy (of pixels),
    mean_accuracy (over classes in labels), iou (C,) with NaN for classes that appear nowhere.

    Raises ValueError for maps that do not pair up.
    """
    counts = [
        class_counts(p, t, num_classes=num_classes, ignore=ignore)
        for p, t in zip(predictions, labels, strict=True)
    ]
    return scores_from_counts(counts, num_classes)


def class_counts(
    prediction: np.ndarray, label: np.ndarray, *, num_classes: int, ignore: int = 255
) -> np.ndarray:
    """(3, C) int64 of one map: pixels right, predicted and labelled of every class."""
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape:
        raise ValueError(f"{prediction.shape=} and {label.shape=} must be equal")
    kept = label != ignore
    prediction, label = (np.asarray(a[kept], np.int64) for a in (prediction, label))

    def histogram(values):
        inside = values[(values >= 0) & (values < num_classes)]
        return np.bincount(inside, minlength=num_classes)

    right = histogram(label[prediction == label])
    return np.stack([right, histogram(prediction), histogram(label)])


def scores_from_counts(
    counts: Iterable[np.ndarray], num_classes: int
) -> dict[str, float | np.ndarray]:
    """`segmentation_scores` from the counts of every map."""
    total = sum(counts, np.zeros((3, num_classes), np.int64))
    right, predicted, labelled = total.astype(np.float64)
    with np.errstate(all="ignore"):
        iou = right / (predicted + labelled - right)
        accuracy = right / labelled
        overall = right.sum() / labelled.sum()
    return {
        "miou": _mean(iou),
        "accuracy": float(overall),
        "mean_accuracy": _mean(accuracy),
        "iou": iou,
    }


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
