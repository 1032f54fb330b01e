"""Multiview: the ray frames of cameras that are known, however they are given."""

from typing import Any

import numpy as np
import torch

from .cameras_torch import camera_rays, cameras_from_c2w, orbit_cameras, ray_frames, rebase


def ray_frames_of(
    count: int, grid, *, orbit=None, c2ws=None, focal: Any = 1.3887, known=None
) -> list:
    """Ray frames (16, h, w) of `count` views in the first one's world; None where unknown.

    Args:
      grid: (h, w) of the latents.
      orbit: azimuths, elevations and distances, per view (None where unknown), per known view, or
        one number for all.
      c2ws: camera-to-world matrices instead, (N, 4, 4), per view or per known view.
      focal: focal length, or intrinsics (3, 3) or per camera, in units of the smaller image side.
      known: the views whose cameras are given; None: those of which nothing is None.

    Raises:
      ValueError: numbers that do not fit, or a first camera that is unknown while others are not.
    """
    if c2ws is not None:
        if isinstance(c2ws, list | tuple):
            c2ws = np.stack([np.asarray(matrix, np.float64) for matrix in c2ws])
        poses = list(np.asarray(c2ws, np.float64))
    else:
        columns = _columns(orbit)
        poses = [None if None in pose else pose for pose in zip(*columns, strict=True)]
    if known is None:
        known = [view for view, pose in enumerate(poses) if pose is not None]
    given = [pose for pose in poses if pose is not None]
    if len(poses) == count and all(poses[view] is not None for view in known):
        given = [poses[view] for view in known]
    if len(given) != len(known):
        raise ValueError(f"{len(given)} cameras for {len(known)} views whose cameras are given")
    frames: list[torch.Tensor | None] = [None] * count
    if not known:
        return frames
    if known[0] != 0:
        raise ValueError("the first camera must be known when any is: it is the origin")
    cameras = cameras_from_c2w(given) if c2ws is not None else orbit_cameras(*np.array(given).T)
    if np.ndim(focal) == 3 and len(focal) == count:
        focal = np.asarray(focal)[known]
    rays = camera_rays(*rebase(*cameras), focal, grid)
    for view, frame in zip(known, ray_frames(rays), strict=True):
        frames[view] = torch.from_numpy(frame)
    return frames


def _columns(orbit) -> list[list]:
    names = ("azimuths", "elevations", "distances")
    columns = [list(values) if np.ndim(values) else values for values in orbit]
    count = max(len(column) if isinstance(column, list) else 1 for column in columns)
    if isinstance(columns[0], list):
        count = len(columns[0])
    columns = [c if isinstance(c, list) else [c] * count for c in columns]
    for name, column in zip(names, columns, strict=True):
        if len(column) != count:
            raise ValueError(f"{len(column)} {name} for {count} {names[0]}")
    return columns
