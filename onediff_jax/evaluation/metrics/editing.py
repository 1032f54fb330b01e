"""Edited pictures, inside and outside the part to be edited, as PIE-Bench measures them.

cure-lab/PnPInversion, evaluation/matrics_calculator.py, with torchmetrics' SSIM.
"""

import numpy as np

_RADIUS = 5  # pixels, of SSIM's Gaussian window
# Half of the window (σ 1.5), in float32 as torch rounds it. SSIM divides differences of near-equal
# sums by small numbers: another rounding, of the window or of the sums, moves the fifth digit.
_WINDOW = np.array(
    [0.0010283804, 0.007598756, 0.036000773, 0.10936068, 0.21300553, 0.26601171], np.float32
)


def edit_scores(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM and squared error of an edited picture against the one it was made from.

    Args:
      source, target: uint8 (H, W, 3).
      mask: (H, W), true (1) where the picture was to be edited.

    Returns psnr (dB; ∞ for equal pictures), ssim and mse (values in 0..1) of the whole picture,
    and each with _unedited and _edited: both pictures are black outside the part, and the mean
    runs over all pixels, the black ones too, so that values depend on the part's size. NaN for a
    part without pixels.

    Raises ValueError for sizes that differ or are below 11 pixels.
    """
    source, target = np.asarray(source), np.asarray(target)
    mask = np.asarray(mask, bool)
    if source.shape != target.shape or source.shape != (*mask.shape, 3):
        raise ValueError(
            f"{source.shape=}, {target.shape=}, {mask.shape=} must be (H, W, 3) twice and (H, W)"
        )
    if min(mask.shape) <= 2 * _RADIUS:
        raise ValueError(f"{source.shape=}: SSIM's window needs {2 * _RADIUS + 1} pixels")
    source, target = (p.astype(np.float32) / np.float32(255) for p in (source, target))
    found = _measures(source, target)
    for name, part in (("unedited", ~mask), ("edited", mask)):
        inside = part[..., None]
        values = (
            _measures(source * inside, target * inside)
            if part.any()
            else dict.fromkeys(found, np.nan)
        )
        found |= {f"{key}_{name}": values[key] for key in ("psnr", "ssim", "mse")}
    return found


def _measures(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    mse = float(np.square(first - second).mean(dtype=np.float64))
    with np.errstate(divide="ignore"):
        psnr = float(-10 * np.log10(np.float64(mse)))
    return {"psnr": psnr, "ssim": gaussian_ssim(first, second), "mse": mse}


def gaussian_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """torchmetrics' SSIM of pictures (H, W, C) in 0..1: a Gaussian window, mirrored borders."""
    a, b = (_smooth(picture) for picture in (first, second))
    c1, c2 = np.float32(0.01**2), np.float32(0.03**2)
    variance = np.maximum(_smooth(first * first) - a * a, 0)
    variance += np.maximum(_smooth(second * second) - b * b, 0)
    covariance = _smooth(first * second) - a * b
    likeness = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance + c2))
    return float(likeness.mean(dtype=np.float64))


def _smooth(picture: np.ndarray) -> np.ndarray:
    """The picture under the window, summed in float32 and in torch's order."""
    height, width = picture.shape[:2]
    wide = np.pad(picture, ((_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)), mode="reflect")
    window = np.concatenate([_WINDOW, _WINDOW[-2::-1]])
    total, part = np.zeros_like(picture), np.empty_like(picture)
    for row, weights in enumerate(np.outer(window, window)):
        for column, weight in enumerate(weights):
            np.multiply(wide[row : row + height, column : column + width], weight, out=part)
            total += part
    return total
