"""What a predictor that sees nothing would say: averages over training examples."""

from collections.abc import Sequence

import numpy as np

from onediff_jax.data.bundle import Bundle

Size = tuple[int, int]


class Typical:
    """Per-pixel averages over training bundles of one task, for every picture size.

    The strongest predictions that do not look at the input; a model that learned anything beats
    them.
    """

    def __init__(self, bundles: Sequence[Bundle], far: float = np.inf):
        """Args:
        bundles: training examples, at least one.
        far: depths beyond it (world units) are left out of the mean depth map.
        """
        if not bundles:
            raise ValueError("Typical needs at least one bundle")
        self._frames: dict[tuple[int, Size], list[np.ndarray]] = {}
        self._depth: dict[Size, list[np.ndarray]] = {}
        self._classes: dict[Size, list[np.ndarray]] = {}
        self._far = far
        for bundle in bundles:
            for index, frame in enumerate(bundle.frames):
                if frame.dtype == np.uint8:
                    self._frames.setdefault((index, frame.shape[:2]), []).append(frame)
            size = bundle.frames[0].shape[:2]
            if "depth" in bundle.truth:
                self._depth.setdefault(size, []).append(bundle.truth["depth"])
            if "painted" in bundle.truth:
                self._classes.setdefault(size, []).append(bundle.truth["view"].classes)

    def picture(self, index: int, size: Size) -> np.ndarray:
        """The mean of frame `index`, (H, W, 3) float32; a single colour for a size not seen."""
        found = self._frames.get((index, size))
        if found:
            return np.asarray(np.mean(found, 0, dtype=np.float32))
        rest = [f.mean((0, 1)) for (i, _), fs in self._frames.items() for f in fs if i == index]
        return np.broadcast_to(np.mean(rest, 0, dtype=np.float32), (*size, 3))

    def depth(self, size: Size) -> np.ndarray:
        """The mean depth of every pixel over the maps that know it, (H, W) float32."""
        maps = np.stack(self._depth.get(size) or [self._any_depth(size)])
        known = np.isfinite(maps) & (maps > 0) & (maps <= self._far)
        count = known.sum(0)
        overall = maps[known].mean() if known.any() else 1.0
        total = np.where(known, maps, 0).sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), overall).astype(np.float32)

    def classes(self, size: Size) -> np.ndarray:
        """The most frequent class of every pixel, (H, W) uint8; class 0 for a size not seen."""
        maps = self._classes.get(size)
        if not maps:
            return np.zeros(size, np.uint8)
        maps = np.stack(maps)
        counts = np.stack([(maps == c).sum(0) for c in range(int(maps.max()) + 1)])
        return counts.argmax(0).astype(np.uint8)

    def _any_depth(self, size: Size) -> np.ndarray:
        every = np.concatenate([m.ravel() for maps in self._depth.values() for m in maps])
        known = every[np.isfinite(every) & (every > 0) & (every <= self._far)]
        return np.full(size, known.mean() if len(known) else 1.0, np.float32)
