"""What an evaluation of a model is made of: the world at several numbers of steps."""

from types import SimpleNamespace
from typing import Any

import pytest

from onediff_jax.evaluation import of_model
from onediff_jax.evaluation.scores.case import Row
from onediff_jax.evaluation.scoring import Settings


@pytest.mark.parametrize("order", [(1, 20), (20, 1)])
def test_the_world_is_judged_by_the_largest_number_of_steps(order, monkeypatch):
    def evaluated(source, settings, truth):
        row = Row("image2depth", "m", False, {20: 0.1, 1: 0.9}[settings.steps], {"constant": 0.5})
        spread = {("image2depth", "m"): (3, None, {})}
        return SimpleNamespace(rows=[row], spread=spread, sheet=None, shown={})

    monkeypatch.setattr(of_model, "world_truth", lambda *args: None)
    monkeypatch.setattr(of_model, "world_of", lambda experiment: (0, "rich"))
    monkeypatch.setattr(of_model, "evaluate", evaluated)
    source: Any = SimpleNamespace(experiment=None)
    found = of_model.on_world(source, [Settings(steps=steps) for steps in order])
    assert [row.model for row in found.world] == [0.1]
    assert sorted((row.steps or 0, row.value) for row in found.rows) == [(1, 0.9), (20, 0.1)]
