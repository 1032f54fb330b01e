"""How much of the slots of a row the data fills: the rest is padding, computed for nothing."""

import dataclasses

from onediff_jax.data.layout import Slot
from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.experiment.build import Experiment
from onediff_jax.tasks.definitions import Task

_UNIT = 16  # pixels per token side


@dataclasses.dataclass(frozen=True)
class SlotUse:
    """What the examples of a task group fill of the slots they go into.

    Attributes:
      group: the task group.
      slots: the slots of a row that are the group's.
      used: tokens of an average example.
      frames, tokens: of the largest example: frames, and tokens of its largest frame.
    """

    group: str
    slots: tuple[Slot, ...]
    used: float
    frames: int
    tokens: int

    @property
    def room(self) -> int:
        """Tokens of all its slots."""
        return sum(slot.frames * slot.tokens for slot in self.slots)

    @property
    def share(self) -> float:
        """Used tokens of those of the slots, 0..1."""
        return min(1.0, len(self.slots) * self.used / self.room)

    @property
    def fitting(self) -> tuple[str, int, int, int]:
        """The entry of config.rows that holds the same and no more."""
        return (self.group, len(self.slots), self.frames, self.tokens)


def slot_use(experiment: Experiment) -> tuple[SlotUse, ...]:
    """Per tray of the rows (task group, see RowLayout); where the number of frames varies, its
    middle counts."""
    found: dict[str, list] = {}
    for slot in experiment.layout.slots:
        found.setdefault(experiment.layout.tray(slot), []).append(slot)
    return tuple(_of_tray(experiment, tray, tuple(slots)) for tray, slots in found.items())


def total_share(uses: tuple[SlotUse, ...]) -> float:
    """Used tokens of those of a row, 0..1."""
    return sum(use.share * use.room for use in uses) / sum(use.room for use in uses)


def padding_lines(uses: tuple[SlotUse, ...]) -> list[str]:
    """What the start of a run says: the share, and above half of padding what would fit."""
    total = total_share(uses)
    parts = ", ".join(f"{use.group} {use.share:.0%}" for use in uses)
    lines = [f"the data fills about {total:.0%} of the slots of a row ({parts})"]
    if total < 0.5:
        rows = tuple(use.fitting for use in uses if use.used)
        lines.append(
            f"warning: {1 - total:.0%} of every step is padding; --config.rows={str(rows)!r} holds "
            "the same examples"
        )
    return lines


def _of_tray(experiment: Experiment, tray: str, slots: tuple[Slot, ...]) -> SlotUse:
    layout, group = experiment.layout, slots[0].group
    weights = {
        name: weight
        for name, weight in experiment.config.data.tasks.items()
        if weight and layout.tray(experiment.slots(name)[0]) == tray
    }
    room = max(slot.frames for slot in slots)
    used, frames, tokens = 0.0, 1, 1
    for name, weight in weights.items():
        task = experiment.tasks.task(name)
        if experiment.prepared is None:
            counts = {
                (h * w // _UNIT**2, (task.min_frames, task.max_frames)): 1.0
                for h, w in experiment.sizes[group]
            }
        else:
            counts = _stored(experiment.prepared.folders, task)
        share = weight / sum(weights.values()) / sum(counts.values())
        for (each, (low, high)), count in counts.items():
            low, high = min(low, room), min(high, room)
            used += share * count * each * (low + high) / 2
            frames, tokens = max(frames, high), max(tokens, each)
    return SlotUse(group, slots, used, frames, tokens)


def _stored(folders: tuple[tuple[PreparedFolder, float], ...], task: Task) -> dict:
    """(tokens per frame, (fewest, most frames)) → weight, of the training examples of a task."""
    counts: dict = {}
    per_picture = 2 if "ray" in task.frames else 1
    for folder, weight in folders:
        files = [
            f
            for f in folder.manifest["files"]
            if f["task"] == task.name and f["split"] == "train" and f["records"]
        ]
        total = sum(file["records"] for file in files)
        for file in files:
            frames = tuple(per_picture * number for number in file["frames"])
            for size, count in file["sizes"].items():
                height, width = map(int, size.split("x"))
                key = (height * width // _UNIT**2, frames)
                counts[key] = counts.get(key, 0.0) + weight * count / total
    return {key: count for key, count in counts.items() if count}
