"""Contact sheets: what was given, what was generated, and the truth, side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onediff_jax.data.bundle import Bundle
from onediff_jax.held_out import Example
from onediff_jax.models.codec import LightCodec, to_uint8
from onediff_jax.tasks.cameras import rays_from_frames

CELL = 96  # pixels of a picture's longer side
_GAP, _LABEL, _HEAD = 4, 190, 26
_COLUMNS = (("given", 4), ("generated", 3), ("truth", 3))
_INK, _PAPER, _FAINT = (20, 20, 20), (255, 255, 255), (120, 120, 120)


def picture(frame: np.ndarray, codec: LightCodec, role: str = "image") -> np.ndarray:
    """A frame as uint8 (H, W, 3): pixels as they are, latents decoded, rays as direction colours."""
    if frame.dtype == np.uint8:
        return frame
    if role == "ray":
        directions = rays_from_frames(frame)[..., :3]
        small = np.clip((directions + 1) * 127.5, 0, 255).astype(np.uint8)
        return small.repeat(LightCodec.factor, 0).repeat(LightCodec.factor, 1)
    return to_uint8(codec.decode(frame))


def example_row(
    example: Example, generated: Sequence[np.ndarray], codec: LightCodec, roles: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """The pictures of one row of a sheet; known rays are left out where images are generated."""
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
    """One row per (label, prompt, cells): uint8 (H, W, 3)."""
    width = _LABEL + sum(n * (CELL + _GAP) + 3 * _GAP for _, n in _COLUMNS)
    height = _HEAD + len(rows) * (CELL + _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, small = ImageFont.load_default(15), ImageFont.load_default(10)
    x = _LABEL
    for name, count in _COLUMNS:
        draw.text((x, 5), name, fill=_INK, font=bold)
        x += count * (CELL + _GAP) + 3 * _GAP
    for number, (label, prompt, cells) in enumerate(rows):
        top = _HEAD + number * (CELL + _GAP)
        draw.text((4, top + 2), label, fill=_INK, font=bold)
        for line, text in enumerate(_wrap(prompt, draw, small, _LABEL - 12)[:6]):
            draw.text((4, top + 22 + 12 * line), text, fill=_FAINT, font=small)
        x = _LABEL
        for name, count in _COLUMNS:
            for place, image in enumerate(cells[name][:count]):
                sheet.paste(_fit(image), (x + place * (CELL + _GAP), top))
            x += count * (CELL + _GAP) + 3 * _GAP
    return np.asarray(sheet)


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
