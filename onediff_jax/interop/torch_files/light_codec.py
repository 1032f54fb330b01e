"""The light codec for PyTorch: images to 16-channel latents at 1/8 resolution by one matrix.

Everything it knows is in its weights: `basis` (orthonormal rows), `mean` and `scale`. It has the
interface of diffusers' AutoencoderKL, so a pipeline need not tell them apart.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook

from .own_code import OwnCode


class LightCodec(OwnCode, ModelMixin, ConfigMixin):
    """A linear codec of square blocks, exact up to the coefficients it drops.

    A block is flattened (row, column, rgb). latent = (basis·block − mean)/scale and
    block = basisᵀ·(latent·scale + mean), computed in float32.
    """

    @register_to_config
    def __init__(self, block_size: int = 8, latent_channels: int = 16, scaling_factor: float = 1.0):
        super().__init__()
        # Not learned either; offloading asks a parameter where the module is.
        basis = torch.zeros(latent_channels, block_size**2 * 3)
        self.basis = torch.nn.Parameter(basis, requires_grad=False)
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("scale", torch.ones(latent_channels))

    def enable_slicing(self):
        """Nothing to do, as for the three below: one matrix per block needs no memory of note."""

    disable_slicing = enable_tiling = disable_tiling = enable_slicing

    @apply_forward_hook
    def encode(self, images: torch.Tensor, return_dict: bool = True):
        """Images (B, 3, H, W) in −1..1 → `.latent_dist` over (B, 16, H/8, W/8), a single point.

        Raises ValueError when H or W is not a multiple of the block size.
        """
        p = self.config.block_size
        if images.ndim != 4 or images.shape[1] != 3 or any(n % p for n in images.shape[2:]):
            raise ValueError(
                f"images {tuple(images.shape)} must be (B, 3, H, W), H and W multiples of {p}"
            )
        blocks = images.float().unfold(2, p, p).unfold(3, p, p)  # B 3 h w p p
        blocks = blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)
        latents = (blocks @ self.basis.float().T - self.mean.float()) / self.scale.float()
        latents = latents.permute(0, 3, 1, 2).to(images.dtype)
        moments = torch.cat([latents, torch.zeros_like(latents)], 1)
        point = DiagonalGaussianDistribution(moments, deterministic=True)
        return AutoencoderKLOutput(latent_dist=point) if return_dict else (point,)

    @apply_forward_hook
    def decode(self, latents: torch.Tensor, return_dict: bool = True, generator=None):
        """Latents (B, 16, h, w) → `.sample`, images (B, 3, 8h, 8w) clipped to −1..1."""
        p = self.config.block_size
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents {tuple(latents.shape)} must be (B, {self.config.latent_channels}, h, w)"
            )
        coefficients = latents.float().permute(0, 2, 3, 1) * self.scale.float() + self.mean.float()
        blocks = (coefficients @ self.basis.float()).unflatten(3, (p, p, 3))  # B h w p p 3
        images = blocks.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        images = images.clamp(-1, 1).to(latents.dtype)
        return DecoderOutput(sample=images) if return_dict else (images,)
