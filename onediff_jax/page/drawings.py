"""Drawings for the page: depth with its numbers, cameras on a dome, cameras in three dimensions."""

import base64
import html
import io

import numpy as np
from PIL import Image

from onediff_jax.tasks import colors
from onediff_jax.tasks.cameras import Cameras

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


def frusta(cameras: Cameras, turn: float = 30.0) -> str:
    """Cameras as pyramids in perspective, as SVG: their tips at the cameras, their bases towards
    what they see.

    Args:
      cameras: in the frame of the first, whose view is "ahead" and whose up is up.
      turn: degrees by which one walks around them.
    """
    segments = _pyramids(cameras)
    middle = segments.reshape(-1, 3).mean(0)
    reach = np.linalg.norm(segments - middle, axis=-1).max() or 1.0
    points = (segments - middle) / reach * [-1, 1, 1]  # the world has x to the left
    around, above = np.deg2rad(turn), np.deg2rad(25.0)
    x = points[..., 0] * np.cos(around) + points[..., 2] * np.sin(around)
    deep = -points[..., 0] * np.sin(around) + points[..., 2] * np.cos(around)
    y = points[..., 1] * np.cos(above) + deep * np.sin(above)
    deep = deep * np.cos(above) - points[..., 1] * np.sin(above)
    scale = 330 / (4 + deep)
    x, y = x * scale, -y * scale
    lines = []
    for camera in range(len(cameras)):
        hue = round(360 * camera / len(cameras))
        ends = zip(x[camera].tolist(), y[camera].tolist(), strict=True)
        lines += [
            f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" '
            f'stroke="hsl({hue} 80% 50%)" />'
            for (x0, x1), (y0, y1) in ends
        ]
        tip = f'x="{x[camera, 0, 0]:.1f}" y="{y[camera, 0, 0] - 4:.1f}"'
        lines.append(f"<text {tip}>{camera}</text>")
    return (
        '<svg class="frusta" viewBox="-110 -80 220 160" role="img" aria-label="cameras in space">'
        f"{''.join(lines)}</svg>"
    )


def _pyramids(cameras: Cameras) -> np.ndarray:
    """(N, 10, 2, 3) the edges of a pyramid per camera, with a roof that says which way is up."""
    reach = 0.45 * max(float(np.ptp(cameras.centres, axis=0).max()), 0.4)
    found = []
    for index in range(len(cameras)):
        half = reach / cameras.focal[index]
        base = [[sx * half[0], sy * half[1], reach] for sx, sy in _CORNERS]
        top = [0.0, 1.4 * half[1], reach]
        points = np.array([[0.0, 0.0, 0.0], *base, top])
        world = points @ cameras.R[index].T + cameras.centres[index]
        found.append(world[_EDGES])
    return np.stack(found)


_CORNERS = ((1, 1), (-1, 1), (-1, -1), (1, -1))
_EDGES = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1), (1, 5), (2, 5)])
