"""A bundle is one training example: a task, a prompt and its frames, target first."""

import dataclasses
from typing import Any

import numpy as np

from onediff_jax.data.codec import PictureCodec


@dataclasses.dataclass(frozen=True)
class Bundle:
    """One example as pictures.

    Attributes:
      task: name in tasks.TASKS.
      prompt: the full prompt, task token included.
      frames: uint8 (H, W, 3) pictures, or float (H/8, W/8, 16) latents: ray maps,
        and pictures that are stored as latents.
      truth: what evaluation compares with (depth in world units, masks, cameras …).
      text: (l, d) embedding of the prompt, where it was computed beforehand.
    """

    task: str
    prompt: str
    frames: tuple[np.ndarray, ...]
    truth: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    text: np.ndarray | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One example as latents: frames of (h, w, 16) float16 or float32, ready for a row.

    Attributes:
      text: the prompt's embedding (l, d) where it was computed beforehand.
      weight: of its loss.
      mask: (h, w) uint8, how much of each latent counts in the loss, 255 all of it; None: all.
      masked: how many frames the mask is for, from the first on.
      noise: of frames that are pixels still, uint8 (H, W, 3): seeds the draws from the posteriors
        that an encoder finds for them (encoders.OnlinePictures).
    """

    task: str
    prompt: str
    frames: tuple[np.ndarray, ...]
    text: np.ndarray | None = None
    weight: float = 1.0
    mask: np.ndarray | None = None
    masked: int = 1
    noise: int = 0

    def draw(self, rng: np.random.Generator) -> "Encoded":
        """The example as it goes into one row: this one has nothing left to draw."""
        return self


def encode_bundle(bundle: Bundle, codec: PictureCodec) -> Encoded:
    """Encodes the pictures of a bundle; ray maps pass through."""
    frames = [codec.encode(f) if f.dtype == np.uint8 else f for f in bundle.frames]
    halves = tuple(f.astype(np.float16) for f in frames)
    return Encoded(bundle.task, bundle.prompt, halves, bundle.text)
