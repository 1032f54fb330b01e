"""The fewest Euler steps that lose nothing, from rows that were measured with several numbers."""

import math

from onediff_jax.evaluation.results import Result
from onediff_jax.evaluation.steps import at_chosen_steps, by_steps, fewest_steps, steps_table
from onediff_jax.tasks.definitions import BUILT_IN


def measured(task: str, metric: str, better: str, values: dict[int, float]) -> list[Result]:
    return [
        Result(task, "world", "exact", metric, value, 8, better=better, steps=steps)
        for steps, value in values.items()
    ]


ROWS = [
    *measured("image2depth", "abs_rel", "lower", {1: 0.2, 2: 0.1005, 4: 0.1, 8: 0.12}),
    *measured("image2semanticmap", "accuracy", "higher", {1: 0.95, 2: 0.90, 4: 0.952, 8: 0.951}),
    *measured("image2semanticmap", "iou", "higher", {1: 0.5, 2: 0.6, 4: 0.69, 8: 0.7}),
    *measured("depth2image", "psnr", "higher", {1: 21.0, 2: 20.0, 4: 19.0, 8: 18.0}),
    *measured("image2pose", "iou", "higher", {8: 0.3}),
    *measured("image2canny", "ap", "higher", {4: math.nan, 8: math.nan}),
    *measured("image2hed", "ap", "higher", {4: math.nan, 8: 0.2}),
]


def test_the_fewest_within_one_percent_of_every_best():
    """0.1005 is within 1 % of 0.1; accuracy needs 1 step, IoU 0.693 and so 8; pictures keep theirs,
    and one number of steps says nothing."""
    chosen = fewest_steps(ROWS, BUILT_IN.perceives)
    assert chosen == {"image2depth": 2, "image2semanticmap": 8, "image2hed": 8}


def test_what_perceives():
    found = {d.name for _, d in BUILT_IN.directions() if BUILT_IN.perceives(d.name)}
    maps = ("canny", "depth", "hed", "pose", "semanticmap", "boundingbox", "camera")
    assert found == {f"image2{name}" for name in maps}


def test_each_measure_once():
    """With the chosen steps, of pictures with the most; what was measured once stays."""
    kept = at_chosen_steps(ROWS, fewest_steps(ROWS, BUILT_IN.perceives))
    assert [(row.task, row.steps) for row in kept] == [
        ("image2depth", 2),
        *[("image2semanticmap", 8)] * 2,
        ("depth2image", 8),
        ("image2pose", 8),
        *[("image2canny", 8), ("image2hed", 8)],
    ]


def test_table():
    chosen = fewest_steps(ROWS, BUILT_IN.perceives)
    assert len(by_steps(ROWS)) == 6
    lines = steps_table(ROWS, chosen).splitlines()
    assert lines[2] == "| direction | data | measure | 1 | 2 | 4 | 8 |"
    assert lines[4] == "| image2depth | world | abs_rel ↓ | 0.200 | **0.101** | 0.100 | 0.120 |"
    assert lines[7] == "| depth2image | world | psnr ↑ | 21.00 | 20.00 | 19.00 | 18.00 |"
