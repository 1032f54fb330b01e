import numpy as np
import pytest

from onediff_jax.evaluation.metrics import pck
from tests.evaluation.metrics.golden import cases, same


@pytest.mark.parametrize("name, params, out, arrays", cases("pose_pck"))
def test_pck(name, params, out, arrays):
    pred, truth, mask, norm = (arrays[k] for k in ("pred", "gt", "mask", "norm"))
    found = pck(pred, truth, mask, norm, threshold=params["thr"])
    same(found["average"], out["avg"], atol=1e-6)
    same(found["per_keypoint"], np.where(arrays["acc"] < 0, np.nan, arrays["acc"]), atol=1e-6)
