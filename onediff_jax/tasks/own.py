"""Tasks of one's own: read from JSON, written as JSON, checked so that a mistake is named.

    {"normal2image": {"frames": ["image", "normal"],
                      "directions": {"normal2image": "first", "image2normal": "rest"}}}

Frames are roles, the target first; known roles (tasks.roles.ROLES) are derived, annotated, shown
and measured as always, any other word is a plain picture. A direction generates "first", "rest",
"all", or the frames of the roles it lists.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onediff_jax.tasks.definitions import BUILT_IN, Direction, Task, TaskSet
from onediff_jax.tasks.roles import ROLES, get_role

MAX_FRAMES = 4
CHOICES = ("first", "rest", "all")
_WORD = re.compile(r"[A-Za-z0-9_]+")
_PARTS = {"frames", "directions"}
# Fields of a table that mean something else already.
_TAKEN = ("caption", "captions", "text", "prompt", "item", "regions", "group", "key", "id")


def load_own_tasks(path: str | Path) -> TaskSet:
    """The built-in tasks and those of a JSON file.

    Raises:
      ValueError: no such file, no JSON, or definitions that cannot be; the message says what to
        change.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"own tasks {path}: cannot be read: {error}") from None
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"own tasks {path}: no JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"own tasks {path}: {error}") from None
    return own_tasks(values, f"own tasks {path}")


def own_tasks(definitions: Mapping[str, Any], where: str = "own tasks") -> TaskSet:
    """The built-in tasks and those that are defined.

    Args:
      definitions: name → {"frames": […], "directions": {…}}, as in the file.
      where: what a message starts with.

    Raises:
      ValueError: definitions that cannot be; the message says what to change.
    """
    if not isinstance(definitions, Mapping):
        raise ValueError(f"{where}: must be an object of tasks by name, got {definitions!r}")
    try:
        return TaskSet(_task(name, value) for name, value in definitions.items())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def definitions_of(tasks: TaskSet) -> dict[str, Any]:
    """What `own_tasks` makes the set of again, as JSON values."""
    return {
        task.name: {
            "frames": list(task.frames),
            "directions": {
                d.name: d.generate if isinstance(d.generate, str) else list(d.generate)
                for d in task.directions
            },
        }
        for task in tasks.own
    }


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON would silently keep the last of two equal names."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} stands twice in one object; choose another name")
    return dict(pairs)


def _task(name: str, value: Any) -> Task:
    _check_word(name, "a task's name, which is its token [[…]],")
    if name in BUILT_IN:
        raise ValueError(f"task {name!r} exists already; choose another name")
    if not isinstance(value, Mapping) or set(value) != _PARTS:
        raise ValueError(f"task {name!r} must have exactly {sorted(_PARTS)}, got {value!r}")
    frames = _frames(name, value["frames"])
    given = value["directions"]
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"task {name!r}: directions must name one or more, got {given!r}")
    directions = tuple(_direction(name, frames, key, rule) for key, rule in given.items())
    return Task(name, "i2i", frames, len(frames), len(frames), directions)


def _frames(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(role, str) for role in value):
        raise ValueError(f"task {name!r}: frames must be a list of roles, got {value!r}")
    frames = tuple(value)
    for role in frames:
        _check_word(role, f"task {name!r}: a role")
        if role in _TAKEN:
            raise ValueError(f"task {name!r}: no role may be called one of {list(_TAKEN)}: {role}")
    if not 2 <= len(frames) <= MAX_FRAMES or frames[0] != "image":
        raise ValueError(
            f"task {name!r}: frames must be 'image', the target, and 1 to {MAX_FRAMES - 1} other "
            f"roles, got {list(frames)}"
        )
    if twice := [role for role in frames if frames.count(role) > 1]:
        raise ValueError(
            f"task {name!r}: role {twice[0]!r} stands twice in frames; a role has one file per "
            "example, so call further pictures by other names, such as before and after"
        )
    if "ray" in frames:
        raise ValueError(f"task {name!r}: rays need cameras, which the task multiview has alone")
    words = [role for role in frames if get_role(role).region_word]
    if len(words) > 1:
        raise ValueError(
            f"task {name!r}: {words} cannot be together: the prompt's regions would belong to both"
        )
    return frames


def _direction(task: str, frames: tuple[str, ...], name: str, rule: Any) -> Direction:
    _check_word(name, f"task {task!r}: a direction's name")
    where = f"task {task!r}: direction {name!r}"
    if isinstance(rule, str) and rule in frames:
        rule = [rule]
    if isinstance(rule, list | tuple):
        if unknown := [role for role in rule if role not in frames]:
            raise ValueError(f"{where} names {unknown[0]!r}; its frames are {list(frames)}")
        if not rule:
            raise ValueError(f"{where} generates nothing; name one or more of {list(frames)}")
        return Direction(name, tuple(rule))
    if rule not in CHOICES:
        raise ValueError(
            f"{where} generates nothing: {rule!r} must be one of {list(CHOICES)}, or roles among "
            f"{list(frames)}"
        )
    return Direction(name, rule)


def _check_word(text: Any, what: str) -> None:
    if not isinstance(text, str) or not _WORD.fullmatch(text):
        raise ValueError(f"{what} must be one word of letters, digits and _, got {text!r}")


def merged(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The definitions of several folders together.

    Args:
      parts: where they are from → definitions.

    Raises:
      ValueError: one name that is defined in two ways, naming both places.
    """
    found: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for where, definitions in parts.items():
        for name, value in definitions.items():
            if name in found and found[name] != value:
                raise ValueError(
                    f"{origin[name]} and {where} define task {name!r} differently: {found[name]} "
                    f"and {value}. Prepare one of them with the other's --own_tasks, or under "
                    "another name"
                )
            found.setdefault(name, value)
            origin.setdefault(name, where)
    return found


def known_roles() -> list[str]:
    """The roles that a task of one's own may have beside plain pictures."""
    return [name for name in ROLES if name != "ray"]
