"""Prompt formats: a task's token, then what the task needs, then the caption.

    [[depth2image]] caption
    [[semanticmap2image]] <#00FFFF cyan mask: sheep> <#FF0000 red mask: grass> caption
    [[boundingbox2image]] <#00FFFF cyan boundingbox: sheep> caption
    [[image_editing]] instruction
    [[faceid]] [[img0]] target caption [[img1]] caption of source 1 [[img2]] …
    [[subject_driven]] <item: backpack> [[img0]] target caption [[img1]] source caption
    [[multiview]] caption

The spelling is what the released weights were trained on.
"""

import re

from onediff_jax.tasks import colors
from onediff_jax.tasks.definitions import BUILT_IN, TaskSet

_TOKEN = re.compile(r"\[\[(\w+)\]\]\s*")
_KEPT = re.compile(r"(<(?:#[0-9A-Fa-f]{6} |item: )[^<>]*>)\s*")  # no part of a caption
_REGION = re.compile(r"<(#[0-9A-Fa-f]{6}) (\w+) (mask|boundingbox): ([^<>]*)>")


def build(
    task: str,
    caption: str = "",
    *,
    regions=None,
    item=None,
    sources=None,
    tasks: TaskSet = BUILT_IN,
) -> str:
    """The prompt of any task.

    Args:
      task: the task's name.
      caption: of the target image, or the instruction of image_editing; may be empty.
      regions: (colour name, label) pairs; tasks with a class map or boxes only.
      item: what the subject is; subject_driven only, where it is required.
      sources: captions of the source images, each may be empty; faceid and subject_driven only.
      tasks: where the task is looked up.

    Raises:
      ValueError: an unknown task or colour (lists the choices), a part the task does not have, or
        one it needs and lacks.
    """
    definition = tasks.task(task)
    identity = definition.group == "identity"
    if item is not None and not definition.item:
        choices = [t.name for t in tasks.values() if t.item]
        raise ValueError(f"{item=} belongs to {', '.join(choices)}, not to {task}")
    if sources and not identity:
        choices = [t.name for t in tasks.values() if t.group == "identity"]
        raise ValueError(f"{task} has no sources; tasks that do: {choices}")
    parts = [definition.token]
    parts += [format_region(task, color, label, tasks) for color, label in regions or ()]
    if definition.item:
        if not item:
            raise ValueError(f"{task} needs item, the name of the subject")
        parts.append(f"<item: {item}>")
    if identity and (caption or sources):
        for index, text in enumerate([caption, *(sources or ())]):
            parts += [f"[[img{index}]]", text.strip()]
    else:
        parts.append(caption.strip())
    return " ".join(part for part in parts if part)


def without_caption(prompt: str) -> str:
    """A prompt of `build` without its captions: the token, its regions and its item stay.

    >>> without_caption("[[subject_driven]] <item: cup> [[img0]] a cup on grass [[img1]] a cup")
    '[[subject_driven]] <item: cup>'
    """
    token = _TOKEN.match(prompt)
    if token is None:
        return ""
    parts, end = [token[0].strip()], token.end()
    while part := _KEPT.match(prompt, end):
        parts.append(part[1])
        end = part.end()
    return " ".join(parts)


def format_region(task: str, color: str, label: str, tasks: TaskSet = BUILT_IN) -> str:
    """One region, e.g. "<#00FFFF cyan mask: sheep>".

    Raises:
      ValueError: a task without regions, an unknown colour, or a label that is empty or has < or >.
    """
    word = tasks.task(task).region_word
    if word is None:
        choices = [t.name for t in tasks.values() if t.region_word]
        raise ValueError(f"{task} has no regions; tasks that do: {choices}")
    if not label.strip() or set("<>") & set(label):
        raise ValueError(f"{label=} must not be empty nor contain '<' or '>'")
    return f"<{colors.hex_code(color)} {color} {word}: {label.strip()}>"


def parse_regions(prompt: str) -> list[tuple[str, str]]:
    """The (colour name, label) pairs of a prompt, in order; empty where it has none.

    Raises:
      ValueError: a colour that is not allowed (lists the choices), or whose name and code disagree.
    """
    pairs = []
    for code, name, _, label in _REGION.findall(prompt):
        if colors.hex_code(name.lower()) != code.upper():
            raise ValueError(f"{code} is {colors.name_of(code)}, the prompt calls it {name!r}")
        pairs.append((name.lower(), label.strip()))
    return pairs


def split_token(prompt: str, tasks: TaskSet = BUILT_IN) -> tuple[str, str]:
    """(task name, the rest of the prompt).

    Raises:
      ValueError: the prompt does not start with a known task's token; lists the choices.
    """
    match = _TOKEN.match(prompt)
    if not match:
        raise ValueError(f"{prompt=} must start with a token such as [[{next(iter(tasks))}]]")
    return tasks.task(match[1]).name, prompt[match.end() :]
