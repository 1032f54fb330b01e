"""How frames lie in a row: the static side of a batch.

A row is a tray of slots; a slot is (frames × tokens per frame) and takes one bundle. The tokens of
a row are kept in chunks, (rows, chunks, tokens per chunk, width), where a chunk never crosses a
frame: what belongs to a frame (noise level, adaLN) is then one vector per chunk and broadcasts.
"""

import dataclasses
import functools
import math

import numpy as np

MAX_CHUNK = 256  # the lane-friendly size at full scale; smaller frames give smaller chunks


@dataclasses.dataclass(frozen=True)
class Slot:
    """Room for one bundle: `frames` frames of `tokens` tokens each, for tasks of `group`."""

    group: str
    frames: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Run:
    """Adjacent slots of one shape, attended together: chunks [start, stop) hold `count` slots."""

    slot: int
    count: int
    start: int
    stop: int
    tokens: int  # per slot


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """The slots of a row, in order, and everything that follows from them."""

    slots: tuple[Slot, ...]

    def __post_init__(self):
        if not self.slots:
            raise ValueError("a row needs at least one slot")
        for slot in self.slots:
            if slot.frames <= 0 or slot.tokens <= 0:
                raise ValueError(f"{slot} must have positive frames and tokens")

    def tray(self, slot: Slot) -> str:
        """The name of what the slot is filled from: its group; where the slots of "i2i" differ in
        frames, also their number, as those tasks have bundles of one length each."""
        lengths = {other.frames for other in self.slots if other.group == slot.group}
        if slot.group != "i2i" or len(lengths) == 1:
            return slot.group
        return f"{slot.group} of {slot.frames} frames"

    def slots_for(self, group: str, frames: int) -> tuple[Slot, ...]:
        """The slots that bundles of a group with up to `frames` frames go into.

        They are all of the group's; of "i2i" those of the smallest number of frames that is
        enough, else of the largest.
        """
        found = [slot for slot in self.slots if slot.group == group]
        if group == "i2i" and found:
            enough = [slot.frames for slot in found if slot.frames >= frames]
            length = min(enough) if enough else max(slot.frames for slot in found)
            found = [slot for slot in found if slot.frames == length]
        return tuple(found)

    @functools.cached_property
    def chunk(self) -> int:
        """Tokens per chunk: the largest common divisor of the frames' sizes up to 256."""
        common = math.gcd(*(slot.tokens for slot in self.slots))
        if len(self.slots) == 1:
            return common
        return next(n for n in range(min(common, MAX_CHUNK), 0, -1) if common % n == 0)

    @functools.cached_property
    def chunk_frame(self) -> np.ndarray:
        """(chunks,) the frame, counted through the row, that each chunk belongs to."""
        per_frame = [slot.tokens // self.chunk for slot in self.slots for _ in range(slot.frames)]
        return np.repeat(np.arange(len(per_frame)), per_frame)

    @functools.cached_property
    def frame_slot(self) -> np.ndarray:
        """(frames,) the slot that each frame belongs to."""
        return np.repeat(np.arange(len(self.slots)), [slot.frames for slot in self.slots])

    @functools.cached_property
    def chunk_slot(self) -> np.ndarray:
        """(chunks,) the slot that each chunk belongs to."""
        return self.frame_slot[self.chunk_frame]

    @property
    def frames(self) -> int:
        """Frames per row."""
        return len(self.frame_slot)

    @property
    def chunks(self) -> int:
        """Chunks per row."""
        return len(self.chunk_frame)

    @property
    def tokens(self) -> int:
        """Tokens per row."""
        return self.chunks * self.chunk

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """Adjacent slots of one shape, merged, so that each shape costs one attention call."""
        runs: list[Run] = []
        start = 0
        previous = None
        for index, slot in enumerate(self.slots):
            stop = start + slot.frames * slot.tokens // self.chunk
            shape = (slot.frames, slot.tokens)
            if shape == previous:
                last = runs[-1]
                runs[-1] = dataclasses.replace(last, count=last.count + 1, stop=stop)
            else:
                runs.append(Run(index, 1, start, stop, slot.frames * slot.tokens))
            start, previous = stop, shape
        return tuple(runs)
