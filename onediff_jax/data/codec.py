"""The light codec: images to 16-channel latents at 1/8 resolution, and back, without weights.

An orthonormal 8×8 block transform (DCT-II) in an orthonormal luma/chroma space that keeps the 16
most useful coefficients of 192: ten of luma, three of each chroma. It has the latent shape of
Stable Diffusion 3's autoencoder, so everything downstream is the same. numpy only: it runs in the
input pipeline. Decoding is exact up to the dropped coefficients.
"""

from typing import Protocol

import numpy as np

BLOCK = 8
CHANNELS = 16

# Rows: luma, red-blue, green-magenta. Orthonormal, so that noise stays white.
_COLOUR = np.array(
    [
        [3**-0.5, 3**-0.5, 3**-0.5],
        [2**-0.5, 0.0, -(2**-0.5)],
        [6**-0.5, -2 * 6**-0.5, 6**-0.5],
    ]
)
# (colour row, vertical frequency, horizontal frequency) of each channel, low frequencies first.
_KEPT = tuple(
    [(0, v, s - v) for s in range(4) for v in range(s + 1)]
    + [(c, v, s - v) for c in (1, 2) for s in range(2) for v in range(s + 1)]
)
# Mean and standard deviation of each coefficient over renderings of the embedded world in every
# task's frames, for images in -1..1 (benchmarks/codec.py measures them; rounded).
_MEAN = np.array([-2.8] + [0.0] * 9 + [0.6] + [0.0] * 5)
_STD = np.array(
    [6.6, 1.05, 1.15, 0.65, 0.5, 0.65, 0.47, 0.36, 0.34, 0.48, 2.0, 0.46, 0.46, 1.0, 0.34, 0.31]
)
_RMS = 0.6  # of latents


def _basis() -> np.ndarray:
    n = np.arange(BLOCK)
    dct = np.sqrt(2 / BLOCK) * np.cos(np.pi * (n[None] + 0.5) * n[:, None] / BLOCK)
    dct[0] /= np.sqrt(2)
    rows = [np.einsum("y,x,c->yxc", dct[v], dct[h], _COLOUR[c]) for c, v, h in _KEPT]
    return np.stack(rows).reshape(CHANNELS, BLOCK * BLOCK * 3)


class PictureCodec(Protocol):
    """Pictures to latents and back, numpy in and out: LightCodec, or a trained autoencoder.

    Attributes:
      channels: of a latent.
      factor: pixels per latent, along a side.
      identity: hash of its weights, by which latents are told to be its own; "light" without any.
    """

    channels: int
    factor: int

    @property
    def identity(self) -> str: ...

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images (…, H, W, 3) in −1..1, or uint8 → latents (…, H/factor, W/factor, channels)."""
        ...

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents (…, h, w, channels) → images (…, factor·h, factor·w, 3) in −1..1."""
        ...


class LightCodec:
    """Linear block codec. Attributes `basis` (16, 192), `mean` (16,), `scale` (16,), float32.

    A block is flattened (row, column, rgb). latent = (basis·block − mean)/scale and
    block = basisᵀ·(latent·scale + mean). `scale` is proportional to the square root of each
    coefficient's deviation: low frequencies, which matter more to the eye, keep more of the
    variance than whitening would leave them. The latents' root mean square is 0.6: of 0.35, 0.6, 1
    and 2, a small model learned depth fastest with it (error 0.107, 0.088, 0.101, 0.138 after 600
    steps).
    """

    channels = CHANNELS
    factor = BLOCK
    identity = "light"

    def __init__(self):
        self.basis = _basis().astype(np.float32)
        self.mean = _MEAN.astype(np.float32)
        self.scale = (np.sqrt(_STD) * np.sqrt(_STD.mean()) / _RMS).astype(np.float32)
        self._encode = (self.basis / self.scale[:, None]).T.copy()  # (192, 16)
        self._offset = self.mean / self.scale
        self._decode = self.basis * self.scale[:, None]  # (16, 192)
        self._block_mean = self.mean @ self.basis  # (192,)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images (…, H, W, 3) in −1..1, or uint8 → latents (…, H/8, W/8, 16) float32.

        Raises ValueError when H or W is not a positive multiple of 8.
        """
        images = np.asarray(images)
        *lead, height, width, rgb = images.shape
        if rgb != 3 or height % BLOCK or width % BLOCK or not height or not width:
            raise ValueError(f"images {images.shape} must be (…, H, W, 3) with H, W multiples of 8")
        blocks = images.reshape(*lead, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
        blocks = np.moveaxis(blocks, -4, -3).reshape(
            *lead, height // BLOCK, width // BLOCK, BLOCK * BLOCK * 3
        )
        blocks = blocks.astype(np.float32)  # after the turn: bytes are quicker to move
        if images.dtype == np.uint8:
            blocks /= 127.5
            blocks -= 1.0
        return blocks @ self._encode - self._offset

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Latents (…, h, w, 16) → images (…, 8h, 8w, 3) float32 in −1..1 (clipped)."""
        latents = np.asarray(latents, np.float32)
        *lead, h, w, channels = latents.shape
        if channels != CHANNELS:
            raise ValueError(f"latents have {channels=}; this codec has {CHANNELS}")
        blocks = latents @ self._decode + self._block_mean
        blocks = np.moveaxis(blocks.reshape(*lead, h, w, BLOCK, BLOCK, 3), -4, -3)
        return np.clip(blocks.reshape(*lead, h * BLOCK, w * BLOCK, 3), -1.0, 1.0)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images in −1..1 → uint8, rounded to the nearest level."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)
