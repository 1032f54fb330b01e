"""Losses that go wrong: found, named, written down."""

import json
import math

import numpy as np

from onediff_jax.data.rows import TASK_NAMES
from onediff_jax.run.incidents import Incident, LossWatch, describe, write_incident

ONE, TWO = TASK_NAMES[0], TASK_NAMES[3]


def metrics(one=1.0, two=2.0, *, slots=None, norm=1.0, skipped=0) -> dict:
    """Two rows of a slot for each of two tasks, 4 tokens each."""
    slot_loss = np.array([[one, two], [one, two]]) * 4 if slots is None else np.array(slots) * 4.0
    loss, tokens = np.zeros(len(TASK_NAMES)), np.zeros(len(TASK_NAMES))
    loss[[0, 3]], tokens[[0, 3]] = slot_loss.sum(0), 8
    return {
        "task_loss": loss,
        "task_tokens": tokens,
        "slot_loss": slot_loss,
        "slot_tokens": np.full((2, 2), 4.0),
        "loss": loss.sum() / 16,
        "grad_norm": norm,
        "skipped": skipped,
    }


def watched(count: int = 30) -> LossWatch:
    watch = LossWatch(5.0)
    for step in range(count):
        assert watch.see(step, metrics(1 + 0.01 * (step % 3)), 0) is None
    return watch


def test_an_outlying_loss_is_found_and_the_slot_behind_it():
    watch = watched()
    assert watch.median(ONE) == 1.01 and watch.median(TWO) == 2.0
    found = watch.see(30, metrics(slots=[[1, 2], [1, 40]]), 0)
    assert found == Incident(30, "outlying loss", {TWO: (21.0, 2.0)}, ((1, 1, 40.0),), False)
    assert watch.see(31, metrics(4.9, 9.9), 0) is None


def test_the_first_losses_are_outlying_to_nothing():
    assert watched(5).see(5, metrics(100.0), 0) is None
    assert watched(5).median(ONE) == math.inf


def test_a_level_that_changed_is_learned():
    watch = watched(100)
    seen = [watch.see(100 + n, metrics(6.0), 0) is not None for n in range(80)]
    assert all(seen[:50]) and not any(seen[60:])


def test_not_finite():
    """By the slots where they tell; the gradient alone names none."""
    watch = watched()
    found = watch.see(30, metrics(slots=[[1, 2], [np.nan, 2]], skipped=1), 0)
    assert (found.kind, list(found.tasks), found.left_out) == ("not finite", [ONE], True)
    assert [place[:2] for place in found.slots] == [(1, 0)]
    found = watch.see(31, metrics(norm=np.inf, skipped=2), 1)
    assert (list(found.tasks), found.slots) == ([ONE, TWO], ())
    assert watch.median(ONE) < 2


def test_limits_and_state():
    """Limits change when they are set; a watch goes on from its state as if nothing had been."""
    watch = watched()
    assert np.isinf(watch.limits).all()
    watch.set_limits()
    assert watch.limits.dtype == np.float32
    np.testing.assert_allclose(watch.limits[[0, 3]], [5.05, 10])
    assert np.isinf(watch.limits).sum() == len(TASK_NAMES) - 2
    again = LossWatch(5.0, json.loads(json.dumps(watch.state())))
    np.testing.assert_array_equal(again.limits, watch.limits)
    for step in (30, 31):
        values = metrics(1 / 3, 20.0, skipped=step - 29)
        assert watch.see(step, values, step - 30) == again.see(step, values, step - 30)
    assert again.state() == watch.state()


def test_the_line(tmp_path):
    incident = Incident(
        7, "not finite", {ONE: (math.nan, math.inf)}, ((1, 0, math.nan), (0, 1, 3.0)), True
    )
    examples = [{"example": "text2image/5", "prompt": "[[text2image]] ä"}, {"example": "faceid/2"}]
    for _ in range(2):
        write_incident(tmp_path / "incidents.jsonl", incident, examples, "left the step out")
    lines = (tmp_path / "incidents.jsonl").read_text().splitlines()
    assert lines[0] == lines[1] and json.loads(lines[0]) == {
        "step": 7,
        "batch": 6,
        "kind": "not finite",
        "action": "left the step out",
        "tasks": {ONE: {"loss": "nan", "median": None}},
        "examples": [
            {"row": 1, "slot": 0, "loss": "nan", **examples[0]},
            {"row": 0, "slot": 1, "loss": 3.0, **examples[1]},
        ],
    }
    assert describe(incident, examples) == (
        f"step 7: not finite: {ONE} nan; behind it: text2image/5, faceid/2"
    )
