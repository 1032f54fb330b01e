"""Pictures in, tensors out: what a pipeline accepts as an image (torch, numpy, PIL)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN
from PIL import Image

# Where the released code's sizes go beyond those of diffusers.
ASPECT_RATIOS_512 = dict(
    ASPECT_RATIO_512_BIN,
    **{"0.26": [256, 992], "0.27": [256, 960], "2.89": [832, 288], "3.11": [896, 288]},
    **{"3.62": [928, 256], "3.75": [960, 256], "3.88": [992, 256]},
)


def as_tensor(picture) -> torch.Tensor:
    """A picture as (3, H, W) float32 in 0..1.

    Args:
      picture: a PIL image, which lies on white where it is transparent; an array (H, W, 3), uint8
        or floats in 0..1; or a tensor (3, H, W) of floats in 0..1.

    Raises:
      ValueError: another type, shape or range.
    """
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):  # conversion would clip, not scale
            raise ValueError(f"a picture of mode {picture.mode!r} must be scaled to 8 bits first")
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
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


def fit(picture, height: int, width: int, *, crop: bool = True) -> torch.Tensor:
    """A picture scaled to cover height × width and cut about its centre: (3, H, W) in −1..1.

    Without `crop` it is stretched to height × width.
    """
    picture = as_tensor(picture)
    if not crop:
        picture = F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0]
        picture = picture.clamp(0, 1)
    elif picture.shape[1:] != (height, width):
        scale = max(height / picture.shape[1], width / picture.shape[2])
        size = [
            max(m, round(n * scale))
            for n, m in zip(picture.shape[1:], (height, width), strict=True)
        ]
        picture = F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        picture = picture[:, top : top + height, left : left + width].clamp(0, 1)
    return picture * 2 - 1


def size_like(picture, area: int, multiple: int, sizes=None) -> tuple[int, int]:
    """(height, width) that suits a picture.

    Args:
      picture: whose aspect ratio counts.
      area: of the model's pictures, in pixels. From 512² on it is one of the released code's sizes,
        whose area is 512²; below, about that area in the picture's own ratio.
      multiple: of both sides.
      sizes: (height, width) pairs that the model was trained on: the nearest in ratio is taken.
    """
    height, width = as_tensor(picture).shape[1:]
    if not sizes and area >= 512 * 512:
        # The released code compares ratios themselves, by the names of the sizes.
        key = min(ASPECT_RATIOS_512, key=lambda ratio: abs(float(ratio) - height / width))
        tall, wide = ASPECT_RATIOS_512[key]
        return int(tall), int(wide)
    if sizes:
        pairs = [(tall, wide) for tall, wide in sizes]
        return min(pairs, key=lambda size: abs(math.log(size[0] / size[1] * width / height)))
    scale = math.sqrt(area / (height * width))
    tall, wide = (max(multiple, round(n * scale / multiple) * multiple) for n in (height, width))
    return tall, wide
