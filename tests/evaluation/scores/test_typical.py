"""Averages over training examples."""

import numpy as np
import pytest

from onediff_jax.data.bundle import Bundle
from onediff_jax.evaluation.scores.typical import Typical


class View:
    def __init__(self, classes):
        self.classes = np.array(classes, np.uint8)


def example(level, depth, classes):
    frames = tuple(np.full((1, 2, 3), v, np.uint8) for v in (level, 2 * level))
    truth = {"depth": np.array([depth], np.float32), "painted": {}, "view": View([classes])}
    return Bundle("depth2image", "", frames, truth)


def test_averages_per_pixel():
    inf = np.inf
    typical = Typical(
        [example(10, (1, inf), (2, 0)), example(30, (3, inf), (2, 1)), example(50, (9, 2), (1, 1))],
        far=4.0,
    )
    assert typical.picture(0, (1, 2))[0, 0].tolist() == [30, 30, 30]
    assert typical.picture(1, (1, 2))[0, 1].tolist() == [60, 60, 60]
    assert typical.depth((1, 2)).tolist() == [[2.0, 2.0]]  # 9 is too far, sky unknown
    assert typical.classes((1, 2)).tolist() == [[2, 1]]


def test_sizes_that_were_not_seen():
    typical = Typical([example(10, (1, 3), (2, 0))])
    assert typical.picture(1, (4, 4)).shape == (4, 4, 3)
    assert (typical.picture(1, (4, 4)) == 20).all()
    assert (typical.depth((4, 4)) == 2).all()
    assert not typical.classes((4, 4)).any()
    with pytest.raises(ValueError, match="at least one"):
        Typical([])
