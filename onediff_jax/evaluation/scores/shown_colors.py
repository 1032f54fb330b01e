"""Which of the world's named colours a picture shows."""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from onediff_jax.data.codec import LightCodec, to_uint8
from onediff_jax.data.world import Scene, View
from onediff_jax.data.world.palette import PALETTE

NAMES = tuple(PALETTE)
# Least share of the picture that a colour must cover to be shown.
LEAST_SHARE = 0.015
_BINS, _BANDS = 32, 4  # per colour channel; horizontal bands of the picture
# What else a pixel can be, and how much more often than one of the colours.
_SKY, _FLOOR, _BODY = range(len(NAMES), len(NAMES) + 3)
_WEIGHTS = np.array([1.0] * len(NAMES) + [4.0, 8.0, 1.0], np.float32)
_SHIRT = 0.985  # cosine to the shirt's colour from which a pixel of a figure is its shirt


class ColorDetector:
    """A naive Bayes rule per pixel: from its colour and height in the picture to a named colour.

    Red, orange or white may also be a sunset, a carpet or trousers, so it is not enough to look at
    hues: the frequencies come from rendered scenes whose pixels' owners are known, as rendered and
    after the light codec. A colour is shown when it covers LEAST_SHARE of the picture.

    Args:
      rendered: scenes with their views, at one size; more than a hundred are needed.
    """

    def __init__(self, rendered: Iterable[tuple[Scene, View]]):
        codec = LightCodec()
        counts = np.zeros((len(_WEIGHTS), _BANDS, _BINS, _BINS, _BINS), np.float32)
        for scene, view in rendered:
            label = _labels(scene, view)
            for image in (view.image, to_uint8(codec.decode(codec.encode(view.image)))):
                np.add.at(counts, (label, *_bins(image)), 1)
        smooth = ndimage.gaussian_filter(counts, (0, 0.5, 1.0, 1.0, 1.0))
        smooth /= smooth.sum((1, 2, 3, 4), keepdims=True) + 1e-9
        smooth *= _WEIGHTS[:, None, None, None, None]
        best = smooth.argmax(0)
        # Colours never rendered belong to nothing.
        self._table = np.where((smooth.max(0) < 1e-8) | (best >= _SKY), len(NAMES), best)

    def shares(self, image: np.ndarray) -> dict[str, float]:
        """Share of a picture (H, W, 3) uint8 that each named colour covers."""
        found = np.bincount(self._table[_bins(image)].ravel(), minlength=len(NAMES) + 1)
        total = image.shape[0] * image.shape[1]
        return {name: float(found[i] / total) for i, name in enumerate(NAMES)}

    def __call__(self, image: np.ndarray) -> set[str]:
        """Names of the colours a picture (H, W, 3) uint8 shows."""
        return {name for name, share in self.shares(image).items() if share >= LEAST_SHARE}


def named(text: str) -> set[str]:
    """The colours of things that a caption names; floors and skies have other names."""
    words = text.lower().replace(",", " ").split()
    return {word for word in words if word in PALETTE}


def _bins(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices of every pixel into the table: band, red, green, blue; each (H, W)."""
    quantised = image // (256 // _BINS)
    height, width = image.shape[:2]
    band = np.repeat((np.arange(height) * _BANDS // height)[:, None], width, 1)
    return band, *np.moveaxis(quantised, -1, 0)


def _labels(scene: Scene, view: View) -> np.ndarray:
    """(H, W): what every pixel is, a named colour or _SKY, _FLOOR, _BODY."""
    owners = [_BODY if o is scene.figure else NAMES.index(o.color_name) for o in scene.objects]
    label = np.array([*owners, _FLOOR])[view.instances]
    label[np.isinf(view.depth)] = _SKY
    if scene.figure is not None:
        shirt = np.array(PALETTE[scene.figure.color_name], np.float32)
        pixels = view.image.astype(np.float32)
        lengths = np.linalg.norm(pixels, axis=-1) * np.linalg.norm(shirt)
        near = pixels @ shirt > _SHIRT * np.maximum(lengths, 1)
        label[(label == _BODY) & near] = NAMES.index(scene.figure.color_name)
    return label
