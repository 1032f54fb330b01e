"""Pictures in, tensors out: what a pipeline accepts as an image (torch, numpy, PIL)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


def as_tensor(picture) -> torch.Tensor:
    """A picture as (3, H, W) float32 in 0..1.

    Args:
      picture: a PIL image; an array (H, W, 3), uint8 or floats in 0..1; or a tensor (3, H, W) of
        floats in 0..1.

    Raises:
      ValueError: another type, shape or range.
    """
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):  # conversion would clip, not scale
            raise ValueError(f"a picture of mode {picture.mode!r} must be scaled to 8 bits first")
        picture = np.array(picture.convert("RGB"))
    if isinstance(picture, np.ndarray) and picture.ndim == 3:
        scale = 255.0 if picture.dtype == np.uint8 else 1.0
        picture = torch.from_numpy(picture.astype(np.float32) / scale).permute(2, 0, 1)
    if not isinstance(picture, torch.Tensor) or picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(
            "a picture must be a PIL image, an array (H, W, 3) or a tensor (3, H, W), got"
            f" {type(picture).__name__} {tuple(getattr(picture, 'shape', ()))}"
        )
    picture = picture.float().cpu()
    low, high = picture.aminmax()
    if not (low > -1e-3 and high < 1 + 1e-3):
        raise ValueError(f"pictures of floats must lie in 0..1, got {low:.3g}..{high:.3g}")
    return picture


def fit(picture, height: int, width: int) -> torch.Tensor:
    """A picture scaled to cover height × width and cut about its centre: (3, H, W) in −1..1."""
    picture = as_tensor(picture)
    if picture.shape[1:] != (height, width):
        scale = max(height / picture.shape[1], width / picture.shape[2])
        size = [
            max(m, round(n * scale))
            for n, m in zip(picture.shape[1:], (height, width), strict=True)
        ]
        picture = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        picture = picture[:, top : top + height, left : left + width].clamp(0, 1)
    return picture * 2 - 1


def size_like(picture, area: int, multiple: int) -> tuple[int, int]:
    """(height, width) of about `area` pixels in the picture's aspect ratio, multiples given."""
    height, width = as_tensor(picture).shape[1:]
    scale = math.sqrt(area / (height * width))
    return tuple(max(multiple, round(n * scale / multiple) * multiple) for n in (height, width))
