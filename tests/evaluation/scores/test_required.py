"""Requirements, and held-out losses from a run's metrics."""

import json

import pytest

from onediff_jax.evaluation.scores.case import Row
from onediff_jax.evaluation.scores.required import checks, held_out_loss


def write(file, *lines):
    file.write_text("\n".join(json.dumps(x) if isinstance(x, dict) else x for x in lines))


def test_losses_are_the_first_and_the_last_up_to_a_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    write(
        file,
        {"step": 50, "loss": 1.0},
        {"step": 50, "held_out/a": 1.0, "held_out/b": 2.0, "held_out": 1.5},
        {"step": 100, "held_out/a": 0.5, "held_out/b": 1.8}
        | {
            "held_out_by_noise/0.5": 0.7,
            "held_out_by_noise/a/0.5": 0.6,
            "held_out_by_noise/c/0.5": 1,
        },
        {"step": 200, "held_out/a": 0.4, "held_out/b": "nan"},
        '{"step": 210, "held',
    )
    found = held_out_loss(file, 150)
    assert (found.early_step, found.late_step) == (50, 100)
    assert found.ratios() == {"a": 0.5, "b": 0.9} and found.by_noise == {"a": {0.5: 0.6}}
    assert held_out_loss(file).ratios() == {"a": 0.4}
    assert held_out_loss(file, 99) is None
    assert held_out_loss(tmp_path / "missing.jsonl") is None
    passed = {c.text.split(":")[0]: c.passed for c in checks([], found)}
    assert passed == {"a": True, "b": False}


def depth(model):
    return Row("image2depth", "AbsRel", False, model, {"best constant": 0.3, "mean map": 0.2})


def segmentation(model):
    return Row("image2semanticmap", "pixel accuracy", True, model, {"background": 0.8})


def colours(model):
    return Row("text2image", "colours", True, model, {"shuffled captions": 0.2})


@pytest.mark.parametrize(
    "row, passed",
    [
        (depth(0.13), [True, True]),
        (depth(0.15), [False, True]),
        (depth(0.25), [False, False]),
        (segmentation(0.841), [True]),
        (segmentation(0.839), [False]),
        (colours(0.4), [True]),
        (colours(0.39), [False]),
        (Row("deblurring", "PSNR, dB", True, 10, {"input": 20.0}), []),
    ],
)
def test_thresholds(row, passed):
    assert [c.passed for c in checks([row], None)] == passed
