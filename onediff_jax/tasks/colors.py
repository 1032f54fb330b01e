"""The twenty colours that segmentation masks and bounding boxes may have."""

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

Label = TypeVar("Label", str, int)
# Name -> (red, green, blue). Prompts spell them "#RRGGBB name".
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (0xFF, 0x00, 0x00),
    "lime": (0x00, 0xFF, 0x00),
    "blue": (0x00, 0x00, 0xFF),
    "yellow": (0xFF, 0xFF, 0x00),
    "magenta": (0xFF, 0x00, 0xFF),
    "cyan": (0x00, 0xFF, 0xFF),
    "orange": (0xFF, 0xA5, 0x00),
    "purple": (0x80, 0x00, 0x80),
    "brown": (0xA5, 0x2A, 0x2A),
    "green": (0x00, 0x80, 0x00),
    "pink": (0xFF, 0xC0, 0xCB),
    "teal": (0x00, 0x80, 0x80),
    "darkorange": (0xFF, 0x8C, 0x00),
    "blueviolet": (0x8A, 0x2B, 0xE2),
    "darkgreen": (0x00, 0x64, 0x00),
    "orangered": (0xFF, 0x45, 0x00),
    "navy": (0x00, 0x00, 0x80),
    "gold": (0xFF, 0xD7, 0x00),
    "turquoise": (0x40, 0xE0, 0xD0),
    "orchid": (0xDA, 0x70, 0xD6),
}
BLACK = (0, 0, 0)


def rgb(name: str) -> tuple[int, int, int]:
    """(red, green, blue) in 0..255 of an allowed colour.

    Raises:
      ValueError: an unknown name; lists the 20 allowed.
    """
    if name not in COLORS:
        raise ValueError(f"unknown colour {name!r}; choose from {list(COLORS)}")
    return COLORS[name]


def hex_code(name: str) -> str:
    """ "#RRGGBB" of an allowed colour, e.g. "#00FFFF"."""
    return "#{:02X}{:02X}{:02X}".format(*rgb(name))


def name_of(code: str) -> str:
    """The name of an allowed colour from "#RRGGBB" (any case).

    Raises:
      ValueError: not one of the 20; lists them.
    """
    codes = {hex_code(name): name for name in COLORS}
    if code.upper() not in codes:
        raise ValueError(f"unknown colour code {code!r}; choose from {list(codes)}")
    return codes[code.upper()]


def assign(labels: Iterable[Label], rng: np.random.Generator) -> dict[Label, str]:
    """Distinct colours for distinct labels, drawn with `rng`; repeated labels keep one colour.

    Returns:
      {label: colour name}, in the order of the labels.

    Raises:
      ValueError: more than 20 labels.
    """
    distinct = list(dict.fromkeys(labels))
    if len(distinct) > len(COLORS):
        raise ValueError(f"{len(distinct)} labels, but only {len(COLORS)} colours exist")
    order = rng.permutation(list(COLORS))[: len(distinct)]
    return {label: str(color) for label, color in zip(distinct, order, strict=True)}


def classify(image: np.ndarray, colors, *, background: tuple[int, int, int] | None = BLACK):
    """The nearest of the given colours for every pixel.

    Args:
      image: (H, W, 3) uint8.
      colors: names of allowed colours, at least one.
      background: an extra colour that stands for "none of them"; None if every pixel has one.

    Returns:
      (H, W) int: index into `colors`, or -1 for the background.
    """
    colors = list(colors)
    if not colors:
        raise ValueError("colors must name at least one colour")
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image must have shape (H, W, 3), got {image.shape}")
    table = [rgb(name) for name in colors]
    if background is not None:
        table.append(background)
    table = np.asarray(table, np.float32)
    # |pixel - colour|² without the pixel's own square, which is the same for all colours.
    scores = (table**2).sum(-1) - 2 * image.astype(np.float32) @ table.T
    index = scores.argmin(-1)
    if background is not None:
        index[index == len(colors)] = -1
    return index
