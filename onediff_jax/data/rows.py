"""Packing encoded bundles into rows of slots: numpy arrays of static shape."""

import dataclasses
import functools

import numpy as np

from onediff_jax.data.bundle import Encoded
from onediff_jax.data.layout import RowLayout
from onediff_jax.data.text_hash import TextEncoder
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

TASK_NAMES = BUILT_IN.names
_FACTOR = 8  # pixels per latent, along a side


@dataclasses.dataclass(frozen=True)
class Placed:
    """A bundle on its way into a slot, with what was drawn for it.

    Attributes:
      bundle: the example.
      generate: per frame, True where the drawn direction generates it.
      clean: whether the other frames are given clean; if not, every frame has its own noise.
      prompt: the prompt after caption dropout.
    """

    bundle: Encoded
    generate: tuple[bool, ...]
    clean: bool
    prompt: str


class RowPacker:
    """Puts one bundle in each slot of a row.

    A row is a dict of arrays, which a batch has one axis more of: tokens (c, t, p) float32,
    positions (c, t, 3) int32, token_mask (c, t) bool, generate (f,) bool, clean (s,) bool,
    task (s,) int32, its place in tasks.names, text (s, l, d) float32, text_mask (s, l) bool;
    `weighted` also weights (c, t) float32, what each token counts in the loss. Frames that are
    pixels still have their tokens to come; their rows have pixels (c, t, 3·q²) uint8, of patches
    of q pixels, grids (f, 2) int32, the rows and columns of such a frame's tokens (0: no such
    frame), and noise (s,) uint32, see Encoded.
    """

    def __init__(
        self,
        layout: RowLayout,
        text_encoder: TextEncoder,
        patch: int = 2,
        tasks: TaskSet = BUILT_IN,
        *,
        weighted: bool = False,
        channels: int = 16,
    ):
        self._channels = channels
        self.weighted = weighted
        self._numbers = {name: number for number, name in enumerate(tasks.names)}
        self.layout, self.text_encoder, self.patch = layout, text_encoder, patch
        per_slot = [slot.frames * slot.tokens // layout.chunk for slot in layout.slots]
        self._first_chunk = np.concatenate([[0], np.cumsum(per_slot)])
        self._first_frame = np.concatenate([[0], np.cumsum([s.frames for s in layout.slots])])

    def __call__(self, placed: list[Placed | None]) -> dict[str, np.ndarray]:
        """Packs one row; None leaves a slot empty, all padding. Raises as `batch`."""
        return {name: array[0] for name, array in self.batch([placed]).items()}

    def batch(self, rows: list[list[Placed | None]]) -> dict[str, np.ndarray]:
        """Packs a batch of rows, each written once, in its place.

        Raises ValueError when a bundle does not fit its slot, naming both.
        """
        layout, slots = self.layout, self.layout.slots
        for placed in rows:
            if len(placed) != len(slots):
                raise ValueError(f"{len(placed)} bundles for {len(slots)} slots")
        flat = [item for placed in rows for item in placed]
        frames = [frame for p in flat if p for frame in p.bundle.frames]
        latents = (f.shape[-1] for f in frames if f.dtype != np.uint8)
        channels = next(latents, self._channels)
        grid, each = (len(rows), layout.chunks, layout.chunk), (len(rows), len(slots))
        tasks = [self._numbers[p.bundle.task] if p else 0 for p in flat]
        batch = {
            "tokens": np.zeros((*grid, self.patch**2 * channels), np.float32),
            "positions": np.zeros((*grid, 3), np.int32),
            "token_mask": np.zeros(grid, bool),
            "generate": np.zeros((len(rows), layout.frames), bool),
            "clean": np.array([p is not None and p.clean for p in flat]).reshape(each),
            "task": np.array(tasks, np.int32).reshape(each),
        }
        if self.weighted:
            batch["weights"] = np.zeros(grid, np.float32)
        if any(frame.dtype == np.uint8 for frame in frames):
            batch["pixels"] = np.zeros((*grid, 3 * (_FACTOR * self.patch) ** 2), np.uint8)
            batch["grids"] = np.zeros((len(rows), layout.frames, 2), np.int32)
            noise = [p.bundle.noise if p else 0 for p in flat]
            batch["noise"] = np.array(noise, np.uint32).reshape(each)
        text, mask = self._text(flat)
        batch["text"] = text.reshape(*each, *text.shape[1:])
        batch["text_mask"] = mask.reshape(*each, *mask.shape[1:])
        for row, placed in enumerate(rows):
            for slot, item in enumerate(placed):
                if item is not None:
                    self._fill(batch, row, slot, item)
        return batch

    def _fill(self, batch: dict[str, np.ndarray], row: int, index: int, item: Placed) -> None:
        """Writes a bundle into its slot of a row."""
        slot, frames = self.layout.slots[index], item.bundle.frames
        if len(frames) > slot.frames:
            raise ValueError(f"{item.bundle.task} bundle of {len(frames)} frames: {slot}")
        first = self._first_frame[index]
        batch["generate"][row, first : first + len(frames)] = item.generate
        chunks = slice(self._first_chunk[index], self._first_chunk[index + 1])
        views = {
            name: batch[name][row, chunks].reshape(slot.frames, slot.tokens, -1)
            for name in ("tokens", "positions", "token_mask", "weights", "pixels")
            if name in batch
        }
        for f, frame in enumerate(frames):
            pixels = frame.dtype == np.uint8
            patch = self.patch * (_FACTOR if pixels else 1)
            grid = _grid(frame.shape[0] // patch, frame.shape[1] // patch)
            count = len(grid)
            if count > slot.tokens:
                raise ValueError(f"{item.bundle.task} frame of {count} tokens: {slot}")
            write_tokens(frame, patch, views["pixels" if pixels else "tokens"][f, :count])
            if pixels:
                batch["grids"][row, first + f] = grid[-1] + 1
            views["positions"][f, :count, 0] = f
            views["positions"][f, :count, 1:] = grid
            views["token_mask"][f, :count] = True
            if self.weighted:
                views["weights"][f, :count, 0] = self._weights(item.bundle, f)

    def _weights(self, bundle: Encoded, frame: int) -> np.ndarray | float:
        """What the tokens of a frame count in the loss, (n,) or all alike."""
        if bundle.mask is None or frame >= bundle.masked:
            return bundle.weight
        mask = bundle.mask[..., None].astype(np.float32) / 255
        tokens = np.empty((mask.size // self.patch**2, self.patch**2), np.float32)
        write_tokens(mask, self.patch, tokens)
        return bundle.weight * tokens.mean(-1)

    def _text(self, placed: list[Placed | None]) -> tuple[np.ndarray, np.ndarray]:
        """Text (n, l, d) and mask (n, l); one that was shortened is encoded anew."""
        known = [p.bundle.text if p and p.prompt == p.bundle.prompt else None for p in placed]
        prompts = [p.prompt if p and k is None else "" for p, k in zip(placed, known, strict=True)]
        text, mask = self.text_encoder(prompts)
        for slot, embedding in enumerate(known):
            if embedding is not None:
                text[slot], mask[slot] = 0, False
                text[slot, : len(embedding)], mask[slot, : len(embedding)] = embedding, True
        return text, mask

    def unpack(self, tokens: np.ndarray, slot: int, shapes: list[tuple[int, int]]) -> list:
        """Frames (h, w, c) of one slot of a row's tokens (c, t, p); shapes are (h, w) latents."""
        chunks = slice(self._first_chunk[slot], self._first_chunk[slot + 1])
        size = self.layout.slots[slot]
        frames = tokens[chunks].reshape(size.frames, size.tokens, -1)
        return [frame_of(frames[f], h, w, self.patch) for f, (h, w) in enumerate(shapes)]


def write_tokens(frame: np.ndarray, patch: int, tokens: np.ndarray) -> None:
    """A frame (h, w, c) into tokens (n, patch²·c), row-major."""
    h, w, c = frame.shape
    rows, columns = h // patch, w // patch
    patches = frame.reshape(rows, patch, columns, patch, c).swapaxes(1, 2)
    tokens.reshape(rows, columns, patch, patch, c)[...] = patches


@functools.lru_cache(maxsize=256)
def _grid(rows: int, columns: int) -> np.ndarray:
    """(row, column) of every token, (n, 2); not to be changed."""
    return np.indices((rows, columns)).reshape(2, -1).T


def frame_of(tokens: np.ndarray, height: int, width: int, patch: int) -> np.ndarray:
    """A frame from its tokens; padding at the end is dropped. Sizes are in latents."""
    rows, columns = height // patch, width // patch
    x = tokens[: rows * columns].reshape(rows, columns, patch, patch, -1)
    return x.swapaxes(1, 2).reshape(height, width, -1)
