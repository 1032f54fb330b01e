"""Scores of the directions that read a condition off a picture: depth, classes, edges, pose."""

from collections.abc import Callable

import numpy as np

from onediff_jax.data.world import CLASSES
from onediff_jax.data.world_bundles import DEPTH_RANGE
from onediff_jax.evaluation.scores import measures
from onediff_jax.evaluation.scores.case import (
    Asked,
    Case,
    Row,
    mean_of,
    mean_over,
    partner_cases,
    row,
)
from onediff_jax.tasks.roles import get_role


def depth(asked: Asked) -> list[Row]:
    """AbsRel over the pixels whose depth is known and within the range that grey covers.

    Sky is left out of the truth; sky that the model sees elsewhere counts as the farthest depth.
    """
    cases, at = asked.cases, asked.frame
    chosen = [c for c in cases if _known(c).any()]
    truth = np.concatenate([c.bundle.truth["depth"][_known(c)] for c in chosen])

    def error(map_of: Callable[[Case], np.ndarray]) -> float:
        return measures.abs_rel(np.concatenate([map_of(c)[_known(c)] for c in chosen]), truth)

    pairs = [(c, other) for c, other in partner_cases(cases) if _known(c).any()]
    shuffled = None
    if pairs:
        theirs = np.concatenate([_metres(other.frames[at], c)[_known(c)] for c, other in pairs])
        shuffled = measures.abs_rel(
            theirs, np.concatenate([c.bundle.truth["depth"][_known(c)] for c, _ in pairs])
        )
    controls = {
        "best constant": measures.abs_rel(measures.best_constant_depth(truth), truth),
        "mean map": error(lambda c: asked.typical.depth(c.bundle.frames[0].shape[:2])),
        "another's map": shuffled,
    }
    return [
        row(
            asked.direction,
            "depth error AbsRel, sky left out",
            error(lambda c: _metres(c.frames[at], c)),
            controls,
            {"codec": error(lambda c: _metres(c.round_trip[at], c))},
            higher=False,
        )
    ]


def _known(case: Case) -> np.ndarray:
    truth = case.bundle.truth["depth"]
    return np.isfinite(truth) & (truth > 0) & (truth <= DEPTH_RANGE["far"])


def _metres(frame: np.ndarray, case: Case) -> np.ndarray:
    return np.minimum(get_role("depth").read(frame, case.bundle.truth), DEPTH_RANGE["far"])


def classes(asked: Asked) -> list[Row]:
    """Pixel accuracy over the prompt's colours and black, and IoU of the objects."""
    cases, at = asked.cases, asked.frame
    pairs = partner_cases(cases)
    read = get_role("semanticmap").read

    def blank(case):
        return np.full(case.bundle.frames[at].shape[:2], -1)

    def frequent(case):
        size = case.bundle.frames[at].shape[:2]
        return _as_index(asked.typical.classes(size), case)

    rows = []
    for metric, measure in (("pixel accuracy", _accuracy), ("object IoU", _object_iou)):

        def over(index_of, measure=measure):
            return mean_of(measure(index_of(c), c) for c in cases)

        shuffled = mean_of(measure(read(o.frames[at], c.bundle.truth), c) for c, o in pairs)
        controls = {
            "background": over(blank),
            "most frequent map": over(frequent),
            "another's map": shuffled,
        }
        model = over(lambda c: read(c.frames[at], c.bundle.truth))
        codec = over(lambda c: read(c.round_trip[at], c.bundle.truth))
        rows.append(row(asked.direction, metric, model, controls, {"codec": codec}))
    return rows


def _as_index(classes: np.ndarray, case: Case) -> np.ndarray:
    """Classes (H, W) as indices of the prompt's regions, −1 for none."""
    index = np.full(classes.shape, -1)
    for place, (_, label) in enumerate(case.bundle.truth["regions"]):
        index[classes == CLASSES.index(label)] = place
    return index


def _truth_index(case: Case) -> np.ndarray:
    return _as_index(case.bundle.truth["view"].classes, case)


def _accuracy(index: np.ndarray, case: Case) -> float:
    return float(np.mean(index == _truth_index(case)))


def _object_iou(index: np.ndarray, case: Case) -> float:
    """Mean over the regions of the prompt; 1 for an empty scene that stays empty."""
    truth = _truth_index(case)
    regions = range(len(case.bundle.truth["regions"]))
    found = [measures.overlap(index == place, truth == place) for place in regions]
    return float(np.mean(found)) if found else measures.overlap(index >= 0, truth >= 0)


def painted(asked: Asked) -> list[Row]:
    """Drawings on black (edges, skeletons, boxes): which pixels are painted."""

    def score(frame, case):
        truth = measures.painted(case.bundle.frames[asked.frame])
        return measures.overlap(measures.painted(frame), truth)

    return [_map_row(asked, "painted pixels, IoU", score)]


def strength(asked: Asked) -> list[Row]:
    """Grey maps (soft edges): correlation of the levels."""

    def score(frame, case):
        return measures.correlation(frame.mean(-1), case.bundle.frames[asked.frame].mean(-1))

    return [_map_row(asked, "edge strength, correlation", score)]


def _map_row(asked: Asked, metric: str, score: Callable) -> Row:
    cases, at = asked.cases, asked.frame
    others = mean_of(score(other.frames[at], case) for case, other in partner_cases(cases))

    def typically(case):
        mean = asked.typical.picture(at, case.bundle.frames[at].shape[:2])
        # Averages of thin lines are dark everywhere: brightened, or nothing would count as painted.
        return score(mean * (255 / max(float(mean.max()), 1.0)), case)

    return row(
        asked.direction,
        metric,
        mean_over(cases, lambda c: score(c.frames[at], c)),
        {"mean map": mean_over(cases, typically), "another's map": others},
        {"codec": mean_over(cases, lambda c: score(c.round_trip[at], c))},
    )
