"""Cameras drawn in three dimensions."""

import numpy as np

from onediff_jax.tasks.cameras import Cameras


def frusta(cameras: Cameras, turn: float = 30.0, true: Cameras | None = None) -> str:
    """Cameras as pyramids in perspective, as SVG: their tips at the cameras, their bases towards
    what they see.

    Args:
      cameras: in the frame of the first, whose view is "ahead" and whose up is up.
      turn: degrees by which one walks around them.
      true: where they really are, in the same frame: drawn in grey, without numbers.
    """
    segments = _pyramids(cameras)
    if true is not None:
        segments = np.concatenate([segments, _pyramids(true)])
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
    for camera in range(len(segments)):
        hue = round(360 * camera / len(cameras))
        color = f"hsl({hue} 80% 50%)" if camera < len(cameras) else "#888"
        ends = zip(x[camera].tolist(), y[camera].tolist(), strict=True)
        lines += [
            f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{color}" />'
            for (x0, x1), (y0, y1) in ends
        ]
        if camera >= len(cameras):
            continue
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
