"""The tasks: the frames each one holds and which of them each direction generates.

A bundle's frames come in order, the target first. The same bundle serves every direction of its
task: what is generated starts as noise, what is known stays clean (arXiv 2411.16318, section 3).
The built-in tasks are BUILT_IN; tasks of one's own are data beside them, see own.py and TaskSet.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onediff_jax.tasks.roles import get_role

GROUPS = ("t2i", "i2i", "identity", "multiview")

# What a direction may generate: rule -> (frame index, frame role) -> generated?
RULES = {
    "all": lambda index, role: True,
    "first": lambda index, role: index == 0,
    "rest": lambda index, role: index > 0,
    "images": lambda index, role: role == "image",
    "images but the first": lambda index, role: role == "image" and index > 0,
    "rays": lambda index, role: role == "ray",
}


@dataclasses.dataclass(frozen=True)
class Direction:
    """One way to use a task.

    Attributes:
      name: what --task calls it; the first direction of a built-in task has the task's name.
      generate: which frames start as noise: one of RULES, or the roles of those frames.
      measure: how the generated frames are compared with the truth; "": as their roles and those
        of the given frames say.
    """

    name: str
    generate: str | tuple[str, ...]
    measure: str = ""

    def generates(self, index: int, role: str) -> bool:
        """Whether it generates the frame of that index and role."""
        if isinstance(self.generate, tuple):
            return role in self.generate
        return RULES[self.generate](index, role)


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      name: its key in a TaskSet, equal to the token's word.
      group: "t2i", "i2i", "identity" or "multiview"; batches hold the groups in fixed proportion.
      frames: roles of the frames of the shortest bundle, target first.
      min_frames, max_frames: the lengths a training bundle may have. Sampling may go beyond
        max_frames where frames repeat (min_frames < max_frames).
      directions: the ways to use the task; the first one is the default.
      repeats: how many of the last roles repeat in longer bundles.
      item: whether the prompt names what the subject is.
    """

    name: str
    group: str
    frames: tuple[str, ...]
    min_frames: int
    max_frames: int
    directions: tuple[Direction, ...]
    repeats: int = 0
    item: bool = False

    @property
    def token(self) -> str:
        return f"[[{self.name}]]"

    @property
    def rays(self) -> bool:
        """Whether every picture has a ray map beside it."""
        return "ray" in self.frames

    @property
    def per_picture(self) -> int:
        """Frames per picture: 2 where each has a ray map."""
        return 2 if self.rays else 1

    @property
    def loses_frames(self) -> bool:
        """Whether an example stays true when pictures but the first are left out."""
        return self.group in ("identity", "multiview")

    @property
    def instructs(self) -> bool:
        """Whether the prompt is an instruction, without which the task makes no sense."""
        return any(get_role(name).instructs for name in self.frames)

    @property
    def region_word(self) -> str | None:
        """What follows the colour in the prompt's regions; None where it has none."""
        words = [get_role(name).region_word for name in self.frames]
        return next(filter(None, words), None)

    def roles(self, num_frames: int) -> tuple[str, ...]:
        """The role of every frame of a bundle of that length.

        Raises:
          ValueError: the task has no bundles of that length.
        """
        fixed = self.min_frames == self.max_frames
        if fixed and num_frames != self.min_frames:
            raise ValueError(f"{num_frames=}: {self.name} has exactly {self.min_frames}")
        more = num_frames - len(self.frames)
        if num_frames < self.min_frames or (more and more % self.repeats):
            raise ValueError(
                f"{num_frames=}: {self.name} needs {self.min_frames} or more, "
                f"a multiple of {self.repeats} {self.frames[-self.repeats :]}"
            )
        return self.frames + self.frames[-self.repeats :] * (more // max(self.repeats, 1))

    def picture_roles(self, num_pictures: int) -> tuple[str, ...]:
        """The roles of the pictures alone, without the ray maps that follow from cameras.

        Raises:
          ValueError: the task has no bundles of that length.
        """
        roles = self.roles(num_pictures * self.per_picture)
        return tuple(role for role in roles if role != "ray")

    def direction(self, name: str) -> Direction:
        """The direction of that name.

        Raises:
          ValueError: an unknown one; lists the choices.
        """
        found = {direction.name: direction for direction in self.directions}
        if name not in found:
            raise ValueError(
                f"unknown direction={name!r} of {self.name}; choose from {list(found)}"
            )
        return found[name]

    def denoise_mask(self, direction: str, num_frames: int) -> tuple[int, ...]:
        """Per frame: 1 = generated, 0 = known.

        Raises:
          ValueError: an unknown direction, or a length the task does not have.
        """
        chosen = self.direction(direction)
        return tuple(int(chosen.generates(i, r)) for i, r in enumerate(self.roles(num_frames)))

    def needs_prompt(self, direction: str) -> bool:
        """Whether a direction without a prompt makes no sense: nothing but rays tells what to
        make, or the prompt is the instruction."""
        roles, mask = self.frames, self.denoise_mask(direction, self.min_frames)
        if "ray" in roles and all(mask[i] for i, role in enumerate(roles) if role != "ray"):
            return True
        return all(mask) or self.instructs

    def measures(self, direction: str) -> tuple[tuple[str, int], ...]:
        """How a direction is measured: names of measures, each with the frame it looks at.

        A generated map is measured as its role says, a generated picture as the roles say that it
        was made from; without any, by what the prompt names.
        """
        chosen = self.direction(direction)
        mask = self.denoise_mask(direction, self.min_frames)
        if chosen.measure:
            return ((chosen.measure, mask.index(1)),)
        given = [get_role(r) for r, wanted in zip(self.frames, mask, strict=False) if not wanted]
        from_given = dict.fromkeys(name for role in given for name in role.given_measures)
        found: dict[tuple[str, int], None] = {}
        for index, (name, wanted) in enumerate(zip(self.frames, mask, strict=False)):
            if not wanted:
                continue
            measure = get_role(name).measure
            if measure == "picture" and name == "image":
                found |= dict.fromkeys((m, index) for m in from_given or ["colours"])
            else:
                found[measure, index] = None
        return tuple(found)


def _i2i(name: str, condition: str, reverse: str | None = None) -> Task:
    directions = (Direction(name, "first"),)
    if reverse:
        directions += (Direction(reverse, "rest"),)
    return Task(name, "i2i", ("image", condition), 2, 2, directions)


def _identity(name: str, measure: str, *, item: bool = False) -> Task:
    directions = (Direction(name, "first", measure),)
    return Task(name, "identity", ("image", "image"), 2, 5, directions, repeats=1, item=item)


_BUILT_IN = (
    Task("text2image", "t2i", ("image",), 1, 1, (Direction("text2image", "all"),)),
    _i2i("deblurring", "blurred"),
    _i2i("image_inpainting", "masked"),
    _i2i("super_resolution", "low_resolution"),
    _i2i("canny2image", "canny", "image2canny"),
    _i2i("depth2image", "depth", "image2depth"),
    _i2i("hed2img", "hed", "image2hed"),
    _i2i("pose2image", "pose", "image2pose"),
    _i2i("semanticmap2image", "semanticmap", "image2semanticmap"),
    _i2i("boundingbox2image", "boundingbox", "image2boundingbox"),
    # One source or several, which the instruction speaks of in their order.
    dataclasses.replace(_i2i("image_editing", "source"), max_frames=5, repeats=1),
    _identity("faceid", "person"),
    _identity("subject_driven", "subject", item=True),
    # Frames: image 0, ray 0, image 1, ray 1, …; the paper trains on 4 to 12.
    Task(
        "multiview",
        "multiview",
        ("image", "ray", "image", "ray"),
        4,
        12,
        (
            Direction("multiview", "images but the first", "views"),
            Direction("text2multiview", "images", "colours"),
            Direction("image2camera", "rays", "cameras"),
        ),
        repeats=2,
    ),
)


class TaskSet(Mapping[str, Task]):
    """Tasks by name: the built-in ones, then those of one's own, in the order of their names.

    Args:
      own: the tasks of one's own.

    Raises:
      ValueError: a name of a task or direction that exists already.
    """

    def __init__(self, own: Iterable[Task] = ()):
        self.own: tuple[Task, ...] = tuple(sorted(own, key=lambda task: task.name))
        self._tasks: dict[str, Task] = {}
        self._directions: dict[str, tuple[Task, Direction]] = {}
        for task in (*_BUILT_IN, *self.own):
            if task.name in self._tasks:
                raise ValueError(f"task {task.name!r} exists already; choose another name")
            self._tasks[task.name] = task
        for task in self._tasks.values():
            for direction in task.directions:
                if direction.name in self._directions:
                    other = self._directions[direction.name][0].name
                    raise ValueError(
                        f"direction {direction.name!r} of task {task.name!r} exists already, of "
                        f"task {other!r}; choose another name"
                    )
                self._directions[direction.name] = (task, direction)

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskSet) and self.own == other.own

    def __hash__(self) -> int:
        return hash(self.own)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tasks; a task's place among them is its number in rows and sums."""
        return tuple(self._tasks)

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
          ValueError: an unknown name; lists the choices.
        """
        if name not in self._tasks:
            raise ValueError(f"unknown task {name!r}; choose from {list(self._tasks)}")
        return self._tasks[name]

    def directions(self) -> list[tuple[Task, Direction]]:
        """Every (task, direction), in the order of the tasks."""
        return list(self._directions.values())

    def perceives(self, direction: str) -> bool:
        """Whether a direction generates what a picture tells (maps, cameras), and no picture."""
        task, chosen = self.find_direction(direction)
        made = [r for i, r in enumerate(task.frames) if chosen.generates(i, r)]
        return all(get_role(role).measure != "picture" for role in made)

    def find_direction(self, name: str) -> tuple[Task, Direction]:
        """The task and direction that a direction's name stands for, e.g. "image2depth".

        Raises:
          ValueError: an unknown name; lists the choices.
        """
        if name not in self._directions:
            choices = list(self._directions)
            raise ValueError(f"unknown task or direction {name!r}; choose from {choices}")
        return self._directions[name]


BUILT_IN = TaskSet()
TASKS: Mapping[str, Task] = BUILT_IN


def get_task(name: str) -> Task:
    """The built-in task of that name.

    Raises:
      ValueError: an unknown name; lists the choices.
    """
    return BUILT_IN.task(name)


def all_directions() -> list[tuple[Task, Direction]]:
    """Every built-in (task, direction), in the order of TASKS."""
    return BUILT_IN.directions()


def find_direction(name: str) -> tuple[Task, Direction]:
    """The built-in task and direction that a direction's name stands for, e.g. "image2depth".

    Raises:
      ValueError: an unknown name; lists the choices.
    """
    return BUILT_IN.find_direction(name)


def mask_generating(generate: Iterable[int], num_frames: int) -> tuple[int, ...]:
    """The denoise mask (1 = generated) of an explicit choice of frames, counted from 0.

    Raises:
      ValueError: no frames, or frames outside 0…num_frames-1.
    """
    chosen: Sequence[int] = sorted(set(generate))
    if not chosen or chosen[0] < 0 or chosen[-1] >= num_frames:
        raise ValueError(f"generate={list(chosen)} must name frames among 0…{num_frames - 1}")
    return tuple(int(i in chosen) for i in range(num_frames))
