"""COCO's boxes and poses, from its lists of results."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image, ImageDraw

from onediff_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    LayoutError,
    Measure,
    Pictures,
    first_existing,
    given_picture,
)
from onediff_jax.evaluation.colormap import class_colors
from onediff_jax.evaluation.metrics import coco
from onediff_jax.evaluation.results import confidence_interval
from onediff_jax.files import read_json

_CONFIDENT = 0.3  # score from which a detection is drawn
_REPLICATES, _MOST_MATCHES = 200, 40_000  # resampled sets; pictures × classes of one that is large


class COCOBenchmark(Benchmark):
    """5000 pictures. --predictions is the list of results, or a folder that holds it.

    A picture without detections is an ordinary case: it counts as one where nothing was found.
    """

    official = 5000
    kind: ClassVar[Literal["bbox", "keypoints"]]
    annotations: ClassVar[str]
    pattern: ClassVar[str]
    missing_counts = "a picture in which nothing was found"

    def find_items(self) -> list[Item]:
        places = (f"annotations/{self.annotations}", self.annotations)
        truth = first_existing(self.folder, places, f"the annotations of {self.name}")
        self.truth, self._by_image = read_json(truth), None
        if missing := {"images", "annotations", "categories"} - set(self.truth):
            raise LayoutError(f"{truth} lacks {sorted(missing)}")
        self.detections = [] if self.predictions is None else self._read_results()
        pictures = self.folder / "val2017"
        return [
            Item(str(image["id"]), {"image": pictures / image.get("file_name", "")}, image)
            for image in self.truth["images"]
        ]

    def annotations_of(self, item: Item) -> list[dict[str, Any]]:
        """The true annotations of a picture."""
        if self._by_image is None:
            self._by_image = {}
            for entry in self.truth["annotations"]:
                self._by_image.setdefault(entry["image_id"], []).append(entry)
        return self._by_image.get(item.known["id"], [])

    def _read_results(self) -> list[dict[str, Any]]:
        files = [self.predicted]
        if self.predicted.is_dir():
            files = sorted(self.predicted.glob(self.pattern))
            if len(files) != 1:
                raise LayoutError(
                    f"{len(files)} lists of results {self.predicted / self.pattern}, one is "
                    f"needed: {[p.name for p in files]}"
                )
        found = read_json(files[0])
        if not isinstance(found, list):
            raise LayoutError(f"{files[0]} must be COCO's list of results")
        return found

    def prediction(self, item: Item) -> Item:
        return item

    def pictures(self, item: Item, prediction: Item) -> Pictures:
        number = item.known["id"]
        found = [d for d in self.detections if d["image_id"] == number]
        found = [d for d in found if d.get("score", 1.0) >= _CONFIDENT]
        size = (item.known.get("height", 256), item.known.get("width", 256), 3)
        given = given_picture(item)
        under = given[0][1] if given else np.zeros(size, np.uint8)
        drawn = [
            (label, _drawn(under, entries))
            for label, entries in (("predicted", found), ("true", self.annotations_of(item)))
        ]
        return [*given, *drawn]

    def score(self, item: Item, prediction: Item) -> int:
        return item.known["id"]

    def _evaluated(self, images: Sequence[int]):
        chosen = set(images)
        truth = self.truth | {
            key: [entry for entry in self.truth[key] if entry[name] in chosen]
            for key, name in (("images", "id"), ("annotations", "image_id"))
        }
        known = {image["id"] for image in self.truth["images"]}
        kept = [d for d in self.detections if d["image_id"] in chosen or d["image_id"] not in known]
        return coco.evaluation(truth, kept, self.kind)

    def summarize(self, scores: Sequence[int]) -> dict[str, float]:
        self.found = self._evaluated(scores)
        return coco.summary(self.found, self.kind)

    def intervals(self, scores: Sequence[int]) -> dict[str, tuple[float, float] | None]:
        """From the matches of every picture, resampled; fewer times where the set is large."""
        found, rng = self.found, np.random.default_rng(0)
        images = len(found.params.imgIds)
        if images < 2:
            return {}
        matches = found.evalImgs
        groups = [matches[i : i + images] for i in range(0, len(matches), images)]
        times = max(20, int(_REPLICATES * min(1, _MOST_MATCHES / len(matches))))
        values: dict[str, list[float]] = {}
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in range(times):
                picked = rng.integers(images, size=images)
                found.evalImgs = [group[i] for group in groups for i in picked]
                for key, value in coco.summary(found, self.kind).items():
                    if np.isfinite(value):
                        values.setdefault(key, []).append(value)
        found.evalImgs = matches
        return {key: confidence_interval(each) for key, each in values.items()}


def _drawn(picture: np.ndarray, entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """Boxes and keypoints over a dimmed picture, a colour per category."""
    image = Image.fromarray(picture // 2)
    pen, width = ImageDraw.Draw(image), max(1, round(max(image.size) / 200))
    for entry in entries:
        color = tuple(class_colors(np.array([[entry.get("category_id", 1) % 250]]))[0, 0].tolist())
        points = np.reshape(entry.get("keypoints", []), (-1, 3))
        for x, y, seen in points.tolist():
            if seen:
                pen.ellipse((x - width, y - width, x + width, y + width), fill=color)
        if "bbox" in entry and not len(points):
            x, y, w, h = entry["bbox"]
            pen.rectangle((x, y, x + max(w, 0), y + max(h, 0)), outline=color, width=width)
    return np.asarray(image)


class COCOBoxes(COCOBenchmark):
    """Average precision of boxes."""

    name, task = "coco_boxes", "image2boundingbox"
    kind = "bbox"
    protocol = "COCO boxes (pycocotools)"
    measures: ClassVar = {key: Measure() for key in coco.BOX_NAMES}
    annotations, pattern = "instances_val2017.json", "*bbox*results*.json"


class COCOPose(COCOBenchmark):
    """Average precision of poses by object keypoint similarity."""

    name, task = "coco_pose", "image2pose"
    kind = "keypoints"
    protocol = "COCO keypoints (pycocotools)"
    measures: ClassVar = {key: Measure() for key in coco.KEYPOINT_NAMES}
    annotations, pattern = "person_keypoints_val2017.json", "*keypoints*results*.json"
