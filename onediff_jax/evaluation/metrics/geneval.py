"""GenEval's decisions from detections (djghosh13/geneval, evaluation/evaluate_images.py)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_SCORE, _COUNTING_SCORE = 0.3, 0.9  # a detection counts strictly above
_MOST = 16  # detections per class
_DEAD_ZONE = 0.1  # of the two objects' sizes: a smaller offset is no relation
_RELATION = 0.5  # an offset, as a share of its length, strictly above it is a relation


def geneval_decision(
    metadata: Mapping[str, Any],
    detections: Mapping[str, Sequence[Sequence]],
    *,
    max_overlap: float = 1.0,
) -> dict[str, Any]:
    """Whether one picture shows what its prompt asks for.

    Args:
      metadata: of the prompt: tag, include [{class, count, color?, position? [relation, index]}],
        exclude [{class, count}].
      detections: per class the boxes in the detector's order: [x1, y1, x2, y2, score, colour];
        colour is what the classifier sees in that box, or None.
      max_overlap: a box is kept only if it overlaps every better one of its class by less (IoU
        with one pixel added); 1 keeps all, as published.

    Returns correct (bool) and kept: class → boxes [x1, y1, x2, y2, score] by falling score; of
    equal scores the later comes first.
    """
    found = {name: _kept(boxes, metadata, max_overlap) for name, boxes in detections.items()}
    found = {name: boxes for name, boxes in found.items() if boxes}
    kept = {
        name: [[*box.tolist(), float(score)] for box, score, _ in boxes]
        for name, boxes in found.items()
    }
    return {"correct": _is_met(metadata, found), "kept": kept}


def geneval_summary(rows: Iterable[tuple[str, str, bool]]) -> dict[str, float]:
    """The share of correct pictures per tag, and "overall": the plain mean over the tags present.

    Args:
      rows: (tag, the prompt's metadata as text, correct) per picture.
    """
    tags: dict[str, list[bool]] = {}
    for tag, _, correct in rows:
        tags.setdefault(tag, []).append(bool(correct))
    means = {tag: float(np.mean(values)) for tag, values in tags.items()}
    return means | {"overall": float(np.mean(list(means.values()))) if means else float("nan")}


def _kept(boxes: Sequence[Sequence], metadata, max_overlap: float) -> list[tuple]:
    """(box float32 (4,), score, colour) of the detections that count, best first."""
    scores = np.array([box[4] for box in boxes], np.float32)
    least = _COUNTING_SCORE if metadata.get("tag") == "counting" else _SCORE
    order = np.argsort(scores, kind="stable")[::-1]
    order = order[scores[order] > np.float32(least)][:_MOST]
    kept: list[tuple] = []
    for index in order:
        box = np.array(boxes[index][:4], np.float32)
        if max_overlap == 1 or all(_overlap(other, box) < max_overlap for other, *_ in kept):
            kept.append((box, scores[index], boxes[index][5] if len(boxes[index]) > 5 else None))
    return kept


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    def area(low, high):
        return float(np.prod(np.maximum(high - low + 1, 0)))

    both = area(np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:]))
    union = area(first[:2], first[2:]) + area(second[:2], second[2:]) - both
    return both / union if union else 0.0


def _is_met(metadata, found: Mapping[str, list[tuple]]) -> bool:
    """Whether every clause holds; a clause that fails is no target for the position of another."""
    correct = True
    groups: list[list[tuple] | None] = []
    for clause in metadata.get("include", ()):
        objects = found.get(clause["class"], [])[: clause["count"]]
        met = len(objects) == clause["count"]
        if met and "color" in clause:
            met = all(color == clause["color"] for *_, color in objects)
        if met and "position" in clause:
            relation, index = clause["position"]
            targets = groups[index]
            met = targets is not None and all(
                relation in _relations(one[0], other[0]) for one in objects for other in targets
            )
        groups.append(objects if met else None)
        correct &= met
    return correct and all(
        len(found.get(clause["class"], ())) < clause["count"]
        for clause in metadata.get("exclude", ())
    )


def _relations(first: np.ndarray, second: np.ndarray) -> set[str]:
    """How the first box lies to the second: none, one or two of the four words."""
    offset = (first[:2] + first[2:]) / 2 - (second[:2] + second[2:]) / 2
    sizes = np.abs(first[2:] - first[:2]) + np.abs(second[2:] - second[:2])
    shrunk = np.maximum(np.abs(offset) - _DEAD_ZONE * sizes, 0) * np.sign(offset)
    if np.all(np.abs(shrunk) < 1e-3):
        return set()
    across, down = shrunk / np.linalg.norm(offset)
    words = {
        "left of": across < -_RELATION,
        "right of": across > _RELATION,
        "above": down < -_RELATION,
        "below": down > _RELATION,
    }
    return {word for word, holds in words.items() if holds}
