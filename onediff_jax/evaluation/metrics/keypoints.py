"""The percentage of correct keypoints, as mmpose counts it (keypoint_pck_accuracy)."""

import numpy as np


def pck(
    prediction: np.ndarray,
    truth: np.ndarray,
    visible: np.ndarray,
    norm: np.ndarray,
    *,
    threshold: float,
) -> dict[str, float | np.ndarray]:
    """How many keypoints lie within a share of the instance's size.

    Args:
      prediction, truth: (N, K, 2) pixels.
      visible: (N, K) bool, the keypoints that count.
      norm: (N, 2) the size that distances are divided by, per axis (the longer side of the box for
        PCK, the head for PCKh); an instance with 0 is left out.
      threshold: a keypoint is correct strictly below it.

    Returns average (over keypoints that count somewhere; 0 when none does) and per_keypoint (K,),
    NaN for a keypoint that counts nowhere.
    """
    prediction, truth, norm = (np.array(a, np.float32) for a in (prediction, truth, norm))
    counted = np.asarray(visible, bool) & (norm != 0).all(1)[:, None]
    norm = np.where(norm > 0, norm, np.float32(1e6))
    distance = np.linalg.norm((prediction - truth) / norm[:, None], axis=-1)
    right = (distance < np.float32(threshold)) & counted
    with np.errstate(invalid="ignore"):
        share = right.sum(0) / counted.sum(0)
    known = share[counted.any(0)]
    return {"average": float(known.mean()) if len(known) else 0.0, "per_keypoint": share}
