"""Scores of the multiview directions: other views of a scene, and cameras from its views."""

import dataclasses

import numpy as np

from onediff_jax.evaluation.scores import measures
from onediff_jax.evaluation.scores.case import Asked, Case, Row, mean_of, partner_cases, row
from onediff_jax.evaluation.scores.pictures import PSNR
from onediff_jax.tasks.cameras import Cameras, pose_errors
from onediff_jax.tasks.roles import get_role


def views(asked: Asked) -> list[Row]:
    """multiview: the views that were asked for, given the first one and all rays."""
    cases, typical = asked.cases, asked.typical

    def over(frame_of):
        found = []
        for case in cases:
            for i in _generated(case):
                frame = frame_of(case, i)
                if frame is not None:
                    found.append(measures.psnr(frame, case.bundle.frames[i]))
        return mean_of(found)

    color = np.mean([c.bundle.frames[i].mean((0, 1)) for c in cases for i in _generated(c)], 0)
    controls = {
        "one colour": over(lambda c, i: color),
        "mean picture": over(lambda c, i: typical.picture(i, c.bundle.frames[i].shape[:2])),
        "copy of the known view": over(lambda c, i: c.bundle.frames[0]),
        "wrong ray": over(lambda c, i: c.wrong and c.wrong[i]),
    }
    ceilings = {"codec": over(lambda c, i: c.round_trip[i])}
    return [row(asked.direction, PSNR, over(lambda c, i: c.frames[i]), controls, ceilings)]


def _generated(case: Case) -> list[int]:
    return [i for i, wanted in enumerate(case.generate) if wanted]


def cameras(asked: Asked) -> list[Row]:
    """image2camera: cameras 1 … n relative to camera 0, from the generated rays."""
    cases = asked.cases
    found = [(_cameras(case, case.frames), case) for case in cases]
    pairs = partner_cases(cases)
    tables = {
        "model": [pose_errors(seen, case.bundle.truth["cameras"]) for seen, case in found],
        "no motion": [
            pose_errors(_still(c.bundle.truth["cameras"]), c.bundle.truth["cameras"]) for c in cases
        ],
        "another's cameras": [
            pose_errors(_cameras(other, other.frames), c.bundle.truth["cameras"])
            for c, other in pairs
        ],
        "codec": [pose_errors(_cameras(c, c.round_trip), c.bundle.truth["cameras"]) for c in cases],
    }
    rows = []
    for place, metric in enumerate(("camera rotation error, degrees", "camera position error")):
        mean = {
            name: float(np.concatenate([e[place] for e in errors]).mean()) if errors else None
            for name, errors in tables.items()
        }
        model, rays = mean.pop("model"), mean.pop("codec")
        rows.append(row(asked.direction, metric, model, mean, {"rays": rays}, higher=False))
    return rows


def _cameras(case: Case, frames) -> Cameras:
    """The cameras whose ray maps are among the frames."""
    known = {"intrinsics": case.bundle.truth["cameras"]}
    return get_role("ray").read(np.stack(frames[1::2]), known)


def _still(cameras: Cameras) -> Cameras:
    """All cameras where the first one is."""
    num = len(cameras)
    return dataclasses.replace(
        cameras, R=np.repeat(cameras.R[:1], num, 0), T=np.repeat(cameras.T[:1], num, 0)
    )
