"""NYUv2 and DIODE in Marigold's layout, scored by Marigold's order of steps."""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

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
    listed_files,
)
from onediff_jax.evaluation.colormap import error_colors, near_colors
from onediff_jax.evaluation.metrics import depth_scores
from onediff_jax.evaluation.metrics.depth import Align, in_metres

ALIGNMENTS = ("auto", "none", "depth", "disparity")
_LOWER = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "i_rmse", "silog")
_ORIENTATION_ITEMS = 32  # of which predictions are compared with the truth to choose the alignment


class DepthBenchmark(Benchmark):
    """Depth of single pictures. options["align"]: none, depth, disparity, or auto.

    auto asks whether the set's predictions grow with depth or fall with it, and fits them to
    depth or to 1/depth: one choice for the whole set.
    """

    task = "image2depth"
    clip: ClassVar[tuple[float, float]]
    folders: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    pattern: ClassVar[str]
    align: Align

    def find_items(self) -> list[Item]:
        root = first_existing(self.folder, self.folders, f"the pictures of {self.name}")
        listings = sorted(self.folder.glob("*filename_list*.txt"))
        if len(listings) > 1:
            raise LayoutError(f"{len(listings)} file lists, one is needed: {listings}")
        if listings:
            found = listed_files(root, listings[0], self.columns)
        else:
            found = [self.beside(path) for path in sorted(root.glob(self.pattern))]
            if not found:
                raise LayoutError(f"no picture {root / self.pattern}")
        return [Item(str(files["image"].relative_to(root)), files) for files in found]

    @abc.abstractmethod
    def beside(self, image: Path) -> dict[str, Path]:
        """The files of the picture's example, where there is no list. Raises LayoutError."""

    def stem(self, item: Item) -> str:
        """The picture's name in the names of its predictions."""
        return Path(item.name).stem

    def prediction(self, item: Item) -> Path | None:
        place = self.predicted / Path(item.name).parent
        stem = self.stem(item)
        for name in (f"pred_{stem}.npy", f"pred_{stem}.png", f"{stem}.npy", f"{stem}.png"):
            if (place / name).is_file():
                return place / name
        return None

    def prepare(self, items: Sequence[Item]) -> None:
        align: Any = self.options.get("align", "auto")
        if align not in ALIGNMENTS:
            raise ValueError(f"{align=} must be one of {ALIGNMENTS}")
        if align == "auto":
            align = "depth" if self._grows(items) else "disparity"
        self.align = None if align == "none" else align

    def _grows(self, items: Sequence[Item]) -> bool:
        """Whether predictions are larger where it is farther, over some pictures of the set."""
        total = 0.0
        for item in items[:: max(1, len(items) // _ORIENTATION_ITEMS)]:
            found = self.prediction(item)
            if found is None:
                continue
            predicted, (truth, valid) = read_map(found), self.truth(item)
            if predicted.shape != truth.shape:
                continue  # said by its score
            x, y = predicted[valid], truth[valid]
            if len(x) > 1 and np.isfinite(x).all() and x.std() > 0 and y.std() > 0:
                total += float(np.corrcoef(x, y)[0, 1])
        return total >= 0

    @abc.abstractmethod
    def truth(self, item: Item) -> tuple[np.ndarray, np.ndarray]:
        """Metres (H, W) float32 and which pixels are scored."""

    def controls(self, item: Item, other: Path) -> dict[str, dict[str, float]]:
        found = self.anothers(item, other)
        if self.align is not None:  # which makes it the best one
            truth, valid = self.truth(item)
            flat = np.ones_like(truth)
            scores = depth_scores(flat, truth, valid, align=self.align, clip=self.clip)
            found["best constant"] = scores
        return found

    def score(self, item: Item, prediction: Path) -> dict[str, float]:
        predicted, (truth, valid) = read_map(prediction), self.truth(item)
        if predicted.shape != truth.shape:
            raise ValueError(f"it is {predicted.shape}, its truth {truth.shape}")
        if wrong := np.count_nonzero(~np.isfinite(predicted[valid])):
            raise ValueError(f"{wrong} valid pixels are not finite")
        return depth_scores(predicted, truth, valid, align=self.align, clip=self.clip)

    def pictures(self, item: Item, prediction: Path) -> Pictures:
        truth, valid = self.truth(item)
        metres = in_metres(read_map(prediction), truth, valid, align=self.align)
        metres = np.clip(metres, *self.clip)
        known = truth[valid] if valid.any() else np.ones(1, np.float32)
        near, far = 1 / np.percentile(known, (1, 99)).clip(1e-3)
        bright = lambda depth: (1 / np.maximum(depth, 1e-3) - far) / max(near - far, 1e-6)  # noqa: E731
        error = np.where(valid, np.abs(metres - truth) / np.maximum(truth, 1e-3), 0)
        return [
            *given_picture(item),
            ("predicted", near_colors(np.clip(bright(metres), 0, 1))),
            ("true", near_colors(np.where(valid, np.clip(bright(truth), 0, 1), -1))),
            ("relative error, to 0.3", error_colors(error, 0.3)),
        ]

    def labels(self) -> dict[str, str]:
        how = "no alignment" if self.align is None else f"aligned in {self.align}"
        return {"protocol": f"{self.protocol}, {how}"}


class NYUv2(DepthBenchmark):
    """654 rooms, 480×640; the Eigen crop, measured depths strictly between 1 mm and 10 m."""

    name, official = "nyuv2", 654
    protocol = "Marigold on NYUv2 (Eigen crop, measured depth, 0.001–10 m)"
    measures: ClassVar = {
        **{key: Measure("lower", 0.068 if key == "abs_rel" else None) for key in _LOWER},
        "delta1": Measure("higher", 0.952),
        "delta2": Measure(),
        "delta3": Measure(),
    }
    clip = (1e-3, 10.0)
    folders = ("nyuv2/nyu_labeled_extracted", "nyu_labeled_extracted", "test/..")
    columns = ("image", "truth", "filled")
    pattern = "test/*/rgb_*.png"

    def beside(self, image: Path) -> dict[str, Path]:
        truth = image.with_name(image.name.replace("rgb_", "depth_"))
        if not truth.is_file():
            raise LayoutError(f"{image} has no {truth.name} beside it")
        return {"image": image, "truth": truth}

    def stem(self, item: Item) -> str:
        return super().stem(item).removeprefix("rgb_")

    def truth(self, item: Item) -> tuple[np.ndarray, np.ndarray]:
        depth = (np.asarray(Image.open(item.files["truth"])) / 1000.0).astype(np.float32)
        crop = np.zeros(depth.shape, bool)
        crop[45:471, 41:601] = True
        low, high = np.float32(self.clip[0]), np.float32(self.clip[1])
        return depth, crop & (depth > low) & (depth < high)


class DIODE(DepthBenchmark):
    """771 pictures indoors and outdoors, 768×1024; its own mask alone says what is scored."""

    name, official = "diode", 771
    protocol = "Marigold on DIODE val (its mask, 0.6–350 m)"
    measures: ClassVar = {
        **{key: Measure("lower", 0.294 if key == "abs_rel" else None) for key in _LOWER},
        "delta1": Measure("higher", 0.752),
        "delta2": Measure(),
        "delta3": Measure(),
    }
    clip = (0.6, 350.0)
    folders = ("diode/val", "val", "indoors/..")
    columns = ("image", "truth", "mask")
    pattern = "*/scene_*/scan_*/*.png"

    def beside(self, image: Path) -> dict[str, Path]:
        files = {"image": image}
        for role, word in (("truth", "depth"), ("mask", "depth_mask")):
            files[role] = image.with_name(f"{image.stem}_{word}.npy")
            if not files[role].is_file():
                raise LayoutError(f"{image} has no {files[role].name} beside it")
        return files

    def truth(self, item: Item) -> tuple[np.ndarray, np.ndarray]:
        depth = np.load(item.files["truth"]).astype(np.float32)
        mask = np.load(item.files["mask"]).astype(bool)
        return depth.reshape(depth.shape[:2]), mask.reshape(mask.shape[:2])


def read_map(path: Path) -> np.ndarray:
    """A predicted map, float32 (H, W): an array, or a grey picture scaled to 0..1."""
    if path.suffix == ".npy":
        try:
            values = np.load(path)
        except EOFError as error:
            raise ValueError(f"{path.name} is cut off: {error}") from error
        values = values.reshape(values.shape[-2:] if values.shape[:1] == (1,) else values.shape[:2])
        return values.astype(np.float32)
    with Image.open(path) as picture:
        if picture.mode == "P":
            raise ValueError(f"{path.name} must be grey; it has a palette")
        values = np.asarray(picture)
    if values.ndim == 3:
        colors = values[..., : 3 if values.shape[-1] > 2 else 1]  # the others are alpha
        if (colors != colors[..., :1]).any():
            raise ValueError(f"{path.name} must be grey; it is a picture in colours")
        values = colors[..., 0]
    return values.astype(np.float32) / np.float32(255 if values.dtype == np.uint8 else 65535)
