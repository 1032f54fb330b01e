"""The exported pipeline's rules of what a direction generates are those of training."""

import pytest

from onediff_jax.exporting.describe import as_data
from onediff_jax.interop.torch_files import tasks_torch
from onediff_jax.tasks import definitions
from onediff_jax.tasks.own import own_tasks

OWN = {
    "normal2image": {
        "frames": ["image", "normal"],
        "directions": {"normal2image": "first", "image2normal": "rest"},
    },
    "two2image": {
        "frames": ["image", "depth", "canny"],
        "directions": {"two2image": "first", "image2two": ["depth", "canny"], "three": "all"},
    },
}


def test_rules_have_the_same_names_and_choose_the_same_frames():
    assert tasks_torch.GENERATES.keys() == definitions.RULES.keys()
    for rule, chooses in definitions.RULES.items():
        for role in ("image", "ray", "depth"):
            for index in range(3):
                assert tasks_torch.GENERATES[rule](index, role) == chooses(index, role), rule


@pytest.mark.parametrize("tasks", [definitions.BUILT_IN, own_tasks(OWN, "test")])
def test_every_direction_of_every_length(tasks):
    data = {task.name: as_data(task) for task in tasks.values()}
    for task, direction in tasks.directions():
        assert tasks_torch.find_direction(data, direction.name) == (task.name, data[task.name])
        step = task.repeats or task.max_frames
        masks = [
            task.denoise_mask(direction.name, count)
            for count in range(task.min_frames, task.max_frames + 1, step)
        ]
        for given in range(max(mask.count(0) for mask in masks) + 1):
            wanted = next(mask for mask in masks if mask.count(0) >= given)
            found = tasks_torch.direction_mask(data[task.name], direction.name, given)
            assert tuple(found) == wanted, (direction.name, given)


def test_whole_prompts_of_run():
    assert tasks_torch.task_prompt("depth2image", "a cube") == "[[depth2image]] a cube"
    assert tasks_torch.task_prompt("depth2image", "") == "[[depth2image]]"
    assert (
        tasks_torch.task_prompt("depth2image", " [[depth2image]] a cube")
        == "[[depth2image]] a cube"
    )
    assert (
        tasks_torch.task_prompt("faceid", "[[img0]] x [[img1]]") == "[[faceid]] [[img0]] x [[img1]]"
    )
    for wrong in (["a", "b"], None, "[[canny2image]] a cube"):
        with pytest.raises(ValueError, match="prompt="):
            tasks_torch.task_prompt("depth2image", wrong)


def test_directions_by_prompt_and_mask():
    data = {task.name: as_data(task) for task in definitions.BUILT_IN.values()}
    for prompt, mask, name in (
        ("[[depth2image]] a cube", [1, 0], "depth2image"),
        (" [[depth2image]] a cube", [0, 1], "image2depth"),
        (["[[depth2image]] a", "[[depth2image]] b"], [0, 1], "image2depth"),
        ("[[depth2image]] a cube", [1, 1], None),
        ("a cube", [1, 0], None),
        (None, [1], None),
    ):
        assert tasks_torch.direction_of(data, prompt, mask) == name
