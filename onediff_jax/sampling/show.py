"""Frames as pictures that people look at."""

from typing import Any

import numpy as np

from onediff_jax.data.codec import LightCodec, to_uint8
from onediff_jax.tasks.cameras import rays_from_frames


def picture(frame: np.ndarray, codec: Any, role: str = "image") -> np.ndarray:
    """A frame as uint8 (H, W, 3): pixels as they are, latents decoded, rays as colours."""
    if frame.dtype == np.uint8:
        return frame
    if role == "ray":
        directions = rays_from_frames(frame)[..., :3]
        small = np.clip((directions + 1) * 127.5, 0, 255).astype(np.uint8)
        return small.repeat(LightCodec.factor, 0).repeat(LightCodec.factor, 1)
    return to_uint8(codec.decode(frame))
