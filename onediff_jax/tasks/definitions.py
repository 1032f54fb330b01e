"""The tasks: the frames each one holds and which of them each direction generates.

A bundle's frames come in order, the target first. The same bundle serves every direction of its
task: what is generated starts as noise, what is known stays clean (arXiv 2411.16318, section 3).
"""

import dataclasses
from collections.abc import Iterable, Sequence

GROUPS = ("t2i", "i2i", "identity", "multiview")

# What a direction may generate: rule -> (frame index, frame role) -> generated?
_RULES = {
    "all": lambda index, role: True,
    "first": lambda index, role: index == 0,
    "rest": lambda index, role: index > 0,
    "images": lambda index, role: role == "image",
    "images but the first": lambda index, role: role == "image" and index > 0,
    "rays": lambda index, role: role == "ray",
}


@dataclasses.dataclass(frozen=True)
class Direction:
    """One way to use a task: `generate` says which frames start as noise (see _RULES)."""

    name: str
    generate: str


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      name: the key in TASKS, equal to the token's word.
      group: "t2i", "i2i", "identity" or "multiview"; batches hold the groups in fixed proportion.
      frames: roles of the frames, target first; the pattern repeats up to the bundle's length.
      min_frames, max_frames: the lengths a training bundle may have. Sampling may go beyond
        max_frames where the pattern repeats (min_frames < max_frames).
      directions: the ways to use the task; the first one is the default.
    """

    name: str
    group: str
    frames: tuple[str, ...]
    min_frames: int
    max_frames: int
    directions: tuple[Direction, ...]

    @property
    def token(self) -> str:
        return f"[[{self.name}]]"

    def roles(self, num_frames: int) -> tuple[str, ...]:
        """The role of every frame of a bundle of that length.

        Raises:
          ValueError: the task has no bundles of that length.
        """
        fixed = self.min_frames == self.max_frames
        if fixed and num_frames != self.min_frames:
            raise ValueError(f"{num_frames=}: {self.name} has exactly {self.min_frames}")
        if num_frames < self.min_frames or num_frames % len(self.frames):
            raise ValueError(
                f"{num_frames=}: {self.name} needs {self.min_frames} or more, "
                f"a multiple of {len(self.frames)} {self.frames}"
            )
        return self.frames * (num_frames // len(self.frames))

    def denoise_mask(self, direction: str, num_frames: int) -> tuple[int, ...]:
        """Per frame: 1 = generated, 0 = known.

        Raises:
          ValueError: an unknown direction, or a length the task does not have.
        """
        rules = {d.name: d.generate for d in self.directions}
        if direction not in rules:
            raise ValueError(f"unknown {direction=} of {self.name}; choose from {list(rules)}")
        rule = _RULES[rules[direction]]
        return tuple(int(rule(i, role)) for i, role in enumerate(self.roles(num_frames)))


def _i2i(name: str, condition: str, reverse: str | None = None) -> Task:
    directions = (Direction(name, "first"),)
    if reverse:
        directions += (Direction(reverse, "rest"),)
    return Task(name, "i2i", ("image", condition), 2, 2, directions)


def _identity(name: str) -> Task:
    return Task(name, "identity", ("image",), 2, 5, (Direction(name, "first"),))


TASKS: dict[str, Task] = {
    "text2image": Task("text2image", "t2i", ("image",), 1, 1, (Direction("text2image", "all"),)),
    "deblurring": _i2i("deblurring", "blurred"),
    "image_inpainting": _i2i("image_inpainting", "masked"),
    "super_resolution": _i2i("super_resolution", "low_resolution"),
    "canny2image": _i2i("canny2image", "canny", "image2canny"),
    "depth2image": _i2i("depth2image", "depth", "image2depth"),
    "hed2img": _i2i("hed2img", "hed", "image2hed"),
    "pose2image": _i2i("pose2image", "pose", "image2pose"),
    "semanticmap2image": _i2i("semanticmap2image", "semanticmap", "image2semanticmap"),
    "boundingbox2image": _i2i("boundingbox2image", "boundingbox", "image2boundingbox"),
    "image_editing": _i2i("image_editing", "source"),
    "faceid": _identity("faceid"),
    "subject_driven": _identity("subject_driven"),
    # Frames: image 0, ray 0, image 1, ray 1, …; the paper trains on 4 to 12.
    "multiview": Task(
        "multiview",
        "multiview",
        ("image", "ray"),
        4,
        12,
        (
            Direction("multiview", "images but the first"),
            Direction("text2multiview", "images"),
            Direction("image2camera", "rays"),
        ),
    ),
}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
      ValueError: an unknown name; lists the choices.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {list(TASKS)}")
    return TASKS[name]


def all_directions() -> list[tuple[Task, Direction]]:
    """Every (task, direction), in the order of TASKS."""
    return [(task, direction) for task in TASKS.values() for direction in task.directions]


def find_direction(name: str) -> tuple[Task, Direction]:
    """The task and direction that a direction's name stands for, e.g. "image2depth".

    The default direction of a task has the task's name.

    Raises:
      ValueError: an unknown name; lists the choices.
    """
    for task, direction in all_directions():
        if direction.name == name:
            return task, direction
    choices = [direction.name for _, direction in all_directions()]
    raise ValueError(f"unknown task or direction {name!r}; choose from {choices}")


def mask_generating(generate: Iterable[int], num_frames: int) -> tuple[int, ...]:
    """The denoise mask (1 = generated) of an explicit choice of frames, counted from 0.

    Raises:
      ValueError: no frames, or frames outside 0…num_frames-1.
    """
    chosen: Sequence[int] = sorted(set(generate))
    if not chosen or chosen[0] < 0 or chosen[-1] >= num_frames:
        raise ValueError(f"generate={list(chosen)} must name frames among 0…{num_frames - 1}")
    return tuple(int(i in chosen) for i in range(num_frames))
