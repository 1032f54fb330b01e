"""Measures on cases whose value is known."""

import numpy as np
import pytest

from onediff_jax.evaluation.scores import measures


def noise(seed=0, shape=(16, 16, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_psnr_of_a_constant_error():
    truth = np.full((8, 8, 3), 100, np.uint8)
    assert measures.psnr(truth + np.uint8(10), truth) == pytest.approx(
        20 * np.log10(25.5), abs=1e-4
    )
    assert measures.psnr(truth, truth) == measures.MOST_DB
    assert measures.psnr(np.array([90.0, 90.0, 90.0]), truth) == pytest.approx(28.1308, abs=1e-3)


def test_psnr_counts_only_the_mask():
    truth = noise()
    mask = np.zeros((16, 16), bool)
    mask[:4] = True
    wrong = truth.copy()
    wrong[4:] = 255 - wrong[4:]
    assert measures.psnr(wrong, truth, mask) == measures.MOST_DB
    assert measures.psnr(wrong, truth, ~mask) < 10
    with pytest.raises(ValueError, match="mask selects no pixel"):
        measures.psnr(wrong, truth, np.zeros_like(mask))


def test_no_constant_beats_the_best_constant():
    truth = np.random.default_rng(1).lognormal(0.5, 0.6, 501)
    best = measures.abs_rel(measures.best_constant_depth(truth), truth)
    others = [measures.abs_rel(value, truth) for value in np.linspace(0.1, 6, 1000)]
    assert best <= min(others) + 1e-12
    assert min(others) == pytest.approx(best, rel=1e-2)


def test_overlap_and_jaccard():
    a, b = np.zeros(4, bool), np.zeros(4, bool)
    assert measures.overlap(a, b) == 1.0
    a[:2], b[1:3] = True, True
    assert measures.overlap(a, b) == pytest.approx(1 / 3)
    assert measures.jaccard({"red", "blue"}, {"red"}) == 0.5
    assert measures.jaccard(set(), set()) == 1.0
    assert measures.jaccard(set(), {"red"}) == 0.0


def test_correlation():
    a = np.arange(10.0)
    assert measures.correlation(a, 3 * a + 5) == pytest.approx(1)
    assert measures.correlation(a, -a) == pytest.approx(-1)
    assert measures.correlation(a, np.ones(10)) == 0.0


def test_edges_agree_with_themselves_and_not_with_others():
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 200
    assert measures.edge_agreement(step, step) == pytest.approx(1)
    assert measures.edge_agreement(step, step.swapaxes(0, 1)) < 0.5


def test_painted_changed_and_visible():
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[0, 0] = (0, 0, 128)
    assert measures.painted(picture).sum() == 1
    other = picture.copy()
    other[3, 3] = 255
    other[2, 2] = 5  # noise is no change
    assert np.argwhere(measures.changed(picture, other)).tolist() == [[3, 3]]
    hole = np.ones((4, 4), bool)
    hole[3, 3] = False
    np.testing.assert_array_equal(measures.visible_colour(other, hole), [255, 255, 255])
