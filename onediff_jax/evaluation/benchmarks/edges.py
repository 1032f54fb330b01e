"""BSDS500: edges against the drawings of several people."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from scipy.io import loadmat

from onediff_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    LayoutError,
    Measure,
    Pictures,
    first_existing,
    given_picture,
    read_picture,
)
from onediff_jax.evaluation.metrics import edges
from onediff_jax.evaluation.results import bootstrap


class BSDS500(Benchmark):
    """200 test pictures; predictions are <id>.png, uint8 edge strength."""

    name, task, official = "bsds500", "image2hed", 200
    protocol = "BSDS500 (99 thresholds, thinned, tolerance 0.0075 of the diagonal)"
    measures: ClassVar = {"ods": Measure(), "ois": Measure(), "ap": Measure()}
    missing_counts = "an empty map"

    def find_items(self) -> list[Item]:
        places = ("data/groundTruth/test", "BSDS500/data/groundTruth/test", "groundTruth/test")
        root = first_existing(self.folder, places, "the drawings of bsds500")
        found = sorted(root.glob("*.mat"))
        if not found:
            raise LayoutError(f"no drawing {root}/*.mat")
        images = root.parents[1] / "images" / "test"
        return [Item(p.stem, {"truth": p, "image": images / f"{p.stem}.jpg"}) for p in found]

    def prediction(self, item: Item) -> Path | None:
        path = self.predicted / f"{item.name}.png"
        return path if path.is_file() else None

    def truth(self, item: Item) -> list[np.ndarray]:
        """The people's drawings, (H, W) bool each."""
        people = loadmat(item.files["truth"])["groundTruth"].ravel()
        return [np.asarray(person["Boundaries"][0, 0], bool) for person in people]

    def score(self, item: Item, prediction: Path) -> np.ndarray:
        with Image.open(prediction) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would cut what is above 255
                raise ValueError(f"it must have 8 bits; its mode is {picture.mode}")
            strength = np.asarray(picture.convert("L"))
        return edges.edge_counts(strength, self.truth(item))

    def controls(self, item: Item, other: Path) -> dict[str, np.ndarray]:
        return self.anothers(item, other)

    def score_of_missing(self, item: Item) -> np.ndarray:
        truth = self.truth(item)
        return edges.edge_counts(np.zeros(truth[0].shape, np.uint8), truth)

    def pictures(self, item: Item, prediction: Path) -> Pictures:
        drawn = np.mean(self.truth(item), 0)
        true = np.repeat(np.rint(255 * drawn).astype(np.uint8)[..., None], 3, -1)
        return [*given_picture(item), ("predicted", read_picture(prediction)), ("true", true)]

    def summarize(self, scores: Sequence[np.ndarray]) -> dict[str, float]:
        return edges.scores_from_counts(np.stack(scores))

    def intervals(self, scores):
        return bootstrap(scores, self.summarize, replicates=200)
