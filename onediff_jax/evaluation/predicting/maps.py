"""Predictions of what a picture shows: depth, edges, classes, boxes and poses."""

import abc
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from onediff_jax.evaluation.benchmarks.base import Item, read_picture
from onediff_jax.evaluation.benchmarks.coco import COCOBenchmark
from onediff_jax.evaluation.benchmarks.depth import DepthBenchmark
from onediff_jax.evaluation.benchmarks.segmentation import SegmentationBenchmark
from onediff_jax.evaluation.predicting.base import Made, Predictor, write_picture
from onediff_jax.files import read_json, write_json
from onediff_jax.sampling.request import Request
from onediff_jax.tasks import colors
from onediff_jax.tasks.depth import nearness
from onediff_jax.tasks.pose import KEYPOINTS
from onediff_jax.tasks.roles import get_role

_MARGIN = 1.25  # of a person's crop, times its box
_PARTS = "images"  # a file per picture, from which a list of results is put together


class _MapPredictor(Predictor):
    """One map per picture, in a file of its own."""

    @abc.abstractmethod
    def file(self, item: Item) -> Path:
        """Where the map of a picture is written."""

    def done(self, item: Item) -> bool:
        return self.file(item).is_file()

    def requests(self, item: Item) -> list[Request]:
        picture = self.stretched(read_picture(item.files["image"]))
        return [Request(self.direction, images=(picture,))]


class DepthPredictor(_MapPredictor):
    """pred_<n>.png, 16-bit grey linear in 1/depth, at the picture's size."""

    benchmark: DepthBenchmark
    direction = "image2depth"

    def file(self, item: Item) -> Path:
        return self.out / Path(item.name).parent / f"pred_{self.benchmark.stem(item)}.png"

    def write(self, item: Item, made: list[Made]) -> None:
        with Image.open(item.files["image"]) as picture:
            size = picture.size
        grey = np.maximum(nearness(made[0][0]), 0)
        whole = cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
        write_picture(self.file(item), np.rint(whole * 65535).astype(np.uint16))


class EdgePredictor(_MapPredictor):
    """<id>.png, 8-bit strength at the picture's size."""

    direction = "image2hed"

    def file(self, item: Item) -> Path:
        return self.out / f"{item.name}.png"

    def write(self, item: Item, made: list[Made]) -> None:
        with Image.open(item.files["image"]) as picture:
            size = picture.size
        strength = get_role("hed").read(made[0][0], {})
        whole = cv2.resize(np.asarray(strength, np.float32), size, interpolation=cv2.INTER_LINEAR)
        write_picture(self.file(item), np.rint(np.clip(whole, 0, 1) * 255).astype(np.uint8))


class ClassPredictor(_MapPredictor):
    """A map of the benchmark's own numbers; 0, which is scored as a miss, where nothing is painted.

    The prompt names each class that the picture has, with its colour, as in training: twenty at
    most, the largest.
    """

    benchmark: SegmentationBenchmark
    direction = "image2semanticmap"
    protocol = "; the prompt names the classes of each picture"

    def file(self, item: Item) -> Path:
        return self.out / self.benchmark.prediction_name(item)

    def _regions(self, item: Item) -> list[tuple[str, int]]:
        """(colour, class) of every class that the prompt names."""
        truth = self.benchmark.truth(item)
        found, counts = np.unique(truth[truth != 255], return_counts=True)
        largest = found[np.argsort(-counts, kind="stable")][: len(colors.COLORS)]
        seed = np.random.default_rng(zlib.crc32(item.name.encode()))
        chosen = colors.assign([int(c) for c in largest], seed)
        return [(color, index) for index, color in chosen.items()]

    def requests(self, item: Item) -> list[Request]:
        names = self.benchmark.class_names
        regions = tuple((color, names[index]) for color, index in self._regions(item))
        if not regions:
            return []
        picture = self.stretched(read_picture(item.files["image"]))
        return [Request(self.direction, images=(picture,), regions=regions)]

    def write(self, item: Item, made: list[Made]) -> None:
        with Image.open(item.files["image"]) as picture:
            size = picture.size
        regions = self._regions(item)
        numbers = np.zeros(size[::-1], np.uint8)
        if made:
            names = [(color, str(index)) for color, index in regions]
            place = get_role("semanticmap").read(made[0][0], {"regions": names})
            table = np.array([*(self.benchmark.number(index) for _, index in regions), 0])
            painted = table[place].astype(np.uint8)  # −1, nothing, is the last
            numbers = cv2.resize(painted, size, interpolation=cv2.INTER_NEAREST)
        write_picture(self.file(item), numbers)


class _ListPredictor(Predictor):
    """A list of results for the whole set, put together from a file per picture."""

    benchmark: COCOBenchmark

    results: str

    def file(self, item: Item) -> Path:
        return self.out / _PARTS / f"{item.name}.json"

    def done(self, item: Item) -> bool:
        return self.file(item).is_file()

    def finish(self, items: Sequence[Item]) -> None:
        found = [entry for item in items for entry in read_json(self.file(item))]
        write_json(self.out / self.results, found)

    def _write(self, item: Item, found: list[dict[str, Any]]) -> None:
        self.file(item).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file(item), found)


class BoxPredictor(_ListPredictor):
    """Boxes read from drawn outlines; all scores are 1, as a drawing has none."""

    direction, results = "image2boundingbox", "bbox_results.json"
    protocol = "; the prompt names the classes of each picture; all scores equal"

    def _regions(self, item: Item) -> list[tuple[str, int]]:
        """(colour, category) of every category that the prompt names."""
        area: dict[int, float] = {}
        for entry in self.benchmark.annotations_of(item):
            if not entry.get("iscrowd"):
                kind = entry["category_id"]
                area[kind] = area.get(kind, 0) + entry["bbox"][2] * entry["bbox"][3]
        largest = sorted(area, key=lambda kind: (-area[kind], kind))[: len(colors.COLORS)]
        chosen = colors.assign(largest, np.random.default_rng(item.known["id"]))
        return [(color, kind) for kind, color in chosen.items()]

    def requests(self, item: Item) -> list[Request]:
        names = {entry["id"]: entry["name"] for entry in self.benchmark.truth["categories"]}
        regions = tuple((color, names[kind]) for color, kind in self._regions(item))
        if not regions:
            return []
        picture = self.stretched(read_picture(item.files["image"]))
        return [Request(self.direction, images=(picture,), regions=regions)]

    def write(self, item: Item, made: list[Made]) -> None:
        found = []
        if made:
            frame, regions = made[0][0], self._regions(item)
            names = [(color, str(kind)) for color, kind in regions]
            scale = np.array([item.known["width"], item.known["height"]] * 2) / (
                *frame.shape[1::-1],
                *frame.shape[1::-1],
            )
            for place, box in get_role("boundingbox").read(frame, {"regions": names}):
                x0, y0, x1, y1 = (float(v) for v in box * scale)
                found.append(
                    {"image_id": item.known["id"], "category_id": regions[place][1], "score": 1.0}
                    | {"bbox": [x0, y0, x1 - x0, y1 - y0]}
                )
        self._write(item, found)


class PosePredictor(_ListPredictor):
    """Keypoints of each person, drawn for a crop about the true box and read from the drawing."""

    direction, results = "image2pose", "keypoints_results.json"
    protocol = "; a crop about each true box (top-down)"

    def _crops(self, item: Item) -> list[tuple[float, float, float]]:
        """(left, top, side) in pixels of the square about each person."""
        found = []
        for entry in self.benchmark.annotations_of(item):
            if entry.get("iscrowd") or not entry.get("num_keypoints"):
                continue
            x, y, width, height = entry["bbox"]
            side = max(width, height, 1.0) * _MARGIN
            found.append((x + width / 2 - side / 2, y + height / 2 - side / 2, side))
        return found

    def requests(self, item: Item) -> list[Request]:
        crops = self._crops(item)
        if not crops:
            return []
        picture = read_picture(item.files["image"])
        return [Request(self.direction, images=(_cut(picture, *crop),)) for crop in crops]

    def write(self, item: Item, made: list[Made]) -> None:
        found = []
        person = next(e["id"] for e in self.benchmark.truth["categories"] if e["name"] == "person")
        for (left, top, side), (frame,) in zip(self._crops(item), made, strict=True):
            points = get_role("pose").read(frame, {})
            seen = points[:, 2] > 0
            scale = side / np.array(frame.shape[1::-1])
            points[seen, :2] = points[seen, :2] * scale + (left, top)
            found.append(
                {"image_id": item.known["id"], "category_id": person}
                | {"keypoints": [float(v) for v in points.ravel()]}
                | {"score": float(seen.sum() / len(KEYPOINTS))}
            )
        self._write(item, found)


def _cut(picture: np.ndarray, left: float, top: float, side: float) -> np.ndarray:
    """The square of a picture, black beyond its borders; as many pixels as it covers."""
    pixels = max(16, round(side))
    scale = pixels / side
    moved = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]], np.float32)
    return cv2.warpAffine(picture, moved, (pixels, pixels), flags=cv2.INTER_AREA)
