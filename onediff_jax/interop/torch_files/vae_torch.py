"""Pictures to latents and back, with every autoencoder that diffusers has for these latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# TAESD3 works on the latents that SD3's own pipeline has: scaling · (z − shift), not scaling · z.
TINY_OFFSET = 1.5305 * 0.0609


class Autoencoding:
    """The part of the pipeline that knows the vae."""

    vae: Any
    image_processor: Any

    def enable_vae_slicing(self):
        """A picture at a time in the vae. (This pipeline never gives it more than one.)"""
        self.vae.enable_slicing()

    def disable_vae_slicing(self):
        """Undoes enable_vae_slicing."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self):
        """Large pictures tile by tile in the vae: less memory."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self):
        """Undoes enable_vae_tiling."""
        self.vae.disable_tiling()

    def _scale_factor(self) -> int:
        """Pixels per latent."""
        config: Any = getattr(self.vae, "config", None)
        channels = getattr(config, "block_out_channels", (0,) * 4)
        if "encoder_block_out_channels" in (config or {}):  # AutoencoderTiny
            channels = config.encoder_block_out_channels
        return getattr(config, "block_size", None) or 2 ** (len(channels) - 1)

    def _offset(self) -> float:
        """What the vae's latents lack to scaling_factor · z."""
        return TINY_OFFSET if type(self.vae).__name__ == "AutoencoderTiny" else 0.0

    def _encode(self, frames, shape, generator, device) -> torch.Tensor:
        """Known frames as latents (b, f, c, h, w) float32; zeros for the others."""
        latents = torch.zeros(shape, device=device)
        for row, column in np.ndindex(*shape[:2]):
            frame = frames[row][column]
            if frame is None:
                continue
            if len(frame) == 3:
                own = generator[row] if isinstance(generator, Sequence) else generator
                picture = frame[None].to(device, self.vae.dtype)
                found = self.vae.encode(picture)
                found = found.latent_dist.sample(own) if "latent_dist" in found else found.latents
                frame = found[0].float() * self.vae.config.scaling_factor + self._offset()
            latents[row, column] = frame
        return latents

    def _decode(self, latents: torch.Tensor, output_type: str):
        """Latents (n, c, h, w) as pictures, one at a time to bound memory."""
        if output_type == "latent" or not len(latents):
            return latents
        latents = (latents - self._offset()) / self.vae.config.scaling_factor
        latents = latents.to(self.vae.dtype)
        pictures = [self.vae.decode(z).sample.float() for z in latents.split(1)]
        return self.image_processor.postprocess(torch.cat(pictures), output_type)
