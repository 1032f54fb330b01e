"""Requests from a file, a JSON object a line: what log.prompts names."""

import json
from pathlib import Path
from typing import Any

from onediff_jax.sampling.read import FileReader, cameras_of
from onediff_jax.sampling.request import Request, given_roles, make_plan
from onediff_jax.tasks import cameras as cams
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

FIELDS = ("task", "prompt", "pictures", "from_image", "cameras", "seed")
_ORBIT = {"azimuths": None, "elevations": 0.0, "distances": 1.7}


def read_requests(file: str | Path, tasks: TaskSet = BUILT_IN) -> list[Request]:
    """The requests of a file with one JSON object per line; empty lines are passed over.

    Fields: task (a direction), prompt, pictures (files beside the file, in the order of the frames
    that are given), from_image (true: the frames are made of the one picture), cameras (an object
    of azimuths, elevations, distances, or a transforms.json), seed (0).

    Raises ValueError that names the line and the field.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"prompts {file} is not a file")
    found = []
    for number, text in enumerate(file.read_text().splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not a JSON object: {error}") from None
        try:
            found.append(_request(line, file.parent, tasks))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"prompts {file} holds no line")
    return found


def _request(line: Any, folder: Path, tasks: TaskSet) -> Request:
    if not isinstance(line, dict):
        raise ValueError(f'must be a JSON object such as {{"task": …}}, got {line!r}')
    if unknown := sorted(set(line) - set(FIELDS)):
        raise ValueError(f"unknown fields {unknown}; choose from {FIELDS}")
    kinds = {"task": str, "prompt": str, "pictures": list, "from_image": bool, "seed": int}
    for name, kind in kinds.items():
        value = line.get(name)
        if value is not None and (not isinstance(value, kind) or (value is True and kind is int)):
            raise ValueError(f"{name}={value!r} must be {kind.__name__}")
    if "task" not in line:
        raise ValueError("task is missing")
    direction, names = line["task"], line.get("pictures") or []
    try:
        task, _ = tasks.find_direction(direction)
    except ValueError as error:
        raise ValueError(f"task={direction!r}: {error}") from None
    roles = [role for role in given_roles(task, direction) if role != "ray"]
    if line.get("from_image"):
        roles = []
    roles = (roles + ["image"] * len(names))[: len(names)]
    pictures, regions, reader = [], (), FileReader()
    for name, role in zip(names, roles, strict=True):
        try:
            picture, painted = reader.read(folder / name, role)
        except (ValueError, TypeError) as error:
            raise ValueError(f"pictures: {error}") from None
        pictures.append(picture)
        regions += tuple(painted)
    request = Request(
        direction,
        line.get("prompt") or "",
        images=tuple(pictures),
        from_image=line.get("from_image") or False,
        regions=regions,
        seed=line.get("seed") or 0,
        **_cameras(line.get("cameras"), folder, names, pictures),
    )
    make_plan(request, tasks)
    return request


def _cameras(given: Any, folder: Path, names: list[str], pictures: list) -> dict[str, Any]:
    """The cameras of a line as fields of a Request."""
    if given is None:
        return {}
    if isinstance(given, str):
        size = pictures[0].shape[:2] if pictures else None
        cameras, size = cameras_of(folder / given, names, size)
        return {"cameras": cameras, "camera_size": size}
    if not isinstance(given, dict) or "azimuths" not in given or set(given) - set(_ORBIT):
        raise ValueError(
            f"cameras={given!r} must be a file, or an object with azimuths and maybe elevations "
            "and distances: numbers, or lists of them"
        )
    values = _ORBIT | given
    try:
        return {"cameras": cams.orbit_cameras(*(values[name] for name in _ORBIT))}
    except (ValueError, TypeError) as error:
        raise ValueError(f"cameras: {error}") from None
