"""ADE20K and Cityscapes: semantic maps as class indices."""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

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
from onediff_jax.evaluation.metrics import segmentation

IGNORED = 255
_MEASURES = {"miou": Measure(), "accuracy": Measure(), "mean_accuracy": Measure()}


class SegmentationBenchmark(Benchmark):
    """One count over the set. A missing map counts as wrong in every pixel."""

    task = "image2semanticmap"
    measures: ClassVar = _MEASURES
    missing_counts = "wrong in every pixel"
    classes: ClassVar[int]
    class_names: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def number(self, index: int) -> int:
        """What stands for a class in files of predictions."""

    @abc.abstractmethod
    def prediction_name(self, item: Item) -> str:
        """The file of an example's prediction."""

    @abc.abstractmethod
    def truth(self, item: Item) -> np.ndarray:
        """(H, W) class indices, IGNORED where nothing is scored."""

    @abc.abstractmethod
    def read(self, prediction: Path) -> np.ndarray:
        """(H, W) class indices of a predicted map."""

    def score(self, item: Item, prediction: Path) -> np.ndarray:
        return self._counts(self.read(prediction), self.truth(item))

    def controls(self, item: Item, other: Path) -> dict[str, np.ndarray]:
        return self.anothers(item, other)

    def score_of_missing(self, item: Item) -> np.ndarray:
        truth = self.truth(item)
        return self._counts(np.full(truth.shape, -1), truth)

    def pictures(self, item: Item, prediction: Path) -> Pictures:
        maps = (("predicted", self.read(prediction)), ("true", self.truth(item)))
        return [*given_picture(item), *((label, class_colors(found)) for label, found in maps)]

    def _counts(self, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        if predicted.shape != truth.shape:
            raise ValueError(f"it is {predicted.shape}, its truth {truth.shape}")
        return segmentation.class_counts(predicted, truth, num_classes=self.classes, ignore=IGNORED)

    def summarize(self, scores: Sequence[np.ndarray]) -> dict[str, float]:
        found = segmentation.scores_from_counts(scores, self.classes)
        return {key: float(found[key]) for key in self.measures}


_ADE20K = (
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, "
    "person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, "
    "shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, "
    "bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, "
    "sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, "
    "pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, "
    "toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, "
    "swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, "
    "awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, "
    "bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, "
    "conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, "
    "tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, "
    "animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, "
    "traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, "
    "radiator, glass, clock, flag"
)


class ADE20K(SegmentationBenchmark):
    """2000 pictures, 150 classes numbered from 1; 0 is not scored."""

    name, official, classes = "ade20k", 2000, 150
    protocol = "mmsegmentation on ADE20K val (150 classes)"
    class_names = tuple(_ADE20K.split(", "))

    def number(self, index: int) -> int:
        return index + 1

    def prediction_name(self, item: Item) -> str:
        return f"{item.name}.png"

    def find_items(self) -> list[Item]:
        places = ("ADEChallengeData2016/annotations/validation", "annotations/validation")
        root = first_existing(self.folder, places, "the maps of ade20k")
        found = sorted(root.glob("*.png"))
        if not found:
            raise LayoutError(f"no map {root}/*.png")
        images = root.parents[1] / "images" / "validation"
        return [Item(p.stem, {"truth": p, "image": images / f"{p.stem}.jpg"}) for p in found]

    def prediction(self, item: Item) -> Path | None:
        path = self.predicted / self.prediction_name(item)
        return path if path.is_file() else None

    def truth(self, item: Item) -> np.ndarray:
        numbers = _map(item.files["truth"])
        return np.where(numbers == 0, IGNORED, numbers - 1)

    def read(self, prediction: Path) -> np.ndarray:
        return _map(prediction) - 1


# Cityscapes' labelIds by trainId: the 19 classes that are scored.
_CITYSCAPES = (
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, "
    "terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"
)
TRAIN_LABELS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class Cityscapes(SegmentationBenchmark):
    """500 pictures, 19 classes; maps and predictions are labelIds."""

    name, official, classes = "cityscapes", 500, len(TRAIN_LABELS)
    protocol = "Cityscapes val, pixel level (19 classes)"
    class_names = tuple(_CITYSCAPES.split(", "))

    def number(self, index: int) -> int:
        return TRAIN_LABELS[index]

    def prediction_name(self, item: Item) -> str:
        return f"{item.name}_pred.png"

    def find_items(self) -> list[Item]:
        root = first_existing(self.folder, ("gtFine/val", "val"), "the maps of cityscapes")
        found = sorted(root.glob("*/*_gtFine_labelIds.png"))
        if not found:
            raise LayoutError(f"no map {root}/*/*_gtFine_labelIds.png")
        files = sorted(self.predictions.rglob("*.png")) if self.predictions else []
        self._by_name: dict[str, Path] = {}
        for path in files:
            name = "_".join(path.stem.split("_")[:3])
            if name in self._by_name:
                raise LayoutError(f"two predictions of {name}: {self._by_name[name]} and {path}")
            self._by_name[name] = path
        images = root.parents[1] / "leftImg8bit" / "val"
        items = []
        for path in found:
            name = path.name.removesuffix("_gtFine_labelIds.png")
            image = images / path.parent.name / f"{name}_leftImg8bit.png"
            items.append(Item(name, {"truth": path, "image": image}))
        return items

    def prediction(self, item: Item) -> Path | None:
        return self._by_name.get(item.name)

    def truth(self, item: Item) -> np.ndarray:
        return _train_ids(_map(item.files["truth"]), IGNORED)

    def read(self, prediction: Path) -> np.ndarray:
        # A label that is not scored is a miss where the truth is: outside of all classes.
        return _train_ids(_map(prediction), -1)


def _train_ids(labels: np.ndarray, others: int) -> np.ndarray:
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise ValueError(f"labels {labels.min()} to {labels.max()} must be labelIds, in 0..255")
    table = np.full(256, others)
    table[list(TRAIN_LABELS)] = np.arange(len(TRAIN_LABELS))
    return table[labels]


def _map(path: Path) -> np.ndarray:
    values = np.asarray(Image.open(path))
    if values.ndim != 2:
        raise ValueError(f"{path.name} must be a picture of indices, one channel: {values.shape}")
    return values.astype(np.int64)
