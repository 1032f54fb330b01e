"""Tasks as data: what an exported folder's model_index.json says of the tasks it was trained on.

{"depth2image": {"frames": ["image", "depth"], "directions": {"depth2image": "first",
"image2depth": "rest"}}}: the roles of the frames, of which the last "repeats" repeat in longer
examples, and what each direction generates of them, by a rule or by roles.
"""

# What a direction may generate: rule → (frame index, frame role) → generated?
GENERATES = {
    "all": lambda index, role: True,
    "first": lambda index, role: index == 0,
    "rest": lambda index, role: index > 0,
    "images": lambda index, role: role == "image",
    "images but the first": lambda index, role: role == "image" and index > 0,
    "rays": lambda index, role: role == "ray",
}


def find_direction(tasks: dict, name: str) -> tuple[str, dict]:
    """The task of a direction, and what is said of it.

    Raises ValueError for an unknown name; it lists the choices.
    """
    for task, entry in tasks.items():
        if name in entry["directions"]:
            return task, entry
    choices = [direction for entry in tasks.values() for direction in entry["directions"]]
    raise ValueError(f"direction {name!r} is not one this model was trained on: {choices}")


def task_prompt(task: str, prompt) -> str:
    """The whole prompt of a caption, or of one that has its task's token already.

    Raises ValueError for several prompts, or the token of another task.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"{prompt=} must be one string; img2img takes several")
    text, token = prompt.strip(), f"[[{task}]]"
    if text.startswith(token):
        return text
    if text.startswith("[[") and not text.startswith("[[img"):
        raise ValueError(f"{prompt=} is for another task than {task}")
    return f"{token} {text}".strip()


def direction_of(tasks: dict, prompt, mask: list[int]) -> str | None:
    """The direction that a prompt's [[task]] and what is generated stand for; None for others."""
    first = prompt if isinstance(prompt, str) or not prompt else prompt[0]
    name = str(first or "").strip().partition("]]")[0].removeprefix("[[")
    for direction in tasks.get(name, {}).get("directions", {}):
        if direction_mask(tasks[name], direction, mask.count(0)) == mask:
            return direction
    return None


def direction_mask(task: dict, direction: str, count: int) -> list[int]:
    """1 = generated, for a task's frames; where they repeat, until `count` are not generated."""
    rule, repeats = task["directions"][direction], task.get("repeats", 0)
    if isinstance(rule, str) and rule not in GENERATES:
        raise ValueError(f"unknown rule {rule!r}; choose from {list(GENERATES)}")
    frames = list(task["frames"])
    for _ in range(count + 1):
        mask = [
            int(role in rule if not isinstance(rule, str) else GENERATES[rule](i, role))
            for i, role in enumerate(frames)
        ]
        if mask.count(0) >= count or not repeats:
            break
        frames += frames[-repeats:]
    return mask
