"""Photographs that a machine may have: of a folder, of matplotlib, of scikit-learn."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from timing import progress

from onediff_jax.data.codec import BLOCK

SHORTER = 256  # pixels


def photographs(folder: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 picture); says what is not installed."""
    for path in sorted(Path(folder).iterdir()) if folder else ():
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            yield path.name, np.asarray(Image.open(path).convert("RGB"))
    try:
        from matplotlib import cbook

        with cbook.get_sample_data("grace_hopper.jpg") as file:
            yield "grace_hopper.jpg (matplotlib)", np.asarray(Image.open(file).convert("RGB"))
    except ImportError:
        progress("matplotlib is not installed: without its photograph")
    try:
        from sklearn.datasets import load_sample_images

        found = load_sample_images()
        for name, image in zip(found.filenames, found.images, strict=True):
            yield f"{Path(name).name} (scikit-learn)", image
    except ImportError:
        progress("scikit-learn is not installed: without its two photographs")


def shortened(image: np.ndarray) -> np.ndarray:
    """The shorter side brought to SHORTER pixels."""
    scale = SHORTER / min(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def whole_blocks(image: np.ndarray) -> np.ndarray:
    """Cut at the right and the bottom to whole blocks."""
    height, width = (side // BLOCK * BLOCK for side in image.shape[:2])
    return image[:height, :width]
