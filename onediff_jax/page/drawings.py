"""Drawings for the page: depth with its numbers, cameras on a dome."""

import base64
import html
import io

import numpy as np
from PIL import Image

from onediff_jax.tasks import colors

_CELLS = 32  # of the grid of numbers over a depth map, along the longer side


def palette() -> str:
    """The allowed colours with their names, as HTML."""
    cells = "".join(
        f'<span class="swatch"><i style="background:{colors.hex_code(name)}"></i>{name}</span>'
        for name in colors.COLORS
    )
    return f'<div class="palette">{cells}</div>'


def depth_map(picture: np.ndarray, depth: np.ndarray, unit: str) -> str:
    """A depth picture (H, W, 3) as HTML that tells the depth (H, W) under the pointer."""
    height, width = depth.shape
    scale = max(1.0, max(height, width) / _CELLS)
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    y = (np.arange(rows) + 0.5) * height / rows
    x = (np.arange(columns) + 0.5) * width / columns
    values = depth[y.astype(int)][:, x.astype(int)]
    cells = "".join(
        f'<b title="{"sky" if np.isinf(value) else f"{value:.2f} {unit}"}"></b>'
        for value in values.ravel()
    )
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    known = depth[np.isfinite(depth)]
    span = f"{known.min():.2f} to {known.max():.2f} {unit}" if len(known) else "sky alone"
    return (
        f'<figure class="depth"><div style="aspect-ratio:{width}/{height}">'
        f'<img alt="depth" src="data:image/png;base64,{data}">'
        f'<div style="grid-template-columns:repeat({columns},1fr)">{cells}</div></div>'
        f"<figcaption>{span}; the pointer tells each place</figcaption></figure>"
    )


def dome(azimuths: list[float], elevations: list[float], given: int) -> str:
    """Cameras of an orbit seen from above, as SVG: the middle is straight above, the rim level."""
    elevations = (elevations * len(azimuths))[: len(azimuths)]
    shapes = []
    for radius in (30, 60, 90):
        shapes.append(f'<circle class="ring" r="{radius}" />')
    for number, (azimuth, elevation) in enumerate(zip(azimuths, elevations, strict=False)):
        angle, radius = np.deg2rad(azimuth), 90 - min(abs(elevation), 90)
        x, y = radius * np.sin(angle), radius * np.cos(angle)
        kind = "given" if number < given else "new"
        shapes.append(f'<line class="{kind}" x1="{x:.1f}" y1="{y:.1f}" x2="0" y2="0" />')
        shapes.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="9" />')
        shapes.append(f'<text x="{x:.1f}" y="{y + 3.5:.1f}">{number}</text>')
    return (
        '<svg class="dome" viewBox="-105 -105 210 210" role="img" aria-label="cameras from above">'
        f"{''.join(shapes)}</svg>"
    )


def notice(text: str) -> str:
    """A line of text, nothing in it taken as HTML."""
    return f'<p class="notice">{html.escape(text)}</p>' if text else ""
