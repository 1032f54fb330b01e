"""PIE-Bench: edited pictures, inside and outside the part that was to change."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onediff_jax.evaluation.benchmarks.base import (
    Benchmark,
    Item,
    LayoutError,
    Measure,
    Pictures,
    first_existing,
    read_picture,
)
from onediff_jax.evaluation.metrics import edit_scores
from onediff_jax.files import read_json

SIDE = 512
_KEYS = [f"{k}{part}" for part in ("", "_unedited", "_edited") for k in ("psnr", "ssim", "mse")]


class PIEBench(Benchmark):
    """700 edits. Predictions lie as the pictures do, below annotation_images or without it."""

    name, task, official = "pie", "image_editing", 700
    protocol = "PIE-Bench (PSNR, SSIM, squared error whole, outside and inside the mask)"
    measures: Mapping[str, Measure] = {
        key: Measure("lower" if key.startswith("mse") else "higher") for key in _KEYS
    }

    def __init__(self, folder: Path, predictions: Path | None, options: dict[str, Any]):
        super().__init__(folder, predictions, options)
        if options.get("clip"):
            self.measures = dict(self.measures) | {"clip": Measure(), "clip_edited": Measure()}

    def find_items(self) -> list[Item]:
        places = ("data/mapping_file.json", "mapping_file.json")
        mapping = first_existing(self.folder, places, "PIE-Bench's list of edits")
        root = mapping.parent / "annotation_images"
        items = []
        for name, edit in read_json(mapping).items():
            source = root / edit["image_path"]
            if not source.is_file():
                raise LayoutError(f"{mapping} names {source}, which is not there")
            items.append(Item(name, {"source": source}, edit))
        return items

    def prediction(self, item: Item) -> Path | None:
        for place in (self.predicted / "annotation_images", self.predicted):
            path = place / item.known["image_path"]
            for found in (path, path.with_suffix(".png")):
                if found.is_file():
                    return found
        return None

    def words(self, item: Item) -> str:
        return item.known.get("editing_instruction") or item.known.get("editing_prompt", "")

    def pictures(self, item: Item, prediction: Path) -> Pictures:
        source, target = read_picture(item.files["source"]), _edit(prediction)
        mask = decode_mask(item.known["mask"], source.shape[:2])
        shown = np.where(mask[..., None], source, source // 4)
        return [("given", source), ("to be changed", shown), ("predicted", target)]

    def score(self, item: Item, prediction: Path) -> dict[str, float]:
        source, target = read_picture(item.files["source"]), _edit(prediction)
        if target.shape != source.shape:
            raise ValueError(f"it is {target.shape}, its source {source.shape}")
        mask = decode_mask(item.known["mask"], source.shape[:2])
        found = edit_scores(source, target, mask)
        if clip := self.options.get("clip"):
            words = item.known["editing_prompt"].replace("[", "").replace("]", "")
            whole, inside = target, np.where(mask[..., None], target, np.uint8(0))
            seen = clip.pictures([whole, inside]) @ clip.texts([words])[0]
            found["clip"], found["clip_edited"] = (100 * max(float(v), 0.0) for v in seen)
        return found

    def summarize(self, scores: Sequence[dict[str, float]]) -> dict[str, float]:
        """Means over the pictures that have the part; the official code writes "nan" for others."""
        means = {}
        for key in self.measures:
            known = [s[key] for s in scores if not np.isnan(s[key])]
            means[key] = float(np.mean(known)) if known else float("nan")
        return means


def _edit(prediction: Path) -> np.ndarray:
    """The edited picture; of a strip, its last one."""
    target = read_picture(prediction)
    return target if target.shape[0] == target.shape[1] else target[-SIDE:, -SIDE:]


def decode_mask(lengths: Sequence[int], size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """(H, W) bool from start, length pairs, row by row; the outermost pixels are always set."""
    flat = np.zeros(size[0] * size[1], bool)
    for start, length in zip(lengths[::2], lengths[1::2], strict=False):
        flat[start : start + length] = True
    mask = flat.reshape(size)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask
