"""Tasks: roles and masks, exactly."""

import pytest

from onediff_jax.tasks import definitions
from onediff_jax.tasks.definitions import TASKS, find_direction, get_task, mask_generating

NAMES = """text2image deblurring image_inpainting super_resolution canny2image depth2image hed2img
pose2image semanticmap2image boundingbox2image image_editing faceid subject_driven multiview"""


def test_names_and_tokens():
    assert list(TASKS) == NAMES.split()
    for name, task in TASKS.items():
        assert task.name == name and task.token == f"[[{name}]]"
        assert task.group in definitions.GROUPS
        assert task.directions[0].name == name


@pytest.mark.parametrize(
    "direction,num_frames,mask",
    [
        ("text2image", 1, (1,)),
        ("depth2image", 2, (1, 0)),
        ("image2depth", 2, (0, 1)),
        ("image2canny", 2, (0, 1)),
        ("image2hed", 2, (0, 1)),
        ("image2pose", 2, (0, 1)),
        ("image2semanticmap", 2, (0, 1)),
        ("image2boundingbox", 2, (0, 1)),
        ("image_editing", 2, (1, 0)),
        ("faceid", 2, (1, 0)),
        ("faceid", 5, (1, 0, 0, 0, 0)),
        ("subject_driven", 3, (1, 0, 0)),
        ("multiview", 6, (0, 0, 1, 0, 1, 0)),
        ("text2multiview", 4, (1, 0, 1, 0)),
        ("image2camera", 6, (0, 1, 0, 1, 0, 1)),
        ("multiview", 20, (0, 0) + (1, 0) * 9),
    ],
)
def test_masks(direction, num_frames, mask):
    task, found = find_direction(direction)
    assert found.name == direction
    assert task.denoise_mask(direction, num_frames) == mask


def test_every_direction_is_unique_and_generates_something():
    pairs = definitions.all_directions()
    names = [direction.name for _, direction in pairs]
    assert len(set(names)) == len(names) == 14 + 6 + 2
    for task, direction in pairs:
        for num_frames in {task.min_frames, task.max_frames}:
            mask = task.denoise_mask(direction.name, num_frames)
            assert len(mask) == num_frames and 1 in mask


def test_roles():
    assert get_task("depth2image").roles(2) == ("image", "depth")
    assert get_task("multiview").roles(4) == ("image", "ray", "image", "ray")
    assert get_task("faceid").roles(3) == ("image",) * 3


def test_explicit_mask():
    assert mask_generating([2, 0], 4) == (1, 0, 1, 0)
    for wrong in ([], [4], [-1]):
        with pytest.raises(ValueError, match="among 0…3"):
            mask_generating(wrong, 4)


def test_errors_list_the_choices():
    with pytest.raises(ValueError, match="unknown task 'depth'.*depth2image.*multiview"):
        get_task("depth")
    with pytest.raises(ValueError, match="image2camera"):
        find_direction("camera")
    with pytest.raises(ValueError, match="choose from .*image2depth"):
        get_task("depth2image").denoise_mask("multiview", 2)
    with pytest.raises(ValueError, match="exactly 2"):
        get_task("depth2image").denoise_mask("depth2image", 3)
    with pytest.raises(ValueError, match="multiple of 2"):
        get_task("multiview").roles(5)
    with pytest.raises(ValueError, match="needs 2 or more"):
        get_task("faceid").roles(1)
