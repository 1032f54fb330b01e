"""GSO30: other views of an object, in EscherNet's layout."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onediff_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    LayoutError,
    Measure,
    Pictures,
    first_existing,
    read_picture,
)
from onediff_jax.evaluation.metrics import view_scores

SIZE, VIEWS, FIRST_SCORED = 256, 25, 10  # pixels; views of an object; the first that is scored
_SHOWN_EVERY = 7  # of the views that are scored, in the report
_PAPER = {1: 19.01, 2: 20.22, 3: 21.79}  # PSNR by known views


class GSO30(Benchmark):
    """30 objects, views 10 … 24 of 25; predictions are strips of 25 views, or a file per view."""

    name, task, official = "gso30", "multiview", 30
    protocol = "EscherNet on GSO30 (views 10–24 of 25, 256×256, mean over objects)"
    measures: Mapping[str, Measure] = {
        "psnr": Measure(),
        "ssim": Measure(),
        "mse": Measure("lower"),
    }

    def __init__(self, folder: Path, predictions: Path | None, options: dict[str, Any]):
        super().__init__(folder, predictions, options)
        if options.get("lpips"):
            self.measures = dict(self.measures) | {"lpips": Measure("lower")}

    def find_items(self) -> list[Item]:
        root = first_existing(self.folder, ("GSO30", "gso30", "."), "the objects of gso30")
        objects = sorted(root.glob("*/render_mvs_25/model"))
        if not objects:
            raise LayoutError(f"no object {root}/*/render_mvs_25/model")
        items = []
        for place in objects:
            files = {str(i): place / f"{i:03}.png" for i in range(FIRST_SCORED, VIEWS)}
            if missing := [p.name for p in files.values() if not p.is_file()]:
                raise LayoutError(f"{place} lacks {missing}")
            items.append(Item(place.parent.parent.name, files))
        return items

    def known_views(self) -> int | None:
        """How many views were given, by the folder's name N<T>M25."""
        found = re.search(r"N(\d+)M25", str(self.predictions))
        return int(found[1]) if found else None

    def prediction(self, item: Item) -> Path | None:
        place = self.predicted / item.name
        if (place / "0.png").is_file():
            return place / "0.png"
        return place if all((place / f.name).is_file() for f in item.files.values()) else None

    def _views(self, item: Item, prediction: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(predicted, true) of every view that is scored."""
        strip = None
        if prediction.is_file():
            strip = read_picture(prediction)
            if strip.shape != (SIZE, SIZE * VIEWS, 3):
                raise ValueError(f"the strip is {strip.shape}, not {(SIZE, SIZE * VIEWS, 3)}")
        for index in range(FIRST_SCORED, VIEWS):
            truth_file = item.files[str(index)]
            if strip is not None:
                view = strip[:, index * SIZE : (index + 1) * SIZE]
            else:
                view = read_picture(prediction / truth_file.name)
            yield view, read_truth(truth_file)

    def pictures(self, item: Item, prediction: Path) -> Pictures:
        found: Pictures = []
        for index, (view, truth) in enumerate(self._views(item, prediction), FIRST_SCORED):
            if index % _SHOWN_EVERY == FIRST_SCORED % _SHOWN_EVERY:
                found += [(f"view {index}", view), (f"true {index}", truth)]
        return found

    def controls(self, item: Item, other: Path) -> dict[str, dict[str, float]]:
        return self.anothers(item, other)

    def score(self, item: Item, prediction: Path) -> dict[str, float]:
        scores, lpips = [], self.options.get("lpips")
        for view, truth in self._views(item, prediction):
            found = view_scores(view, truth)
            if lpips:
                found["lpips"] = lpips(view, truth)
            scores.append(found)
        return {key: float(np.mean([s[key] for s in scores])) for key in self.measures}

    def measure(self, key: str) -> Measure:
        if key == "psnr":
            known = self.known_views()
            return Measure("higher", None if known is None else _PAPER.get(known))
        return super().measure(key)

    def labels(self) -> dict[str, str]:
        known = self.known_views()
        return {} if known is None else {"data": f"gso30, {known} known"}


def settings_of(predictions: Path) -> Sequence[Path]:
    """The folders N<T>M25 inside a folder, or the folder itself."""
    return sorted(predictions.glob("**/N*M25")) or [predictions]


def read_truth(path: Path) -> np.ndarray:
    """A rendered view at 256×256, uint8: where alpha is 0 white, other alpha is ignored."""
    pixels = np.array(Image.open(path))
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels[pixels[..., 3] == 0] = 255
        pixels = np.ascontiguousarray(pixels[..., :3])
    return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE)))
