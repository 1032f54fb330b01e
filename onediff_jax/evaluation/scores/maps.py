"""Scores of the directions that read a condition off a picture: depth, classes, edges, pose."""

from collections.abc import Callable, Sequence

import numpy as np

from onediff_jax.data.world import CLASSES
from onediff_jax.data.world_bundles import DEPTH_RANGE
from onediff_jax.evaluation.scores import measures
from onediff_jax.evaluation.scores.case import Case, Row, mean_of, mean_over, partner_cases, row
from onediff_jax.evaluation.scores.typical import Typical
from onediff_jax.tasks.colors import classify
from onediff_jax.tasks.conditions import depth_from_image


def depth(cases: Sequence[Case], typical: Typical) -> list[Row]:
    """AbsRel over the pixels whose depth is known and within the range that grey covers.

    Sky is left out of the truth; sky that the model sees elsewhere counts as the farthest depth.
    """
    chosen = [c for c in cases if _known(c).any()]
    truth = np.concatenate([c.bundle.truth["depth"][_known(c)] for c in chosen])

    def error(map_of: Callable[[Case], np.ndarray]) -> float:
        return measures.abs_rel(np.concatenate([map_of(c)[_known(c)] for c in chosen]), truth)

    pairs = [(c, other) for c, other in partner_cases(cases) if _known(c).any()]
    shuffled = None
    if pairs:
        theirs = np.concatenate([_metres(other.frames[1], c)[_known(c)] for c, other in pairs])
        shuffled = measures.abs_rel(
            theirs, np.concatenate([c.bundle.truth["depth"][_known(c)] for c, _ in pairs])
        )
    controls = {
        "best constant": measures.abs_rel(measures.best_constant_depth(truth), truth),
        "mean map": error(lambda c: typical.depth(c.bundle.frames[0].shape[:2])),
        "another's map": shuffled,
    }
    return [
        row(
            "image2depth",
            "depth error AbsRel, sky left out",
            error(lambda c: _metres(c.frames[1], c)),
            controls,
            {"codec": error(lambda c: _metres(c.round_trip[1], c))},
            higher=False,
        )
    ]


def _known(case: Case) -> np.ndarray:
    truth = case.bundle.truth["depth"]
    return np.isfinite(truth) & (truth > 0) & (truth <= DEPTH_RANGE["far"])


def _metres(frame: np.ndarray, case: Case) -> np.ndarray:
    return np.minimum(depth_from_image(frame, case.bundle.truth["depth_norm"]), DEPTH_RANGE["far"])


def semantic(cases: Sequence[Case], typical: Typical) -> list[Row]:
    """Pixel accuracy over the prompt's colours and black, and IoU of the objects."""
    pairs = partner_cases(cases)

    def blank(case):
        return np.full(case.bundle.frames[1].shape[:2], -1)

    def frequent(case):
        size = case.bundle.frames[1].shape[:2]
        return _as_index(typical.classes(size), case)

    rows = []
    for metric, measure in (("pixel accuracy", _accuracy), ("object IoU", _object_iou)):

        def over(index_of, measure=measure):
            return mean_of(measure(index_of(c), c) for c in cases)

        shuffled = mean_of(measure(_painted_index(o.frames[1], c), c) for c, o in pairs)
        controls = {
            "background": over(blank),
            "most frequent map": over(frequent),
            "another's map": shuffled,
        }
        model = over(lambda c: _painted_index(c.frames[1], c))
        codec = over(lambda c: _painted_index(c.round_trip[1], c))
        rows.append(row("image2semanticmap", metric, model, controls, {"codec": codec}))
    return rows


def _colors(case: Case) -> list[str]:
    return [color for color, _ in case.bundle.truth["regions"]]


def _painted_index(frame: np.ndarray, case: Case) -> np.ndarray:
    """(H, W): which of the prompt's regions each pixel is painted as, −1 for none."""
    if not _colors(case):
        return np.full(frame.shape[:2], -1)
    return classify(frame, _colors(case))


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
    regions = range(len(_colors(case)))
    found = [measures.overlap(index == place, truth == place) for place in regions]
    return float(np.mean(found)) if found else measures.overlap(index >= 0, truth >= 0)


def drawing(task: str, cases: Sequence[Case], typical: Typical) -> list[Row]:
    """Drawings on black (edges, skeletons, boxes): which pixels are painted."""

    def score(frame, case):
        return measures.overlap(measures.painted(frame), measures.painted(case.bundle.frames[1]))

    return [_map_row(task, "painted pixels, IoU", cases, typical, score)]


def soft_drawing(task: str, cases: Sequence[Case], typical: Typical) -> list[Row]:
    """Grey maps (soft edges): correlation of the levels."""

    def score(frame, case):
        return measures.correlation(frame.mean(-1), case.bundle.frames[1].mean(-1))

    return [_map_row(task, "edge strength, correlation", cases, typical, score)]


def _map_row(task, metric, cases, typical, score) -> Row:
    others = mean_of(score(other.frames[1], case) for case, other in partner_cases(cases))

    def typically(case):
        mean = typical.picture(1, case.bundle.frames[1].shape[:2])
        # Averages of thin lines are dark everywhere: brightened, or nothing would count as painted.
        return score(mean * (255 / max(float(mean.max()), 1.0)), case)

    return row(
        task,
        metric,
        mean_over(cases, lambda c: score(c.frames[1], c)),
        {"mean map": mean_over(cases, typically), "another's map": others},
        {"codec": mean_over(cases, lambda c: score(c.round_trip[1], c))},
    )
