"""What can be asked: which frames it generates, its prompt, and what is refused."""

import numpy as np
import pytest

from onediff_jax.sampling.request import Request, make_plan
from onediff_jax.tasks.cameras import orbit_cameras

GREY = np.full((40, 40, 3), 128, np.uint8)
LATENTS = np.zeros((8, 8, 16), np.float16)
TWO = orbit_cameras([0, 30], 20, 1.7)


@pytest.mark.parametrize(
    "request_, roles, mask",
    [
        (Request("text2image", "x"), 1, [1]),
        (Request("depth2image", "x", images=(GREY,)), 2, [1, 0]),
        (Request("image2depth", "x", images=(GREY,)), 2, [0, 1]),
        (Request("faceid", "x", images=(GREY,) * 3), 4, [1, 0, 0, 0]),
        (Request("image_editing", "x", images=(GREY,)), 2, [1, 0]),
        (Request("image_editing", "x", images=(GREY,) * 4), 5, [1, 0, 0, 0, 0]),
        (Request("multiview", "x", images=(GREY,), cameras=TWO), 4, [0, 0, 1, 0]),
        (
            Request("multiview", images=(GREY,) * 2, cameras=TWO[[0, 1, 1]]),
            6,
            [0, 0, 0, 0, 1, 0],
        ),
        (Request("text2multiview", "x", cameras=TWO), 4, [1, 0, 1, 0]),
        (Request("image2camera", images=(GREY,) * 2), 4, [0, 1, 0, 1]),
        (Request("text2multiview", "x", generate=(0, 1, 2, 3)), 4, [1, 1, 1, 1]),
        (Request("multiview", "x", images=(LATENTS,) * 3, generate=(2,)), 4, [0, 0, 1, 0]),
    ],
)
def test_which_frames_are_generated(request_, roles, mask):
    plan = make_plan(request_)
    assert len(plan.roles) == roles
    assert plan.generate == tuple(map(bool, mask))


@pytest.mark.parametrize(
    "request_, prompt",
    [
        (Request("image2depth", " a cube ", images=(GREY,)), "[[depth2image]] a cube"),
        (Request("text2image", "[[text2image]] a cube"), "[[text2image]] a cube"),
        (
            Request("semanticmap2image", "a cube", images=(GREY,), regions=(("cyan", "cube"),)),
            "[[semanticmap2image]] <#00FFFF cyan mask: cube> a cube",
        ),
        (
            Request("faceid", "walks", images=(GREY,) * 2, sources=("sits",)),
            "[[faceid]] [[img0]] walks [[img1]] sits [[img2]]",
        ),
        (
            Request("subject_driven", "on sand", images=(GREY,), item="cup"),
            "[[subject_driven]] <item: cup> [[img0]] on sand [[img1]]",
        ),
    ],
)
def test_prompts(request_, prompt):
    assert make_plan(request_).prompt == prompt


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"direction": "depth"}, "choose from .*image2depth"),
        ({"direction": "depth2image"}, r"0 images .* needs 1: depth \(frame 1\)"),
        ({"direction": "text2image", "images": (GREY,)}, "1 images .* takes none"),
        ({"direction": "faceid"}, "needs 1 or more images; got 0"),
        ({"direction": "faceid", "images": (GREY,) * 5}, "at most 4 images; got 5"),
        ({"direction": "image2camera", "images": (GREY,)}, "2 or more images; got 1"),
        ({"direction": "image2camera", "images": (GREY,), "cameras": TWO}, "finds the cameras"),
        ({"direction": "multiview", "images": (GREY,) * 2}, r"1 to 1 images, .*; got 2"),
        ({"direction": "multiview", "images": (GREY,), "cameras": TWO[0]}, r"cameras .*got 1"),
        ({"direction": "text2multiview"}, r"2 or more cameras \(azimuths\); got 0"),
        ({"cameras": TWO}, "text2image has no cameras"),
        ({"generate": ()}, r"generate=\[\] must name frames among 0…0"),
        ({"generate": (1,)}, r"generate=\[1\] must name"),
        ({"prompt": " "}, "text2image needs a prompt"),
        ({"prompt": "[[depth2image]] x"}, "the prompt is for depth2image, the task is text2image"),
        ({"prompt": "[[text2picture]] x"}, "unknown task 'text2picture'"),
        ({"regions": (("red", "cube"),)}, "text2image has no regions"),
        ({"item": "cup"}, "belongs to subject_driven"),
        ({"direction": "subject_driven", "images": (GREY,)}, "needs item"),
        ({"direction": "faceid", "images": (GREY,), "sources": ("a", "b")}, "2 source prompts"),
        (
            {
                "direction": "semanticmap2image",
                "images": (GREY,),
                "prompt": "[[semanticmap2image]] <#00FFFF red mask: cube>",
            },
            "#00FFFF is cyan",
        ),
        ({"prompt": "[[text2image]] x", "regions": (("red", "a"),)}, "is whole"),
        ({"images": (LATENTS,), "generate": (0,)}, "exactly 1"),
        (
            {"direction": "multiview", "images": (LATENTS,) * 3, "generate": (2,), "cameras": TWO},
            "multiview takes no cameras too",
        ),
        ({"seed": -1}, "seed=-1"),
        ({"focal": 0.0}, "focal=0.0"),
        ({"size": (64, 40)}, r"\(64, 40\) must be positive multiples of 16"),
    ],
)
def test_bad_requests_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make_plan(Request(**{"direction": "text2image", "prompt": "x", **fields}))
