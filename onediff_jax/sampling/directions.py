"""What a direction needs and gives, in words for people: for menus, lists and checks of input."""

import dataclasses

from onediff_jax.experiment.build import Experiment
from onediff_jax.tasks.definitions import Direction, Task
from onediff_jax.tasks.roles import get_role


@dataclasses.dataclass(frozen=True)
class Asking:
    """One direction of a trained model.

    Attributes:
      name, task: the direction and its task; the prompt carries the task's [[token]].
      given, generated: roles of the frames in the shortest example, in their order.
      most: pictures that may be given; more than `given` where frames repeat.
      needs_prompt: whether it makes no sense without a prompt.
      regions, item, sources, cameras: what else it takes.
      derived: whether an ordinary picture is enough to make what is given, and needs_mask: with a
        mask of what is to be hidden.
      trained: whether the model was trained on it.
    """

    name: str
    task: str
    given: tuple[str, ...]
    generated: tuple[str, ...]
    most: int
    needs_prompt: bool
    regions: bool
    item: bool
    sources: bool
    cameras: bool
    derived: bool
    needs_mask: bool
    trained: bool

    def __str__(self) -> str:
        def titles(roles):
            names = list(dict.fromkeys(get_role(role).title for role in roles))
            return ", ".join(names) or "words alone"

        return f"{self.name}: {titles(self.given)} → {titles(self.generated)}"


def directions_of(experiment: Experiment) -> dict[str, Asking]:
    """Every direction by its name, those that were trained first."""
    trained = {name for name, weight in experiment.config.data.tasks.items() if weight}
    found = [_asking(t, d, trained=t.name in trained) for t, d in experiment.tasks.directions()]
    return {asking.name: asking for asking in sorted(found, key=lambda a: not a.trained)}


def _asking(task: Task, direction: Direction, *, trained: bool) -> Asking:
    mask = task.denoise_mask(direction.name, task.min_frames)
    roles = list(zip(task.roles(task.min_frames), mask, strict=True))
    given = tuple(role for role, wanted in roles if not wanted)
    pictures = [get_role(role) for role in given if role != "ray"]
    more = (task.max_frames - task.min_frames) // task.per_picture if pictures else 0
    return Asking(
        direction.name,
        task.name,
        given,
        tuple(role for role, wanted in roles if wanted),
        most=len(pictures) + more,
        needs_prompt=task.needs_prompt(direction.name),
        regions=task.region_word is not None,
        item=task.item,
        sources=task.group == "identity",
        cameras="ray" in given,
        derived=bool(pictures) and all(role.derived for role in pictures),
        needs_mask=any(role.needs_mask for role in pictures),
        trained=trained,
    )
