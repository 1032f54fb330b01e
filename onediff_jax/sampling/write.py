"""Results as files: pictures with their settings, metric depths (.npy), cameras (.json)."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from onediff_jax.sampling.generate import Generated
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks.roles import get_role


def write(results: Sequence[Generated], out: Path) -> list[Path]:
    """Writes results of one task; existing files are replaced. Returns the files, `out` first.

    Several frames or results: `out` is a sheet with a row per result, its parts are beside it.
    """
    cells = [(result, frame) for result in results for frame in result.generated]
    pictures = [result.picture(frame) for result, frame in cells]
    columns = len(results[0].generated)
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(cells), columns)]
    first, roles = results[0], {result.plan.roles[frame] for result, frame in cells}
    grey = all(get_role(role).grey for role in roles)
    files = [save_picture(out, np.concatenate(rows), first, grey=grey)]
    for number, ((result, frame), picture) in enumerate(zip(cells, pictures, strict=True)):
        file = out
        if len(cells) > 1:
            file = out.with_stem(f"{out.stem}_{number}")
            grey = get_role(result.plan.roles[frame]).grey
            files.append(save_picture(file, picture, result, grey=grey))
        depth = result.metric_depth(frame)
        if depth is not None:
            with _replacing(file.with_suffix(".npy")) as beside:
                np.save(beside, depth)
            files.append(file.with_suffix(".npy"))
    if "ray" in roles:
        with _replacing(out.with_suffix(".json")) as beside:
            samples = {"samples": [cameras_json(result) for result in results]}
            beside.write((json.dumps(samples, indent=1) + "\n").encode())
        files.append(out.with_suffix(".json"))
    return files


def save_picture(file: Path, picture: np.ndarray, result: Generated, *, grey: bool) -> Path:
    """A PNG file whose text fields say how it was made."""
    told = PngImagePlugin.PngInfo()
    for key, value in settings(result).items():
        told.add_itxt(key, str(value))
    if grey:
        picture = np.rint(picture.mean(-1)).astype(np.uint8)
    with _replacing(file) as beside:
        Image.fromarray(picture).save(beside, format="PNG", pnginfo=told)
    return file


def settings(result: Generated) -> dict[str, str | int | float]:
    """What a result was made with."""
    return {
        "task": result.request.direction,
        "prompt": result.plan.prompt,
        "negative_prompt": result.request.negative_prompt,
        "seed": result.request.seed,
        "steps": result.steps,
        "guidance": result.guidance,
    }


@contextlib.contextmanager
def _replacing(file: Path):
    """A file to write, put in place when it is whole."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as stream:
            yield stream
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def cameras_json(result: Generated) -> dict:
    """Cameras found from rays, in the first one's frame, as JSON values."""
    found = result.cameras()
    orbits = orbit_of(found, result.request.elevation)
    views = [
        {
            "R": found.R[i].tolist(),
            "T": found.T[i].tolist(),
            "centre": found.centres[i].tolist(),
            **({k: float(v[i]) for k, v in orbits.items()} if orbits else {}),
            "focal": float(found.focal[i, 0] / 2),
        }
        for i in range(len(found))
    ]
    return {
        "seed": result.request.seed,
        "convention": "x_cam = x_world @ R + T; x left, y up, z ahead; focal in image sides; "
        "azimuth and elevation in degrees from the first camera's, distance from what all look at",
        "cameras": views,
    }


def orbit_of(cameras: cams.Cameras, elevation: float = 0.0) -> dict[str, np.ndarray] | None:
    """Orbit angles of cameras in the first one's frame, about the point nearest to all axes.

    Args:
      elevation: of the first camera, degrees: it says which way is up.

    Returns:
      azimuth and elevation minus the first camera's (N,) degrees, distance (N,); None where all
      look the same way, so that no such point exists.
    """
    try:
        centre = cams.nearest_point(cameras.centres, cameras.R[:, :, 2])
    except ValueError:
        return None
    angle = np.deg2rad(elevation)
    up = np.array([0.0, np.cos(angle), -np.sin(angle)])
    right = np.array([-1.0, 0.0, 0.0])
    back = np.cross(right, up)
    offsets = cameras.centres - centre
    distance = np.linalg.norm(offsets, axis=-1)
    height = np.rad2deg(np.arcsin(np.clip(offsets @ up / distance, -1, 1)))
    around = np.rad2deg(np.arctan2(offsets @ right, offsets @ back))
    turned = (around - around[0] + 180) % 360 - 180
    return {"azimuth": turned, "elevation": height - height[0], "distance": distance}
