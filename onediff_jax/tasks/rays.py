"""Ray maps: frames that carry the camera of the picture beside them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from onediff_jax.tasks.cameras import Cameras, cameras_from_rays, rays_from_frames
from onediff_jax.tasks.role import Role

_SHOWN = 8  # pixels per side of a latent's ray


class Ray(Role):
    """Plücker coordinates of the ray through every latent; (h, w, 16) latents, no picture."""

    name, title = "ray", "ray map"
    mirrors = False
    measure = "cameras"
    given_measures = ()

    def show(self, frame: np.ndarray) -> np.ndarray:
        """The directions of the rays (h, w, 16) as colours, uint8 (8 h, 8 w, 3)."""
        directions = rays_from_frames(np.asarray(frame, np.float32))[..., :3]
        small = np.clip((directions + 1) * 127.5, 0, 255).astype(np.uint8)
        return small.repeat(_SHOWN, 0).repeat(_SHOWN, 1)

    def read(self, frame: np.ndarray, known: Mapping[str, Any]) -> Cameras:
        """The cameras of ray maps (h, w, 16) or (n, h, w, 16), in the world of the rays.

        known["intrinsics"] is Cameras, or (focal, principal) in normalised coordinates.
        """
        frames = np.asarray(frame, np.float64)
        frames = frames[None] if frames.ndim == 3 else frames
        return cameras_from_rays(rays_from_frames(frames), self.need(known, "intrinsics"))
