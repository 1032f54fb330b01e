"""Held-out losses per noise level: how the levels are dealt out, and what is summed."""

import jax
import numpy as np
import pytest

from onediff_jax.data.layout import RowLayout, Slot
from onediff_jax.flow.times import sample_sigmas
from onediff_jax.run.held_out import LEVELS, deal_levels, level_means
from onediff_jax.run.train_step import make_eval_step, ray_frames
from tests.experiments import batches, experiment, random_params

LAYOUT = RowLayout((Slot("t2i", 1, 4), Slot("i2i", 2, 4)))


def test_every_task_has_every_level_equally_often():
    rng = np.random.default_rng(0)
    tasks = [np.stack([np.zeros(16, int), rng.integers(1, 3, 16)], 1) for _ in range(4)]
    dealt = deal_levels(tasks, LAYOUT)
    assert [levels.shape for levels in dealt] == [(16, 3)] * 4
    first = np.concatenate([levels[:, 0] for levels in dealt])
    values, counts = np.unique(first, return_counts=True)
    np.testing.assert_allclose(values, LEVELS)
    assert set(counts) == {8}
    pairs = {tuple(row[1:]) for levels in dealt for row in levels}
    assert len(pairs) > 16  # two frames of a bundle do not always meet at the same distance


def test_means_are_over_the_tokens_of_a_task_and_level():
    tasks = [np.array([[0, 1], [0, 1]])]
    levels = [np.float32([[LEVELS[0], LEVELS[1], LEVELS[1]], [LEVELS[1], LEVELS[0], LEVELS[2]]])]
    sums = {
        "frame_loss": np.array([[2.0, 8.0, 4.0], [3.0, 5.0, 7.0]]),
        "frame_tokens": np.array([[2.0, 4.0, 4.0], [1.0, 5.0, 0.0]]),
    }
    found = level_means([sums], levels, tasks, LAYOUT, ("a", "b"))
    assert found == {
        "0.0625": pytest.approx(1.0),
        "0.1875": pytest.approx(15 / 9),
        "a/0.0625": 1.0,
        "a/0.1875": 3.0,
        "b/0.0625": 1.0,
        "b/0.1875": 1.5,
    }  # no token of b had the third level with a weight


def test_levels_of_a_batch_replace_the_drawn_ones():
    """NaN draws as in training; sums per frame add up to those per task, at every level."""
    batch, key, params = batches()[0], jax.random.key(3), random_params()
    step, layout = jax.jit(make_eval_step(experiment())), experiment().layout
    shape = batch["generate"].shape
    drawn = step(params, batch, key, np.full(shape, np.nan, np.float32))
    _, time_key, _ = jax.random.split(key, 3)
    sigma = sample_sigmas(time_key, shape, experiment().times, ray_frames(layout))
    same = step(params, batch, key, np.asarray(sigma))
    low, high = (step(params, batch, key, np.full(shape, s, np.float32)) for s in (0.06, 0.94))
    np.testing.assert_allclose(drawn["task_loss"], same["task_loss"], rtol=1e-5)
    for sums in (drawn, low, high):
        assert sums["frame_loss"].sum() == pytest.approx(float(sums["task_loss"].sum()), rel=1e-4)
        np.testing.assert_allclose(sums["frame_tokens"], drawn["frame_tokens"])
    assert not np.allclose(low["task_loss"], high["task_loss"], rtol=1e-2)
