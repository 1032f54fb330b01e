"""How a generated frame is measured against the true one, by what its role reads from it.

A measure turns (generated, true) into a small record per example, and records into a set's
numbers. Where a role's reading needs what is not known (a depth map without its range), the frame
is compared as a picture, and the protocol says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from onediff_jax.evaluation.metrics import box_scores, camera_scores, depth_scores, view_scores
from onediff_jax.evaluation.metrics.edges import matched_pixels
from onediff_jax.evaluation.metrics.segmentation import scores_from_counts
from onediff_jax.evaluation.scores.measures import correlation
from onediff_jax.tasks.cameras import Cameras
from onediff_jax.tasks.depth import Normalisation, nearness
from onediff_jax.tasks.role import Role

PCK = 0.2  # of the longer side of the person: a keypoint nearer than this is right


class FrameMeasure:
    """Compares pictures: PSNR and SSIM. A subclass per kind of reading.

    Attributes:
      protocol: what it does, in words. lower: keys of which less is better.
      replicates: resampled sets for the interval; fewer where a summary is slow.
      averages: whether a record is numbers whose mean over frames says the same of an example.
    """

    protocol: ClassVar[str] = "PSNR and SSIM (scikit-image, 7×7) of pictures"
    lower: ClassVar[tuple[str, ...]] = ()
    replicates: ClassVar[int] = 1000
    averages: ClassVar[bool] = True

    def __init__(self, role: Role):
        self.role = role

    def record(self, made: Any, truth: Any, known: Mapping[str, Any]) -> Any | None:
        """What the summary needs of one frame; None where the truth has nothing to compare."""
        scores = view_scores(made, truth)
        return {key: min(scores[key], 60.0) if key == "psnr" else scores[key] for key in _PICTURE}

    def summarize(self, records: Sequence[Any]) -> dict[str, float]:
        """The set's numbers: means over examples."""
        return {key: float(np.mean([r[key] for r in records])) for key in records[0]}


_PICTURE = ("psnr", "ssim")


class DepthMeasure(FrameMeasure):
    """Depth of a known range: aligned as published, and in metres as it is."""

    protocol = "Marigold's errors: aligned in disparity, and (metric_) as the range says"
    lower = ("abs_rel", "rmse", "metric_abs_rel", "metric_rmse")

    def record(self, made, truth, known):
        norm = known["depth_norm"]
        norm = norm if isinstance(norm, Normalisation) else Normalisation(**norm)
        metres = np.asarray(known.get("depth", self.role.read(truth, known)), np.float32)
        valid = np.isfinite(metres) & (metres > 0) & (metres <= norm.far)
        if not valid.any():
            return None
        clip = (norm.near, float(metres[valid].max()) if np.isinf(norm.far) else norm.far)
        align = "disparity" if norm.kind == "inverse" else "depth"
        aligned = depth_scores(nearness(made), metres, valid, align=align, clip=clip)
        read = depth_scores(self.role.read(made, known), metres, valid, clip=clip)
        keys = ("abs_rel", "rmse", "delta1")
        return {k: aligned[k] for k in keys} | {f"metric_{k}": read[k] for k in keys}


class ClassMeasure(FrameMeasure):
    """One count of pixels over the set, by label; what is painted in no colour is a class too."""

    averages = False
    protocol = "mean IoU and pixel accuracy of one count over the set (classes by label)"

    def record(self, made, truth, known):
        labels = ["", *(label for _, label in known["regions"])]
        found, wanted = (self.role.read(frame, known) + 1 for frame in (made, truth))
        counts: dict[str, np.ndarray] = {}
        for place, label in enumerate(labels):
            is_found, is_wanted = found == place, wanted == place
            here = [np.count_nonzero(a) for a in (is_found & is_wanted, is_found, is_wanted)]
            counts[label] = counts.get(label, 0) + np.array(here, np.int64)
        return counts

    def summarize(self, records):
        labels = sorted({label for record in records for label in record})
        zero = np.zeros(3, np.int64)
        total = np.stack([sum((r.get(k, zero) for r in records), zero) for k in labels], 1)
        found = scores_from_counts([total], len(labels))
        return {"miou": found["miou"], "accuracy": found["accuracy"]}


class EdgeMeasure(FrameMeasure):
    """Edge pixels matched within a distance, and the levels' correlation."""

    averages = False
    protocol = "F of edge pixels above half strength, matched within 0.0075 of the diagonal"

    def record(self, made, truth, known):
        strength, wanted = (np.asarray(self.role.read(f, known), np.float32) for f in (made, truth))
        edges, true = strength > 0.5, wanted > 0.5
        found = matched_pixels(edges, true)
        counts = (found, np.count_nonzero(true), np.count_nonzero(edges))
        return {"counts": np.array(counts), "correlation": correlation(strength, wanted)}

    def summarize(self, records):
        found, wanted, made = np.sum([r["counts"] for r in records], 0)
        f = 2 * found / (wanted + made) if wanted + made else float("nan")
        return {"f": float(f), "correlation": float(np.mean([r["correlation"] for r in records]))}


class PoseMeasure(FrameMeasure):
    """Keypoints read from drawn skeletons."""

    averages = False
    protocol = f"PCK at {PCK} of the longer side of the person, keypoints read from the drawing"

    def record(self, made, truth, known):
        found, wanted = (self.role.read(frame, known) for frame in (made, truth))
        seen = wanted[:, 2] > 0
        if not seen.any():
            return None
        size = max(np.ptp(wanted[seen, :2], axis=0).max(), 1.0)
        distance = np.linalg.norm(found[:, :2] - wanted[:, :2], axis=1) / size
        right = seen & (found[:, 2] > 0) & (distance < PCK)
        return np.stack([right, seen])

    def summarize(self, records):
        right, seen = np.sum(records, 0)
        return {"pck": float(np.mean(right[seen > 0] / seen[seen > 0]))}


class BoxMeasure(FrameMeasure):
    """Boxes read from drawn outlines, without scores, by COCO's average precision."""

    averages = False
    protocol = "COCO AP of boxes read from the drawing (all scores equal)"
    replicates = 60

    def record(self, made, truth, known):
        labels = [label for _, label in known["regions"]]

        def boxes(frame):
            return [
                (labels[place], [float(x0), float(y0), float(x1 - x0), float(y1 - y0)])
                for place, (x0, y0, x1, y1) in self.role.read(frame, known)
            ]

        return boxes(made), boxes(truth)

    def summarize(self, records):
        names = sorted({label for pair in records for boxes in pair for label, _ in boxes})
        number = {label: i + 1 for i, label in enumerate(names)}
        truth, found = [], []
        for image, (made, wanted) in enumerate(records, 1):
            for label, box in wanted:
                truth.append(
                    {"id": len(truth) + 1, "image_id": image, "category_id": number[label]}
                    | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                )
            for label, box in made:
                found.append({"image_id": image, "category_id": number[label], "bbox": box})
                found[-1]["score"] = 1.0
        if not truth:
            return {"AP": float("nan"), "AP50": float("nan")}
        whole = {
            "images": [{"id": i + 1} for i in range(len(records))],
            "annotations": truth,
            "categories": [{"id": i, "name": name} for name, i in number.items()],
        }
        scores = box_scores(whole, found)
        return {"AP": scores["AP"], "AP50": scores["AP50"]}


class CameraMeasure(FrameMeasure):
    """All ray maps of an example at once; `made` and `truth` are (n, h, w, 16) ray maps."""

    averages = False
    protocol = "RayDiffusion's rotation and centre accuracy, PoseDiffusion's AUC@30"

    def record(self, made, truth, known):
        cameras: Cameras = known["cameras"]
        found = self.role.read(made, {"intrinsics": cameras})
        scores = camera_scores(cameras.R, cameras.T, found.R, found.T)
        record = {
            "rotation_accuracy_15": float(np.mean(scores["rotation"] < 15)),
            "auc30": scores["auc30"],
        }
        if len(cameras) > 2:  # after a similarity, two centres always agree
            record["centre_accuracy_0.3"] = float(np.mean(scores["centre"] < 0.3))
        return record

    def summarize(self, records):
        keys = list(dict.fromkeys(key for record in records for key in record))
        return {k: float(np.mean([r[k] for r in records if k in r])) for k in keys}


_BY_MEASURE: dict[str, tuple[type[FrameMeasure], str]] = {
    # The role's measure → what measures it here, and what must be known for that.
    "depth": (DepthMeasure, "depth_norm"),
    "classes": (ClassMeasure, "regions"),
    "strength": (EdgeMeasure, ""),
    "cameras": (CameraMeasure, "cameras"),
}
_BY_ROLE: dict[str, tuple[type[FrameMeasure], str]] = {
    "canny": (EdgeMeasure, ""),
    "hed": (EdgeMeasure, ""),
    "pose": (PoseMeasure, ""),
    "boundingbox": (BoxMeasure, "regions"),
}


def measure_of(role: Role, known: Mapping[str, Any]) -> FrameMeasure:
    """How frames of a role are measured, where that much is known of the examples."""
    kind, needed = _measure_by(role)
    if needed and known.get(needed) is None:
        kind = FrameMeasure
    return kind(role)


def has_more(role: Role) -> bool:
    """Whether frames of a role are more than pictures to `measure_of`, where enough is known."""
    return _measure_by(role)[0] is not FrameMeasure


def _measure_by(role: Role) -> tuple[type[FrameMeasure], str]:
    return _BY_ROLE.get(role.name) or _BY_MEASURE.get(role.measure) or (FrameMeasure, "")
