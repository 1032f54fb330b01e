"""Generated views against true ones, as EscherNet measures them (metrics/eval_2D_NVS.py)."""

from typing import Any

import numpy as np


def view_scores(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM and squared error of one picture.

    Args:
      prediction, truth: uint8 (H, W, 3), at least 7 pixels on a side.

    Returns
      psnr: dB with peak 255; equal pictures score 361.20, as OpenCV has it.
      ssim: uniform windows of 7×7, sample covariance, over the picture without its outer 3 pixels.
      mse: of values in −1..1.

    Raises ValueError for other types, sizes that differ or are too small.
    """
    from skimage.metrics import structural_similarity

    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(f"{prediction.dtype=}, {truth.dtype=}: both must be uint8")
    if prediction.shape != truth.shape or prediction.ndim != 3 or prediction.shape[2] != 3:
        raise ValueError(f"{prediction.shape=}, {truth.shape=}: both must be (H, W, 3) of one size")
    squares = np.square(np.float64(prediction) - truth)
    error = np.sqrt(squares.mean()) + np.finfo(np.float64).eps
    similarity: Any = structural_similarity(prediction, truth, channel_axis=2)
    return {
        "psnr": float(20 * np.log10(255 / error)),
        "ssim": float(similarity),
        "mse": float(squares.mean() / 127.5**2),
    }
