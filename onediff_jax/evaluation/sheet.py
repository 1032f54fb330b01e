"""Contact sheets: what was given, what was generated, and the truth, side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onediff_jax.data.bundle import Bundle
from onediff_jax.data.codec import PictureCodec
from onediff_jax.evaluation.held_out import Example
from onediff_jax.sampling.show import picture

CELL = 112  # pixels of a picture's longer side
_WIDTH, _NARROWEST = 1600, 3 * CELL  # pixels of the sheet; of a card's content
_GAP, _SPACE, _HEAD, _PROMPT_LINES = 3, 10, 84, 3
_INK, _PAPER, _FAINT = (20, 20, 20), (255, 255, 255), (110, 110, 110)
_COLORS = {"given": (110, 110, 110), "truth": (20, 130, 50)}
_GENERATED = (0, 90, 200)


def example_row(
    example: Example, generated: Sequence[np.ndarray], codec: PictureCodec, roles: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """The pictures of one card of a sheet; known rays are left out where images are generated."""
    bundle: Bundle = example.bundle
    cells: dict[str, list[np.ndarray]] = {"given": [], "generated": [], "truth": []}
    for index, (role, wanted) in enumerate(zip(roles, example.generate, strict=True)):
        if wanted:
            cells["generated"].append(picture(generated[index], codec, role))
            cells["truth"].append(picture(bundle.frames[index], codec, role))
        elif role != "ray":
            cells["given"].append(picture(bundle.frames[index], codec, role))
    return cells


def draw_sheet(rows: Sequence[tuple[str, str, dict[str, list[np.ndarray]]]]) -> np.ndarray:
    """One card per (label, prompt, cells by their heading), as many beside each other as fit.

    Returns uint8 (H, W, 3).
    """
    cards = [_card(*row) for row in rows]
    lines: list[list[Image.Image]] = []
    room = 0
    for card in cards:
        if card.width > room:
            lines.append([])
            room = max(_WIDTH, card.width)
        lines[-1].append(card)
        room -= card.width
    width = max((sum(card.width for card in line) for line in lines), default=1)
    height = sum(max(card.height for card in line) for line in lines)
    sheet = Image.new("RGB", (width, max(height, 1)), _PAPER)
    top = 0
    for line in lines:
        left = 0
        for card in line:
            sheet.paste(card, (left, top))
            left += card.width
        top += max(card.height for card in line)
    return np.asarray(sheet)


def _card(label: str, prompt: str, cells: dict[str, list[np.ndarray]]) -> Image.Image:
    """The pictures of one example under its direction and prompt."""
    groups = [(n, _COLORS.get(n, _GENERATED), images) for n, images in cells.items() if images]
    pictures = sum(len(images) for _, _, images in groups)
    wide = pictures * (CELL + _GAP) + len(groups) * _SPACE
    card = Image.new("RGB", (max(wide, _NARROWEST) + 2 * _SPACE, _HEAD + CELL + _SPACE), _PAPER)
    draw = ImageDraw.Draw(card)
    bold, small = ImageFont.load_default(15), ImageFont.load_default(11)
    draw.text((_SPACE, 4), label, fill=_INK, font=bold)
    lines = _wrap(prompt, draw, small, card.width - 2 * _SPACE)
    if len(lines) > _PROMPT_LINES:
        lines = [*lines[: _PROMPT_LINES - 1], lines[_PROMPT_LINES - 1] + " …"]
    for number, text in enumerate(lines):
        draw.text((_SPACE, 23 + 13 * number), text, fill=_FAINT, font=small)
    left = _SPACE
    for name, color, images in groups:
        draw.text((left, _HEAD - 17), name, fill=color, font=small)
        for image in images:
            card.paste(_fit(image), (left, _HEAD))
            left += CELL + _GAP
        end = left - _GAP - 1
        draw.line((end - len(images) * (CELL + _GAP) + _GAP + 1, _HEAD - 3, end, _HEAD - 3), color)
        left += _SPACE
    return card


def _fit(image: np.ndarray) -> Image.Image:
    scale = CELL / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _wrap(text: str, draw: ImageDraw.ImageDraw, font, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font=font) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]
