import numpy as np
import pytest

from onediff_jax.evaluation.metrics import edge_scores
from onediff_jax.evaluation.metrics.edges import edge_counts
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("edges_bsds"))
def test_bsds(name, params, out, arrays):
    picture, maps = arrays["pb0"], [arrays[f"gt0_{i}"] for i in range(params["n_gt"][0])]
    counts = edge_counts(picture, maps, max_dist=params["max_dist"])
    official = arrays["counts"][0]
    same(counts[:, [1, 3]], official[:, [1, 3]])
    same(counts[:, [0, 2]], official[:, [0, 2]], rtol=0.02, atol=2)
    found = edge_scores([picture], [maps], max_dist=params["max_dist"])
    same(found["ods"], out["ODS_F"], atol=0.01)
    same(found["ois"], out["OIS_F"], atol=0.01)
    same(found["ap"], out["AP"], atol=0.02)


def test_ods_is_of_one_threshold_for_all_and_ois_of_one_for_each():
    line = np.zeros((20, 20), bool)
    line[10] = True
    noisy = np.where(line, 200, 0).astype(np.uint8)
    noisy[2, ::2] = 100  # wrong, and weaker than what is right here
    faint = np.where(line, 60, 0).astype(np.uint8)
    found = edge_scores([noisy, faint], [[line], [line]], thin=False, max_dist=0.03)
    assert found["ois"] == 1
    assert found["ods"] < 0.9
