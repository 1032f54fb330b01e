"""Depth maps, as Marigold's evaluation measures them (prs-eth/Marigold, script/depth/eval.py)."""

from typing import Literal

import numpy as np

Align = Literal["depth", "disparity"] | None
_LEAST_DISPARITY = 1e-3  # an aligned disparity below it counts as this (1 / metres)
_LEAST_DEPTH = 1e-6  # every prediction is at least this before it is scored
_DELTA = 1.25


def depth_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray,
    *,
    align: Align = None,
    clip: tuple[float, float] | None = None,
    max_resolution: int | None = None,
) -> dict[str, float]:
    """The errors of one depth map.

    The order is Marigold's: to float32, alignment on the valid pixels, with "disparity" also
    1/x, clipping to the benchmark's range, then the measures. A set's score is the plain mean of
    its pictures' values. With "disparity" a prediction that is not positive is left out of the fit
    and scored nevertheless.

    Args:
      prediction: (H, W), of any unit that `align` can undo.
      truth: (H, W), metres.
      valid: (H, W) bool, the pixels that are scored.
      align: None takes the prediction as metres; "depth" fits scale and shift by least squares;
        "disparity" fits them to 1/truth (larger means nearer).
      clip: lowest and highest depth (metres) a prediction may say; None for no limits.
      max_resolution: fit on every so many columns only, so that the longer side has this many
        pixels (as the official code does for ETH3D; it leaves the rows alone); None for all.

    Returns abs_rel, sq_rel, rmse, rmse_log, log10, delta1, delta2, delta3, i_rmse, silog (× 100),
    and scale and shift of the fit (1 and 0 without one). All errors are NaN without a valid pixel.

    Raises ValueError for shapes that differ, or where the fit meets a value that is not finite.
    """
    prediction, truth = (np.array(a, np.float32) for a in (prediction, truth))
    valid = np.asarray(valid, bool)
    if not prediction.shape == truth.shape == valid.shape or prediction.ndim != 2:
        raise ValueError(
            f"prediction {prediction.shape}, truth {truth.shape} and valid {valid.shape} must be "
            "(H, W) of one size"
        )
    with np.errstate(all="ignore"):
        metres, scale, shift = _aligned(prediction, truth, valid, align, max_resolution)
        if clip is not None:
            metres = np.clip(metres, np.float32(clip[0]), np.float32(clip[1]))
        metres = np.maximum(metres, np.float32(_LEAST_DEPTH))
        return _errors(metres[valid], truth[valid]) | {"scale": scale, "shift": shift}


def in_metres(
    prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray, *, align: Align = None
) -> np.ndarray:
    """The prediction (H, W) in metres, float32, fitted to the truth as `depth_scores` fits it."""
    prediction, truth = (np.array(a, np.float32) for a in (prediction, truth))
    with np.errstate(all="ignore"):
        return _aligned(prediction, truth, np.asarray(valid, bool), align, None)[0]


def _aligned(prediction, truth, valid, align, max_resolution):
    """The prediction in metres, and the scale and shift that made it so."""
    if align is None:
        return prediction, 1.0, 0.0
    if align == "depth":
        scale, shift = _fit(prediction, truth, valid, max_resolution)
        return prediction * scale + shift, float(scale), float(shift)
    if align == "disparity":
        inverse = np.where(truth > 0, 1 / truth, np.float32(0))
        used = valid & (truth > 0) & (prediction > 0)
        scale, shift = _fit(prediction, inverse, used, max_resolution)
        disparity = np.maximum(prediction * scale + shift, np.float32(_LEAST_DISPARITY))
        return 1 / disparity, float(scale), float(shift)
    raise ValueError(f'{align=} must be None, "depth" or "disparity"')


def _fit(prediction, target, used, max_resolution) -> np.ndarray:
    """Scale and shift by least squares; of least norm where they are not unique."""
    if max_resolution is not None and (ratio := max_resolution / max(prediction.shape)) < 1:
        columns = np.floor(np.arange(int(prediction.shape[1] * ratio)) / ratio).astype(int)
        prediction, target, used = (a[:, columns] for a in (prediction, target, used))
    x, y = prediction[used], target[used]
    if wrong := np.count_nonzero(~(np.isfinite(x) & np.isfinite(y))):
        raise ValueError(f"{wrong} valid pixels are not finite: no scale and shift fit them")
    return np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]


def _errors(metres: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The measures over the valid pixels: values in float32, sums in float64."""

    def mean(values):
        return float(np.mean(values, dtype=np.float64)) if len(values) else np.nan

    difference, logs = metres - truth, np.log(metres) - np.log(truth)
    ratio = np.maximum(metres / truth, truth / metres)
    spread = mean(np.square(logs)) - mean(logs) ** 2
    return {
        "abs_rel": mean(np.abs(difference) / truth),
        "sq_rel": mean(np.square(difference) / truth),
        "rmse": float(np.sqrt(mean(np.square(difference)))),
        "rmse_log": float(np.sqrt(mean(np.square(logs)))),
        "log10": mean(np.abs(np.log10(metres) - np.log10(truth))),
        "delta1": mean(ratio < _DELTA),
        "delta2": mean(ratio < _DELTA**2),
        "delta3": mean(ratio < _DELTA**3),
        "i_rmse": float(np.sqrt(mean(np.square(1 / metres - 1 / truth)))),
        "silog": float(np.sqrt(np.maximum(spread, 0))) * 100,
    }
