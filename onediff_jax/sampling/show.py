"""Frames as pictures that people look at."""

from typing import Any

import numpy as np

from onediff_jax.data.codec import to_uint8
from onediff_jax.tasks.roles import get_role


def picture(frame: np.ndarray, codec: Any, role: str = "image") -> np.ndarray:
    """A frame as uint8 (H, W, 3): pixels as they are, latents decoded, shown as its role is."""
    if frame.dtype != np.uint8 and role != "ray":
        frame = to_uint8(codec.decode(frame))
    return get_role(role).show(frame)
