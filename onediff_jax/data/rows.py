"""Packing encoded bundles into rows of slots: numpy arrays of static shape."""

import dataclasses

import numpy as np

from onediff_jax.data.bundle import Encoded
from onediff_jax.models.layout import RowLayout
from onediff_jax.models.text_hash import HashedTextEncoder
from onediff_jax.tasks.definitions import TASKS

TASK_NAMES = tuple(TASKS)


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

    A row is a dict of arrays (r rows are stacked by the caller): tokens (c, t, p) float32,
    positions (c, t, 3) int32, token_mask (c, t) bool, generate (f,) bool, clean (s,) bool,
    task (s,) int32, text (s, l, d) float32, text_mask (s, l) bool.
    """

    def __init__(self, layout: RowLayout, text_encoder: HashedTextEncoder, patch: int = 2):
        self.layout, self.text_encoder, self.patch = layout, text_encoder, patch
        per_slot = [slot.frames * slot.tokens // layout.chunk for slot in layout.slots]
        self._first_chunk = np.concatenate([[0], np.cumsum(per_slot)])
        self._first_frame = np.concatenate([[0], np.cumsum([s.frames for s in layout.slots])])

    def __call__(self, placed: list[Placed | None]) -> dict[str, np.ndarray]:
        """Packs one row; None leaves a slot empty, all padding.

        Raises ValueError when a bundle does not fit its slot, naming both.
        """
        layout, slots = self.layout, self.layout.slots
        if len(placed) != len(slots):
            raise ValueError(f"{len(placed)} bundles for {len(slots)} slots")
        present = [p for p in placed if p is not None]
        token_dim = self.patch**2 * present[0].bundle.frames[0].shape[-1]
        grid = (layout.chunks, layout.chunk)
        row = {
            "tokens": np.zeros((*grid, token_dim), np.float32),
            "positions": np.zeros((*grid, 3), np.int32),
            "token_mask": np.zeros(grid, bool),
            "generate": np.zeros(layout.frames, bool),
            "clean": np.array([p is not None and p.clean for p in placed]),
            "task": np.array(
                [TASK_NAMES.index(p.bundle.task) if p else 0 for p in placed], np.int32
            ),
        }
        row["text"], row["text_mask"] = self._text(placed)
        for index, (slot, item) in enumerate(zip(slots, placed, strict=True)):
            if item is None:
                continue
            frames = item.bundle.frames
            if len(frames) > slot.frames:
                raise ValueError(f"{item.bundle.task} bundle of {len(frames)} frames: {slot}")
            first = self._first_frame[index]
            row["generate"][first : first + len(frames)] = item.generate
            chunks = slice(self._first_chunk[index], self._first_chunk[index + 1])
            views = {
                name: row[name][chunks].reshape(slot.frames, slot.tokens, -1)
                for name in ("tokens", "positions", "token_mask")
            }
            for f, frame in enumerate(frames):
                tokens, positions = tokens_of(frame, self.patch)
                if len(tokens) > slot.tokens:
                    raise ValueError(f"{item.bundle.task} frame of {len(tokens)} tokens: {slot}")
                views["tokens"][f, : len(tokens)] = tokens
                views["positions"][f, : len(tokens), 0] = f
                views["positions"][f, : len(tokens), 1:] = positions
                views["token_mask"][f, : len(tokens)] = True
        return row

    def _text(self, placed: list[Placed | None]) -> tuple[np.ndarray, np.ndarray]:
        """Text (s, l, d) and mask (s, l); a prompt that was dropped is the empty one."""
        known = [p.bundle.text if p and p.prompt else None for p in placed]
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


def tokens_of(frame: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame (h, w, c) → tokens (n, patch²·c), row-major, and their (row, column) (n, 2)."""
    h, w, c = frame.shape
    rows, columns = h // patch, w // patch
    tokens = frame.reshape(rows, patch, columns, patch, c).swapaxes(1, 2)
    grid = np.indices((rows, columns)).reshape(2, -1).T
    return tokens.reshape(rows * columns, patch * patch * c), grid


def frame_of(tokens: np.ndarray, height: int, width: int, patch: int) -> np.ndarray:
    """The inverse of `tokens_of`; padding at the end is dropped. Sizes are in latents."""
    rows, columns = height // patch, width // patch
    x = tokens[: rows * columns].reshape(rows, columns, patch, patch, -1)
    return x.swapaxes(1, 2).reshape(height, width, -1)
